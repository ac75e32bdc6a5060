"""A stand-in for an OpenAI-compatible server, on localhost: it answers as it is told, and remembers."""

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

MODEL = "tiny-vlm"


@dataclass
class Reply:
    """What the server sends: a status, headers and a body; after so many seconds."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0


def saying(text: object, after: float = 0.0) -> Reply:
    """An answer of the model's, as servers send it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = json.dumps({"object": "chat.completion", "model": MODEL, "choices": [choice]}).encode()
    return Reply(body, after=after)


def refusing(status: int, message: str = "not now", **headers: str) -> Reply:
    """An error, as servers send it."""
    body = json.dumps({"error": {"message": message, "code": status}}).encode()
    return Reply(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


class StandIn:
    """The server, at `url`.

    Attributes:
        models: what it says it has.
        replies: what it answers to the next questions, one each; then `answer` is asked.
        answer: makes the reply to a question from its body.
        questions: the bodies of all questions so far.
        headers: of all requests so far.
        most_at_once: questions that it had at one time.
    """

    def __init__(self) -> None:
        self.models: Reply = Reply(json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())
        self.replies: list[Reply] = []
        self.answer: Callable[[dict[str, Any]], Reply] = lambda _: saying("fur, whiskers")
        self.questions: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self.url = ""

    def serve(self, names: list[str]) -> None:
        """Have other models."""
        self.models = Reply(json.dumps({"data": [{"id": name} for name in names]}).encode())

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer a request."""
        with self._lock:
            self.headers.append(dict(headers))
            if (method, path) == ("GET", "/v1/models"):
                return self.models
            if (method, path) != ("POST", "/v1/chat/completions"):
                return refusing(404, "no such place")
            question = json.loads(body)
            self.questions.append(question)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            given = self.replies.pop(0) if self.replies else None
        try:
            reply = given or self.answer(question)
            time.sleep(reply.after)
            return reply
        finally:
            with self._lock:
                self._at_once -= 1


def pictures_of(question: Mapping[str, Any]) -> list[Image.Image]:
    """The pictures of a question, decoded."""
    contents = [message["content"] for message in question["messages"]]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


@contextlib.contextmanager
def standing_in() -> Iterator[StandIn]:
    """Serve on a free port of localhost."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = stand_in.reply(self.command, self.path, self.headers, body)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked may have gone
                self.wfile.write(reply.body)

        do_GET = do_POST = handle_any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stand_in.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
