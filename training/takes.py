"""What a training takes of a GPU's memory, and how much it computes: worked out beforehand, not measured.

The model is Qwen2.5-VL with frozen weights and gradient checkpointing; TRL holds the logits of a tile alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import regex

from training.settings import TARGETS, TrainingSettings

TEXT_TOKENS = 60  # of the question and of the chat around it, at most
FIXED = 2**29  # bytes: CUDA's own context and libraries
TRAINED = 16  # bytes of a trained number: it, its gradient and two moments of AdamW, in float32
HEAD_TOKENS = 1024  # of which the log-probabilities hold logits at once, about


@dataclass(frozen=True)
class Takes:
    """What one process takes.

    Attributes:
        weights: bytes of the frozen extractor.
        trained: bytes of the adapter, its gradients and the optimizer.
        generating: bytes at work while a step's answers are sampled, all together.
        learning: bytes at work in a forward and backward pass over ``batch_size`` answers.
        tokens: of a step: pictures, questions and answers.
        flops: of a step.
    """

    weights: int
    trained: int
    generating: int
    learning: int
    tokens: int
    flops: float

    @property
    def peak(self) -> int:
        """Bytes on the device, without a critic."""
        return FIXED + self.weights + self.trained + max(self.generating, self.learning)


def what_it_takes(
    config: Mapping[str, Any],
    parameters: int,
    linears: Mapping[str, tuple[int, ...]],
    settings: TrainingSettings,
    item: int,
) -> Takes:
    """Work out what a training takes.

    Args:
        config: the extractor's config.json.
        parameters: of all of it.
        linears: shape (outputs, inputs) of its linear layers, by name in today's tree.
        settings: of the training.
        item: bytes of a weight.
    """
    text = config.get("text_config") or config
    vision = config["vision_config"]
    layers, hidden, inner = text["num_hidden_layers"], text["hidden_size"], text["intermediate_size"]
    keys = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    wrapped = [shape for name, shape in linears.items() if regex.fullmatch(TARGETS, name)]
    adapter = settings.lora_rank * sum(outputs + inputs for outputs, inputs in wrapped)
    language = sum(outputs * inputs for outputs, inputs in wrapped)
    seeing = sum(
        outputs * inputs for name, (outputs, inputs) in linears.items() if name.startswith("model.visual.")
    )

    merged = vision["patch_size"] * vision["spatial_merge_size"]
    side = max(1, round(settings.process_size / merged))  # in tokens
    pictures = 2 if settings.two_pictures else 1
    patches = pictures * (side * vision["spatial_merge_size"]) ** 2
    tokens = pictures * side**2 + TEXT_TOKENS + settings.max_new_tokens
    answers, batch = settings.answers_per_step, settings.batch_size

    # Sampling: all answers of a step at once. The widest moment is an MLP over all prompts, or all patches.
    cache = answers * tokens * layers * 2 * keys * item
    # a picture is float32 patches of two frames, and is there, and looked at, as often as there are answers
    pixels = answers * patches * 3 * 2 * vision["patch_size"] ** 2 * 4
    wide = 3 * item * answers * max(tokens * inner, patches * vision["intermediate_size"])
    # Learning: each layer's input is kept; one layer at a time is computed again with what gradients need.
    kept = batch * tokens * layers * hidden * item
    linear_inputs, linear_outputs = 6 * hidden + inner, 2 * hidden + 2 * keys + 2 * inner + hidden
    one_layer = (
        batch
        * tokens
        * (
            (8 * hidden + 4 * inner) * item  # attention, norms, gate, up and their product
            + linear_inputs
            * (4 + 4 + 1 + item)  # the adapter's inputs: float32, dropped out, the mask, cast again
            + 2 * linear_outputs * item  # what the adapter adds
        )
    )
    head = 2 * HEAD_TOKENS * text["vocab_size"] * 4
    batch_pixels = batch * patches * 3 * 2 * vision["patch_size"] ** 2 * 4

    step_tokens = answers * tokens
    # reading the prompt; then policy, its recomputation, the reference, and gradients of activations only
    passes = 1 + 2 + (1 if settings.beta else 0) + 1
    flops = 2 * language * step_tokens * passes + 2 * seeing * answers * patches * (passes - 1)
    return Takes(
        weights=parameters * item,
        trained=adapter * TRAINED,
        generating=cache + pixels + wide,
        learning=pixels + kept + one_layer + head + batch_pixels,
        tokens=step_tokens,
        flops=float(flops),
    )
