"""int8 ONNX sessions that stand in for SD3's parts, behind the same call (`sd3.networks`).

::

    QUANTIZED_DIR/COMPONENT/COMPONENT_quantized/
        model.onnx           the graph
        model.onnx.data      its weights
        quantization.json    what it was made from, how, and how near it comes to PyTorch

A part stands in only where it is whole and was made from the files of this run: the SHA-256 of the base
weights, of config.json, and of the SR LoRA and VAE encoder are recorded. A part that is missing, broken or
made from other files is left to PyTorch, with one warning that says why.

Hashing gigabytes takes seconds, so it is done once: files in the Hugging Face hub's cache carry their SHA-256
in their name, and for other large files it is kept with size and modification time in
``$XDG_CACHE_HOME/chain-of-zoom/sha256.json`` (``~/.cache``). Base weights that are not there at all (with
every text encoder in ONNX nobody needs PyTorch's) cannot be compared; config.json still is.

Finding and checking parts (`find_parts`) imports neither torch nor onnxruntime.
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import hashing
from errors import InputError
from sd3.checkpoint import FOLDERS, find_sd3, weights_files

if TYPE_CHECKING:
    import torch

    from osediff_sd3 import Tiles
    from sd3.networks import Loader

logger = logging.getLogger(__name__)

MODEL, DATA, RECORD = "model.onnx", "model.onnx.data", "quantization.json"
FORMAT = 1  # of quantization.json and of the calls; a part of another format is not used
SMALL = 64 * 2**20  # bytes; smaller files are hashed each time
VAE_PARTS = ("vae_encoder", "vae_decoder")


@dataclass
class FoundParts:
    """What a folder of quantized parts has for a run.

    Attributes:
        folders: of the parts that can stand in, by component.
        refused: why the others of the folder cannot, by component.
        missing: components that the folder does not have.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def describe(self) -> dict[str, str]:
        """Identify what stands in, for run.json: the SHA-256 of each part's quantization.json."""
        return {component: sha256_of(folder / RECORD) for component, folder in self.folders.items()}

    def bytes(self) -> dict[str, int]:
        """Return what each takes on disk, which is about what it takes in memory."""
        return {
            component: sum(file.stat().st_size for file in folder.iterdir())
            for component, folder in self.folders.items()
        }

    def warnings(self, quantized_dir: Path) -> list[str]:
        """Say in one line each what is left to PyTorch, and why."""
        lines = [f"{component}: {why}; PyTorch's is used instead" for component, why in self.refused.items()]
        if len(self.missing) == len(FOLDERS):
            lines.append(
                f"--quantize: {quantized_dir} holds no quantized part (make them with quantize_model.py);"
                " PyTorch's are used"
            )
        elif self.missing:
            lines.append(f"--quantize: {', '.join(self.missing)} not in {quantized_dir}; PyTorch's are used")
        return lines


def part_folder(quantized_dir: Path, component: str) -> Path:
    """Return where a component's files are."""
    return quantized_dir / component / f"{component}_quantized"


def find_parts(
    quantized_dir: Path,
    model: str,
    lora_path: Path | None,
    vae_path: Path | None,
    download: bool = True,
) -> FoundParts:
    """Find the quantized parts that can stand in for PyTorch's in a run; reads no weights into memory.

    Args:
        quantized_dir: ``--quantized_dir``; need not exist.
        model: SD3 folder in diffusers layout, or hub name.
        lora_path: the run's SR LoRA, or None.
        vae_path: the run's SR VAE encoder, or None.
        download: whether a hub name may be downloaded where it is not in the cache.

    Raises:
        InputError: ``model`` is not there.
    """
    found = FoundParts()
    records: dict[str, dict[str, Any]] = {}
    for component in FOLDERS:
        folder = part_folder(quantized_dir, component)
        if not folder.is_dir():
            found.missing.append(component)
            continue
        try:
            records[component] = read_record(folder, component)
        except InputError as error:
            found.refused[component] = str(error)
    if not records:
        return found
    base = find_sd3(model, records, download)
    for component, record in records.items():
        why = _other_source(record["made_from"], source_files(component, base, lora_path, vae_path))
        if why:
            found.refused[component] = f"{part_folder(quantized_dir, component)} was made from {why}"
        else:
            found.folders[component] = part_folder(quantized_dir, component)
    return found


def read_record(folder: Path, component: str) -> dict[str, Any]:
    """Return a part's quantization.json, after a look whether its files are whole.

    Raises:
        InputError: a file is missing, damaged or cut off, or of another format or component.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = dict(record["files"].items())
        for key in ("format", "component", "made_from"):
            record[key]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged") from None
    if record["format"] != FORMAT or record["component"] != component:
        raise InputError(f"{path} is of another component or version of this program")
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing")
        if file.stat().st_size != expected["bytes"]:
            raise InputError(f"{file} is damaged: {file.stat().st_size:,} bytes of {expected['bytes']:,}")
    for name, expected in files.items():
        if sha256_of(folder / name) != expected.get("sha256"):
            raise InputError(f"{folder / name} is damaged: its SHA-256 is not the recorded one")
    return record


def source_files(
    component: str, base: Path, lora_path: Path | None, vae_path: Path | None
) -> dict[str, Path | None]:
    """Return the files that a component is made from, by role; None where the run has none.

    Roles are ``config``, ``lora`` (transformer), ``vae`` (VAE encoder) and file names of base weights; those
    are left out where the checkpoint has none on this machine.

    Args:
        component: one of `FOLDERS`.
        base: SD3 folder in diffusers layout.
        lora_path: the SR LoRA, or None.
        vae_path: the SR VAE encoder, or None.
    """
    folder = base / FOLDERS[component]
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
        role: path and {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
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
        elif path.stat().st_size != recorded["bytes"] or sha256_of(path) != recorded["sha256"]:
            return f"another {what}: the SHA-256 of {path} is not the recorded one"
    return ""


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; see the module's description for large ones."""
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    status = real.stat()
    if status.st_size < SMALL:
        return hashing.sha256_of(real)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chain-of-zoom/sha256.json"
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    key = [status.st_size, status.st_mtime_ns]
    entry = known.get(str(real))
    if isinstance(entry, list) and entry[:2] == key:
        return str(entry[2])
    logger.info("hashing %s, once", path)
    digest = hashing.sha256_of(real)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
        temporary.write_text(json.dumps({**known, str(real): [*key, digest]}), encoding="utf-8")
        temporary.replace(cache)
    except OSError as error:
        logger.debug("%s: not written (%s)", cache, error)
    return digest


