"""Whether prepared data are what ``recount prepare`` wrote, and what raw files they were made from.

Whoever reads a prepared file checks its bytes (``health.checked``): ``read_index`` the index, points and boxes,
``load_image`` a picture. ``unfit_files`` looks at all of them. How the digests hang together:
``recount.results.prepared``.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recount.data.dataset import MANIFEST, DataError, Dataset
from recount.data.health import Defects
from recount.data.index import named_files
from recount.results.digest_cache import DigestCache
from recount.results.files import ResultsError, file_digest
from recount.results.prepared import RAW, RAW_FILES, SUMMARY, RawFile, Summary, raw_root

CACHE = ".digests.json"  # in the prepared folder
FOLDERS = ("images", "points", "boxes")  # of a prepared data set; index.csv names the files in them


@dataclass(frozen=True, slots=True)
class UnfitFile:
    """A file that is not, or not any more, what the prepared data say."""

    path: Path
    # damaged: other bytes than were written; untracked: nobody wrote it; stale: the raw file was another one
    kind: Literal["damaged", "missing", "untracked", "stale"]
    expected: str = ""  # the digest that is recorded
    found: str = ""  # the digest that it has; "" where there is none


def unfit_files(folder: Path, *, full: bool = False) -> list[UnfitFile]:
    """Return what does not fit in the prepared data in ``folder`` (``data/<dataset>/<preparation>``); [] if all does.

    Files that have not changed since the last call are not read again, unless ``full``; then raw files are read, too.
    Raw files that are not there any more make nothing unfit. No error is raised for a broken file.
    """
    cache = DigestCache(folder / CACHE)
    digest_of = file_digest if full else cache.digest
    found = list(_unfit(folder, digest_of, full=full))
    cache.save()
    return found


def _unfit(folder: Path, digest_of: Callable[[Path], str], *, full: bool) -> Iterator[UnfitFile]:
    index = folder / "index.csv"
    if absent := [path for path in (index, folder / SUMMARY) if not path.is_file()]:
        yield from (UnfitFile(path, "missing") for path in absent)
        return
    try:
        summary = Summary.read(folder / SUMMARY)
    except (ResultsError, OSError):
        yield UnfitFile(folder / SUMMARY, "damaged")
        return
    try:
        named = named_files(index)
    except DataError:
        yield UnfitFile(index, "damaged", summary.data_digest, file_digest(index))
        return
    for path, expected in named.items():
        yield from _compared(path, expected, digest_of)
    there = {path for name in FOLDERS for path in (folder / name).glob("*")}
    yield from (UnfitFile(path, "untracked") for path in sorted(there - named.keys()))
    raw = list(_compared(folder / RAW, summary.raw.sha256, digest_of))
    yield from raw or _stale(folder, summary, digest_of, full=full)


def _compared(
    path: Path, expected: str, digest_of: Callable[[Path], str], kind: Literal["damaged", "stale"] = "damaged"
) -> Iterator[UnfitFile]:
    try:
        found = digest_of(path)
    except FileNotFoundError:
        yield UnfitFile(path, "missing", expected)
    except OSError:
        yield UnfitFile(path, "damaged", expected)
    else:
        if found != expected:
            yield UnfitFile(path, kind, expected, found)


def _stale(folder: Path, summary: Summary, digest_of: Callable[[Path], str], *, full: bool) -> Iterator[UnfitFile]:
    """Yield the raw files that are others now than the ones that were prepared."""
    root = raw_root(folder, summary)
    recorded = {file.path: file.sha256 for file in RAW_FILES.read(folder / RAW)}
    for name in sorted({path.partition("/")[0] for path in recorded}):
        manifest = root / name / MANIFEST
        try:
            listed = fetched_digests(root, name)
        except DataError:
            yield UnfitFile(manifest, "damaged")
            continue
        for path in sorted(listed.keys() | {path for path in recorded if path.startswith(f"{name}/")}):
            expected = recorded.get(path, "")
            if path in listed and listed[path] != expected:
                yield UnfitFile(root / path, "stale", expected, listed[path])
            elif (path not in listed or full) and (root / path).is_file():
                yield from _compared(root / path, expected, digest_of, "stale")


def fetched_digests(raw_root: Path, dataset: str) -> dict[str, str]:
    """Return the digests of a fetched data set's files by ``<dataset>/<path>``; {} where there is no manifest."""
    path = raw_root / dataset / MANIFEST
    try:
        return {f"{dataset}/{file['path']}": str(file["sha256"]) for file in json.loads(path.read_bytes())["files"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"not a readable manifest ({error!r})"
        raise DataError(f"{path}: {what}; delete it, and `recount fetch {dataset}` writes it anew") from None


def raw_files(dataset: Dataset, root: Path, read: Mapping[Path, str], defects: Defects) -> list[RawFile]:
    """Return the raw files behind a data set, sorted: what its manifest lists, and all else below ``root/<name>``.

    ``read`` are the digests of those that have been read already. A file of another digest than in the manifest is a
    defect. Archives are taken from the manifest: what was unpacked from them is hashed itself.
    """
    names = [name for name in (dataset.name, dataset.pictures_of) if name]
    listed: dict[str, str] = {}
    for name in names:
        with defects.collected():
            listed |= fetched_digests(root, name)
    archives = {f"{dataset.name}/{file.path}" for file in dataset.files() if file.unpack}
    found = dict(listed)
    for path in dict.fromkeys([*read, *_below(root / dataset.name)]):
        name = Path(os.path.relpath(path, root)).as_posix()
        if name in archives & listed.keys() or name.startswith("../"):
            continue
        try:
            found[name] = read.get(path) or file_digest(path)
        except OSError as error:
            defects.add(f"{path}: cannot be read: {error.strerror}")
            continue
        if found[name] != listed.get(name, found[name]):
            what = (
                f"its sha256 is {found[name]}, but {MANIFEST} says {listed[name]}: it has changed since it was fetched"
            )
            defects.add(f"{path}: {what}; `recount fetch {name.partition('/')[0]}` gets it again")
    return [RawFile(*item) for item in sorted(found.items())]


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files below ``folder``, through links to folders, too; no hidden, unfinished or book-keeping ones."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        for name in () if real in seen else sorted(files):
            if (
                not name.startswith(".")
                and not name.endswith((".part", ".part.source", ".rejected"))
                and name != MANIFEST
            ):
                yield Path(place, name)
        seen.add(real)
