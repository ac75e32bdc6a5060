"""What networks compute on a device: the published numbers in fp32, and how far 16 bits are from them."""

import json

import numpy as np
import pytest
import torch
from conftest import DATA, PARITY, SMALL
from on_devices import LORA, VAE, repaint, skip_without_gpus, tiny_sd3
from PIL import Image
from safetensors.torch import load_file

from machine.machine import Machine
from plain_sr.embedded import EmbeddedBackbone
from prompts.qwen_vl import QwenProcessor
from prompts.vlm_files import check_vlm_folder
from prompts.vlm_loading import generate, load_vlm
from ram.files import check_ram_files
from ram.model import load_ram, prepare, tags_on
from sd3.checkpoint import check_sd3
from sd3.networks import load_part
from zoom.protocols import StepInput

# Relative to fp32's norm. fp16 keeps 11 binary digits of a number, bf16 8.
FAR = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
HALVES = pytest.mark.parametrize("dtype", FAR, ids=str)


@pytest.fixture(scope="module")
def published():
    return load_file(PARITY / "expected" / "forward.safetensors")


def calls(published):
    """What each part is called with, and what the published code makes of it."""
    velocity = published["latent"], torch.tensor([1000.0]), published["prompt_embeds"], published["pooled"]
    return {
        "transformer": (velocity, published["velocity"]),
        "vae_decoder": (
            ((published["latent"] - published["velocity"]) / 1.5305 + 0.0609,),
            published["output"],
        ),
    }


# SD3


@torch.no_grad()
def test_sd3_computes_the_published_numbers_in_fp32(device, published):
    network = tiny_sd3(device)
    with network.machine.residency.use("vae_encoder") as encode:  # the tiny one's noise is nearly nothing
        mean = encode(published["x"]).chunk(2, dim=1)[0].cpu() * 1.5305
    torch.testing.assert_close(mean, published["latent"], rtol=0, atol=1e-4)
    for part, (arguments, expected) in calls(published).items():
        with network.machine.residency.use(part) as call:
            made = call(*arguments).float().cpu()
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-4)
    embeds, pooled = network.text(["a photo of a cat"])["a photo of a cat"]
    torch.testing.assert_close(embeds, published["prompt_embeds"][0], rtol=0, atol=1e-4)
    torch.testing.assert_close(pooled, published["pooled"][0], rtol=0, atol=1e-4)


@HALVES
@torch.no_grad()
def test_sd3s_transformer_in_16_bits_is_near_the_published_numbers(device, dtype, published):
    arguments, expected = calls(published)["transformer"]
    part = load_part("transformer", check_sd3(str(PARITY / "sd3"), LORA, VAE), device, dtype)
    made = part(*arguments).float().cpu()
    assert 0 < (made - expected).norm() / expected.norm() < FAR[dtype]


@HALVES
@torch.no_grad()
def test_t5_in_16_bits_is_near_the_published_numbers(device, dtype):
    ids = torch.arange(512)[None] % 100
    checkpoint = check_sd3(str(PARITY / "sd3"), LORA, VAE)
    exact = load_part("text_enc_3", checkpoint, torch.device("cpu"), torch.float32)(ids)
    made = load_part("text_enc_3", checkpoint, device, dtype)(ids).float().cpu()
    assert 0 < (made - exact).norm() / exact.norm() < FAR[dtype]


@pytest.mark.gpu
def test_a_step_gives_the_cpus_pixels_to_one_level_in_fp32(inputs):
    there, here = tiny_sd3("cuda:0"), tiny_sd3("cpu")
    assert np.abs(repaint(there, inputs[:2]) - repaint(here, inputs[:2])).max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "levels"), [("fp16", 0.5), ("bf16", 4)])
def test_a_step_in_16_bits_gives_nearly_the_cpus_pixels(inputs, precision, levels):
    there, here = tiny_sd3("cuda:0", precision), tiny_sd3("cpu")
    assert np.abs(repaint(there, inputs) - repaint(here, inputs)).mean() < levels


@pytest.mark.gpu
def test_xformers_attention_gives_the_same_pixels(inputs):
    pytest.importorskip("xformers", reason="xformers is not installed")
    skip_without_gpus()
    from osediff_sd3 import OSEDiffSD3

    checkpoint = check_sd3(str(PARITY / "sd3"), LORA, VAE)
    with_it, without = (
        OSEDiffSD3(checkpoint, Machine.choose("cuda:0", "fp16"), xformers=xformers)
        for xformers in (True, False)
    )
    assert np.abs(repaint(with_it, inputs) - repaint(without, inputs)).mean() < 0.5
    with with_it.machine.residency.use("transformer") as part:
        names = {type(block.attn.processor).__name__ for block in part.model.transformer_blocks}
    assert all("XFormers" in name for name in names)


@pytest.mark.gpu
def test_batches_of_one_and_of_four_give_the_same_pixels_to_one_level(inputs):
    alone, together = (repaint(tiny_sd3("cuda:0", batch_size=size), inputs) for size in (1, 4))
    assert np.abs(alone - together).max() <= 1


# the embedded network


