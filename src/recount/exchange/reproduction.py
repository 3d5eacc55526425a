"""Reading a reproduction that someone else may have made: an export (folder or zip file), or a suite's results folder.

Files come from other people: nothing is unpacked to disk or executed, links that lead out and names that stand twice
are refused, and no more is read than a reproduction can have.
"""

import hashlib
import stat
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from recount.chain import MADE
from recount.errors import UserError
from recount.fetching.archives import BROKEN
from recount.results.files import MadeTables, ResultsError
from recount.results.predictions import PREDICTIONS, Timing, timing_path
from recount.results.run_record import RUN, RunRecord
from recount.results.scores import SCORES
from recount.results.verdicts import VERDICTS

SCORE_FILE = "scores.csv"
VERDICT_FILE = "verdicts.csv"
# Bytes of one file; bytes and number of all: predictions of a paper's suite take a few million bytes
LARGEST, MOST_BYTES, MOST_FILES = 64_000_000, 500_000_000, 100_000


@dataclass
class Reproduction:
    """The results of a suite, as they lie in a folder or a zip file; a damaged file raises a ResultsError."""

    path: Path
    names: tuple[str, ...]  # of its files, relative to the folder that holds scores.csv
    read: Callable[[str], bytes]
    _predictions: dict[str, pd.DataFrame] = field(default_factory=dict)  # by name, each read once

    @cached_property
    def unfit(self) -> dict[str, str]:
        """The predictions that are not what their record says, or whose run or model is another: name -> why."""
        found = {}
        for name in self.names:
            if name.startswith("predictions/") and name.endswith(".csv"):
                try:
                    self._check(name)
                except ResultsError as error:
                    found[name] = str(error).removeprefix(f"{self.path}: ")
        return found

    def timing(self, name: str) -> Timing:
        """Return the record of a file of predictions."""
        record = timing_path(Path(name)).as_posix()
        if record not in self.names:
            raise ResultsError(f"{self.path}: {name}: no {record} says what it was made from")
        return Timing.parse(*self._file(record))

    def _check(self, name: str) -> None:
        made, where = self.timing(name).made, f"{self.path}: {name}"
        if made.content.get(Path(name).name) != hashlib.sha256(self.read(name)).hexdigest():
            raise ResultsError(f"{where}: damaged: its content is not what was written")
        if made.run not in self.records:
            raise ResultsError(f"{where}: stale: there is no run.json of {made.run or 'the run'}, which made it")
        models = self.records[made.run].selections
        if any(name not in models or models[name].sha256 != digest for name, digest in made.models.items()):
            raise ResultsError(f"{where}: stale: made with another model than {made.run} has")

    def why_unfit(self, dataset: str, system: str, variant: str) -> str:
        """Return why predictions of a variant on ``<data set>/<split>`` are not to be used, "" if they are."""
        folder = f"predictions/{dataset}/{system}/{variant}/"
        return "; ".join(why for name, why in self.unfit.items() if name.startswith(folder))

    def _file(self, name: str) -> tuple[bytes, str]:
        return self.read(name), f"{self.path}: {name}"

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The rows of scores.csv; a ResultsError where they are not what was scored from these predictions."""
        where = f"{self.path}: {SCORE_FILE}"
        if MADE["score"] not in self.names:
            raise ResultsError(f"{where}: no {MADE['score']} says what it was made from; `recount score` makes both")
        made = MadeTables.parse(*self._file(MADE["score"])).made
        for name, digest in (made.content | made.results).items():
            if name in self.names and hashlib.sha256(self.read(name)).hexdigest() != digest and name not in self.unfit:
                kind = "damaged" if name in made.content else f"stale: made from another {name}"
                raise ResultsError(f"{where}: {kind}; `recount score` makes it anew")
        return SCORES.frame(*self._file(SCORE_FILE))

    @cached_property
    def records(self) -> dict[str, RunRecord]:
        """The run.json of each run by ``<system>/<variant>/seed<k>``."""
        parts = {name: PurePosixPath(name).parts for name in self.names}
        found = [name for name, part in parts.items() if len(part) == 5 and (part[0], part[4]) == ("runs", RUN)]
        return {"/".join(parts[name][1:4]): RunRecord.parse(*self._file(name)) for name in found}

    @cached_property
    def verdicts(self) -> dict[tuple[str, str, str], str]:
        """The verdict of each claim by paper, claim and kind of evidence; empty where nothing was judged."""
        rows = VERDICTS.read(*self._file(VERDICT_FILE)) if VERDICT_FILE in self.names else []
        return {(row.paper, row.claim, row.evidence_status): row.verdict for row in rows if row.headline == "yes"}

    def predictions(self, dataset: str, system: str, variant: str, selection: str) -> dict[str, pd.DataFrame]:
        """Return the predictions of a variant on ``<data set>/<split>`` by seed, indexed by id and prompt."""
        folder = f"predictions/{dataset}/{system}/{variant}/"
        found = {}
        for name in self.names:
            if name.startswith(folder) and name.endswith(".csv") and name not in self.unfit:
                if name not in self._predictions:
                    self._predictions[name] = PREDICTIONS.frame(*self._file(name))
                table = self._predictions[name].query("selection == @selection")
                found[PurePosixPath(name).stem.removeprefix("seed")] = table.set_index(["id", "prompt"])
        return {seed: table for seed, table in found.items() if len(table)}


def open_reproduction(path: Path) -> Reproduction:
    """Return the reproduction at ``path``: an export (folder or zip file), or the results folder of one suite."""
    if path.is_dir():
        return _below(path, _in_folder(path), lambda name: (path / name).read_bytes())
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    try:
        archive = zipfile.ZipFile(path)
    except (*BROKEN, OSError) as error:
        raise UserError(f"{path}: neither a folder nor a readable zip file: {error}") from None
    return _below(path, _in_zip(path, archive.infolist()), archive.read)


def _in_folder(folder: Path) -> dict[str, int]:
    """Return the files below a folder and their sizes; a link that leads out of it is a UserError."""
    files = [entry for entry in sorted(folder.rglob("*")) if entry.is_file()]
    for file in files:
        if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{file}: a link that leads out of {folder}; put the file itself in its place")
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _in_zip(path: Path, members: Sequence[zipfile.ZipInfo]) -> dict[str, int]:
    """Return the files of a zip file and their sizes; a UserError names what no export has."""
    sizes: dict[str, int] = {}
    for member in members:
        name, inside = member.filename, PurePosixPath(member.filename.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"{path}: {name!r} leads out of the export, which is refused")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{path}: {name!r} is a link, and no export has any")
        if name in sizes:
            raise UserError(f"{path}: {name!r} is in it twice; nobody can say which one counts")
        sizes[name] = member.file_size
    return {name: size for name, size in sizes.items() if not name.endswith("/")}


def _below(path: Path, sizes: Mapping[str, int], read: Callable[[str], bytes]) -> Reproduction:
    """Return the reproduction in the folder of scores.csv: the results, not the tables beside them."""
    if len(sizes) > MOST_FILES:
        raise UserError(f"{path}: {len(sizes):,} files are more than the {MOST_FILES:,} allowed")
    folders = [name.removesuffix(SCORE_FILE) for name in sizes if PurePosixPath(name).name == SCORE_FILE]
    depth = min((folder.count("/") for folder in folders), default=0)
    nearest = [folder for folder in folders if folder.count("/") == depth]
    if not nearest:
        raise UserError(
            f"{path}: no {SCORE_FILE} in it: give an export (recount export), or a suite's results, results/<suite>"
        )
    if len(nearest) > 1:
        raise UserError(f"{path}: results of several suites: {', '.join(nearest)}; give one of them")
    prefix, left, seen = nearest[0], MOST_BYTES, set[str]()

    def limited(name: str) -> bytes:
        nonlocal left
        size = sizes[prefix + name]
        left -= 0 if name in seen else size  # a file is read for its digest, and then for its content
        seen.add(name)
        if size > LARGEST or left < 0:
            most = f"{size:,} bytes, and a file has at most {LARGEST:,} and all that is read {MOST_BYTES:,}"
            raise UserError(f"{path}: {name}: {most}; this looks like a decompression bomb and is refused")
        try:
            return read(prefix + name)
        except (*BROKEN, OSError, RuntimeError, ValueError) as error:  # damaged, or encrypted
            raise UserError(f"{path}: {name}: cannot be read: {error}") from None

    return Reproduction(path, tuple(name.removeprefix(prefix) for name in sizes if name.startswith(prefix)), limited)
