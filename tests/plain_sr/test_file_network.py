"""`--backbone FILE` with PyTorch's files: what is let in, what spandrel is asked, how its answers are used.

spandrel itself is no part of this environment (requirements-extra.txt): a module in its place takes notes.
docs/networks.md says what was tried with the real one.
"""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel_stand_in import ImageModelDescriptor, MaskedImageModelDescriptor, Spandrel

from checkpoints.hashing import sha256_of
from errors import InputError
from machine.machine import Machine
from plain_sr.any_file import NETWORK_ENDINGS, build_network, check_network
from plain_sr.file_network import FileNetwork
from zoom.protocols import StepInput

STATE = {"body.0.weight": torch.arange(6.0).reshape(2, 3), "body.0.bias": torch.ones(2)}


@pytest.fixture
def spandrel(monkeypatch) -> Spandrel:
    stand_in = Spandrel()
    monkeypatch.setitem(sys.modules, "spandrel", stand_in)
    return stand_in


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(STATE, path, {"license": "CC-BY-4.0"})
    return path


def refused(path) -> str:
    with pytest.raises(InputError) as error:
        build_network(check_network(path), Machine.choose("cpu"))
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) - len(str(path)) < 300
    return message


def build(path, precision="auto") -> FileNetwork:
    network = build_network(check_network(path), Machine.choose("cpu", precision))
    assert isinstance(network, FileNetwork)
    return network


def step_input(width: int, height: int, scale: int) -> StepInput:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    crop = Image.fromarray(pixels)
    return StepInput(crop, crop.resize((scale * width, scale * height)))


# What spandrel is asked


@pytest.mark.parametrize("ending", [".pth", ".pt", ".ckpt", ".PTH"])
def test_a_pickled_state_dict_reaches_spandrel_unwrapped(spandrel, tmp_path, ending):
    path = tmp_path / f"net{ending}"
    torch.save({"params_ema": STATE}, path)
    build(path)
    assert {name: tensor.tolist() for name, tensor in spandrel.given[0].items()} == {
        name: tensor.tolist() for name, tensor in STATE.items()
    }


def test_a_safetensors_file_reaches_spandrel(spandrel, file):
    build(file)
    assert {name: tensor.tolist() for name, tensor in spandrel.given[0].items()} == {
        name: tensor.tolist() for name, tensor in STATE.items()
    }


# What is said of it


def test_the_plan_knows_the_network_before_any_step(spandrel, file):
    network = build(file)
    assert network.describe() == {
        "backbone": "file",
        "file": "net.safetensors",
        "architecture": "Stand-in",
        "scale": 2,
        "sha256": sha256_of(file),
        "dtype": "float32",
        "licence": "CC-BY-4.0",
    }
    (row,) = network.machine.residency.plan().rows
    assert (row.component, row.size.parameters) == ("sr.file", 3 * 25 + 3)
    assert network.machine.residency.loads == {}


@pytest.mark.parametrize("said", [{}, {"license": ""}, {"license": 3}])
def test_a_file_that_states_no_licence_is_said_to_state_none(spandrel, tmp_path, said):
    torch.save({"params_ema": STATE, **said}, tmp_path / "net.pth")
    assert build(tmp_path / "net.pth").describe()["licence"] == "not stated"


def test_a_licence_is_one_short_line(spandrel, tmp_path):
    torch.save({"params_ema": STATE, "license": "MIT\n\x1b[31m" + "x" * 1000}, tmp_path / "net.pth")
    licence = str(build(tmp_path / "net.pth").describe()["licence"])
    assert licence.startswith("MIT  [31mx")
    assert len(licence) <= 100


# How its answers are used


def test_pictures_come_from_the_networks_own_call_one_at_a_time(spandrel, file):
    network = build_network(check_network(file), Machine.choose("cpu", batch_size=3))
    inputs = [step_input(12, 8, 2)] * 3
    spandrel.says.model.shapes.clear()
    made = list(network(inputs, [[""]] * 3, [0] * 3))
    assert [one.size for one in made] == [(24, 16)] * 3
    assert spandrel.says.model.shapes == [(1, 3, 8, 12)] * 3
    assert network.machine.residency.loads == {"sr.file": 1}


def test_sizes_that_the_network_does_not_take_are_padded_and_cut_back(spandrel, file):
    spandrel.says = ImageModelDescriptor(scale=2, minimum=16, multiple_of=8)
    network = build(file)
    for width, height, asked in ((9, 17, (24, 16)), (3, 1, (16, 16)), (16, 24, (24, 16))):
        (made,) = network([step_input(width, height, 2)], [[""]], [0])
        assert made.size == (2 * width, 2 * height)
        assert spandrel.says.model.shapes[-1] == (1, 3, *asked)


def test_padding_reflects_so_that_it_moves_no_pixel_of_its_neighbourhood(spandrel, file):
    spandrel.says = ImageModelDescriptor(scale=1, multiple_of=7)
    whole = np.asarray(step_input(14, 14, 1).crop)
    one = StepInput(Image.fromarray(whole[:10, :10]), Image.fromarray(whole[:10, :10]))
    (made,) = build(file)([one], [[""]], [0])
    (large,) = build(file)([StepInput(Image.fromarray(whole), Image.fromarray(whole))], [[""]], [0])
    assert np.array_equal(np.asarray(made)[:8, :8], np.asarray(large)[:8, :8])


