"""Fetching a data set: from the mirror, from its addresses, or from where the user has put it by hand.

Every file is checked by size and SHA-256; where the digest is not known beforehand it is recorded at the first download
and compared ever after. What was fetched stays, whatever happens to the rest.

``resources/raw/<dataset>/`` holds the files, ``manifest.json`` (written last: the data set is complete) and
``.fetched.jsonl``, a line per file at the moment it was fetched. The latter is not redundant: Snakemake deletes a
rule's declared output, which the manifest is, before each run and after each failure, and the recorded digests must
survive.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

import pooch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from recount.data.dataset import DataError, RemoteFile, Source
from recount.fetching.addresses import copy_file, download
from recount.fetching.archives import ArchiveError, unpack
from recount.fetching.transfers import LocalError, Part, Patience, RefusedError, Session, WrongBytesError, local_error
from recount.results.files import text_digest

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LEDGER = ".fetched.jsonl"
MIRROR_VARIABLE = "RECOUNT_MIRROR"
BY_HAND = "by hand"
MIRRORED = "mirror:"
WORKERS = 8
DIGITS = 64  # of a whole SHA-256


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is there: path below the data set's folder, size, digest, and whence and when it came.

    ``address`` is one of the file's addresses, ``mirror:<dataset>/<path>``, or "by hand"; ``date`` is in UTC.
    """

    path: str
    bytes: int
    sha256: str
    address: str
    date: str


@dataclass(frozen=True, slots=True)
class NotFetched:
    """A file that could not be had, with (address, reason) of every try."""

    file: RemoteFile
    tries: list[tuple[str, str]]


class FetchError(DataError):
    """A data set could not be fetched; the message is for the user.

    Attributes:
        missing: the files that could not be had; empty if the reason is this machine (disk, permissions, mirror).
    """

    def __init__(self, message: str, missing: list[NotFetched] | None = None) -> None:
        super().__init__(message)
        self.missing = missing or []


def fetch(
    dataset: Source,
    raw_root: Path,
    *,
    mirror: str | Path | None = None,
    patience: Patience | None = None,
    workers: int = WORKERS,
) -> dict[str, Any]:
    """Bring all files of a data set into ``raw_root/<name>/``, unpack its archives, and write its manifest.

    Files that are already there with the right digest are not fetched again, and if nothing was fetched, the manifest
    keeps its bytes. A second process that fetches the same data set waits for the first.

    Args:
        dataset: which; its ``files()`` say what is needed.
        raw_root: ``resources/raw``.
        mirror: folder or http(s) address that is asked first, for ``<mirror>/<dataset>/<path>``; None: the environment
            variable RECOUNT_MIRROR, if it is set.
        patience: time-outs and attempts.
        workers: downloads at a time.

    Returns:
        The manifest: data set, title, homepage, licence, citation; ``digest`` (SHA-256 over digests and paths of all
        files); ``files`` (path, bytes, sha256, address, date); ``missing`` (paths of optional files not to be had).

    Raises:
        FetchError: files are missing: one message for the whole data set, with every file, address and reason, and how
            to get them by hand; or the disk cannot be written; or the mirror is not there.
    """
    folder = raw_root / dataset.name
    files = dataset.files()
    _check_paths(dataset, files)
    store = _mirror(os.environ.get(MIRROR_VARIABLE) if mirror is None else str(mirror))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_process(raw_root / f".{dataset.name}.lock", dataset.name):
            patience = patience or Patience()
            outcomes = _fetch_all(dataset, files, folder, store, patience, workers)
            if all(isinstance(outcome, Fetched) or outcome.file.optional for outcome in outcomes):
                listed = dataset.listed_files(folder)
                _check_paths(dataset, [*files, *listed])
                outcomes += _fetch_all(dataset, listed, folder, store, patience, workers)
            return _conclude(dataset, folder, outcomes)
    except LocalError as error:
        raise FetchError(str(error)) from error
    except OSError as error:
        raise FetchError(str(local_error(error, Path(error.filename or folder)))) from error


