"""The SD3 backbone: the published numbers, how it works through a group, precision, faults, wrong folders."""

import itertools
import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PARITY, ROOT
from PIL import Image
from safetensors.torch import load_file, save_file

import osediff_sd3
from errors import InputError, PictureError
from machine.residency import Residency, plan_devices
from machine.stage_times import StageTimes
from osediff_sd3 import OSEDiffSD3, Tiles
from sd3 import checkpoint
from sd3.checkpoint import check_sd3, needed_files
from sd3.networks import PARTS, Part

SD3 = PARITY / "sd3"
LORA = PARITY / "SR_LoRA" / "model_20001.pkl"
VAE = PARITY / "SR_VAE" / "vae_encoder_20001.pt"
SIDE = 128


def backbone(efficient_memory=False, model=SD3, lora=LORA, vae=VAE, **options):
    times = StageTimes()
    return OSEDiffSD3(
        str(model), lora, vae,
        plan=plan_devices("cpu", efficient_memory), residency=Residency(efficient_memory, times), times=times,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return backbone()


@pytest.fixture(scope="module")
def crops():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(5)]


PROMPTS = ["a cat", "fur", "a cat", "", "whiskers, fur"]
SEEDS = [11, 22, 33, 44, 2**63 - 1]


def pixels(results):
    return [np.asarray(result, dtype=int) for result in results]


@pytest.fixture(scope="module")
def expected_pixels(plain, crops):
    return pixels(plain(crops, SIDE, PROMPTS, SEEDS))


def grey_levels(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


# the published numbers


@pytest.fixture(scope="module")
def published():
    return load_file(PARITY / "expected" / "forward.safetensors")


def close(ours, theirs):
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-4)


def test_the_text_embeddings_are_the_published_ones(plain, published):
    embeds, pooled = plain.encode_prompts(["a photo of a cat"])["a photo of a cat"]
    close(embeds[None], published["prompt_embeds"])
    close(pooled[None], published["pooled"])


@torch.no_grad()
def test_latent_velocity_and_output_are_the_published_ones(plain, published):
    with plain.residency.use("vae_encoder") as encode:
        (moments,) = encode(published["x"])
    latent = osediff_sd3._sample(moments, seed=1)[None] * 1.5305
    close(latent, published["latent"])
    with plain.residency.use("transformer") as transformer:
        embeds, pooled = published["prompt_embeds"], published["pooled"]
        velocity = transformer(published["latent"], torch.tensor([1000.0]), embeds, pooled)
    close(velocity, published["velocity"])
    with plain.residency.use("vae_decoder") as decode:
        output = decode((published["latent"] - published["velocity"]) / 1.5305 + 0.0609)
    close(output, published["output"])


def test_the_whole_pass_gives_the_published_picture_rounded(plain, published, crops, monkeypatch):
    monkeypatch.setattr(osediff_sd3, "_read", lambda crops, index, side: published["x"][0])  # not of 8 bits
    (result,) = plain(crops[:1], SIDE, ["a photo of a cat"], [1])
    output = (published["output"][0].clamp(-1, 1) / 2 + 0.5) * 255
    assert np.abs(np.asarray(result, float) - output.permute(1, 2, 0).numpy()).max() < 0.51


def test_the_weights_change_the_picture(plain, crops, expected_pixels):
    """Neither the LoRA nor the VAE encoder is read in vain."""
    without = pixels(backbone(lora=None, vae=None)(crops, SIDE, PROMPTS, SEEDS))
    assert grey_levels(without, expected_pixels) > 5


def test_floats_are_rounded_not_cut_off():
    grey = torch.tensor([-2.0, -1.0, (100.6 / 255) * 2 - 1, (100.4 / 255) * 2 - 1, 1.0, 2.0])
    image = osediff_sd3._to_image(grey.expand(3, 1, 6))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 101, 100, 255, 255]


# working through a group


