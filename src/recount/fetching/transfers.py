"""What the downloads of one data set share: patience, unfinished files, what is known of the hosts, the stop sign."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often an address is tried."""

    connect_seconds: float = 5  # for a connection, and once per host for whether it can be reached at all
    read_seconds: float = 20  # between two bytes
    slowest_bytes_per_second: float = 1024  # of a transfer; what is slower is stopped, and counts as a time-out
    attempts: int = 4  # that bring nothing new before an address is given up; a time-out counts as two
    backoff_seconds: float = 1  # before the second attempt; doubled before each further one
    longest_wait_seconds: float = 30  # before an attempt; a server that asks for more (Retry-After) is given up
    failures_in_a_row: int = 16  # of one host, over all files, after which it is left alone
    dead_hosts: int = 12  # with none that could be reached: there is no network, and no further host is tried

    @property
    def timeout(self) -> tuple[float, float]:
        """As requests takes it."""
        return self.connect_seconds, self.read_seconds


class RefusedError(Exception):
    """An address does not deliver the file, and trying again would not help."""


class WrongBytesError(RefusedError):
    """An address delivers bytes, but not those of the file, or none that can be used."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place  # what to say of where they are


class CancelledError(Exception):
    """The fetching was stopped (by the user, or because the disk cannot be written)."""


class LocalError(Exception):
    """This machine cannot write ``path``: disk full, no permission. One line, for the user."""

    def __init__(self, error: OSError, path: Path) -> None:
        super().__init__(
            f"{path}: {error.strerror or error}; what has been fetched so far is kept: make room or give permission, "
            "and run the same command again"
        )


class TransientError(Exception):
    """An attempt failed in a way that may pass; it counts as ``cost`` attempts, and the server asks for a pause."""

    def __init__(self, message: str, cost: int = 1, wait_seconds: float = 0) -> None:
        super().__init__(message)
        self.cost = cost
        self.wait_seconds = wait_seconds


class Part:
    """The unfinished file ``<path>.part``, and beside it ``<path>.part.source``: where it comes from."""

    def __init__(self, target: Path, most: int) -> None:
        self._target = target
        self.path = part_path(target)
        self.note = target.with_name(target.name + ".part.source")
        self.most = most  # bytes that it may have
        self.reached = self.size()  # the most bytes that any attempt has brought
        self.ended = False  # whether the sender has said where the bytes end
        self.md5 = ""  # that the sender states

    def size(self) -> int:
        """Return the bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def note_source(self, address: str, validator: str | None) -> None:
        """Remember address and validator (ETag or date) of the version that the bytes belong to."""
        self.note.write_text(json.dumps({"address": address, "validator": validator}))

    def validator(self, address: str) -> str | None:
        """Return the validator of the bytes that are there if they come from ``address`` and it gave one."""
        try:
            note = json.loads(self.note.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return note["validator"] if note["address"] == address else None

    def check_size(self, size: int, announced: int | None) -> None:
        """Remove what is there and raise WrongBytesError if more bytes have come, or are to come, than may."""
        if max(size, announced or 0) > self.most:
            self.discard()
            sends = f"announces {announced:,} bytes" if announced and announced > self.most else "sends and sends"
            raise WrongBytesError(f"{sends}: more than the {self.most:,} that such a file may have, and is stopped")

    def reject(self) -> str:
        """Move what is there aside, as ``set_aside`` does, and return what to say of that."""
        self.note.unlink(missing_ok=True)
        return set_aside(self.path, self._target, own=False)

    def discard(self) -> None:
        """Remove what is there."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def finish(self) -> None:
        """Put the finished file in its place, in one step, and on the disk."""
        _sync(self.path)
        self.path.replace(self._target)
        _sync(self._target.parent)
        self.note.unlink(missing_ok=True)


def part_path(target: Path) -> Path:
    """Return where a file is while it is not finished."""
    return target.with_name(f"{target.name}.part")


def set_aside(path: Path, target: Path, *, own: bool) -> str:
    """Move a file that cannot be taken for ``target`` to ``<target>.rejected``, and return what to say of that.

    What lies there stays: another file of the user's ``own`` gets a number, another download is removed.
    """
    numbers = chain([""], (f".{number}" for number in count(2)))
    places = (target.with_name(f"{target.name}{number}.rejected") for number in numbers)
    place = next(place for place in places if not own or not os.path.lexists(place))
    if os.path.lexists(place):
        path.unlink()
        return f"removed ({place} holds an earlier one)"
    path.replace(place)
    return f"moved to {place}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Writer(AbstractContextManager["Writer"]):
    """What pooch writes into; nothing is cut before ``begin``: an address that fails must not cost bytes."""

    def __init__(self, part: Part, session: "Session", moved: Callable[[], None] = lambda: None) -> None:
        self.part = part
        self.session = session
        self._moved = moved  # called after each chunk
        self._stream: BinaryIO | None = None
        self.position = 0
        self.total: int | None = None

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def begin(self, offset: int, total: int | None) -> None:
        """Keep the part's first ``offset`` bytes and write after them; the whole has ``total`` bytes, if known."""
        self._stream = self.part.path.open("r+b" if self.part.path.exists() else "wb")
        self._stream.seek(offset)
        self._stream.truncate()
        self.position, self.total = offset, total

    def write(self, chunk: bytes) -> None:
        """Append bytes and hand them to the operating system."""
        self.session.check()
        if self.total is not None and self.position + len(chunk) > self.total:
            self.part.discard()
            raise WrongBytesError(f"sends more than the {self.total:,} bytes that it should have")
        self.part.check_size(self.position + len(chunk), self.total)
        assert self._stream is not None, "begin comes before write"
        try:
            self._stream.write(chunk)
            self._stream.flush()
        except OSError as error:  # which names no file
            raise LocalError(error, self.part.path) from error
        self.position += len(chunk)
        self.part.reached = max(self.part.reached, self.position)
        self._moved()
        self.session.progress(self.part.path, self.position, self.total)

    def flush(self) -> None:
        """Do nothing: ``write``, after which pooch calls it, has done it."""


class Pace(AbstractContextManager["Pace"]):
    """Stops a transfer that stalls: if the next ``chunk_bytes`` take longer than at the slowest speed allowed.

    Time runs from ``start`` on. ``stop`` is called on another thread, so that a read that waits ends; leaving then
    raises TransientError.
    """

    def __init__(self, session: "Session", chunk_bytes: int, stop: Callable[[], object]) -> None:
        self._session, self._stop = session, stop
        self._seconds = chunk_bytes / session.patience.slowest_bytes_per_second
        self._moved, self._over, self._stalled = threading.Event(), False, False

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, daemon=True).start()

    def moved(self) -> None:
        """Note that a chunk has come."""
        self._moved.set()

    def _watch(self) -> None:
        while self._moved.wait(self._seconds):
            self._moved.clear()
            if self._over:
                return
        self._stalled = True
        self._stop()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._over = True
        self.moved()
        if self._stalled and not self._session.cancel.is_set():
            slowest = self._session.patience.slowest_bytes_per_second
            raise TransientError(f"stalls: it sends fewer than {slowest:,.0f} bytes a second", cost=2) from error


