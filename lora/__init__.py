"""The files that make general models those of Chain-of-Zoom: low-rank updates, checked and merged.

Low-rank updates are merged into the weights when a network is loaded, so nothing is left of them at run time:
W' = W + scale * up @ down (LoRA, arXiv 2106.09685), computed in fp32 and cast once.

* `sr_lora`: a list of up and down factors for the transformer;
* `vae_encoder`: the VAE's whole encoder with PEFT LoRA factors;
* `vlm_adapter`: PEFT's folder for Qwen2.5-VL.
"""
