"""Large pictures tile by tile: what is tiled, that nothing is lost at the seams, sizes that cannot work."""

import itertools

import pytest
import torch
from conftest import PARITY

from errors import InputError
from sd3.checkpoint import check_sd3
from sd3.networks import load_part
from sd3.tiles import tile_vae, tiled_velocity
from zoom.settings import Tiles

SMALL = Tiles(vae_encoder=64, vae_decoder=16, latent=16, latent_overlap=4)


def latents(height, width):
    return torch.randn(2, 16, height, width, generator=torch.Generator().manual_seed(0))


# the transformer's tiles


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (24, 24), (40, 31), (15, 64)], ids=str)
@pytest.mark.parametrize("overlap", [0, 4, 15])
def test_where_the_network_looks_at_each_pixel_alone_tiles_give_what_the_whole_gives(size, overlap):
    z = latents(*size)

    def local(tile, number=0):
        return torch.sin(3 * tile) + 2

    tiled = tiled_velocity(local, z, Tiles(latent=16, latent_overlap=overlap))
    torch.testing.assert_close(tiled, local(z), rtol=0, atol=1e-5)


def test_the_network_sees_tiles_of_the_latent_and_none_is_larger_than_asked_for():
    z, seen = latents(40, 31), []
    tiled_velocity(lambda tile, number: seen.append((number, tile)) or tile, z, SMALL)
    places = [(top, left) for top in (0, 12, 24) for left in (0, 12, 15)]
    assert len(seen) == len(places)
    for index, ((number, tile), (top, left)) in enumerate(zip(seen, places, strict=True)):
        assert number == index
        assert torch.equal(tile, z[..., top : top + 16, left : left + 16])


def test_a_latent_that_fits_a_tile_is_seen_whole_and_once():
    seen = []
    tiled_velocity(lambda tile, number: seen.append(tuple(tile.shape)) or tile, latents(16, 12), SMALL)
    assert seen == [(2, 16, 16, 12)]


def test_tiles_that_disagree_fade_into_each_other_where_they_overlap():
    z = torch.zeros(1, 1, 16, 28)
    row = tiled_velocity(lambda tile, number: torch.full_like(tile, number), z, SMALL)[0, 0, 0]
    assert row[:12].eq(0).all()
    assert row[16:].eq(1).all()
    assert all(0 < a < b < 1 for a, b in itertools.pairwise(row[12:16].tolist()))
    assert row[12:16].mean().item() == pytest.approx(0.5)


def test_velocities_in_16_bits_are_joined_in_fp32():
    for side in (16, 24):
        velocity = tiled_velocity(lambda tile, number: tile.bfloat16(), latents(side, side), SMALL)
        assert velocity.dtype == torch.float32


def test_tiles_are_averaged_with_osediffs_weights():
    z = latents(40, 31)

    def network(tile, number=0):
        return tile * tile.mean()

    total, weights = torch.zeros_like(z), torch.zeros_like(z)
    position = (torch.arange(16) - 7.5) / 16
    gaussian = torch.exp(-(position**2) / (2 * 0.01))
    for top in (0, 12, 24):
        for left in (0, 12, 15):
            tile = (..., slice(top, top + 16), slice(left, left + 16))
            total[tile] += network(z[tile]) * gaussian[:, None] * gaussian
            weights[tile] += gaussian[:, None] * gaussian
    torch.testing.assert_close(tiled_velocity(network, z, SMALL), total / weights, rtol=1e-5, atol=1e-6)


# the VAE's tiles


@pytest.mark.parametrize(
    ("part", "whole", "tile"),
    [("vae_encoder", (1, 3, 128, 128), 64), ("vae_decoder", (1, 16, 32, 32), 16)],
)
@torch.no_grad()
def test_each_half_of_the_vae_sees_tiles_of_the_size_asked_for(part, whole, tile):
    loaded = load_part(part, check_sd3(str(PARITY / "sd3"), None, None), torch.device("cpu"), torch.float32)
    half = loaded.model.encoder if part == "vae_encoder" else loaded.model.decoder
    seen = []
    half.register_forward_pre_hook(lambda module, args: seen.append(max(args[0].shape[2:])))
    untiled = loaded(torch.zeros(whole))
    assert seen == [max(whole[2:])]
    seen.clear()
    tile_vae(loaded.model, part, SMALL)
    assert loaded(torch.zeros(whole)).shape == untiled.shape
    assert len(seen) > 1
    assert max(seen) == tile


@pytest.mark.parametrize(
    ("part", "whole", "one"),
    [("vae_encoder", (1, 3, 128, 128), (1, 3, 64, 64)), ("vae_decoder", (1, 16, 32, 32), (1, 16, 16, 16))],
)
@torch.no_grad()
def test_only_what_tiles_make_is_put_on_the_cpu_at_once(part, whole, one, monkeypatch):
    loaded = load_part(part, check_sd3(str(PARITY / "sd3"), None, None), torch.device("cpu"), torch.float32)
    tile_vae(loaded.model, part, SMALL)
    put = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: put.append(tensor) or tensor)
    loaded(torch.zeros(one))
    assert put == []
    loaded(torch.zeros(whole))
    tiles = len(put)
    assert tiles > 1
    loaded(torch.zeros(one))
    assert len(put) == tiles


@pytest.mark.parametrize("part", ["vae_encoder", "vae_decoder"])
@pytest.mark.parametrize("latent", [16, 17, 18, 23], ids=str)
@torch.no_grad()
def test_whatever_the_size_of_the_vaes_tiles_a_picture_keeps_its_own(part, latent):
    loaded = load_part(part, check_sd3(str(PARITY / "sd3"), None, None), torch.device("cpu"), torch.float32)
    tile_vae(loaded.model, part, Tiles(vae_encoder=8 * latent, vae_decoder=latent))
    if part == "vae_encoder":
        assert loaded(torch.zeros(1, 3, 304, 432)).shape == (1, 32, 38, 54)
    else:
        assert loaded(torch.zeros(1, 16, 38, 54)).shape == (1, 3, 304, 432)


# sizes


@pytest.mark.parametrize(
    ("sizes", "option"),
    [
        ({"vae_encoder": 100}, "--vae_encoder_tiled_size 100"),
        ({"vae_decoder": 0}, "--vae_decoder_tiled_size 0"),
        ({"latent": 33}, "--latent_tiled_size 33"),
        ({"latent_overlap": 96}, "--latent_tiled_overlap 96"),
    ],
)
def test_tile_sizes_that_cannot_work_are_refused(sizes, option):
    with pytest.raises(InputError, match=option):
        Tiles(**sizes)
