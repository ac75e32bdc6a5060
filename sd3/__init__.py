"""Stable Diffusion 3's parts: what they are, their files checked, their networks loaded, prompts encoded.

The one-step pass over these parts is `osediff_sd3` on top.
"""
