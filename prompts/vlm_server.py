"""A picture-text model behind an OpenAI-compatible server (vLLM, llama.cpp, Ollama ...), asked over HTTP.

What comes back is untrusted, and a server may fail in any way: an answer is bounded in time and in length,
redirects are not followed, and whatever goes wrong is one kind of failure with one line.
"""

import base64
import io
import json
import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from errors import InputError

if TYPE_CHECKING:
    import httpx
    from PIL.Image import Image

KEY = "VLM_API_KEY"  # environment variable; not OPENAI_API_KEY, which is meant for one server only
TIMEOUT = 120.0  # seconds for one try; a model on a CPU may need most of it
CONNECT_TIMEOUT = 10.0
TRIES = 3
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between tries; they double, and Retry-After goes before
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # statuses that may pass by themselves
MOST_NAMES = 8  # of models in a message
MOST_BYTES = 4 * 2**20  # of what a server sends; public servers list hundreds of models
LONGEST_ANSWER = 10_000  # characters, as of a prompt that a user gives
LONGEST_REASON = 240  # characters of a message; servers add words of their own
LONGEST_NAME = 1000  # characters of a model's; for llama.cpp it may be a path
SHORTEST_KEY = 8  # characters
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

Message = Mapping[str, Any]


class ServerFailure(Exception):
    """The server gave no answer that can be used; the message is one line with its address and the reason.

    Attributes:
        may_pass: whether the same question may be answered another time.
        retry_after: seconds that the server asks to wait; None where it does not say.
    """

    def __init__(self, message: str, may_pass: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.may_pass, self.retry_after = may_pass, retry_after


class VlmServer:
    """Asks one model of a server. May be used from several threads at once.

    Args:
        url: the API's base, as ``http://HOST:PORT/v1``.
        model: its name there; None takes the server's only one, once `check` has asked for it.
        timeout: seconds for one try, until the whole answer is there.
        tries: of one question, where what went wrong may pass. As long as the server does not recover, the
            questions after that are tried once each; but for one that says when to come back.

    A key that the server wants is read from the environment (`KEY`). It is sent to this server alone, and
    stands in no message.

    Attributes:
        identity: what tells its answers from others' (JSON values); more of it once `check` has asked.

    Raises:
        InputError: the address or the key cannot be one.
    """

    def __init__(
        self, url: str, model: str | None = None, timeout: float = TIMEOUT, tries: int = TRIES
    ) -> None:
        import httpx

        self.url = checked_url(url)
        self.model, self.timeout, self.tries = model, timeout, tries
        self.identity: dict[str, Any] = {"url": self.url, "model": model}
        self._is_down = False
        self._key = os.environ.get(KEY, "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise InputError(f"{KEY}: holds characters that no key has; set it again")
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "chain-of-zoom"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            # a proxy of the environment's is used, but none can reach this machine's own servers
            mounts={f"all://{host}": None for host in LOOPBACK},
        )

    def check(self) -> str:
        """Ask once whether the server is there and has the model, and return the model's name.

        Raises:
            InputError: it does not answer, or has no such model; then those that it has are named.
        """
        try:
            models = self.models()
        except ServerFailure as failure:
            raise InputError(f"--vlm_url {failure}") from None
        if not models:
            raise InputError(f"--vlm_url {self.url}: offers no model; start it with one")
        if self.model is None:
            if len(models) != 1:
                raise InputError(
                    f"--vlm_url {self.url}: has {_listed(models)}; choose one with --vlm_model NAME"
                )
            [self.model] = models
        known = models.get(self.model, models.get(f"{self.model}:latest"))  # Ollama's default tag
        if known is None:
            raise InputError(f"--vlm_model {self.model}: {self.url} has no such model, but {_listed(models)}")
        self.identity = {"url": self.url, "model": self.model, "known": known}
        return self.model

    def models(self) -> dict[str, dict[str, Any]]:
        """Return the names of the models that the server offers, with what it says of each; one try.

        What it says is what stays as long as the model is the same one: its file, number of parameters.

        Raises:
            ServerFailure: it gave no such list.
        """
        data = self._answer("GET", "/models").get("data")
        models: dict[str, dict[str, Any]] = {}
        for entry in data if isinstance(data, list) else [None]:
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
                raise self._failure("/models gives no list of models")
            name = entry["id"]
            if len(name) <= LONGEST_NAME and name.isprintable():
                models[name] = _lasting(entry)
        return models

    def ask(self, messages: Sequence[Message], max_tokens: int) -> str:
        """Ask a question at temperature 0.

        Args:
            messages: as transformers' chat templates take them: ``role``, and ``content``: a text, or a list
                of parts, ``{"type": "text", "text": ...}`` or ``{"type": "image", "image": picture}`` with a
                PIL picture of any size, which is sent whole, as a PNG.
            max_tokens: where the answer is cut off.

        Returns:
            The answer, printable characters and white space only, at most `LONGEST_ANSWER` of them. What a
            model that thinks aloud puts into ``<think>`` is left out.

        Raises:
            ServerFailure: there was none, however often it was tried.
        """
        body = {
            "model": self.model,
            "messages": [_as_sent(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": False,
        }
        encoded = json.dumps(body).encode()
        tries = 1 if self._is_down else self.tries
        for number in range(tries):
            try:
                answer = self._answer("POST", "/chat/completions", encoded)
            except ServerFailure as failure:
                self._is_down = failure.may_pass and failure.retry_after is None  # else it is only busy
                if not failure.may_pass or number == tries - 1:
                    raise
                sleep(_pause(number, failure.retry_after))
            else:
                self._is_down = False
                return self._text(answer)
        raise AssertionError("there is at least one try")

    def _answer(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """Try once; return the JSON object that the server answers with."""
        import httpx

        try:
            with self._client.stream(
                method, self.url + path, content=body, headers={"Content-Type": "application/json"}
            ) as response:
                text = self._read(response)
        except httpx.TimeoutException:
            raise self._failure(f"no answer within {self.timeout:g} s", may_pass=True) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error).partition(": bytearray")[0] or "the connection failed"
            raise self._failure(f"cannot be asked ({reason})", may_pass=True) from None
        if response.is_redirect:
            where = response.headers.get("Location", "nowhere")
            raise self._failure(f"redirects to {where}; give the address of the server itself")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if response.status_code != 200:
            raise self._refusal(response, answer)
        if not isinstance(answer, dict):
            raise self._failure(f"{path} answers with something that is no JSON object")
        return answer

    def _read(self, response: "httpx.Response") -> bytes:
        """Read an answer as it comes; not what is packed, nor without end."""
        deadline, text = monotonic() + self.timeout, b""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._failure("packs its answer, which was not asked for")
        for piece in response.iter_raw():
            text += piece
            if len(text) > MOST_BYTES:
                raise self._failure(f"answers with more than {MOST_BYTES:,} bytes")
            if monotonic() > deadline:
                raise self._failure(f"no whole answer within {self.timeout:g} s", may_pass=True)
        return text

    def _refusal(self, response: "httpx.Response", answer: object) -> ServerFailure:
        from checkpoints.transfer import seconds_of

        status = response.status_code
        said = answer.get("error", answer.get("message")) if isinstance(answer, dict) else None
        said = said.get("message") if isinstance(said, dict) else said
        reason = f"answers {status} {response.reason_phrase}".rstrip()
        if isinstance(said, str):
            reason += f" ({_one_line(self._without_key(said), LONGEST_REASON // 2)})"
        if status in (401, 403):
            reason += f"; is the key in {KEY} right?" if self._key else f"; a key goes into {KEY}"
        elif status in (404, 405) and not self.url.endswith("/v1"):
            reason += "; most servers' addresses end in /v1"
        after = seconds_of(response.headers.get("Retry-After"))
        return self._failure(reason, status in TRY_AGAIN, after)

    def _failure(
        self, reason: str, may_pass: bool = False, retry_after: float | None = None
    ) -> ServerFailure:
        reason = _one_line(self._without_key(reason), LONGEST_REASON)
        return ServerFailure(f"{self.url}: {reason}", may_pass, retry_after)

    def _without_key(self, text: str) -> str:
        """Take the key out of what a server repeats; what is as short as "none" or "EMPTY" is no secret."""
        return text.replace(self._key, "***") if len(self._key) >= SHORTEST_KEY else text

    def _text(self, answer: Mapping[str, Any]) -> str:
        choices = answer.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        message = first.get("message") if isinstance(first, dict) else None
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise self._failure("answers without a text")
        text = self._without_key(re.sub(r"^\s*<think>.*?(</think>|$)", "", text, count=1, flags=re.DOTALL))
        if len(text) > LONGEST_ANSWER:
            raise self._failure(f"answers with more than {LONGEST_ANSWER:,} characters")
        return tidied(text)


def tidied(text: str) -> str:
    """Return a text without what files and terminals could stumble over: surrogates, controls."""
    return "".join(one for one in text if one.isprintable() or one.isspace())


def checked_url(url: str) -> str:
    """Return an API's base without the slash at its end.

    Raises:
        InputError: it is none, or holds what has its place elsewhere.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError(f"--vlm_url {url}: must be an address like http://localhost:8000/v1")
    if "@" in parts.netloc:  # not repeated: it would be in logs
        raise InputError(f"--vlm_url: leave name and password out of it; a key goes into {KEY}")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    if parts.query or parts.fragment:
        raise InputError(f"--vlm_url {url}: must end with its path, as in http://localhost:8000/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _as_sent(message: Message) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, str):
        content = [_part(part) for part in content]
    return {"role": message["role"], "content": content}


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part["type"] != "image":
        return part
    return {"type": "image_url", "image_url": {"url": _data_url(part["image"])}}


def _data_url(picture: "Image") -> str:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def _pause(number: int, retry_after: float | None) -> float:
    """Return how long to wait after the ``number``-th try; not all who wait come back at one moment."""
    if retry_after is None:
        retry_after = FIRST_PAUSE * 2**number * random.uniform(0.75, 1.25)
    return min(retry_after, LONGEST_PAUSE)


def _one_line(text: str, longest: int) -> str:
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."


def _lasting(entry: Mapping[str, Any]) -> dict[str, Any]:
    meta = entry.get("meta")  # of llama.cpp: parameters, size
    flat = {**entry, **(meta if isinstance(meta, dict) else {})}
    # most servers have made every model at the moment when they are asked
    return {
        name: one for name, one in flat.items() if isinstance(one, str | int | float) and name != "created"
    }


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - MOST_NAMES} more" if len(shown) > MOST_NAMES else ""
    return ", ".join(_one_line(name, 60) for name in shown[:MOST_NAMES]) + more
