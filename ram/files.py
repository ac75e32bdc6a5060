"""RAM's four files: what they must hold, judged before anything heavy is imported or loaded.

Facts: the released ``ram_swin_large_14m.pth`` (huggingface.co/xinyu1205/recognize_anything_model),
``DAPE.pth`` (SeeSR, arXiv 2311.16518, as Chain-of-Zoom ships it) and RAM's two tag files
(github.com/xinyu1205/recognize-anything, ``ram/data``). Sizes are read from the checkpoint's shapes.
"""

import hashlib
import logging
import math
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from checkpoints.headers import TensorInfo, torch_file_info
from errors import InputError

logger = logging.getLogger(__name__)

RELEASED_TAGS = 4585
RELEASED_TAG_LIST = "5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b"  # sha256
RELEASED_THRESHOLDS = "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447"  # sha256

# Parts of a RAM checkpoint that tagging does not need: the caption decoder, the caption's own
# encoder, and tables that follow from the window size.
_RAM_UNUSED = re.compile(r"(tag_encoder|text_decoder)\..*|.*\.(relative_position_index|attn_mask)")
# DAPE's updates of the parts that tagging does not need.
_DAPE_UNUSED = re.compile(r"(tag_encoder|text_decoder)\..*\.lora_[AB]")

Shape = tuple[int, ...]


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


def read_ram_size(path: Path) -> RamSize:
    """Read a network's sizes from a RAM file, and check that every needed tensor is there.

    Raises:
        InputError: no PyTorch file; a needed tensor is missing or has a shape that does not fit the
            others; or a tensor is there that RAM does not have.
    """
    content = torch_file_info(path)
    shapes = _shapes(content.get("model") if isinstance(content, dict) else None)
    shapes = {current_name(name): shape for name, shape in shapes.items()}
    blocks = re.compile(r"visual_encoder\.layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight")
    found = [(int(m[1]), int(m[2])) for m in map(blocks.fullmatch, shapes) if m]
    stages = range(1 + max((stage for stage, _ in found), default=-1))
    layers = re.compile(r"tagging_head\.encoder\.layer\.(\d+)\.intermediate\.dense\.weight")
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
    needed = needed_shapes(size)
    unexpected = [n for n in shapes if n not in needed and not _RAM_UNUSED.fullmatch(n)]
    _compare(f"{path}: not a whole RAM checkpoint", shapes, needed, unexpected, "fetch it again")
    return size


def needed_shapes(size: RamSize) -> dict[str, Shape]:
    """Shape of every tensor that tagging needs, by its name in the released file (366 for Swin-L)."""
    needed: dict[str, Shape] = {"label_embed": (size.tags, size.label_dim)}

    def linear(name: str, outputs: int, inputs: int) -> None:
        needed[f"{name}.weight"], needed[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, width: int) -> None:
        needed[f"{name}.weight"], needed[f"{name}.bias"] = (width,), (width,)

    needed["visual_encoder.patch_embed.proj.weight"] = (size.embed_dim, 3, 4, 4)
    needed["visual_encoder.patch_embed.proj.bias"] = (size.embed_dim,)
    norm("visual_encoder.patch_embed.norm", size.embed_dim)
    for stage, (depth, heads) in enumerate(zip(size.depths, size.heads, strict=True)):
        width = size.embed_dim * 2**stage
        at = f"visual_encoder.layers.{stage}"
        for block in range(depth):
            norm(f"{at}.blocks.{block}.norm1", width)
            needed[f"{at}.blocks.{block}.attn.relative_position_bias_table"] = (
                (2 * size.window - 1) ** 2,
                heads,
            )
            linear(f"{at}.blocks.{block}.attn.qkv", 3 * width, width)
            linear(f"{at}.blocks.{block}.attn.proj", width, width)
            norm(f"{at}.blocks.{block}.norm2", width)
            linear(f"{at}.blocks.{block}.mlp.fc1", 4 * width, width)
            linear(f"{at}.blocks.{block}.mlp.fc2", width, 4 * width)
        if stage + 1 < len(size.depths):
            needed[f"{at}.downsample.reduction.weight"] = (2 * width, 4 * width)
            norm(f"{at}.downsample.norm", 4 * width)
    norm("visual_encoder.norm", size.features)

    linear("image_proj", size.label_dim, size.features)
    linear("wordvec_proj", size.hidden, size.label_dim)
    for layer in range(size.head_layers):
        at = f"tagging_head.encoder.layer.{layer}"
        linear(f"{at}.crossattention.self.query", size.hidden, size.hidden)
        linear(f"{at}.crossattention.self.key", size.hidden, size.label_dim)
        linear(f"{at}.crossattention.self.value", size.hidden, size.label_dim)
        linear(f"{at}.crossattention.output.dense", size.hidden, size.hidden)
        norm(f"{at}.crossattention.output.LayerNorm", size.hidden)
        linear(f"{at}.intermediate.dense", size.feed_forward, size.hidden)
        linear(f"{at}.output.dense", size.hidden, size.feed_forward)
        norm(f"{at}.output.LayerNorm", size.hidden)
    linear("fc", 1, size.hidden)
    return needed