def stand_ins(found: FoundParts, model: str, tiles: "Tiles | None" = None) -> "dict[str, Loader]":
    """Return a loader for each part found, for `osediff_sd3.OSEDiffSD3`.

    A loader raises whatever onnxruntime has against the file; the backbone then takes PyTorch's part.

    Args:
        found: from `find_parts`.
        model: SD3 folder or hub name, for the VAE's configuration.
        tiles: sizes beyond which the VAE works tile by tile.
    """

    def loader(component: str, folder: Path) -> "Loader":
        return lambda device: open_part(folder, component, device, find_sd3(model, FOLDERS), tiles)

    return {component: loader(component, folder) for component, folder in found.folders.items()}


def _tile(vae: Any, component: str, tiles: "Tiles | None") -> None:
    """Switch on diffusers' tiling of a half of the VAE."""
    from osediff_sd3 import Tiles, tile_vae

    tiles = tiles or Tiles()
    pixels = 2 ** (len(vae.config.block_out_channels) - 1)
    tile_vae(vae, tiles.vae_encoder // pixels if component == "vae_encoder" else tiles.vae_decoder, pixels)


class OnnxPart:
    """One part as an ONNX session, called with tensors like PyTorch's.

    Attributes:
        session: an `onnxruntime.InferenceSession`.
        device: where tensors are answered.
    """

    def __init__(self, folder: Path, device: "torch.device") -> None:
        """Open a session on the CUDA device where onnxruntime has its provider, else on the CPU."""
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about its own optimizations
        options.intra_op_num_threads = torch.get_num_threads()
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                if hasattr(onnxruntime, "preload_dlls"):  # finds the CUDA libraries that torch brings
                    onnxruntime.preload_dlls()
                providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
            else:
                logger.warning("onnxruntime has no CUDA provider here (requirements-gpu.txt): CPU")
        self.session: Any = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=providers)
        if len(providers) > 1 and self.session.get_providers()[0] != "CUDAExecutionProvider":
            logger.warning("onnxruntime's CUDA provider does not load here (its CUDA is another?): CPU")
        self.device = device
        self._inputs = {value.name: value.type for value in self.session.get_inputs()}

    def __call__(self, *inputs: "torch.Tensor") -> "torch.Tensor | tuple[torch.Tensor, ...]":
        """Run the session; floating-point inputs of any dtype, outputs fp32 on `device`."""
        import torch

        feed = {
            name: (tensor.long() if kind == "tensor(int64)" else tensor.float()).cpu().numpy()
            for (name, kind), tensor in zip(self._inputs.items(), inputs, strict=True)
        }
        outputs = tuple(torch.from_numpy(array).to(self.device) for array in self.session.run(None, feed))
        return outputs if len(outputs) > 1 else outputs[0]


class OnnxVae:
    """A half of the VAE as an ONNX session, with diffusers' own tiling for large pictures around it."""

    def __init__(
        self, part: OnnxPart, component: str, config: Mapping[str, Any], tiles: "Tiles | None"
    ) -> None:
        """Put the session in the place of diffusers' network.

        Args:
            part: the session.
            component: vae_encoder or vae_decoder.
            config: the VAE's config.json.
            tiles: sizes beyond which it works tile by tile; None takes the defaults.
        """
        import torch

        from sd3.networks import build_on_meta

        class Session(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> Any:
                return part(x)

        # the 1x1 convolutions beside the networks, which SD3 has not, are part of the session
        self.vae: Any = build_on_meta(
            component, {**config, "use_quant_conv": False, "use_post_quant_conv": False}
        )
        self._encodes = component == "vae_encoder"
        if self._encodes:
            self.vae.encoder = Session()
        else:
            self.vae.decoder = Session()
        _tile(self.vae, component, tiles)

    def __call__(self, x: "torch.Tensor") -> Any:
        """Return the moments of a picture, or the picture of a latent."""
        if self._encodes:
            return self.vae.encode(x).latent_dist.parameters
        return self.vae.decode(x, return_dict=False)[0]


def open_part(
    folder: Path, component: str, device: "torch.device", base: Path, tiles: "Tiles | None" = None
) -> OnnxPart | OnnxVae:
    """Open a quantized part.

    Args:
        folder: with model.onnx.
        component: one of `FOLDERS`.
        device: where it computes and answers.
        base: SD3 folder, for the VAE's configuration.
        tiles: of the VAE.

    Raises:
        Exception: whatever onnxruntime has against the file.
    """
    part = OnnxPart(folder, device)
    if component not in VAE_PARTS:
        return part
    config = json.loads((base / "vae" / "config.json").read_text(encoding="utf-8"))
    return OnnxVae(part, component, config, tiles)
