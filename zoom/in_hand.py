"""A picture at work: what of it is in memory between two steps."""

from dataclasses import dataclass, field

from PIL.Image import Image

from results.run_report import PictureRecord
from zoom.texture import Ancestor
from zoom.window import Route


@dataclass
class InHand:
    """A picture at work.

    Attributes:
        record: the picture's.
        route: the picture's.
        state: that the next step looks at.
        cuts: windows of the picture itself, by the number of the step that looks at them.
        ancestors: what is remembered of the states from 0 on, where texture is added.
        cells: what the strip shows of each state from 0 on.
        seen: state 0 and the last one, by number: for who shows them when the picture is done.
        sr_input: what the chain's first network enlarged, for the same; None where an earlier run did that.
        is_lost: a file of it could not be written.
        begins: what its record is to say when it begins; None where it goes on from an earlier run.
    """

    record: PictureRecord
    route: Route
    state: Image
    cuts: dict[int, Image] = field(default_factory=dict)
    ancestors: list[Ancestor] = field(default_factory=list)
    cells: list[Image] = field(default_factory=list)
    seen: dict[int, Image] = field(default_factory=dict)
    sr_input: Image | None = None
    is_lost: bool = False
    begins: PictureRecord | None = None

    @property
    def bytes(self) -> int:
        """What its pictures take in memory."""
        images = (self.state, *self.cuts.values(), *self.cells, *self.seen.values())
        return sum(map(bytes_of, {id(image): image for image in images}.values()))


def bytes_of(image: Image) -> int:
    """Return what an RGB picture takes in memory: Pillow spends four bytes on a pixel."""
    return 4 * image.width * image.height
