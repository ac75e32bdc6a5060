"""Which part of which state each step looks at: pure geometry.

The published code's (Chain-of-Zoom, arXiv 2505.18600, as released).
"""

from dataclasses import dataclass

from errors import InputError
from zoom.settings import ChainSettings


@dataclass(frozen=True)
class Window:
    """A square of a state, in its pixels: `left` and `top` from the top left corner, and its `side`."""

    left: int
    top: int
    side: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom, as Pillow wants them."""
        return self.left, self.top, self.left + self.side, self.top + self.side


def centre_window(side: int, part: int) -> Window:
    """Return the window of `part` pixels at the centre of a square of `side` pixels."""
    offset = (side - part) // 2
    return Window(offset, offset, part)


def step_window(process_size: int, upscale: int, step: int, from_first_state: bool) -> Window:
    """Return the window that a step looks at.

    Args:
        process_size: side of a state in pixels.
        upscale: factor a step.
        step: from 1.
        from_first_state: the kinds `nearest`, `bicubic` and `onestep` cut every step's window out of
            state 0; the recursive kinds cut it out of the state before.

    Raises:
        InputError: the window would be smaller than a pixel.
    """
    part = process_size // upscale ** (step if from_first_state else 1)
    if part < 1:
        most = max(k for k in range(step) if upscale**k <= process_size)
        raise InputError(
            f"--rec_num {step}: step {step} would look at less than one pixel of the {process_size} that "
            f"--process_size gives; take --rec_num {most} or less, or --rec_type recursive"
        )
    return centre_window(process_size, part)


def step_windows(settings: ChainSettings) -> list[tuple[int, Window]]:
    """Return, for every step from 1, the number of the state that it looks at, and the window in it.

    Raises:
        InputError: a window would be smaller than a pixel.
    """
    return [
        (
            0 if settings.from_first_state else step - 1,
            step_window(settings.process_size, settings.upscale, step, settings.from_first_state),
        )
        for step in range(1, settings.rec_num + 1)
    ]
