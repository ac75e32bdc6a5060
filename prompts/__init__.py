"""What a step's picture shows, in words: the prompt extractors, and the VLM that one of them asks.

Heavy libraries are imported inside functions: checking a VLM's files needs none of them.
"""
