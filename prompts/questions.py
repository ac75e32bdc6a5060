"""What a VLM is asked: the same for a model here and behind a server.

The messages are Chain-of-Zoom's (arXiv 2505.18600, section 3.2, as its published code sends them): the
question is the *system* message, the user's message holds only the pictures.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from zoom.protocols import StepInput

LONGEST_CHAT = 100_000  # characters; Qwen's own is 300 long
QUESTION_ONE = "What is in this image? Give me a set of words."
QUESTION_TWO = (
    "The second image is a zoom-in of the first image. Based on this knowledge, "
    "what is in the second image? Give me a set of words."
)


def pictures_of(seen: "StepInput") -> "list[Image]":
    """Return the one or two pictures that the question about a step is about, in their order."""
    return [seen.sr_input] if seen.parent is None else [seen.parent, seen.sr_input]


def question(pictures: int) -> str:
    """Return the question about one or two pictures."""
    return QUESTION_ONE if pictures == 1 else QUESTION_TWO


def conversation(pictures: "Sequence[Image | None]") -> list[dict[str, Any]]:
    """Return the messages about one or two pictures, as chat templates take them.

    Args:
        pictures: RGB; None where only the text around them is wanted.
    """
    return [
        {"role": "system", "content": question(len(pictures))},
        {"role": "user", "content": [{"type": "image", "image": picture} for picture in pictures]},
    ]
