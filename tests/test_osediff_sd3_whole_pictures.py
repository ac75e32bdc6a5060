"""The SD3 backbone on whole pictures: every size and aspect, a prompt for each tile, no seams."""

import numpy as np
import pytest
import torch
from conftest import PARITY, ROOT
from PIL import Image

import osediff_sd3
from errors import PictureError
from machine.machine import Machine
from osediff_sd3 import OSEDiffSD3
from sd3.checkpoint import check_sd3
from sd3.spec import PARTS
from zoom.protocols import StepInput
from zoom.settings import Tiles

SMALL = Tiles(latent=16, latent_overlap=8)
EVERY_PART = Tiles(vae_encoder=128, vae_decoder=16, latent=16, latent_overlap=8)
CAT, FUR = "a photo of a cat", "whiskers, fur"


def backbone(tiles=None, **machine):
    lora, vae = PARITY / "SR_LoRA" / "model_20001.pkl", PARITY / "SR_VAE" / "vae_encoder_20001.pt"
    checkpoint = check_sd3(str(PARITY / "sd3"), lora, vae)
    return OSEDiffSD3(checkpoint, Machine.choose(device="cpu", **machine), tiles)


@pytest.fixture(scope="module")
def plain():
    return backbone()


@pytest.fixture(scope="module")
def small():
    return backbone(SMALL)


def photo(width, height, name="chelsea.png"):
    return Image.open(ROOT / "samples" / name).convert("RGB").resize((width, height))


def gradient(width, height):
    y, x = np.mgrid[:height, :width]
    channels = [x / width, y / height, (x + y) / (width + height)]
    return Image.fromarray((20 + 200 * np.stack(channels, -1)).round().astype(np.uint8))


def repaint(network, *pictures, prompts=None):
    """Return the results as arrays (H, W, 3)."""
    inputs = [StepInput(picture, picture) for picture in pictures]
    results = network(inputs, prompts or [[CAT]] * len(inputs), range(1, len(inputs) + 1))
    return [np.asarray(result, dtype=int) for result in results]


# every size


@pytest.mark.parametrize(
    "size", [(100, 76), (130, 66), (304, 128), (65, 250), (20, 30), (1, 9), (400, 17)], ids=str
)
@pytest.mark.parametrize("tiles", [None, EVERY_PART], ids=["whole", "tiled"])
def test_a_picture_of_any_size_keeps_it(size, tiles):
    (result,) = repaint(backbone(tiles), photo(*size))
    assert result.shape == (size[1], size[0], 3)
    assert result.std() > 1


@pytest.mark.parametrize(
    ("size", "padded"), [((100, 76), (112, 80)), ((320, 33), (320, 64)), ((20, 30), (64, 64))], ids=str
)
def test_odd_sides_are_reflected_to_multiples_of_16_and_the_result_is_cut_back(plain, size, padded):
    picture = photo(*size)
    missing = ((0, padded[1] - size[1]), (0, padded[0] - size[0]), (0, 0))
    reflected = Image.fromarray(np.pad(np.asarray(picture), missing, mode="reflect"))
    (found,), (whole,) = repaint(plain, picture), repaint(plain, reflected)
    assert np.array_equal(found, whole[: size[1], : size[0]])


