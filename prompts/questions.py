"""What a VLM is asked, and which of its answers are prompts: the same for a model here and behind a server.

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


def one_line(answer: str) -> str:
    """Strip an answer and join its lines and spaces into single spaces."""
    return " ".join(answer.split())


def answer_fault(answer: str) -> str:
    """Say why an answer cannot be a prompt; empty where it can.

    An answer is no prompt where it has no letter and no digit in it, or where it ran away: its last three
    quarters or more are one piece said over and over, three times or more.

    >>> answer_fault("fur, whiskers, grey cat, grey fur")
    ''
    >>> answer_fault("fur, fur, fur, fur, fur, fur, fur,")
    'only repetition'
    """
    text = one_line(answer)
    if not any(character.isalnum() for character in text):
        return "empty"
    for period in range(1, len(text) // 3 + 1):
        repeated = period
        while repeated < len(text) and text[-1 - repeated] == text[period - 1 - repeated]:
            repeated += 1
        if repeated >= max(0.75 * len(text), 3 * period):
            return "only repetition"
    return ""
