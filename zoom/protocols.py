"""Who takes part in the chain: two protocols, and what passes between them.

Chain-of-Zoom (arXiv 2505.18600, section 3) is model-agnostic: whatever meets `PromptExtractor` can say what a
crop shows, and whatever meets `SRBackbone` can enlarge it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL.Image import Image

from errors import PictureError

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as Pillow wants them


@dataclass(frozen=True)
class StepInput:
    """What one step of one picture looks at. All RGB.

    Attributes:
        crop: the window in its own pixels.
        sr_input: the crop enlarged with BICUBIC to the size of the state that is wanted.
        parent: where the question is about two pictures, the whole picture that the crop was cut from.
        first: no network has worked in this chain before: the crop shows what a camera saw.
    """

    crop: Image
    sr_input: Image
    parent: Image | None = None
    first: bool = False


@dataclass(frozen=True)
class Prompt:
    """One picture's prompt at one step, with where it came from.

    Attributes:
        text: the words that steer the backbone, before the user's own are joined (`join_prompt`).
        extractor: who said it: ``null``, ``dape``, ``vlm`` or ``file``.
        raw: the model's answer as it came, before it was cleaned; empty where no model spoke.
        note: why another extractor than the run's own had to answer; empty otherwise.
    """

    text: str
    extractor: str
    raw: str = ""
    note: str = ""


def join_prompt(extracted: str, user: str) -> str:
    """Join what an extractor said with the user's ``--prompt``, as the published code does.

    Both: ``"EXTRACTED, USER,"``; only one of them: that one as it is.
    """
    if extracted and user:
        return f"{extracted}, {user},"
    return extracted or user


class PromptExtractor(Protocol):
    """Says what pictures show."""

    def __call__(self, inputs: Sequence[StepInput]) -> Iterable[Prompt | PictureError]:
        """Yield a prompt for every input, in order.

        Args:
            inputs: the question is about ``sr_input``, and about ``parent`` where there is one; all of one
                size.
        """
        ...

    def describe(self) -> dict[str, object]:
        """Say what it is (JSON values): for run.json, and to tell runs of other settings apart."""
        ...


class SRBackbone(Protocol):
    """Makes a crop larger, with detail."""

    def __call__(
        self, inputs: Sequence[StepInput], prompts: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> Iterable[Image | PictureError]:
        """Yield an RGB image of the size of ``sr_input`` for every input, in order.

        Args:
            inputs: a network that enlarges takes ``crop``, one that repaints takes ``sr_input``. All SR
                inputs are of one size; crops may differ.
            prompts: the words that steer, of each input: one for the whole of it, or one for each of its
                `prompt_tiles`.
            seeds: of each input's own noise, below 2**63.
        """
        ...

    def prompt_tiles(self, size: tuple[int, int]) -> Sequence[Box]:
        """Return the parts of an SR input that prompts of their own can steer; one where it is not tiled.

        Args:
            size: width and height of the SR input.
        """
        ...

    def describe(self) -> dict[str, object]:
        """Say what it is (JSON values): for run.json, and to tell runs of other settings apart."""
        ...
