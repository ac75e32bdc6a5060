"""Large pictures tile by tile: the transformer's velocity by the tool's tiler, and diffusers' tiled VAE."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sd3.spec import vae_pixels
from zoom.settings import Tiles
from zoom.tiler import by_tiles

SHARED = 4  # diffusers' tiles share a quarter of their side


def tile_vae(vae: Any, part: str, tiles: Tiles) -> None:
    """Switch on diffusers' own tiling for pictures larger than a tile, and put what tiles make on the CPU.

    Args:
        vae: an `AutoencoderKL`.
        part: vae_encoder or vae_decoder.
        tiles: sizes of the tiles.
    """
    pixels = vae_pixels(vae.config)
    latent_size = tiles.vae_encoder // pixels if part == "vae_encoder" else tiles.vae_decoder
    # the quarter must be whole latent pixels: else diffusers' rows do not add up to the picture's height
    latent_size = max(SHARED, latent_size - latent_size % SHARED)
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = latent_size, latent_size * pixels
    # diffusers keeps all tiles until the last is done: a device need not hold more than one
    last = (vae.quant_conv or vae.encoder) if part == "vae_encoder" else vae.decoder
    name = "_tiled_encode" if part == "vae_encoder" else "tiled_decode"
    tile_by_tile = getattr(vae, name)

    def on_cpu(*args: Any, **kwargs: Any) -> Any:
        hook = last.register_forward_hook(lambda module, args, output: output.cpu())
        try:
            return tile_by_tile(*args, **kwargs)
        finally:
            hook.remove()

    setattr(vae, name, on_cpu)


def tiled_velocity(
    call: Callable[[torch.Tensor, int], torch.Tensor], z: torch.Tensor, tiles: Tiles
) -> torch.Tensor:
    """Return the velocity at z (B, 16, h, w), in fp32 on the CPU; by tiles where z is large.

    Args:
        call: gives the velocity at a tile of z, of the tile's size; gets the tile's number too, row by row.
        z: latents.
        tiles: sizes of the tiles.
    """

    def velocity(tile: torch.Tensor, number: int) -> np.ndarray:
        return call(tile, number).float().cpu().numpy()

    bands = by_tiles(velocity, z, tiles.latent, tiles.latent_overlap)
    return torch.from_numpy(np.concatenate(list(bands), axis=-2))
