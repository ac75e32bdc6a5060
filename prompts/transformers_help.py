"""What every use of transformers' models here shares."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from checkpoints.folders import read_json
from errors import InputError


def chat_template_of(tokenizer: Any, folder: Path) -> str:
    """Return a model's chat template; some revisions keep it in a file of the processor's.

    Raises:
        InputError: there is none.
    """
    template, path = tokenizer.chat_template, folder / "chat_template.json"
    if template is None and path.is_file():
        template = read_json(path).get("chat_template")
    if not isinstance(template, str):
        raise InputError(f"{folder}: no chat template in it; download the folder again")
    return template


def padded_with_own_token(ids: Sequence[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Pad rows of token ids on the left; return them and their masks.

    Padding repeats the row's own last token, which stands for no picture: a repetition penalty then sees the
    same set of tokens as without padding, and the answer does not depend on the neighbours.
    """
    length = max(map(len, ids))
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in ids]
    return [[row[-1]] * (length - len(row)) + row for row in ids], mask


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' warnings and progress bars back; what they tell is checked by the caller."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
