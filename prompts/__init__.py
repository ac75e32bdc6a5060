"""What a step's picture shows, in words: the prompt extractors, and the VLM that one of them asks.

Imports `checkpoints`, `machine`, `lora`, `ram`, `zoom` (the protocol) and `errors`; heavy libraries only
inside functions.
"""
