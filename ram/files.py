"""RAM's four files: what they must hold, judged before anything heavy is imported or loaded.

Facts: the released ``ram_swin_large_14m.pth`` (huggingface.co/xinyu1205/recognize_anything_model),
``DAPE.pth`` (SeeSR, arXiv 2311.16518, as Chain-of-Zoom ships it) and RAM's two tag files
(github.com/xinyu1205/recognize-anything, ``ram/data``). Sizes are read from the checkpoint's shapes.
"""

import logging
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from checkpoints.catalogue import RAM_LISTS
from checkpoints.folders import Shape, refuse_differences
from checkpoints.gate import blaming
from checkpoints.hashing import checkpoint_sha256, sha256_of
from checkpoints.headers import TensorInfo, torch_file_info
from errors import InputError

logger = logging.getLogger(__name__)

RELEASED_TAGS = 4585
RELEASED_TAG_LIST, RELEASED_THRESHOLDS = (file.sha256 for file in RAM_LISTS.files)

# Parts of a RAM checkpoint that tagging does not need: the caption decoder, the caption's own
# encoder, and tables that follow from the window size.
RAM_UNUSED = re.compile(r"(tag_encoder|text_decoder)\..*|.*\.(relative_position_index|attn_mask)")
# DAPE's updates of the parts that tagging does not need.
_DAPE_UNUSED = re.compile(r"(tag_encoder|text_decoder)\..*\.lora_[AB]")


@dataclass(frozen=True)
class RamSize:
    """The sizes of one RAM network. Released: Swin-L with 4585 tags."""

    embed_dim: int  # channels of Swin's first stage (192); each further stage has twice as many
    depths: tuple[int, ...]  # blocks of each stage (2, 2, 18, 2)
    heads: tuple[int, ...]  # attention heads of each stage (6, 12, 24, 48)
    window: int  # side of an attention window, in tokens (12)
    tags: int  # how many tags it knows (4585)
    label_dim: int  # width of a tag's CLIP text embedding, and of the projected picture tokens (512)
    head_layers: int  # cross-attention layers of the tagging head (2)
    hidden: int  # width of the tagging head (768)
    feed_forward: int  # width inside the head's feed-forward part (3072)

    @property
    def image_side(self) -> int:
        """Side of the square picture it reads, in pixels: the last stage (1/32) is one window."""
        return 32 * self.window

    @property
    def features(self) -> int:
        """Channels of Swin's last stage."""
        return self.embed_dim * 2 ** (len(self.depths) - 1)


def current_name(name: str) -> str:
    """Give a tensor's name in today's RAM; the first releases called the tagging head ``vision_multi``."""
    return name.replace("vision_multi.", "tagging_head.", 1)


def read_ram_size(path: Path) -> tuple[RamSize, dict[str, Shape]]:
    """Read a network's sizes from a RAM file, and the shapes of its tensors by today's names.

    Raises:
        InputError: no PyTorch file, or not RAM's.
    """
    content = torch_file_info(path)
    shapes = _shapes(content.get("model") if isinstance(content, dict) else None)
    shapes = {current_name(name): shape for name, shape in shapes.items()}
    blocks = re.compile(r"visual_encoder\.layers\.(\d)\.blocks\.(\d{1,3})\.norm1\.weight")
    found = [(int(m[1]), int(m[2])) for m in map(blocks.fullmatch, shapes) if m]
    stages = range(1 + max((stage for stage, _ in found), default=-1))
    layers = re.compile(r"tagging_head\.encoder\.layer\.(\d{1,2})\.intermediate\.dense\.weight")
    try:
        tables = [
            shapes[f"visual_encoder.layers.{stage}.blocks.0.attn.relative_position_bias_table"]
            for stage in stages
        ]
        feed_forward, hidden = shapes["tagging_head.encoder.layer.0.intermediate.dense.weight"]
        size = RamSize(
            embed_dim=shapes["visual_encoder.patch_embed.proj.weight"][0],
            depths=tuple(1 + max(block for at, block in found if at == stage) for stage in stages),
            heads=tuple(table[1] for table in tables),
            window=(math.isqrt(tables[0][0]) + 1) // 2,
            tags=shapes["label_embed"][0],
            label_dim=shapes["label_embed"][1],
            head_layers=sum(bool(layers.fullmatch(name)) for name in shapes),
            hidden=hidden,
            feed_forward=feed_forward,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"{path}: not a RAM checkpoint (its network is not under 'model'): give ram_swin_large_14m.pth"
        ) from error
    # no network is built from sizes that none has
    widths = (size.features, size.label_dim, size.hidden, size.feed_forward)
    if not (1 <= size.window <= 64 and 1 <= size.tags <= 10**6 and all(1 <= one <= 2**16 for one in widths)):
        raise InputError(f"{path}: not a RAM checkpoint (its sizes are out of range); fetch it again")
    return size, shapes


def dape_targets(size: RamSize) -> dict[str, tuple[list[str], Shape]]:
    """Which of DAPE's LoRA pairs change which of RAM's weights.

    Returns:
        For each changed tensor of RAM (``*.weight``) the prefixes of the pairs that are added to it, and its
        shape. Two for the tagging head: the published code ties ``tag_encoder``'s cross-attention to it, so
        updates of both land in the one weight.
    """
    targets: dict[str, tuple[list[str], Shape]] = {}
    for stage, depth in enumerate(size.depths):
        width = size.embed_dim * 2**stage
        for block in range(depth):
            name = f"visual_encoder.layers.{stage}.blocks.{block}.attn.qkv"
            targets[f"{name}.weight"] = [name], (3 * width, width)
    for layer in range(size.head_layers):
        for part, inputs in (("query", size.hidden), ("key", size.label_dim)):
            name = f"encoder.layer.{layer}.crossattention.self.{part}"
            pairs = [f"tagging_head.{name}", f"tag_encoder.{name}"]
            targets[f"tagging_head.{name}.weight"] = pairs, (size.hidden, inputs)
    return targets


