"""Where a picture is worth zooming into: places full of detail, found with the local structure tensor."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from results.spots_file import Spot

WINDOW = 1 / 4  # side of a spot's window, of the picture's shorter side: what a first step of 4x looks at
# Pictures are looked at with a shorter side of so many pixels, and never with more pixels than the second.
SHORTER_SIDE = 512
MOST_PIXELS = 2**20
# Grey levels that a place changes by, over the width of the blur. Noise is far below; what is above counts by
# its logarithm, or one highlight would outweigh a whole face.
STRONG = 2.0
# Share of the detail around (a few windows wide) that a place must exceed: a face in front of foliage, a
# pavilion above trees. What is everywhere is nothing to look at, but in a picture of gravel a quarter stays.
EVERYWHERE = 0.75
# Share of its worth that a place loses in the corners: what a picture is taken of is rarely there.
CORNERS = 0.5
# A window of less is not proposed. Noise of 8 grey levels on a flat picture of 512 pixels gives 0.08, a
# straight edge 0.02, what people would look at 0.2 to 1.2.
LEAST = 0.1

LARGEST_DRAWING = 1024  # pixels of its longer side


def find_detail(
    picture: Image.Image,
    count: int,
    box: tuple[float, float, float, float] = (0, 0, 1, 1),
    share: float = WINDOW,
) -> list[Spot]:
    """Find the places of a picture that are most worth zooming into.

    A place is worth much where the smaller eigenvalue of the structure tensor is high: where brightness or
    colour changes in all directions, as in eyes, writing and lattice work, and unlike along an edge; where
    there is more of it than around; and towards the middle. The best window is taken, its detail taken away,
    and so on. The same picture always gives the same spots.

    Args:
        picture: RGB, any size.
        count: most spots wanted.
        box: the part that is looked at, as if it were the whole picture: left, top, right, bottom as
            fractions of it.
        share: side of a spot's window, of the shorter side of that part.

    Returns:
        At most ``count`` spots, the best first, labelled "1", "2", ...; x and y are fractions of the whole
        picture. Around each, a square of that size lies inside the part, and two such
        squares do not overlap. Fewer where there is no more room or no more detail (`LEAST`): none in a flat
        picture.
    """
    from skimage.filters import gaussian

    left, right = _pixels(box[0], box[2], picture.width)
    top, bottom = _pixels(box[1], box[3], picture.height)
    width, height = right - left, bottom - top
    scale = min(1.0, SHORTER_SIDE / min(width, height), math.sqrt(MOST_PIXELS / (width * height)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if min(size) * share < 1:
        return []  # nothing to see in less than a pixel; and scikit-image takes no single row for a picture
    small = picture.resize(size, Image.Resampling.BICUBIC, (left, top, right, bottom), reducing_gap=2.0)

    window = share * min(width, height)  # in the picture's pixels; below in those of `small`
    across, down = window * size[0] / width, window * size[1] / height
    detail = _detail(small, across)
    free = np.zeros(detail.shape, dtype=bool)
    free[_inside(size[1], down), _inside(size[0], across)] = True
    spots: list[Spot] = []
    while len(spots) < count and free.any():
        interest = gaussian(detail, (down / 4, across / 4), mode="constant", preserve_range=True)
        row, column = divmod(int(np.where(free, interest, -1).argmax()), size[0])
        if interest[row, column] < LEAST:
            break
        x, y = (left + (column + 0.5) / size[0] * width), (top + (row + 0.5) / size[1] * height)
        spots.append(Spot(str(len(spots) + 1), round(x / picture.width, 5), round(y / picture.height, 5)))
        detail[_around(row, down / 2), _around(column, across / 2)] = 0
        free[_around(row, down), _around(column, across)] = False
    return spots


def _pixels(start: float, end: float, length: int) -> tuple[int, int]:
    """Return where a part of a side begins and ends; at least one pixel."""
    first = min(round(start * length), length - 1)
    return first, max(first + 1, round(end * length))


def _inside(length: int, window: float) -> slice:
    """Return the pixels around whose middles a window fits."""
    margin = math.ceil(window / 2 - 0.5)
    return slice(margin, length - margin)


def _around(middle: int, reach: float) -> slice:
    """Return the pixels that are nearer than ``reach``."""
    return slice(max(0, middle - math.ceil(reach) + 1), middle + math.ceil(reach))


def _detail(picture: Image.Image, window: float) -> np.ndarray:
    """Say how much detail each pixel has: (H, W) float32, from 0 (flat, or an edge) to about 5."""
    from skimage.feature import structure_tensor, structure_tensor_eigenvalues
    from skimage.filters import gaussian

    # The blur takes away noise and JPEG's blocks; within about a sixteenth of the window, edges of two
    # directions are a corner.
    blur, gather = max(1.0, window / 64), max(1.0, window / 16)
    tensor = np.zeros((3, picture.height, picture.width), dtype=np.float32)
    for band in picture.split():  # changes of colour alone count too
        smooth = gaussian(np.asarray(band, dtype=np.float32), blur, preserve_range=True)
        tensor += np.stack(structure_tensor(smooth, gather, mode="nearest", order="rc")) / 3
    smaller = structure_tensor_eigenvalues(tensor)[1].clip(min=0)  # rounding may leave it below
    change = np.sqrt(smaller) / 8 * blur  # 8: the sum of a Sobel filter's weights
    detail = np.log1p(change / STRONG)
    around = gaussian(detail, 1.5 * window, mode="reflect", preserve_range=True)
    vertical, horizontal = (1 - np.linspace(-1, 1, length) ** 2 for length in detail.shape)
    central = 1 - CORNERS * (1 - np.outer(vertical, horizontal)).astype(np.float32)
    return (detail - EVERYWHERE * around).clip(min=0) * central


def draw_spots(picture: Image.Image, spots: Sequence[Spot], window: float = WINDOW) -> Image.Image:
    """Draw where spots are, for people to choose from.

    Args:
        picture: RGB, any size.
        spots: x and y as fractions of it.
        window: side of a spot's window, of the picture's shorter side; one that would reach out of the
            picture is drawn moved inside.

    Returns:
        The picture, shrunk to at most `LARGEST_DRAWING` pixels, with each spot's window and label on it:
        light with a dark rim, to be seen on any ground.
    """
    drawing = picture.copy()
    drawing.thumbnail((LARGEST_DRAWING, LARGEST_DRAWING), Image.Resampling.LANCZOS, reducing_gap=2.0)
    pen = ImageDraw.Draw(drawing)
    line = max(2, min(drawing.size) // 250)
    font = ImageFont.load_default(max(12, min(drawing.size) // 28))
    side = round(window * min(drawing.size))
    for spot in spots:
        left = _moved_inside(spot.x * drawing.width - side / 2, side, drawing.width)
        top = _moved_inside(spot.y * drawing.height - side / 2, side, drawing.height)
        square = left, top, left + side - 1, top + side - 1
        pen.rectangle(
            (left - line, top - line, square[2] + line, square[3] + line), outline="black", width=3 * line
        )
        pen.rectangle(square, outline="yellow", width=line)
        start, above, end, below = pen.textbbox((0, 0), spot.label, font, "lt", stroke_width=2 * line)
        at = (
            _moved_inside(left + 3 * line, end - start, drawing.width) - start,
            _moved_inside(top + 3 * line, below - above, drawing.height) - above,
        )
        pen.text(at, spot.label, "yellow", font, "lt", stroke_width=2 * line, stroke_fill="black")
    return drawing


def _moved_inside(start: float, length: float, whole: int) -> int:
    """Return where something begins that shall lie between 0 and ``whole``; too long, it begins at 0."""
    return round(max(0, min(start, whole - length)))
