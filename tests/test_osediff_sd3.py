"""The SD3 backbone: the published numbers, how it works through a group, precision, memory, tiles."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import PARITY
from PIL import Image
from safetensors.torch import load_file, save_file

import osediff_sd3
from errors import InputError, PictureError
from machine.machine import Machine
from machine.memory import Size
from osediff_sd3 import OSEDiffSD3
from sd3.checkpoint import check_sd3
from sd3.networks import Part
from sd3.resident import ResidentParts
from sd3.spec import PARTS
from zoom.protocols import StepInput
from zoom.settings import Tiles
from zoom.states import enlarge

SD3 = PARITY / "sd3"
LORA = PARITY / "SR_LoRA" / "model_20001.pkl"
VAE = PARITY / "SR_VAE" / "vae_encoder_20001.pt"
SIDE = 128


def backbone(model=SD3, lora=LORA, vae=VAE, tiles=None, stand_ins=None, xformers=False, **machine):
    checkpoint = check_sd3(str(model), lora, vae, replaced=stand_ins or ())
    return OSEDiffSD3(checkpoint, Machine.choose(device="cpu", **machine), tiles, stand_ins, xformers)


@pytest.fixture(scope="module")
def plain():
    return backbone()


def enlarged(crop, width=SIDE, height=None):
    return StepInput(crop, enlarge(crop, (width, height or width)))


@pytest.fixture(scope="module")
def inputs():
    generator = np.random.default_rng(0)
    crops = [Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(5)]
    return [enlarged(crop) for crop in crops]


PROMPTS = [["a cat"], ["fur"], ["a cat"], [""], ["whiskers, fur"]]
SEEDS = [11, 22, 33, 44, 2**63 - 1]


def pixels(results):
    return [np.asarray(result, dtype=int) for result in results]


@pytest.fixture(scope="module")
def expected_pixels(plain, inputs):
    return pixels(plain(inputs, PROMPTS, SEEDS))


def grey_levels(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


# the published numbers


@pytest.fixture(scope="module")
def published():
    return load_file(PARITY / "expected" / "forward.safetensors")


def close(ours, theirs):
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-4)


@torch.no_grad()
def test_latent_velocity_and_output_are_the_published_ones(plain, published):
    with plain.machine.residency.use("vae_encoder") as encode:
        (moments,) = encode(published["x"])
    latent = osediff_sd3.sample_latent(moments, seed=1)[None] * 1.5305
    close(latent, published["latent"])
    with plain.machine.residency.use("transformer") as transformer:
        embeds, pooled = published["prompt_embeds"], published["pooled"]
        velocity = transformer(published["latent"], torch.tensor([1000.0]), embeds, pooled)
    close(velocity, published["velocity"])
    with plain.machine.residency.use("vae_decoder") as decode:
        output = decode((published["latent"] - published["velocity"]) / 1.5305 + 0.0609)
    close(output, published["output"])


def test_the_whole_pass_gives_the_published_picture_rounded(plain, published, inputs, monkeypatch):
    monkeypatch.setattr(osediff_sd3, "_to_tensor", lambda picture: published["x"][0])  # not of 8 bits
    (result,) = plain(inputs[:1], [["a photo of a cat"]], [1])
    output = (published["output"][0].clamp(-1, 1) / 2 + 0.5) * 255
    assert np.abs(np.asarray(result, float) - output.permute(1, 2, 0).numpy()).max() < 0.51


def test_the_weights_change_the_picture(plain, inputs, expected_pixels):
    """Neither the LoRA nor the VAE encoder is read in vain."""
    without = pixels(backbone(lora=None, vae=None)(inputs, PROMPTS, SEEDS))
    assert grey_levels(without, expected_pixels) > 5


def test_pictures_that_share_a_prompt_share_its_copy_on_the_device():
    shared, own = torch.ones(2, 3), torch.zeros(2, 3)
    moved = []

    class Counted(torch.Tensor):
        def to(self, device):
            moved.append(device)
            return self.as_subclass(torch.Tensor)

    first, second = shared.as_subclass(Counted), own.as_subclass(Counted)
    stacked = osediff_sd3.stacked_on(torch.device("cpu"), [first, second, first])
    assert torch.equal(stacked, torch.stack([shared, own, shared]))
    assert len(moved) == 2


def test_floats_are_rounded_not_cut_off():
    grey = torch.tensor([-2.0, -1.0, (100.6 / 255) * 2 - 1, (100.4 / 255) * 2 - 1, 1.0, 2.0])
    image = osediff_sd3.to_image(grey.expand(3, 1, 6))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 101, 100, 255, 255]


# working through a group


@pytest.mark.parametrize(
    "options", [{"efficient_memory": True}, {"batch_size": 2}, {"batch_size": 5}], ids=str
)
def test_batches_and_memory_change_pixels_by_one_grey_level_at_most(inputs, expected_pixels, options):
    assert grey_levels(pixels(backbone(**options)(inputs, PROMPTS, SEEDS)), expected_pixels) <= 1


def test_a_picture_does_not_depend_on_its_neighbours_or_their_order(plain, inputs, expected_pixels):
    turned = pixels(plain(inputs[::-1], PROMPTS[::-1], SEEDS[::-1]))[::-1]
    assert grey_levels(turned, expected_pixels) == 0


def test_prompt_and_seed_reach_the_picture(plain, inputs):
    (one,), (other,) = (pixels(plain(inputs[:1], [[prompt]], [1])) for prompt in ("a cat", "whiskers"))
    assert np.abs(one - other).max() > 0
    draws = [osediff_sd3.sample_latent(torch.zeros(32, 4, 4), seed) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_efficient_memory_loads_every_part_once_a_call_however_many_pictures(inputs):
    efficient = backbone(efficient_memory=True)
    for call in (1, 2):
        list(efficient(inputs, [[f"{prompt} {call}"] for (prompt,) in PROMPTS], SEEDS))
        assert efficient.machine.residency.loads == dict.fromkeys(PARTS, call)


def test_results_come_one_by_one(inputs):
    network = backbone()
    results = network(inputs, PROMPTS, SEEDS)
    next(results)
    before = network.machine.times["sr.transformer.forward"]
    next(results)
    assert network.machine.times["sr.transformer.forward"] > before


def test_something_else_stands_in_for_a_part(inputs):
    seen = []

    def load(device):
        def encode(input_ids):
            seen.append(tuple(input_ids.shape))
            return torch.zeros(len(input_ids), 77, 32), torch.zeros(len(input_ids), 32)

        return encode

    network = backbone(stand_ins={"text_enc_1": (load, Size(0, 123))})
    list(network(inputs[:1], [["a cat"]], [1]))
    assert seen == [(1, 77)]
    assert network.describe()["stand_ins"] == ["text_enc_1"]
    assert network.describe()["dtypes"]["text_enc_1"] == "int8"
    sizes = {row.component: row.size.bytes for row in network.machine.residency.plan().rows}
    assert sizes["text_enc_1"] == 123


def test_what_is_repainted_is_the_enlarged_picture_and_nothing_else(plain, inputs, expected_pixels):
    alone = StepInput(crop=None, sr_input=inputs[0].sr_input)
    assert grey_levels(pixels(plain([alone], PROMPTS[:1], SEEDS[:1])), expected_pixels[:1]) == 0


def test_an_empty_group_gives_nothing(plain):
    assert list(plain([], [], [])) == []
    assert list(backbone(efficient_memory=True)([], [], [])) == []


def test_what_computes_the_pixels_is_described_in_json(plain):
    described = json.loads(json.dumps(plain.describe()))
    assert described["model"] == "sd3"
    assert len(described["lora_sha256"]) == len(described["vae_sha256"]) == 64
    assert described["dtypes"]["transformer"] == "float32"


# precision


def test_in_fp16_the_vae_computes_in_fp32_and_t5_keeps_its_wide_weights(monkeypatch):
    half = dict.fromkeys(("text_enc_1", "text_enc_2", "text_enc_3", "transformer"), "float16")
    monkeypatch.setattr(Machine, "dtype", lambda *_, **__: torch.float16)
    network = backbone()
    dtypes = network.describe()["dtypes"]
    assert dtypes == half | dict.fromkeys(("vae_encoder", "vae_decoder"), "float32")
    with network.machine.residency.use("text_enc_3") as t5:
        dtypes = {name.split(".")[-2]: p.dtype for name, p in t5.model.named_parameters()}
    assert dtypes["wo"] == torch.float32
    assert dtypes["wi_0"] == torch.float16


def test_bf16_gives_nearly_the_picture_of_fp32(inputs, expected_pixels):
    results = pixels(backbone(precision="bf16")(inputs, PROMPTS, SEEDS))
    assert np.mean([np.abs(a - b).mean() for a, b in zip(results, expected_pixels, strict=True)]) < 4


def stored_in(tmp_path, dtype, variant=""):
    """Copy the SD3 folder with its weights in another dtype."""
    folder = tmp_path / "sd3"
    shutil.copytree(SD3, folder)
    for path in folder.glob("*/*.safetensors"):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        path.unlink()
        save_file(tensors, path.with_suffix(f"{variant}.safetensors"), metadata={"format": "pt"})
    return folder


def test_efficient_memory_computes_16_bit_files_in_fp32_with_the_same_pixels_in_half_the_memory(
    tmp_path, inputs
):
    folder = stored_in(tmp_path, torch.float16)
    whole, efficient = backbone(model=folder), backbone(model=folder, efficient_memory=True)
    assert grey_levels(*(pixels(n(inputs[:2], PROMPTS[:2], SEEDS[:2])) for n in (whole, efficient))) == 0
    with efficient.machine.residency.use("text_enc_3") as t5:
        assert {p.dtype for p in t5.model.encoder.block.parameters()} == {torch.float16}
    sizes = [
        {row.component: row.size.bytes for row in n.machine.residency.plan().rows} for n in (whole, efficient)
    ]
    assert sizes[1]["text_enc_3"] < sizes[0]["text_enc_3"]


class Broken(Part):
    """A decoder whose low precision overflows."""

    def __init__(self, part, value, always):
        super().__init__(part.model, torch.bfloat16)
        self.part, self.value, self.always = part, value, always

    def forward(self, z):
        if self.always or self.dtype != torch.float32:
            return torch.full((len(z), 3, SIDE, SIDE), self.value)
        self.part.dtype = torch.float32
        return self.part(z)


def break_decoder(network, value, always=False):
    component = network.machine.residency.components["vae_decoder"]
    load = component.load
    component.load = lambda device: Broken(load(device), value, always)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.25], ids=["nan", "inf", "constant"])
def test_an_impossible_output_is_computed_again_in_fp32(inputs, value):
    network = backbone(precision="bf16")
    break_decoder(network, value)
    results = list(network(inputs[:2], PROMPTS[:2], SEEDS[:2]))
    assert all(np.asarray(result).std() > 1 for result in results)


def test_an_output_that_is_impossible_in_fp32_too_fails_the_picture_only(inputs):
    network = backbone(precision="bf16")
    break_decoder(network, float("nan"), always=True)
    results = list(network(inputs[:2], PROMPTS[:2], SEEDS[:2]))
    assert [type(result) for result in results] == [PictureError, PictureError]
    assert "not finite" in str(results[0])


# memory


def before_each_call(network, part, look):
    """Let something look at what a part is called with: the first tensor."""
    component = network.machine.residency.components[part]
    load = component.load

    def wrapped(device):
        inner = load(device)

        def call(first, *rest):
            look(first)
            return inner(first, *rest)

        return call

    component.load = wrapped


def small_device(network, part, largest):
    """Make a part run out of memory with more than `largest` at once."""
    sizes: list[int] = []

    def look(first):
        if len(first) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(len(first))

    before_each_call(network, part, look)
    return sizes


@pytest.mark.parametrize("part", ["text_enc_3", "vae_encoder", "transformer", "vae_decoder"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(inputs, expected_pixels, part, monkeypatch):
    monkeypatch.setattr(ResidentParts, "at_once", lambda *_: None)  # as on a GPU
    network = backbone(batch_size=4)
    sizes = small_device(network, part, 1)
    results = pixels(network(inputs[:4], PROMPTS[:4], SEEDS[:4]))
    assert set(sizes) == {1}
    assert grey_levels(results, expected_pixels[:4]) <= 1


def test_on_a_cpu_the_vae_has_one_picture_at_a_time_and_the_transformer_the_batch(inputs):
    network = backbone(batch_size=4)
    sizes = {part: small_device(network, part, 4) for part in ("vae_encoder", "transformer", "vae_decoder")}
    list(network(inputs[:4], PROMPTS[:4], SEEDS[:4]))
    assert sizes == {"vae_encoder": [1] * 4, "transformer": [4], "vae_decoder": [1] * 4}


def test_a_picture_that_does_not_fit_alone_fails_by_itself(inputs):
    network = backbone(batch_size=2)
    small_device(network, "transformer", 0)
    results = list(network(inputs[:2], PROMPTS[:2], SEEDS[:2]))
    assert all(
        isinstance(result, PictureError) and "out of device memory" in str(result) for result in results
    )


@pytest.mark.parametrize("part", ["text_enc_1", "vae_encoder", "transformer", "vae_decoder"])
@pytest.mark.parametrize("efficient_memory", [False, True])
def test_a_picture_that_fails_in_any_part_fails_in_its_place_and_the_others_go_on(
    inputs, expected_pixels, part, efficient_memory
):
    alone = backbone()
    seen: list[torch.Tensor] = []
    before_each_call(alone, part, lambda first: seen.extend(first))
    list(alone(inputs[1:2], PROMPTS[1:2], SEEDS[1:2]))
    (second,) = seen

    def look(first):
        if any(torch.allclose(one, second, atol=1e-3) for one in first):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    network = backbone(efficient_memory=efficient_memory, batch_size=2)
    before_each_call(network, part, look)
    results = list(network(inputs, PROMPTS, SEEDS))
    assert f"{part}: out of device memory" in str(results.pop(1))
    assert grey_levels(pixels(results), [expected_pixels[i] for i in (0, 2, 3, 4)]) <= 1


# tiles and attention


def correlation(ours, theirs):
    return np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]


@pytest.mark.parametrize(
    ("tiles", "least"),
    [
        ({"vae_encoder": 128}, 0.8),
        ({"vae_decoder": 16}, 0.85),
        ({"latent": 16, "latent_overlap": 4}, 0.95),
        ({"vae_encoder": 128, "vae_decoder": 16, "latent": 16, "latent_overlap": 4}, 0.72),
    ],
    ids=["VAE encoder", "VAE decoder", "transformer", "all"],
)
def test_large_pictures_are_tiled_and_look_much_the_same(inputs, tiles, least):
    large = enlarged(Image.fromarray(np.tile(np.asarray(inputs[0].crop), (2, 2, 1))), 192)
    (whole,), (pieces,) = (
        pixels(n([large], [["a cat"]], [1])) for n in (backbone(), backbone(tiles=Tiles(**tiles)))
    )
    assert pieces.shape == whole.shape == (192, 192, 3)
    difference = np.abs(pieces - whole)
    assert 0 < difference.mean() < whole.std()
    assert correlation(np.roll(whole, 1, axis=0), whole) < least  # not so alike: a picture a pixel beside it
    assert correlation(pieces, whole) > least


@pytest.mark.parametrize("efficient_memory", [False, True])
def test_the_smallest_tiles_give_whole_pictures_too(inputs, efficient_memory):
    tiles = Tiles(vae_encoder=64, vae_decoder=16, latent=16, latent_overlap=4)
    large = enlarged(Image.fromarray(np.tile(np.asarray(inputs[0].crop), (2, 2, 1))), 192)
    whole, pieces = (
        pixels(n([large], [["a cat"]], [1]))[0]
        for n in (backbone(), backbone(tiles=tiles, efficient_memory=efficient_memory))
    )
    assert pieces.shape == whole.shape == (192, 192, 3)
    assert 0 < np.abs(pieces - whole).mean() < whole.std()
    assert (
        correlation(pieces, whole) > 0.4
    )  # the tiny VAE sees little in so small a tile; in a flat grey, nothing


def test_a_tile_larger_than_the_position_embedding_is_refused():
    with pytest.raises(InputError, match="--latent_tiled_size 98: this transformer takes 96 at most"):
        backbone(tiles=Tiles(latent=98))


def test_without_xformers_the_run_says_so_once_and_goes_on(inputs, expected_pixels, caplog):
    network = backbone(xformers=True)
    assert grey_levels(pixels(network(inputs, PROMPTS, SEEDS)), expected_pixels) == 0
    assert sum("xformers" in message for message in caplog.messages) == 1


# folders in other shapes


def test_files_of_the_fp16_variant_are_found(tmp_path, inputs):
    folder = stored_in(tmp_path, torch.float16, ".fp16")
    assert not (folder / "vae/diffusion_pytorch_model.safetensors").exists()
    (result,) = backbone(model=folder)(inputs[:1], [["a cat"]], [1])
    assert np.asarray(result).std() > 1


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(SD3, tmp_path / "sd3")


def changed_weights(copy, change):
    path = copy / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("proj_out.bias"), "proj_out.bias is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is unexpected"),
        (
            lambda t: t.update({"proj_out.bias": torch.zeros(3)}),
            r"proj_out.bias is \(3,\) instead of \(64,\)",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit_the_configuration_are_named_before_anything_is_loaded(copy, change, message):
    changed_weights(copy, change)
    with pytest.raises(InputError, match=message):
        backbone(model=copy)
