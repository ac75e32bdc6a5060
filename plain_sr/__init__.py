"""SR networks that take no prompt: the embedded RRDBNet, its weights from packages, and users' own files.

A network here meets `zoom.protocols.SRBackbone` and knows nothing of the chain.
"""