def test_a_picture_that_is_smaller_than_its_padding_is_reflected_over_and_over():
    row = np.asarray(osediff_sd3.padded(Image.fromarray(np.uint8([[[0], [1], [2]]]).repeat(3, 2)), 16))
    assert row.shape == (64, 64, 3)
    assert row[0, :9, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert (row == row[:1]).all()  # of one row, there is nothing else


def test_a_picture_of_sides_that_suit_the_networks_is_not_touched():
    picture = photo(160, 64)
    assert osediff_sd3.padded(picture, 16) is picture


@torch.no_grad()
def test_a_picture_that_is_not_square_goes_through_the_networks_as_it_is(plain):
    picture = photo(208, 96)
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    embeds, pooled = plain.text([CAT])[CAT]
    with plain.machine.residency.use("vae_encoder") as encode:
        z = osediff_sd3.sample_latent(encode(x)[0], seed=1)[None] * 1.5305
    with plain.machine.residency.use("transformer") as transformer:
        z = z - transformer(z, torch.tensor([1000.0]), embeds[None], pooled[None])
    with plain.machine.residency.use("vae_decoder") as decode:
        output = decode(z / 1.5305 + 0.0609)[0].permute(1, 2, 0).numpy()
    (result,) = repaint(plain, picture)
    assert np.abs(result - (output.clip(-1, 1) + 1) * 127.5).max() < 0.51


# the tiles that prompts can steer


def test_a_picture_that_fits_a_tile_takes_one_prompt_for_all_of_it(plain):
    assert plain.prompt_tiles((100, 76)) == [(0, 0, 100, 76)]
    assert plain.prompt_tiles((768, 768)) == [(0, 0, 768, 768)]
    assert len(plain.prompt_tiles((784, 768))) == 2


def test_the_tiles_of_a_large_picture_are_boxes_in_its_pixels_row_by_row():
    columns, rows = [(0, 128), (96, 224), (176, 300)], [(0, 128), (80, 200)]
    boxes = [(left, top, right, bottom) for top, bottom in rows for left, right in columns]
    # of 304 x 208 pixels, which the networks see
    assert backbone(Tiles(latent=16, latent_overlap=4)).prompt_tiles((300, 200)) == boxes


@pytest.mark.parametrize("number", [0, 4, 8])
def test_a_tiles_prompt_changes_its_own_tile_and_leaves_the_others(small, number):
    """The VAE's decoder looks at the whole picture, so that a little of it goes everywhere."""
    picture = photo(256, 256)
    boxes = small.prompt_tiles(picture.size)
    assert len(boxes) == 9
    one = [FUR if index == number else CAT for index in range(9)]
    (usual,), (other,) = (repaint(small, picture, prompts=[prompts]) for prompts in ([CAT], one))
    left, top, right, bottom = boxes[number]
    inside = np.zeros((256, 256), bool)
    inside[top:bottom, left:right] = True
    changed = np.abs(other - usual).mean(axis=2)
    assert changed[inside].mean() > 4 * changed[~inside].mean()


@pytest.mark.parametrize("options", [{}, {"efficient_memory": True}, {"batch_size": 2}], ids=str)
def test_the_same_prompt_for_every_tile_is_one_prompt_for_the_whole(options):
    network = backbone(SMALL, **options)
    pictures = [photo(190, 150), photo(190, 150, "coffee.png")]
    tiles = len(network.prompt_tiles((190, 150)))
    assert tiles > 1
    whole = repaint(network, *pictures, prompts=[[CAT], [FUR]])
    by_tile = repaint(network, *pictures, prompts=[[CAT] * tiles, [FUR] * tiles])
    assert all(np.array_equal(a, b) for a, b in zip(whole, by_tile, strict=True))


@pytest.mark.parametrize("number", [0, 2, 5])
def test_another_number_of_prompts_than_one_or_the_tiles_is_a_mistake(small, number):
    assert len(small.prompt_tiles((190, 150))) == 4
    with pytest.raises(ValueError, match=f"{number} prompts, and the picture takes 1 or 4"):
        repaint(small, photo(190, 150), photo(190, 150), prompts=[[CAT], [CAT] * number])


@pytest.mark.parametrize("options", [{"efficient_memory": True}, {"batch_size": 3}], ids=str)
def test_pictures_with_prompts_by_tile_do_not_depend_on_their_neighbours(small, options):
    pictures = [photo(190, 150, name) for name in ("chelsea.png", "coffee.png", "china.jpg")]
    prompts = [["", CAT, FUR, CAT], [FUR], [FUR, "", "", CAT]]
    together = repaint(backbone(SMALL, **options), *pictures, prompts=prompts)
    for index, found in enumerate(together):
        picture = StepInput(pictures[index], pictures[index])
        (alone,) = small([picture], [prompts[index]], [index + 1])
        assert np.abs(found - np.asarray(alone, int)).max() <= 1


def test_under_efficient_memory_the_prompts_of_all_tiles_pass_the_text_encoders_together():
    network = backbone(SMALL, efficient_memory=True)
    prompts = [[f"tile {tile} of {picture}" for tile in range(4)] for picture in range(3)]
    repaint(network, *[photo(190, 150)] * 3, prompts=prompts)
    assert network.machine.residency.loads == dict.fromkeys(PARTS, 1)


def test_a_tile_whose_prompt_cannot_be_encoded_fails_its_picture_alone(small, monkeypatch):
    def without_fur(prompts, exact):
        return encode(prompts, exact) | {FUR: PictureError("too long")}

    encode = small.text
    monkeypatch.setattr(small, "text", without_fur)
    inputs = [StepInput(photo(190, 150), photo(190, 150))] * 2
    failed, sound = small(inputs, [[CAT, CAT, FUR, CAT], [CAT]], [1, 2])
    assert isinstance(failed, PictureError)
    assert sound.size == (190, 150)


# no seams


def seam(picture, axis, places):
    """How much a picture breaks off at some places: 1 where it is no more than anywhere.

    The mean absolute difference between the columns (axis 1) or rows (axis 0) on both sides of each place,
    divided by that between all other neighbours.
    """
    differences = np.abs(np.diff(picture, axis=axis)).mean(axis=(1 - axis, 2))
    there = np.isin(np.arange(len(differences)) + 1, list(places))
    return differences[there].mean() / differences[~there].mean()


def vae_borders(length, tile, shared):
    """Where the VAE's tiles begin and end."""
    starts = range(0, length, tile - shared)
    return {place for start in starts for place in (start, start + tile) if 0 < place < length}


def transformer_borders(network, size):
    """Where the transformer's tiles begin and end: columns, rows."""
    boxes = network.prompt_tiles(size)
    return [{place for box in boxes for place in (box[i], box[i + 2]) if 0 < place < size[i]} for i in (0, 1)]


@pytest.mark.parametrize("picture", [gradient(400, 304), photo(400, 304)], ids=["gradient", "photo"])
@pytest.mark.parametrize("tiles", [SMALL, EVERY_PART], ids=["transformer", "every part"])
def test_the_borders_of_tiles_show_hardly_more_than_the_untiled_picture_does_there(plain, tiles, picture):
    """At most 1.15 times as much, or 1.15 where the untiled one is smoother there than elsewhere.

    Without diffusers' blending, the VAE's tiles show 1.2 to 1.4.
    """
    network = backbone(tiles)
    (whole,), (tiled,) = repaint(plain, picture), repaint(network, picture)
    borders = [transformer_borders(network, picture.size)]
    if tiles is EVERY_PART:
        borders.append([vae_borders(length, 128, 32) for length in picture.size])
    for columns, rows in borders:
        assert seam(tiled, 1, columns) <= 1.15 * max(1, seam(whole, 1, columns))
        assert seam(tiled, 0, rows) <= 1.15 * max(1, seam(whole, 0, rows))


def test_tiles_of_the_transformer_that_disagree_fade_into_each_other_without_a_line():
    """Every second tile far brighter; at the borders there is still no more than elsewhere."""
    network = backbone(SMALL)
    component = network.machine.residency.components["transformer"]
    load, calls = component.load, []

    def disagreeing(device):
        transformer = load(device)

        def call(*inputs):
            calls.append(inputs)
            return transformer(*inputs) + 4 * (len(calls) % 2)

        return call

    component.load = disagreeing
    picture = gradient(400, 304)
    (usual,), (result,) = repaint(backbone(SMALL), picture), repaint(network, picture)
    assert np.abs(result - usual).mean() > 10
    columns, rows = transformer_borders(network, picture.size)
    assert seam(result, 1, columns) <= 1.1
    assert seam(result, 0, rows) <= 1.1
