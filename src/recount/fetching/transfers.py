"""What the downloads of one data set share: patience, unfinished files, what is known of the hosts, the stop sign."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

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


class WrongBytesError(RefusedError):
    """An address delivers bytes, but not those of the file."""


class CancelledError(Exception):
    """The fetching was stopped (by the user, or because the disk cannot be written)."""


class LocalError(Exception):
    """This machine cannot write the file: disk full, no permission. One line, for the user."""


class TransientError(Exception):
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


class Writer:
    """What pooch writes into: counts, reports progress, can be stopped, and tells a full disk from a broken line.

    Nothing is opened, created or cut before ``begin``: an address that fails must not cost the bytes that are there.
    """

    def __init__(self, part: Part, session: Session) -> None:
        self._part = part
        self._session = session
        self._stream: BinaryIO | None = None
        self.position = 0
        self.total: int | None = None

    def __enter__(self) -> Writer:
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
        """Append bytes."""
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
        """Hand what was written to the operating system."""
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
