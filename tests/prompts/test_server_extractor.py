"""The extractor that asks a server: the same questions, several at a time, and what speaks where it fails."""

import json
import threading

import pytest
from conftest import PARITY
from PIL import Image
from vlm_server_stand_in import MODEL, pictures_of, refusing, saying, standing_in

from machine.machine import Machine
from prompts.answer_cache import AnswerCache
from prompts.extractors import DapeExtractor, ServerExtractor
from prompts.vlm_server import KEY, VlmServer
from ram.files import check_ram_files
from zoom.protocols import Prompt, StepInput

RAM_FILES = (
    PARITY / "RAM" / "ram_swin_tiny.pth",
    PARITY / "DAPE" / "DAPE.pth",
    PARITY / "RAM" / "ram_tag_list.txt",
    PARITY / "RAM" / "ram_tag_list_threshold.txt",
)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    with standing_in() as one:
        yield one


@pytest.fixture
def machine():
    return Machine.choose("cpu", "fp32")


def colour(name, side=32):
    return Image.new("RGB", (side, side), name)


def step(seen, parent=None):
    return StepInput(crop=colour("white", 8), sr_input=seen, parent=parent)


def extractor(stand_in, machine, at_once=1, fallback=None, cache=None):
    server = VlmServer(stand_in.url, tries=1)
    server.check()
    return ServerExtractor(server, machine.times, 32, at_once, fallback, cache)


# what is asked


@pytest.mark.parametrize("two_pictures", [False, True])
def test_the_question_and_its_pictures_are_those_of_the_vlm_here(stand_in, machine, two_pictures):
    expected = json.loads((PARITY / "expected" / "vlm.json").read_text())
    chat = expected["recursive_multiscale" if two_pictures else "recursive"]["chat"]
    seen, parent = colour("red"), colour("blue", 48) if two_pictures else None
    [prompt] = extractor(stand_in, machine)([step(seen, parent)])
    assert prompt == Prompt("fur, whiskers", "vlm", raw="fur, whiskers")
    [question] = stand_in.questions
    system, user = question["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert system["content"] in chat
    assert question["max_tokens"] == 32
    sent = [picture.tobytes() for picture in pictures_of(question)]
    assert sent == [one.tobytes() for one in (parent, seen) if one is not None]
    assert chat.count("<|image_pad|>") == len(sent) == len(user["content"])


def test_questions_go_out_several_at_a_time_and_answers_come_in_their_order(stand_in, machine):
    together = threading.Barrier(3, timeout=10)

    def answer(question):
        together.wait()
        return saying(f"grey of {pictures_of(question)[0].getpixel((0, 0))}")

    stand_in.answer = answer
    steps = [step(Image.new("RGB", (8, 8), (number, 0, 0))) for number in range(6)]
    prompts = list(extractor(stand_in, machine, at_once=3)(steps))
    assert [prompt.text for prompt in prompts] == [f"grey of ({number}, 0, 0)" for number in range(6)]
    assert stand_in.most_at_once == 3


def test_without_a_picture_nothing_is_asked(stand_in, machine):
    assert list(extractor(stand_in, machine)([])) == []
    assert stand_in.questions == []


def test_an_answer_comes_before_those_after_it_are_there(stand_in, machine):
    go_on = threading.Event()

    def answer(question):
        if len(stand_in.questions) > 1:
            assert go_on.wait(10)
        return saying("fur")

    stand_in.answer = answer
    prompts = extractor(stand_in, machine)([step(colour("red"))] * 2)
    assert next(prompts).text == "fur"
    go_on.set()
    assert next(prompts).text == "fur"


# what speaks instead


def test_a_server_that_fails_leaves_the_prompt_empty_and_the_note_says_why(stand_in, machine, caplog):
    stand_in.replies = [refusing(400, "no pictures, please"), saying("fur")]
    first, second = extractor(stand_in, machine)([step(colour("red"))] * 2)
    assert (first.text, first.extractor, first.raw) == ("", "null", "")
    assert first.note.startswith("the VLM gave no answer: http://127.0.0.1")
    assert "no pictures, please" in first.note
    assert caplog.messages == [first.note]
    assert (second.text, second.note) == ("fur", "")


def test_tags_speak_where_the_server_fails_or_answers_what_is_no_prompt(stand_in, machine):
    stand_in.replies = [refusing(500), saying("fur"), saying("..."), saying("fur, " * 60)]
    tagger = DapeExtractor(check_ram_files(*RAM_FILES), machine)
    crop = Image.open(PARITY / "vlm_input" / "crop.png").convert("RGB")
    prompts = list(extractor(stand_in, machine, fallback=tagger)([step(crop)] * 4))
    [tags] = tagger([step(crop)])
    assert [prompt.text for prompt in prompts] == [tags.text, "fur", tags.text, tags.text]
    assert [prompt.extractor for prompt in prompts] == ["dape", "vlm", "dape", "dape"]
    assert [prompt.note.partition(":")[0] for prompt in prompts] == [
        "the VLM gave no answer",
        "",
        "the VLM's answer is empty",
        "the VLM's answer is only repetition",
    ]


# answers that are known


def test_a_later_run_does_not_ask_again_what_was_answered(stand_in, machine, tmp_path):
    stand_in.replies = [saying("fur"), refusing(500), saying("bark")]
    steps = [step(colour("red")), step(colour("blue"))]

    def ask():
        cache = AnswerCache(tmp_path / "answers.sqlite")
        return [prompt.text for prompt in extractor(stand_in, machine, cache=cache)(steps)]

    assert ask() == ["fur", ""]
    assert ask() == ["fur", "bark"]  # a failure is no answer
    assert ask() == ["fur", "bark"]
    assert len(stand_in.questions) == 3


def test_a_server_that_has_another_model_under_the_same_name_is_asked_anew(stand_in, machine, tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite")
    for created, parameters, questions in ((1, 10, 1), (2, 10, 1), (3, 20, 2)):
        entry = {"id": MODEL, "created": created, "meta": {"n_params": parameters}}
        stand_in.models.body = json.dumps({"data": [entry]}).encode()
        list(extractor(stand_in, machine, cache=cache)([step(colour("red"))]))
        assert len(stand_in.questions) == questions


# what a run records


def test_it_describes_itself_by_the_model_wherever_the_server_is(stand_in, machine, monkeypatch):
    monkeypatch.setenv(KEY, "sk-secret")
    described = extractor(stand_in, machine).describe()
    assert described["model"] == MODEL
    with standing_in() as elsewhere:
        assert extractor(elsewhere, machine).describe() == described
    assert "sk-secret" not in json.dumps(described)


def test_waiting_for_answers_has_its_stage(stand_in, machine):
    list(extractor(stand_in, machine)([step(colour("red"))]))
    assert set(machine.times) == {"prompt.vlm.answer"}
