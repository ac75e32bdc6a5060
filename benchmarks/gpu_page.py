"""The page that `gpu.py` writes: what was measured, as tables, or that nothing was."""

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
# A column: what stands above it, and what a row says there.
Column = tuple[str, Callable[[Row], str]]

HEAD = """# What was measured on a GPU

`python benchmarks/gpu.py` writes this page and `gpu.json` beside it; no section begins after 8 minutes, which
one 80 GB GPU should be done in. It needs no checkpoint: networks of the released sizes get random weights on
the device itself. The same command goes on where it was interrupted, and `--files FOLDER` also times the
reading of checkpoints (16 GB, written there first).

`make test-gpu` runs the tests that need a GPU: the published numbers in fp32, both 16-bit precisions, one
model at a time in the device's memory, batches that are halved where it ends, two GPUs, xformers, and
onnxruntime's CUDA provider.
"""
NOTHING = """
**Nothing was measured on a GPU yet**: nobody who wrote this had one. Until the command has run, these are
open:

| question | section that answers it |
|---|---|
| seconds a step, by kind of prompts, batch, precision and size | `steps`, `prompts`, `large` |
| memory that it takes, and how far off the plan of `--dry_run` is | the same, beside each peak |
| what `--efficient_memory` costs | `efficient` |
| which network takes the time, and how near it is to what the device can do | `parts` |
| how much nearer to fp32 fp16 is than bf16, at the true size ([tiny](memory.md#precision)) | `precision` |
| how much faster than the published schedule this is, on the same weights | `published` |
| how fast the embedded network is | `embedded` |
| how fast checkpoints are read | `loading` |
"""


def _number(key: str, digits: int = 3, scale: float = 1) -> Callable[[Row], str]:
    return lambda row: f"{row[key] / scale:.{digits}g}" if key in row else "–"


def _word(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _seconds(row: Row) -> str:
    return row["refused"] if "refused" in row else f"{row['seconds']:.3g}"


SECONDS: Column = ("seconds a picture", _seconds)
MEMORY: list[Column] = [
    ("peak, GB", _number("peak", scale=1e9)),
    ("planned, GB", _number("planned", scale=1e9)),
]
BATCH: Column = ("batch", _word("batch"))
FIXED = "The plan holds half a GB for CUDA itself, which the peak does not."
TABLES: dict[str, tuple[str, str, list[Column]]] = {
    "steps": (
        "A step, by precision and batch",
        f"SD3 without prompts, everything resident. {FIXED}",
        [("precision", _word("kind")), BATCH, SECONDS, *MEMORY],
    ),
    "prompts": (
        "A step with prompts",
        "Everything resident; answers of 32 tokens.",
        [("`--prompt_type`", _word("prompts")), BATCH, SECONDS, *MEMORY],
    ),
    "efficient": (
        "`--efficient_memory`",
        "With the VLM; a group of pictures passes each model together.",
        [
            ("pictures", _word("group")), BATCH, SECONDS, *MEMORY,
            ("share of reading and moving", lambda row: f"{row['moving']:.0%}"),
        ],
    ),
    "large": (
        "Large states, the VAE whole and in tiles",
        "SD3 without prompts, everything resident.",
        [
            ("side", _word("side")), ("decoder's tiles, pixels", _word("vae_decoder")), BATCH, SECONDS,
            *MEMORY,
        ],
    ),
    "parts": (
        "Each network against what the device can do",
        "The bound is the larger of two: FLOP (PyTorch's counter) by the FLOP a second of a large matrix "
        "product, and bytes of weights by the bytes a second of a large copy, both measured on the device.",
        [
            ("network", _word("part")), ("precision", _word("dtype")), BATCH,
            ("seconds", _number("seconds")), ("TFLOP", _number("flop", scale=1e12)),
            ("weights, GB", _number("bytes", scale=1e9)),
            ("bound, seconds", lambda row: f"{max(row['arithmetic'], row['reading']):.3g}"),
            ("of the bound", lambda row: f"{max(row['arithmetic'], row['reading']) / row['seconds']:.0%}"),
        ],
    ),
    "precision": (
        "16 bits against fp32",
        "SD3 from weights in fp16. Of a part: the norm of the difference by fp32's. The tiny networks are "
        "those of the tests; the true ones have random weights. Under fp16 the VAE computes in fp32.",
        [
            ("size", _word("size")), ("what", _word("part")),
            ("fp16", _number("fp16", 2)), ("bf16", _number("bf16", 2)),
        ],
    ),
    "published": (
        "Against the published schedule",
        "SD3 with a prompt of its own for each picture, the same weights, in turn; ours in the largest "
        "batch. Published: one picture at a time, LoRA unmerged, text encoders in fp16, all else in fp32.",
        [("schedule", _word("schedule")), ("seconds a picture", _number("seconds"))],
    ),
    "embedded": (
        "The embedded network",
        "A step of a state of 512 pixels.",
        [("precision", _word("kind")), BATCH, SECONDS, *MEMORY],
    ),
    "loading": (
        "Reading checkpoints",
        "SD3's parts from safetensors files to the device.",
        [
            ("from", _word("from")), ("part", _word("part")), ("GB", _number("bytes", scale=1e9)),
            ("seconds", _number("seconds")),
        ],
    ),
}  # fmt: skip


def table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Lay rows out in Markdown."""
    lines = [[title for title, _ in columns], ["---"] * len(columns)]
    lines += [[told(row) for _, told in columns] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def page(results: dict[str, Any] | None) -> str:
    """Return the page, of what `gpu.py` keeps as JSON; None where nothing was measured."""
    if results is None:
        return HEAD + NOTHING
    machine = results["machine"]
    words = [f"Measured on one {machine['device']}"]
    if "memory" in machine:
        words.append(f"{machine['memory'] / 1e9:.0f} GB, CUDA {machine['cuda']}")
    words += [f"{name} {machine[name]}" for name in ("torch", "transformers", "diffusers")]
    text = HEAD + f"\n{', '.join(words)}; networks of {machine['size']} size.\n"
    for name, (title, note, columns) in TABLES.items():
        section = results["sections"].get(name)
        if section is not None:
            text += f"\n## {title}\n\n{note}\n\n{table(columns, section['rows'])}"
    missing = [name for name in TABLES if name not in results["sections"]]
    if missing:
        text += f"\nNot measured: {', '.join(missing)}.\n"
    return text
