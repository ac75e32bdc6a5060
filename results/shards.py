"""Shards: one folder of pictures shared out among several processes, each with a report of its own.

Which shard a picture falls to depends on its label alone, so that no process need ask another on any machine.
A shard's report is OUT/shards/K-of-N/run.json; `results.joining` makes one of them.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = "shards"
MOST = 100_000
_TAG = re.compile(r"([0-9]{1,6})-of-([0-9]{1,6})")


@dataclass(frozen=True)
class Shard:
    """One of several processes that share out a folder of pictures.

    Attributes:
        number: from 0.
        count: of all of them, at least 2.
    """

    number: int
    count: int

    @property
    def tag(self) -> str:
        """What its files and folders are called."""
        return f"{self.number}-of-{self.count}"

    @classmethod
    def tagged(cls, tag: str) -> "Shard | None":
        """Return the shard of a tag; None where it is none."""
        match = _TAG.fullmatch(tag)
        if match is None or not int(match[1]) < int(match[2]):
            return None
        return cls(int(match[1]), int(match[2]))

    def has(self, picture: str) -> bool:
        """Tell whether a picture falls to it, with all its spots.

        Args:
            picture: its label.
        """
        digest = hashlib.sha256(picture.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number


def report_of(root: Path, shard: Shard | None) -> Path:
    """Return where the report of a shard is, or of a run that is none."""
    return root / "run.json" if shard is None else root / FOLDER / shard.tag / "run.json"


def shards_in(root: Path) -> list[Shard]:
    """Return the shards that have left something in a folder, in order."""
    folder = root / FOLDER
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    found = [shard for shard in map(Shard.tagged, names) if shard is not None]
    return sorted(found, key=lambda shard: (shard.count, shard.number))
