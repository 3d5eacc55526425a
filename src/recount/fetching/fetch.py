"""Fetching a data set: from the mirror, from its addresses, or from where the user has put it by hand.

Nothing is recorded before it has proved usable (``proof``) and to be what is stated of it (``digests``); a digest that
nobody states is recorded at the first download and compared ever after. What fails is moved aside, as
``<file>.rejected``, and told, so that it stands in nobody's way. What was fetched stays, whatever happens to the rest.
"""

import logging
import os
import re
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from filelock import Timeout
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from recount.data.dataset import MANIFEST, DataError, Dataset, RemoteFile, Source
from recount.fetching import by_hand
from recount.fetching.addresses import copy_file, download
from recount.fetching.archives import ArchiveError, NotHereError, unpack, unpacked_folder
from recount.fetching.digests import (
    DIGITS,
    STATED,
    Measured,
    binding,
    described,
    difference,
    doubtful,
    is_certain,
    measured,
)
from recount.fetching.file_lists import LISTS
from recount.fetching.ledger import LEDGER, Fetched, Ledger, write_manifest
from recount.fetching.proof import UnusableError, kind_of, prove
from recount.fetching.transfers import (
    LocalError,
    Part,
    Patience,
    RefusedError,
    Session,
    WrongBytesError,
    part_path,
    set_aside,
)
from recount.results.files import SaveError, file_digest, shared_lock

log = logging.getLogger(__name__)

MIRROR_VARIABLE = "RECOUNT_MIRROR"
BY_HAND = "by hand"
MIRRORED = "mirror:"
SHIPPED = "shipped:"  # address of a file that lies beside the file lists
WORKERS = 8
PATIENCE = Patience()
SLACK_BYTES = 2**20  # that may come beyond the size of a file, so that what came instead can be told
SHOWN_FAULTS = 3  # of the files in a folder


@dataclass(frozen=True, slots=True)
class _Outcome:
    file: RemoteFile
    fetched: list[Fetched]  # none: it could not be had
    tries: list[tuple[str, str]] = field(default_factory=list)  # address, reason
    in_the_way: bool = False  # what cannot be taken stays where readers look for it

    @property
    def fails(self) -> bool:
        """Whether the data set cannot be read for it."""
        return not self.fetched and (self.in_the_way or not self.file.optional)


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
    bytes. A folder that somebody has unpacked stands for its archive, and its files are recorded. A second process that
    fetches the same data set waits for the first. The mirror (folder or http(s) address; None: RECOUNT_MIRROR) is asked
    first, for ``<mirror>/<dataset>/<path>``. Returns the manifest; its ``digest`` is over digests and paths of all
    files. DataError is one message for the whole data set: every file that is missing with addresses, reasons, and how
    to get it by hand; or a disk that cannot be written; or no such mirror.
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
            if not any(outcome.fails for outcome in outcomes):
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


def on_mirror(source: Source, file: RemoteFile) -> bool:
    """Return whether the mirror (RECOUNT_MIRROR) has a file, or may have it: over the network nobody is asked."""
    store = os.environ.get(MIRROR_VARIABLE, "")
    return bool(store) and (is_web(store) or Path(store, source.name, file.path).is_file())


def pictures_by_hand(source: Dataset, folder: Path) -> bool:
    """Return whether a data set's pictures are not below ``folder``, and the mirror has no archive of them."""
    of_pictures = (
        file
        for file in source.files()
        if file.unpack and {unpacked_folder(Path(file.path)).name, *file.unpacked} & source.roots_of_pictures
    )
    return source.lacks_pictures(folder) and not any(on_mirror(source, file) for file in of_pictures)


def _only_process(path: Path, name: str) -> AbstractContextManager[Any]:
    lock = shared_lock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is fetching it; waiting until it is done", name)
        return lock.acquire()


