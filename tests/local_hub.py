"""A hub and a GitHub of the tests' own, on this machine: it answers what their clients ask, with faults.

It speaks what huggingface_hub 0.36 asks (a repository's list of files, HEAD and GET of a file, large ones at
another address, ranges) and what GitHub's ``/raw/`` does (a redirection to the file).
"""

import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

BODIES = ("/cdn/", "/content/")  # where redirections lead
LARGE = 1000  # bytes from which the hub keeps a file in Git LFS


@dataclass
class Fault:
    """How one answer goes wrong.

    Attributes:
        status: of the answer; None for one that begins as it should.
        headers: that it has.
        cut: after how many bytes of the body the connection closes; None: it does not.
        stall: what the server waits for before it closes there.
        body: what comes in the place of the file.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    body: bytes | None = None
    stall: threading.Event | None = None


@dataclass
class Asked:
    """One request: method, path, the beginning of the range in bytes, and the login's token."""

    method: str
    path: str
    start: int | None
    token: str | None


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class LocalHub:
    """What the server gives out, what it was asked, and what goes wrong.

    Attributes:
        models: files of the hub's repositories, by OWNER/NAME and path.
        github: the same of GitHub's.
        gated: repositories that want a token and accepted terms; those in `accepted` have them.
        asked: every request.
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.github: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.accepted: set[str] = set()
        self.asked: list[Asked] = []
        self._faults: dict[str, list[Fault]] = defaultdict(list)
        self.url = ""

    def goes_wrong(self, path: str, fault: Fault, times: int = 1) -> None:
        """Let the next answers to requests whose path ends so go wrong; without a status, of bodies only."""
        self._faults[path] += [fault] * times

    def fault_of(self, method: str, path: str) -> Fault | None:
        for ending, faults in self._faults.items():
            if not faults or not path.endswith(ending):
                continue
            if faults[0].status is not None or (method == "GET" and path.startswith(BODIES)):
                return faults.pop(0)
        return None

    def bodies(self, ending: str = "") -> list[Asked]:
        """Requests for the bytes of files, but for their redirections, and the small ones of the hub."""
        gets = [one for one in self.asked if one.method == "GET" and one.path.startswith(BODIES)]
        return [one for one in gets if one.path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.asked.append(Asked(self.command, path, int(start[1]) if start else None, token))
        fault = self.hub.fault_of(self.command, path)
        if fault is not None and fault.status is not None:
            self._send(fault.status, fault.body or b"", fault.headers)
        elif path.startswith("/api/models/"):
            self._list(path.removeprefix("/api/models/"))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups(), fault)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/raw/([^/]+)/(.+)", path):
            self._send(302, b"", {"Location": f"{self.hub.url}/content/{match[1]}/{match[2]}/{match[3]}"})
        elif match := re.fullmatch(r"/content/([^/]+/[^/]+)/[^/]+/(.+)", path):
            self._file(self.hub.github.get(match[1], {}).get(match[2]), {}, fault)
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._file(self.hub.models[match[1]][match[2]], {}, fault)
        else:
            self._send(404, b"")

    def _list(self, path: str) -> None:
        name, what, revision = re.fullmatch(r"([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path).groups()
        if name not in self.hub.models:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        files = [self._entry(*item) for item in self.hub.models[name].items()]
        about = {"id": name, "sha": revision or "0" * 40, "siblings": files, "tags": [], "downloads": 0}
        answer = files if what == "tree" else about
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    @staticmethod
    def _entry(path: str, content: bytes) -> dict[str, object]:
        """Describe a file as both kinds of lists do: a repository's siblings, and its tree."""
        oid, size = git_sha1(content), len(content)
        entry: dict[str, object] = {"rfilename": path, "size": size, "blobId": oid}
        entry |= {"type": "file", "path": path, "oid": oid}
        if size >= LARGE:
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "oid": sha256, "size": size, "pointerSize": 134}
        return entry

    def _resolve(self, name: str, revision: str, path: str, fault: Fault | None) -> None:
        content = self.hub.models.get(name, {}).get(path)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": revision})
            return
        token = self.hub.asked[-1].token
        if name in self.hub.gated and (token is None or name not in self.hub.accepted):
            self._send(401 if token is None else 403, b"", {"X-Error-Code": "GatedRepo"})
            return
        about = {"X-Repo-Commit": revision, "ETag": f'"{git_sha1(content)}"'}
        if len(content) < LARGE:
            self._file(content, about, fault)
            return
        about["X-Linked-ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        about["X-Linked-Size"] = str(len(content))
        self._send(302, b"", {**about, "Location": f"{self.hub.url}/cdn/{name}/{path}"})

    def _file(self, content: bytes | None, headers: dict[str, str], fault: Fault | None) -> None:
        if content is None:
            self._send(404, b"")
            return
        if fault is not None and fault.body is not None:
            content = fault.body
        start = self.hub.asked[-1].start or 0
        if start and start >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        if start:
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._send(206 if start else 200, content[start:], headers, fault)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: Fault | None = None
    ):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = None if fault is None else fault.cut
        self.wfile.write(body[:cut])
        if fault is not None and cut is not None:
            self.wfile.flush()
            if fault.stall is not None:
                fault.stall.wait(60)
            self.close_connection = True
            self.connection.shutdown(2)


@contextmanager
def serving() -> Iterator[LocalHub]:
    """Run a hub on a port of this machine for the length of a with block."""
    hub = LocalHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
