"""Everything the report is made from, read from files: scores, influence, verdicts, predictions, runs, maps, logs.

A file that cannot be read never stops the report: it is listed in ``Sources.problems``, and its content is absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from recount.settings.paper import Row
from recount.settings.project import Project

SCORES = (
    "paper",
    "table",
    "row",
    "system",
    "variant",
    "seed",
    "benchmark",
    "dataset",
    "selection",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "sd",
    "n",
    "status",
    "reason",
)
PUBLISHED = ("table", "row", "system", "variant", "benchmark", "metric", "value", "source", "note")
PREDICTIONS = ("id", "image", "prompt", "true_count", "predicted_count", "selection")
VERDICTS = (
    "paper", "claim", "kind", "statement", "part", "evidence_status", "selection", "headline", "seeds", "better",
    "worse", "benchmark", "dataset", "metric", "value_better", "value_worse", "published", "verdict", "direction",
    "effect", "ci_low", "ci_high", "p_value", "p_holm", "n", "rule", "needed", "needed_images", "needed_seeds",
    "reason", "source", "claim_rule",
)  # fmt: skip
VERDICT_NUMBERS = (
    "value_better", "value_worse", "published", "effect", "ci_low", "ci_high", "p_value", "p_holm", "n",
    "needed_images", "needed_seeds",
)  # fmt: skip
TEXT = {
    "seed": str,
    "row": str,
    "system": str,
    "variant": str,
    "reason": str,
    "id": str,
    "image": str,
    "prompt": str,
    "attributes": str,
    "points": str,
}


@dataclass(frozen=True)
class RunRecord:
    """What a training run left behind.

    Attributes:
        system, variant, seed: the run.
        record: content of run.json ({} if it cannot be read).
        history: one row per epoch; empty if there is none.
    """

    system: str
    variant: str
    seed: int
    record: dict[str, Any]
    history: pd.DataFrame

    @property
    def key(self) -> str:
        """Return ``system/variant``."""
        return f"{self.system}/{self.variant}"

    @property
    def seconds_per_epoch(self) -> float | None:
        """Return the median time of an epoch without its evaluation, or None where no history says it."""
        seconds = pd.to_numeric(self.history.get("seconds", pd.Series(dtype=float)), errors="coerce").dropna()
        return float(seconds.median()) if len(seconds) else None


def row_key(row: Row) -> str:
    """Return the id of a table's row in published.csv and scores.csv."""
    return row.published or f"{row.system}/{row.variant or row.system}"


