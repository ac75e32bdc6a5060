"""Before and after: what the answers of base and adapter are worth, about pictures not trained on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError, PictureError
from machine.machine import Machine
from prompts.extractors import VlmExtractor
from prompts.rewards import WEIGHTS, total
from prompts.vlm_files import VlmFiles
from training.answer_rewards import AnswerRewards, Rewards
from training.data import Pair
from training.settings import TrainingSettings
from training.tree import ADAPTER_FILES
from zoom.protocols import StepInput

WHO = ("base", "adapter")
AT_ONCE = 16  # answers that are judged between two looks at how far it is


@dataclass(frozen=True)
class Answer:
    """An answer, and what it is worth: by the names of `WEIGHTS`, and ``reward``, the weighted sum of these.

    Where the critic gave no score, ``critic`` and ``reward`` are None.
    """

    text: str
    rewards: Rewards


@dataclass(frozen=True)
class Compared:
    """A question, and both answers to it, by the names of `WHO`."""

    pair: Pair
    answers: dict[str, Answer]


@dataclass(frozen=True)
class Evaluation:
    """All questions, and the means over them.

    Attributes:
        compared: in the order of asking.
        means: by the names of `WHO`, then by those of an `Answer`'s rewards; what needs the critic is a mean
            over the questions both of whose answers it has scored, and None where there is none.
        scored: how many these are.
    """

    compared: list[Compared]
    means: dict[str, Rewards]
    scored: int


def adapter_to_evaluate(tree_adapter: Path, checkpoints: Mapping[int, Path], given: Path | None) -> Path:
    """Return the adapter's folder: the one that is given, the finished one, or the last checkpoint.

    Raises:
        InputError: there is none.
    """
    if given is not None:
        return given
    if (tree_adapter / ADAPTER_FILES[0]).is_file():
        return tree_adapter
    if checkpoints:
        return checkpoints[max(checkpoints)]
    raise InputError(
        f"--evaluate: no adapter in {tree_adapter.parent} yet; train first, or give one with --vlm_lora_path"
    )


def ask(files: VlmFiles, machine: Machine, pairs: Sequence[Pair], settings: TrainingSettings) -> list[str]:
    """Return the extractor's answer to each question, as a zoom would get it: greedy, and as it came.

    Raises:
        InputError: the extractor cannot be loaded, or not used.
    """
    extractor = VlmExtractor(files, machine, settings.max_new_tokens, fallback=None)
    inputs = [
        StepInput(one.sr_input, one.sr_input, one.parent if settings.two_pictures else None) for one in pairs
    ]
    answers = []
    for said in extractor(inputs):
        if isinstance(said, PictureError):
            raise InputError(f"the extractor cannot answer: {said}")
        answers.append(said.raw)
    return answers


def compare(
    pairs: Sequence[Pair],
    answers: Mapping[str, Sequence[str]],
    rewards: AnswerRewards,
    weights: Mapping[str, float],
    quiet: bool = True,
) -> Evaluation:
    """Work out what the answers are worth.

    Args:
        pairs: what was asked about: the first ones of ``rewards``.
        answers: to each, by the names of `WHO`.
        rewards: says what an answer is worth.
        weights: of the rewards.
        quiet: show no progress.

    Raises:
        OutputError: the critic has failed too often in a row.
    """
    from tqdm import tqdm

    rows = range(len(pairs))
    worth: dict[str, list[Rewards]] = {who: [] for who in WHO}
    with tqdm(total=len(rows) * len(WHO), unit="answer", disable=quiet or None) as bar:
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            for who in WHO:
                found = rewards.of(some, [answers[who][row] for row in some])
                worth[who] += [_whole(one, weights) for one in found]
                bar.update(len(some))
    compared = [
        Compared(pair, {who: Answer(answers[who][row], worth[who][row]) for who in WHO})
        for row, pair in enumerate(pairs)
    ]
    both = [row for row in rows if all(worth[who][row]["critic"] is not None for who in WHO)]
    means: dict[str, Rewards] = {who: {} for who in WHO}
    for who in WHO:
        for name in ("reward", *WEIGHTS):
            values = [worth[who][row][name] for row in (both if name in ("reward", "critic") else rows)]
            known = [value for value in values if value is not None]
            means[who][name] = round(sum(known) / len(known), 4) if known else None
    return Evaluation(compared, means, len(both))


def _whole(rewards: Rewards, weights: Mapping[str, float]) -> Rewards:
    return {"reward": None if rewards["critic"] is None else total(rewards, weights), **rewards}


def as_json(evaluation: Evaluation, about: dict[str, Any]) -> bytes:
    """Return what evaluation.json holds."""
    answers = [
        {
            "about": one.pair.label,
            **{who: {"answer": said.text, **said.rewards} for who, said in one.answers.items()},
        }
        for one in evaluation.compared
    ]
    content = {
        **about,
        "questions": len(evaluation.compared),
        "scored": evaluation.scored,
        "means": evaluation.means,
        "answers": answers,
    }
    return json.dumps(content, indent=1).encode() + b"\n"
