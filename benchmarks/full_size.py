"""Run the whole system at its real size on this machine, with random weights, and report memory and time.

Writes checkpoints of the true sizes and layouts (bf16: SD3-medium, sharded as on the hub, the SR LoRA and
VAE encoder files, Qwen2.5-VL-3B) to a scratch folder, runs the command on two pictures for two steps with
``--efficient_memory`` on the CPU, and prints seconds a stage, how often each component was loaded and the
peak resident memory. Tokenizers are the small ones of the tests: random networks read no words. Needs 24 GB
of disk, 16 GB of memory and about a quarter of an hour; cleans up.

    python benchmarks/full_size.py --scratch /tmp/full_size
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DATA = ROOT / "tests" / "data"
SHARD = 5_000_000_000  # bytes, the size at which the hub's files are split
STEPS = 2
LIMIT = 14 * 2**30  # bytes of resident memory that the run may take


def main() -> int:
    """Write, run, report, clean up."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scratch", type=Path, default=Path("full_size_scratch"), help="folder for 24 GB")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints for another run")
    parser.add_argument("--prompt_type", choices=["vlm", "null"], default="vlm")
    parser.add_argument("--max_new_tokens", type=int, default=32, help="length of the VLM's answers")
    parser.add_argument("--mixed_precision", choices=["auto", "fp32", "bf16"], default="auto")
    options = parser.parse_args()
    try:
        start = time.perf_counter()
        write_sd3(options.scratch / "sd3")
        write_sr_files(options.scratch)
        if options.prompt_type == "vlm":
            write_qwen(options.scratch / "qwen")
        write_pictures(options.scratch / "pictures", 2, (640, 512), 32)
        print(f"wrote the checkpoints in {time.perf_counter() - start:.0f} s")
        return run(options)
    finally:
        shutil.rmtree(options.scratch / "out", ignore_errors=True)
        if not options.keep:
            shutil.rmtree(options.scratch, ignore_errors=True)


def run(options: argparse.Namespace) -> int:
    """Run the command in a process of its own and print what it took."""
    scratch = options.scratch
    arguments = [
        "-i", scratch / "pictures", "-o", scratch / "out",
        "--backbone", "sd3", "--pretrained_model_name_or_path", scratch / "sd3",
        "--lora_path", scratch / "model_20001.pkl", "--vae_path", scratch / "vae_encoder_20001.pt",
        "--prompt_type", options.prompt_type, "--max_new_tokens", options.max_new_tokens,
        "--mixed_precision", options.mixed_precision, "--device", "cpu", "--efficient_memory",
        "--rec_num", STEPS, "--overwrite", "-v",
    ]  # fmt: skip
    if options.prompt_type == "vlm":
        arguments += ["--vlm_path", scratch / "qwen"]
    command = [sys.executable, str(ROOT / "inference_coz.py"), *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(command, check=False)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    if done.returncode:
        print(f"the run ended with {done.returncode}")
        return 1
    report = json.loads((scratch / "out" / "run.json").read_text())
    return print_report(report, seconds, peak)


def print_report(report: dict, seconds: float, peak: int) -> int:
    """Print the tables; return 1 where the run took more than it should."""
    stages: dict[str, float] = report["stage_seconds"]
    forward = sum(value for name, value in stages.items() if name.endswith(".forward"))
    total = sum(stages.values())
    print("\n| stage | seconds |\n|---|---:|")
    for name, value in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"| {name} | {value:.1f} |")
    loads = {name: counts["loads"] for name, counts in report["components"].items()}
    print(f"\n| component | loaded in {STEPS} steps |\n|---|---:|")
    for name, count in loads.items():
        print(f"| {name} | {count} |")
    outside = 1 - forward / total
    print(f"\nwhole command {seconds:.0f} s, all stages {total:.0f} s, outside forward passes {outside:.1%}")
    print(f"peak resident memory {peak / 2**30:.2f} GiB (limit {LIMIT / 2**30:.0f} GiB)")
    print(f"measured on {os.cpu_count()} CPU cores with resource.getrusage and the run's own stage times")
    return int(peak > LIMIT or outside > 0.05 or max(loads.values()) > STEPS)


def write_sd3(folder: Path) -> None:
    """Write SD3-medium in diffusers layout: real sizes, random weights."""
    write_sd3_configuration(folder)
    write_sd3_weights(folder)


def write_sd3_weights(folder: Path) -> None:
    """Write the random weights that the configurations in SD3's folder ask for."""
    for name, tensors in sd3_shapes(folder).items():
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        write_weights(folder / name, stem, tensors)


def write_sd3_configuration(folder: Path) -> None:
    """Write all of SD3-medium but its weights, with the tests' small tokenizers."""
    from sd3.spec import TOKENIZERS

    shutil.copytree(DATA / "sd3_medium", folder, dirs_exist_ok=True)
    for name in TOKENIZERS:
        shutil.copytree(DATA / "parity" / "sd3" / name, folder / name, dirs_exist_ok=True)