def enlarged(device, precision):
    """One step of a crop of 24 pixels by RealSR."""
    crop = Image.open(DATA / "esrgan" / "crop.png").convert("RGB")
    backbone = EmbeddedBackbone(Machine.choose(device, precision))
    one = StepInput(crop, crop.resize((96, 96), Image.Resampling.BICUBIC))
    [made] = backbone([one], [[""]], [0])
    return np.asarray(made, int)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "most", "mean"), [("fp32", 1, 0.1), ("fp16", 3, 0.3), ("bf16", 12, 1.2)]
)
def test_the_embedded_network_gives_the_cpus_pixels(precision, most, mean):
    skip_without_gpus()
    apart = np.abs(enlarged("cuda:0", precision) - enlarged("cpu", "fp32"))
    assert apart.max() <= most
    assert apart.mean() <= mean


@pytest.mark.gpu
def test_the_command_gives_the_cpus_pixels_to_one_level_in_fp32(command, tmp_path):
    skip_without_gpus()
    made = []
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        where = ("-o", out, "--device", device, "--mixed_precision", "fp32")
        done = command("inference_coz", "-i", PARITY / "input" / "scene.png", *SMALL, *where)
        assert done.code == 0, done.err
        made.append(np.asarray(Image.open(out / "per-sample/scene/1.png"), int))
    assert np.abs(made[0] - made[1]).max() <= 1


# prompts


def crop():
    return Image.open(PARITY / "vlm_input" / "crop.png").convert("RGB")


def test_the_tagger_gives_the_published_logits_and_tags(device):
    folder = PARITY / "RAM"
    files = check_ram_files(
        folder / "ram_swin_tiny.pth", PARITY / "DAPE" / "DAPE.pth",
        folder / "ram_tag_list.txt", folder / "ram_tag_list_threshold.txt",
    )  # fmt: skip
    tagger = load_ram(files, device, torch.float32)
    with torch.inference_mode():
        logits = tagger(prepare(crop(), files.size.image_side)[None].to(device)).cpu()
    expected = json.loads((PARITY / "expected" / "tags.json").read_text())["dape"]["vlm_input/crop.png"]
    torch.testing.assert_close(logits[0], torch.tensor(expected["logits"]), rtol=0, atol=1e-4)
    assert tags_on(logits, files.tags, files.thresholds) == [expected["tags"]]


@pytest.mark.parametrize("case", ["recursive+lora", "recursive_multiscale"])
def test_the_vlm_gives_the_published_answers(device, case):
    wanted = json.loads((PARITY / "expected" / "vlm.json").read_text())[case]
    adapter = PARITY / "VLM_LoRA" / "checkpoint-10000" if "lora" in case else None
    parent = [Image.open(PARITY / "vlm_input" / "parent.png").convert("RGB")] if "multi" in case else []
    model = load_vlm(check_vlm_folder(PARITY / "qwen", adapter), device, torch.float32)
    questions = QwenProcessor(PARITY / "qwen")([[*parent, crop()]] * 2)
    assert generate(model, questions, max_new_tokens=32).tolist() == [wanted["new_ids"]] * 2


# onnxruntime


@pytest.fixture
def onnx_file(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.PixelShuffle(2))
    free = {2: "height", 3: "width"}
    torch.onnx.export(
        network.eval(), (torch.rand(1, 3, 16, 16),), str(tmp_path / "small.onnx"), input_names=["x"],
        output_names=["y"], dynamic_axes={"x": free, "y": free}, dynamo=False,
    )  # fmt: skip
    return tmp_path / "small.onnx"


def run_onnx(path, device):
    import onnxruntime

    from machine.onnx_session import providers_of

    session = onnxruntime.InferenceSession(str(path), providers=providers_of(device))
    x = np.linspace(0, 1, 3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16)
    return session.get_providers()[0], session.run(None, {"x": x})[0]


def test_onnxruntime_computes_on_the_device_what_it_does_on_the_cpu(device, onnx_file):
    onnxruntime = pytest.importorskip("onnxruntime")
    if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has no CUDA provider here (requirements-gpu.txt)")
    provider, made = run_onnx(onnx_file, device)
    assert provider == {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device.type]
    # its convolutions round to TF32 on a GPU
    np.testing.assert_allclose(made, run_onnx(onnx_file, torch.device("cpu"))[1], atol=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("component", ["text_enc_1", "transformer"])
def test_int8_parts_give_the_cpus_numbers_on_onnxruntimes_cuda_provider(
    component, tmp_path_factory, published
):
    onnxruntime = pytest.importorskip("onnxruntime")
    skip_without_gpus()
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has no CUDA provider here (requirements-gpu.txt)")
    from quantized_parts import MODEL, quantized_parts

    from int8.find_parts import part_folder
    from int8.run_part import open_part
    from zoom.settings import Tiles

    folder = part_folder(quantized_parts(tmp_path_factory), component)
    config = json.loads((MODEL / "vae" / "config.json").read_text())
    arguments = (torch.arange(77)[None],) if component == "text_enc_1" else calls(published)[component][0]
    made, expected = (
        open_part(folder, component, torch.device(name), config, Tiles())(*arguments)
        for name in ("cuda:0", "cpu")
    )
    one, other = (each[0] if isinstance(each, tuple) else each for each in (made, expected))
    assert (one.float().cpu() - other.float()).norm() / other.float().norm() < 0.05
