"""The files of checkpoints, one by one: where each comes from, what it must be, how it gets to its place.

A file of ``ckpt/`` is gathered in ``ckpt/.incoming``, compared with its SHA-256, and then put into its
place. A file of a model goes into the Hugging Face hub's cache by the hub's own client, and is compared right
after: what is not compared yet is compared by the next run.
"""

import contextlib
import enum
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkpoints import places
from checkpoints.catalogue import GITHUB, HUB, Checkpoint, CheckpointFile
from checkpoints.hashing import blob_name, digest_of, note_sha256
from checkpoints.hub import cached_folder
from checkpoints.transfer import TransferError, fetch_url, patiently, size_of, status_of

GITHUB_URL = "https://github.com"
ASKS = 3  # times that a server is asked about a file


class State(enum.Enum):
    """What is at a file's place."""

    RIGHT = "as published"
    WRONG = "not the published file"
    MISSING = "missing"
    UNKNOWN = "there, its hash not known"


@dataclass(frozen=True)
class WantedFile:
    """One file of a checkpoint.

    Attributes:
        checkpoint: that it is of.
        path: in its repository.
        place: where it goes.
        digest: SHA-256, or git's SHA-1 of small files on the hub; None where nobody tells.
        size: in bytes; None where nobody tells.
    """

    checkpoint: Checkpoint
    path: str
    place: Path
    digest: str | None
    size: int | None

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.checkpoint.repository}/{self.path}"

    def state(self, anew: bool = False) -> State:
        """Compare what is at its place with what it must be.

        Args:
            anew: whether a large file is read although it was compared before.

        Raises:
            OSError: it cannot be read.
        """
        if not self.place.is_file():
            return State.MISSING
        if self.digest is None:
            return State.UNKNOWN
        return State.RIGHT if digest_of(self.place, self.digest, anew) == self.digest else State.WRONG

    def came(self) -> int:
        """Return how many of its bytes are here."""
        return self.place.stat().st_size if self.place.is_file() else _size_of_all(self._parts())

    def fetch(self) -> None:
        """Bring the file to its place, as published.

        Raises:
            requests.RequestException, TransferError, OSError: see `checkpoints.transfer.explain`.
        """
        resumed = self.came() > 0
        while True:
            try:
                patiently(self._transfer, self.came)
                self._settle()
                return
            except TransferError:
                self.discard()
                if not resumed:
                    raise
                resumed = False  # what was here from before may have been what is wrong

    def discard(self) -> None:
        """Remove what has come of it, which is wrong."""
        raise NotImplementedError

    def _refuse_wrong(self, file: Path) -> None:
        if self.digest is None:
            return
        found = digest_of(file, self.digest)
        if found != self.digest:
            raise TransferError(
                f"what came is not the published file (its hash begins with {found[:12]}, not "
                f"{self.digest[:12]}) and was thrown away: try another network or mirror"
            )

    def _transfer(self) -> None:
        raise NotImplementedError

    def _parts(self) -> list[Path]:
        raise NotImplementedError

    def _settle(self) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class CkptFile(WantedFile):
    """A file that goes into ``ckpt/``.

    Attributes:
        url: where GitHub has it; empty for a file of the hub.
    """

    url: str = ""

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.place.relative_to(places.CKPT.parent).as_posix()

    @property
    def _incoming(self) -> Path:
        return places.INCOMING / str(self.digest)[:16]

    @property
    def _part(self) -> Path:
        return self._incoming / self.path if not self.url else self._incoming / "part"

    def _parts(self) -> list[Path]:
        parts = [self._part]
        with contextlib.suppress(OSError):  # the folder is removed meanwhile, by the thread that fetches
            # the hub's client gathers a file under a name of its own
            parts += self._incoming.rglob("*.incomplete")
        return parts

    def discard(self) -> None:
        """Remove what has come of it, which is wrong."""
        remove_folder(self._incoming)

    def _transfer(self) -> None:
        self._incoming.mkdir(parents=True, exist_ok=True)
        if self.url:
            fetch_url(self.url, self._part, self.size)
        else:
            _from_hub(self.checkpoint, self.path, self._incoming)

    def _settle(self) -> None:
        self._refuse_wrong(self._part)
        put_into_place(self._part, self.place)
        note_sha256(self.place, str(self.digest))
        remove_folder(self._incoming)


