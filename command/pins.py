"""The packages that are installed, against the pins: the requirements files are the one place of these.

Needs nothing but Python itself: packages that are missing are what it is to tell.
"""

import importlib.metadata
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMON = ROOT / "requirements-common.txt"
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*([^;#]*)(;[^#]*)?(#.*)?")
_CLAUSE = re.compile(r"\s*(==|>=|<=|!=|>|<)\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?\s*")
_COMPARE: dict[str, Callable[[int], bool]] = {
    "==": lambda order: order == 0,
    "!=": lambda order: order != 0,
    ">=": lambda order: order >= 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    "<": lambda order: order < 0,
}


@dataclass(frozen=True)
class Pin:
    """A package that the program wants.

    Attributes:
        name: as pip knows it.
        versions: that were tested, in pip's words: ``==2.4.6``, or a range; empty for any.
    """

    name: str
    versions: str

    @property
    def installed(self) -> str | None:
        """The version that is here; None where it is not installed."""
        return version_of(self.name)


def version_of(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pins(file: Path = COMMON) -> list[Pin]:
    """Read a requirements file; what holds on other systems than this one alone is left out."""
    return list(_pins(file.read_text(encoding="utf-8")))


def _pins(text: str) -> Iterator[Pin]:
    for line in text.splitlines():
        match = _REQUIREMENT.fullmatch(line.strip())
        if match is not None and (match[3] is None or _holds_here(match[3][1:])):
            yield Pin(match[1], match[2].replace(" ", ""))


def _holds_here(marker: str) -> bool:
    """Tell whether an environment marker holds; where nobody can tell, as if it did not."""
    try:
        from packaging.markers import InvalidMarker, Marker
    except ImportError:
        return False
    try:
        return Marker(marker.strip()).evaluate()
    except InvalidMarker:
        return False


def fits(version: str, versions: str) -> bool:
    """Tell whether a version is one of those that were tested.

    Args:
        version: as installed; what stands behind ``+`` names a build, and does not count.
        versions: as of a `Pin`.
    """
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    if release is None:
        return not versions
    numbers = _numbers(release[0])
    for clause in filter(None, versions.split(",")):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            return False
        wanted = _numbers(match[2])
        ours = numbers[: len(wanted)] if match[3] else numbers
        pairs = list(zip_longest(ours, wanted, fillvalue=0))
        order = next((a - b for a, b in pairs if a != b), 0)
        if not _COMPARE[match[1]](order):
            return False
    return True


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