def _check_paths(dataset: Source, files: list[RemoteFile]) -> None:
    """Check declared files: a path that leaves the folder or comes twice is a mistake of the data set's module."""
    seen: set[str] = set()
    for path in [file.path for file in files]:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != path or path in (".", MANIFEST, LEDGER):
            raise ValueError(f"data set {dataset.name}: {path!r} cannot be the path of a file")
        if path in seen:
            raise ValueError(f"data set {dataset.name}: {path!r} is declared twice")
        seen.add(path)


def _mirror(mirror: str | None) -> str:
    """Return the mirror as an address or an existing folder without a slash at its end, "" for none."""
    if not mirror:
        return ""
    if not _is_web(mirror) and not Path(mirror).is_dir():
        raise FetchError(
            f"the mirror {mirror!r} ({MIRROR_VARIABLE}) is neither a folder that exists nor an http(s) address: "
            "correct it or unset it"
        )
    return mirror.rstrip("/")


def _is_web(mirror: str) -> bool:
    return mirror.startswith(("http://", "https://"))


@contextmanager
def _only_process(path: Path, name: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is fetching it; waiting until it is done", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_all(
    dataset: Source, files: list[RemoteFile], folder: Path, mirror: str, patience: Patience, workers: int
) -> list[Fetched | NotFetched]:
    """Return what became of each file, in the files' order."""
    with _Bars(dataset.name, folder, files) as bars:
        job = _Job(dataset.name, folder, mirror, _Ledger(folder), Session(patience, bars.moved))
        done: SimpleQueue[tuple[RemoteFile, Fetched | NotFetched | BaseException]] = SimpleQueue()
        todo = iter(files)
        turn = threading.Lock()

        def work() -> None:
            while not job.session.cancel.is_set():
                with turn:
                    file = next(todo, None)
                if file is None:
                    return
                try:
                    done.put((file, job.bring(file)))
                except BaseException as error:
                    done.put((file, error))

        for _ in range(min(workers, len(files))):
            # Daemons rather than a pool, which would keep Ctrl-C waiting for a server that says nothing.
            threading.Thread(target=work, daemon=True).start()
        return _collect(files, done, job.session, bars)


def _collect(
    files: list[RemoteFile],
    done: SimpleQueue[tuple[RemoteFile, Fetched | NotFetched | BaseException]],
    session: Session,
    bars: _Bars,
) -> list[Fetched | NotFetched]:
    outcomes: dict[str, Fetched | NotFetched] = {}
    try:
        while len(outcomes) < len(files):
            file, outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            outcomes[file.path] = outcome
            bars.done(file)
    finally:
        session.cancel.set()
    return [outcomes[file.path] for file in files]


