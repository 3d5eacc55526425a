"""One file from one address: HTTP by pooch, Google Drive by gdown, the Hugging Face Hub by its library and pooch.

A download is written to ``<path>.part``, which survives whatever interrupts it and is continued by an HTTP range
request. Dropped connections, time-outs, 429 and 5xx are tried again with exponential back-off; everything else is
refused at once. A host that cannot be reached, or that has failed many times in a row, is left alone for the rest of
the data set.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
from pooch import HTTPDownloader
from requests.utils import get_environ_proxies, select_proxy

from recount.data.dataset import RemoteFile

CHUNK_BYTES = 2**16
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 530}
DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often an address is tried.

    Attributes:
        connect_seconds: for a connection (and, once per host, for finding out whether the host can be reached at all).
        read_seconds: between two bytes.
        attempts: that bring nothing new before an address is given up; a time-out counts as two of them.
        backoff_seconds: before the second attempt; doubled before each further one.
        longest_wait_seconds: before an attempt; a server that asks for more (Retry-After) is given up.
        failures_in_a_row: of one host, over all files, after which it is left alone.
        dead_hosts: that could not be reached, with none that could, after which no further host is tried: no network.
    """

    connect_seconds: float = 5
    read_seconds: float = 20
    attempts: int = 4
    backoff_seconds: float = 1
    longest_wait_seconds: float = 30
    failures_in_a_row: int = 16
    dead_hosts: int = 12


class RefusedError(Exception):
    """An address does not deliver the file, and trying again would not help; the message says why."""


class CancelledError(Exception):
    """The fetching was stopped (by the user, or because the disk cannot be written)."""


class LocalError(Exception):
    """This machine cannot write the file: disk full, no permission. One line, for the user."""


class _TransientError(Exception):
    """An attempt failed in a way that may pass.

    Attributes:
        cost: attempts that it counts as.
        wait_seconds: what the server asks for.
    """

    def __init__(self, message: str, cost: int = 1, wait_seconds: float = 0) -> None:
        super().__init__(message)
        self.cost = cost
        self.wait_seconds = wait_seconds


def local_error(error: OSError, path: Path) -> LocalError:
    """Return one line on why ``path`` cannot be read or written here, and what to do."""
    what = error.strerror or str(error)
    return LocalError(
        f"{path}: {what}; what has been fetched so far is kept: make room or give permission, and run the same "
        "command again"
    )


