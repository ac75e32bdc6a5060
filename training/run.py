"""One training from beginning to end: what an earlier one has left, the trainer, the logs, the adapter."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.folders import read_json
from checkpoints.gate import blaming
from errors import InputError, OutputError
from lora.vlm_adapter import check_vlm_adapter
from prompts.answer_cache import AnswerCache
from prompts.vlm_files import VlmFiles, linear_layers
from training.answer_rewards import AnswerRewards
from training.critics import Critic
from training.data import Item, Pairs
from training.grpo import configuration, train
from training.judge import Judge
from training.reward_log import AnswerLog, RewardLog, draw_rewards
from training.settings import TrainingSettings
from training.tree import ADAPTER_FILES, MOST_SCORES, WAY_OUT, WHOLE, TrainingTree

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What one training is.

    Attributes:
        settings: checked.
        files: of the extractor, without an adapter.
        items: what is trained on.
        critic: who scores.
        tree: the folder.
        described: what an earlier training into the folder must agree in.
        about: what else training.json says: versions and the like.
        dtype: of the extractor's weights.
        cpu: use no GPU.
        save_steps: between two checkpoints.
        keep: how many of them stay.
        patience: see `training.judge.Judge`.
        overwrite: begin anew.
        quiet: show no progress.
    """

    settings: TrainingSettings
    files: VlmFiles
    items: Sequence[Item]
    critic: Critic
    tree: TrainingTree
    described: dict[str, Any]
    about: dict[str, Any]
    dtype: "torch.dtype"
    cpu: bool
    save_steps: int
    keep: int
    patience: int
    overwrite: bool
    quiet: bool


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        steps: all of them together.
        new: those of this run.
        unscored: what the critic has failed to score, in one line; empty where nothing.
        left_out: items that could not be read.
    """

    steps: int
    new: int
    unscored: str
    left_out: int


def run_training(job: Job) -> Outcome:
    """Train, going on where an earlier training into the folder has stopped.

    Raises:
        InputError: the folder belongs to another training, or its checkpoints cannot be used.
        OutputError: a file cannot be written, or the critic has failed too often in a row.
    """
    settings, tree = job.settings, job.tree
    bf16 = str(job.dtype) == "torch.bfloat16"
    arguments = configuration(settings, tree.root, job.save_steps, job.cpu, bf16)
    everyone, first = arguments.distributed_state, arguments.process_index == 0
    with tree.lock() if first else nullcontext():
        if first:
            tree.prepare()
            if job.overwrite:
                tree.remove()
        everyone.wait_for_everyone()
        tree.earlier(job.described)
        step, resume = last_checkpoint(tree, job.files)
        everyone.wait_for_everyone()  # all have looked, before the first process writes
        pairs = Pairs(job.items, settings.seed)
        if step > settings.steps:
            raise InputError(f"--steps {settings.steps}: {step} are done already; {WAY_OUT}")
        judge = Judge(job.critic, AnswerCache(tree.scores, MOST_SCORES), job.patience)
        watcher = _Logs(job, step, judge) if first else _Nothing()
        answers = AnswerLog(tree, tree.answers, step) if first else None
        rewards = AnswerRewards(pairs, judge, settings.excluded_phrases, settings.ngram, answers)
        if step < settings.steps:
            with watcher, _one_line(tree):
                train(arguments, settings, job.files, job.dtype, rewards, resume, watcher)
        if first:
            keep_adapter(tree, job.files, tree.checkpoint(settings.steps))
            watcher.save_report("done", settings.steps)
        everyone.wait_for_everyone()
    return Outcome(settings.steps, max(0, settings.steps - step), judge.summary(), pairs.left_out)


@contextmanager
def _one_line(tree: TrainingTree) -> Iterator[None]:
    """Turn a full disk or a full memory, as libraries report them, into one line.

    Raises:
        OutputError: one of the two.
    """
    from machine.memory import out_of_memory

    try:
        yield
    except OSError as error:  # the trainer's own checkpoints; our files have their own way
        raise OutputError.of(Path(error.filename or tree.root), error) from error
    except Exception as error:
        if out_of_memory(error):
            raise OutputError(
                "not enough memory; take a smaller --batch_size (--prompts_per_step only with another "
                "--output_dir) and run the same command again, it will go on"
            ) from None
        said = " ".join(str(error).split())
        if "PytorchStreamWriter" in said or "os error 28" in said:  # torch's and safetensors' words
            raise OutputError(f"{tree.root}: optimizer or adapter cannot be written ({said[:100]})") from None
        raise


def last_checkpoint(tree: TrainingTree, files: VlmFiles) -> tuple[int, Path | None]:
    """Find the last checkpoint that can be gone on from; a damaged one is named, and the one before it taken.

    Returns:
        Its step and its place; 0 and None where there is none.
    """
    for step, folder in reversed(tree.checkpoints().items()):
        try:
            check_checkpoint(folder, step, files)
        except InputError as error:
            logger.warning("%s; going on from an earlier one", error)
        else:
            return step, folder
    return 0, None


def check_checkpoint(folder: Path, step: int, files: VlmFiles) -> None:
    """See that a checkpoint can be gone on from.

    Raises:
        InputError: it is damaged, or of another model.
    """
    import torch

    check_vlm_adapter(folder, linear_layers(files.model.tensors))
    if read_json(folder / "trainer_state.json").get("global_step") != step:
        raise InputError(f"{folder / 'trainer_state.json'}: is of another step")
    for name in ("optimizer.pt", "scheduler.pt"):
        with blaming(folder / name, "remove the checkpoint"):
            torch.load(folder / name, map_location="cpu", weights_only=True)


def keep_adapter(tree: TrainingTree, files: VlmFiles, checkpoint: Path) -> None:
    """Copy the adapter of a checkpoint to its place of its own, and see that the zoom takes it.

    Raises:
        InputError: the checkpoint is not whole.
        OutputError: it cannot be written.
    """
    config = read_json(checkpoint / ADAPTER_FILES[0])
    config["base_model_name_or_path"] = files.name  # not where it lay on this machine
    tree.copy(checkpoint / ADAPTER_FILES[1], tree.adapter / ADAPTER_FILES[1])
    tree.write(json.dumps(config, indent=1).encode() + b"\n", tree.adapter / ADAPTER_FILES[0])
    check_vlm_adapter(tree.adapter, linear_layers(files.model.tensors))


class _Nothing:
    """What every process but the first one does beside training."""

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass

    def step(self, number: int, logged: Mapping[str, Any]) -> None:
        pass

    def saved(self, number: int) -> None:
        pass

    def save_report(self, status: str, step: int) -> None:
        pass


class _Logs(_Nothing):
    """Writes the logs and the report, and shows how far it is."""

    def __init__(self, job: Job, step: int, judge: Judge) -> None:
        self.job, self.tree, self.judge, self.at = job, job.tree, judge, step
        for later, folder in self.tree.checkpoints().items():
            if later > step:  # damaged
                shutil.rmtree(folder)
        self.log = RewardLog(self.tree, self.tree.rewards, step)
        self._bar: tqdm | None = None

    def __enter__(self) -> "_Logs":
        from tqdm import tqdm

        self.save_report("running", self.at)
        self._bar = tqdm(
            total=self.job.settings.steps, initial=self.at, unit="step", disable=self.job.quiet or None
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._bar is not None
        self._bar.close()
        if kind is not None:
            status = "stopped" if issubclass(kind, Exception) else "interrupted"
            self.save_report(status, max(self.tree.checkpoints(), default=0))

    def step(self, number: int, logged: Mapping[str, Any]) -> None:
        assert self._bar is not None
        row = self.log.add(number, logged)
        shown = {name: row[name] for name in ("reward", "critic") if row[name] is not None}
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)
        self._bar.update()

    def saved(self, number: int) -> None:
        self.tree.write(b"", self.tree.checkpoint(number) / WHOLE)
        for old in list(self.tree.checkpoints().values())[: -self.job.keep]:
            shutil.rmtree(old)
        self.at = number
        plot = draw_rewards(self.log.rows, f"{self.job.files.name}, {number} steps")
        self.tree.write(plot, self.tree.plot)
        self.save_report("running", number)

    def save_report(self, status: str, step: int) -> None:
        self.tree.save_report(
            {
                **self.job.about,
                "status": status,
                "step": step,
                "steps": self.job.settings.steps,
                "settings": self.job.described,
                "critic": {"asked": self.judge.asked, "faults": dict(self.judge.faults)},
            }
        )