@pytest.mark.parametrize(
    "options", [{"efficient_memory": True}, {"batch_size": 2}, {"batch_size": 5}], ids=str
)
def test_batches_and_memory_change_pixels_by_one_grey_level_at_most(crops, expected_pixels, options):
    assert grey_levels(pixels(backbone(**options)(crops, SIDE, PROMPTS, SEEDS)), expected_pixels) <= 1


def test_a_picture_does_not_depend_on_its_neighbours_or_their_order(plain, crops, expected_pixels):
    turned = pixels(plain(crops[::-1], SIDE, PROMPTS[::-1], SEEDS[::-1]))[::-1]
    assert grey_levels(turned, expected_pixels) == 0


def test_prompt_and_seed_reach_the_picture(plain, crops):
    (one,), (other,) = (pixels(plain(crops[:1], SIDE, [prompt], [1])) for prompt in ("a cat", "whiskers"))
    assert np.abs(one - other).max() > 0
    draws = [osediff_sd3._sample(torch.zeros(32, 4, 4), seed) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_efficient_memory_loads_every_part_once_a_call_however_many_pictures(crops):
    efficient = backbone(efficient_memory=True)
    for call in (1, 2):
        list(efficient(crops, SIDE, [f"{prompt} {call}" for prompt in PROMPTS], SEEDS, step=call))
        assert efficient.residency.loads == dict.fromkeys(PARTS, call)


def test_equal_prompts_are_encoded_once_also_from_call_to_call(crops):
    network = backbone(batch_size=5)
    encoded = []
    tokenize = network._tokenize
    network._tokenize = lambda part, prompts: encoded.extend(prompts) or tokenize(part, prompts)
    for _ in range(2):
        list(network(crops, SIDE, PROMPTS, SEEDS))
    assert sorted(encoded) == sorted(3 * ["", "a cat", "fur", "whiskers, fur"])


def test_the_embeddings_of_many_prompts_wait_in_files_that_go_away(
    tmp_path, crops, expected_pixels, monkeypatch
):
    monkeypatch.setattr(osediff_sd3, "PROMPTS_KEPT", 2)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mapped = []
    monkeypatch.setattr(torch, "from_file", lambda *a, f=torch.from_file, **k: mapped.append(a) or f(*a, **k))
    results = pixels(backbone(efficient_memory=True)(crops, SIDE, PROMPTS, SEEDS))
    assert len(mapped) == 4
    assert grey_levels(results, expected_pixels) == 0
    assert not list(tmp_path.iterdir())


def test_results_come_one_by_one(crops):
    network = backbone()
    results = network(crops, SIDE, PROMPTS, SEEDS)
    next(results)
    before = network.times["sr.transformer.forward"]
    next(results)
    assert network.times["sr.transformer.forward"] > before


def test_each_crop_is_read_once(plain, crops):
    reads = []

    class Lazy(list):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    list(plain(Lazy(crops), SIDE, PROMPTS, SEEDS))
    assert reads == [0, 1, 2, 3, 4]


def test_a_long_prompt_is_cut_at_77_tokens_for_clip_and_512_for_t5_and_the_log_says_so(plain, caplog):
    long = ", ".join(["whiskers"] * 300)
    assert plain._tokenize("text_enc_1", [long]).shape == (1, 77)
    with caplog.at_level(logging.INFO, "osediff_sd3"):
        assert plain._tokenize("text_enc_3", [long]).shape == (1, 512)
        plain._tokenize("text_enc_2", [long])
    assert any("text_enc_3 reads 512 of" in message for message in caplog.messages)
    assert any("text_enc_2 reads 77 of" in message for message in caplog.messages)


def test_something_else_stands_in_for_a_part(crops):
    seen = []

    def load(device):
        def encode(input_ids):
            seen.append(tuple(input_ids.shape))
            return torch.zeros(len(input_ids), 77, 32), torch.zeros(len(input_ids), 32)

        return encode

    network = backbone(stand_ins={"text_enc_1": load})
    list(network(crops[:1], SIDE, ["a cat"], [1]))
    assert seen == [(1, 77)]
    assert network.describe()["stand_ins"] == ["text_enc_1"]


def test_a_side_that_does_not_suit_the_networks_is_refused(plain, crops):
    with pytest.raises(InputError, match="multiple of 16, not 120"):
        list(plain(crops, 120, PROMPTS, SEEDS))


def test_what_computes_the_pixels_is_described_in_json(plain):
    described = json.loads(json.dumps(plain.describe()))
    assert described["model"] == "sd3"
    assert len(described["lora_sha256"]) == len(described["vae_sha256"]) == 64
    assert described["dtypes"]["transformer"] == "float32"


# precision


def test_in_fp16_the_vae_computes_in_fp32_and_t5_keeps_its_wide_weights(monkeypatch):
    half = dict.fromkeys(("text_enc_1", "text_enc_2", "text_enc_3", "transformer"), torch.float16)
    monkeypatch.setattr(osediff_sd3, "choose_dtype", lambda name, device: torch.float16)
    network = backbone(mixed_precision="fp16")
    assert network.dtypes == half | dict.fromkeys(("vae_encoder", "vae_decoder"), torch.float32)
    with network.residency.use("text_enc_3") as t5:
        dtypes = {name.split(".")[-2]: p.dtype for name, p in t5.model.named_parameters()}
    assert dtypes["wo"] == torch.float32
    assert dtypes["wi_0"] == torch.float16


def test_bf16_gives_nearly_the_picture_of_fp32(crops, expected_pixels):
    results = pixels(backbone(mixed_precision="bf16")(crops, SIDE, PROMPTS, SEEDS))
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
    tmp_path, crops
):
    folder = stored_in(tmp_path, torch.float16)
    whole, efficient = backbone(model=folder), backbone(True, model=folder)
    assert grey_levels(*(pixels(n(crops[:2], SIDE, PROMPTS[:2], SEEDS[:2])) for n in (whole, efficient))) == 0
    with efficient.residency.use("text_enc_3") as t5:
        assert {p.dtype for p in t5.model.encoder.block.parameters()} == {torch.float16}
    sizes = [{row.component: row.size.bytes for row in n.residency.plan().rows} for n in (whole, efficient)]
    assert sizes[1]["text_enc_3"] < sizes[0]["text_enc_3"]


