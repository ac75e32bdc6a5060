"""The networks of a run with random weights that are made on the device itself: no checkpoint is needed.

They are built, checked, cast and merged by the tool's own code; only the reading of weights is another.
Weights are normal values of deviation 0.02 from a seed of their own, those of norms 1, biases 0. Those of the
tiny SD3 are read after all, and rounded to fp16, in which SD3-medium's files are.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from machine.machine import Machine
    from osediff_sd3 import OSEDiffSD3
    from prompts.extractors import DapeExtractor, VlmExtractor
    from zoom.settings import Tiles

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
PARITY = DATA / "parity"
DEVIATION = 0.02
RANDOM = "random.safetensors"  # of a folder that holds no such file: its weights are made up


@dataclass(frozen=True)
class Sizes:
    """Which sizes the networks have, and where their configurations are.

    Attributes:
        name: ``true`` or ``tiny``.
        sd3: SD3's folder, without weights.
        sr_files: the SR LoRA and the VAE encoder.
        qwen: the VLM's folder, without weights.
        known: tokens that its tokenizer knows.
        ram: the tagger's weights, DAPE, tags and thresholds.
        side: of a state, in pixels.
    """

    name: str
    sd3: Path
    sr_files: tuple[Path, Path]
    qwen: Path
    known: int
    ram: tuple[Path, Path, Path, Path]
    side: int

    @classmethod
    def tiny(cls) -> "Sizes":
        """Return the tests' tiny networks: for a CPU, in seconds."""
        known = json.loads((PARITY / "qwen" / "config.json").read_text())["text_config"]["vocab_size"]
        sr_files = PARITY / "SR_LoRA" / "model_20001.pkl", PARITY / "SR_VAE" / "vae_encoder_20001.pt"
        lists = PARITY / "RAM" / "ram_tag_list.txt", PARITY / "RAM" / "ram_tag_list_threshold.txt"
        ram = PARITY / "RAM" / "ram_swin_tiny.pth", PARITY / "DAPE" / "DAPE.pth", *lists
        return cls("tiny", PARITY / "sd3", sr_files, PARITY / "qwen", known, ram, side=64)

    @classmethod
    def true(cls, scratch: Path) -> "Sizes":
        """Write configurations and small files of the released sizes to a folder: 75 MB, no big weights."""
        from full_size import write_qwen_configuration, write_sd3_configuration, write_sr_files

        scratch.mkdir(parents=True, exist_ok=True)
        write_sd3_configuration(scratch / "sd3")
        known = write_qwen_configuration(scratch / "qwen")
        sr_files = scratch / "model_20001.pkl", scratch / "vae_encoder_20001.pt"
        if not all(file.exists() for file in sr_files):
            write_sr_files(scratch)
        return cls("true", scratch / "sd3", sr_files, scratch / "qwen", known, _hollow_ram(scratch), side=512)


def _hollow_ram(folder: Path) -> tuple[Path, Path, Path, Path]:
    """Write tagger files of the released names and shapes whose tensors are one number each."""
    import torch

    files = tuple(folder / name for name in ("ram.pth", "DAPE.pth", "tags.txt", "thresholds.txt"))
    for file, manifest in zip(files, ("ram_manifest.tsv", "dape_manifest.tsv"), strict=False):
        rows = [row.split("\t") for row in (DATA / manifest).read_text().splitlines()[1:]]
        shapes = {name: [int(side) for side in shape.split("x") if side] for name, shape, *_ in rows}
        tensors = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
        torch.save({"model": tensors} if file.name == "ram.pth" else tensors, file)
    tags = tags_of(files[0])
    files[2].write_text("".join(f"tag {number}\n" for number in range(tags)))
    files[3].write_text("0.68\n" * tags)
    ram, dape, names, thresholds = files
    return ram, dape, names, thresholds


def tags_of(ram: Path) -> int:
    """Return how many tags a RAM file knows."""
    from ram.files import read_ram_size

    return read_ram_size(ram)[0].tags


