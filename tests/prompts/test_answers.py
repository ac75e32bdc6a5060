"""A VLM's answers: which of them are prompts, and what is cleaned off those that are."""

import json

import pytest
from conftest import PARITY

from prompts.answers import cleaned, fault_of


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("fur, whiskers, a grey cat", ""),
        ("brown, soft, fur, fur", ""),
        ("The image shows a cat. The cat is grey.", ""),
        ("cat", ""),
        ("", "empty"),
        ("  \n", "empty"),
        ("!!!!!!!!!!!!", "empty"),
        ("\x1e\ufffd\ufffd\x00", "empty"),
        ("\x1e\ufffd\ufffd)\x1e a \ufffd", "without a word"),
        ("a b, c1d2", "without a word"),
        ("42", "without a word"),
        ("YYYYYYYYYYYY", "only repetition"),
        ("(YYYYYYYYYYY", "only repetition"),
        ("cat, dog, cat, dog, cat, dog, cat, d", "only repetition"),
        (
            "the fur of the cat, the fur of the cat, the fur of the cat, the fur of the cat,",
            "only repetition",
        ),
        ("毛皮毛皮毛皮毛皮毛皮", "only repetition"),
    ],
)
def test_an_answer_is_judged(answer, fault):
    assert fault_of(answer) == fault


@pytest.mark.parametrize("word", ["кот", "γάτα", "قطة", "बिल्ली", "แมว", "e\u0301te\u0301"])
def test_three_letters_of_any_script_are_a_word_with_their_marks(word):
    assert fault_of(word) == ""


@pytest.mark.parametrize("word", ["猫", "木目", "ねこ", "ネコ", "목", "개 한 마리"])
def test_where_one_letter_is_a_word_one_is_enough(word):
    assert fault_of(word) == ""


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (" a cat,\n  grey fur\t\n", "a cat, grey fur"),
        ("a\x00cat\x07, \x1b[31mred\x85fur\x9f", "a cat , [31mred fur"),
        ("grey\ufffd\ufffdfur", "grey fur"),
        ("so\u00adft \u202efur\u202c\ufeff", "soft fur"),
        ("soft\u200bfur\u3000red", "soft fur red"),
        ("half\ud800 fur", "half fur"),
    ],
)
def test_what_is_no_text_is_cleaned_off(answer, text):
    assert cleaned(answer) == text


@pytest.mark.parametrize(
    "answer", ["a cat, grey fur", "L'œil d’un chat — 100 % net", "毛皮, 猫", "fur 🐈", "e\u0301te\u0301"]
)
def test_text_stays_as_it_is(answer):
    assert cleaned(answer) == answer


def test_published_tags_stay_as_they_are():
    tags = json.loads((PARITY / "expected" / "tags.json").read_text())
    texts = [picture["tags"] for model in ("ram", "dape") for picture in tags[model].values()]
    assert [cleaned(text) for text in texts] == texts