class Broken(Part):
    """A decoder whose low precision overflows, as SD3's VAE does in fp16."""

    def __init__(self, part, value, always):
        super().__init__(part.model, torch.bfloat16)
        self.part, self.value, self.always = part, value, always

    def forward(self, z):
        if self.always or self.dtype != torch.float32:
            return torch.full((len(z), 3, SIDE, SIDE), self.value)
        self.part.dtype = torch.float32
        return self.part(z)


def break_decoder(network, value, always=False):
    component = network.residency._components["vae_decoder"]
    load = component.load
    component.load = lambda device: Broken(load(device), value, always)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.25], ids=["nan", "inf", "constant"])
def test_an_impossible_output_is_computed_again_in_fp32(crops, value):
    network = backbone(mixed_precision="bf16")
    break_decoder(network, value)
    results = list(network(crops[:2], SIDE, PROMPTS[:2], SEEDS[:2]))
    assert all(np.asarray(result).std() > 1 for result in results)


def test_an_output_that_is_impossible_in_fp32_too_fails_the_picture_only(crops):
    network = backbone(mixed_precision="bf16")
    break_decoder(network, float("nan"), always=True)
    results = list(network(crops[:2], SIDE, PROMPTS[:2], SEEDS[:2]))
    assert [type(result) for result in results] == [PictureError, PictureError]
    assert "not finite" in str(results[0])


# memory


