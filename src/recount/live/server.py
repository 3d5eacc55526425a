"""The server of the live page: this machine alone, one page, GET only. It reads files and changes none.

It listens on the loopback address, and answers only requests that were sent to it by that name: a page of elsewhere,
whose name was made to lead here (DNS rebinding), is refused. There is no path but ``/``.
"""

import base64
import errno
import hashlib
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recount.errors import UserError
from recount.live.view import Live
from recount.settings.project import Project

LOOPBACK = "127.0.0.1"
SECONDS = 5  # between two looks of an open page
_SCRIPT = Path(__file__).with_name("live.js").read_text(encoding="utf-8").replace("SECONDS", str(SECONDS))
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def render(view: dict[str, Any]) -> str:
    """Return the page of a view."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    return environment.get_template("live.html.j2").render(view=view, script=_SCRIPT, seconds=SECONDS)


class _Handler(BaseHTTPRequestHandler):
    """Answers ``GET /`` with the page."""

    server: "Server"
    server_version, sys_version = "recount", ""
    timeout = 10  # seconds that a request may take to arrive

    def do_GET(self) -> None:
        if self.headers.get_all("Host") not in [[name] for name in self.server.names]:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "this page is for this machine alone")
        elif self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND, "there is one page here, /")
        else:
            content = render(self.server.live.view()).encode("utf-8", "replace")
            self.send_response(HTTPStatus.OK)
            for name, value in {**HEADERS, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: an open page asks every few seconds."""


class Server(ThreadingHTTPServer):
    """Serves the page of ``live`` on a port of this machine (0: any that is free)."""

    daemon_threads = True

    def __init__(self, live: Live, port: int) -> None:
        self.live = live
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                what = f"port {port} is in use on this machine (another `recount status --serve`?)"
            else:
                what = f"port {port} cannot be opened: {error.strerror}"
            raise UserError(f"--port: {what}: name another one, or 0 for any that is free") from None
        self.names = [f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")]
        self.names += [LOOPBACK, "localhost"] if self.server_port == 80 else []

    @property
    def address(self) -> str:
        """Return where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, *_: Any) -> None:
        """A page that was closed while it was answered is no error of ours."""


def serve(root: Path, load: Callable[[], Project], port: int) -> None:
    """Serve the page of a project until Ctrl-C."""
    try:
        with Server(Live(root, load), port) as server:
            print(f"{server.address} shows what runs; Ctrl-C ends it", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        print("recount: the page has ended; what runs goes on")