def _fetch_all(
    dataset: Source, files: list[RemoteFile], folder: Path, mirror: str, patience: Patience, workers: int
) -> list[_Outcome]:
    bars = _Bars(dataset.name, files)
    job = _Job(dataset.name, folder, mirror.rstrip("/"), Ledger(folder), Session(patience, bars.moved))
    outcomes: dict[str, _Outcome] = {}
    # Its threads are daemons, so that Ctrl-C does not wait for a server that says nothing.
    with bars.progress, ThreadPool(workers) as pool:
        try:
            for file, outcome in pool.imap_unordered(lambda file: (file, job.bring(file)), files):
                outcomes[file.path] = outcome
                bars.done(file, folder)
        finally:
            job.session.cancel.set()
    return [outcomes[file.path] for file in files]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file as it has to be."""

    file: RemoteFile
    stated: RemoteFile  # with what decides alone, among it what was recorded at the first download
    advice: str  # where that differs
    target: Path
    unpacks: bool

    def part(self) -> Part:
        known, most = self.stated.bytes, kind_of(self.file.path).most
        return Part(self.target, max(most, 2 * (self.file.bytes or 0)) if known is None else known + SLACK_BYTES)


@dataclass
class _Job:
    dataset: str
    folder: Path
    mirror: str
    ledger: Ledger
    session: Session

    def bring(self, file: RemoteFile) -> _Outcome:
        target = self.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            folders = by_hand.folders_for(file, self.folder) if file.unpack else []
            unpacked = self._unpacked(file, folders) if folders else _Outcome(file, [])
            if unpacked.tries or (folders and not target.exists()):
                return unpacked
            outcome = self._have(self._wanted(file, target, unpacks=file.unpack and not folders))
            return replace(outcome, fetched=outcome.fetched + unpacked.fetched) if outcome.fetched else outcome
        except ArchiveError as error:
            return _Outcome(file, [], [(str(target), f"is there, but cannot be unpacked: {error}")])

    def _unpacked(self, file: RemoteFile, folders: list[Path]) -> _Outcome:
        """Return the files in folders that somebody has unpacked, all of them recorded, or what is wrong."""
        known = dict(self.ledger.entries)  # other threads add to it
        digests, faults = by_hand.examined(folders, self.folder, known, self.session.check)
        if not faults:
            return _Outcome(file, [known.get(n) or self.ledger.record(n, digests[n], BY_HAND) for n in sorted(digests)])
        shown = "; ".join(faults[:SHOWN_FAULTS]) + ("; …" if len(faults) > SHOWN_FAULTS else "")
        reason = (
            f"lies there unpacked, but {len(faults)} of its {len(digests)} files cannot be taken: {shown}. Put "
            f"the right ones there, or move the folder away; to go on with changed ones, {self._forgetting()}"
        )
        return _Outcome(file, [], [(", ".join(map(str, folders)), reason)], in_the_way=True)

    def _forgetting(self) -> str:
        return f"delete {self.folder / LEDGER} and {self.folder / MANIFEST} and fetch again"

    def _wanted(self, file: RemoteFile, target: Path, *, unpacks: bool) -> _Wanted:
        recorded, stated = self.ledger.entries.get(file.path), binding(file)
        if recorded is None or len(stated.sha256 or "") == DIGITS:
            return _Wanted(file, stated, "", target, unpacks)
        delete = self._forgetting() if recorded.address == BY_HAND else f"delete {self.folder} and fetch again"
        advice = (
            f", as recorded at the first download ({recorded.date}, {recorded.address}): the file has changed since; "
            f"to go on with the new one, {delete} (earlier results are then of other data)"
        )
        return _Wanted(file, replace(stated, sha256=recorded.sha256, bytes=recorded.bytes), advice, target, unpacks)

    def _have(self, wanted: _Wanted) -> _Outcome:
        file, target, tries = wanted.file, wanted.target, []
        if os.path.lexists(target):
            found, fault, _ = self._examined(wanted, target)
            recorded = self.ledger.entries.get(file.path)
            if not fault:
                same = recorded is not None and recorded.sha256 == found.sha256
                entry = recorded if recorded and same else self.ledger.record(file.path, found.sha256, BY_HAND)
                return _Outcome(file, [entry])
            place = set_aside(target, target, own=True)
            self.ledger.forget(file.path, found.sha256)
            wanted = self._wanted(file, target, unpacks=wanted.unpacks)
            tries.append((str(target), f"is there already, but {fault}; now {place}"))
            log.warning("%s: %s is there, but %s; now %s", self.dataset, target, fault, place)
        for address, label in self._addresses(file):
            try:
                return _Outcome(file, [self._from(address, label, wanted)])
            except WrongBytesError as refusal:
                tries.append((address, str(refusal)))
                log.warning("%s: %s: %s%s", self.dataset, address, refusal, refusal.place)
            except RefusedError as refusal:
                tries.append((address, str(refusal)))
        return _Outcome(file, [], tries)

    def _addresses(self, file: RemoteFile) -> list[tuple[str, str]]:
        """Return (address, what the manifest calls it); a mirror's own place is nobody else's business."""
        own = [(url, url) for url in file.urls]
        if not self.mirror:
            return own
        path = f"{self.dataset}/{file.path}"
        return [(f"{self.mirror}/{quote(path) if is_web(self.mirror) else path}", f"{MIRRORED}{path}"), *own]

    def _from(self, address: str, label: str, wanted: _Wanted) -> Fetched:
        """Have the file from one address; if bytes continued from an earlier run are wrong, begin once at the start."""
        part, stated = wanted.part(), wanted.stated
        continued = part.size() > 0
        if not (continued and stated.sha256 and file_digest(part.path).startswith(stated.sha256)):
            self._transfer(address, label, stated, part)
        if part.md5:
            wanted = replace(wanted, file=replace(wanted.file, md5=part.md5), stated=replace(stated, md5=part.md5))
        found, fault, whole = self._examined(wanted, part.path)
        if not (fault or whole or part.ended or any(getattr(wanted.stated, name) for name in STATED)):
            # Neither the server nor the content says where the bytes end: a connection that was cut would differ.
            part.discard()
            self._transfer(address, label, stated, part)
            if file_digest(part.path) != found.sha256:
                fault = "comes with other bytes at the second time, and nothing says where it ends"
        if fault and continued:
            part.discard()
            return self._from(address, label, wanted)
        if fault:
            raise WrongBytesError(fault, f"; what came is {part.reject()}")
        self.session.check()
        part.finish()
        return self.ledger.record(wanted.file.path, found.sha256, label)

    def _transfer(self, address: str, label: str, stated: RemoteFile, part: Part) -> None:
        if label.startswith(MIRRORED) and not is_web(address):
            copy_file(Path(address), part, self.session)
        elif address.startswith(SHIPPED):
            copy_file(LISTS / address.removeprefix(SHIPPED), part, self.session)
        else:
            download(address, stated, part, self.session)

    def _examined(self, wanted: _Wanted, path: Path) -> tuple[Measured, str, bool]:
        """Return what the bytes at ``path`` have, why they cannot be taken ("" if they can), if they prove their end.

        An archive is unpacked, which reads all of it.
        """
        if not path.is_file():
            return Measured(0, "", "", ""), "is no file", False
        file, stated, whole = wanted.file, wanted.stated, True
        found = measured(path, file)
        wrong = difference(stated, found)
        faults = [f"{wrong}{wanted.advice}"] if wrong else []
        if wrong or not is_certain(binding(file)):
            try:
                whole = prove(path, file.path, unpacked=wanted.unpacks)
            except UnusableError as error:
                faults.insert(0, str(error))
        if wanted.unpacks and not faults:
            try:
                unpack(path, found.sha256, name=wanted.target.name, check=self.session.check)
            except NotHereError:
                raise
            except ArchiveError as error:
                faults.append(f"cannot be unpacked: {error}")
        if not faults and (doubt := difference(doubtful(file), found)):
            told = "%s: %s is taken, although %s: only one source states that, so it may be another edition"
            log.warning(told, self.dataset, file.path, doubt)
        return found, "; ".join(faults), whole


def _conclude(dataset: Source, folder: Path, outcomes: list[_Outcome]) -> dict[str, Any]:
    missing = [outcome for outcome in outcomes if not outcome.fetched]
    there = [entry for outcome in outcomes for entry in outcome.fetched]
    if any(outcome.fails for outcome in missing):
        Ledger(folder).drop_manifest()
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


def _tried(missing: list[_Outcome]) -> list[str]:
    """Return lines with every file: hundreds of one repository share an address with ``<path>`` in it and a reason."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for outcome in missing:
        ending = re.compile(f"(?<=/)({re.escape(outcome.file.path)}|{re.escape(quote(outcome.file.path))})$")
        tries = [f"  {ending.sub('<path>', address)}: {reason}" for address, reason in outcome.tries]
        groups.setdefault(tuple(tries), []).append(f"    {described(outcome.file)}")
    lines: list[str] = []
    for reasons, files in groups.items():
        lines += [*(reasons or ["  no address is known, only by hand:"]), *files]
    return lines


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
        if (task := self._tasks.pop(part_path(folder / file.path), None)) is not None:
            self.progress.remove_task(task)
        text = f"{self._name}: {self._done} of {self._files} files"
        self.progress.update(self._whole, description=text, advance=file.bytes or 0)