def small_device(network, part, largest):
    """Make a part run out of memory with more than `largest` at once."""
    component = network.residency._components[part]
    load = component.load

    def wrapped(device):
        inner = load(device)

        def call(first, *rest):
            if len(first) > largest:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            sizes.append(len(first))
            return inner(first, *rest)

        return call

    sizes: list[int] = []
    component.load = wrapped
    return sizes


@pytest.mark.parametrize("part", ["text_enc_3", "vae_encoder", "transformer", "vae_decoder"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(crops, expected_pixels, part):
    network = backbone(batch_size=4)
    sizes = small_device(network, part, 1)
    results = pixels(network(crops[:4], SIDE, PROMPTS[:4], SEEDS[:4]))
    assert set(sizes) == {1}
    assert grey_levels(results, expected_pixels[:4]) <= 1


def test_a_picture_that_does_not_fit_alone_fails_by_itself(crops):
    network = backbone(batch_size=2)
    small_device(network, "transformer", 0)
    results = list(network(crops[:2], SIDE, PROMPTS[:2], SEEDS[:2]))
    assert all(
        isinstance(result, PictureError) and "out of device memory" in str(result) for result in results
    )


@pytest.mark.parametrize("efficient_memory", [False, True])
def test_a_crop_that_cannot_be_read_fails_in_its_place_and_the_others_go_on(
    plain, crops, expected_pixels, efficient_memory
):
    class Unreadable(list):
        def __getitem__(self, index):
            if index == 1:
                raise PictureError("state 3 is damaged")
            return super().__getitem__(index)

    network = backbone(efficient_memory, batch_size=2)
    results = list(network(Unreadable(crops), SIDE, PROMPTS, SEEDS))
    assert str(results.pop(1)) == "state 3 is damaged"
    assert grey_levels(pixels(results), [expected_pixels[i] for i in (0, 2, 3, 4)]) <= 1


# tiles and attention


def test_large_pictures_are_tiled_and_look_much_the_same(crops, expected_pixels):
    tiled = backbone(tiles=Tiles(vae_encoder=64, vae_decoder=16, latent=16, latent_overlap=4))
    large = Image.fromarray(np.tile(np.asarray(crops[0]), (2, 2, 1)))
    (whole,), (pieces,) = (pixels(n([large], 192, ["a cat"], [1])) for n in (backbone(), tiled))
    assert pieces.shape == whole.shape == (192, 192, 3)
    difference = np.abs(pieces - whole)
    assert 0 < difference.mean() < whole.std()


def test_tiles_cover_every_pixel_and_overlap():
    for length, size, overlap in ((96, 96, 32), (97, 96, 32), (200, 96, 32), (384, 96, 0)):
        starts = osediff_sd3._tile_starts(length, size, overlap)
        assert starts[0] == 0
        assert starts[-1] == max(0, length - size)
        assert all(b - a <= size - overlap for a, b in itertools.pairwise(starts))


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


def test_a_tile_larger_than_the_position_embedding_is_refused():
    with pytest.raises(InputError, match="--latent_tiled_size 98: this transformer takes 96 at most"):
        backbone(tiles=Tiles(latent=98))


def test_without_xformers_the_run_says_so_once_and_goes_on(crops, expected_pixels, caplog):
    network = backbone(xformers=True)
    assert grey_levels(pixels(network(crops, SIDE, PROMPTS, SEEDS)), expected_pixels) == 0
    assert sum("xformers" in message for message in caplog.messages) == 1


# folders in other shapes


def test_files_of_the_fp16_variant_are_found(tmp_path, crops):
    folder = stored_in(tmp_path, torch.float16, ".fp16")
    assert not (folder / "vae/diffusion_pytorch_model.safetensors").exists()
    (result,) = backbone(model=folder)(crops[:1], SIDE, ["a cat"], [1])
    assert np.asarray(result).std() > 1


def sharded(folder):
    """Split T5 in two, as the hub's is."""
    path = folder / "text_encoder_3/model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, path.with_name(shard), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    path.with_name("model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(SD3, tmp_path / "sd3")


def test_shards_are_put_together(copy, plain, crops):
    network = backbone(model=sharded(copy))
    for n in (network, plain):
        n._embeddings.clear()
    ours, theirs = (n.encode_prompts(["a cat"])["a cat"][0] for n in (network, plain))
    assert torch.equal(ours, theirs)


def test_a_missing_shard_and_a_half_downloaded_one_are_named(copy):
    shard = sharded(copy) / "text_encoder_3/model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors: half-downloaded"):
        check_sd3(str(copy), LORA, VAE)
    shard.unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors: cannot be read"):
        check_sd3(str(copy), LORA, VAE)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("StableDiffusionPipeline", "a StableDiffusionPipeline, not SD3"),
        ("StableDiffusionXLPipeline", "a StableDiffusionXLPipeline, not SD3"),
    ],
)
def test_the_folder_of_another_model_is_named(copy, name, message):
    edit(copy / "model_index.json", _class_name=name)
    with pytest.raises(InputError, match=message):
        check_sd3(str(copy), LORA, VAE)


