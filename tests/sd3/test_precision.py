"""Which 16 bits SD3 computes in, what is rounded when, and how far that is from fp32."""

import shutil

import pytest
import torch
from conftest import PARITY
from safetensors.torch import load_file, save_file

from lora.sr_lora import sr_lora_layers
from machine.batches import Batches
from machine.devices import Devices
from machine.machine import Machine
from machine.residency import Residency
from machine.stage_times import StageTimes
from osediff_sd3 import OSEDiffSD3
from sd3.checkpoint import check_sd3
from sd3.networks import load_part

LORA, VAE = PARITY / "SR_LoRA" / "model_20001.pkl", PARITY / "SR_VAE" / "vae_encoder_20001.pt"
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
KINDS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The tiny SD3 with its weights in each kind, checked."""

    def write(kind):
        folder = tmp_path_factory.mktemp(kind) / "sd3"
        shutil.copytree(PARITY / "sd3", folder)
        for path in folder.glob("*/*.safetensors"):
            tensors = {name: tensor.to(KINDS[kind]) for name, tensor in load_file(path).items()}
            save_file(tensors, path, metadata={"format": "pt"})
        return check_sd3(str(folder), LORA, VAE)

    return {kind: write(kind) for kind in KINDS}


def on_a_gpu(checkpoint, capability, monkeypatch):
    """A backbone for a GPU that is not there: nothing is loaded before it is used."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    times = StageTimes()
    machine = Machine(Devices(CUDA, CUDA, CUDA), "auto", Residency(False, times), Batches(), times)
    return OSEDiffSD3(checkpoint, machine)


@pytest.mark.parametrize(
    ("kind", "capability", "networks", "vae"),
    [
        ("F16", (9, 0), "float16", "float32"),
        ("BF16", (9, 0), "bfloat16", "bfloat16"),
        ("F32", (9, 0), "bfloat16", "bfloat16"),
        ("F16", (7, 5), "float16", "float32"),
        ("F32", (7, 5), "float16", "float32"),
    ],
)
def test_auto_keeps_the_files_own_16_bits_on_a_gpu(stored, kind, capability, networks, vae, monkeypatch):
    dtypes = on_a_gpu(stored[kind], capability, monkeypatch).describe()["dtypes"]
    parts = dict.fromkeys(("text_enc_1", "text_enc_2", "text_enc_3", "transformer"), networks)
    assert dtypes == parts | dict.fromkeys(("vae_encoder", "vae_decoder"), vae)


def test_auto_computes_in_fp32_on_the_cpu_whatever_the_file_holds(stored):
    for checkpoint in stored.values():
        dtypes = OSEDiffSD3(checkpoint, Machine.choose("cpu")).describe()["dtypes"]
        assert set(dtypes.values()) == {"float32"}


def test_only_asking_for_fp32_keeps_convolutions_from_tf32():
    Machine.choose("cpu", "fp32")
    assert not torch.backends.cudnn.allow_tf32
    Machine.choose("cpu")
    assert torch.backends.cudnn.allow_tf32


def test_the_sr_lora_is_added_to_the_files_numbers_in_fp32_and_the_sum_is_rounded_once(stored):
    exact, rounded = (
        sr_lora_layers(load_part("transformer", stored["F16"], CPU, dtype).model)
        for dtype in (torch.float32, torch.bfloat16)
    )
    for (_, ours), (name, merged) in zip(exact, rounded, strict=True):
        assert torch.equal(ours.weight.bfloat16(), merged.weight), name


# T5's feed-forward part in fp16


def run_t5(checkpoint, dtype, scale=1.0):
    part = load_part("text_enc_3", checkpoint, CPU, dtype)
    wo = part.model.encoder.block[0].layer[1].DenseReluDense.wo
    wo.weight.data = wo.weight.data * scale
    made = []
    wo.register_forward_hook(lambda module, args, output: made.append(output))
    with torch.no_grad():
        hidden = part(torch.arange(8)[None])
    return hidden, made[0], wo.weight


def test_what_would_leave_fp16s_range_is_computed_in_fp32_with_weights_in_fp16(stored):
    hidden, made, weight = run_t5(stored["F16"], torch.float16, scale=5e4)
    assert made.abs().max() > torch.finfo(torch.float16).max
    assert (made.dtype, hidden.dtype, weight.dtype) == (torch.float32, torch.float16, torch.float16)
    exact, *_ = run_t5(stored["F16"], torch.float32, scale=5e4)
    torch.testing.assert_close(hidden.float(), exact, rtol=0, atol=0.02)


def test_t5_takes_no_more_memory_in_fp16_than_its_file_and_one_layer(stored, monkeypatch):
    sizes = {}
    for kind, capability in (("F16", (9, 0)), ("BF16", (9, 0))):
        network = on_a_gpu(stored[kind], capability, monkeypatch)
        sizes[kind] = network.machine.residency.components["text_enc_3"].size.bytes
    config = stored["F16"].files_of("text_enc_3").config
    assert sizes["F16"] - sizes["BF16"] == 4 * config["d_model"] * config["d_ff"]


# how far from fp32


@pytest.fixture(scope="module")
def errors(stored):
    """Largest distance from fp32 of what each kind makes of the published inputs, by part."""
    inputs = load_file(PARITY / "expected" / "forward.safetensors")
    calls = {
        "text_enc_1": (torch.arange(77)[None],),
        "text_enc_2": (torch.arange(77)[None],),
        "text_enc_3": (torch.arange(512)[None] % 100,),
        "transformer": (
            inputs["latent"], torch.tensor([1000.0]), inputs["prompt_embeds"], inputs["pooled"],
        ),
    }  # fmt: skip

    @torch.no_grad()
    def outputs(part, dtype):
        made = load_part(part, stored["F16"], CPU, dtype)(*calls[part])
        return (made[0] if isinstance(made, tuple) else made).float()

    found = {}
    for part in calls:
        exact = outputs(part, torch.float32)
        found[part] = {
            dtype: ((outputs(part, dtype) - exact).norm() / exact.norm()).item()
            for dtype in (torch.float16, torch.bfloat16)
        }
    return found


@pytest.mark.parametrize("part", ["text_enc_1", "text_enc_2", "text_enc_3", "transformer"])
def test_fp16_is_at_least_four_times_as_near_to_fp32_as_bf16(errors, part):
    assert 0 < errors[part][torch.float16] < errors[part][torch.bfloat16] / 4
    assert errors[part][torch.float16] < 2e-3
