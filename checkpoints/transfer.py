"""Bytes over HTTP: broken transfers taken up again, a bounded number of tries, and errors in words.

requests carries them. The Hugging Face hub's client uses it as well: its errors are of the same kinds.
"""

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from errors import InputError

logger = logging.getLogger(__name__)
T = TypeVar("T")

TRIES = 5  # in a row that bring nothing
LONGEST_WAIT = 300  # seconds; a server that wants more is left alone
TIMEOUT = (10, 60)  # seconds: to connect, and for the next bytes
CHUNK = 2**20  # bytes
MOST_BYTES = 8 * 2**30  # of a file whose size nobody tells
PASSING = (408, 429, 500, 502, 503, 504)  # HTTP status codes of what may be over soon


class TransferError(Exception):
    """A file did not come as it should; the message says how."""


def root_of(error: BaseException) -> BaseException:
    """Return what really happened: the hub's client hides it behind "not in the cache"."""
    while type(error).__name__ == "LocalEntryNotFoundError" and error.__cause__ is not None:
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status code of an answer that was refused; None where none came."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


def seconds_of(retry_after: str | None) -> float | None:
    """Return how long a server wants to be left alone; None where it does not say.

    Args:
        retry_after: the header ``Retry-After``: seconds, or a date.
    """
    try:
        return None if retry_after is None else max(0.0, float(Retry().parse_retry_after(retry_after)))
    except (InvalidHeader, ValueError, OverflowError):  # a number of thousands of digits, a date of no year
        return None


def _retry_after(error: BaseException) -> float | None:
    response = getattr(error, "response", None)
    return None if response is None else seconds_of(response.headers.get("Retry-After"))


def _may_pass(error: BaseException) -> bool:
    if status_of(error) is not None:
        return status_of(error) in PASSING and (_retry_after(error) or 0) <= LONGEST_WAIT
    if isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError):
        return False
    kinds = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, kinds)


def patiently(attempt: Callable[[], T], came: Callable[[], int] = lambda: 0, tries: int = TRIES) -> T:
    """Do something over the network; where it breaks off in a way that may pass, wait and try again.

    Args:
        attempt: what to do. It takes up what an earlier attempt has left.
        came: how many bytes are here; an attempt that brought some does not count.
        tries: how many in a row may bring nothing.

    Raises:
        requests.RequestException, OSError: of the last attempt, or of one that no other would better.
    """
    failed = 0
    while True:
        before = came()
        try:
            return attempt()
        except OSError as error:  # requests' own errors are kinds of it
            cause = root_of(error)
            failed = 1 if came() > before else failed + 1
            if failed >= tries or not _may_pass(cause):
                raise cause from None
            asked = _retry_after(cause)
            wait = 2 ** (failed - 1) if asked is None else asked
            logger.info("%s; again in %.0f s", type(cause).__name__, wait)
            time.sleep(wait)


def size_of(url: str) -> int | None:
    """Ask a server how long a file is, in bytes; None where it does not say.

    Raises:
        requests.RequestException: no such file, or the server is out of reach.
    """
    with requests.head(
        url, headers={"Accept-Encoding": "identity"}, allow_redirects=True, timeout=TIMEOUT
    ) as answer:
        if answer.status_code in (405, 501):  # a mirror that only gives whole files
            return None
        answer.raise_for_status()
        length = answer.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None


def fetch_url(url: str, part: Path, size: int | None) -> None:
    """Fetch a file, from where an earlier attempt ended; what came stays in ``part`` whatever happens.

    Args:
        url: of the file.
        part: where it is gathered.
        size: in bytes, as far as it is known.

    Raises:
        requests.RequestException: the server refuses, or the connection broke.
        TransferError: more comes than the file has.
        OSError: it cannot be written.
    """
    start = part.stat().st_size if part.exists() else 0
    if size is not None and start == size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # longer than the file: not its beginning
            part.unlink()
            raise requests.ConnectionError("what was here is no beginning of it")
        answer.raise_for_status()
        goes_on = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {start}-"
        )
        left = (MOST_BYTES if size is None else size) - (start if goes_on else 0)
        with part.open("ab" if goes_on else "wb") as stream:
            for chunk in answer.iter_content(CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise TransferError("more came than the file has")
                stream.write(chunk)


def explain(error: BaseException, page: str, on_hub: bool) -> str:
    """Say in one sentence why a file did not come, and the way out.

    Args:
        error: of `patiently`, `fetch_url` or the hub's client.
        page: where its publisher shows it.
        on_hub: whether the Hugging Face hub keeps it.
    """
    error, status = root_of(error), status_of(error)
    if isinstance(error, TransferError | InputError):
        return str(error)
    if type(error).__name__ == "GatedRepoError":
        return (
            f"gated: accept its terms at {page}, logged in there; then log in here (hf auth login) with a "
            "token of that account, and run the same command again"
        )
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set: unset it to fetch from the hub"
    if status == 401:
        return (
            f"not open to everybody, or not there any more (401): look at {page}, and log in (hf auth login)"
            if on_hub
            else f"wants a login (401): look at {page}"
        )
    if status == 403:
        return f"refused (403): look at {page} for who may have it" + (
            ", and log in as somebody who may (hf auth login)" if on_hub else ""
        )
    if status in (404, 410):
        return f"not there any more ({status}): look at {page}, or ask somebody who has it (--from)"
    if status == 429:
        wait = _retry_after(error)
        minutes = "" if wait is None else f" in {max(1, round(wait / 60))} minutes"
        return f"asked too often (429): run the same command again{minutes}; it goes on where it was"
    if status is not None and status >= 500:
        return f"the server is out of order ({status}): run the same command later; it goes on where it was"
    if status is not None:
        return f"refused ({status}): look at {page}"
    if isinstance(error, requests.RequestException):
        mirror = "HF_ENDPOINT" if on_hub else "--github_mirror"
        return (
            f"out of reach: check the network, or name a mirror ({mirror}); then "
            "run the same command again, it goes on where it was"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: make room and run the same command again; it goes on where it was"
    return f"did not come ({type(error).__name__}: {error}): run the same command again"