def test_sd35_is_refused(copy):
    edit(copy / "transformer/config.json", qk_norm="rms_norm", dual_attention_layers=[0, 1])
    with pytest.raises(InputError, match=r"SD3\.5"):
        check_sd3(str(copy), LORA, VAE)


def test_a_single_file_checkpoint_is_refused_as_a_file_and_in_a_folder(tmp_path):
    path = tmp_path / "sd3_medium.safetensors"
    shutil.copy(SD3 / "vae/diffusion_pytorch_model.safetensors", path)
    for place in (path, tmp_path):
        with pytest.raises(InputError, match="single-file checkpoint"):
            check_sd3(str(place), LORA, VAE)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model_index.json", "no model_index.json"),
        ("tokenizer_3", "tokenizer_3: no tokenizer in it"),
        ("transformer/config.json", "config.json: cannot be read"),
        ("text_encoder_2/model.safetensors", r"text_encoder_2: no weights"),
        ("vae", "vae/config.json: cannot be read"),
    ],
)
def test_what_is_missing_from_a_folder_is_named(copy, file, message):
    path = copy / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message) as caught:
        check_sd3(str(copy), LORA, VAE)
    assert "\n" not in str(caught.value)


def test_weights_in_8_bits_are_refused(copy):
    path = copy / "text_encoder_3/model.safetensors"
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(InputError, match="text_encoder_3: weights in F8_E4M3"):
        check_sd3(str(copy), LORA, VAE)


def test_the_lora_of_another_transformer_is_refused(copy):
    edit(copy / "transformer/config.json", num_layers=24)
    with pytest.raises(InputError, match="14 tensors, but a transformer of 24 blocks has 47 layers"):
        check_sd3(str(copy), LORA, VAE)


def test_one_of_the_two_sr_files_alone_is_refused():
    with pytest.raises(InputError, match="--vae_path without --lora_path"):
        check_sd3(str(SD3), None, VAE)
    with pytest.raises(InputError, match="--lora_path without --vae_path"):
        check_sd3(str(SD3), LORA, None)


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


def test_weights_of_parts_that_something_stands_in_for_need_not_be_there(copy):
    (copy / "text_encoder_3/model.safetensors").unlink()
    checked = check_sd3(str(copy), LORA, VAE, replaced={"text_enc_3"})
    assert "text_encoder_3" not in checked.parts


