"""Which checkpoints are at hand, in ``ckpt/`` and the hub's cache; no weights are read, no network asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoints import catalogue
from checkpoints.catalogue import Checkpoint
from checkpoints.hub import cached_folder
from prompts import vlm_files
from sd3 import checkpoint as sd3_checkpoint


@dataclass(frozen=True)
class Choice:
    """What the program reads of a model in the hub's cache.

    Attributes:
        choose: picks the needed ones of the names of a repository's files.
        is_whole: whether a folder holds them all.
        check: of a folder or a hub name, by its headers; raises `InputError`.
    """

    choose: Callable[[Sequence[str]], list[str]]
    is_whole: Callable[[Path], bool]
    check: Callable[[str], object]


CHOICES = {
    catalogue.SD3.name: Choice(
        sd3_checkpoint.needed_files,
        sd3_checkpoint.is_whole,
        lambda name: sd3_checkpoint.check_sd3(name, None, None),
    ),
    catalogue.VLM.name: Choice(
        vlm_files.needed_files, vlm_files.is_whole, lambda name: vlm_files.check_vlm_folder(name, None)
    ),
}


def is_at_hand(checkpoint: Checkpoint) -> bool:
    """Tell whether every file of a checkpoint is there; not whether its content is right."""
    if checkpoint.in_ckpt:
        return not catalogue.missing_files(checkpoint)
    folder = cached_folder(checkpoint.repository)
    return folder is not None and CHOICES[checkpoint.name].is_whole(folder)
