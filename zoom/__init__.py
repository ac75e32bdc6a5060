"""The method itself: the order of work, the geometry, the colours, and the protocols of who takes part.

Knows no network, no command line and no progress bar: prompt extractors and SR backbones take part through
`zoom.protocols`.
"""
