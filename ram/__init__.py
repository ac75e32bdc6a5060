"""RAM, the Recognize Anything Model's tagger, with DAPE, its degradation-aware fine-tuning."""
