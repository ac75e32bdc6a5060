"""Films as files: mp4 (H.264, through PyAV), webp and gif (through Pillow).

Each frame is drawn when it is wanted: no film waits in memory, but a WebP as it is encoded.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import GifImagePlugin, Image

from zoom.window import Size

H264 = {"crf": "18", "preset": "medium"}  # hardly to be told from the frames
WEBP = {"quality": 80, "method": 2}  # slower methods save 6 %
FRAMES_OF_PALETTE = 24  # frames of a film that its palette is made of
SIDE_OF_PALETTE = 160  # pixels of each of them that are looked at


class Frames(Protocol):
    """What is encoded, see `viewer.film.Film`."""

    size: Size
    count: int

    def frame(self, number: int) -> Image.Image:
        """Draw a frame, RGB of `size`."""


def write_mp4(frames: Frames, file: Path, fps: int, _loop: int, came: Callable[[], object]) -> None:
    """Write H.264 that plays everywhere: 4:2:0, and what a player wants to know first stands first.

    Args:
        frames: of even sides.
        file: that is written over; it needs a place where one can go back.
        fps: frames a second.
        came: called after each frame.

    Raises:
        OSError: it cannot be written.
        PictureError: a frame cannot be drawn.
    """
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    # an absolute path: FFmpeg would take others for protocols, such as "concat:"
    url, options = f"file:{file.absolute()}", {"movflags": "+faststart"}
    with av.open(url, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=H264)
        stream.width, stream.height = frames.size
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.color_range, codec.colorspace = ColorRange.MPEG, Colorspace.ITU709
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for number in range(frames.count):
            frame = av.VideoFrame.from_ndarray(np.asarray(frames.frame(number)), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(frame))
            came()
        container.mux(stream.encode(None))


class _LaterFrames(Image.Image):
    """All frames but the first as Pillow takes an animation: one at a time."""

    def __init__(self, frames: Frames, came: Callable[[], object]) -> None:
        super().__init__()
        self._mode, self._size = "RGB", frames.size
        self.n_frames = frames.count - 1
        self._frames, self._came = frames, came

    def seek(self, frame: int) -> None:
        """Take up a frame."""
        self.im = self._frames.frame(frame + 1).im
        self._came()


def write_webp(frames: Frames, file: Path, fps: int, loop: int, came: Callable[[], object]) -> None:
    """Write an animated WebP; see `write_mp4`.

    Args:
        loop: how often it plays, 0 for ever.
    """
    first = frames.frame(0)
    came()
    with file.open("wb") as stream:
        first.save(
            stream,
            "WEBP",
            save_all=True,
            append_images=[_LaterFrames(frames, came)],
            duration=list(durations(frames.count, fps, 1)),
            loop=loop,
            **WEBP,
        )


def write_gif(frames: Frames, file: Path, fps: int, loop: int, came: Callable[[], object]) -> None:
    """Write an animated GIF with one palette for all of it: with a palette a frame, colours flicker.

    Args:
        loop: how often it plays, 0 for ever. The others: see `write_mp4`.
    """
    palette = film_palette(frames)
    info = {"duration": 10} if loop == 1 else {"duration": 10, "loop": max(loop - 1, 0)}
    header, _ = GifImagePlugin.getheader(palette.copy().resize(frames.size), info=info)
    with file.open("wb") as stream:
        stream.write(b"".join(header))
        for number, duration in enumerate(durations(frames.count, fps, 10)):
            frame = frames.frame(number).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
            stream.write(b"".join(GifImagePlugin.getdata(frame, duration=duration)))
            came()
        stream.write(b";")


def durations(count: int, fps: int, unit: int) -> Iterator[int]:
    """Yield how long each frame is shown, in milliseconds.

    Args:
        count: number of frames.
        fps: frames a second.
        unit: milliseconds that the format counts in; no rounding adds up.
    """
    ends = [round(number * 1000 / (fps * unit)) * unit for number in range(count + 1)]
    for start, end in pairwise(ends):
        yield end - start


def film_palette(frames: Frames) -> Image.Image:
    """Return an image of mode P that holds 256 colours for a whole film.

    Colours count by the square root of how often they are there: most of a film is of few, and the others,
    such as the green of an eye in fur, are what one looks at.
    """
    numbers = np.unique(np.linspace(0, frames.count - 1, FRAMES_OF_PALETTE).astype(int))
    small = [frames.frame(int(number)).resize((SIDE_OF_PALETTE, SIDE_OF_PALETTE), 0) for number in numbers]
    seen = np.concatenate([np.asarray(one).reshape(-1, 3) for one in small])
    # shades that nobody tells apart are one
    colours, counts = np.unique(seen >> 2, axis=0, return_counts=True)
    weighted = np.repeat(colours * 4 + 2, np.ceil(np.sqrt(counts)).astype(int), axis=0)
    return Image.fromarray(weighted.astype(np.uint8)[np.newaxis]).quantize(256, Image.Quantize.MEDIANCUT)


WRITERS: dict[str, Callable[[Frames, Path, int, int, Callable[[], object]], None]] = {
    "mp4": write_mp4,
    "webp": write_webp,
    "gif": write_gif,
}
