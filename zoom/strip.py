"""The states of a picture side by side; a bar below says how much of each is real."""

from collections.abc import Iterable, Sequence

from PIL import Image

from zoom.window import Size

BAR = 6  # pixels high
# orange is where invention begins
COLOURS = {"real": (235, 235, 235), "enlarged": (90, 150, 220), "invented": (240, 140, 30)}


def strip(states: Iterable[Image.Image], made: Sequence[str], cell: Size) -> Image.Image:
    """Lay states side by side on black, with a bar of `COLOURS` below.

    Args:
        states: RGB, one at a time; of each the middle of at most a cell is shown.
        made: how each came about, see `results.run_report.MADE`.
        cell: width and height.

    Returns:
        RGB, as wide as all cells, and `BAR` higher than one.
    """
    width, height = cell
    whole = Image.new("RGB", (width * len(made), height + BAR))
    for number, (state, kind) in enumerate(zip(states, made, strict=True)):
        left, top = (state.width - width) // 2, (state.height - height) // 2
        whole.paste(state.crop((left, top, left + width, top + height)), (width * number, 0))  # black around
        whole.paste(COLOURS[kind], (width * number, height, width * (number + 1), height + BAR))
    return whole
