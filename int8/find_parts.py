"""The folder of quantized parts: which of them are whole, and made from the files of a run.

::

    QUANTIZED_DIR/COMPONENT/COMPONENT_quantized/
        model.onnx           the graph
        model.onnx.data      its weights
        quantization.json    what it was made from, how, and how near it comes to PyTorch
        config.json, ort_config.json    what optimum wants beside them
    QUANTIZED_DIR/pipeline/             all six as optimum's pipeline, see `int8.write_folder`

A part stands in only where it is whole and was made from the files of this run: the SHA-256 of the base
weights, of config.json, and of the SR LoRA and VAE encoder are recorded. A part that is missing, broken or
made from other files is left to PyTorch, with one warning that says why. Base weights that are not there at
all (with every text encoder in ONNX nobody needs PyTorch's) cannot be compared; config.json still is.

Imports neither torch nor onnxruntime.
"""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.folders import weights_files
from checkpoints.hashing import checkpoint_sha256
from errors import InputError
from sd3.spec import PARTS

MODEL, DATA, RECORD = "model.onnx", "model.onnx.data", "quantization.json"
MAX_RECORD = 16 * 2**20  # bytes
FORMAT = 2  # of quantization.json and of the calls; a part of another format is not used


@dataclass
class QuantizedParts:
    """What a folder of quantized parts has for a run.

    Attributes:
        quantized_dir: the folder.
        records: quantization.json of the parts that can stand in, by component.
        refused: why the others of the folder cannot, by component.
        missing: components that the folder does not have.
    """

    quantized_dir: Path
    records: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    refused: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def folders(self) -> dict[str, Path]:
        """Folders of the parts that can stand in, by component."""
        return {component: part_folder(self.quantized_dir, component) for component in self.records}

    def refuse(self, component: str, why: str) -> None:
        """Leave a part to PyTorch."""
        del self.records[component]
        self.refused[component] = why

    def refuse_others_sources(self, base: Path, lora_path: Path | None, vae_path: Path | None) -> None:
        """Leave to PyTorch what was made from other files than a run's, by their SHA-256.

        Args:
            base: SD3 folder in diffusers layout.
            lora_path: the run's SR LoRA, or None.
            vae_path: the run's SR VAE encoder, or None.
        """
        for component, record in list(self.records.items()):
            files = source_files(component, base, lora_path, vae_path)
            try:
                why = _other_source(record["made_from"], files)
            except (KeyError, TypeError, AttributeError):
                self.refuse(component, f"{self.folders[component] / RECORD} is damaged")
                continue
            if why:
                self.refuse(component, f"{self.folders[component]} was made from {why}")

    def describe(self) -> dict[str, str]:
        """Identify what stands in, for run.json: the SHA-256 of each part's quantization.json."""
        return {component: checkpoint_sha256(folder / RECORD) for component, folder in self.folders.items()}

    def bytes(self) -> dict[str, int]:
        """Return what each takes on disk, which is about what it takes in memory."""
        return {
            component: sum(file.stat().st_size for file in folder.iterdir())
            for component, folder in self.folders.items()
        }

    def warnings(self) -> list[str]:
        """Say in one line each what is left to PyTorch, and why."""
        lines = [f"{component}: {why}; PyTorch's is used instead" for component, why in self.refused.items()]
        if len(self.missing) == len(PARTS):
            lines.append(
                f"--quantize: {self.quantized_dir} holds no quantized part (make them with"
                " quantize_model.py); PyTorch's are used"
            )
        elif self.missing:
            lines.append(
                f"--quantize: {', '.join(self.missing)} not in {self.quantized_dir}; PyTorch's are used"
            )
        return lines


def part_folder(quantized_dir: Path, component: str) -> Path:
    """Return where a component's files are."""
    return quantized_dir / component / f"{component}_quantized"


