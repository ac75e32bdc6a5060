"""Asking the critic: what is cached, what fails and is named, what stops the training, what a score is."""

import doctest
import logging

import pytest
from PIL import Image

from errors import OutputError
from prompts.answer_cache import AnswerCache
from training import critics
from training.critics import Candidate, Verdict, messages, verdict_of
from training.data import Pair
from training.judge import Judge, filled

PAIR = Pair("a.png", Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue"))
OTHER = Pair("b.png", Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "green"))


class Told:
    """A critic that answers as it is told, and remembers what it was asked."""

    def __init__(self, *verdicts, name="told"):
        self.verdicts, self.asked, self.name = list(verdicts), [], name

    def __call__(self, candidates):
        self.asked.append([candidate.answer for candidate in candidates])
        said = self.verdicts.pop(0)
        if isinstance(said, Exception):
            raise said
        return [verdict_of(one) for one in said]

    def describe(self):
        return {"critic": self.name}


def of(*answers, pair=PAIR):
    return [Candidate(pair, answer) for answer in answers]


# what a score is


def test_the_examples_of_the_module_are_true():
    assert doctest.testmod(critics).failed == 0


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("0", 0), ("100", 100), (" 85\n", 85), ("85.5", 85.5), ("**85**", 85), ("85/100", 85), ("85%", 85),
        ("Score: 85", 85), ("rating = 7", 7), ("'85'.", 85),
    ],
)  # fmt: skip
def test_one_number_is_a_score(text, score):
    assert verdict_of(text) == Verdict(score)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "good",
        "101",
        "-5",
        "1000",
        "85 or 90",
        "I'd say 85",
        "8 5",
        "85/10",
        "1e2",
        "nan",
        "٨٥",
        "85\n90",
    ],
)
def test_anything_else_is_none(text):
    assert verdict_of(text) == Verdict(None, "its answer is no number from 0 to 100")


def test_the_critic_sees_both_pictures_in_order_and_the_answer_word_by_word():
    [message] = messages(Candidate(PAIR, "fur, {whiskers}"))
    first, second, text = message["content"]
    assert (first["image"], second["image"]) == (PAIR.parent, PAIR.sr_input)
    assert "<answer>\nfur, {whiskers}\n</answer>" in text["text"]


# the cache


def test_what_was_scored_before_is_not_asked_again_also_by_another_process(tmp_path):
    first = Told(["10", "20"])
    assert Judge(first, AnswerCache(tmp_path / "s"))(of("a", "b")) == [10, 20]
    second = Told(["30"])
    assert Judge(second, AnswerCache(tmp_path / "s"))(of("b", "c", "a")) == [20, 30, 10]
    assert second.asked == [["c"]]


def test_one_answer_given_twice_is_asked_about_once():
    critic = Told(["10", "20"])
    assert Judge(critic)(of("a", "b", "a")) == [10, 20, 10]
    assert critic.asked == [["a", "b"]]


def test_other_pictures_or_another_critic_are_asked_anew(tmp_path):
    cache = AnswerCache(tmp_path / "s")
    Judge(Told(["10"]), cache)(of("a"))
    assert Judge(Told(["20"]), cache)(of("a", pair=OTHER)) == [20]
    assert Judge(Told(["30"], name="another"), cache)(of("a")) == [30]


def test_what_got_no_score_is_asked_again(tmp_path):
    cache = AnswerCache(tmp_path / "s")
    assert Judge(Told(["nonsense"]), cache)(of("a")) == [None]
    assert Judge(Told(["40"]), cache)(of("a")) == [40]


# what fails


def test_a_fault_is_named_once_counted_and_told_at_the_end(caplog):
    judge = Judge(Told(["nonsense", "50"], ["nonsense", "60"]))
    with caplog.at_level(logging.WARNING):
        assert judge(of("a", "b")) == [None, 50]
        assert judge(of("c", "d")) == [None, 60]
    assert caplog.text.count("the critic told gave no score: its answer is no number") == 1
    assert judge.summary() == (
        "the critic told gave no score to 2 of 4 answers: its answer is no number from 0 to 100 (2)"
    )


def test_an_exception_of_the_critic_is_a_fault_like_any_other():
    judge = Judge(Told(RuntimeError("it\nfell over"), ["50"]))
    assert judge(of("a", "b")) == [None, None]
    assert judge(of("c")) == [50]
    assert judge.faults == {"RuntimeError: it fell over": 2}


def test_a_critic_that_answers_another_number_of_questions_scores_nothing():
    assert Judge(Told(["50"]))(of("a", "b")) == [None, None]


def test_patience_ends_after_so_many_times_in_a_row_without_any_score():
    nothing = ["x", "x"]
    judge = Judge(Told(nothing, ["x", "5"], nothing, nothing, nothing), patience=3)
    for number in range(4):
        judge(of(f"a{number}", f"b{number}"))
    with pytest.raises(OutputError, match=r"has scored nothing 3 times in a row .*the same command"):
        judge(of("a4", "b4"))


def test_without_a_bound_patience_never_ends():
    judge = Judge(Told(*[["x"]] * 50))
    for number in range(50):
        judge(of(str(number)))
    assert judge.failed == 50


# groups


def test_a_missing_score_is_the_mean_of_its_group_and_speaks_for_nobody():
    assert filled([1.0, None, 0.0, None, None, 0.5], [0, 0, 0, 1, 1, 2]) == [1.0, 0.5, 0.0, None, None, 0.5]
