"""Fuzz for a night: ``make fuzz N=20000``. Prints findings, exit code 1 if there are any."""

import logging
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from quantized_parts import FROM
from tqdm import tqdm

import quantize_model
from fuzz.targets import TARGETS, finding

SLOW = 10.0  # seconds
LARGE = 2**30  # bytes above what the process had


def main() -> int:
    """Run N cases, from seed START on."""
    number = int(sys.argv[1])
    start = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    logging.disable(logging.WARNING)
    targets = [target for target in TARGETS if len(sys.argv) < 4 or target.__name__ in sys.argv[3:]]
    bad = 0
    parts = tempfile.TemporaryDirectory()
    os.environ["FUZZ_QUANTIZED"] = parts.name
    arguments = ["--model_component", "all", "--output_dir", parts.name, "-q", *map(str, FROM)]
    assert quantize_model.main(arguments) == 0
    for case in tqdm(range(start, start + number), disable=None):
        target = targets[case % len(targets)]
        with tempfile.TemporaryDirectory() as folder:
            before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            wrong = finding(target, Path(folder), case)
            took, grown = (
                time.monotonic() - since,
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
            )
        if took > SLOW:
            wrong += f" took {took:.1f} s"
        if grown * 1024 > LARGE:
            wrong += f" took {grown / 2**20:.1f} GiB"
        if wrong:
            bad += 1
            print(f"{target.__name__} {case}: {wrong}", flush=True)
    parts.cleanup()
    print(f"{number} cases, {bad} findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
