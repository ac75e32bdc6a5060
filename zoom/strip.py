"""The states of a picture side by side; a bar below says how much of each is real, labels say it in words."""

from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont

from zoom.window import Size

BAR = 6  # pixels high
# orange is where invention begins
COLOURS = {"real": (235, 235, 235), "enlarged": (90, 150, 220), "invented": (240, 140, 30)}
SMALLEST_FONT, LARGEST_FONT = 11, 28  # pixels; the smallest fits into the smallest cell of 64, a word a line
CELL_TO_FONT = 18  # a font is so many times smaller than the shorter side of its cell, within these bounds


def strip(
    states: Iterable[Image.Image],
    made: Sequence[str],
    cell: Size,
    magnifications: Sequence[int] | None = None,
) -> Image.Image:
    """Lay states side by side on black, with a bar of `COLOURS` below.

    Args:
        states: RGB, one at a time; of each the middle of at most a cell is shown.
        made: how each came about, see `results.run_report.MADE`.
        cell: width and height, at least 64 pixels where there are labels.
        magnifications: of the states, to write on them with what they are; None for no labels.

    Returns:
        RGB, as wide as all cells, and `BAR` higher than one.
    """
    width, height = cell
    whole = Image.new("RGB", (width * len(made), height + BAR))
    for number, (state, kind) in enumerate(zip(states, made, strict=True)):
        part = middle(state, cell)
        if magnifications is not None:
            part = part.copy()
            _write(part, [_times(magnifications[number]), kind], COLOURS[kind])
        whole.paste(part, (width * number, 0))
        whole.paste(COLOURS[kind], (width * number, height, width * (number + 1), height + BAR))
    return whole


def middle(state: Image.Image, cell: Size) -> Image.Image:
    """Return what of a state a cell shows: its middle, black around where it is smaller."""
    if state.size == cell:
        return state
    left, top = (state.width - cell[0]) // 2, (state.height - cell[1]) // 2
    return state.crop((left, top, left + cell[0], top + cell[1]))


def _times(magnification: int) -> str:
    """Say a magnification in at most eight letters."""
    if magnification < 10**7:
        return f"{magnification}x"
    number, exponent = f"{magnification:.1e}".split("e")
    return f"{number}e{int(exponent)}x"


def _write(picture: Image.Image, words: Sequence[str], colour: tuple[int, int, int]) -> None:
    """Write words into the lower left corner, on black: in one line, or one below the other."""
    size = min(max(min(picture.size) // CELL_TO_FONT, SMALLEST_FONT), LARGEST_FONT)
    font = ImageFont.load_default(size)
    lines = ["  ".join(words)]
    if font.getlength(lines[0]) + size > picture.width:
        lines = list(words)
    line, edge = round(1.25 * size), size // 2
    top = picture.height - line * len(lines) - edge
    right = round(max(map(font.getlength, lines))) + 2 * edge
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, top, right, picture.height), fill=(0, 0, 0))
    for number, text in enumerate(lines):
        draw.text((edge, top + edge // 2 + line * number), text, colour, font)
