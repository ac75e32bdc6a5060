"""The files that make SD3 the one-step SR network of Chain-of-Zoom: read, check, merge.

Low-rank updates are merged into the weights when a network is loaded, so nothing is left of them at run time:
W' = W + scale * up @ down (LoRA, arXiv 2106.09685), computed in fp32 and cast once.

* `sr_lora`: a list of up and down factors for the transformer;
* `vae_encoder`: the VAE's whole encoder with PEFT LoRA factors.
"""
