"""Asking the critic without depending on it: what it fails to score stops nothing, and is named."""

import logging
from collections import Counter
from collections.abc import Sequence

from errors import InputError, OutputError
from prompts.answer_cache import AnswerCache, digest_of_question
from training.critics import Candidate, Critic, Verdict, messages, verdict_of

logger = logging.getLogger(__name__)


class Judge:
    """Scores answers by a critic, as far as it answers.

    Args:
        critic: who is asked.
        cache: where scores are kept, so that a resumed training, or an evaluation, need not ask twice.
        patience: how often in a row the critic may score not one of the answers; 0 for any number of times.

    Attributes:
        asked: answers that needed a score, so far.
        faults: how often each fault came instead of one.
    """

    def __init__(self, critic: Critic, cache: AnswerCache | None = None, patience: int = 0) -> None:
        self.critic, self.cache, self.patience = critic, cache, patience
        self.asked = 0
        self.faults: Counter[str] = Counter()
        self._in_vain = 0

    def __call__(self, candidates: Sequence[Candidate]) -> list[float | None]:
        """Return the score of each candidate, from 0 to 100; None where the critic gave none.

        Raises:
            OutputError: it has given none at all too often in a row.
        """
        about = self.critic.describe()
        keys = [digest_of_question(about, messages(candidate)) for candidate in candidates]
        known = {key: score for key in set(keys) if (score := self._kept(key)) is not None}
        wanted = {key: one for key, one in zip(keys, candidates, strict=True) if key not in known}
        verdicts = dict(zip(wanted, self._ask(list(wanted.values())), strict=True))
        new = {key: verdict.score for key, verdict in verdicts.items() if verdict.score is not None}
        for key, score in new.items():
            if self.cache is not None:
                self.cache.put(key, f"{score:.4f}")
        known |= new
        self.asked += len(keys)
        for key in keys:
            if key not in known:
                self._note(verdicts[key].fault)
        self._lose_patience(bool(known), [verdict.fault for verdict in verdicts.values()])
        return [known.get(key) for key in keys]

    def _ask(self, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        if not candidates:
            return []
        try:
            verdicts = self.critic(candidates)
        except (InputError, OutputError):
            raise
        except Exception as error:  # whatever a model or a server makes a library raise
            logger.debug("the critic failed", exc_info=True)
            reason = " ".join(str(error).split())[:120]
            return [Verdict(None, f"{type(error).__name__}: {reason}")] * len(candidates)
        if len(verdicts) != len(candidates):
            return [Verdict(None, "it answered another number of questions")] * len(candidates)
        return verdicts

    def _kept(self, key: str) -> float | None:
        kept = self.cache.get(key) if self.cache is not None else None
        return None if kept is None else verdict_of(kept).score

    def _note(self, fault: str) -> None:
        self.faults[fault] += 1
        if self.faults[fault] == 1:
            logger.warning("the critic %s gave no score: %s (said once; counted)", self.name, fault)

    def _lose_patience(self, some: bool, faults: Sequence[str]) -> None:
        self._in_vain = 0 if some or not faults else self._in_vain + 1
        if self.patience and self._in_vain >= self.patience:
            raise OutputError(
                f"the critic {self.name} has scored nothing {self._in_vain} times in a row ({faults[-1]}); "
                "see to it and run the same command again, which goes on"
            )

    @property
    def name(self) -> str:
        """What messages call the critic."""
        described = self.critic.describe()
        return " ".join(str(described[word]) for word in ("critic", "model", "url") if described.get(word))

    @property
    def failed(self) -> int:
        """How many answers got no score so far."""
        return self.faults.total()

    def summary(self) -> str:
        """Say in one line what the critic has failed to score; empty where nothing."""
        if not self.faults:
            return ""
        faults = "; ".join(f"{fault} ({count})" for fault, count in self.faults.most_common(3))
        return f"the critic {self.name} gave no score to {self.failed} of {self.asked} answers: {faults}"


def filled(scores: Sequence[float | None], groups: Sequence[object]) -> list[float | None]:
    """Put the mean of its group into the place of each score that is missing.

    GRPO compares answers within a group. A missing score that counted as 0 would teach that the answer was
    bad; the mean of its group speaks neither for nor against it. A group without any score stays without: its
    answers differ in their other rewards alone.

    Args:
        scores: of answers.
        groups: what each answer is about.
    """
    known: dict[object, list[float]] = {}
    for score, group in zip(scores, groups, strict=True):
        if score is not None:
            known.setdefault(group, []).append(score)
    means = {group: sum(values) / len(values) for group, values in known.items()}
    return [means.get(group) if score is None else score for score, group in zip(scores, groups, strict=True)]
