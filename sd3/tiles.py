"""Large pictures tile by tile: the transformer's velocity in overlapping tiles, and diffusers' tiled VAE."""

from collections.abc import Callable
from typing import Any

import torch

from sd3.spec import vae_pixels
from zoom.settings import Tiles


def tile_vae(vae: Any, part: str, tiles: Tiles) -> None:
    """Switch on diffusers' own tiling for pictures larger than a tile.

    Args:
        vae: an `AutoencoderKL`.
        part: vae_encoder or vae_decoder.
        tiles: sizes of the tiles.
    """
    pixels = vae_pixels(vae.config)
    latent_size = tiles.vae_encoder // pixels if part == "vae_encoder" else tiles.vae_decoder
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = latent_size, latent_size * pixels


def tiled_velocity(
    call: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor, tiles: Tiles
) -> torch.Tensor:
    """Return the velocity at z (B, 16, h, w), in fp32 on the CPU; by tiles where z is large.

    Overlapping tiles are averaged with Gaussian weights, as OSEDiff's published code does
    (arXiv 2406.08177).

    Args:
        call: gives the velocity at a tile of z, of the tile's size.
        z: latents.
        tiles: sizes of the tiles.
    """
    size = tiles.latent
    rows, columns = (tile_starts(length, size, tiles.latent_overlap) for length in z.shape[2:])
    if len(rows) == len(columns) == 1:
        return call(z).float().cpu()
    total, weights = torch.zeros_like(z), torch.zeros_like(z)
    for top in rows:
        for left in columns:
            tile = (..., slice(top, top + size), slice(left, left + size))
            velocity = call(z[tile]).float().cpu()
            weight = _gaussian(velocity.shape[2])[:, None] * _gaussian(velocity.shape[3])
            total[tile] += velocity * weight
            weights[tile] += weight
    return total / weights


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where tiles begin that cover ``length`` and share at least ``overlap``; the last ends flush."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def _gaussian(length: int) -> torch.Tensor:
    """Return OSEDiff's weights along one side of a tile: a Gaussian of variance 0.01 in units of the side."""
    position = (torch.arange(length) - (length - 1) / 2) / length
    return torch.exp(-(position**2) / (2 * 0.01))