def random_tensor(name: str, shape: Iterable[int], device: "torch.device", dtype: "torch.dtype") -> Any:
    """Make one weight on a device: the same on every call."""
    import torch

    sides = tuple(shape)
    if name.endswith(".bias") or (name.endswith(".weight") and "norm" in name and len(sides) == 1):
        return torch.full(sides, float(not name.endswith(".bias")), device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    return torch.randn(sides, generator=generator, device=device, dtype=dtype).mul_(DEVIATION)


def sd3(sizes: Sizes, machine: "Machine", tiles: "Tiles | None" = None) -> "OSEDiffSD3":
    """Build SD3, as from files in fp16; use it within `made_up`."""
    from full_size import sd3_shapes

    from checkpoints.folders import ModelFiles
    from checkpoints.headers import TensorInfo
    from osediff_sd3 import OSEDiffSD3
    from sd3.checkpoint import SD3Checkpoint

    parts = {}
    for name, shapes in sd3_shapes(sizes.sd3).items():
        config = json.loads((sizes.sd3 / name / "config.json").read_text())
        tensors = {tensor: TensorInfo(shape, "F16") for tensor, shape in shapes.items()}
        parts[name] = ModelFiles(sizes.sd3 / name, config, (sizes.sd3 / name / RANDOM,), tensors)
    checkpoint = SD3Checkpoint(f"SD3, {sizes.name} size, random", sizes.sd3, parts, *sizes.sr_files)
    return OSEDiffSD3(checkpoint, machine, tiles)


@contextmanager
def made_up(sizes: Sizes, new_tokens: int = 1) -> Iterator[None]:
    """Make up weights within a with block, wherever the tool would read them."""
    import torch
    from full_size import sd3_shapes

    import ram.model
    import sd3.networks
    from prompts import extractors

    shapes = sd3_shapes(sizes.sd3)
    read, load_vlm, load_ram = sd3.networks._read, extractors.load_vlm, ram.model.load_ram

    def weights(
        files: Iterable[Path], names: set[str], device: "torch.device"
    ) -> Iterator[tuple[str, "torch.Tensor"]]:
        if sizes.name == "tiny":
            stored = (file for path in files for file in path.parent.glob("*.safetensors"))
            for name, tensor in read(stored, names, device):
                yield name, tensor.half()
            return
        for path in files:
            for name, shape in shapes[path.parent.name].items():
                if name in names:
                    yield name, random_tensor(name, shape, device, torch.float16)

    def vlm(files: Any, device: "torch.device", dtype: "torch.dtype") -> "torch.nn.Module":
        return random_vlm(sizes, files, device, dtype, new_tokens)

    def tagger(files: Any, device: "torch.device", dtype: "torch.dtype") -> "torch.nn.Module":
        model = load_ram(files, device, dtype)
        for name, parameter in model.named_parameters():
            parameter.data = random_tensor(name, parameter.shape, device, dtype)
        return model

    sd3.networks._read, extractors.load_vlm = weights, vlm
    ram.model.load_ram = tagger  # type: ignore[assignment]
    try:
        yield
    finally:
        sd3.networks._read, extractors.load_vlm, ram.model.load_ram = read, load_vlm, load_ram


@contextmanager
def pretrained(sizes: Sizes, device: "torch.device") -> Iterator[None]:
    """Let diffusers and transformers read the same weights within a with block, itself within `made_up`."""
    from unittest import mock

    import torch
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, T5EncoderModel

    import sd3.networks
    from sd3.spec import PARTS

    def read(folder: Path, **options: Any) -> Any:
        config = json.loads((folder / "config.json").read_text())
        if folder.name == "vae":
            with torch.device("meta"):
                model = AutoencoderKL.from_config(config)
        else:
            [part] = [name for name, spec in PARTS.items() if spec.folder == folder.name]
            model = sd3.networks.build_on_meta(part, config)
        files = (folder / RANDOM,)
        state = dict(sd3.networks._read(files, set(model.state_dict()), device))
        model.load_state_dict(state, strict=False, assign=True)
        return model.to(device=device, dtype=options.get("dtype") or options.get("torch_dtype"))

    kinds = (AutoencoderKL, SD3Transformer2DModel, CLIPTextModelWithProjection, T5EncoderModel)
    with ExitStack() as patches:
        for kind in kinds:
            patches.enter_context(mock.patch.object(kind, "from_pretrained", read))
        yield


def dape(sizes: Sizes, machine: "Machine") -> "DapeExtractor":
    """Build the tagger; use it within `made_up`."""
    from prompts.extractors import DapeExtractor
    from ram.files import check_ram_files

    return DapeExtractor(check_ram_files(*sizes.ram), machine)


def vlm(sizes: Sizes, machine: "Machine", new_tokens: int) -> "VlmExtractor":
    """Build the VLM, as from a file in bf16; use it within `made_up`, with the same ``new_tokens``."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForImageTextToText

    from checkpoints.folders import ModelFiles
    from checkpoints.headers import TensorInfo
    from prompts.extractors import VlmExtractor
    from prompts.vlm_files import VlmFiles
    from prompts.vlm_loading import _tied

    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(sizes.qwen))
    tensors = {
        name: TensorInfo(tuple(tensor.shape), "BF16")
        for name, tensor in model.state_dict().items()
        if name not in _tied(model)  # stored once
    }
    config = json.loads((sizes.qwen / "config.json").read_text())
    files = VlmFiles("random", ModelFiles(sizes.qwen, config, (sizes.qwen / RANDOM,), tensors))
    return VlmExtractor(files, machine, new_tokens, fallback=None)


def random_vlm(
    sizes: Sizes, files: Any, device: "torch.device", dtype: "torch.dtype", new_tokens: int
) -> "torch.nn.Module":
    """Make a VLM on a device whose answers are always ``new_tokens`` long."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(files.folder)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.get_input_embeddings().weight.data[sizes.known :] = 0  # never the likeliest
    model.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(files.folder)
    model.generation_config = GenerationConfig(
        do_sample=False, repetition_penalty=1.05, min_new_tokens=new_tokens,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    made: torch.nn.Module = model.to(device).eval().requires_grad_(False)
    return made
