"""Prompts a minute that batches of questions bring on this machine, in fp32, from a VLM of 300 M parameters.

The VLM is Qwen2.5-VL of a tenth of its size with random weights (`mid_size`); each question is about two
pictures of 512x512, as a step asks it, and each answer has its full length. Batches in turn, so that a
machine that slows down slows all of them; medians of the rounds.

    python benchmarks/prompts_a_minute.py --scratch /tmp/schedule
    python benchmarks/prompts_a_minute.py --scratch /tmp/schedule --cache static --batch 8
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SIDE = 512  # of a picture, in pixels


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--scratch", type=Path, required=True, help="folder of the VLM; benchmarks/schedule.py's has it")
    add("--batch", type=int, nargs="+", default=[1, 4, 8], help="questions at a time")
    add("--max_new_tokens", type=int, default=128, help="length of every answer")
    add("--cache", choices=["dynamic", "static"], default="dynamic", help="of keys and values")
    add("--rounds", type=int, default=3)
    options = parser.parse_args()

    from full_size import write_pictures
    from mid_size import write_qwen
    from PIL import Image

    from machine.machine import Machine
    from prompts.vlm_files import check_vlm_folder
    from prompts.vlm_loading import generate, load_vlm, processor_of
    from zoom.states import enlarge

    write_qwen(options.scratch / "qwen")
    files = check_vlm_folder(options.scratch / "qwen", None)
    machine = Machine.choose(precision="fp32")
    device = machine.devices.vlm
    model, processor = load_vlm(files, device, machine.dtype(device)), processor_of(files)
    generation: Any = model.generation_config
    generation.cache_implementation = None if options.cache == "dynamic" else options.cache
    folder = options.scratch / f"pictures_{SIDE}"
    files_of_pictures = write_pictures(folder, max(options.batch), (SIDE, SIDE), SIDE // 8)
    pictures = [Image.open(file) for file in files_of_pictures]
    middle = (3 * SIDE // 8, 3 * SIDE // 8, 5 * SIDE // 8, 5 * SIDE // 8)
    questions = [[one, enlarge(one.crop(middle), one.size)] for one in pictures]

    # seconds until every question of a batch has its first token, and its last
    first: dict[int, list[float]] = {size: [] for size in options.batch}
    whole: dict[int, list[float]] = {size: [] for size in options.batch}
    for _ in range(options.rounds):
        for size in options.batch:
            asked = processor(questions[:size])
            for tokens, seconds in ((1, first), (options.max_new_tokens, whole)):
                started = time.perf_counter()
                answers = generate(model, asked, tokens)
                seconds[size].append(time.perf_counter() - started)
                assert answers.shape == (size, tokens)

    print(f"{options.max_new_tokens} tokens an answer, {options.cache} cache\n")
    print(
        "| questions at a time | prompts a minute | times one at a time | seconds a prompt"
        " | of these until the first token | milliseconds a further token of all |\n"
        "|---:|---:|---:|---:|---:|---:|"
    )
    medians = {size: [statistics.median(one[size]) for one in (whole, first)] for size in options.batch}
    alone = medians[options.batch[0]][0] / options.batch[0]
    for size, (all_of_it, until_first) in medians.items():
        a_prompt = all_of_it / size
        further = (all_of_it - until_first) / max(options.max_new_tokens - 1, 1)
        print(
            f"| {size} | {60 / a_prompt:.1f} | {alone / a_prompt:.2f} | {a_prompt:.1f} "
            f"| {until_first / size:.1f} | {1000 * further:.0f} |"
        )


if __name__ == "__main__":
    main()
