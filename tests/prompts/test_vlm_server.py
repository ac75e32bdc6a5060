"""A model behind an OpenAI-compatible server: what is sent, what is taken, what a failure says."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from PIL import Image
from vlm_server_stand_in import MODEL, Reply, pictures_of, refusing, saying, standing_in

from errors import InputError
from prompts import vlm_server
from prompts.vlm_server import KEY, LONGEST_ANSWER, LONGEST_REASON, MOST_BYTES, ServerFailure, VlmServer

RED, BLUE = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (7, 9), "blue")
QUESTION = [
    {"role": "system", "content": "What is it?"},
    {"role": "user", "content": [{"type": "image", "image": RED}, {"type": "text", "text": "Well?"}]},
]


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    with standing_in() as one:
        yield one


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that were waited; in truth none."""
    waited = []
    monkeypatch.setattr(vlm_server, "sleep", waited.append)
    monkeypatch.setattr(vlm_server.random, "uniform", lambda *_: 1.0)
    return waited


def ask(stand_in, **settings):
    return VlmServer(stand_in.url, MODEL, **settings).ask(QUESTION, 32)


# what is sent, and what is taken


def test_a_question_goes_out_at_temperature_0_with_its_pictures_whole_as_png(stand_in):
    pictures = [{"type": "image", "image": RED}, {"type": "image", "image": BLUE}]
    answer = VlmServer(stand_in.url, MODEL).ask([{"role": "user", "content": pictures}], 32)
    assert answer == "fur, whiskers"
    [question] = stand_in.questions
    assert {name: question[name] for name in question if name != "messages"} == {
        "model": MODEL,
        "max_tokens": 32,
        "temperature": 0,
        "stream": False,
    }
    assert [(one.format, one.tobytes()) for one in pictures_of(question)] == [
        ("PNG", RED.tobytes()),
        ("PNG", BLUE.tobytes()),
    ]


def test_texts_and_the_order_of_parts_stay_as_they_are(stand_in):
    ask(stand_in)
    system, user = stand_in.questions[0]["messages"]
    assert system == QUESTION[0]
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert user["content"][1] == {"type": "text", "text": "Well?"}


def test_several_threads_may_ask_at_once(stand_in):
    barrier = threading.Barrier(4, timeout=10)

    def answer(question):
        barrier.wait()  # BrokenBarrierError where fewer than four are there together
        return saying(question["messages"][0]["content"].upper())

    stand_in.answer = answer
    server = VlmServer(stand_in.url, MODEL)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda word: server.ask([{"role": "user", "content": word}], 8), "abcd")
        assert list(answers) == ["A", "B", "C", "D"]


def test_what_a_model_thinks_aloud_is_no_part_of_its_answer(stand_in):
    stand_in.replies = [saying("<think>\nA cat?\n</think>\n\ngrey fur"), saying("<think>and on and on")]
    assert ask(stand_in).strip() == "grey fur"
    assert ask(stand_in) == ""


def test_an_answer_has_no_characters_that_files_or_terminals_could_stumble_over(stand_in):
    stand_in.replies = [saying("fur\x00\x1b[31m \ud800\u202egrey\n")]
    assert ask(stand_in) == "fur[31m grey\n"


# the key


