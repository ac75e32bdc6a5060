"""GRPO (arXiv 2402.03300) on TRL's trainer: the extractor with a new adapter, and what its answers are worth.

TRL, datasets and transformers' trainer are imported inside functions, where classes are derived of theirs.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prompts.questions import conversation
from prompts.vlm_files import VlmFiles
from prompts.vlm_loading import load_vlm
from training.answer_rewards import AnswerRewards
from training.data import Pairs
from training.qwen_processor import processor_of
from training.settings import TARGETS, TrainingSettings

if TYPE_CHECKING:
    import torch


class Watcher(Protocol):
    """Hears how a training comes on; in every process."""

    def step(self, number: int, logged: Mapping[str, Any]) -> None:
        """A step is done, and TRL says this of it."""
        ...

    def saved(self, number: int) -> None:
        """Every process has written its part of a step's checkpoint."""
        ...


def configuration(settings: TrainingSettings, folder: Path, save_steps: int, cpu: bool, bf16: bool) -> Any:
    """Return TRL's configuration. Where several processes train, this joins them.

    Args:
        settings: checked.
        folder: where checkpoints go.
        save_steps: between two checkpoints.
        cpu: use no GPU.
        bf16: compute in bfloat16 where autocast does; else in the dtype of the weights.
    """
    from trl import GRPOConfig

    arguments = GRPOConfig(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        num_generations=settings.num_generations,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        beta=settings.beta,
        reward_weights=list(settings.weights.values()),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        shuffle_dataset=False,  # `Pairs` are in random order, the same one after a resumption
        remove_unused_columns=False,
        logging_steps=1,
        save_steps=save_steps,
        use_cpu=cpu,
        bf16=bf16,
        report_to="none",
        disable_tqdm=True,
        log_multimodal=False,
    )
    # TRL refuses several GPUs in one process; the others are for a critic, or for more processes
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def train(
    arguments: Any,
    settings: TrainingSettings,
    files: VlmFiles,
    dtype: "torch.dtype",
    rewards: AnswerRewards,
    resume: Path | None,
    watcher: Watcher,
) -> None:
    """Train an adapter until its last step, and leave checkpoints.

    Args:
        arguments: from `configuration`.
        settings: the same.
        files: of the extractor, found whole, without an adapter.
        dtype: of its weights; the adapter's own are float32.
        rewards: what answers are worth; its pairs are what is asked about.
        resume: the checkpoint to go on from.
        watcher: hears of steps and checkpoints.

    Raises:
        OutputError: the critic has failed too often in a row, or a log cannot be written.
    """
    from peft import LoraConfig
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOTrainer

    class Trainer(GRPOTrainer):
        def _send_telemetry(self) -> None:
            """Tell nobody."""

        def create_model_card(self, *_: object, **__: object) -> None:
            """Write none: it would describe another use."""

    model: Any = load_vlm(files, arguments.device, dtype)
    # a model that says where a picture begins would have to be shown one: TRL forbids one of these four alone
    marks = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    arguments.generation_kwargs = {"suppress_tokens": [getattr(model.config, mark) for mark in marks]}
    trainer = Trainer(
        model=model,
        reward_funcs=rewards.functions(),
        args=arguments,
        train_dataset=questions(rewards.pairs, settings),
        processing_class=processor_of(files.folder),
        peft_config=LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=TARGETS,
            task_type="CAUSAL_LM",
        ),
        callbacks=[_telling(watcher, arguments.distributed_state.wait_for_everyone)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))


def questions(pairs: Pairs, settings: TrainingSettings) -> Any:
    """Return the rows that are asked about, as a `datasets.Dataset`: pictures are made when a row is read."""
    from datasets import Dataset

    pictures = 2 if settings.two_pictures else 1

    def made(batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        shown = [pairs.pair(row) for row in batch["row"]]
        asked = [conversation([one.parent, one.sr_input][-pictures:]) for one in shown]
        return {"row": batch["row"], "prompt": asked}

    return Dataset.from_dict({"row": list(range(settings.rows))}).with_transform(made)


def _telling(watcher: Watcher, wait_for_everyone: Callable[[], None]) -> Any:
    from transformers import TrainerCallback

    class Telling(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: object) -> None:
            if "loss" in logs:  # and not the summary of all
                watcher.step(state.global_step, logs)

        def on_save(self, args: Any, state: Any, control: Any, **_: object) -> None:
            wait_for_everyone()
            watcher.saved(state.global_step)

    return Telling()
