"""Everything the report is made from, read from files: scores, influence, verdicts, predictions, runs, maps, logs.

A file that cannot be read never stops the report: it is listed in ``Sources.problems``, and its content is absent.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from recount.chain import MADE, Chain, Unfit
from recount.data.dataset import DataError
from recount.data.index import COLUMNS as INDEX
from recount.data.index import LISTS
from recount.errors import UserError
from recount.reference import Agreement, agreement
from recount.results.files import CsvTable, MadeTables, ResultsError, is_there, read_arrays
from recount.results.hands import HANDS, Hands, read_hands
from recount.results.predictions import PREDICTIONS, Timing
from recount.results.prepared import SUMMARY, Summary, data_digest, read_summary
from recount.results.prompt_tests import PromptTests
from recount.results.published import PUBLISHED
from recount.results.reference import folder_of
from recount.results.run_record import HISTORY, RUN, RunRecord
from recount.results.scores import INFLUENCE, SCORES, InfluentialImage, Score
from recount.results.submissions import AGAINST, SUBMITTED, Against, Submission, submissions
from recount.results.verdicts import FIDELITY, VERDICTS, FidelityRow, VerdictRow
from recount.settings.base import merged
from recount.settings.paper import Paper, Row
from recount.settings.project import Project, Run, default_recipe

STATED_EPOCHS = re.compile(r"\b(\d+) epochs\b")

Content = TypeVar("Content")
Row_ = TypeVar("Row_")


class Place(NamedTuple):
    """A benchmark, and the prepared split that stands for it."""

    benchmark: str
    dataset: str
    split: str
    preparation: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}"


@dataclass(frozen=True)
class ChainView:
    """What the numbers of a variant on a split were made from, by seed: (what, digest), from raw files to scores."""

    anchor: str
    title: str
    seeds: list[tuple[int, list[tuple[str, str]]]]


def chain_anchor(system: str, variant: str, place: str) -> str:
    """Return the anchor of a chain on the page; ``place`` is ``<data set>/<split>``."""
    return f"chain-{system}-{variant}-{place.replace('/', '-').replace('+', '-')}"


def _index(path: Path) -> pd.DataFrame:
    data_digest(path)
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@dataclass(frozen=True)
class ReportedRun:
    """What a training run left behind: its record, and a history with one row per epoch (empty if there is none)."""

    system: str
    variant: str
    seed: int
    record: RunRecord | None
    history: pd.DataFrame

    @property
    def key(self) -> tuple[str, str]:
        """Return system and variant."""
        return self.system, self.variant

    @property
    def seconds_per_epoch(self) -> float | None:
        """Return the median time of an epoch without its evaluation, or None where no history says it."""
        seconds = pd.to_numeric(self.history.get("seconds", pd.Series(dtype=float)), errors="coerce").dropna()
        return float(seconds.median()) if len(seconds) else None


@dataclass
class Sources:
    """The files of one suite, read once."""

    project: Project
    problems: list[tuple[str, str]] = field(default_factory=list)  # (path below the root, why it cannot be read)
    _samples: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chain = Chain(self.project)

    @property
    def results(self) -> Path:
        """Return the suite's results folder."""
        return self.project.root / self.project.results

    def problem(self, path: Path, what: str) -> None:
        """Note that a file could not be read; said once per file and reason."""
        root, what = self.project.root, what.removeprefix(f"{path}: ")
        name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
        if (name, what) not in self.problems:
            self.problems.append((name, what))

    def _read(self, path: Path, read: Callable[[Path], Content], *, required: bool = True) -> Content | None:
        try:
            if is_there(path):
                return read(path)
            if required:
                self.problem(path, "there is no such file")
            return None
        except (UserError, ValueError, OSError) as error:
            self.problem(getattr(error, "where", path), str(error))
            return None

    def evidence(self, paper: Paper, name: str, read: Callable[[Path], Content]) -> Content | None:
        """Return what a file of a paper's evidence holds; None where there is none, or ``read`` refuses it."""
        path = paper.evidence.get(name)
        return None if path is None else self._read(path, read)

    def _frame(self, kind: CsvTable[Any], path: Path) -> pd.DataFrame:
        found = self._read(path, kind.frame)
        return kind.empty() if found is None else found

    def _fit(self, path: Path, read: Callable[[], Content], *, required: bool = False) -> Content | None:
        """Return what ``read`` finds, or None: what is stale or damaged is listed and never used."""
        try:
            return read()
        except FileNotFoundError as error:
            if required:
                self.problem(Path(error.filename) if path.is_file() else path, "there is no such file")
        except (Unfit, DataError, ResultsError) as error:
            self.problem(getattr(error, "where", path), str(error))
        return None

    def _table(self, kind: CsvTable[Row_], name: str, step: str, *, required: bool = False) -> list[Row_]:
        path = self.chain.tables_at / name
        if self._fit(path, lambda: self.chain.tables(step), required=required) is None:
            return []
        return self._read(path, kind.read, required=required) or []

    @cached_property
    def scores_record(self) -> MadeTables | None:
        """Return what the scores were made from, or None where they do not fit."""
        return self._fit(self.chain.tables_at / MADE["score"], lambda: self.chain.tables("score"))

    def summary(self, prepared: str) -> Summary | None:
        """Return the summary of ``<data set>/<preparation>``, or None where there is none."""
        folder = self.project.root / self.project.data / prepared
        return self._fit(folder / SUMMARY, lambda: read_summary(folder))

    @cached_property
    def score_rows(self) -> list[Score]:
        """Return the rows of scores.csv; what they were made from, and is not so any more, makes missing cells."""
        self._fit(self.chain.tables_at / MADE["score"], lambda: self.chain.tables("score"))  # tells what is stale
        return self._fit(self.chain.tables_at / "scores.csv", self.chain.scores, required=True) or []

    @property
    def scores(self) -> pd.DataFrame:
        """Return scores.csv as a table."""
        return SCORES.as_frame(self.score_rows) if self.score_rows else SCORES.empty()

    @cached_property
    def agreement(self) -> Agreement | None:
        """Return how the scores agree with the suite's reference run; None where there is none that can be read."""
        try:
            return agreement(self.project, self.chain)
        except FileNotFoundError:  # of scores.csv, which is listed among the problems
            return None
        except (Unfit, DataError, ResultsError) as error:
            self.problem(getattr(error, "where", folder_of(self.project)), str(error))
            return None

    @cached_property
    def influence(self) -> list[InfluentialImage]:
        """Return the rows of influence.csv that are of predictions that fit."""
        return (
            self._fit(self.chain.tables_at / "influence.csv", lambda: self.chain.fitting(INFLUENCE, "influence.csv"))
            or []
        )

    @cached_property
    def fidelity(self) -> list[FidelityRow]:
        """Return the rows of fidelity.csv."""
        return self._table(FIDELITY, "fidelity.csv", "judge")

    @cached_property
    def verdicts(self) -> list[VerdictRow]:
        """Return the rows of verdicts.csv."""
        return self._table(VERDICTS, "verdicts.csv", "judge")

    def submitted(self, counter: str, benchmarks: Iterable[str]) -> tuple[str, str]:
        """Return a submitted counter's name, and how it does against the others on some benchmarks, in words."""
        rows = [r for r in self._against if r.counter == f"{SUBMITTED}/{counter}" and r.verdict != "not tested"]
        places = {self.project.place(benchmark) for benchmark in benchmarks}
        said = []
        for verdict in dict.fromkeys(row.verdict for row in rows if row.dataset in places):
            names = [row.against for row in rows if row.verdict == verdict and row.dataset in places]
            said.append(f"{verdict}: {', '.join(dict.fromkeys(names))}")
        records = [self._read(path, Submission.read) for path in submissions(self.project) if counter in path.parts]
        name, paper = next(((record.name, record.paper) for record in records if record), (counter, ""))
        return name, "; ".join(filter(None, [paper, f"beside the others it is {'; '.join(said)}" if said else ""]))

    @cached_property
    def _against(self) -> list[Against]:
        return self._table(AGAINST, "submitted.csv", "judge")

    @cached_property
    def runs(self) -> list[ReportedRun]:
        """Return all training runs of the suite that left a run.json which fits, in the order of their names."""
        found = []
        for run in sorted(self.project.trainings, key=lambda run: run.id):
            path = self.project.root / self.project.run_folder(run) / RUN
            record = self._fit(path, partial(self.chain.run, run))
            if record is not None:
                history = self._read(path.with_name(HISTORY), pd.read_csv)
                history = pd.DataFrame() if history is None else history
                found.append(ReportedRun(run.system, run.variant, run.seed, record, history))
        return found

    @cached_property
    def hands(self) -> Hands:
        """Return who made which runs, where several people share them."""
        return self._fit(self.results / HANDS, lambda: read_hands(self.results)) or Hands()

    @cached_property
    def predicted(self) -> list[tuple[Run, str, Path, Timing]]:
        """Return the predictions that fit: the run, a benchmark, the file and its record."""
        found = []
        for run in sorted(self.project.evaluations, key=lambda run: run.id):
            for benchmark in run.benchmark_of_split.values():
                path = self.project.root / self.project.predictions(run, benchmark)
                fit = self._fit(path, partial(self.chain.predictions, run, benchmark))
                if fit is not None:
                    found.append((run, benchmark, path, fit[1]))
        return found

    @cached_property
    def chains(self) -> list[ChainView]:
        """Return the chain of every prediction that fits, in the order of systems and variants."""
        found: dict[str, ChainView] = {}
        for run, benchmark, _, _ in self.predicted:
            split = run.benchmarks[benchmark]
            place = f"{split.dataset}/{split.split}"
            anchor = chain_anchor(run.system, run.variant, place)
            view = found.setdefault(anchor, ChainView(anchor, f"{run.system}/{run.variant} on {place}", []))
            view.seeds.append((run.seed, list(self._links(run, benchmark))))
        return list(found.values())

    def _links(self, run: Run, benchmark: str) -> Iterator[tuple[str, str]]:
        record, (_, timing) = self.chain.run(run), self.chain.predictions(run, benchmark)
        data = record.provenance.data | timing.made.data
        for name in data:
            summary = self.summary(name)
            if summary is not None and summary.raw.files:
                yield f"raw files of {name} ({summary.raw.files})", summary.raw.sha256
        for name, digest in data.items():
            uses = [
                use
                for use, names in (("trained", record.provenance.data), ("tested", timing.made.data))
                if name in names
            ]
            yield f"data {name} ({' and '.join(uses)})", digest
        yield "settings of the training", record.planned
        yield "code of the training", record.provenance.code
        for selection, digest in timing.made.models.items():
            yield f"model, {selection.replace('_', ' ')}", digest
        yield "settings of the reading", timing.made.settings
        yield "code of the prediction", timing.made.code
        for name, digest in timing.made.content.items():
            if "/" not in name:
                yield "predictions", digest
        scores = self.scores_record
        if scores is not None:
            yield "scores.csv", scores.made.content["scores.csv"]

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Return all predictions that fit, with data set, split, system, variant and seed."""
        tables = []
        for run, benchmark, path, _ in self.predicted:
            split = run.benchmarks[benchmark]
            which = {"dataset": split.dataset, "split": split.split, "system": run.system, "variant": run.variant}
            tables.append(self._frame(PREDICTIONS, path).assign(**which, seed=run.seed))
        columns = [*PREDICTIONS.columns, "dataset", "split", "system", "variant", "seed"]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)

    @cached_property
    def predictions_by_variant(self) -> dict[tuple[str, str, str, str], pd.DataFrame]:
        """Return the predictions of each (dataset, split, system, variant)."""
        keys = ["dataset", "split", "system", "variant"]
        return dict(iter(self.predictions.groupby(keys, sort=False)))  # type: ignore[arg-type]

    def maps(self, place: Place, system: str, variant: str, seed: int, selection: str) -> dict[str, np.ndarray]:
        """Return the stored density maps of a selection by sample id: float32 [h, w], objects per cell."""
        for run, benchmark, path, _ in self.predicted:
            split = run.benchmarks[benchmark]
            if (run.system, run.variant, run.seed, split.dataset, split.split) == (system, variant, seed, *place[1:3]):
                kept = self._fit(path, partial(self.chain.maps, run, benchmark))
                break
        else:
            kept = None
        found, start = self._maps(kept, Timing.STEP), f"{selection}/"
        return {name.removeprefix(start): values for name, values in found.items() if name.startswith(start)}

    def _maps(self, kept: Path | None, step: str) -> dict[str, np.ndarray]:
        found = (self._read(kept, lambda path: read_arrays(path, step)) if kept else None) or {}
        return {name: values.astype(np.float32) for name, values in found.items()}

    def prompt_tests(self, run: Run) -> PromptTests | None:
        """Return what a run answered to other prompts on all benchmarks that fit, or None where nothing can be read."""
        fit = (self._asked(run, name, self.chain.prompt_tests) for name in run.prompt_tests)
        found = [record for record in fit if record is not None]
        every = {name: tests for record in found for name, tests in record.benchmarks.items()}
        return found[0].model_copy(update={"benchmarks": every}) if found else None

    def prompt_maps(self, run: Run) -> dict[str, np.ndarray]:
        """Return the maps float32 [h, w] of a run's prompt tests by ``dataset/split/picture/prompt/kind``."""
        kept = (self._asked(run, name, self.chain.prompt_maps) for name in run.prompt_tests)
        return {name: values for path in kept for name, values in self._maps(path, PromptTests.STEP).items()}

    def _asked(self, run: Run, benchmark: str, read: Callable[[Run, str], Content]) -> Content | None:
        return self._fit(
            self.project.root / self.project.prompt_test_file(run, benchmark), partial(read, run, benchmark)
        )

    @cached_property
    def seconds_per_image(self) -> dict[tuple[str, str], float]:
        """Return the mean seconds per image of each system and variant, over benchmarks, seeds and selections."""
        sums: dict[tuple[str, str], tuple[float, int]] = {}
        for run, _, _, timing in self.predicted:
            key = (run.system, run.variant)
            for selection in timing.selections.values():
                seconds, images = sums.get(key, (0.0, 0))
                sums[key] = (seconds + selection.seconds, images + selection.images)
        return {key: seconds / images for key, (seconds, images) in sums.items() if images}

    def places(self) -> Iterator[Place]:
        """Yield what the suite scores and has predictions for, each split once."""
        present = {(dataset, split) for dataset, split, _, _ in self.predictions_by_variant}
        for name, entry in self.project.stand_ins.items():
            place = (str(entry.dataset), str(entry.split))
            if place in present:
                present.remove(place)
                yield Place(name, *place, entry.preparation)

    def prepared(self) -> Iterator[Summary]:
        """Yield what was noticed of each prepared data set of the suite's runs that is here."""
        used = dict.fromkeys((split.dataset, split.preparation) for run in self.project.runs for split in run.splits)
        for dataset, preparation in used:
            folder = self.project.root / self.project.data / dataset / preparation
            if (folder / "index.csv").is_file() and (
                found := self._read(folder / SUMMARY, lambda path: read_summary(path.parent))
            ):
                yield found

    @cached_property
    def published(self) -> dict[str, pd.DataFrame]:
        """Return each paper's published.csv; ``value`` stays the printed text."""
        return {name: self._frame(PUBLISHED, paper.published) for name, paper in self.project.papers.items()}

    def label_of(self, row: Row) -> str:
        """Return how a table calls a row: as the row says, or as the experiment calls the variant."""
        if not row.run:
            return row.label or row.system
        label = row.label or self.project.experiments[row.system].variants[row.variant].label
        return self.as_run(label, row.system, row.variant)

    def as_run(self, label: str, system: str, variant: str) -> str:
        """Return a label whose "600 epochs" says what this suite trains instead, where it trains that variant."""
        stated, run = STATED_EPOCHS.search(label), (system, variant) in self._planned
        if stated is None or not run:
            return label
        recipe = merged(default_recipe(system) or {}, self.project.resolved(system, variant).recipe)
        same = str(recipe.get("epochs")) == stated[1]
        return label if same else STATED_EPOCHS.sub(f"{recipe.get('epochs')} epochs for {stated[1]}", label)

    def epochs_evaluated(self, key: tuple[str, str]) -> int:
        """Return among how many epochs a variant's weights were chosen: the fewest of its seeds; 0: not known."""
        found = []
        for run in self.runs:
            columns = [name for name in map(str, run.history) if name.startswith(("test_", "held_out_"))]
            if run.key == self.trained_as(key) and columns:
                found.append(int(run.history[columns].notna().any(axis=1).sum()))
        return min(found, default=0)

    @cached_property
    def _planned(self) -> dict[tuple[str, str], Run]:
        return {(run.system, run.variant): run for run in self.project.runs}

    def trained_as(self, key: tuple[str, str]) -> tuple[str, str]:
        """Return the (system, variant) whose training a variant reads: mostly its own."""
        return (key[0], self._planned[key].trained_as) if key in self._planned else key

    def evaluated_as(self, key: tuple[str, str]) -> tuple[str, str]:
        """Return the (system, variant) whose predictions are a variant's: mostly its own."""
        return (key[0], self._planned[key].evaluated_as) if key in self._planned else key

    def samples(self, dataset: str, preparation: str) -> pd.DataFrame:
        """Return the index of a prepared data set, by id, with ``folder``; empty if there is none."""
        key = (dataset, preparation)
        if key not in self._samples:
            path = self.project.root / self.project.data / dataset / preparation / "index.csv"
            table = self._read(path, _index)
            if table is None or not {*INDEX} <= {*table}:
                table = pd.DataFrame(columns=INDEX, dtype=object)
            numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in ("count", "width", "height")}
            table = table.assign(folder=str(path.parent), **numbers)
            self._samples[key] = table.drop_duplicates("id").set_index("id")
        return self._samples[key]

    def counts(self, dataset: str, preparation: str, split: str) -> pd.Series:
        """Return the true counts of a split, of a list of samples read like one, or of several joined by ``+``."""
        samples, wanted = self.samples(dataset, preparation), set(split.split("+"))
        lists = [set(json.loads(t).get(LISTS, ())) if f'"{LISTS}"' in t else set() for t in samples["attributes"]]
        inside = [bool(wanted & {split, *names}) for split, names in zip(samples["split"], lists, strict=True)]
        return samples.loc[np.array(inside, bool), "count"].dropna()
