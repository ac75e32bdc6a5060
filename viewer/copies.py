"""Copies of states for people to look at: small ones, and what plain BICUBIC makes of the same pixels."""

import io
from collections.abc import Iterator, Mapping

from PIL import Image

from results.output_tree import OutputTree
from results.png import read_state, size_of_state
from results.run_report import PictureRecord, StepRecord
from viewer.flight import layers_of

HEIGHT = 192  # pixels of a small copy
WIDEST = 2  # times its height
QUALITY = 85  # of JPEG


def check_states(tree: OutputTree, picture: PictureRecord) -> None:
    """See that all states of a picture are there, in the sizes that its record says, without their pixels.

    Raises:
        PictureError: one is gone, or another than the record says.
    """
    for layer in layers_of(picture):
        if size_of_state(tree.state(picture.name, layer.step)) != layer.size:
            raise tree.lost_state(picture.name, layer.step)


def small_copy(tree: OutputTree, picture: PictureRecord, seen: Mapping[int, Image.Image]) -> bytes:
    """Return a picture's first and deepest state side by side as a small JPEG.

    Args:
        tree: the folder.
        picture: one with states.
        seen: states that need not be read, by number.

    Raises:
        PictureError: one of them is gone or damaged.
    """
    layers = layers_of(picture)
    small = []
    for layer in (layers[0], layers[-1]):
        state = seen.get(layer.step) or tree.read_state(picture.name, layer.step, layer.size)
        state = state.copy()
        state.thumbnail((HEIGHT * WIDEST, HEIGHT), Image.Resampling.LANCZOS)
        small.append(state)
    both = Image.new("RGB", (sum(state.width for state in small), max(state.height for state in small)))
    left = 0
    for state in small:
        both.paste(state, (left, 0))
        left += state.width
    return jpeg(both)


def plain_pictures(
    tree: OutputTree, picture: PictureRecord, sr_input: Image.Image | None = None
) -> Iterator[tuple[int, Image.Image]]:
    """Make what plain BICUBIC shows where a network made the states: all from the first crop it enlarged.

    Args:
        tree: the folder.
        picture: any.
        sr_input: that crop enlarged with BICUBIC; None where it is to be read.

    Yields:
        Number of a state, and what BICUBIC shows there: RGB. None where no network took part, or its input is
        gone.
    """
    layers = layers_of(picture)
    steps = [step for step in picture.steps[: len(layers) - 1] if step.made != "real"]
    first = (sr_input or _network_input(tree, picture, steps[0])) if steps else None
    if first is None:
        return
    left, top, width, height = steps[0].view
    across, down = first.width / width, first.height / height
    for step in steps:
        x, y, w, h = step.view
        x0, x1 = max((x - left) * across, 0), min((x + w - left) * across, first.width)
        y0, y1 = max((y - top) * down, 0), min((y + h - top) * down, first.height)
        if step.view == steps[0].view:  # also where every state shows the whole picture: nothing comes to it
            yield step.step, first
        elif x0 < x1 and y0 < y1:
            yield step.step, first.resize(step.size, Image.Resampling.BICUBIC, (x0, y0, x1, y1))


def _network_input(tree: OutputTree, picture: PictureRecord, step: StepRecord) -> Image.Image | None:
    """Read the BICUBIC enlargement that a step's network repainted; None where there is none."""
    for from_first_state in (False, True):
        image = read_state(tree.sr_input(picture.name, step.step, from_first_state), step.size)
        if image is not None:
            return image
    return None


def jpeg(image: Image.Image) -> bytes:
    """Return a picture as a small JPEG."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()