class Part:
    """The unfinished file ``<path>.part``, and beside it ``<path>.part.source``: where it comes from.

    Attributes:
        path: of the unfinished file.
        reached: the most bytes that were there at once, of whatever attempt.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.source")
        self.reached = self.size()

    def size(self) -> int:
        """Return the bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def note_source(self, address: str, validator: str | None) -> None:
        """Remember address and validator (ETag or date) of the version that the bytes belong to."""
        try:
            self._note.write_text(json.dumps({"address": address, "validator": validator}))
        except OSError as error:
            raise local_error(error, self._note) from error

    def validator(self, address: str) -> str | None:
        """Return the validator of the bytes that are there if they come from ``address`` and it gave one."""
        try:
            note = json.loads(self._note.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return note["validator"] if note["address"] == address else None

    def discard(self) -> None:
        """Remove what is there."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Put the finished file in its place, in one step."""
        self.path.replace(target)
        self._note.unlink(missing_ok=True)


class _Writer:
    """What pooch writes into: counts, reports progress, can be stopped, and tells a full disk from a broken line.

    Nothing is opened, created or cut before ``begin``: an address that fails must not cost the bytes that are there.
    """

    def __init__(self, part: Part, session: Session) -> None:
        self._part = part
        self._session = session
        self._stream: BinaryIO | None = None
        self.position = 0
        self.total: int | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    @contextmanager
    def _on_this_machine(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise local_error(error, self._part.path) from error

    def begin(self, offset: int, total: int | None) -> None:
        """Keep the part's first ``offset`` bytes and write after them; the whole has ``total`` bytes, if known."""
        with self._on_this_machine():
            self._stream = self._part.path.open("r+b" if self._part.path.exists() else "wb")
            self._stream.seek(offset)
            self._stream.truncate()
        self.position, self.total = offset, total

    def write(self, chunk: bytes) -> None:
        self._session.check()
        if self.total is not None and self.position + len(chunk) > self.total:
            raise RefusedError(f"sends more than the {self.total:,} bytes that were announced")
        assert self._stream is not None, "begin comes before write"
        with self._on_this_machine():
            self._stream.write(chunk)
        self.position += len(chunk)
        self._part.reached = max(self._part.reached, self.position)
        self._session.progress(self._part.path, self.position, self.total)

    def flush(self) -> None:
        assert self._stream is not None, "begin comes before flush"
        with self._on_this_machine():
            self._stream.flush()


@dataclass
class _Host:
    connected: threading.Event = field(default_factory=threading.Event)
    deadline: float = 0.0
    dead: str = ""
    failures: int = 0
    last_failure: str = ""


class Hosts:
    """What is known of the hosts of one data set: each is probed once, and left alone when it does not answer."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._hosts: dict[tuple[str, int], _Host] = {}

    def require(self, url: str) -> None:
        """Return if it makes sense to ask the host of ``url``.

        Raises:
            RefusedError: it cannot be reached, or has failed too often.
        """
        key = _endpoint(url)
        host = self._host(key)
        if not host.connected.wait(max(0.0, host.deadline - time.monotonic())):
            host.dead = f"no connection within {self._patience.connect_seconds:g} s"
            host.connected.set()
        if host.dead:
            raise RefusedError(f"{key[0]} cannot be reached ({host.dead})")
        if host.failures >= self._patience.failures_in_a_row:
            raise RefusedError(f"{key[0]} was given up after {host.failures} failures in a row ({host.last_failure})")

    def answered(self, url: str) -> None:
        """Remember that the host of ``url`` did what it should."""
        self._hosts[_endpoint(url)].failures = 0

    def failed(self, url: str, why: str) -> None:
        """Remember that the host of ``url`` did not do what it should."""
        host = self._hosts[_endpoint(url)]
        host.failures, host.last_failure = host.failures + 1, why

    def _host(self, key: tuple[str, int]) -> _Host:
        with self._lock:
            if key in self._hosts:
                return self._hosts[key]
            probed = [host for host in self._hosts.values() if host.connected.is_set()]
            if len(probed) >= self._patience.dead_hosts and all(host.dead for host in probed):
                raise RefusedError(f"{key[0]} was not tried: none of {len(probed)} other hosts could be reached")
            host = self._hosts[key] = _Host(deadline=time.monotonic() + self._patience.connect_seconds)
            # A daemon, because a name server that does not answer can hold getaddrinfo for a minute.
            threading.Thread(target=self._probe, args=(key, host), daemon=True).start()
            return host

    def _probe(self, key: tuple[str, int], host: _Host) -> None:
        try:
            socket.create_connection(key, timeout=self._patience.connect_seconds).close()
        except TimeoutError:
            host.dead = f"no connection within {self._patience.connect_seconds:g} s"
        except (OSError, UnicodeError) as error:
            host.dead = getattr(error, "strerror", None) or str(error)
        finally:
            host.connected.set()


def _endpoint(url: str) -> tuple[str, int]:
    """Return host and port that a request for ``url`` connects to: its proxy's where the environment names one."""
    parts = urlsplit(select_proxy(url, get_environ_proxies(url)) or url)
    return parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 80)


@dataclass
class Session:
    """What the downloads of one data set share.

    Attributes:
        patience: how often and how long.
        progress: called with (part's path, bytes there, bytes in all or None).
        cancel: set to stop all downloads.
        hosts: what is known of the hosts.
    """

    patience: Patience
    progress: Callable[[Path, int, int | None], None]
    cancel: threading.Event = field(default_factory=threading.Event)
    hosts: Hosts = field(init=False)

    def __post_init__(self) -> None:
        self.hosts = Hosts(self.patience)

    def check(self) -> None:
        """Raise CancelledError if all downloads are to stop."""
        if self.cancel.is_set():
            raise CancelledError

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until all downloads are to stop."""
        self.cancel.wait(seconds)


def download(address: str, file: RemoteFile, part: Part, session: Session) -> None:
    """Bring the bytes behind an address into ``part``, continuing what is there; they are not verified here.

    Args:
        address: ``http(s)://…``, ``gdrive:<file id>`` or ``hf:<repo>@<revision>/<path>``.
        file: what is expected of the bytes.
        part: where they go.
        session: of the data set.

    Raises:
        RefusedError: the address does not deliver, for good or after all attempts.
        LocalError: the part cannot be written.
        CancelledError: ``session.cancel`` was set.
    """
    url, attempt = _way(address)
    patience = session.patience
    left, wait, most = patience.attempts, patience.backoff_seconds, part.reached
    while True:
        session.check()
        session.hosts.require(url)
        try:
            attempt(url, file, part, session)
        except _TransientError as failure:
            if part.reached > most:  # a line that drops, but moves on, is worth any number of attempts
                left, wait, most = patience.attempts, patience.backoff_seconds, part.reached
                session.hosts.answered(url)
            else:
                left -= failure.cost
                session.hosts.failed(url, str(failure))
            pause = max(wait, failure.wait_seconds)
            if left <= 0 or pause > patience.longest_wait_seconds:
                raise RefusedError(str(failure)) from failure
            session.pause(pause)
            wait *= 2
        else:
            session.hosts.answered(url)
            return


def copy_file(source: Path, part: Part, session: Session) -> None:
    """Copy a file of a mirror folder into ``part``.

    Raises:
        RefusedError: it is not there or cannot be read.
        LocalError: the part cannot be written.
        CancelledError: ``session.cancel`` was set.
    """
    try:
        opened = source.open("rb")
    except OSError as error:
        raise RefusedError((error.strerror or str(error)).lower()) from error
    with opened, _Writer(part, session) as writer:
        writer.begin(0, None)
        while chunk := opened.read(2**20):
            writer.write(chunk)
        writer.flush()


_Attempt = Callable[[str, RemoteFile, Part, Session], None]


def _way(address: str) -> tuple[str, _Attempt]:
    """Return the URL behind an address (of the host at least) and the function that downloads it."""
    if address.startswith(("http://", "https://")):
        return address, _http
    if address.startswith("gdrive:"):
        return f"https://drive.google.com/uc?id={address.removeprefix('gdrive:')}", _google_drive
    hub = re.fullmatch(r"hf:(datasets/|spaces/)?([^@]+)@([^/]+)/(.+)", address)
    if hub is None:
        raise ValueError(
            f"{address!r} is no address: there are https://…, http://…, gdrive:<file id>, hf:<repo>@<revision>/<path>"
        )
    from huggingface_hub import hf_hub_url

    kind, repo, revision, path = hub.groups()
    repo_type = kind.removesuffix("s/") if kind else None
    return hf_hub_url(repo, path, repo_type=repo_type, revision=revision), _hub


def _hub(url: str, file: RemoteFile, part: Part, session: Session) -> None:
    from huggingface_hub.utils import build_hf_headers

    try:
        _http(url, file, part, session, build_hf_headers(library_name="recount"))
    except RefusedError as refusal:
        if str(refusal).startswith(("HTTP 401", "HTTP 403")):
            page = url.split("/resolve/", maxsplit=1)[0]
            raise RefusedError(
                f"{refusal}: private, gated or absent; accept its licence at {page} and log in with `hf auth login` "
                "(or set HF_TOKEN)"
            ) from refusal
        raise


def _http(
    url: str, file: RemoteFile, part: Part, session: Session, headers: Mapping[str, str | None] | None = None
) -> None:
    """One attempt over HTTP."""
    start, validator = _resume_from(url, file, part)
    asked: dict[str, str | None] = {
        "User-Agent": f"recount/{version('recount')}",
        **(headers or {}),
        # Offsets count the bytes on the disk, so the server must not compress on the way.
        "Accept-Encoding": "identity",
    }
    if start:
        asked["Range"] = f"bytes={start}-"
        asked |= {"If-Range": validator} if validator else {}
    with _Writer(part, session) as writer:
        _transfer(url, file, part, writer, asked, start, session.patience)
    if writer.total is not None and writer.position < writer.total:
        raise _TransientError(f"the connection ended after {writer.position:,} of {writer.total:,} bytes")


def _resume_from(url: str, file: RemoteFile, part: Part) -> tuple[int, str | None]:
    """Return the offset to go on from and the version that the bytes before it belong to.

    Without a known digest, bytes of two versions could be joined unnoticed: then only the same version is continued.
    """
    validator = part.validator(url)
    size = part.size()
    if (file.sha256 is None and validator is None) or (file.bytes is not None and size >= file.bytes):
        return 0, None
    return size, validator


def _transfer(
    url: str,
    file: RemoteFile,
    part: Part,
    writer: _Writer,
    headers: Mapping[str, str | None],
    start: int,
    patience: Patience,
) -> None:
    def on_response(response: requests.Response, *_: Any, **__: Any) -> None:
        if response.ok and not response.is_redirect:
            writer.begin(*_body(response, file, start))
            part.note_source(url, _validator(response))

    downloader = HTTPDownloader(
        chunk_size=CHUNK_BYTES,
        headers=headers,
        timeout=(patience.connect_seconds, patience.read_seconds),
        hooks={"response": on_response},
    )
    try:
        downloader(url, writer, None)
    except requests.HTTPError as error:
        if error.response.status_code != 416:
            raise _status_error(error.response) from error
        if error.response.headers.get("Content-Range") != f"bytes */{start}":
            part.discard()
            raise _TransientError("the file there is shorter than the part that is here: starting again") from error
    except requests.Timeout as error:
        raise _timeout(error, patience) from error
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise _broken_line(error, writer, patience) from error
    except requests.RequestException as error:
        raise RefusedError(f"cannot be asked ({error})") from error


def _body(response: requests.Response, file: RemoteFile, start: int) -> tuple[int, int | None]:
    """Return (offset of the first byte that is coming, size of the whole file), or refuse what is not the file.

    An offset of 0 is right whatever was asked for: a server without ranges, or with a newer version, starts again.
    """
    begin, total = _announced(response)
    if begin not in (0, start):
        raise RefusedError(f"sends bytes from {begin:,} on when asked for those from {start:,} on")
    if file.bytes is not None and total is not None and total != file.bytes:
        raise RefusedError(f"has {total:,} bytes, expected {file.bytes:,}")
    kind = response.headers.get("Content-Type", "")
    if file.sha256 is None and kind.startswith("text/html") and not file.path.endswith((".html", ".htm")):
        raise RefusedError("delivers a web page instead of the file (a log-in or consent page?)")
    return begin, file.bytes if total is None else total


def _validator(response: requests.Response) -> str | None:
    """Return what names the version of the bytes in If-Range (RFC 9110, 13.1.5): a strong ETag, or the date."""
    if response.headers.get("Content-Encoding"):
        return None
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _announced(response: requests.Response) -> tuple[int, int | None]:
    """Return the offset of the first byte of a body and the size of the whole file, where the server says it."""
    if response.status_code == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None:
            raise RefusedError("answers a range request without saying which range it sends")
        return int(span[1]), None if span[2] == "*" else int(span[2])
    if response.status_code != 200:
        raise RefusedError(f"HTTP {response.status_code} {response.reason}")
    length = response.headers.get("Content-Length", "")
    plain = not response.headers.get("Content-Encoding")
    return 0, int(length) if length.isdigit() and plain else None


def _status_error(response: requests.Response) -> Exception:
    status = f"HTTP {response.status_code} {response.reason}"
    if response.status_code not in TRANSIENT_STATUS:
        return RefusedError(status)
    return _TransientError(status, wait_seconds=_retry_after(response.headers.get("Retry-After", "")))


def _retry_after(header: str) -> float:
    """Return the seconds that a Retry-After header asks for; it holds seconds or a date (RFC 9110, 10.2.3)."""
    if header.isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def _timeout(error: requests.Timeout, patience: Patience) -> _TransientError:
    if isinstance(error, requests.ConnectTimeout):
        return _TransientError(f"no connection within {patience.connect_seconds:g} s", cost=2)
    return _TransientError(f"no data for {patience.read_seconds:g} s", cost=2)


def _broken_line(error: Exception, writer: _Writer, patience: Patience) -> Exception:
    text = str(error)
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE" in text:
        return RefusedError(f"its certificate is not accepted ({text})")
    if "timed out" in text:
        return _TransientError(f"no data for {patience.read_seconds:g} s", cost=2)
    if isinstance(error, requests.exceptions.ProxyError):
        return _TransientError(f"the proxy does not let it through ({text})")
    return _TransientError(f"the connection dropped after {writer.position:,} bytes")


def _google_drive(url: str, file: RemoteFile, part: Part, session: Session) -> None:
    """One attempt at Google Drive; gdown passes its virus-scan page and has a partial file of its own to continue."""
    import gdown

    def progress(position: int, total: int | None) -> None:
        part.reached = max(part.reached, position)
        session.progress(part.path, position, total)

    fetched = part.path.with_suffix(".gdrive")
    patience = session.patience
    try:
        gdown.download(
            url,
            str(fetched),
            quiet=True,
            use_cookies=False,
            resume=True,
            timeout=(patience.connect_seconds, patience.read_seconds),
            progress=progress,
            cancel=session.cancel,
        )
        fetched.replace(part.path)
    except (gdown.exceptions.DownloadError, gdown.exceptions.DownloadCancelled, OSError, KeyError) as error:
        raise _google_drive_error(error, part, patience) from error


def _google_drive_error(error: Exception, part: Part, patience: Patience) -> Exception:
    import gdown

    text = " ".join(str(error).split())
    match error:
        case gdown.exceptions.FileURLRetrievalError():
            return RefusedError(f"Google Drive does not give it: {text}")
        case gdown.exceptions.DownloadCancelled():
            return CancelledError()
        case requests.HTTPError():
            return _status_error(error.response)
        case requests.Timeout():
            return _timeout(error, patience)
        case gdown.exceptions.DownloadError() | requests.RequestException():
            return _TransientError(f"the connection dropped ({text})")
        case OSError():
            return local_error(error, part.path)
    return RefusedError(f"gives an answer that gdown does not understand: {text}")
