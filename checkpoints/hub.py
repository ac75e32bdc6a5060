"""Models named as on the Hugging Face hub: found in its cache, fetched only where a caller says so."""

import errno
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from checkpoints import catalogue
from errors import InputError

logger = logging.getLogger(__name__)

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # not ./folder
SD3_NAME, VLM_NAME = catalogue.SD3.repository, catalogue.VLM.repository
# These are taken at a revision that is known to work; other models as the hub has them today.
KNOWN = {model.repository: model for model in (catalogue.SD3, catalogue.VLM)}


def find_model(
    model: str,
    choose: Callable[[Sequence[str]], list[str]],
    is_whole: Callable[[Path], bool],
    download: bool = False,
    not_a_file: str = "a file; give a folder or a hub name (OWNER/NAME)",
) -> Path:
    """Return the folder of a model.

    Args:
        model: a folder, or a name on the hub.
        choose: picks, of the names of a repository's files, those that are needed.
        is_whole: whether a folder of the hub's cache holds all that is needed; then the hub is not asked.
        download: whether what the cache lacks is fetched. Without it nothing is asked of the network.
        not_a_file: what to say where ``model`` is a file.

    Raises:
        InputError: no such folder, and the hub cannot give it.
    """
    try:
        path = Path(model).expanduser()
    except RuntimeError:  # ~ of nobody here
        path = Path(model)
    if path.is_dir():
        return path
    if path.is_file():
        raise InputError(f"{path}: {not_a_file}")
    if not HUB_NAME.fullmatch(model):
        raise InputError(f"{path}: no such folder, and not a hub name (OWNER/NAME)")
    cached = cached_folder(model)
    if cached is not None and (is_whole(cached) or not download):
        return cached
    if not download:
        raise InputError(f"{model}: no such folder here, and not in the hub's cache; {_way_out(model)}")
    return _fetch(model, choose, cached)


def revision_of(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache; None for a folder of one's own."""
    return folder.name if folder.parent.name == "snapshots" else None


def cached_folder(name: str) -> Path | None:
    """Return the folder of a model in the hub's cache, whole or not; None where it holds nothing of it.

    Raises:
        InputError: not a name that the hub accepts.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, revision=_revision(name), local_files_only=True))
    except HFValidationError:
        raise InputError(f"{name}: neither a folder here nor a model on the Hugging Face hub") from None
    except OSError:  # not in the cache: huggingface_hub's own errors are kinds of it
        return None


def _revision(name: str) -> str | None:
    return KNOWN[name].revision if name in KNOWN else None


def _way_out(name: str) -> str:
    if name in KNOWN:
        return f"{catalogue.how_to_get([KNOWN[name]])} fetches it, or give a folder"
    return "give a folder or go online"


def _fetch(name: str, choose: Callable[[Sequence[str]], list[str]], cached: Path | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    revision = _revision(name)
    try:
        wanted = choose(HfApi().list_repo_files(name, revision=revision))
        logger.info("fetching %d files of %s from the Hugging Face hub", len(wanted), name)
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except GatedRepoError:
        raise InputError(
            f"{name}: a gated model: accept its licence at https://huggingface.co/{name} and log in"
            " (hf auth login)"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(f"{name}: neither a folder here nor a model on the Hugging Face hub") from None
    except (HfHubHTTPError, OSError) as error:  # offline is a kind of OSError
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{name}: no room for it in the hub's cache; make room, or set HF_HOME"
            ) from None
        if cached is not None:  # not known to be whole: what is missing is named when it is looked at
            return cached
        raise InputError(
            f"{name}: no such folder here, and the hub is out of reach: check the network; {_way_out(name)}"
        ) from None
