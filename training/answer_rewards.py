"""The rewards as TRL wants them: functions over a batch of answers, in the order of `WEIGHTS`."""

from collections.abc import Callable, Sequence
from typing import Any

from prompts.rewards import critic_preference, no_prompt_penalty, phrase_exclusion, repetition_penalty
from training.critics import Candidate
from training.data import Pairs
from training.judge import Judge, filled
from training.reward_log import AnswerLog

Rewards = dict[str, float | None]
Function = Callable[..., list[float | None]]


class AnswerRewards:
    """Says what answers are worth.

    Args:
        pairs: what the questions are about.
        judge: asks the critic.
        phrases, ngram: see `prompts.rewards`.
        log: where each answer is written; None for nowhere.
    """

    def __init__(
        self, pairs: Pairs, judge: Judge, phrases: Sequence[str], ngram: int, log: AnswerLog | None = None
    ) -> None:
        self.pairs, self.judge, self.phrases, self.ngram, self.log = pairs, judge, phrases, ngram, log

    def of(self, rows: Sequence[int], answers: Sequence[str]) -> list[Rewards]:
        """Return the rewards of answers, by name; the critic's is None where it gave no score.

        Args:
            rows: number of the pair that each answer is about.
            answers: as they came.

        Raises:
            OutputError: the critic has failed too often in a row.
        """
        candidates = [
            Candidate(self.pairs.pair(row), answer) for row, answer in zip(rows, answers, strict=True)
        ]
        return [
            {
                "critic": None if score is None else critic_preference(score),
                "phrases": phrase_exclusion(answer, self.phrases),
                "repetition": repetition_penalty(answer, self.ngram),
                "no_prompt": no_prompt_penalty(answer),
            }
            for score, answer in zip(self.judge(candidates), answers, strict=True)
        ]

    def functions(self) -> list[Function]:
        """Return the reward functions for TRL, in the order of `WEIGHTS`.

        TRL calls them one after the other with the same answers; the first works for all.
        """
        worked_out: list[Rewards] = []

        def critic(
            row: Sequence[int], completions: Sequence[Any], trainer_state: Any, log_metric: Any, **_: object
        ) -> list[float | None]:
            answers = [completion[0]["content"] for completion in completions]
            worked_out[:] = self.of(row, answers)
            scores = [rewards["critic"] for rewards in worked_out]
            log_metric("critic_failed", scores.count(None) / len(scores))
            if self.log is not None:
                step = trainer_state.global_step + 1
                self.log.add(
                    [
                        {"step": step, "about": self.pairs.pair(number).label, "answer": answer, **rewards}
                        for number, answer, rewards in zip(row, answers, worked_out, strict=True)
                    ]
                )
            return filled(scores, row)

        def named(name: str) -> Function:
            def function(**_: object) -> list[float | None]:
                return [rewards[name] for rewards in worked_out]

            function.__name__ = name  # what TRL logs it as
            return function

        return [critic, *map(named, ("phrases", "repetition", "no_prompt"))]
