"""SR networks that take no prompt: the embedded RRDBNet with trained weights from registry packages.

A network here meets `zoom.protocols.SRBackbone` and knows nothing of the chain.
"""
