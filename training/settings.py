"""What can be chosen about a training, with its defaults; no torch, so that help stays quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from errors import InputError
from prompts.rewards import EXCLUDED_PHRASES, NGRAM, WEIGHTS

SCHEDULES = ("constant_with_warmup", "linear", "cosine")
QUESTIONS = ("recursive_multiscale", "recursive")  # as --rec_type of a run
# The language model's linear layers, by their names in today's tree; the vision tower stays as it is.
TARGETS = r"^model\.language_model.*\.(q|k|v|o|gate|up|down)_proj$"


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the adapter, beside the pictures, the model and the critic.

    Attributes:
        rec_type: what the extractor is shown: ``recursive_multiscale`` the state and its crop, ``recursive``
            the crop alone. The critic sees both.
        process_size: side of a state, in pixels.
        upscale: factor of a step.
        steps: of the optimizer.
        prompts_per_step: pairs that each process asks about in a step.
        num_generations: answers to each, which GRPO compares with each other.
        batch_size: answers in one forward and backward pass.
        learning_rate, lr_scheduler_type, warmup_steps, max_grad_norm: of the optimizer, AdamW.
        beta: weight of the KL divergence from the untrained extractor.
        temperature: of the answers that are sampled.
        max_new_tokens: where an answer is cut off.
        lora_rank, lora_alpha, lora_dropout: of the adapter.
        weights: of the rewards, by the names of `prompts.rewards.WEIGHTS`.
        excluded_phrases: what a prompt should not say.
        ngram: length of the n-grams that must not repeat, in words.
        seed: of the pairs, the answers and the adapter's first weights.
        processes: that train together.
    """

    rec_type: str = "recursive_multiscale"
    process_size: int = 512
    upscale: int = 4
    steps: int = 1000
    prompts_per_step: int = 4
    num_generations: int = 8
    batch_size: int = 8
    learning_rate: float = 1e-5
    lr_scheduler_type: str = SCHEDULES[0]
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    beta: float = 0.04
    temperature: float = 1.0
    max_new_tokens: int = 128
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    excluded_phrases: tuple[str, ...] = EXCLUDED_PHRASES
    ngram: int = NGRAM
    seed: int = 42
    processes: int = 1

    @property
    def two_pictures(self) -> bool:
        """Whether the extractor sees the state, too."""
        return self.rec_type == "recursive_multiscale"

    @property
    def answers_per_step(self) -> int:
        """Answers that each process gets in a step."""
        return self.prompts_per_step * self.num_generations

    @property
    def accumulation(self) -> int:
        """Forward and backward passes of a process in a step."""
        return self.answers_per_step // self.batch_size

    @property
    def rows(self) -> int:
        """Pairs that the whole training asks about."""
        return self.steps * self.prompts_per_step * self.processes

    def check(self) -> None:
        """See that the numbers go together.

        Raises:
            InputError: the first that does not.
        """
        answers = self.answers_per_step
        if answers % self.batch_size:
            fits = [size for size in range(1, answers + 1) if answers % size == 0 and size <= self.batch_size]
            raise InputError(
                f"--batch_size {self.batch_size}: does not divide the {answers} answers of a step "
                f"(--prompts_per_step times --num_generations); take {fits[-1]}"
            )
        if self.process_size < 64 or self.process_size % 16:
            raise InputError(f"--process_size {self.process_size}: must be a multiple of 16, at least 64")
        if not 2 <= self.upscale <= 8:
            raise InputError(f"--upscale {self.upscale}: must be from 2 to 8")
        for name, least, most in (
            ("learning_rate", 0.0, 1.0),
            ("max_grad_norm", 0.0, 1e6),
            ("beta", -1e-9, 1e3),
            ("temperature", 0.0, 100.0),
            ("lora_dropout", -1e-9, 0.99),
        ):
            value = getattr(self, name)
            if not least < value <= most:
                raise InputError(f"--{name} {value:g}: must be {_range(least)} and at most {most:g}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}: must be from 0 to 2**32 - 1")
        for name, weight in self.weights.items():
            if not 0 <= weight <= 1e3:
                raise InputError(f"--{name}_weight {weight:g}: must be from 0 to 1000")
        if not any(self.weights.values()):
            raise InputError("the weights of all rewards are 0: nothing would be learned")
        if not all(phrase.strip() for phrase in self.excluded_phrases):
            raise InputError("--excluded_phrases: a phrase has no letter in it")

    def described(self) -> dict[str, Any]:
        """Return what two runs into one folder must agree in (JSON values).

        How many steps there are changes no step before them, unless the learning rate depends on it; how many
        answers one pass takes changes only rounding.
        """
        described = {
            **vars(self),
            "weights": dict(self.weights),
            "excluded_phrases": list(self.excluded_phrases),
        }
        del described["batch_size"]
        if self.lr_scheduler_type == SCHEDULES[0]:
            del described["steps"]
        return described


def _range(least: float) -> str:
    return "0 or more" if least < 0 else f"more than {least:g}"
