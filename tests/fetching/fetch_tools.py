"""A web server on localhost that misbehaves on request, and data sets that are fetched from it."""

import hashlib
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from recount.data.dataset import Dataset, RemoteFile
from recount.fetching.transfers import Patience
from recount.fetching.web import CHUNK_BYTES

BODY = bytes(range(256)) * 1200
HALF = 2 * CHUNK_BYTES
PATH = "/set/a.bin"
HASTE = Patience(connect_seconds=60, read_seconds=60, backoff_seconds=0)
"""Patience for tests: as many attempts as otherwise without pauses, and time-outs that a busy machine does not meet."""


@dataclass
class Answers:
    """How the next requests for a path are answered, one fault per request; after them properly.

    Attributes:
        drop_after: bytes of the body after which the connection is closed.
        status: an HTTP error.
        body: other bytes than the right ones.
        silent: nothing is answered until the server closes.
        drip: bytes after which one comes every now and then, until the server closes.
    """

    drop_after: int | None = None
    drip: int | None = None
    status: int | None = None
    body: bytes | None = None
    silent: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class Server:
    """Serves ``files`` with ranges.

    Attributes:
        files: path (from "/") -> bytes.
        faults: path -> the answers that come first.
        always: path -> the answer that always comes.
        ranges: whether Range headers are understood.
        etag: sent with every body, if not "".
        announce: whether the size of a body is told.
        before: called with the path before each answer, on the server's thread.
        seen: (path, headers) of each request; sent: path -> bytes of bodies.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, deque[Answers]] = defaultdict(deque)
        self.always: dict[str, Answers] = {}
        self.ranges = True
        self.announce = True
        self.etag = ""
        self.content_type = "application/octet-stream"
        self.before: Callable[[str], object] = lambda path: None
        self.seen: list[tuple[str, Message]] = []
        self.sent: Counter[str] = Counter()
        self.closing = threading.Event()
        self.address = ""

    def url(self, path: str) -> str:
        return self.address + path

    def requests_for(self, path: str) -> int:
        return sum(seen == path for seen, _ in self.seen)


@contextmanager
def serving() -> Iterator[Server]:
    """Yield a running server."""
    server = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": server}))
    http.daemon_threads = True
    server.address = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    site: Server

    def do_GET(self) -> None:
        site, path = self.site, self.path
        site.seen.append((path, self.headers))
        site.before(path)
        fault = site.faults[path].popleft() if site.faults[path] else site.always.get(path, Answers())
        if fault.silent:
            site.closing.wait()
        elif fault.status is not None or path not in site.files:
            self.send_response(fault.status or 404)
            self._end_headers(fault.headers | {"Content-Length": "0"})
        else:
            self._send(site.files[path] if fault.body is None else fault.body, fault)

    def _send(self, body: bytes, fault: Answers) -> None:
        start = self._start()
        if start >= len(body) > 0 and start:
            self.send_response(416)
            return self._end_headers({"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
        headers = {"Content-Type": self.site.content_type} | fault.headers
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if self.site.announce:
            headers["Content-Length"] = str(len(body) - start)
        self.send_response(206 if start else 200)
        self._end_headers(headers)
        rest = body[start:] if fault.drop_after is None else body[start : fault.drop_after]
        with suppress(ConnectionError):  # the client may hang up, for instance when it dislikes the size
            self.wfile.write(rest if fault.drip is None else rest[: fault.drip])
            for place in range(len(rest) if fault.drip is None else fault.drip, len(rest)):
                self.site.closing.wait(0.02)
                self.wfile.write(rest[place : place + 1])
                self.wfile.flush()
        self.site.sent[self.path] += len(rest)

    def _start(self) -> int:
        condition = self.headers.get("If-Range")
        if not self.site.ranges or "Range" not in self.headers or condition not in (None, self.site.etag):
            return 0
        return int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))

    def _end_headers(self, headers: dict[str, str]) -> None:
        if self.site.etag:
            self.send_header("ETag", self.site.etag)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def dataset(*files: RemoteFile, by_hand: str = "") -> Dataset:
    """Return a data set called "toy" that needs these files."""

    class Toy(Dataset):
        name = "toy"
        title = "Toys"
        homepage = "https://toys.example/"
        licence = "CC0"
        splits = ("test",)

        def files(self) -> list[RemoteFile]:
            return list(files)

        def read(self, raw: Path) -> list[Any]:
            return []

    Toy.by_hand = by_hand
    return Toy()