def read_parts(quantized_dir: Path) -> QuantizedParts:
    """Find the quantized parts that are whole; reads no weights into memory.

    Args:
        quantized_dir: ``--quantized_dir``; need not exist.
    """
    found = QuantizedParts(quantized_dir)
    for component in PARTS:
        folder = part_folder(quantized_dir, component)
        if not folder.is_dir():
            found.missing.append(component)
            continue
        try:
            found.records[component] = read_record(folder, component)
        except InputError as error:
            found.refused[component] = str(error)
    return found


def read_record(folder: Path, component: str) -> dict[str, Any]:
    """Return a part's quantization.json, after a look whether its files are whole.

    Raises:
        InputError: a file is missing, damaged or cut off, or of another format or component.
    """
    path = folder / RECORD
    try:
        status = path.stat()
        if status.st_size > MAX_RECORD or not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise ValueError
        record = json.loads(path.read_text(encoding="utf-8"))
        files = {
            str(name): (dict(entry)["bytes"], entry.get("sha256")) for name, entry in record["files"].items()
        }
        for key in ("format", "component", "made_from"):
            record[key]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path} is damaged") from None
    if record["format"] != FORMAT or record["component"] != component:
        raise InputError(f"{path} is of another component or version of this program")
    for name, (size, _) in files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing")
        if file.stat().st_size != size:
            raise InputError(
                f"{file} is damaged: it has {file.stat().st_size:,} bytes and not as many as recorded"
            )
    for name, (_, sha256) in files.items():
        try:
            digest = checkpoint_sha256(folder / name)
        except OSError as error:
            raise InputError(f"{folder / name} cannot be read ({error.strerror})") from None
        if digest != sha256:
            raise InputError(f"{folder / name} is damaged: its SHA-256 is not the recorded one")
    return record


def source_files(
    component: str, base: Path, lora_path: Path | None, vae_path: Path | None
) -> dict[str, Path | None]:
    """Return the files that a component is made from, by role; None where the run has none.

    Roles are ``config``, ``lora`` (transformer), ``vae`` (VAE encoder) and file names of base weights; those
    are left out where the checkpoint has none on this machine.

    Args:
        component: one of `sd3.spec.PARTS`.
        base: SD3 folder in diffusers layout.
        lora_path: the SR LoRA, or None.
        vae_path: the SR VAE encoder, or None.
    """
    folder = base / PARTS[component].folder
    files: dict[str, Path | None] = {"config": folder / "config.json"}
    if component == "transformer":
        files["lora"] = lora_path
    if component == "vae_encoder":
        files["vae"] = vae_path
        if vae_path is not None:  # it replaces all of SD3's encoder
            return files
    try:
        weights = weights_files(folder)[0]
    except InputError:
        return files
    return files | {path.name: path for path in weights if path.is_file()}


def describe_sources(files: Mapping[str, Path | None]) -> dict[str, Any]:
    """Return size and SHA-256 of each of `source_files`, for quantization.json."""
    return {
        role: path and {"file": path.name, "bytes": path.stat().st_size, "sha256": checkpoint_sha256(path)}
        for role, path in files.items()
    }


def _other_source(made_from: Mapping[str, Any], files: Mapping[str, Path | None]) -> str:
    """Say how a run's files differ from those that a part was made from; nothing where they agree."""
    roles = {"lora": "SR LoRA", "vae": "SR VAE encoder"}
    weights = files.keys() - roles.keys() - {"config"}
    if weights and weights != made_from.keys() - roles.keys() - {"config"}:
        return f"another base model (its weights are in other files than {', '.join(sorted(weights))})"
    for role, path in files.items():
        recorded = made_from.get(role)
        what = roles.get(role, "base model")
        if path is None or recorded is None:
            if path is not recorded:
                return f"another {what} ({'none' if recorded is None else recorded['file']}) than this run's"
        elif not path.is_file():
            return f"{what} {recorded['file']}, and {path} is not there"
        elif path.stat().st_size != recorded["bytes"] or checkpoint_sha256(path) != recorded["sha256"]:
            return f"another {what}: the SHA-256 of {path} is not the recorded one"
    return ""
