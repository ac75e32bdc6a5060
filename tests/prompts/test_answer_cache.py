"""Answers kept on disk: by content, bounded, for several at once, and whatever happens to the file."""

import logging
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from prompts.answer_cache import AnswerCache, digest_of_question, users_cache
from prompts.questions import conversation

RED = Image.new("RGB", (8, 6), "red")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "folder" / "answers.sqlite"


def test_an_answer_is_found_by_a_later_run_and_another_question_has_none(file):
    AnswerCache(file).put("a", "fur, whiskers\n")
    assert AnswerCache(file).get("a") == "fur, whiskers\n"
    assert AnswerCache(file).get("b") is None


def test_the_last_answer_to_a_question_counts(file):
    cache = AnswerCache(file)
    for answer in ("fur", "bark"):
        cache.put("a", answer)
    assert cache.get("a") == "bark"


def test_a_question_is_known_by_its_words_its_pixels_and_who_is_asked():
    taller = Image.new("RGB", (6, 8), "red")  # as many bytes, and the same ones
    questions = [
        ({"model": model}, conversation(pictures))
        for model in ("one", "other")
        for pictures in ([RED], [taller], [RED, RED], [RED, taller], [taller, RED])
    ]
    digests = [digest_of_question(about, messages) for about, messages in questions]
    assert len(set(digests)) == len(digests)
    assert digest_of_question({"model": "one"}, conversation([RED.copy()])) == digests[0]


def test_the_oldest_answers_go_where_there_are_too_many(file):
    cache = AnswerCache(file, most=5)
    for number in range(20):
        cache.put(str(number), "fur")
    assert [number for number in range(20) if cache.get(str(number))] == list(range(15, 20))


def test_threads_and_processes_share_a_file(file):
    caches = [AnswerCache(file) for _ in range(3)]

    def put_and_get(number):
        caches[number % 3].put(str(number), f"answer {number}")
        return caches[(number + 1) % 3].get(str(number))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(put_and_get, range(30))) == [f"answer {number}" for number in range(30)]


@pytest.mark.parametrize("answer", [None, b"fur", "bark"])
def test_an_answer_that_was_not_put_there_is_none(file, answer):
    AnswerCache(file).put("a", "fur")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE answers SET answer = ?", (answer,))
    assert AnswerCache(file).get("a") is None


def test_a_damaged_file_costs_one_warning_and_its_answers_and_stays_as_it_is(file, caplog):
    file.parent.mkdir()
    file.write_bytes(b"no database at all" * 100)
    cache = AnswerCache(file)
    cache.put("a", "fur")
    assert cache.get("a") is None
    [message] = caplog.messages
    assert str(file) in message
    assert "delete it" in message
    assert file.read_bytes() == b"no database at all" * 100


def test_whatever_bytes_are_damaged_nothing_is_raised_and_no_wrong_answer_given(file, caplog):
    caplog.set_level(logging.ERROR)
    cache = AnswerCache(file)
    for number in range(20):
        cache.put(str(number), "fur" * 20 * number)
    whole, found = file.read_bytes(), 0
    for seed in range(60):
        dice = random.Random(seed)
        damaged = bytearray(whole[: dice.randrange(1, len(whole))] if seed % 3 == 0 else whole)
        for _ in range(dice.randrange(1, 300)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        file.write_bytes(damaged)
        cache = AnswerCache(file)
        for number in range(20):
            answer = cache.get(str(number))
            assert answer in (None, "fur" * 20 * number)
            found += answer is not None
        cache.put("new", "bark")
    assert found


def test_a_place_that_cannot_be_written_costs_one_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = AnswerCache(tmp_path / "file" / "answers.sqlite")
    cache.put("a", "fur")
    assert cache.get("a") is None
    assert len(caplog.messages) == 1


def test_the_users_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert users_cache().is_relative_to(tmp_path)
