"""What is remembered of this machine between runs, in ``$XDG_CACHE_HOME/chain-of-zoom`` (``~/.cache``).

Nothing depends on it: what cannot be read or written is found out again.
"""

import contextlib
import json
import logging
import os
import secrets
import threading
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MAX_BYTES = 2**24
_LOCK = threading.Lock()  # to read, change and write is one step for this process's threads


def cache_folder() -> Path:
    """Return where it is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chain-of-zoom"


def recall(file: str) -> dict[str, Any]:
    """Read what is remembered in a file; empty where there is nothing that can be read."""
    path = cache_folder() / file
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return {}
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(file: str, key: str, value: Any, most: int | None = None) -> None:
    """Add to a file, or replace what it has under the key.

    Args:
        file: its name.
        key, value: what JSON can hold.
        most: entries that are kept, the newest.
    """
    path = cache_folder() / file
    temporary = path.with_name(f"{file}.{secrets.token_hex(8)}")
    with _LOCK:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            known = recall(file)  # as late as can be: another run may have added to it
            known.pop(key, None)
            entries = [*known.items(), (key, value)]
            temporary.write_text(json.dumps(dict(entries[-most:] if most else entries)), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            logger.debug("%s: not written (%s)", path, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