@dataclass
class Host:
    """What is known of a host."""

    deadline: float  # of the first connection, by time.monotonic
    connected: threading.Event = field(default_factory=threading.Event)  # or given up
    dead: str = ""  # why it cannot be reached
    failures: int = 0  # in a row
    last_failure: str = ""


class Session:
    """What the downloads of one data set share. Each host is reached for once, and left alone when it is silent."""

    def __init__(self, patience: Patience, progress: Callable[[Path, int, int | None], None]) -> None:
        self.patience = patience
        self.progress = progress  # called with (part's path, bytes there, bytes in all or None)
        self.cancel = threading.Event()  # stops all of them
        self._too_late = f"no connection within {patience.connect_seconds:g} s"
        self._lock = threading.Lock()
        self._hosts: dict[tuple[str, int], Host] = {}

    def check(self) -> None:
        """Raise CancelledError if all downloads are to stop."""
        if self.cancel.is_set():
            raise CancelledError

    def pause(self, seconds: float) -> None:
        """Wait, at most until all downloads are to stop."""
        self.cancel.wait(seconds)

    def host(self, url: str) -> Host:
        """Return the host of ``url``, or raise RefusedError if it cannot be reached, or has failed too often."""
        # What a request connects to is its proxy, where the environment names one.
        parts = urlsplit(select_proxy(url, get_environ_proxies(url)) or url)
        key = parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 80)
        with self._lock:
            host = self._hosts.get(key) or self._new_host(key)
        if not host.connected.wait(max(0.0, host.deadline - time.monotonic())):
            host.dead = self._too_late
            host.connected.set()
        if host.dead:
            raise RefusedError(f"{key[0]} cannot be reached ({host.dead})")
        if host.failures >= self.patience.failures_in_a_row:
            raise RefusedError(f"{key[0]} was given up after {host.failures} failures in a row ({host.last_failure})")
        return host

    def _new_host(self, key: tuple[str, int]) -> Host:
        tried = [host for host in self._hosts.values() if host.connected.is_set()]
        if len(tried) >= self.patience.dead_hosts and all(host.dead for host in tried):
            raise RefusedError(f"{key[0]} was not tried: none of {len(tried)} other hosts could be reached")
        host = self._hosts[key] = Host(time.monotonic() + self.patience.connect_seconds)
        # A daemon, because a name server that does not answer can hold getaddrinfo for a minute.
        threading.Thread(target=self._connect, args=(key, host), daemon=True).start()
        return host

    def _connect(self, key: tuple[str, int], host: Host) -> None:
        try:
            socket.create_connection(key, timeout=self.patience.connect_seconds).close()
        except TimeoutError:
            host.dead = self._too_late
        except (OSError, UnicodeError) as error:
            host.dead = getattr(error, "strerror", None) or str(error)
        finally:
            host.connected.set()
