"""The chain from prepared data to a number: whoever reads results reads them here, and only what fits is used.

Each file that a step writes carries its own digest and those of all it was made from (``results.files.Made``). What was
made from something else than what is there now is *stale*; what is not what was written is *damaged*. Neither is used:
the reader gets an ``Unfit`` with both digests and the command that makes it anew. Other code or other packages behind a
finished result make nothing unfit. Prepared data check themselves (``recount.data.index``).
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from recount import provenance
from recount.data.index import read_truth
from recount.errors import UserError
from recount.results.attempts import failed
from recount.results.files import JsonRecord, Made, MadeTables, ResultsError, file_digest, is_there
from recount.results.predictions import Predictions, Timing, read_predictions, timing_path
from recount.results.prepared import data_digest
from recount.results.prompt_tests import PromptTests
from recount.results.run_record import HISTORY, RUN, RunRecord
from recount.results.submissions import SELECTION, Submission, submission_path, submissions
from recount.settings.project import WEIGHTS, Project, Run, Split

#: step -> the record beside what it makes
MADE = {"score": "scores.made.json", "judge": "verdicts.made.json", "report": "index.made.json"}
TABLES = {
    "score": ("scores.csv", "strata.csv", "influence.csv"),
    "judge": ("verdicts.csv", "fidelity.csv", "submitted.csv"),
}
RecordType = TypeVar("RecordType", bound=JsonRecord)
SHOWN = 3  # ids in a message
Kind = Literal["stale", "damaged", "failed", "missing"]


class Unfit(UserError):
    """A result that must not be used."""

    def __init__(self, path: Path, kind: Kind, why: str, again: str, expected: str = "", found: str = "") -> None:
        digests = f" (expected {expected[:12]}, found {found[:12] or 'nothing'})" if expected or found else ""
        super().__init__(f"{path}: {kind}: {why}{digests}; {again}")
        self.path, self.kind, self.why, self.again, self.expected, self.found = path, kind, why, again, expected, found


def _digest_of_data(source: Path) -> str:
    if source.name == "index.csv":
        return data_digest(source)
    return provenance.weights_digest(source)


class Chain:
    """The results of one project, each checked against what it was made from when it is read."""

    def __init__(self, project: Project, digest: Callable[[Path], str] = file_digest) -> None:
        self.project, self.results = project, project.root / project.results
        self.digest = cache(digest)
        self._digest_of = cache(_digest_of_data)
        self._truth = cache(self._truth_of)
        self._runs: dict[str, RunRecord] = {}
        self._predicted: dict[tuple[str, str], tuple[dict[str, Predictions], Timing]] = {}

    def run(self, run: Run) -> RunRecord:
        """Return the record of the training that a run reads; FileNotFoundError where there is none."""
        if run.training_id in self._runs:
            return self._runs[run.training_id]
        path = self.project.root / self.project.run_folder(run) / RUN
        again = f"`recount train {run.training_id}` makes it anew"
        self._no_attempt("train", run.training_id, path, again)
        record = self._record(RunRecord, path, again)
        if record.id != run.training_id:
            raise Unfit(path, "damaged", f"it is the record of {record.id}", again)
        now = provenance.planned(self.project, run)
        if record.planned != now:
            raise Unfit(path, "stale", "trained with other settings than are planned now", again, now, record.planned)
        self._same_data(path, record.provenance.data, again)
        history = path.with_name(HISTORY)
        self._content(history, record.history_sha256, again)
        return self._runs.setdefault(run.training_id, record)

    def older(self, run: Run) -> str:
        """Return what made a run's training that is not what is here now, in words; it is used nevertheless."""
        made = self.run(run).provenance
        now = provenance.computing_packages()
        words = [f"{name} {made.packages[name]}" for name in now if made.packages.get(name, now[name]) != now[name]]
        with suppress(ModuleNotFoundError):  # another package's system, which is not installed here
            if made.code and made.code != provenance.step_digest("train", run.system):
                words.insert(0, "older code")
        return f"trained with {', '.join(words)}" if words else ""

    def predictions(self, run: Run, benchmark: str) -> tuple[dict[str, Predictions], Timing]:
        """Return what a run predicted on a benchmark, by selection, and its record; errors: ``run``, ``Unfit``."""
        path = self.project.root / self.project.predictions(run, benchmark)
        split = run.benchmarks[benchmark]
        key = (run.evaluation_id, f"{split.dataset}/{split.split}/{split.preparation}")
        if key in self._predicted:
            return self._predicted[key]
        again = f"`recount predict {run.evaluation_id} {benchmark}` makes it anew"
        self._no_attempt("predict", run.evaluation_id, path, again)
        if not is_there(path):
            raise FileNotFoundError(path)
        record = self._record(Timing, timing_path(path), again, whose=path)
        self._made(path, record.made, run, again)
        for selection, model in record.made.models.items():
            now = self.run(run).selections.get(selection)
            if now is None or now.sha256 != model:
                what = f"made with another model ({selection}) than the run has now"
                raise Unfit(path, "stale", what, again, now.sha256 if now else "", model)
        found = self._parsed(path, read_predictions, again)
        for selection, predictions in found.items():
            timing = record.selections.get(selection)
            self._same_samples(path, split, predictions, set(timing.left_out or () if timing else ()), again)
        return self._predicted.setdefault(key, (found, record))

    def prompt_tests(self, run: Run) -> PromptTests:
        """Return the prompt tests of a run; errors: ``predictions``."""
        path = self.project.root / self.project.prompt_test_file(run)
        again = f"`recount test-prompts {run.evaluation_id}` makes it anew"
        self._no_attempt("test-prompts", run.evaluation_id, path, again)
        record = self._record(PromptTests, path, again)
        self._made(path, record.made, run, again)
        now = self.run(run).selections.get(record.selection)
        model = record.made.models.get(record.selection, "")
        if now is None or now.sha256 != model:
            what = "made with another model than the run has now"
            raise Unfit(path, "stale", what, again, now.sha256 if now else "", model)
        return record

    def submission(self, path: Path) -> tuple[Submission, Predictions]:
        """Return the record of a submitted counter and its predictions; errors: ``predictions``."""
        again = "`recount submit` it again, or take it out (--remove)"
        record = self._record(Submission, path, again)
        if submission_path(self.project, path.parents[1].name, record.place) != path:
            raise Unfit(path, "damaged", f"it is the record of {record.name} on {record.place.dataset}", again)
        for name, digest in record.made.content.items():
            self._content(path.with_name(name), digest, again)
        self._same_data(path, record.made.data, again)
        table = path.with_suffix(".csv")
        predictions = self._parsed(table, read_predictions, again).get(SELECTION)
        if predictions is None or table.name not in record.made.content:
            raise Unfit(path, "damaged", "its record is of another file", again)
        self._same_samples(table, record.place, predictions, set(), again)
        return record, predictions

    def maps(self, run: Run, benchmark: str) -> Path | None:
        """Return the file of the maps that belong to a run's predictions, if it is there; errors: ``predictions``."""
        made = self.predictions(run, benchmark)[1].made
        return self._maps(made, f"`recount predict {run.evaluation_id} {benchmark}` makes it anew")

    def prompt_maps(self, run: Run) -> Path | None:
        """Return the file of the maps that belong to a run's prompt tests, if it is there; errors: ``prompt_tests``."""
        return self._maps(self.prompt_tests(run).made, f"`recount test-prompts {run.evaluation_id}` makes it anew")

    def _maps(self, made: Made, again: str) -> Path | None:
        for name, digest in made.content.items():
            path = self.results / name
            if "/" in name and is_there(path):
                self._content(path, digest, again)
                return path
        return None

    def tables(self, step: str) -> MadeTables:
        """Return the record of what ``step`` made (``MADE``); that, and what it was made from, must fit."""
        project = self.project
        path = project.root / project.report / MADE[step] if step == "report" else self.results / MADE[step]
        again = f"`recount {step}` makes it anew"
        self._no_attempt(step, self.project.suite.name, path, again)
        record = self._record(MadeTables, path, again)
        for table, digest in record.made.content.items():
            self._content(path.with_name(table), digest, again)
        for source, digest in record.made.results.items():
            now = self._digest_or_none(self.results / source)
            if now != digest:
                raise Unfit(path, "stale", f"made from another {source} than is there now", again, now, digest)
        for source, digest in self.digests("submissions").items() if step != "report" else ():
            if source not in record.made.results:
                raise Unfit(path, "stale", f"made before {source} was submitted", again, digest)
        return record

    def tables_now(self) -> dict[str, str]:
        """Return the digests of the tables that a report is made from."""
        return {name: self._digest_or_none(self.results / name) for name in (*TABLES["score"], *TABLES["judge"])}

    def digests(self, *kinds: Literal["predictions", "runs", "prompt_tests", "submissions"]) -> dict[str, str]:
        """Return the digests of all results of some kinds, by path below results/<suite>; "" for what is not there."""
        project = self.project
        paths = {
            "predictions": [project.predictions(run, name) for run in project.evaluations for name in run.benchmarks],
            "runs": [project.run_folder(run) / RUN for run in project.trainings],
            "prompt_tests": [project.prompt_test_file(run) for run in project.evaluations if run.prompt_tests],
            "submissions": [path.relative_to(project.root) for path in submissions(project)],
        }
        chosen = [path.relative_to(project.results) for kind in kinds for path in paths[kind]]
        return {path.as_posix(): self._digest_or_none(self.results / path) for path in sorted(set(chosen))}

    def _digest_or_none(self, path: Path) -> str:
        try:
            return self.digest(path)
        except OSError:
            return ""

    def _no_attempt(self, step: str, job: str, path: Path, again: str) -> None:
        why = failed(self.project, step, job)
        if why:
            raise Unfit(path, "failed", why, again)

    def _record(self, kind: type[RecordType], path: Path, again: str, whose: Path | None = None) -> RecordType:
        try:
            return kind.read(path)
        except FileNotFoundError:
            if whose is None:
                raise
            why = f"{path.name} is absent, so nothing says what it was made from"
            raise Unfit(whose, "damaged", why, again) from None
        except ResultsError as error:
            raise Unfit(path, "damaged", str(error).removeprefix(f"{path}: "), again) from None

    def _parsed(
        self, path: Path, read: Callable[[Path], Mapping[str, Predictions]], again: str
    ) -> dict[str, Predictions]:
        try:
            return dict(read(path))
        except ResultsError as error:
            raise Unfit(path, "damaged", str(error).removeprefix(f"{path}: "), again) from None

    def _content(self, path: Path, expected: str, again: str) -> None:
        try:
            found = self.digest(path)
        except FileNotFoundError:
            raise Unfit(path, "missing", "its record is there, and it is not", again, expected) from None
        except OSError as error:
            raise Unfit(path, "damaged", f"cannot be read: {error.strerror}", again) from None
        if found != expected:
            raise Unfit(path, "damaged", "its content is not what was written", again, expected, found)

    def _made(self, path: Path, made: Made, run: Run, again: str) -> None:
        for name, digest in made.content.items():
            if "/" not in name:  # maps are large, and checked when they are read
                self._content(path.with_name(name), digest, again)
        if path.suffix == ".csv" and path.name not in made.content:
            raise Unfit(path, "damaged", "its record is of another file", again)
        if made.run != run.training_id:
            raise Unfit(path, "damaged", f"it was made by {made.run or 'nobody'}", again)
        now = provenance.reading_of(self.project, run)
        if made.settings != now:
            raise Unfit(path, "stale", "read with other settings than are planned now", again, now, made.settings)
        self._same_data(path, made.data, again)

    def _same_data(self, path: Path, data: Mapping[str, str], again: str) -> None:
        """Data that are not here any more (results are moved and shared) are not held against a result."""
        for name, digest in data.items():
            weights = name.startswith(WEIGHTS)
            folder = self.project.weights / name.removeprefix(WEIGHTS) if weights else self.project.data / name
            source = self.project.root / folder / ("manifest.json" if weights else "index.csv")
            if is_there(source):
                try:
                    now = self._digest_of(source)
                except ResultsError as error:
                    raise Unfit(source, "damaged", str(error).removeprefix(f"{source}: "), again) from None
                if now != digest:
                    raise Unfit(path, "stale", f"made from other data ({name}) than are there now", again, now, digest)

    def _truth_of(self, split: Split) -> Mapping[str, float] | None:
        index = self.project.root / self.project.index(split)
        return read_truth(index, split.split) if is_there(index) else None

    def _same_samples(self, path: Path, split: Split, predictions: Predictions, left_out: set[str], again: str) -> None:
        truth = self._truth(split)
        if truth is None:
            return
        for what, ids in (
            ("lacks", truth.keys() - set(predictions.ids) - left_out),
            ("has what the benchmark lacks:", set(predictions.ids) - truth.keys()),
            (
                "has another true count of",
                {
                    name
                    for name, count in zip(predictions.ids, predictions.true.tolist(), strict=True)
                    if name in truth and count != truth[name] and not (math.isnan(count) and math.isnan(truth[name]))
                },
            ),
        ):
            if ids:
                shown = ", ".join(sorted(ids)[:SHOWN]) + (", …" if len(ids) > SHOWN else "")
                raise Unfit(path, "damaged", f"it {what} {shown} ({len(ids)} of {len(truth)} samples)", again)
