"""One attempt at an http(s) address, by pooch: goes on where the last one ended, and refuses what is not the file."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from pooch import HTTPDownloader
from urllib3 import HTTPResponse

from recount.data.dataset import RemoteFile
from recount.fetching.proof import stranger
from recount.fetching.transfers import (
    Pace,
    Part,
    Patience,
    RefusedError,
    Session,
    TransientError,
    Writer,
    WrongBytesError,
)
from recount.provenance import VERSION

CHUNK_BYTES = 2**16
SMALL_BYTES = 2**20  # a body of the wrong size is read up to here, to say what it is: a web page, a pointer
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 530}


def fetch_http(
    url: str, file: RemoteFile, part: Part, session: Session, headers: Mapping[str, str | None] | None = None
) -> None:
    """One attempt over HTTP."""
    start, validator = part.size(), part.validator(url)
    # Without a known digest, bytes of two versions could be joined unnoticed: then only the same version is continued.
    if (file.sha256 is None and validator is None) or (file.bytes is not None and start >= file.bytes):
        start, validator = 0, None
    # Offsets count the bytes on the disk, so the server must not compress on the way.
    asked = {"User-Agent": f"recount/{VERSION}", **(headers or {}), "Accept-Encoding": "identity"}
    if start:
        asked |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    bodies: list[HTTPResponse] = []

    def stop() -> None:
        with suppress(IndexError, OSError, RuntimeError, ValueError):  # not begun, or over
            bodies[-1].shutdown()

    with Pace(session, CHUNK_BYTES, stop) as pace, Writer(part, session, pace.moved) as writer:

        def on_response(response: requests.Response, *_: Any, **__: Any) -> None:
            if response.ok and not response.is_redirect:
                bodies.append(response.raw)
                pace.start()
                begin, total = _body(response, file, start)
                part.check_size(begin, total)
                writer.begin(begin, file.bytes if total is None else total)
                part.note_source(url, _validator(response))
                part.ended = total is not None or response.headers.get("Transfer-Encoding") == "chunked"

        options = {"headers": asked, "timeout": session.patience.timeout, "hooks": {"response": on_response}}
        try:
            HTTPDownloader(chunk_size=CHUNK_BYTES, **options)(url, writer, None)
        except requests.RequestException as error:
            if failure := _failure(error, writer, start):
                raise failure from error
        cut = writer.total is not None and writer.position < writer.total
        if cut and not (writer.position and stranger(part.path, file.path)):
            raise TransientError(f"the connection ended after {writer.position:,} of {writer.total:,} bytes")


def _failure(error: requests.RequestException, writer: Writer, start: int) -> Exception | None:
    """Return what an error means; None where it says that all bytes are there."""
    text = str(error)
    match error:
        case requests.HTTPError(response=response) if response.status_code != 416:
            return status_error(response)
        case requests.HTTPError(response=response):
            if response.headers.get("Content-Range") == f"bytes */{start}":
                writer.part.ended = True
                return None
            writer.part.discard()
            return TransientError("the file there is shorter than the part that is here: starting again")
        case requests.exceptions.SSLError() if "CERTIFICATE" in text:
            return RefusedError(f"its certificate is not accepted ({text})")
        case requests.Timeout():
            return timeout_error(error, writer.session.patience)
        case requests.ConnectionError() | requests.exceptions.ChunkedEncodingError() if "timed out" in text:
            return timeout_error(error, writer.session.patience)
        case requests.exceptions.ProxyError():
            return TransientError(f"the proxy does not let it through ({text})")
        case requests.ConnectionError() | requests.exceptions.ChunkedEncodingError():
            return TransientError(f"the connection dropped after {writer.position:,} bytes")
    return RefusedError(f"cannot be asked ({text})")


def _body(response: requests.Response, file: RemoteFile, start: int) -> tuple[int, int | None]:
    """Return (offset of the first byte that is coming, size of the whole file), or refuse what is not the file.

    An offset of 0 is right whatever was asked for: a server without ranges, or with a newer version, starts again.
    """
    begin, length = 0, response.headers.get("Content-Length", "")
    if response.status_code == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if span is None:
            raise RefusedError("answers a range request without saying which range it sends")
        begin, length = int(span[1]), span[2]
    elif response.status_code != 200:
        raise RefusedError(f"HTTP {response.status_code} {response.reason}")
    elif response.headers.get("Content-Encoding"):
        length = ""
    total = int(length) if length.isdigit() else None
    if begin not in (0, start):
        raise RefusedError(f"sends bytes from {begin:,} on when asked for those from {start:,} on")
    kind = response.headers.get("Content-Type", "")
    if file.sha256 is None and kind.startswith("text/html") and not file.path.endswith((".html", ".htm")):
        raise RefusedError("delivers a web page instead of the file (a log-in or consent page?)")
    if file.bytes is not None and total is not None and total != file.bytes and total > SMALL_BYTES:
        raise WrongBytesError(f"has {total:,} bytes, expected {file.bytes:,}")
    return begin, total


def _validator(response: requests.Response) -> str | None:
    """Return what names the version of the bytes in If-Range (RFC 9110, 13.1.5): a strong ETag, or the date."""
    if response.headers.get("Content-Encoding"):
        return None
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def status_error(response: requests.Response) -> Exception:
    """Return what an HTTP error means: to be tried again, or not."""
    status = f"HTTP {response.status_code} {response.reason}"
    if response.status_code not in TRANSIENT_STATUS:
        return RefusedError(status)
    asked = response.headers.get("Retry-After", "")  # seconds or a date (RFC 9110, 10.2.3)
    if asked.isdigit():
        return TransientError(status, wait_seconds=float(asked))
    try:
        return TransientError(status, wait_seconds=parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return TransientError(status)


def timeout_error(error: Exception, patience: Patience) -> TransientError:
    """Return what a time-out means; it costs two attempts, for each of them has cost the user's time."""
    connecting = isinstance(error, requests.ConnectTimeout)
    seconds = patience.connect_seconds if connecting else patience.read_seconds
    return TransientError(f"no {'connection within' if connecting else 'data for'} {seconds:g} s", cost=2)
