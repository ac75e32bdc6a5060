"""Print what training the prompt extractor takes, as docs/training.md has it: computed, nothing is run.

python benchmarks/training_fits.py
"""

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CRITIC = 8_292_166_656 * 2  # bytes of Qwen2.5-VL-7B in bf16
# answers a pass, questions a step
SIZES = [(1, 4), (2, 4), (4, 4), (8, 4), (16, 4), (32, 4), (32, 8), (64, 8)]
CARDS = (24, 48, 80)


def main() -> None:
    """Print the table of sizes."""
    import torch
    from accelerate import init_empty_weights
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from training.settings import TrainingSettings
    from training.takes import what_it_takes

    config = Qwen2_5_VLConfig.from_pretrained(ROOT / "tests" / "data" / "qwen2_5_vl_3b")
    with init_empty_weights():
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.tie_weights()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    linears = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    print(
        "| `--batch_size` | `--prompts_per_step` | sampling | learning | in all, on | and a 7B critic, on |"
    )
    print("|---:|---:|---:|---:|---|---|")
    for batch, prompts in SIZES:
        settings = replace(TrainingSettings(), batch_size=batch, prompts_per_step=prompts)
        takes = what_it_takes(config.to_dict(), parameters, linears, settings, 2)
        needed = [f"{one / 1e9:.1f} GB" for one in (takes.generating, takes.learning)]
        needed += [f"{one / 1e9:.1f} GB, {_card(one)}" for one in (takes.peak, takes.peak + CRITIC)]
        print(f"| {batch} | {prompts} | {' | '.join(needed)} |")
    settings = TrainingSettings()
    takes = what_it_takes(config.to_dict(), parameters, linears, settings, 2)
    print(
        f"\nweights {takes.weights / 1e9:.1f} GB, adapter and optimizer {takes.trained / 1e9:.2f} GB; ",
        end="",
    )
    print(f"a step: {takes.tokens:,} tokens, {takes.flops / 1e15:.2f} PFLOP")
    for name, peak in (("A100", 312e12), ("RTX 4090", 165e12), ("H100", 989e12)):
        seconds = takes.flops / (0.3 * peak)
        print(f"{name} at 30 % of {peak / 1e12:.0f} TFLOP/s: {seconds:.1f} s a step without the critic")


def _card(needed: int) -> str:
    """Say which is the smallest card that has so many bytes, and a twentieth to spare."""
    fitting = [card for card in CARDS if needed < 0.95 * card * 2**30]  # a card's GB are 2^30 bytes
    return f"a {fitting[0]} GB card" if fitting else "none of these cards"


if __name__ == "__main__":
    main()
