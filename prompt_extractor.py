"""What a step's picture shows, in words: the prompts that steer the SR backbone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL.Image import Image


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


class NullExtractor:
    """Says nothing: the user's words, or the empty prompt, steer the backbone."""

    def __call__(self, parents: Sequence[Image] | None, inputs: Sequence[Image]) -> Iterator[Prompt]:
        """Yield an empty prompt for each input, reading none of them."""
        for _ in range(len(inputs)):
            yield Prompt(text="", extractor="null")

    def describe(self) -> dict[str, object]:
        """Say what it is, for run.json."""
        return {"extractor": "null"}
