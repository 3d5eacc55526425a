"""One file from one address: http(s), Google Drive by gdown, the Hugging Face Hub with its library's log-in.

A download is written to ``<path>.part``, which survives interruptions and is continued by an HTTP range request. Lost
connections, stalls, time-outs, 429 and 5xx are tried again with exponential back-off; everything else is refused at
once. A host that cannot be reached, or has failed many times in a row, is left alone for the rest of the data set. Of a
file of Zenodo's the MD5 that its API states is checked.
"""

import logging
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from glob import escape
from importlib import import_module
from pathlib import Path

import requests

from recount.data.dataset import RemoteFile
from recount.fetching.transfers import (
    CancelledError,
    LocalError,
    Pace,
    Part,
    RefusedError,
    Session,
    TransientError,
    Writer,
    WrongBytesError,
)
from recount.fetching.web import CHUNK_BYTES, fetch_http, status_error, timeout_error

log = logging.getLogger(__name__)

ZENODO = re.compile(r"(https://zenodo\.org/)records/(\d+)/files/([^?]+)(?:\?download=1)?")


def download(address: str, file: RemoteFile, part: Part, session: Session) -> None:
    """Bring the bytes behind an address into ``part``, continuing what is there; they are not verified here.

    Raises RefusedError (for good or after all attempts), LocalError or OSError (for the part), or CancelledError.
    """
    url, attempt = _way(address)
    patience = session.patience
    left, wait, most = patience.attempts, patience.backoff_seconds, part.reached
    while True:
        session.check()
        host, began = session.host(url), time.monotonic()
        try:
            attempt(url, file, part, session)
        except TransientError as failure:
            slowest = patience.slowest_bytes_per_second * (time.monotonic() - began)
            if part.reached - most > slowest:  # a line that drops, but moves on, is worth any number of attempts
                left, wait, most = patience.attempts, patience.backoff_seconds, part.reached
                host.failures = 0
            else:
                left -= failure.cost
                host.failures, host.last_failure = host.failures + 1, str(failure)
            pause = max(wait, failure.wait_seconds)
            if left <= 0 or pause > patience.longest_wait_seconds:
                raise RefusedError(str(failure)) from failure
            session.pause(pause)
            wait *= 2
        else:
            host.failures = 0
            return


def copy_file(source: Path, part: Part, session: Session) -> None:
    """Copy a file of a mirror folder into ``part``; raises as ``download`` does."""
    try:
        with source.open("rb") as opened, Writer(part, session) as writer:
            part.check_size(0, source.stat().st_size)
            try:
                writer.begin(0, None)
            except OSError as error:
                raise LocalError(error, part.path) from error
            while chunk := opened.read(2**20):
                writer.write(chunk)
            part.ended = True
    except OSError as error:
        raise RefusedError((error.strerror or str(error)).lower()) from error


def _way(address: str) -> tuple[str, Callable[[str, RemoteFile, Part, Session], None]]:
    """Return the URL behind an address (of the host at least) and the function that downloads it."""
    if ZENODO.fullmatch(address):
        return address, _zenodo
    if address.startswith(("http://", "https://")):
        return address, fetch_http
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
        fetch_http(url, file, part, session, build_hf_headers(library_name="recount"))
    except RefusedError as refusal:
        if not str(refusal).startswith(("HTTP 401", "HTTP 403")):
            raise
        page = url.partition("/resolve/")[0]
        raise RefusedError(
            f"{refusal}: private, gated or absent; accept its licence at {page} and log in with `hf auth login` "
            "(or set HF_TOKEN)"
        ) from refusal


def _zenodo(url: str, file: RemoteFile, part: Part, session: Session) -> None:
    """One attempt at a file of Zenodo's; its API knows size and MD5, as long as it answers."""
    site, record, name = ZENODO.fullmatch(url).groups()  # type: ignore[union-attr]
    try:
        answer = requests.get(f"{site}api/records/{record}", timeout=session.patience.timeout)
        (entry,) = [entry for entry in answer.json()["files"] if entry["key"] == name]
        part.md5 = re.fullmatch("md5:([0-9a-f]{32})", entry["checksum"])[1]  # type: ignore[index]
        file = replace(file, bytes=file.bytes or int(entry["size"]))
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        log.warning("Zenodo's API does not state size and MD5 of %s (%r): it is taken without them", name, error)
    fetch_http(url, file, part, session)


class _Either(threading.Event):
    """Set if it or another one is set."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()


def _google_drive(url: str, file: RemoteFile, part: Part, session: Session) -> None:
    """One attempt at Google Drive; gdown passes its virus-scan page and has a partial file of its own to continue."""
    import gdown

    # It tells only of whole chunks of its own, 512 KiB: at the slowest speed, a stall would be noticed after 512 s.
    import_module("gdown.download").CHUNK_SIZE = CHUNK_BYTES  # type: ignore[attr-defined]
    fetched = part.path.with_suffix(".gdrive")
    cancel = _Either(session.cancel)

    def progress(position: int, total: int | None) -> None:
        pace.moved()
        part.check_size(position, total)
        part.reached, part.ended = max(part.reached, position), total is not None
        session.progress(part.path, position, total)

    with Pace(session, CHUNK_BYTES, cancel.set) as pace:
        pace.start()
        try:
            gdown.download(
                url, str(fetched), quiet=True, use_cookies=False, resume=True, timeout=session.patience.timeout,
                progress=progress, cancel=cancel,
            )  # fmt: skip
            fetched.replace(part.path)
            part.note_source(url, None)
            shutil.copymode(part.note, part.path)  # gdown's file is for this user alone
        except WrongBytesError:
            for left in fetched.parent.glob(f"{escape(fetched.name)}????????.part"):
                left.unlink()
            raise
        except (gdown.exceptions.DownloadError, gdown.exceptions.DownloadCancelled, OSError, KeyError) as error:
            raise _google_drive_error(error, part, session) from error


def _google_drive_error(error: Exception, part: Part, session: Session) -> Exception:
    import gdown

    text = " ".join(str(error).split())
    match error:
        case gdown.exceptions.FileURLRetrievalError():
            return RefusedError(f"Google Drive does not give it: {text}")
        case gdown.exceptions.DownloadCancelled():
            return CancelledError()
        case requests.HTTPError():
            return status_error(error.response)
        case requests.Timeout():
            return timeout_error(error, session.patience)
        case gdown.exceptions.DownloadError() | requests.RequestException():
            return TransientError(f"the connection dropped ({text})")
        case OSError():
            return LocalError(error, part.path)
    return RefusedError(f"gives an answer that gdown does not understand: {text}")
