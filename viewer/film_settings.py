"""What can be chosen about a film, with its defaults and bounds; no Pillow, so that help stays quick."""

from dataclasses import dataclass

SECONDS_A_STEP = 2.0  # of a flight at constant speed
EASE = 1.0  # seconds that a flight takes to come to its speed, and to a stop
# every format, with its frames a second
FPS = {"mp4": 30, "webp": 30, "gif": 20}
MOST_FPS = {"mp4": 120, "webp": 120, "gif": 50}  # faster GIFs are played slowly
SHORTEST, LONGEST = 0.1, 600.0  # seconds
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096  # pixels of a frame; H.264's decoders end there
LARGEST_SIDE_OF_WHOLE = 1024  # where nothing is said: whole pictures are photographs of any size
LARGEST_SIDE_OF_GIF = 320  # the same: 512 take twice the megabytes, of which a GIF has too many
MOST_LOOPS = 65535  # 16 bits in both formats


@dataclass(frozen=True)
class FilmSettings:
    """What a film is like.

    Attributes:
        ending: one of `results.output_tree.FILMS`.
        size: width and height of a frame in pixels; None for the states' size, see `viewer.film.Film`.
        seconds: length of the flight, without the way back; None for `SECONDS_A_STEP` a step, and `EASE`.
        fps: frames a second.
        loop: how often it plays, 0 for ever; an mp4 does not hold it.
        back: also fly back, as long again.
    """

    ending: str = "mp4"
    size: tuple[int, int] | None = None
    seconds: float | None = None
    fps: int = FPS["mp4"]
    loop: int = 0
    back: bool = False
