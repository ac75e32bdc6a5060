"""Print what of SD3-medium and Qwen2.5-VL-3B fits where, as the Markdown tables of the README.

Nothing is loaded and no GPU is needed: sizes are computed on the meta device from the published
configurations (in tests/data), peaks by the plan that ``--dry_run`` prints (`machine.memory.plan_memory`), at
512x512 with a batch of one.

    python benchmarks/what_fits.py
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from machine.memory import Size

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DATA = ROOT / "tests" / "data"


def main() -> None:
    """Print the table of components, then the table of machines."""
    import torch

    from machine.memory import Size, plan_memory
    from sd3.spec import TEXT_PARTS, VAE_PARTS

    # as auto has them: the files' fp16 but for the VAE, and the VLM's bf16
    half, exact = sizes(torch.float16), sizes(torch.float32)
    half |= {part: exact[part] for part in VAE_PARTS}
    print("| component | parameters | on a GPU | fp32 |\n|---|---:|---:|---:|")
    for name, size in half.items():
        in_gb = " | ".join(f"{one.bytes / 1e9:.2f} GB" for one in (size, exact[name]))
        print(f"| {name} | {size.parameters / 1e6:,.0f} M | {in_gb} |")

    first, second, cpu = "cuda:0", "cuda:1", "cpu"
    on_one = {name: (size, first) for name, size in half.items()}
    on_first = (*TEXT_PARTS, "prompt.vlm")
    on_two = {name: (size, first if name in on_first else second) for name, size in half.items()}
    # int8 weights take a byte each; onnxruntime runs them on the CPU
    int8 = {
        name: (Size(size.parameters, size.parameters), cpu) if name in TEXT_PARTS else (size, first)
        for name, size in half.items()
    }
    without_vlm = {name: place for name, place in int8.items() if name != "prompt.vlm"}
    # fp32 arithmetic on 16-bit weights; the VLM stays in bf16
    streamed = sizes(torch.float32, by_block=True) | {"prompt.vlm": half["prompt.vlm"]}
    on_cpu = {name: (size, cpu) for name, size in streamed.items()}
    machines = [
        ("one 24 GB GPU", on_one, False, 24),
        ("one 24 GB GPU, `--efficient_memory`", on_one, True, 24),
        ("two 24 GB GPUs", on_two, False, 24),
        ("12 GB GPU, quantized text encoders, `--efficient_memory`", int8, True, 12),
        ("12 GB GPU, quantized text encoders, no VLM", without_vlm, False, 12),
        ("16 GB of memory and no GPU, `--efficient_memory`", on_cpu, True, 16),
    ]
    print("\n| machine | peak of each GPU | peak of CPU memory | fits |\n|---|---|---|---|")
    for machine, places, efficient, limit in machines:
        plan = plan_memory(places, efficient)
        gpus = [peak for device, peak in plan.peaks.items() if device != cpu]
        memory = [f"{plan.peaks[cpu] / 1e9:.1f} GB"] if cpu in plan.peaks else []
        memory += [f"up to {plan.waiting / 1e9:.1f} GB for models that wait"] if plan.waiting else []
        share = max(gpus or plan.peaks.values()) / (limit * 2**30)  # a card's GB are 2^30 bytes
        verdict = "no" if share > 1 else "tight" if share > 0.9 else "yes"
        shown = ", ".join(f"{peak / 1e9:.1f} GB" for peak in gpus)
        print(f"| {machine} | {shown or '–'} | {' + '.join(memory) or 'little'} | {verdict} |")


def sizes(dtype: "torch.dtype", by_block: bool = False) -> "dict[str, Size]":
    """Compute the size of every component in a dtype; ``by_block``: all but the VAE stay in their 16 bits."""
    import torch
    from accelerate import init_empty_weights
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from machine.memory import Size
    from sd3.networks import build_on_meta, part_size
    from sd3.spec import PARTS, VAE_PARTS

    found = {}
    for part, spec in PARTS.items():
        config = json.loads((DATA / "sd3_medium" / spec.folder / "config.json").read_text())
        streamed = by_block and part not in VAE_PARTS
        found[part] = part_size(
            build_on_meta(part, config), dtype, torch.float16, streamed, part == "transformer"
        )
    with init_empty_weights():
        vlm = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(DATA / "qwen2_5_vl_3b"))
    vlm.tie_weights()
    parameters = sum(parameter.numel() for parameter in vlm.parameters())
    return found | {"prompt.vlm": Size(parameters, parameters * dtype.itemsize)}


if __name__ == "__main__":
    main()