def test_a_key_from_the_environment_is_sent_and_stands_in_no_message_and_no_log(
    stand_in, monkeypatch, caplog
):
    monkeypatch.setenv(KEY, "sk-secret\n")
    caplog.set_level(logging.DEBUG)
    long = "x" * (LONGEST_REASON // 2 - 9) + " sk-secret"  # which a cut would go through
    stand_in.replies = [
        saying("fur, sk-secret"),
        refusing(400, long),
        refusing(401, "no such key: sk-secret"),
    ]
    server = VlmServer(stand_in.url, MODEL)
    assert server.ask(QUESTION, 8) == "fur, ***"
    with pytest.raises(ServerFailure) as cut:
        server.ask(QUESTION, 8)
    assert "sk-s" not in str(cut.value)
    assert stand_in.headers[0]["Authorization"] == "Bearer sk-secret"
    with pytest.raises(ServerFailure, match=rf"401 .*\*\*\*.*{KEY}") as caught:
        server.ask(QUESTION, 8)
    assert "sk-secret" not in str(caught.value) + caplog.text


def test_words_that_stand_for_no_key_are_left_in_answers(stand_in, monkeypatch):
    monkeypatch.setenv(KEY, "none")
    stand_in.replies = [saying("a cat, none other")]
    assert ask(stand_in) == "a cat, none other"


def test_without_a_key_none_is_sent_and_a_server_that_wants_one_says_where_it_goes(stand_in):
    stand_in.replies = [refusing(401, "who are you?")]
    with pytest.raises(ServerFailure, match=f"who are you.*a key goes into {KEY}"):
        ask(stand_in)
    assert "Authorization" not in stand_in.headers[0]


def test_a_key_that_would_break_out_of_its_header_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv(KEY, "secret\r\nHost: elsewhere")
    with pytest.raises(InputError, match=KEY) as caught:
        VlmServer("http://localhost/v1")
    assert "secret" not in str(caught.value)


# the check at the start


def test_the_only_model_of_a_server_needs_no_name(stand_in):
    assert VlmServer(stand_in.url).check() == MODEL


@pytest.mark.parametrize("name", ["b", "c"])
def test_a_model_that_is_there_is_found_also_without_ollamas_tag(stand_in, name):
    stand_in.serve(["a", "b", "c:latest"])
    assert VlmServer(stand_in.url, name).check() == name


def test_a_model_that_is_not_there_is_named_with_those_that_are(stand_in):
    stand_in.serve([f"model-{number}" for number in range(10)])
    with pytest.raises(InputError, match=r"--vlm_model other: .*no such model, but model-0, .* and 2 more"):
        VlmServer(stand_in.url, "other").check()
    with pytest.raises(InputError, match=r"has model-0, .*choose one with --vlm_model"):
        VlmServer(stand_in.url).check()


def test_a_models_name_may_be_a_long_path_and_is_sent_whole(stand_in):
    name = "/models/" + "x" * 500 + ".gguf"
    stand_in.serve([name, "not\x1b[2Jprintable"])
    server = VlmServer(stand_in.url)
    assert server.check() == name
    server.ask(QUESTION, 8)
    assert stand_in.questions[0]["model"] == name


def test_a_server_that_is_not_there_is_named_at_once(stand_in, pauses):
    url = stand_in.url.replace("127.0.0.1", "localhost.invalid")
    with pytest.raises(InputError, match=rf"--vlm_url {url}: cannot be asked"):
        VlmServer(url).check()
    assert pauses == []


def test_an_address_without_its_path_is_told_of_it(stand_in):
    with pytest.raises(
        InputError, match=r"404 Not Found .no such place.; most servers' addresses end in /v1"
    ):
        VlmServer(stand_in.url.removesuffix("/v1")).check()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 3}', b'{"data": [{"id": 3}]}', b"[" * 99_999])