@dataclass(frozen=True)
class CachedFile(WantedFile):
    """A file of a model that the hub's client keeps in its own cache."""

    def _blob(self) -> Path:
        return self.place.parents[1 + self.path.count("/")].parent / "blobs" / str(self.digest)

    def _parts(self) -> list[Path]:
        return [self._blob().with_name(f"{self.digest}.incomplete")]

    def discard(self) -> None:
        """Remove what has come of it, which is wrong."""
        for path in (self.place.resolve(), self.place, *self._parts()):
            path.unlink(missing_ok=True)

    def _transfer(self) -> None:
        _from_hub(self.checkpoint, self.path)

    def _settle(self) -> None:
        self._refuse_wrong(self.place)


def _from_hub(checkpoint: Checkpoint, path: str, folder: Path | None = None) -> None:
    """Let the hub's client fetch a file, into a folder or into its cache; it takes up what it left there."""
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(checkpoint.repository, path, revision=checkpoint.revision, local_dir=folder)
    except OSError as error:
        if status_of(error) == 416 or "Consistency check failed" in str(error):
            raise TransferError("what came is longer or shorter than the published file") from None
        raise


def put_into_place(file: Path, place: Path) -> None:
    """Move a file to where it belongs, on the same disk; nobody ever sees a part of it.

    Raises:
        OSError: it cannot be.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    file.replace(place)


def remove_folder(folder: Path) -> None:
    """Remove a folder of what was gathered, and the one it is in when nothing else is there."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _size_of_all(files: Sequence[Path]) -> int:
    sizes = 0
    for file in files:
        with contextlib.suppress(OSError):  # put into its place meanwhile
            sizes += file.stat().st_size
    return sizes


def ckpt_file(checkpoint: Checkpoint, file: CheckpointFile, mirror: str | None = None) -> CkptFile:
    """Describe a file of ``ckpt/``; asks nobody.

    Args:
        checkpoint: that it is of.
        file: of the catalogue.
        mirror: what stands in for https://github.com; None for itself.
    """
    url = ""
    if checkpoint.host == GITHUB:  # GitHub's /raw/ leads to files of Git LFS as well
        repository = f"{(mirror or GITHUB_URL).rstrip('/')}/{checkpoint.repository}"
        url = f"{repository}/raw/{checkpoint.revision}/{file.path}"
    return CkptFile(checkpoint, file.path, file.place, file.sha256, file.size, url)


def with_size(file: WantedFile) -> WantedFile:
    """Ask how long a file is, where the catalogue does not know.

    Raises:
        requests.RequestException: see `checkpoints.transfer.explain`.
    """
    if file.size is not None or not isinstance(file, CkptFile) or not file.url:
        return file
    url = file.url
    return replace(file, size=patiently(lambda: size_of(url), tries=ASKS))


def cached_files(checkpoint: Checkpoint, choose: Callable[[Sequence[str]], list[str]]) -> list[CachedFile]:
    """Describe the needed files of a model as the hub's cache has them; asks nobody.

    Their digests are those that the cache names them by; on systems without symbolic links it names none.
    """
    folder = cached_folder(checkpoint.repository)
    if folder is None:
        return []
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        CachedFile(checkpoint, name, folder / name, blob_name(folder / name), (folder / name).stat().st_size)
        for name in choose(names)
    ]


def files_on_hub(checkpoint: Checkpoint, choose: Callable[[Sequence[str]], list[str]]) -> list[CachedFile]:
    """Ask the hub for the needed files of a model, with their sizes and digests.

    Raises:
        requests.RequestException, OSError: see `checkpoints.transfer.explain`.
        TransferError: what it needs is not in the repository.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    assert checkpoint.host == HUB

    def ask() -> Any:
        return HfApi().model_info(checkpoint.repository, revision=checkpoint.revision, files_metadata=True)

    siblings = {one.rfilename: one for one in patiently(ask, tries=ASKS).siblings or ()}
    wanted = [siblings[name] for name in choose(list(siblings))]
    if not wanted:
        raise TransferError(f"none of its files is there any more: look at {checkpoint.page}")
    snapshot = Path(
        constants.HF_HUB_CACHE, repo_folder_name(repo_id=checkpoint.repository, repo_type="model")
    )
    snapshot = snapshot / "snapshots" / checkpoint.revision
    return [
        CachedFile(
            checkpoint,
            one.rfilename,
            snapshot / one.rfilename,
            one.lfs.sha256 if one.lfs is not None else one.blob_id,
            one.size,
        )
        for one in wanted
    ]