def dape_targets(size: RamSize) -> dict[str, list[str]]:
    """Which of DAPE's LoRA pairs change which of RAM's weights.

    Returns:
        For each changed tensor of RAM (``*.weight``) the prefixes of the pairs that are added to it.
        Two for the tagging head: the published code ties ``tag_encoder``'s cross-attention to it, so
        updates of both land in the one weight.
    """
    targets = {}
    for stage, depth in enumerate(size.depths):
        for block in range(depth):
            name = f"visual_encoder.layers.{stage}.blocks.{block}.attn.qkv"
            targets[f"{name}.weight"] = [name]
    for layer in range(size.head_layers):
        for part in ("query", "key"):
            name = f"encoder.layer.{layer}.crossattention.self.{part}"
            targets[f"tagging_head.{name}.weight"] = [f"tagging_head.{name}", f"tag_encoder.{name}"]
    return targets


def check_dape(path: Path, size: RamSize) -> None:
    """Check that a DAPE file's pairs are whole and made for a RAM of this size.

    Raises:
        InputError: no PyTorch file; or a pair is missing, has another RAM's shape, or belongs to no
            part of RAM.
    """
    shapes = _shapes(torch_file_info(path))
    ram = needed_shapes(size)
    rank = shapes.get("visual_encoder.layers.0.blocks.0.attn.qkv.lora_B", (0, 0))[-1]
    needed: dict[str, Shape] = {}
    for target, pairs in dape_targets(size).items():
        outputs, inputs = ram[target]
        for pair in pairs:
            if pair.endswith(".qkv"):  # one pair for query and one for value, stacked; key has none
                needed[f"{pair}.lora_A"] = (2 * rank, inputs)
                needed[f"{pair}.lora_B"] = (2 * outputs // 3, rank)
            else:
                needed[f"{pair}.lora_A"] = (rank, inputs)
                needed[f"{pair}.lora_B"] = (outputs, rank)
    unexpected = [name for name in shapes if name not in needed and not _DAPE_UNUSED.fullmatch(name)]
    _compare(
        f"{path}: not a DAPE file for this RAM", shapes, needed, unexpected, "give the DAPE.pth that fits it"
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


def check_ram_files(
    ram_path: Path, ram_ft_path: Path | None, tags_path: Path, thresholds_path: Path
) -> RamSize:
    """Check RAM's files as far as can be known without reading a weight, in well under a second.

    Logs a warning where DAPE is not given (plain RAM then tags), or a list is not the released one.

    Raises:
        InputError: a file is missing, broken, or does not fit the others.
    """
    size = read_ram_size(ram_path)
    if ram_ft_path is None:
        logger.warning("no DAPE given: plain RAM tags the pictures (--ram_ft_path DAPE.pth for DAPE)")
    else:
        check_dape(ram_ft_path, size)
    for path, expected, read in (
        (tags_path, RELEASED_TAG_LIST, read_tags),
        (thresholds_path, RELEASED_THRESHOLDS, read_thresholds),
    ):
        read(path, size.tags)
        if size.tags == RELEASED_TAGS and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            logger.warning("%s is not RAM's released list: its lines are taken as they are", path)
    return size


def fingerprint(path: Path) -> str:
    """Tell one .pth file's content from another's in milliseconds, whatever its size.

    Returns:
        sha256, in hexadecimal, of the zip archive's table of entries (name, bytes, CRC-32 of each
        tensor); not the sha256 of the file, which takes 20 seconds for RAM.
    """
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            digest.update(f"{entry.filename} {entry.file_size} {entry.CRC}\n".encode())
    return digest.hexdigest()


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


def _compare(
    problem: str,
    shapes: Mapping[str, Shape],
    needed: Mapping[str, Shape],
    unexpected: Collection[str],
    way_out: str,
) -> None:
    """Raise InputError where tensors are missing, unexpected or of another shape; name the first ones."""
    missing = [name for name in needed if name not in shapes]
    other = [
        f"{name} is {list(shapes[name])} instead of {list(shape)}"
        for name, shape in needed.items()
        if name in shapes and shapes[name] != shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(list(names)[:2])}{' ...' if len(names) > 2 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if names
    ]
    if faults:
        raise InputError(f"{problem} ({'; '.join(faults)}): {way_out}")