@dataclass
class Sources:
    """The files of one suite, read once.

    Attributes:
        project: the configuration.
        problems: files that could not be read, as (path below the project's root, what is wrong).
    """

    project: Project
    problems: list[tuple[str, str]] = field(default_factory=list)
    _samples: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """Return the suite's results folder."""
        return self.project.root / self.project.results

    def _table(self, path: Path, columns: tuple[str, ...], required: bool = True, text: Any = TEXT) -> pd.DataFrame:
        """Read a CSV; missing columns or an unreadable file give an empty table and an entry in ``problems``."""
        empty = pd.DataFrame({column: pd.Series(dtype=object) for column in columns})
        if not path.is_file():
            if required:
                self.problem(path, "there is no such file")
            return empty
        try:
            table = pd.read_csv(path, dtype=text)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
            self.problem(path, f"not a readable CSV: {error}")
            return empty
        absent = [column for column in columns if column not in table.columns]
        if absent:
            self.problem(path, f"no column {', '.join(absent)}")
            return empty
        return table

    def problem(self, path: Path, what: str) -> None:
        """Note that a file could not be read; said once per file and reason."""
        name = str(path.relative_to(self.project.root)) if path.is_relative_to(self.project.root) else str(path)
        if (name, what) not in self.problems:
            self.problems.append((name, what))

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Return scores.csv; text columns are never NaN."""
        table = self._table(self.results / "scores.csv", SCORES)
        text = [
            "paper",
            "table",
            "row",
            "system",
            "variant",
            "seed",
            "benchmark",
            "selection",
            "metric",
            "status",
            "reason",
        ]
        return table.assign(**{column: table[column].astype(object).fillna("").astype(str) for column in text})

    @cached_property
    def influence(self) -> pd.DataFrame:
        """Return influence.csv, or an empty table."""
        return self._table(self.results / "influence.csv", (), required=False)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """Return verdicts.csv (columns: ``evaluation.judge.Row``), or an empty table; text columns are never NaN."""
        table = self._table(self.results / "verdicts.csv", VERDICTS, required=False, text=str)
        numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in VERDICT_NUMBERS}
        text = [name for name in VERDICTS if name not in VERDICT_NUMBERS]
        return table.assign(**{name: table[name].fillna("").astype(str) for name in text}, **numbers)

    @cached_property
    def published(self) -> dict[str, pd.DataFrame]:
        """Return each paper's published.csv; ``value`` stays the printed text."""
        tables = {}
        for name in self.project.papers:
            path = self.project.root / "papers" / name / "published.csv"
            table = self._table(path, PUBLISHED, text=str).astype(object)
            tables[name] = table.assign(**{column: table[column].fillna("").astype(str) for column in PUBLISHED})
        return tables

    def evidence(self, paper: str) -> dict[str, Path]:
        """Return the paper's evidence files by name without suffix."""
        folder = self.project.root / "papers" / paper / "evidence"
        return {path.stem: path for path in sorted(folder.glob("*.csv"))}

    @cached_property
    def runs(self) -> list[RunRecord]:
        """Return all training runs that left a run.json, in the order of their paths."""
        records = []
        for path in sorted(self.results.glob("runs/*/*/seed*/run.json")):
            system, variant, seed = path.parts[-4:-1]
            records.append(
                RunRecord(
                    system, variant, int(seed.removeprefix("seed")), self.read_json(path), self._history(path.parent)
                )
            )
        return records

    def read_json(self, path: Path) -> dict[str, Any]:
        """Return the object in a JSON file; {} and an entry in ``problems`` where there is none to be read."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            self.problem(path, f"not valid JSON: {error}")
            return {}
        if not isinstance(content, dict):
            self.problem(path, "not a JSON object")
            return {}
        return content

    def _history(self, folder: Path) -> pd.DataFrame:
        return self._table(folder / "history.csv", ("epoch",), required=False)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Return all predictions: those of the CSVs with dataset, split, system, variant and seed from their paths."""
        tables = []
        for path in sorted(self.results.glob("predictions/*/*/*/*/seed*.csv")):
            dataset, split, system, variant = path.parts[-5:-1]
            table = self._table(path, PREDICTIONS)
            numbers = {
                column: pd.to_numeric(table[column], errors="coerce") for column in ("true_count", "predicted_count")
            }
            seed = int(path.stem.removeprefix("seed"))
            tables.append(
                table.assign(dataset=dataset, split=split, system=system, variant=variant, seed=seed, **numbers)
            )
        columns = [*PREDICTIONS, "dataset", "split", "system", "variant", "seed"]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)

    @cached_property
    def predictions_by_variant(self) -> dict[tuple[str, str, str, str], pd.DataFrame]:
        """Return the predictions of each (dataset, split, system, variant)."""
        keys = ["dataset", "split", "system", "variant"]
        return dict(iter(self.predictions.groupby(keys, sort=False)))  # type: ignore[arg-type]

    def samples(self, dataset: str, preparation: str) -> pd.DataFrame:
        """Return the index of a prepared data set, by id, with ``folder``; empty if there is none."""
        key = (dataset, preparation)
        if key not in self._samples:
            self._samples[key] = self._index(dataset, preparation)
        return self._samples[key]

    def _index(self, dataset: str, preparation: str) -> pd.DataFrame:
        path = self.project.root / self.project.data / dataset / preparation / "index.csv"
        table = self._table(
            path, ("id", "split", "image", "prompt", "count", "width", "height", "points", "attributes")
        )
        return table.assign(folder=str(path.parent)).drop_duplicates("id").set_index("id")

    def counts(self, dataset: str, preparation: str, split: str) -> pd.Series:
        """Return the true counts of a split, of a list of samples read like one, or of several joined by ``+``."""
        samples = self.samples(dataset, preparation)
        wanted = set(split.split("+"))
        texts = samples["attributes"].fillna("{}").replace("", "{}")
        lists = texts.map(lambda text: set(json.loads(text).get("lists", ()) if '"lists"' in text else ()))
        inside = samples["split"].isin(wanted) | lists.map(lambda names: bool(names & wanted)).astype(bool)
        return pd.to_numeric(samples.loc[inside, "count"], errors="coerce").dropna()

    def maps(
        self, dataset: str, split: str, system: str, variant: str, seed: int, selection: str
    ) -> dict[str, np.ndarray]:
        """Return the stored density maps of a selection by sample id: float32 [h, w], objects per cell."""
        path = self.results / "maps" / dataset / split / system / variant / f"seed{seed}.npz"
        if not path.is_file():
            return {}
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {
                    name.removeprefix(f"{selection}/"): stored[name].astype(np.float32)
                    for name in stored.files
                    if name.startswith(f"{selection}/")
                }
        except (OSError, ValueError, BadZipFile) as error:
            self.problem(path, f"not a readable file of density maps: {error}")
            return {}

    @cached_property
    def seconds_per_image(self) -> dict[tuple[str, str], float]:
        """Return the mean seconds per image of each system and variant, over benchmarks, seeds and selections."""
        sums: dict[tuple[str, str], tuple[float, int]] = {}
        for path in sorted(self.results.glob("predictions/*/*/*/*/seed*.timing.json")):
            key = (path.parts[-3], path.parts[-2])
            for timing in self.read_json(path).get("selections", {}).values():
                seconds, images = sums.get(key, (0.0, 0))
                sums[key] = (seconds + float(timing["seconds"]), images + int(timing["images"]))
        return {key: seconds / images for key, (seconds, images) in sums.items() if images}

    def benchmarks(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield (benchmark, dataset, split, preparation) of what the suite scores and has predictions for."""
        present = {(dataset, split) for dataset, split, _, _ in self.predictions_by_variant}
        seen = set()
        for name, entry in self.project.suite.benchmarks.items():
            place = (entry.dataset, entry.split)
            if place in present and place not in seen:
                seen.add(place)
                yield name, entry.dataset, entry.split, entry.preparation