def test_checking_imports_nothing_heavy():
    code = (
        "import sys; from pathlib import Path; from sd3.checkpoint import check_sd3;"
        f"check_sd3({str(SD3)!r}, Path({str(LORA)!r}), Path({str(VAE)!r}));"
        "assert not {'torch', 'numpy', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# the hub

HUB = [
    "model_index.json", "scheduler/scheduler_config.json", "README.md", "sd3_medium.safetensors", "LICENSE",
    *(f"tokenizer{n}/{file}" for n in ("", "_2", "_3") for file in ("tokenizer_config.json", "vocab.json")),
    *(f"{folder}/config.json" for folder in dict.fromkeys(checkpoint.FOLDERS.values())),
    *(f"text_encoder{n}/model{v}.safetensors" for n in ("", "_2") for v in ("", ".fp16")),
    *(f"text_encoder_3/model{v}-0000{n}-of-00002.safetensors" for n in (1, 2) for v in ("", ".fp16")),
    "text_encoder_3/model.safetensors.index.json", "text_encoder_3/model.safetensors.index.fp16.json",
    "transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
]  # fmt: skip


def test_only_what_is_needed_of_a_repository_is_downloaded():
    wanted = needed_files(HUB)
    assert "sd3_medium.safetensors" not in wanted
    assert not any("fp16" in name for name in wanted)
    weights = [name for name in wanted if name.endswith(".safetensors")]
    assert len(weights) == 6
    assert "text_encoder_3/model.safetensors.index.json" in wanted
    assert len(wanted) == len(set(wanted))


def test_a_repository_of_fp16_files_alone_is_downloaded_too():
    wanted = needed_files(
        [name for name in HUB if "fp16" in name or not name.startswith("text_encoder_3/model")]
    )
    assert "text_encoder_3/model.fp16-00002-of-00002.safetensors" in wanted
    assert "text_encoder_3/model.safetensors.index.fp16.json" in wanted


def test_what_has_a_stand_in_is_not_downloaded():
    wanted = needed_files(HUB, replaced={"text_enc_3"})
    assert [name for name in wanted if name.startswith("text_encoder_3/")] == ["text_encoder_3/config.json"]


def test_a_name_that_is_no_folder_and_no_hub_name_is_refused():
    with pytest.raises(InputError, match="no such folder, and not a hub name"):
        check_sd3("/nowhere/sd3", LORA, VAE)


def test_offline_a_hub_name_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"someone/sd3: no such folder here, and the hub is out of reach"):
        check_sd3("someone/sd3", LORA, VAE)
    with pytest.raises(InputError, match="not in the hub's cache"):
        check_sd3("someone/sd3", LORA, VAE, download=False)


def test_a_hub_name_is_fetched_once_file_by_file(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def snapshot_download(name, revision, allow_patterns=None, local_files_only=False):
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        asked.append((name, revision, allow_patterns))
        return str(SD3)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name, revision: HUB)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    name = "stabilityai/stable-diffusion-3-medium-diffusers"
    for _ in range(2):
        assert check_sd3(name, LORA, VAE).folder == SD3
    checkpoint._from_hub.cache_clear()
    assert asked == [(name, "ea42f8cef0f178587cf766dc8129abd379c90671", needed_files(HUB))]


def test_the_hub_is_not_asked_for_what_its_cache_holds_whole(monkeypatch):
    import huggingface_hub

    def snapshot_download(name, revision, local_files_only):
        assert local_files_only
        return str(SD3)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert check_sd3("someone/cached-sd3", LORA, VAE).folder == SD3


@pytest.mark.parametrize("name", ["a--b/c", "ab/c.git"])
def test_a_name_that_no_hub_accepts_is_refused(name):
    with pytest.raises(InputError, match=name):
        check_sd3(name, LORA, VAE)


def test_a_gated_model_tells_how_to_get_in(monkeypatch):
    import huggingface_hub
    import requests
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def refuse(error):
        def list_repo_files(self, name, revision=None):
            raise error("401\nCannot access gated repo", response=requests.Response())

        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)

    refuse(GatedRepoError)
    with pytest.raises(InputError, match=r"accept its licence at https://huggingface.co/someone/sd3"):
        check_sd3("someone/sd3", LORA, VAE)
    refuse(RepositoryNotFoundError)
    with pytest.raises(InputError, match="neither a folder here nor a model on the Hugging Face hub"):
        check_sd3("someone/sd3", LORA, VAE)
