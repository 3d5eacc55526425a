"""Fetching a data set: from the mirror, from its addresses, or from where the user has put it by hand.

Every file is checked by size and SHA-256; where the digest is not known beforehand it is recorded at the first download
and compared ever after. What was fetched stays, whatever happens to the rest.
"""

import logging
import os
import re
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from recount.data.dataset import MANIFEST, DataError, RemoteFile, Source
from recount.fetching.addresses import copy_file, download
from recount.fetching.archives import ArchiveError, unpack
from recount.fetching.ledger import LEDGER, Fetched, Ledger, write_manifest
from recount.fetching.transfers import LocalError, Part, Patience, RefusedError, Session, WrongBytesError
from recount.results.files import SaveError, file_digest

log = logging.getLogger(__name__)

MIRROR_VARIABLE = "RECOUNT_MIRROR"
BY_HAND = "by hand"
MIRRORED = "mirror:"
WORKERS = 8
PATIENCE = Patience()
DIGITS = 64  # of a whole SHA-256


@dataclass(frozen=True, slots=True)
class _NotFetched:
    file: RemoteFile
    tries: list[tuple[str, str]]  # address, reason


def fetch(
    dataset: Source,
    raw_root: Path,
    *,
    mirror: str | Path | None = None,
    patience: Patience = PATIENCE,
    workers: int = WORKERS,
) -> dict[str, Any]:
    """Bring all files of a data set into ``raw_root/<name>/``, unpack its archives, and write its manifest.

    Files that are there with the right digest are not fetched again, and if nothing was fetched, the manifest keeps its
    bytes. A second process that fetches the same data set waits for the first. The mirror (folder or http(s) address;
    None: RECOUNT_MIRROR) is asked first, for ``<mirror>/<dataset>/<path>``. Returns the manifest; its ``digest`` is
    over digests and paths of all files. DataError is one message for the whole data set: every file that is missing
    with addresses, reasons, and how to get it by hand; or a disk that cannot be written; or no such mirror.
    """
    folder = raw_root / dataset.name
    files = dataset.files()
    _check_paths(dataset, files)
    store = os.environ.get(MIRROR_VARIABLE, "") if mirror is None else str(mirror)
    if store and not is_web(store) and not Path(store).is_dir():
        raise DataError(
            f"the mirror {store!r} ({MIRROR_VARIABLE}) is neither a folder that exists nor an http(s) address: "
            "correct it or unset it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_process(raw_root / f".{dataset.name}.lock", dataset.name):
            outcomes = _fetch_all(dataset, files, folder, store, patience, workers)
            if all(isinstance(outcome, Fetched) or outcome.file.optional for outcome in outcomes):
                listed = dataset.listed_files(folder)
                _check_paths(dataset, [*files, *listed])
                outcomes += _fetch_all(dataset, listed, folder, store, patience, workers)
            return _conclude(dataset, folder, outcomes)
    except (LocalError, SaveError) as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(str(LocalError(error, Path(error.filename or folder)))) from error


def _check_paths(dataset: Source, files: list[RemoteFile]) -> None:
    """Check declared files: a path that leaves the folder or comes twice is a mistake of the data set's module."""
    for path, times in Counter(file.path for file in files).items():
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != path or path in (".", MANIFEST, LEDGER):
            raise ValueError(f"data set {dataset.name}: {path!r} cannot be the path of a file")
        if times > 1:
            raise ValueError(f"data set {dataset.name}: {path!r} is declared twice")


def is_web(mirror: str) -> bool:
    """Return whether a mirror is asked over the network."""
    return mirror.startswith(("http://", "https://"))


def _only_process(path: Path, name: str) -> AbstractContextManager[Any]:
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is fetching it; waiting until it is done", name)
        return lock.acquire()


def _fetch_all(
    dataset: Source, files: list[RemoteFile], folder: Path, mirror: str, patience: Patience, workers: int
) -> list[Fetched | _NotFetched]:
    bars = _Bars(dataset.name, files)
    job = _Job(dataset.name, folder, mirror.rstrip("/"), Ledger(folder), Session(patience, bars.moved))
    outcomes: dict[str, Fetched | _NotFetched] = {}
    # Its threads are daemons, so that Ctrl-C does not wait for a server that says nothing.
    with bars.progress, ThreadPool(workers) as pool:
        try:
            for file, outcome in pool.imap_unordered(lambda file: (file, job.bring(file)), files):
                outcomes[file.path] = outcome
                bars.done(file, folder)
        finally:
            job.session.cancel.set()
    return [outcomes[file.path] for file in files]


@dataclass
class _Job:
    dataset: str
    folder: Path
    mirror: str
    ledger: Ledger
    session: Session

    def bring(self, file: RemoteFile) -> Fetched | _NotFetched:
        target = self.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        outcome = self._have(file, target)
        if isinstance(outcome, Fetched) and file.unpack:
            try:
                unpack(target, outcome.sha256, check=self.session.check)
            except ArchiveError as error:
                return _NotFetched(file, [(outcome.address, f"is there, but cannot be unpacked: {error}")])
        return outcome

    def _have(self, file: RemoteFile, target: Path) -> Fetched | _NotFetched:
        recorded = self.ledger.entries.get(file.path)
        advice = ""
        if recorded is not None and len(file.sha256 or "") < DIGITS:
            file = replace(file, sha256=recorded.sha256, bytes=recorded.bytes)
            advice = (
                f", as recorded at the first download ({recorded.date}, {recorded.address}): the file has changed "
                f"since; to go on with the new one, delete {self.folder} and fetch again (earlier results are then of "
                "other data)"
            )
        tries: list[tuple[str, str]] = []
        if target.exists():
            digest = file_digest(target)
            wrong = _difference(file, target, digest)
            if not wrong:
                same = recorded is not None and recorded.sha256 == digest
                return recorded if recorded and same else self.ledger.record(file.path, digest, BY_HAND)
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
        return _NotFetched(file, tries)

    def _addresses(self, file: RemoteFile) -> list[tuple[str, str]]:
        """Return (address, what the manifest calls it); a mirror's own place is nobody else's business."""
        own = [(url, url) for url in file.urls]
        if not self.mirror:
            return own
        path = f"{self.dataset}/{file.path}"
        return [(f"{self.mirror}/{quote(path) if is_web(self.mirror) else path}", f"{MIRRORED}{path}"), *own]

    def _from(self, address: str, label: str, file: RemoteFile, target: Path) -> Fetched:
        """Have the file from one address; if bytes continued from an earlier run are wrong, begin once at the start."""
        part = Part(target)
        continued = part.size() > 0
        if not (continued and file.sha256 and file_digest(part.path).startswith(file.sha256)):
            if label.startswith(MIRRORED) and not is_web(address):
                copy_file(Path(address), part, self.session)
            else:
                download(address, file, part, self.session)
        digest = file_digest(part.path)
        wrong = _difference(file, part.path, digest)
        if wrong:
            part.discard()
            if continued:
                return self._from(address, label, file, target)
            raise WrongBytesError(wrong)
        self.session.check()
        part.finish()
        return self.ledger.record(file.path, digest, label)


def _difference(file: RemoteFile, path: Path, digest: str) -> str:
    """Return in what the bytes at ``path`` are not those of ``file``, as far as is known; "" for nothing."""
    size = path.stat().st_size
    if file.sha256 is not None and not digest.startswith(file.sha256):
        expected = "" if file.bytes is None else f" ({file.bytes:,} bytes)"
        return f"its SHA-256 is {digest} ({size:,} bytes), expected {_shown(file.sha256)}{expected}"
    if file.bytes is not None and size != file.bytes:
        return f"it has {size:,} bytes, expected {file.bytes:,}"
    return ""


def _shown(sha256: str) -> str:
    return sha256 if len(sha256) == DIGITS else f"{sha256}…"


def _conclude(dataset: Source, folder: Path, outcomes: list[Fetched | _NotFetched]) -> dict[str, Any]:
    missing = [outcome for outcome in outcomes if isinstance(outcome, _NotFetched)]
    there = [outcome for outcome in outcomes if isinstance(outcome, Fetched)]
    if not all(outcome.file.optional for outcome in missing):
        lines = (
            f"{dataset.name} ({dataset.title}): {len(missing)} of {len(outcomes)} files could not be had",
            *_tried(missing),
            f"What has been fetched stays ({len(there)} files).",
            f"By hand: {dataset.by_hand or 'download the files from an address above or from the homepage'}",
            f"  homepage: {dataset.homepage or 'none'}",
            f"  licence: {dataset.licence}",
            f"  put each file below {folder.absolute()}/ under exactly the path above, and run the same command again",
        )
        raise DataError("\n".join(lines))
    if missing:
        log.warning("%s goes on without %d optional files:\n%s", dataset.name, len(missing), "\n".join(_tried(missing)))
    return write_manifest(dataset, folder, there, [outcome.file.path for outcome in missing])


def _tried(missing: list[_NotFetched]) -> list[str]:
    """Return lines with every file: hundreds of one repository share an address with ``<path>`` in it and a reason."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for outcome in missing:
        ending = re.compile(f"(?<=/)({re.escape(outcome.file.path)}|{re.escape(quote(outcome.file.path))})$")
        tries = [f"  {ending.sub('<path>', address)}: {reason}" for address, reason in outcome.tries]
        groups.setdefault(tuple(tries), []).append(f"    {_described(outcome.file)}")
    lines: list[str] = []
    for reasons, files in groups.items():
        lines += [*(reasons or ["  no address is known, only by hand:"]), *files]
    return lines


def _described(file: RemoteFile) -> str:
    size = "" if file.bytes is None else f"{file.bytes:,} bytes"
    digest = f"SHA-256 {_shown(file.sha256)}" if file.sha256 else ""
    known = ", ".join(filter(None, (size, digest, "optional" if file.optional else "")))
    return f"{file.path}  ({known})" if known else file.path


class _Bars:
    """Progress bars, on a terminal: one for the data set, one for each file that is on its way."""

    def __init__(self, name: str, files: list[RemoteFile]) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        sizes = [file.bytes for file in files]
        self._whole = self.progress.add_task(name, total=None if None in sizes else sum(size or 0 for size in sizes))
        self._name, self._files, self._done = name, len(files), 0
        self._tasks: dict[Path, TaskID] = {}  # by unfinished file, each of which only one thread moves

    def moved(self, part: Path, position: int, total: int | None) -> None:
        if part not in self._tasks:
            self._tasks[part] = self.progress.add_task(part.name.removesuffix(".part"), total=None)
        self.progress.update(self._tasks[part], completed=position, total=total)

    def done(self, file: RemoteFile, folder: Path) -> None:
        self._done += 1
        if (task := self._tasks.pop(Part(folder / file.path).path, None)) is not None:
            self.progress.remove_task(task)
        text = f"{self._name}: {self._done} of {self._files} files"
        self.progress.update(self._whole, description=text, advance=file.bytes or 0)
