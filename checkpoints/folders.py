"""A model's folder as diffusers and transformers lay it out: config.json, and weights whole or in shards."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.gate import check_configuration
from checkpoints.headers import TensorInfo, safetensors_info
from errors import InputError

LONGEST_LISTING = 160  # characters of tensors that a message names
MAX_JSON = 32 * 2**20  # bytes; the longest index has 0.2 MB
STEMS = ("model", "diffusion_pytorch_model")  # transformers' name and diffusers' name of the weights
Names = Sequence[tuple[str, str]]  # of weights files: stem and variant
VARIANTS: Names = [(stem, variant) for variant in ("", ".fp16") for stem in STEMS]
TRANSFORMERS: Names = [("model", "")]  # all that transformers' own loader looks for


@dataclass(frozen=True)
class ModelFiles:
    """One folder's configuration and the tensors of its weights files.

    Attributes:
        folder: where they are.
        config: its config.json.
        files: weights files, one or several shards; none where nobody needs them.
        tensors: every tensor by name, from the files' headers.
    """

    folder: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo] = field(repr=False)

    @property
    def parameters(self) -> int:
        """Number of elements over all tensors."""
        return sum(info.elements for info in self.tensors.values())

    @property
    def dtype(self) -> str:
        """Type of most tensors, in safetensors' words."""
        return Counter(info.dtype for info in self.tensors.values()).most_common(1)[0][0]


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration.

    Raises:
        InputError: it is missing, no JSON, or no object.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file; download it again")
        if path.stat().st_size > MAX_JSON:
            raise InputError(f"{path}: too long for a configuration; download it again")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); download the folder again") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON, or half-downloaded; download it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a configuration; download it again")
    return content


def refuse_odd_files(*folders: Path) -> None:
    """Refuse folders that hold pipes, devices or links to nothing: libraries would read them without end.

    Raises:
        InputError: names the first such file.
    """
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not (path.is_file() or path.is_dir()):
                raise InputError(f"{path}: not a regular file; download the folder again")


def weights_files(folder: Path, names: Names = VARIANTS) -> tuple[tuple[Path, ...], Collection[str]]:
    """Return a folder's weights files, and the tensors that its index promises where it is sharded.

    Args:
        folder: of one model.
        names: under which weights are looked for.

    Raises:
        InputError: there are none, only pickles, or the index is damaged.
    """
    for stem, variant in names:
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            return (single,), ()
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
            if not shards or not all(isinstance(name, str) and Path(name).name == name for name in shards):
                raise InputError(f"{index}: not a shard index; download it again")
            return tuple(folder / name for name in sorted(set(shards))), list(weight_map or ())
    pickled = next(iter(sorted(folder.glob("*.bin"))), None)
    hint = (
        f"only {pickled.name}, a pickle; take the .safetensors file"
        if pickled
        else "download the folder again"
    )
    raise InputError(f"{folder}: no weights (model.safetensors): {hint}")


def read_model(folder: Path, weights: bool = True, names: Names = VARIANTS) -> ModelFiles:
    """Read what a folder's configuration and the headers of its weights tell.

    Args:
        folder: of one model.
        weights: whether its weights are needed.
        names: of the weights files.

    Raises:
        InputError: a file is missing, damaged or half-downloaded, or the weights are in 8 bits.
    """
    config = read_json(folder / "config.json")
    check_configuration(config, folder / "config.json")
    if not weights:
        return ModelFiles(folder, config, (), {})
    files, index = weights_files(folder, names)
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        tensors |= safetensors_info(file)
    missing = [name for name in index if name not in tensors]
    if missing:
        raise InputError(
            f"{folder}: {missing[0]} is in the index, but in none of the shards; download it again"
        )
    model = ModelFiles(folder, config, files, tensors)
    if not tensors:
        raise InputError(f"{folder}: weights files without a tensor; download it again")
    if model.dtype not in ("F32", "F16", "BF16"):
        raise InputError(f"{folder}: weights in {model.dtype}; take those in F16, BF16 or F32")
    return model


Shape = tuple[int, ...]


def refuse_differences(
    problem: str,
    found: Mapping[str, Shape],
    expected: Mapping[str, Shape],
    *,
    optional: Collection[str] = (),
    ignored: Iterable[str] = (),
    way_out: str = "",
) -> None:
    """Refuse files whose tensors are not exactly the expected ones.

    Args:
        problem: how the message begins, with the file's name.
        found: shapes in the files, by name.
        expected: shapes that the network needs.
        optional: expected names that need not be there.
        ignored: names in the files that nobody needs.
        way_out: how the message ends.

    Raises:
        InputError: names the first tensors that are missing, unexpected or of another shape.
    """
    faults = [f"{name} is missing" for name in expected if name not in found and name not in optional]
    faults += [f"{name} is unexpected" for name in found.keys() - expected.keys() - set(ignored)]
    faults += [
        f"{name} is {tuple(found[name])} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if faults:
        faults.sort()
        shown = faults[:1] + [
            fault for fault in faults[1:3] if len(faults[0]) + len(fault) < LONGEST_LISTING // 2
        ]
        more = f" and {len(faults) - len(shown)} more" if len(faults) > len(shown) else ""
        end = f": {way_out}" if way_out else ""
        raise InputError(f"{problem}: {'; '.join(one[:LONGEST_LISTING] for one in shown)}{more}{end}")
