"""Reading a reproduction that someone else may have made: an export (folder or zip file), or a suite's results folder.

Files come from other people: nothing is unpacked to disk, nothing in them is executed, and members of a zip file are
read one at a time up to a limit.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from recount.errors import UserError
from recount.report.sources import PREDICTIONS, SCORES, VERDICTS

SCORE_FILE = "scores.csv"
VERDICT_FILE = "verdicts.csv"
LARGEST = 500_000_000  # bytes of one file of a zip file; predictions of a paper's suite take a few million
NUMBERS = ("value", "ci_low", "ci_high", "sd", "n")


class ReproductionError(UserError):
    """A reproduction cannot be read; the message names the file and says what was expected."""


@dataclass
class Reproduction:
    """The results of a suite, as they lie in a folder or a zip file.

    Attributes:
        path: as given.
        names: its files, relative to the folder that holds scores.csv.
        read: gives the bytes of one of them.
    """

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes] = field(repr=False)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Return scores.csv: text columns as text ("" for nothing), numbers as float.

        Raises:
            ReproductionError: it is not such a table.
        """
        table = self._table(SCORE_FILE, SCORES)
        return table.assign(**{name: self._numbers(table[name], SCORE_FILE) for name in NUMBERS})

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """Return the content of run.json by run id.

        Raises:
            ReproductionError: one is not a JSON object.
        """
        found = {}
        for name in self.names:
            parts = PurePosixPath(name).parts
            if len(parts) == 5 and parts[0] == "runs" and parts[4] == "run.json":
                found["/".join(parts[1:4])] = self._json(name)
        return found

    @cached_property
    def verdicts(self) -> dict[tuple[str, str, str], str]:
        """Return the verdict of each claim by paper, claim and kind of evidence; empty where nothing was judged.

        Raises:
            ReproductionError: verdicts.csv is not such a table.
        """
        if VERDICT_FILE not in self.names:
            return {}
        table = self._table(VERDICT_FILE, VERDICTS)
        rows = table[table["headline"] == "yes"].to_dict("records")
        return {(row["paper"], row["claim"], row["evidence_status"]): row["verdict"] for row in rows}

    def predictions(self, dataset: str, system: str, variant: str, selection: str) -> dict[str, pd.DataFrame]:
        """Return the predictions of a variant on ``<data set>/<split>`` by seed, indexed by id and prompt."""
        folder = f"predictions/{dataset}/{system}/{variant}/"
        found = {}
        for name in self.names:
            if name.startswith(folder) and name.endswith(".csv"):
                table = self._table(name, PREDICTIONS)
                table = table[table["selection"] == selection]
                counts = {column: self._numbers(table[column], name) for column in ("true_count", "predicted_count")}
                found[PurePosixPath(name).stem.removeprefix("seed")] = table.assign(**counts).set_index(
                    ["id", "prompt"]
                )
        return {seed: table for seed, table in found.items() if len(table)}

    def _table(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        try:
            table = pd.read_csv(io.BytesIO(self.read(name)), dtype=str, keep_default_na=False)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
            raise ReproductionError(f"{self.path}: {name}: not a readable CSV: {error}") from None
        absent = [column for column in columns if column not in table.columns]
        if absent:
            raise ReproductionError(
                f"{self.path}: {name}: no column {', '.join(absent)}; `recount score` or `recount judge` writes it"
            )
        return table

    def _numbers(self, column: pd.Series, name: str) -> pd.Series:
        numbers = pd.to_numeric(column.replace("", "nan"), errors="coerce")
        wrong = column[numbers.isna() & ~column.str.lower().isin(["", "nan"])]
        if len(wrong):
            raise ReproductionError(f"{self.path}: {name}: {column.name} = {wrong.iloc[0][:80]!r} is not a number")
        return numbers.astype(float)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self.read(name))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ReproductionError(f"{self.path}: {name}: not valid JSON: {error}") from None
        if not isinstance(content, dict):
            raise ReproductionError(f"{self.path}: {name}: not a JSON object")
        return content


def open_reproduction(path: Path) -> Reproduction:
    """Return the reproduction at ``path``.

    Args:
        path: an export (folder or zip file), or a results folder of one suite (``results/<suite>``).

    Raises:
        ReproductionError: there is none, or several suites.
    """
    if path.is_dir():
        names = [entry.relative_to(path).as_posix() for entry in sorted(path.rglob("*")) if entry.is_file()]
        prefix = _prefix(path, names)
        return _below(path, names, prefix, lambda name: (path / name).read_bytes())
    if not path.is_file():
        raise ReproductionError(f"{path}: no such file or folder")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
    except (zipfile.BadZipFile, OSError) as error:
        raise ReproductionError(f"{path}: neither a folder nor a readable zip file: {error}") from None

    def read(name: str) -> bytes:
        if sizes[name] > LARGEST:
            raise ReproductionError(f"{path}: {name}: {sizes[name]:,} bytes are more than the {LARGEST:,} allowed")
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, OSError, RuntimeError) as error:  # damaged, or encrypted
            raise ReproductionError(f"{path}: {name}: cannot be read: {error}") from None

    return _below(path, list(sizes), _prefix(path, list(sizes)), read)


def _prefix(path: Path, names: list[str]) -> str:
    """Return the folder of scores.csv, "" or with a slash at its end: the results, not the tables beside them."""
    folders = [name.removesuffix(SCORE_FILE) for name in names if PurePosixPath(name).name == SCORE_FILE]
    if not folders:
        raise ReproductionError(
            f"{path}: no {SCORE_FILE} in it: give an export (recount export), or a suite's results, results/<suite>"
        )
    depth = min(folder.count("/") for folder in folders)
    nearest = [folder for folder in folders if folder.count("/") == depth]
    if len(nearest) > 1:
        raise ReproductionError(f"{path}: results of several suites: {', '.join(nearest)}; give one of them")
    return nearest[0]


def _below(path: Path, names: list[str], prefix: str, read: Callable[[str], bytes]) -> Reproduction:
    inside = tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return Reproduction(path, inside, lambda name: read(prefix + name))