@cache
def sd3_shapes(source: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the shape of every tensor that SD3's files hold, by folder, as its configurations tell."""
    from sd3.networks import build_on_meta
    from sd3.spec import PARTS

    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for part, spec in PARTS.items():
        model = build_on_meta(part, json.loads((source / spec.folder / "config.json").read_text()))
        shapes.setdefault(spec.folder, {}).update(
            {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        )
    shapes["text_encoder_3"].pop("encoder.embed_tokens.weight")  # tied to shared.weight, stored once
    return shapes


def write_sr_files(folder: Path, sd3: Path = DATA / "sd3_medium") -> None:
    """Write an SR LoRA and an SR VAE encoder in the published formats, with random weights.

    Args:
        folder: where to.
        sd3: the folder with the configurations of transformer and VAE that they are for.
    """
    import torch

    from sd3.networks import build_on_meta

    config = json.loads((sd3 / "transformer/config.json").read_text())
    width, layers = config["num_attention_heads"] * config["attention_head_dim"], 2 * config["num_layers"] - 1
    factors = [torch.randn(shape) * 0.01 for _ in range(layers) for shape in ((6 * width, 4), (4, width))]
    torch.save(factors, folder / "model_20001.pkl")

    vae = build_on_meta("vae_encoder", json.loads((sd3 / "vae/config.json").read_text()))
    state = {}
    for name, module in vae.encoder.named_modules():
        lora = isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
        for key, tensor in module.named_parameters(recurse=False):
            norm = not lora and key == "weight"
            value = torch.ones(tensor.shape) if norm else torch.randn(tensor.shape) * 0.02
            state[f"{name}.base_layer.{key}" if lora else f"{name}.{key}"] = value.half()
        if lora:
            out, *rest = module.weight.shape
            kernel = [1] * (len(rest) - 1)
            state[f"{name}.lora_A.default_encoder.weight"] = (torch.randn(4, *rest) * 0.01).half()
            state[f"{name}.lora_B.default_encoder.weight"] = (torch.randn(out, 4, *kernel) * 0.01).half()
    torch.save(state, folder / "vae_encoder_20001.pt")


def write_qwen(folder: Path) -> None:
    """Write Qwen2.5-VL-3B, real sizes, random weights, the tests' small tokenizer."""
    known = write_qwen_configuration(folder)
    # Zero rows for tokens that the small tokenizer does not know: they are never the likeliest.
    write_weights(folder, "model", qwen_shapes(folder), {"model.embed_tokens.weight": known})


def qwen_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that Qwen's files hold, as its configuration tells."""
    from accelerate import init_empty_weights
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    with init_empty_weights():
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(folder))
    return {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tuple(
            tensor.shape
        )
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding, stored once
    }


def write_qwen_configuration(folder: Path) -> int:
    """Write all of Qwen2.5-VL-3B but its weights; return how many tokens the small tokenizer knows."""
    small = DATA / "parity" / "qwen"
    folder.mkdir(parents=True, exist_ok=True)
    for path in small.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    config = json.loads((DATA / "qwen2_5_vl_3b/config.json").read_text())
    tokens = json.loads((small / "config.json").read_text())
    for key in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        config[key] = tokens[key]
    for key in ("bos_token_id", "eos_token_id"):
        config[key] = tokens["text_config"][key]
    (folder / "config.json").write_text(json.dumps(config))
    known: int = tokens["text_config"]["vocab_size"]
    return known


def write_weights(
    folder: Path, stem: str, shapes: dict[str, tuple[int, ...]], known_rows: dict[str, int] | None = None
) -> None:
    """Write bf16 tensors with random values to one safetensors file, or to shards with their index."""
    import math

    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in sorted(shapes.items()):
        if size + 2 * math.prod(shape) > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += 2 * math.prod(shape)
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", shards[0], known_rows or {})
        return
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, tensors, known_rows or {})
        weight_map |= dict.fromkeys(tensors, name)
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], known_rows: dict[str, int]) -> None:
    """Write one file tensor by tensor, so that it takes no memory. Norm weights are 1, biases 0."""
    import math

    if path.exists():  # kept from an earlier run
        return
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (name, shape) in enumerate(shapes.items()):
            for chunk in random_bf16(name, shape, number, known_rows.get(name)):
                file.write(chunk)
    unfinished.replace(path)


def random_bf16(name: str, shape: tuple[int, ...], number: int, known_rows: int | None) -> Iterable[bytes]:
    """Yield the bytes of one tensor: slices of one block of normal values, each begun elsewhere."""
    import math

    import torch

    elements = math.prod(shape)
    if name.endswith(".bias") or (name.endswith(".weight") and "norm" in name and len(shape) == 1):
        value = 0.0 if name.endswith(".bias") else 1.0
        yield torch.full(shape, value, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
        return
    if not hasattr(random_bf16, "block"):
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(1 << 24, generator=generator) * 0.02
        random_bf16.block = values.bfloat16().view(torch.uint8).numpy().tobytes()  # type: ignore[attr-defined]
    block: bytes = random_bf16.block  # type: ignore[attr-defined]
    left = 2 * (elements if known_rows is None else known_rows * math.prod(shape[1:]))
    zeros = 2 * elements - left
    start = (number * 2_000_006) % len(block)
    while left:
        chunk = block[start : start + left]
        yield chunk
        left -= len(chunk)
        start = 0
    while zeros:
        yield bytes(min(zeros, len(block)))
        zeros -= min(zeros, len(block))


def write_pictures(folder: Path, count: int, size: tuple[int, int], cells: int) -> list[Path]:
    """Write pictures of soft random colours, each other than the rest, and return their files.

    Args:
        folder: where to.
        count: of pictures.
        size: of each, in pixels.
        cells: colours along each side.
    """
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    generator, files = np.random.default_rng(0), []
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
        files.append(folder / f"{number}.png")
        small.resize(size, Image.Resampling.BICUBIC).save(files[-1])
    return files


if __name__ == "__main__":
    sys.exit(main())
