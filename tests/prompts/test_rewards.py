"""What an answer is worth: each reward at its ends and between, and their weighted sum."""

import doctest

import pytest

from prompts import rewards
from prompts.rewards import (
    WEIGHTS,
    critic_preference,
    no_prompt_penalty,
    phrase_exclusion,
    repetition_penalty,
    total,
)


def test_the_examples_of_the_module_are_true():
    assert doctest.testmod(rewards).failed == 0


@pytest.mark.parametrize(("score", "reward"), [(0, 0.0), (85, 0.85), (100, 1.0)])
def test_a_score_becomes_a_share(score, reward):
    assert critic_preference(score) == reward


@pytest.mark.parametrize("score", [-1, 100.5, float("nan")])
def test_what_is_no_score_is_refused(score):
    with pytest.raises(ValueError, match="not from 0 to 100"):
        critic_preference(score)


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        ("grey fur, whiskers", 1.0),
        ("the SECOND image shows fur", 0.0),
        ("fur of the first\n image", 0.0),
        ("an image, the second", 1.0),
        ("", 1.0),
    ],
)
def test_an_excluded_phrase_costs_the_reward_in_any_case_and_over_lines(answer, reward):
    assert phrase_exclusion(answer) == reward


def test_phrases_are_the_users():
    assert phrase_exclusion("the second image", ["zoom"]) == 1.0
    assert phrase_exclusion("a Zoom into fur", ["zoom"]) == 0.0


@pytest.mark.parametrize(
    ("answer", "penalty"),
    [
        ("grey fur, whiskers, a nose", 0.0),
        ("fur", 0.0),
        ("", 0.0),
        ("a b c a b c", -0.25),
        ("A b C a B c", -0.25),
        ("fur fur fur fur", -0.5),
        (" ".join(["fur"] * 102), -0.99),
    ],
)
def test_the_share_of_repeated_trigrams_is_taken_off(answer, penalty):
    assert repetition_penalty(answer) == pytest.approx(penalty)


def test_the_length_of_n_grams_can_be_chosen():
    assert repetition_penalty("a b a b", ngram=1) == -0.5
    assert repetition_penalty("a b a b", ngram=4) == 0.0


@pytest.mark.parametrize(
    ("answer", "penalty"), [("grey fur", 0.0), ("", -1.0), ("... !", -1.0), ("fur, " * 20, -1.0)]
)
def test_what_the_extractor_refuses_as_a_prompt_costs(answer, penalty):
    assert no_prompt_penalty(answer) == penalty


def test_the_sum_is_weighted_as_in_the_paper_and_leaves_out_what_is_not_known():
    assert {name: WEIGHTS[name] for name in ("critic", "phrases", "repetition")} == {
        "critic": 1.0,
        "phrases": 0.5,
        "repetition": 0.5,
    }
    known = {"critic": 0.8, "phrases": 1.0, "repetition": -0.2, "no_prompt": 0.0}
    assert total(known) == pytest.approx(0.8 + 0.5 - 0.1)
    assert total({**known, "critic": None}) == pytest.approx(0.4)