def test_what_is_no_list_of_models_is_refused(stand_in, body):
    stand_in.models = Reply(body)
    with pytest.raises(InputError, match=r"--vlm_url http.*/models"):
        VlmServer(stand_in.url).check()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://host:99999/v1",
        "http://ho st/v1",
        "http://h/v1?a=1",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InputError, match="--vlm_url"):
        VlmServer(url)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(InputError, match=KEY) as caught:
        VlmServer("http://me:secret@host/v1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("end", ["/", "/chat/completions"])
def test_what_servers_print_as_their_address_is_taken(stand_in, end):
    assert VlmServer(stand_in.url + end).check() == MODEL


# what may pass is tried again


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again_after_growing_pauses(stand_in, pauses, status):
    stand_in.replies = [refusing(status), refusing(status)]
    assert ask(stand_in) == "fur, whiskers"
    assert pauses == [1.0, 2.0]


def test_retry_after_is_heeded_in_seconds_and_as_a_date_but_not_for_ever(stand_in, pauses):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    replies = [refusing(429, Retry_After=value) for value in ("7", soon, "9999999999", "tomorrow", "-5")]
    stand_in.replies = list(replies)
    assert ask(stand_in, tries=6) == "fur, whiskers"
    assert pauses[0] == 7
    assert 25 < pauses[1] <= 30
    assert pauses[2:] == [60.0, 8.0, 16.0]


def test_tries_are_bounded_and_the_last_failure_is_told(stand_in, pauses):
    stand_in.answer = lambda _: refusing(503, "Loading\nmodel")
    with pytest.raises(ServerFailure, match=r"http://.*: answers 503 Service Unavailable \(Loading model\)"):
        ask(stand_in, tries=3)
    assert len(stand_in.questions) == 3
    assert len(pauses) == 2


def test_while_a_server_is_down_each_question_is_tried_once_until_one_is_answered(stand_in, pauses):
    server = VlmServer(stand_in.url, MODEL, tries=3)
    stand_in.replies = [refusing(503)] * 4
    for _ in range(2):
        with pytest.raises(ServerFailure):
            server.ask(QUESTION, 8)
    assert len(stand_in.questions) == 3 + 1
    server.ask(QUESTION, 8)
    stand_in.replies = [refusing(503)]
    assert server.ask(QUESTION, 8) == "fur, whiskers"


def test_a_server_that_says_when_to_come_back_is_not_taken_for_down(stand_in, pauses):
    server = VlmServer(stand_in.url, MODEL, tries=2)
    stand_in.replies = [refusing(429, Retry_After="3")] * 3
    with pytest.raises(ServerFailure, match="429"):
        server.ask(QUESTION, 8)
    assert server.ask(QUESTION, 8) == "fur, whiskers"
    assert pauses == [3, 3]


@pytest.mark.parametrize("status", [400, 404, 422])
def test_what_a_server_refuses_is_not_asked_again(stand_in, pauses, status):
    stand_in.replies = [refusing(status, "At most 0 image(s) may be provided")]
    with pytest.raises(ServerFailure, match=rf"{status} .*At most 0 image"):
        ask(stand_in)
    assert len(stand_in.questions) == 1


def test_a_server_that_hangs_is_given_up_in_time(stand_in, pauses):
    stand_in.answer = lambda _: Reply(after=2)
    with pytest.raises(ServerFailure, match=r"no answer within 0\.1 s"):
        ask(stand_in, timeout=0.1, tries=2)
    assert len(pauses) == 1


def test_an_answer_that_only_trickles_is_given_up_in_time(stand_in, monkeypatch):
    now = iter(range(0, 10_000, 60))
    monkeypatch.setattr(vlm_server, "monotonic", lambda: next(now))
    stand_in.answer = lambda _: saying("a" * 2_000_000)  # comes in many pieces, one a minute
    with pytest.raises(ServerFailure, match="no whole answer within 90 s"):
        ask(stand_in, timeout=90, tries=1)


def test_an_answer_that_breaks_off_is_asked_for_again(stand_in, pauses):
    whole = saying("fur").body
    stand_in.replies = [Reply(whole[:20], headers={"Content-Length": str(len(whole)), "Connection": "close"})]
    assert ask(stand_in) == "fur, whiskers"
    assert len(pauses) == 1


# what is no answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": {"0": 1}}',
        b'{"choices": [3]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": ["fur"]}}]}',
        b'{"choices": ' + b"[" * 100_000,
        b'{"choices": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe\x00",
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_answer_is_one_failure_and_not_asked_again(stand_in, pauses, body):
    stand_in.replies = [Reply(body)]
    with pytest.raises(ServerFailure, match=r"http://.*/v1: .*answers"):
        ask(stand_in)
    assert len(stand_in.questions) == 1


def test_an_answer_without_end_is_not_read_to_its_end(stand_in):
    stand_in.replies = [Reply(b"x" * 9 * MOST_BYTES), saying("x" * (LONGEST_ANSWER + 1))]
    with pytest.raises(ServerFailure, match="more than 4,194,304 bytes"):
        ask(stand_in)
    with pytest.raises(ServerFailure, match="more than 10,000 characters"):
        ask(stand_in)


def test_a_packed_answer_is_not_unpacked(stand_in):
    stand_in.replies = [Reply(b"x", headers={"Content-Encoding": "gzip"})]
    with pytest.raises(ServerFailure, match="packs its answer"):
        ask(stand_in)


def test_a_redirect_is_not_followed_and_the_key_stays(stand_in, monkeypatch):
    monkeypatch.setenv(KEY, "sk-secret")
    with standing_in() as elsewhere:
        stand_in.replies = [Reply(status=307, headers={"Location": f"{elsewhere.url}/chat/completions"})]
        with pytest.raises(ServerFailure, match=f"redirects to {elsewhere.url}"):
            ask(stand_in)
        assert elsewhere.headers == []


def test_a_servers_own_words_are_cut_and_printable(stand_in):
    stand_in.replies = [refusing(400, "no\x1b[2J\n" + "way " * 10_000)]
    with pytest.raises(ServerFailure) as caught:
        ask(stand_in)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_a_proxy_of_the_environments_is_not_asked_for_this_machines_own_server(stand_in, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    assert VlmServer(stand_in.url).check() == MODEL
