"""Reading a reproduction that someone else may have made: an export (folder or zip file), or a suite's results folder.

Files come from other people: nothing is unpacked to disk or executed, and members of a zip file are read one at a time
up to a limit.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from recount.errors import UserError
from recount.results.predictions import PREDICTIONS
from recount.results.run_record import RUN, RunRecord
from recount.results.scores import SCORES
from recount.results.verdicts import VERDICTS

SCORE_FILE = "scores.csv"
VERDICT_FILE = "verdicts.csv"
LARGEST = 500_000_000  # bytes of one file of a zip file; predictions of a paper's suite take a few million


@dataclass
class Reproduction:
    """The results of a suite, as they lie in a folder or a zip file; a damaged file raises a ResultsError."""

    path: Path
    names: tuple[str, ...]  # of its files, relative to the folder that holds scores.csv
    read: Callable[[str], bytes]

    def _file(self, name: str) -> tuple[bytes, str]:
        return self.read(name), f"{self.path}: {name}"

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The rows of scores.csv."""
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
            if name.startswith(folder) and name.endswith(".csv"):
                table = PREDICTIONS.frame(*self._file(name)).query("selection == @selection")
                found[PurePosixPath(name).stem.removeprefix("seed")] = table.set_index(["id", "prompt"])
        return {seed: table for seed, table in found.items() if len(table)}


def open_reproduction(path: Path) -> Reproduction:
    """Return the reproduction at ``path``: an export (folder or zip file), or the results folder of one suite."""
    if path.is_dir():
        names = [entry.relative_to(path).as_posix() for entry in sorted(path.rglob("*")) if entry.is_file()]
        return _below(path, names, lambda name: (path / name).read_bytes())
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path}: neither a folder nor a readable zip file: {error}") from None

    def read(name: str) -> bytes:
        if sizes[name] > LARGEST:
            raise UserError(f"{path}: {name}: {sizes[name]:,} bytes are more than the {LARGEST:,} allowed")
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, OSError, RuntimeError) as error:  # damaged, or encrypted
            raise UserError(f"{path}: {name}: cannot be read: {error}") from None

    return _below(path, list(sizes), read)


def _below(path: Path, names: list[str], read: Callable[[str], bytes]) -> Reproduction:
    """Return the reproduction in the folder of scores.csv: the results, not the tables beside them."""
    folders = [name.removesuffix(SCORE_FILE) for name in names if PurePosixPath(name).name == SCORE_FILE]
    depth = min((folder.count("/") for folder in folders), default=0)
    nearest = [folder for folder in folders if folder.count("/") == depth]
    if not nearest:
        raise UserError(
            f"{path}: no {SCORE_FILE} in it: give an export (recount export), or a suite's results, results/<suite>"
        )
    if len(nearest) > 1:
        raise UserError(f"{path}: results of several suites: {', '.join(nearest)}; give one of them")
    prefix = nearest[0]
    inside = tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return Reproduction(path, inside, lambda name: read(prefix + name))
