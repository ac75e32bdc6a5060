"""Which part of what each step looks at: pure geometry, exact in whole pixels and fractions.

With ``source="shrunk"`` and no point it is the published code's (Chain-of-Zoom, arXiv 2505.18600, as
released): the picture is shrunk to a state, and every window is the middle of the state before.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

from errors import InputError, PictureError
from results.limits import MAX_PIXELS
from zoom.settings import ChainSettings

Size = tuple[int, int]
Point = tuple[Fraction, Fraction]

# A picture is enlarged at most this much to become state 0: beyond it there is nothing in it to zoom into.
MAX_FIRST_ENLARGEMENT = 16
MAX_ASPECT = 100
SMALLEST_WHOLE = 16  # pixels a side of a picture that is enlarged as a whole


@dataclass(frozen=True)
class Window:
    """A part of a picture or of a state, in its whole pixels, from the top left corner."""

    left: int
    top: int
    width: int
    height: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom, as Pillow wants them."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    @cached_property
    def numbers(self) -> tuple[int, int, int, int]:
        """Left, top, width, height."""
        return self.left, self.top, self.width, self.height


@dataclass(frozen=True)
class View:
    """What a state shows: a part of the picture, in the picture's pixels. Exact, so that no step drifts."""

    left: Fraction
    top: Fraction
    width: Fraction
    height: Fraction

    @classmethod
    def of(cls, window: Window) -> "View":
        """Return what a window of the picture itself shows."""
        return cls(*map(Fraction, (window.left, window.top, window.width, window.height)))

    def part(self, window: Window, size: Size) -> "View":
        """Return what a window shows of a state of `size` that shows this."""
        across, down = self.width / size[0], self.height / size[1]
        return View(
            self.left + window.left * across,
            self.top + window.top * down,
            window.width * across,
            window.height * down,
        )

    @property
    def middle(self) -> Point:
        """The point in the middle."""
        return self.left + self.width / 2, self.top + self.height / 2

    @cached_property
    def numbers(self) -> tuple[float, float, float, float]:
        """Left, top, width, height, rounded to floats."""
        return float(self.left), float(self.top), float(self.width), float(self.height)


@dataclass(frozen=True)
class StepPlan:
    """Where one step looks, and what it makes of it.

    Attributes:
        window_of: number of the state that the window is cut from; None for the picture itself.
        window: in pixels of that.
        size: of the state that is made.
        view: what that state shows of the picture.
        made: one of `results.run_report.MADE`.
    """

    window_of: int | None
    window: Window
    size: Size
    view: View
    made: str


@dataclass(frozen=True)
class Route:
    """The way of one picture.

    Attributes:
        cut: the part of the picture that is zoomed into.
        resized: the size to which this part is resized for state 0.
        first: state 0's window in that.
        view: what state 0 shows.
        steps: from step 1.
    """

    cut: Window
    resized: Size
    first: Window
    view: View
    steps: tuple[StepPlan, ...]

    @property
    def size(self) -> Size:
        """Width and height of state 0."""
        return self.first.width, self.first.height

    @property
    def made(self) -> str:
        """How state 0 comes about: one of `results.run_report.MADE`."""
        real = self.view.width >= self.first.width and self.view.height >= self.first.height
        return "real" if real else "enlarged"


def check_steps(settings: ChainSettings) -> None:
    """See that no step looks at less than a pixel.

    Raises:
        InputError: the first that does.
    """
    if settings.full_image or not settings.from_first_state:
        return
    shorter = min(settings.process_size)
    if shorter // settings.upscale**settings.rec_num < 1:
        most = max(k for k in range(settings.rec_num) if settings.upscale**k <= shorter)
        raise InputError(
            f"--rec_num {settings.rec_num}: step {most + 1} would look at less than one pixel of the "
            f"{shorter} that --process_size gives; take --rec_num {most} or less, or --rec_type recursive"
        )


