"""One gate around everything that reads what somebody else wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from errors import InputError, OutputError, PictureError

LARGEST = 2**20  # of whole numbers in a configuration; the largest real one is a vocabulary of 151,936
MOST_LAYERS = 128
LONGEST_LIST = 128
DEEPEST = 20


@contextmanager
def blaming(path: Path, way_out: str = "download it again") -> Iterator[None]:
    """Turn whatever a file's content makes a reader raise into one line with the file's name.

    For readers that are not ours (transformers, diffusers, torch, tokenizers) and fail in ways of their own;
    running out of memory is nobody's fault here, and passes.

    Raises:
        InputError: the body raised something that is no failure of this program's own.
    """
    try:
        yield
    except (InputError, OutputError, PictureError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error):
            raise
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: cannot be used ({type(error).__name__}{': ' if reason else ''}{reason}); {way_out}"
        ) from None


def check_configuration(config: dict[str, Any], path: Path) -> None:
    """Refuse numbers that no network has, before one is built from them: even without weights it takes time.

    Raises:
        InputError: names the first entry that is out of range.
    """

    def visit(value: object, name: str, depth: int) -> None:
        if isinstance(value, dict | list):
            if depth > DEEPEST or (isinstance(value, list) and len(value) > LONGEST_LIST):
                raise InputError(f"{path}: {name[:60]} is too deep or too long; download it again")
            entries = value.items() if isinstance(value, dict) else ((name, one) for one in value)
            for key, one in entries:
                visit(one, str(key), depth + 1)
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        least: float
        most: float
        least, most = (0, MOST_LAYERS) if _counts_layers(name) else (-LARGEST, LARGEST)
        if isinstance(value, float):
            least, most = -1e12, 1e12  # NaN is in no range
        good = least <= value <= most
        if not good:
            raise InputError(f"{path}: {name[:60]} is out of range; download it again")

    visit(config, "it", 0)


def _counts_layers(name: str) -> bool:
    return "layers" in name or name in ("depth", "depths")