def _check_dape(path: Path, size: RamSize) -> None:
    """Check that a DAPE file's pairs are whole and made for a RAM of this size; InputError where not."""
    shapes = _shapes(torch_file_info(path))
    first = shapes.get("visual_encoder.layers.0.blocks.0.attn.qkv.lora_B", ())
    rank = first[-1] if first else 0
    needed: dict[str, Shape] = {}
    for pairs, (outputs, inputs) in dape_targets(size).values():
        for pair in pairs:
            if pair.endswith(".qkv"):  # one pair for query and one for value, stacked; key has none
                needed[f"{pair}.lora_A"] = (2 * rank, inputs)
                needed[f"{pair}.lora_B"] = (2 * outputs // 3, rank)
            else:
                needed[f"{pair}.lora_A"] = (rank, inputs)
                needed[f"{pair}.lora_B"] = (outputs, rank)
    refuse_differences(
        f"{path}: not a DAPE file for this RAM",
        shapes,
        needed,
        ignored=[name for name in shapes if _DAPE_UNUSED.fullmatch(name)],
        way_out="give the DAPE.pth that fits it",
    )


def read_tags(path: Path, count: int) -> list[str]:
    """Read the tag list: one tag a line, UTF-8, in the order of the network's outputs.

    Raises:
        InputError: the file is missing, not text, has an empty line, or not ``count`` tags.
    """
    tags = _read_lines(path, count, "tags")
    if "" in tags:
        raise InputError(f"{path}: line {tags.index('') + 1} is empty, but every line must name a tag")
    return tags


def read_thresholds(path: Path, count: int) -> list[float]:
    """Read the thresholds in [0, 1] that a tag's probability must exceed: one a line, in tag order.

    Raises:
        InputError: the file is missing, not text, holds something that is no number from 0 to 1, or
            not ``count`` of them.
    """
    thresholds = []
    for number, line in enumerate(_read_lines(path, count, "thresholds"), start=1):
        try:
            value = float(line)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise InputError(f"{path}: line {number} ({line!r}) is not a threshold between 0 and 1")
        thresholds.append(value)
    return thresholds


@dataclass(frozen=True)
class RamFiles:
    """A tagger's four files, checked as far as can be known without reading a weight.

    Attributes:
        ram: RAM's weights.
        dape: DAPE, or None for plain RAM.
        lists: the tag list and the thresholds.
        size: of the network.
        shapes: of RAM's tensors, by today's names.
        tags: what the network's outputs mean, in order.
        thresholds: what a tag's probability must exceed.
    """

    ram: Path
    dape: Path | None
    lists: tuple[Path, Path]
    size: RamSize
    shapes: dict[str, Shape] = field(repr=False)
    tags: list[str] = field(repr=False)
    thresholds: list[float] = field(repr=False)

    def describe(self) -> dict[str, object]:
        """Identify the files by content and not by place, for run.json.

        Raises:
            InputError: a file cannot be read any more.
        """
        files = {"ram": self.ram, "dape": self.dape, "tags": self.lists[0], "thresholds": self.lists[1]}
        try:
            return {
                name: path and {"file": path.name, "sha256": checkpoint_sha256(path)}
                for name, path in files.items()
            }
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read any more ({error.strerror})") from None


def check_ram_files(ram: Path, dape: Path | None, tags_path: Path, thresholds_path: Path) -> RamFiles:
    """Check RAM's files as far as can be known from headers, in well under a second, without torch.

    Logs a warning where DAPE is not given (plain RAM then tags), or a list is not the released one. Whether
    RAM is whole, `ram.model.build_tagger` tells, which knows the network.

    Raises:
        InputError: a file is missing, broken, or does not fit the others.
    """
    with blaming(ram):
        size, shapes = read_ram_size(ram)
    if dape is None:
        logger.warning("no DAPE given: plain RAM tags the pictures (--ram_ft_path DAPE.pth for DAPE)")
    else:
        with blaming(dape):
            _check_dape(dape, size)
    tags, thresholds = read_tags(tags_path, size.tags), read_thresholds(thresholds_path, size.tags)
    for path, released in ((tags_path, RELEASED_TAG_LIST), (thresholds_path, RELEASED_THRESHOLDS)):
        if size.tags == RELEASED_TAGS and sha256_of(path) != released:
            logger.warning("%s is not RAM's released list: its lines are taken as they are", path)
    return RamFiles(ram, dape, (tags_path, thresholds_path), size, shapes, tags, thresholds)


def _shapes(header: object) -> dict[str, Shape]:
    if not isinstance(header, dict):
        return {}
    return {name: tensor.shape for name, tensor in header.items() if isinstance(tensor, TensorInfo)}


def _read_lines(path: Path, count: int, what: str) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file of {what}, one a line") from error
    if len(lines) != count:
        raise InputError(f"{path}: {len(lines)} {what}, but this RAM has {count} tags: give its own file")
    return [line.strip() for line in lines]