def test_a_network_that_wants_squares_gets_squares(spandrel, file):
    spandrel.says = ImageModelDescriptor(scale=2, square=True)
    network = build(file)
    spandrel.says.model.shapes.clear()
    (made,) = network([step_input(300, 20, 2)], [[""]], [0])
    assert made.size == (600, 40)
    assert set(spandrel.says.model.shapes) == {(1, 3, 256, 256)}


def test_tiles_are_multiples_of_what_the_network_takes(spandrel, file):
    spandrel.says = ImageModelDescriptor(scale=2, multiple_of=24)
    assert build(file).network.tile == 240


@pytest.mark.parametrize(("supports", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_precision_that_the_architecture_cannot_is_not_used(spandrel, file, supports, dtype):
    spandrel.says = ImageModelDescriptor(supports_bfloat16=supports)
    network = build(file, "bf16")
    assert network.describe()["dtype"] == dtype
    (made,) = network([step_input(8, 8, 2)], [[""]], [0])
    assert made.size == (16, 16)


def test_a_precision_that_spandrel_is_wrong_about_is_not_used(spandrel, file):
    spandrel.says.model.fails_in = (torch.bfloat16,)
    assert build(file, "bf16").describe()["dtype"] == "float32"


# What is refused


def test_a_network_that_fails_on_a_few_pixels_is_refused_before_the_run(spandrel, file):
    spandrel.says.model.fails_in = (torch.float32,)
    assert "no torch.float32 here" in refused(file)


def test_a_network_that_makes_another_size_than_is_said_of_it_is_refused(spandrel, file):
    spandrel.says.scale = 3
    assert "makes (1, 3, 48, 80) of 40x24 pixels" in refused(file)


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (MaskedImageModelDescriptor(purpose="Inpainting"), "Stand-in for Inpainting"),
        (ImageModelDescriptor(purpose="FaceSR"), "Stand-in for FaceSR"),
        (ImageModelDescriptor(input_channels=1, output_channels=1), "1 channels to 1"),
        (ImageModelDescriptor(input_channels=4), "4 channels to 3"),
        (ImageModelDescriptor(scale=16), "16x"),
    ],
)
def test_networks_for_something_else_are_refused_by_what_they_are(spandrel, file, says, reason):
    spandrel.says = says
    assert reason in refused(file)


def test_weights_of_no_known_network_are_refused(spandrel, file):
    spandrel.says = spandrel.UnsupportedModelError()
    assert "not a network that spandrel 0.0 knows" in refused(file)


def test_whatever_else_weights_make_spandrel_raise_is_one_line(spandrel, file):
    spandrel.says = RuntimeError("size mismatch\nfor a.weight\n" * 50)
    assert "size mismatch for a.weight" in refused(file)


def test_a_missing_spandrel_is_named_with_the_way_to_install_it(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    assert "pip install -r requirements-extra.txt" in refused(file)


def test_a_spandrel_that_does_not_import_says_why(file, tmp_path, monkeypatch):
    (tmp_path / "spandrel.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    message = refused(file)
    assert "torchvision::nms" in message
    assert "requirements-extra.txt" in message


def test_another_ending_is_refused_with_those_that_are_not(tmp_path):
    (tmp_path / "net.bin").touch()
    message = refused(tmp_path / "net.bin")
    assert all(ending in message for ending in NETWORK_ENDINGS)


@pytest.mark.parametrize("ending", NETWORK_ENDINGS)
def test_what_is_no_file_is_named(tmp_path, ending):
    refused(tmp_path / f"nothing{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    refused(tmp_path / f"folder{ending}")


@pytest.mark.parametrize("ending", NETWORK_ENDINGS)
def test_other_files_under_an_ending_are_refused(tmp_path, ending):
    for content in (b"", b"nothing of the kind", b"PK\x03\x04" + bytes(100), bytes(1000)):
        path = tmp_path / f"net{ending}"
        path.write_bytes(content)
        refused(path)


def test_code_in_a_pickle_is_refused_and_not_run(spandrel, tmp_path):
    torch.save({"params": STATE, "loss": torch.nn.MSELoss()}, tmp_path / "net.ckpt")
    assert "holds code" in refused(tmp_path / "net.ckpt")
    assert spandrel.given == []


@pytest.mark.parametrize(
    "content", [STATE["body.0.weight"], [STATE], {"epoch": 3}, {"a": [{"b": {}}]}], ids=str
)
def test_a_pickle_without_weights_by_name_is_refused(spandrel, tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    refused(tmp_path / "net.pth")
    assert spandrel.given == []


def test_names_that_ask_for_a_billion_layers_are_refused_before_they_are_built(spandrel, tmp_path):
    save_file({"body.1000000000.weight": torch.ones(1)}, tmp_path / "net.safetensors")
    assert "more layers than any" in refused(tmp_path / "net.safetensors")
    assert spandrel.given == []


def test_a_tensor_that_repeats_one_number_a_billion_times_is_refused(spandrel, tmp_path):
    torch.save({"a.weight": torch.ones(1).expand(10**9)}, tmp_path / "net.pth")
    assert "larger than the file" in refused(tmp_path / "net.pth")


def test_a_pickle_that_holds_itself_is_looked_through_once(spandrel, tmp_path):
    content: dict = {"a.weight": torch.ones(2)}
    content["again"] = [content]
    torch.save(content, tmp_path / "net.pth")
    assert check_network(tmp_path / "net.pth").licence == "not stated"


def test_safetensors_that_lie_about_themselves_are_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**30], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "net.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    refused(path)