@lru_cache(maxsize=1024)  # exact fractions take a while, and many pictures of a folder are of one size
def plan_route(settings: ChainSettings, size: Size, center: tuple[float, float] | None = None) -> Route:
    """Plan where every step looks in a picture.

    Args:
        settings: of the chain; checked by `check_steps`.
        size: of the picture as it is seen.
        center: a point as fractions of it, of this picture alone; else that of the settings.

    Raises:
        PictureError: the picture is too small or too narrow, or its states would be too large.
    """
    cut = _cut(settings.box, size)
    if max(cut.width, cut.height) > MAX_ASPECT * min(cut.width, cut.height):
        raise PictureError(
            f"is too narrow: {cut.width}x{cut.height} pixels, over {MAX_ASPECT} to 1; --box cuts out a part"
        )
    if settings.full_image:
        return _route_of_the_whole(settings, cut)
    center = center or settings.center
    point = None if center is None else (Fraction(center[0]) * size[0], Fraction(center[1]) * size[1])
    resized = _covering(cut, settings.process_size)
    whole = View.of(cut)
    first = _place(resized, settings.process_size, whole, point)
    view = whole.part(first, resized)
    return Route(cut, resized, first, view, tuple(_steps(settings, view, point)))


def plan_route_either_way(
    settings: ChainSettings, stored: Size, center: tuple[float, float] | None = None
) -> Route:
    """Plan as `plan_route` does, from a size as stored; EXIF may turn the picture.

    Returns:
        The route of the picture as it is stored; where it has none, that of the turned one.

    Raises:
        PictureError: neither has one; why the picture does not as it is stored.
    """
    try:
        return plan_route(settings, stored, center)
    except PictureError as error:
        try:
            return plan_route(settings, stored[::-1], center)
        except PictureError:
            raise error from None


def _cut(box: tuple[float, float, float, float] | None, size: Size) -> Window:
    """Return the part of a picture that a box of fractions cuts out.

    Raises:
        PictureError: it holds no pixel.
    """
    if box is None:
        return Window(0, 0, *size)
    x0, y0, x1, y1 = (round(one * length) for one, length in zip(box, size * 2, strict=True))
    if x0 == x1 or y0 == y1:
        raise PictureError(f"--box holds less than one of its {size[0]}x{size[1]} pixels")
    return Window(x0, y0, x1 - x0, y1 - y0)


