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

from recount.chain import MADE, TABLES
from recount.errors import UserError
from recount.fetching.archives import BROKEN
from recount.results.files import Made, MadeTables, ResultsError, made_anew
from recount.results.predictions import PREDICTIONS, Timing, timing_path
from recount.results.run_record import RUN, RunRecord
from recount.results.scores import SCORES
from recount.results.submissions import SUBMITTED, Submission
from recount.results.verdicts import VERDICTS

SCORE_FILE = "scores.csv"
VERDICT_FILE = "verdicts.csv"
PREDICTED = "predictions/*/*/*/*/seed*.csv"
GIVEN = f"{SUBMITTED}/*/*/*.csv"  # counts of counters that recount did not train
# Bytes of one file; bytes and number of all: predictions of a paper's suite take a few million bytes
LARGEST, MOST_BYTES, MOST_FILES = 64_000_000, 500_000_000, 100_000


@dataclass
class Reproduction:
    """The results of a suite, as they lie in a folder or a zip file; a damaged file raises a ResultsError."""

    path: Path
    names: tuple[str, ...]  # of its files, relative to the folder that holds scores.csv
    read: Callable[[str], bytes]
    _predictions: dict[str, pd.DataFrame] = field(default_factory=dict)  # by name; those that fit

    @cached_property
    def unfit(self) -> dict[str, str]:
        """The files that are not used, because they are not what they should be or do not fit another: name -> why."""
        return (
            self._read_records[1]
            | self._unfit(self._check_predictions, PREDICTED)
            | self._unfit(self._check_submission, GIVEN)
            | self._unfit(self._check_verdicts, VERDICT_FILE)
        )

    def _unfit(self, check: Callable[[str], object], pattern: str) -> dict[str, str]:
        found = {}
        for name in self.names:
            if name.count("/") == pattern.count("/") and PurePosixPath(name).match(pattern):
                try:
                    check(name)
                except ResultsError as error:
                    found[name] = str(error).removeprefix(f"{self.path}: ")
        return found

    def timing(self, name: str) -> Timing:
        """Return the record of a file of predictions."""
        record = timing_path(Path(name)).as_posix()
        if record not in self.names:
            raise ResultsError(f"{self.path}: {name}", f"no {record} says what it was made from")
        return Timing.parse(*self._file(record))

    def _check_predictions(self, name: str) -> None:
        where, digest = f"{self.path}: {name}", hashlib.sha256(self.read(name)).hexdigest()
        made = self.timing(name).made
        if made.content.get(Path(name).name) != digest:
            raise ResultsError(where, "damaged: its content is not what was written")
        _, dataset, _, system, _, seed = PurePosixPath(name).with_suffix("").parts
        whose = made.run.split("/")
        if (whose[0], whose[-1]) != (system, seed) or not {dataset} >= {data.split("/")[0] for data in made.data}:
            what = f"it was made by {made.run or 'nobody'} on {', '.join(made.data) or 'unknown data'}"
            raise ResultsError(where, f"damaged: {what}")
        if made.run not in self.records:
            what = f"there is no {RUN} of {made.run or 'the run'}, which made it, that can be used"
            raise ResultsError(where, f"stale: {what}")
        models = self.records[made.run].selections
        if any(name not in models or models[name].sha256 != digest for name, digest in made.models.items()):
            raise ResultsError(where, f"stale: made with another model than {made.run} has")
        if self._made("score").results.get(name, digest) != digest:
            raise ResultsError(where, f"stale: {SCORE_FILE} was made from another", made_anew("recount score"))
        self._predictions[name] = PREDICTIONS.frame(*self._file(name))

    def _check_submission(self, name: str) -> None:
        where, record = f"{self.path}: {name}", Path(name).with_suffix(".json").as_posix()
        if record not in self.names:
            raise ResultsError(where, f"no {record} says whose counts these are")
        made = Submission.parse(*self._file(record)).made
        if made.content.get(Path(name).name) != hashlib.sha256(self.read(name)).hexdigest():
            raise ResultsError(where, "damaged: its content is not what was written")
        if self._made("score").results.get(record) != hashlib.sha256(self.read(record)).hexdigest():
            raise ResultsError(where, f"stale: {SCORE_FILE} was made without it", made_anew("recount score"))
        self._predictions[name] = PREDICTIONS.frame(*self._file(name))

    def _check_verdicts(self, name: str) -> None:
        made = self._made("judge")
        self._check_table(name, made, "judge")
        for source, then in made.results.items():
            if source in self.names and hashlib.sha256(self.read(source)).hexdigest() != then:
                raise ResultsError(
                    f"{self.path}: {name}", f"stale: made from another {source}", made_anew("recount judge")
                )
        VERDICTS.read(*self._file(name))

    def _made(self, step: str) -> Made:
        if MADE[step] not in self.names:
            what = f"no {MADE[step]} says what it was made from"
            raise ResultsError(f"{self.path}: {TABLES[step][0]}", what, f"`recount {step}` makes both")
        return MadeTables.parse(*self._file(MADE[step])).made

    def _check_table(self, name: str, made: Made, step: str) -> None:
        if made.content.get(name) != hashlib.sha256(self.read(name)).hexdigest():
            what = "damaged: its content is not what was written"
            raise ResultsError(f"{self.path}: {name}", what, made_anew(f"recount {step}"))

    def why_unfit(self, dataset: str, system: str, variant: str) -> str:
        """Return why predictions of a variant on ``<data set>/<split>`` are not to be used, "" if they are."""
        folder = f"{SUBMITTED}/{variant}/{dataset}." if system == SUBMITTED else _folder(dataset, system, variant)
        return "; ".join(why for name, why in self.unfit.items() if name.startswith(folder))

    def _file(self, name: str) -> tuple[bytes, str]:
        return self.read(name), f"{self.path}: {name}"

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The rows of scores.csv; a ResultsError where nothing says that it was written so."""
        self._check_table(SCORE_FILE, self._made("score"), "score")
        return SCORES.frame(*self._file(SCORE_FILE))

    @property
    def records(self) -> dict[str, RunRecord]:
        """The run.json of each run by ``<system>/<variant>/seed<k>``, as far as they can be used."""
        return self._read_records[0]

    @cached_property
    def _read_records(self) -> tuple[dict[str, RunRecord], dict[str, str]]:
        records, unfit = {}, {}
        for name in self.names:
            match PurePosixPath(name).parts:
                case ("runs", *parts, last) if len(parts) == 3 and last == RUN:
                    try:
                        record = RunRecord.parse(*self._file(name))
                        if record.id != "/".join(parts):
                            raise ResultsError(f"{self.path}: {name}", f"damaged: it is the record of {record.id}")
                        records[record.id] = record
                    except ResultsError as error:
                        unfit[name] = str(error).removeprefix(f"{self.path}: ")
        return records, unfit

    @cached_property
    def verdicts(self) -> dict[tuple[str, str, str], str]:
        """The verdict of each claim by paper, claim and kind of evidence; empty where nothing was judged, or unfit."""
        there = VERDICT_FILE in self.names and VERDICT_FILE not in self.unfit
        rows = VERDICTS.read(*self._file(VERDICT_FILE)) if there else []
        return {(row.paper, row.claim, row.evidence_status): row.verdict for row in rows if row.headline == "yes"}

    def predictions(self, dataset: str, system: str, variant: str, selection: str) -> dict[str, pd.DataFrame]:
        """Return the predictions of a variant on ``<data set>/<split>`` by seed, indexed by id and prompt.

        A submitted counter has no seeds, and one selection: the key is "".
        """
        if system == SUBMITTED:
            name = f"{SUBMITTED}/{variant}/{dataset}.csv"
            there = name in self.names and name not in self.unfit
            return {"": self._predictions[name].set_index(["id", "prompt"])} if there else {}
        folder = _folder(dataset, system, variant)
        found = {}
        for name in self.names:
            if name.startswith(folder) and name.endswith(".csv") and name not in self.unfit:
                table = self._predictions[name].query("selection == @selection")
                found[PurePosixPath(name).stem.removeprefix("seed")] = table.set_index(["id", "prompt"])
        return {seed: table for seed, table in found.items() if len(table)}


def _folder(dataset: str, system: str, variant: str) -> str:
    return f"predictions/{dataset}/{system}/{variant}/"


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
    try:
        files = [entry for entry in sorted(folder.rglob("*")) if entry.is_file()]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.filename}: {error.strerror}") from None
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
            raise ResultsError(f"{path}: {name}", f"cannot be read: {error}") from None

    return Reproduction(path, tuple(name.removeprefix(prefix) for name in sizes if name.startswith(prefix)), limited)
