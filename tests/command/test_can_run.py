"""What can run, from what is here: facts in, verdicts with the one command out."""

import pytest

from checkpoints import catalogue
from command.can_run import Found, Torch, install_command, verdicts
from machine.nvidia import Gpu

OLD, NEW = Gpu("RTX 3090", "535.129.03", 24 * 2**30), Gpu("RTX 5090", "595.10", 32 * 2**30)


def verdict(found: Found, name: str):
    return {one.name: one for one in verdicts(found)}[name]


def everything(**but) -> Found:
    torch = Torch("", "13.0", ["RTX 5090"])
    return Found(**{"quantized": 6, "onnx": ["onnxruntime"], "gpus": [NEW], "torch": torch} | but)


def test_with_everything_here_everything_can_run():
    assert [one.why_not for one in verdicts(everything())] == [""] * 6
    assert [one.name for one in verdicts(everything())] == [
        "embedded",
        *catalogue.PURPOSES,
        "quantize",
        "GPU",
    ]


@pytest.mark.parametrize(
    ("absent", "stopped", "command"),
    [
        (catalogue.SD3, "null dape vlm quantize", "python download_ckpt.py --for null"),
        (catalogue.RAM, "dape", "python download_ckpt.py --for dape"),
        (catalogue.DAPE, "dape", "python download_ckpt.py --for dape"),
        (catalogue.VLM, "vlm", "python download_ckpt.py --for vlm"),
        (catalogue.VLM_LORA, "", ""),
    ],
)
def test_a_checkpoint_that_is_not_here_stops_what_needs_it_and_the_download_is_named(
    absent, stopped, command
):
    found = everything(absent=[absent])
    cannot = [one for one in verdicts(found) if one.why_not]
    assert [one.name for one in cannot] == stopped.split()
    assert not any(one.broken for one in cannot)
    for one in cannot:
        assert absent.name in one.why_not
    if cannot:
        assert cannot[0].command == command


def test_a_wrong_checkpoint_is_broken_and_is_fetched_again():
    found = everything(wrong={catalogue.RAM: "half"})
    dape = verdict(found, "dape")
    assert dape.broken
    assert dape.command == "python download_ckpt.py --for dape"
    assert not verdict(found, "vlm").why_not


def test_what_is_wrong_and_what_is_not_here_come_with_one_command():
    vlm = verdict(everything(wrong={catalogue.SR_LORA: "half"}, absent=[catalogue.VLM]), "vlm")
    assert vlm.why_not == "SR LoRA wrong (move it away first); Qwen2.5-VL 3B not here"
    assert vlm.command == "python download_ckpt.py --for vlm"


def test_packages_come_before_checkpoints():
    found = everything(missing=["peft"], absent=[catalogue.VLM])
    assert verdict(found, "vlm").command == "pip install -r requirements.txt"
    assert not verdict(found, "null").why_not


def test_without_torch_nothing_can_run_and_one_command_mends_it():
    found = Found(torch=Torch("torch is not installed"))
    for name in ("embedded", *catalogue.PURPOSES, "quantize", "GPU"):
        assert verdict(found, name).why_not
    assert verdict(found, "embedded").command == "pip install -r requirements.txt"


def test_a_machine_with_an_nvidia_gpu_is_told_of_its_own_requirements():
    found = Found(gpus=[NEW], torch=Torch("torch is not installed"))
    assert verdict(found, "embedded").command == "pip install -r requirements-gpu.txt"


def test_a_message_that_names_its_command_gets_no_second_one():
    found = everything(torch=Torch(embedded="the weights are damaged: pip install --force-reinstall x"))
    assert verdict(found, "embedded").command == ""
    assert verdict(found, "embedded").broken


@pytest.mark.parametrize(
    ("onnx", "parts", "words", "command"),
    [
        ([], 6, "onnxruntime not installed", "pip install -r requirements"),
        (["onnxruntime", "onnxruntime-gpu"], 6, "break each other", "pip uninstall onnxruntime"),
        (["onnxruntime"], 0, "no int8 part", "python quantize_model.py"),
    ],
)
def test_int8_parts_want_one_onnxruntime_and_to_be_made(onnx, parts, words, command):
    quantize = verdict(everything(onnx=onnx, quantized=parts), "quantize")
    assert words in quantize.why_not
    assert quantize.command.startswith(command)


@pytest.mark.parametrize(
    ("gpus", "torch", "words", "command", "broken"),
    [
        ([], Torch(), "none is found", "", False),
        ([NEW], Torch(), "not built for it", 'pip install --force-reinstall "torch>=2,<=3"', False),
        ([OLD], Torch(), "not built for it", '"torch>=2,<=3" --index-url', False),
        ([OLD], Torch("", "13.0"), "535.129.03 is too old", '"torch>=2,<=3" --index-url', True),
        ([NEW], Torch("", "13.0"), "does not see", "", True),
    ],
)
def test_a_gpu_that_cannot_be_used_is_explained(gpus, torch, words, command, broken):
    gpu = verdict(everything(gpus=gpus, torch=torch, torch_versions=">=2,<=3"), "GPU")
    assert words in gpu.why_not
    assert command in gpu.command
    assert gpu.broken == broken


def test_an_apple_gpu_needs_no_nvidia():
    assert not verdict(everything(gpus=[], torch=Torch("", None, ["Apple GPU"])), "GPU").why_not


@pytest.mark.parametrize(
    ("gpus", "onnx", "file"),
    [
        ([], [], "requirements.txt"),
        ([NEW], [], "requirements-gpu.txt"),
        ([NEW], ["onnxruntime"], "requirements.txt"),
        ([NEW], ["onnxruntime-gpu"], "requirements-gpu.txt"),
        ([], ["onnxruntime-gpu"], "requirements-gpu.txt"),
    ],
)
def test_what_is_to_be_installed_never_brings_a_second_onnxruntime(gpus, onnx, file):
    command = f"pip install -r {file}"
    assert install_command(gpus, onnx) == command
    found = everything(gpus=gpus, onnx=onnx, torch=Torch("torch is not installed"), missing=["peft"])
    assert [verdict(found, name).command for name in ("embedded", "vlm", "GPU")] == [command] * 3


def test_only_what_lies_in_ckpt_is_to_be_moved_away():
    assert "move it away" in verdict(everything(wrong={catalogue.RAM: "half"}), "dape").why_not
    sd3 = verdict(everything(wrong={catalogue.SD3: "half"}), "null")
    assert sd3.why_not == f"{catalogue.SD3.name} wrong"