def _covering(cut: Window, state: Size) -> Size:
    """Return the size, of the cut's aspect, that just covers a state.

    Integer arithmetic keeps one side at exactly the state's; the published code's ``int(w * scale)`` loses a
    pixel for every ninth size and shows it as a black line.

    Raises:
        PictureError: it would have to be enlarged too much.
    """
    if cut.width * state[1] <= cut.height * state[0]:
        covering = state[0], cut.height * state[0] // cut.width
    else:
        covering = cut.width * state[1] // cut.height, state[1]
    if covering[0] > MAX_FIRST_ENLARGEMENT * cut.width or covering[1] > MAX_FIRST_ENLARGEMENT * cut.height:
        least = "x".join(str(-(-side // MAX_FIRST_ENLARGEMENT)) for side in state)
        raise PictureError(
            f"is too small: {cut.width}x{cut.height} pixels, and --process_size {state[0]}x{state[1]} wants "
            f"at least {least}"
        )
    return covering


def _place(size: Size, part: Size, view: View, point: Point | None) -> Window:
    """Return the window whose middle is nearest to a point, inside of a picture or a state.

    Args:
        size: of the picture or state.
        part: of the window.
        view: what the picture or state shows.
        point: in the coordinates of the view; None for the middle.
    """
    x, y = point or view.middle
    left = _start(size[0], part[0], (x - view.left) / view.width * size[0])
    top = _start(size[1], part[1], (y - view.top) / view.height * size[1])
    return Window(left, top, *part)


def _start(length: int, part: int, middle: Fraction) -> int:
    """Return where `part` pixels begin whose middle is nearest to a place, within 0 to `length`."""
    # halves go down, as in the published code's (length - part) // 2
    start = math.ceil(middle - Fraction(part, 2) - Fraction(1, 2))
    return min(max(start, 0), length - part)


def _steps(settings: ChainSettings, view: View, point: Point | None) -> Iterator[StepPlan]:
    """Yield the steps of a chain whose state 0 shows `view`."""
    state, upscale = settings.process_size, settings.upscale
    quarter = state[0] // upscale, state[1] // upscale  # of a state, at the usual factor of 4
    first, before = view, view
    # where the picture has no more pixels than state 0, both are the same to look at
    has_more = settings.source == "native" and view.width > state[0] and view.height > state[1]
    for step in range(1, settings.rec_num + 1):
        if settings.from_first_state:
            of, seen = 0, first
            part = state[0] // upscale**step, state[1] // upscale**step
        else:
            of, seen, part = step - 1, before, quarter
        # a view may be a pixel of its state longer than the picture's aspect says; pixels stay square
        scale = min(seen.width / state[0], seen.height / state[1])
        pixels = round(scale * part[0]), round(scale * part[1])
        holds_enough = pixels[0] >= quarter[0] and pixels[1] >= quarter[1]
        if has_more and (holds_enough or settings.from_first_state):
            window = _inside(seen, pixels, point)
            before = View.of(window)
            real = window.width >= state[0] and window.height >= state[1]
            yield StepPlan(
                None, window, state, before, "real" if real else "enlarged" if holds_enough else "invented"
            )
        else:
            window = _place(state, part, seen, point)
            before = seen.part(window, state)
            enlarged = of == 0 and part == quarter and scale >= 1
            yield StepPlan(of, window, state, before, "enlarged" if enlarged else "invented")


def _inside(view: View, pixels: Size, point: Point | None) -> Window:
    """Return the window of whole pixels of the picture that is nearest to a point, inside of a view."""
    left, top = math.ceil(view.left), math.ceil(view.top)
    size = math.floor(view.left + view.width) - left, math.floor(view.top + view.height) - top
    around = View.of(Window(left, top, *size))
    window = _place(size, pixels, around, point or view.middle)
    return Window(left + window.left, top + window.top, *pixels)


def _route_of_the_whole(settings: ChainSettings, cut: Window) -> Route:
    """Return the way of a picture that is enlarged as a whole: nothing is cut out.

    Raises:
        PictureError: it is too small, or its largest state would be larger than can be read again.
    """
    size = cut.width, cut.height
    if min(size) < SMALLEST_WHOLE:
        raise PictureError(
            f"is too small: {size[0]}x{size[1]} pixels, and --full_image wants {SMALLEST_WHOLE}"
        )
    _refuse_too_large(settings, size[0] * size[1])
    view = View.of(cut)
    sizes = [
        (size[0] * settings.upscale**k, size[1] * settings.upscale**k) for k in range(settings.rec_num + 1)
    ]
    steps = []
    for step, made in enumerate(sizes[1:], start=1):
        of = 0 if settings.from_first_state else step - 1
        steps.append(
            StepPlan(of, Window(0, 0, *sizes[of]), made, view, "enlarged" if step == 1 else "invented")
        )
    return Route(cut, size, Window(0, 0, *size), view, tuple(steps))


def _refuse_too_large(settings: ChainSettings, pixels: int) -> None:
    """Refuse a picture of so many pixels whose largest state could not be read again.

    Raises:
        PictureError: with the number of steps that it bears.
    """
    last = pixels * settings.upscale ** (2 * settings.rec_num)
    if last > MAX_PIXELS:
        most = max(k for k in range(settings.rec_num) if pixels * settings.upscale ** (2 * k) <= MAX_PIXELS)
        way_out = f"take --rec_num {most}" if most else "make it smaller first"
        raise PictureError(
            f"would end at {last:,} pixels with --full_image, and {MAX_PIXELS:,} are the most; {way_out}"
        )
