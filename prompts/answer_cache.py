"""Answers of servers kept on disk, by what was asked: the same question is not paid for twice.

One SQLite file in the user's cache, which several processes and threads may use at once. It holds digests and
answers, no picture. Whatever is wrong with it costs one warning, and the answers that were in it.
"""

import contextlib
import hashlib
import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from checkpoints.remembered import cache_folder
from prompts.vlm_server import LONGEST_ANSWER, tidied

logger = logging.getLogger(__name__)

MOST_ANSWERS = 100_000  # 20 MB of usual ones; the oldest go first
BUSY_SECONDS = 10.0  # how long another process may hold the file
FAULTS = (OSError, ValueError, sqlite3.Error)  # damaged text is a ValueError

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers"
    " (number INTEGER PRIMARY KEY, question TEXT UNIQUE, answer TEXT, seal TEXT)"
)
_PUT = "INSERT OR REPLACE INTO answers (question, answer, seal) VALUES (?, ?, ?)"
_KEEP = "DELETE FROM answers WHERE number <= (SELECT max(number) FROM answers) - ?"


def users_cache() -> Path:
    """Return the file where answers are kept for all runs of a user's."""
    return cache_folder() / "vlm_answers.sqlite"


def digest_of_question(about: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what a question is known by.

    Args:
        about: whatever else decides the answer (JSON values).
        messages: as `prompts.vlm_server.VlmServer.ask` takes them; of pictures their pixels count.
    """

    def plain(part: object) -> object:
        if not hasattr(part, "tobytes"):
            raise TypeError(f"{type(part).__name__} is no part of a question")
        return [part.mode, part.size, hashlib.sha256(part.tobytes()).hexdigest()]  # type: ignore[attr-defined]

    text = json.dumps([about, list(messages)], default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerCache:
    """Keeps answers in a file; without one where it cannot be used.

    Args:
        file: made where it is not there, with its folder.
        most: answers that it holds.
    """

    def __init__(self, file: Path, most: int = MOST_ANSWERS) -> None:
        self.file, self.most = file, most
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if file.exists() and not file.is_file():
                raise OSError("not a regular file")
            connection = sqlite3.connect(file, timeout=BUSY_SECONDS, check_same_thread=False)
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute(_SCHEMA)
            self._connection = connection
        except FAULTS as error:
            self._give_up(error)

    def get(self, question: str) -> str | None:
        """Return the answer to a question, by its digest; None where there is none."""
        rows = self._execute(("SELECT answer, seal FROM answers WHERE question = ?", question))
        answer, seal = rows[0] if rows else (None, None)
        good = isinstance(answer, str) and seal == _seal(question, answer) and answer == tidied(answer)
        return answer if good else None

    def put(self, question: str, answer: str) -> None:
        """Keep the answer to a question; the oldest go where there are too many."""
        if len(answer) <= LONGEST_ANSWER:
            self._execute((_PUT, question, answer, _seal(question, answer)), (_KEEP, self.most))

    def _execute(self, *statements: tuple[object, ...]) -> list[Any]:
        """Do all of them or none; return the rows of the last."""
        rows: list[Any] = []
        with self._lock:
            if self._connection is None:
                return rows
            try:
                with self._connection:
                    for statement, *values in statements:
                        rows = self._connection.execute(str(statement), values).fetchall()
            except FAULTS as error:
                self._give_up(error)
                return []
        return rows

    def _give_up(self, error: Exception) -> None:
        logger.warning(
            "%s: answers are not kept (%s); where it is damaged, delete it",
            self.file,
            " ".join(str(error).split()),
        )
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None


def _seal(question: str, answer: str) -> str:
    """Return what damage within an answer is seen by: SQLite itself looks at its own structure only."""
    return hashlib.sha256(f"{question}\n{answer}".encode()).hexdigest()[:16]
