"""SD3's transformer with its blocks compiled: here by a compiler for the CPU that changes nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PARITY
from PIL import Image

from errors import InputError
from machine.machine import Machine
from osediff_sd3 import OSEDiffSD3, _Picture
from results.changes import differences
from sd3 import compiled
from sd3.checkpoint import check_sd3
from zoom.protocols import StepInput
from zoom.states import enlarge

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def backend(monkeypatch):
    """A compiler for the CPU: counts what it gets, and leaves it as it is."""
    graphs = []

    def keep(graph, examples):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(compiled, "refuse_what_cannot_be_compiled", lambda *_: None)
    monkeypatch.setattr("sd3.resident.refuse_what_cannot_be_compiled", lambda *_: None)
    monkeypatch.setattr(compiled, "BACKEND", keep)
    torch.compiler.reset()
    yield graphs
    torch.compiler.reset()


def network(compile_it, precision="fp32"):
    checkpoint = check_sd3(str(PARITY / "sd3"), None, None)
    return OSEDiffSD3(checkpoint, Machine.choose("cpu", precision), compiled=compile_it)


@pytest.fixture(scope="module")
def one():
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    crop = Image.fromarray(noise)
    return StepInput(crop, enlarge(crop, (64, 64)))


def made(backbone, one):
    (picture,) = backbone([one], [["a cat"]], [1])
    return np.asarray(picture, int)


def test_what_was_compiled_runs_all_blocks_and_gives_the_same_pixels(backend, one):
    expected = made(network(False), one)
    assert backend == []
    backbone = network(True)
    blocks = (
        len(backbone.machine.residency.components) and backbone._checkpoint.transformer_config["num_layers"]
    )
    assert np.abs(made(backbone, one) - expected).max() == 0
    assert len(backend) == 2 < blocks, "the last block is another than those before it"
    made(backbone, one)
    made(network(True), one)
    assert len(backend) == 2, "a transformer that was read again is not compiled again"


def test_every_batch_size_is_compiled_by_itself():
    """Else which kernel computes a picture would depend on what was computed before it."""
    asked = []
    block = SimpleNamespace(compile=lambda **how: asked.append(how["dynamic"]))
    compiled.compile_blocks(SimpleNamespace(transformer_blocks=[block, block]))
    assert asked == [False, False]


def test_what_is_computed_again_in_fp32_is_not_compiled(backend, one):
    def exact(backbone):
        ((_, picture),) = backbone._repaint([_Picture(one.sr_input, ["a cat"], 1)], exact=True)
        return np.asarray(picture)

    assert np.array_equal(exact(network(True, "bf16")), exact(network(False, "bf16")))
    assert backend == []


def test_a_compiler_that_fails_ends_the_run_in_one_line_with_the_way_out(backend, one, monkeypatch):
    def fail(graph, examples):
        raise OSError("no C compiler\nis here")

    monkeypatch.setattr(compiled, "BACKEND", fail)
    with pytest.raises(
        InputError, match=r"--compile: .*OSError: no C compiler is here.*; leave it out"
    ) as caught:
        made(network(True), one)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "stand_ins", "capability", "triton", "why"),
    [
        (CPU, (), (8, 0), True, "only for CUDA devices, and SD3's transformer is on cpu"),
        (CUDA, ("transformer",), (8, 0), True, "is an int8 ONNX part"),
        (CUDA, (), (6, 1), True, "GeForce is too old"),
        (CUDA, (), (8, 0), False, "wants the package triton"),
        (CUDA, ("text_enc_3",), (7, 5), True, None),
    ],
)
def test_where_nothing_can_be_compiled_that_is_said_before_anything_is_loaded(
    monkeypatch, device, stand_ins, capability, triton, why
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce")
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: triton or None)
    if why is None:
        compiled.refuse_what_cannot_be_compiled(device, stand_ins)
        return
    with pytest.raises(InputError, match=rf"^--compile: .*{why}.*; leave it out$"):
        compiled.refuse_what_cannot_be_compiled(device, stand_ins)


def test_that_it_is_compiled_is_a_setting_of_the_run_and_goes_by_the_options_name(backend):
    plain, fast = network(False).describe(), network(True).describe()
    assert "compiled" not in plain, "runs of before this option go on"
    assert differences({"backbone": plain}, {"backbone": fast}) == ["--compile was not given, is given"]