@dataclass
class _Job:
    """One run of ``fetch``."""

    dataset: str
    folder: Path
    mirror: str
    ledger: _Ledger
    session: Session

    def bring(self, file: RemoteFile) -> Fetched | NotFetched:
        """Have one file in its place, verified and, if it is an archive, unpacked; or say why not."""
        target = self.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        outcome = self._have(file, target)
        if isinstance(outcome, Fetched) and file.unpack:
            try:
                unpack(target, outcome.sha256, check=self.session.check)
            except ArchiveError as error:
                return NotFetched(file, [(outcome.address, f"is there, but cannot be unpacked: {error}")])
        return outcome

    def _have(self, file: RemoteFile, target: Path) -> Fetched | NotFetched:
        recorded = self.ledger.entries.get(file.path)
        advice = ""
        if recorded is not None and len(file.sha256 or "") < DIGITS:
            file = replace(file, sha256=recorded.sha256, bytes=recorded.bytes)
            advice = _advice(recorded, self.folder)
        tries: list[tuple[str, str]] = []
        if target.exists():
            digest = pooch.file_hash(target)
            wrong = _difference(file, target, digest)
            if not wrong:
                known = recorded is not None and recorded.sha256 == digest
                return recorded if known and recorded else self._record(file, target, digest, BY_HAND)
            tries.append((str(target), f"is there already, but {wrong}{advice}"))
            log.warning("%s: %s is there, but %s", self.dataset, target, wrong)
        for address, label in self._addresses(file):
            try:
                return self._from(address, label, file, target)
            except WrongBytesError as refusal:
                tries.append((address, f"{refusal}{advice}"))
                log.warning("%s: %s: %s%s", self.dataset, address, refusal, advice)
            except RefusedError as refusal:
                tries.append((address, str(refusal)))
        return NotFetched(file, tries)

    def _addresses(self, file: RemoteFile) -> list[tuple[str, str]]:
        """Return (address, what the manifest calls it); a mirror's own place is nobody else's business."""
        if not self.mirror:
            return [(url, url) for url in file.urls]
        path = f"{self.dataset}/{file.path}"
        mirrored = f"{self.mirror}/{quote(path) if _is_web(self.mirror) else path}"
        return [(mirrored, f"{MIRRORED}{path}"), *((url, url) for url in file.urls)]

    def _from(self, address: str, label: str, file: RemoteFile, target: Path) -> Fetched:
        """Have the file from one address; if bytes continued from an earlier run are wrong, begin once at the start."""
        part = Part(target)
        continued = part.size() > 0
        if not (continued and file.sha256 and pooch.file_hash(part.path).startswith(file.sha256)):
            self._deliver(address, label, file, part)
        digest = pooch.file_hash(part.path)
        wrong = _difference(file, part.path, digest)
        if wrong:
            part.discard()
            if continued:
                return self._from(address, label, file, target)
            raise WrongBytesError(wrong)
        self.session.check()
        _sync(part.path)
        part.finish(target)
        _sync(target.parent)
        return self._record(file, target, digest, label)

    def _deliver(self, address: str, label: str, file: RemoteFile, part: Part) -> None:
        if label.startswith(MIRRORED) and not _is_web(address):
            copy_file(Path(address), part, self.session)
        else:
            download(address, file, part, self.session)

    def _record(self, file: RemoteFile, target: Path, digest: str, address: str) -> Fetched:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Fetched(file.path, target.stat().st_size, digest, address, now)
        self.ledger.add(entry)
        return entry


def _difference(file: RemoteFile, path: Path, digest: str) -> str:
    """Return in what the bytes at ``path`` are not those of ``file``, "" if they are as far as is known."""
    size = path.stat().st_size
    if file.sha256 is not None and not digest.startswith(file.sha256):
        return f"its SHA-256 is {digest} ({size:,} bytes), expected {_shown_digest(file.sha256)}" + (
            f" ({file.bytes:,} bytes)" if file.bytes is not None else ""
        )
    if file.bytes is not None and size != file.bytes:
        return f"it has {size:,} bytes, expected {file.bytes:,}"
    return ""


def _advice(recorded: Fetched, folder: Path) -> str:
    """Return where an expected digest comes from that was recorded rather than declared, and what to do about it."""
    return (
        f", as recorded at the first download ({recorded.date}, {recorded.address}): the file has changed since; "
        f"to go on with the new one, delete {folder} and fetch again (earlier results are then of other data)"
    )


