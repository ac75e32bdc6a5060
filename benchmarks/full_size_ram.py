"""Load a RAM checkpoint of the released size and layout: how long, and how much memory?

    python benchmarks/full_size_ram.py [--folder DIR]

Writes a 5.6 GB file of random numbers with the names, shapes and dtypes of ram_swin_large_14m.pth (the
optimizer and the unused caption parts included), a DAPE.pth and tag files, into a temporary folder; loads
them in a fresh process, once with the file dropped from the page cache and once from the cache; removes the
files. Needs 6 GB of disk and 7 GB of memory for a minute.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASED_BYTES = 5_625_634_877
TARGET_SECONDS, TARGET_GIB = 10.0, 2.5


def main() -> None:
    """Write, measure, print and clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", help="where to write the files (default: the system's temporary folder)")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # the fresh process
    options = parser.parse_args()
    if options.load:
        load(options.load)
        return
    with tempfile.TemporaryDirectory(prefix="full-size-ram-", dir=options.folder) as name:
        folder = Path(name)
        write(folder)
        size = (folder / "ram.pth").stat().st_size
        print(f"{size:,} bytes (released: {RELEASED_BYTES:,}); each line a fresh process, peak = VmHWM")
        print(f"Target: load < {TARGET_SECONDS:.0f} s, peak < {TARGET_GIB} GiB\n")
        print("| file     | check | imports | load   | peak     | one picture |")
        print("|----------|-------|---------|--------|----------|-------------|")
        for state in ("cold", "in cache"):
            if state == "cold":
                drop_from_cache(folder / "ram.pth")
            command = [sys.executable, __file__, "--load", str(folder)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(f"| {state:8} {line.rstrip()}")


def write(folder: Path) -> None:
    """Write ram.pth and DAPE.pth with random weights, as tests/data's manifests list them, and tag files."""
    import torch

    def random(shape: str, dtype: str) -> "torch.Tensor":
        sides = [int(side) for side in shape.split("x") if side]
        if dtype == "int64":
            return torch.zeros(sides, dtype=torch.int64)
        return torch.empty(sides).uniform_(-0.02, 0.02)

    def tensors(manifest: str) -> "dict[str, torch.Tensor]":
        rows = (ROOT / "tests" / "data" / manifest).read_text().splitlines()[1:]
        return {name: random(shape, dtype) for name, shape, dtype, _ in (row.split("\t") for row in rows)}

    torch.save(tensors("dape_manifest.tsv"), folder / "DAPE.pth")
    weights = tensors("ram_manifest.tsv")
    state: dict[int, dict[str, object]] = {}
    left = RELEASED_BYTES - sum(weight.numel() * weight.element_size() for weight in weights.values())
    for number, weight in enumerate(weights.values()):
        if weight.is_floating_point() and left >= 8 * weight.numel():
            moments = {name: torch.rand_like(weight) for name in ("exp_avg", "exp_avg_sq")}
            state[number] = {"step": 1000, **moments}
            left -= 8 * weight.numel()
    optimizer = {"state": state, "param_groups": [{"lr": 1e-5, "params": list(state)}]}
    torch.save({"model": weights, "optimizer": optimizer, "epoch": 4}, folder / "ram.pth")
    tags = len(weights["label_embed"])
    (folder / "tags.txt").write_text("".join(f"tag {number}\n" for number in range(tags)))
    (folder / "thresholds.txt").write_text("0.68\n" * tags)


def drop_from_cache(path: Path) -> None:
    """Make the next reader read from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load(folder: Path) -> None:
    """Load in this process and print the measured columns."""
    sys.path.insert(0, str(ROOT))
    from ram.files import check_ram_files

    start = time.perf_counter()
    names = ("ram.pth", "DAPE.pth", "tags.txt", "thresholds.txt")
    files = check_ram_files(*(folder / name for name in names))
    checked = time.perf_counter()
    import torch
    from PIL import Image

    from ram.model import load_ram, prepare

    imported = time.perf_counter()
    tagger = load_ram(files, torch.device("cpu"), torch.float32)
    loaded = time.perf_counter()
    peak = peak_gib()
    with torch.inference_mode():
        logits = tagger(prepare(Image.new("RGB", (512, 512)), files.size.image_side)[None])
    assert math.isfinite(logits.sum().item())
    tagged = time.perf_counter()
    print(
        f"| {checked - start:3.1f} s | {imported - checked:5.1f} s | {loaded - imported:4.1f} s |"
        f" {peak:4.2f} GiB | {tagged - loaded:9.1f} s |"
    )


def peak_gib() -> float:
    """Most memory this process ever had resident, mapped file pages included, in GiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


if __name__ == "__main__":
    main()
