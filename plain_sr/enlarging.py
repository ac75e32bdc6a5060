"""From a network that enlarges a tensor to pictures of the size that is asked for: every plain SR network.

A network enlarges by a factor of its own. Here crops become its tensors, alike ones a batch at a time, large
ones tile by tile; and what it makes is brought to the size of the SR input.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from errors import PictureError
from machine.machine import Machine
from zoom.protocols import StepInput
from zoom.tiler import by_tiles, good_size

TILE = 256  # larger pictures are enlarged in tiles of this side; RRDBNet's take 0.8 GB each on a CPU
# What neighbouring tiles share, of a tile's side: 96 of 256 pixels. RRDBNet's receptive field is 350 pixels
# to each side, but what lies beyond 48 moves no pixel by a grey level (samples/, both embedded networks;
# beyond 32: up to 9 levels, beyond 16: up to 27), and in the middle of what two tiles
# share, each is 48 pixels from its edge.
SHARED = 3 / 8
# No step of a chain enlarges more (--upscale). Beyond it is --rec_type onestep, whose point is a single pass.
MOST = 8


@dataclass(frozen=True)
class Network:
    """An SR network.

    Attributes:
        scale: factor s by which it enlarges, 1 to 8; 1 repaints.
        run: (B, 3, h, w) in [0, 1], fp32 on the CPU, to (B, 3, s * h, s * w), about [0, 1], fp32 on the CPU.
        tile: side of the largest picture that it gets at once.
        multiple: what the sides of its tiles had best be multiples of.
    """

    scale: int
    run: Callable[[Tensor], Tensor]
    tile: int = TILE
    multiple: int = 1


@dataclass(frozen=True)
class _Job:
    """A picture that a network is to enlarge.

    Attributes:
        pixels: (3, h, w), uint8, or fp32 in about [0, 1].
        network: the network.
        size: width and height that are wanted in the end.
        second: the network of a second pass, or None.
    """

    pixels: np.ndarray
    network: Network
    size: tuple[int, int]
    second: Network | None = None


def enlarge(
    machine: Machine,
    name: str,
    inputs: Sequence[StepInput],
    network_of: Callable[[StepInput], Network],
    second: Network,
) -> Iterator[Image.Image | PictureError]:
    """Enlarge RGB crops to the size of their SR inputs, yielding them in order.

    A factor below the network's is resized down from it. One above it, and up to its square and to `MOST`,
    takes a second pass: only resized, a state would be soft, and a chain of such steps ends in plain blur.
    Larger ones are resized up. A network of scale 1 repaints the SR input instead.

    Args:
        machine: whose batches and stage times are used.
        name: of the backbone, for messages about memory.
        inputs: what to enlarge.
        network_of: says which network takes an input.
        second: the network of second passes, of the same scale.

    Yields:
        RGB pictures, or a PictureError in a picture's place where the network's output is not finite or not
        of the size that it should be, or where memory is too small for one picture.
    """

    def first(batch: Sequence[StepInput]) -> list[Image.Image | _Job | PictureError]:
        with machine.times.stage("sr.prepare"):
            jobs = [_first_job(one, network_of(one), second) for one in batch]
        return run(jobs)

    def run(jobs: Sequence[_Job]) -> list[Image.Image | _Job | PictureError]:
        return _run(jobs, machine)

    results: Iterator[Image.Image | _Job | PictureError] = machine.batches(name, inputs, first)
    for result in results:
        if not isinstance(result, _Job):
            yield result
            continue
        waiting = [result, *results]  # all pictures pass the first network before the second is placed
        jobs = [one for one in waiting if isinstance(one, _Job)]
        made: Iterator[Image.Image | _Job | PictureError] = machine.batches(name, jobs, run)
        for one in waiting:
            picture = next(made) if isinstance(one, _Job) else one
            assert not isinstance(picture, _Job)
            yield picture


def _first_job(one: StepInput, network: Network, second: Network) -> _Job:
    source = one.sr_input if network.scale == 1 else one.crop
    pixels = np.asarray(source).transpose(2, 0, 1)
    sides = list(zip(one.sr_input.size, source.size, strict=True))
    # a window of whole pixels may be less than one of them short of what the network needs
    falls_short = any(wanted >= network.scale * (side + 1) for wanted, side in sides)
    most = min(network.scale**2, MOST)
    twice = falls_short and all(wanted <= most * side for wanted, side in sides)
    return _Job(pixels, network, one.sr_input.size, second if twice else None)


def _run(jobs: Sequence[_Job], machine: Machine) -> list[Image.Image | _Job | PictureError]:
    """Run the jobs of a batch, alike ones together.

    Returns:
        A result for each, in order: the job of the second pass where one is to follow.
    """
    alike: dict[tuple[Network, tuple[int, ...]], list[int]] = {}
    for number, job in enumerate(jobs):
        alike.setdefault((job.network, job.pixels.shape), []).append(number)
    results: dict[int, Image.Image | _Job | PictureError] = {}
    for (network, (_, height, width)), numbers in alike.items():
        at_once = max(height, width) <= network.tile
        for group in [numbers] if at_once else [[number] for number in numbers]:
            try:
                if at_once:
                    made = list(_checked(network, [jobs[number].pixels for number in group]))
                else:
                    made = [_in_tiles(jobs[number], machine) for number in group]
            except PictureError as error:
                results.update(dict.fromkeys(group, error))
                continue
            with machine.times.stage("sr.finish"):
                results.update(
                    (number, _finish(jobs[number], x)) for number, x in zip(group, made, strict=True)
                )
    return [results[number] for number in range(len(jobs))]


def _checked(network: Network, pictures: Sequence[np.ndarray]) -> Tensor:
    """Run a network over pictures of one size.

    Raises:
        PictureError: its output is of another size than it should be.
    """
    x = torch.stack([_to_tensor(pixels) for pixels in pictures])
    made = network.run(x)
    expected = (*x.shape[:2], *(network.scale * side for side in x.shape[2:]))
    if made.shape != expected:
        raise PictureError(f"the SR network made {tuple(made.shape)} of {tuple(x.shape)}, not {expected}")
    return made


def _in_tiles(job: _Job, machine: Machine) -> np.ndarray:
    """Enlarge one picture tile by tile; (s * h, s * w, 3), uint8. Never is the whole picture there in fp32.

    Raises:
        PictureError: a tile's output is not finite, or of another size than it should be.
    """
    network = job.network

    def call(tile: np.ndarray, number: int) -> np.ndarray:
        (made,) = _checked(network, [tile])
        if not made.isfinite().all():
            raise _not_finite()
        return made.numpy()

    _, height, width = job.pixels.shape
    out = np.empty((network.scale * height, network.scale * width, 3), np.uint8)
    top = 0
    overlap = int(SHARED * network.tile)
    size = good_size(height, width, network.tile, overlap, network.multiple)
    for band in by_tiles(call, job.pixels, size, overlap, network.scale):
        with machine.times.stage("sr.finish"):
            bottom = top + band.shape[1]
            out[top:bottom] = _to_pixels(torch.from_numpy(band))
            top = bottom
    return out


def _finish(job: _Job, made: Tensor | np.ndarray) -> Image.Image | _Job | PictureError:
    """Bring what a network made to the wanted size, or to the size that a second pass starts from.

    A second pass that ends at the wanted size keeps material in it, for a quarter of what a whole second 4x
    costs.

    Args:
        job: what it was made of.
        made: (3, s * h, s * w), fp32 in about [0, 1]; or (s * h, s * w, 3), uint8, made in tiles.
    """
    if isinstance(made, Tensor) and not made.isfinite().all():
        return _not_finite()
    if job.second is None:
        return _resized(Image.fromarray(made if isinstance(made, np.ndarray) else _to_pixels(made)), job.size)
    width, height = (-(-side // job.second.scale) for side in job.size)
    if isinstance(made, Tensor):
        smaller = F.interpolate(made[None], size=(height, width), mode="bicubic", antialias=True)
        pixels = smaller[0].numpy()
    else:
        pixels = np.asarray(_resized(Image.fromarray(made), (width, height))).transpose(2, 0, 1)
    return _Job(pixels, job.second, job.size)


def _not_finite() -> PictureError:
    return PictureError(
        "the SR network's output is not finite; if it is not in fp32, --mixed_precision fp32 may help"
    )


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """Turn (3, h, w), uint8 or fp32 in about [0, 1], into fp32 in about [0, 1]."""
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 255
    return torch.from_numpy(pixels)


def _to_pixels(x: Tensor) -> np.ndarray:
    """Turn (3, h, w) in about [0, 1] into (h, w, 3), uint8."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a picture where it has another size.

    BICUBIC is up to 0.5 dB closer to the truth than LANCZOS, which sharpens the network's own overshoot at
    edges (four photographs, factors 2 and 8, both embedded networks).
    """
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def padded(x: Tensor, height: int, width: int) -> Tensor:
    """Continue pictures (B, 3, h, w) at the bottom and the right, by reflection, to what a network takes."""
    more = (height - x.shape[2], width - x.shape[3])
    if more == (0, 0):
        return x
    # NumPy's reflects again and again; torch's stops at one picture's side
    return torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (0, more[0]), (0, more[1])), "reflect"))