def _sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Ledger:
    """``.fetched.jsonl``, and before it the manifest: what was fetched when; the last line for a path counts."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER
        self._lock = threading.Lock()
        self.entries: dict[str, Fetched] = {}
        manifest = folder / MANIFEST
        if manifest.exists():
            self._remember(manifest, lambda: json.loads(manifest.read_text(encoding="utf-8"))["files"])
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").split("\n")
            if lines.pop():  # killed in the middle of a line
                self._path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            self._remember(self._path, lambda: [json.loads(line) for line in lines])

    def _remember(self, path: Path, rows: Callable[[], list[dict[str, Any]]]) -> None:
        try:
            self.entries |= {row["path"]: Fetched(**row) for row in rows()}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise FetchError(f"{path}: is broken ({error}); delete it and fetch again") from error

    def add(self, entry: Fetched) -> None:
        with self._lock:
            self.entries[entry.path] = entry
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")


def _conclude(dataset: Source, folder: Path, outcomes: list[Fetched | NotFetched]) -> dict[str, Any]:
    """Write the manifest if nothing that is needed is missing."""
    missing = [outcome for outcome in outcomes if isinstance(outcome, NotFetched)]
    there = [outcome for outcome in outcomes if isinstance(outcome, Fetched)]
    if not all(outcome.file.optional for outcome in missing):
        raise FetchError(_missing_message(dataset, folder, missing, len(there)), missing)
    if missing:
        log.warning("%s goes on without %d optional files:\n%s", dataset.name, len(missing), "\n".join(_tried(missing)))
    lines = "".join(f"{entry.sha256}  {entry.path}\n" for entry in sorted(there, key=lambda entry: entry.path))
    manifest = {
        "dataset": dataset.name,
        "title": dataset.title,
        "homepage": dataset.homepage,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "digest": text_digest(lines),
        "files": [asdict(entry) for entry in there],
        "missing": [outcome.file.path for outcome in missing],
    }
    _write_if_changed(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _write_if_changed(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    _sync(new)
    new.replace(path)


def _missing_message(dataset: Source, folder: Path, missing: list[NotFetched], there: int) -> str:
    return "\n".join(
        [
            f"{dataset.name} ({dataset.title}): {len(missing)} of {len(missing) + there} files could not be had",
            *_tried(missing),
            f"What has been fetched stays ({there} files).",
            f"By hand: {dataset.by_hand or 'download the files from an address above or from the homepage'}",
            f"  homepage: {dataset.homepage or 'none'}",
            f"  licence: {dataset.licence}",
            f"  put each file below {folder.absolute()}/ under exactly the path above, and run the same command again",
        ]
    )


def _tried(missing: list[NotFetched]) -> list[str]:
    """Return lines with every file, under the addresses and reasons that it shares with other files.

    Hundreds of files of one repository fail for one reason; their address is then shown once, with ``<path>`` in it.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for outcome in missing:
        tries = [(_template(address, outcome.file.path), reason) for address, reason in outcome.tries]
        reasons = tuple(f"  {address}: {reason}" for address, reason in tries)
        groups.setdefault(reasons, []).append(f"    {_described(outcome.file)}")
    lines: list[str] = []
    for reasons, files in groups.items():
        lines += [*(reasons or ["  no address is known, only by hand:"]), *files]
    return lines


def _template(address: str, path: str) -> str:
    for ending in (path, quote(path)):
        if address.endswith("/" + ending):
            return address.removesuffix(ending) + "<path>"
    return address


def _shown_digest(sha256: str) -> str:
    return sha256 if len(sha256) == DIGITS else f"{sha256}…"


def _described(file: RemoteFile) -> str:
    known = [f"{file.bytes:,} bytes"] if file.bytes is not None else []
    known += [f"SHA-256 {_shown_digest(file.sha256)}"] if file.sha256 else []
    known += ["optional"] if file.optional else []
    return file.path + (f"  ({', '.join(known)})" if known else "")


@dataclass
class _Bars:
    """Progress bars, on a terminal: one for the data set, one for each file that is on its way."""

    name: str
    folder: Path
    files: list[RemoteFile]
    _tasks: dict[Path, TaskID] = field(default_factory=dict)
    _done: int = 0

    def __enter__(self) -> _Bars:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        sizes = [file.bytes for file in self.files if file.bytes is not None]
        self._whole = self._progress.add_task(
            self.name, total=sum(sizes) if len(sizes) == len(self.files) else None, start=True
        )
        self._lock = threading.Lock()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def moved(self, part: Path, position: int, total: int | None) -> None:
        """Show where a file is."""
        with self._lock:
            if part not in self._tasks:
                self._tasks[part] = self._progress.add_task(part.name.removesuffix(".part"), total=None)
            self._progress.update(self._tasks[part], completed=position, total=total)

    def done(self, file: RemoteFile) -> None:
        """Take a file's bar away."""
        with self._lock:
            self._done += 1
            part = Part(self.folder / file.path).path
            if part in self._tasks:
                self._progress.remove_task(self._tasks.pop(part))
            text = f"{self.name}: {self._done} of {len(self.files)} files"
            self._progress.update(self._whole, description=text, advance=file.bytes or 0)
