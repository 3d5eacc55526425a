"""``recount submit``: somebody else's counter in the tables, from a file of its counts; ``recount questions``: of what.

The file names the samples of a benchmark by id or picture (``user_files`` reads it); each must be there once. A second
file may answer the prompt tests: the same pictures asked for other classes. What is written is checked like any result
(``results.submissions``), and stands in every table about the same samples with the status ``submitted``.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from recount import datasets
from recount.data.index import read_index
from recount.data.sample import Sample
from recount.documents import Document, Sheet
from recount.errors import UserError
from recount.exchange.user_files import Entry, Key, Table, listed, read_table, shown
from recount.exchange.user_predictions import matched
from recount.judging.submitted import against
from recount.metrics import METRICS
from recount.provenance import data_digests, step_digest
from recount.report.numbers import interval, number, signed
from recount.results.files import Made, csv_text, file_digest, now, write_arrays
from recount.results.predictions import PREDICTIONS, PredictionRow
from recount.results.prompt_tests import BenchmarkTests, NegativePrompts, NotTested, Pairs
from recount.results.reason import Missing
from recount.results.submissions import (
    SELECTION,
    SUBMITTED,
    Against,
    Submission,
    counter_id,
    submission_path,
    submissions,
)  # fmt: skip
from recount.scoring.measured import Measurements, measure
from recount.scoring.score import CAPTION_METRICS, ERROR_METRICS
from recount.settings.base import ConfigError, unknown
from recount.settings.project import Project, Split

TESTS = ("negative_prompts", "pairs")  # that counts alone can answer; mosaics need pictures that recount makes
COLOURS = (("better", "green"), ("worse", "red"))
Answer = Callable[[Sample], float]


@dataclass(frozen=True, slots=True)
class Given:
    """A counter's answers: counts by sample id, what it was, digests of its files, and maps [h, w] by id."""

    counts: Mapping[str, float]
    came_from: str
    files: Mapping[str, str]
    prompt_tests: BenchmarkTests | None = None
    maps: Mapping[str, np.ndarray] | None = None


def place_of(project: Project, benchmark: str) -> tuple[Split, list[Sample]]:
    """Return the split that stands for a benchmark here, and its samples; a UserError says what prepares it."""
    if benchmark not in project.benchmarks:
        raise ConfigError(f"--benchmark {benchmark}: {unknown('benchmark', benchmark, project.benchmarks)}")
    if why := project.why_no_data(benchmark):
        raise UserError(f"--benchmark {benchmark}: {why}")
    entry = project.stand_ins[benchmark]
    own = Split(dataset=str(entry.dataset), split=str(entry.split), preparation=entry.preparation)
    used = [split for run in project.runs for name, split in run.benchmarks.items() if name == benchmark]
    splits = dict.fromkeys(split.model_dump_json() for split in (own, *used))
    there = [Split.model_validate_json(split) for split in splits]
    split = next((split for split in there if (project.root / project.index(split)).is_file()), None)
    if split is None:
        commands = [] if datasets.load(own.dataset).embedded else [f"`recount fetch {own.dataset}`"]
        commands.append(f"`recount prepare {own.dataset} {own.preparation}`")
        raise UserError(f"--benchmark {benchmark}: {own.dataset} is not prepared; first {' and '.join(commands)}")
    samples = read_index(project.root / project.index(split), split.split)
    if hidden := [sample.id for sample in samples if np.isnan(sample.count)]:
        raise UserError(f"--benchmark {benchmark}: the true counts are not public, for instance of {hidden[0]}")
    return split, samples


def _stands_for(project: Project, benchmark: str, place: Split) -> str:
    if f"{place.dataset}/{place.split}" == (project.benchmarks[benchmark].data or benchmark):
        return ""
    here = f"in suite {project.suite.name}, {place.dataset}/{place.split} stands for {benchmark}"
    return f"; {here} (--config suite=paper has the benchmark itself)"


def questions(project: Project, benchmark: str, *, prompts: bool = False) -> str:
    """Return as CSV what a counter is to be asked on a benchmark: id, picture, prompt, and an empty count."""
    split, samples = place_of(project, benchmark)
    asked = [] if prompts else samples

    def noted(sample: Sample) -> float:
        asked.append(sample)
        return 1.0

    if prompts:
        prompt_tested(project, benchmark, split, samples, noted)
    keys = dict.fromkeys((sample.id, str(sample.image or ""), sample.prompt) for sample in asked)
    return csv_text(("id", "image", "prompt", "count"), [(*key, "") for key in keys])


def read_counts(project: Project, benchmark: str, path: Path, column: str | None = None) -> dict[str, float]:
    """Return a file's counts by sample id; a UserError names what is missing, unknown, or there twice."""
    place, samples = place_of(project, benchmark)
    index = project.root / project.index(place)
    entries = [
        Entry(f"{index}: {s.id}", (s.id, s.image.name if s.image else s.id), s.prompt, float(s.count)) for s in samples
    ]
    truth = Table(index, ("id", "image"), "count", "", tuple(entries))
    try:
        _, (there, counts) = matched(truth, [read_table(path, "prediction", column)])
    except UserError as error:
        raise UserError(f"{error}{_stands_for(project, benchmark, place)}") from None
    return {there[key].names[0]: counts[key].count for key in there}


def read_answers(project: Project, benchmark: str, path: Path, column: str | None = None) -> BenchmarkTests:
    """Return what a file of counts by sample and prompt says of the prompt tests; errors: ``read_counts``."""
    place, samples = place_of(project, benchmark)
    entries = read_table(path, "prediction", column)
    if "id" not in entries.name_columns:
        raise UserError(f"{path}: no column id names the samples; `recount questions {benchmark} --prompts` has them")
    answers = {key: entry.count for key, entry in entries.by_key("id").items()}
    asked: dict[Key, None] = {}

    def answer(sample: Sample) -> float:
        asked[sample.id, sample.prompt] = None
        return answers.get((sample.id, sample.prompt), 0.0)

    found = prompt_tested(project, benchmark, place, samples, answer)
    absent, unasked = (
        [shown(key) for key in one if key not in other] for one, other in ((asked, answers), (answers, asked))
    )
    problems = [f"{len(absent)} questions have no answer: {listed(absent)}"] if absent else []
    problems += [f"{len(unasked)} answers are to no question: {listed(unasked)}"] if unasked else []
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}; `recount questions {benchmark} --prompts` has the questions")
    return found


def read_given(project: Project, benchmark: str, counts: Path, prompts: Path | None, column: str | None) -> Given:
    """Return what is in a file of counts, and in one of answers to other prompts; errors: ``read_counts``."""
    found = read_counts(project, benchmark, counts, column)
    tests = None if prompts is None else read_answers(project, benchmark, prompts, column)
    return Given(found, counts.name, {path.name: file_digest(path) for path in (counts, prompts) if path}, tests)


def prompt_tested(
    project: Project, benchmark: str, place: Split, samples: Sequence[Sample], answer: Answer
) -> BenchmarkTests:
    """Return the prompt tests that counts can answer, run as the suite runs those of its own systems."""
    from recount.prediction import prompt_tests
    from recount.prediction.run_prompt_tests import chosen_samples
    from recount.prediction.samples import Asking, Predicted
    from recount.systems.base import System

    class Answers(Asking):
        def predict(self, samples: Sequence[Sample], *_: Any, **__: Any) -> Iterator[Predicted]:
            for sample in samples:
                yield Predicted(sample, answer(sample), 0.0)

    if project.benchmarks[benchmark].kind != "text":
        raise UserError(f"--benchmark {benchmark}: prompt tests are for benchmarks that name what is counted in a text")
    asking = Answers(cast(System, SimpleNamespace(text_guided=True)), cast(Any, None))
    found = BenchmarkTests(dataset=place.dataset, split=place.split)
    without = prompt_tests.SEVERAL_CLASSES if project.suite.prompt_tests_without_listed else frozenset()
    for test in TESTS:
        chosen = chosen_samples(test, samples, project.suite.prompt_test_pictures)
        if isinstance(chosen, str):
            setattr(found, test, NotTested(not_tested=chosen))
        elif test == "pairs":
            found.pairs = prompt_tests.pairs(asking, chosen)
        else:
            found.negative_prompts = prompt_tests.negative_prompts(asking, chosen, without)
    return found


def submit(project: Project, benchmark: str, name: str, given: Given, paper: str = "") -> tuple[Path, bool]:
    """Write a counter's predictions and their record; return the record, and whether another was replaced."""
    if paper and not paper.startswith(("https://", "http://")):
        raise UserError(f"--paper {paper}: expected an address, https://…")
    place, samples = place_of(project, benchmark)
    path = submission_path(project, counter_id(name), place)
    for other in submissions(project):
        called = Submission.read(other).name if other.parents[1].name == counter_id(name) else name
        if called != name:
            raise UserError(
                f"--name {name!r}: {called!r} is there, whose folder is called the same; choose another name"
            )
    replaced, table, maps = path.is_file(), path.with_suffix(".csv"), path.with_suffix(".npz")
    path.unlink(missing_ok=True)  # never an old record beside new files
    maps.unlink(missing_ok=True)
    rows = [
        PredictionRow(s.id, s.image.name if s.image else "", s.prompt, float(s.count), given.counts[s.id], SELECTION)
        for s in samples
    ]
    PREDICTIONS.write(table, rows)
    if given.maps:
        write_arrays(maps, {f"{SELECTION}/{sample}": values for sample, values in given.maps.items()})
    content = {file.name: file_digest(file) for file in (table, maps) if file.is_file()}
    data = data_digests([project.root / project.index(place)])
    made = Made(content=content, data=data, code=step_digest("score"))
    Submission(
        name=name, paper=paper, benchmark=benchmark, place=place, came_from=given.came_from, when=now(), made=made,
        files=dict(given.files),        prompt_tests=given.prompt_tests,
    ).write(path)  # fmt: skip
    return path, replaced


def remove(project: Project, name: str, benchmark: str | None = None) -> list[Path]:
    """Delete a counter's predictions, of one benchmark or all; return the records that are gone."""
    folder = project.root / project.results / SUBMITTED / counter_id(name)
    if not folder.is_dir():
        there = sorted({path.parents[1].name for path in submissions(project)})
        raise UserError(
            f"--name {name!r}: nothing of that name was submitted; there is: {', '.join(there) or 'nothing'}"
        )
    records = sorted(folder.glob("*/*.json"))
    if benchmark is None:
        shutil.rmtree(folder)
        return records
    path = submission_path(project, counter_id(name), place_of(project, benchmark)[0])
    if path not in records:
        raise UserError(f"--benchmark {benchmark}: {name!r} has nothing there")
    for suffix in (".json", ".csv", ".npz"):
        path.with_suffix(suffix).unlink(missing_ok=True)
    return [path]


def comparison(project: Project, path: Path) -> Document:
    """Return a submitted counter's metrics, and how it does against every other system on the same images."""
    measurements = Measurements(project)
    try:
        record, predictions = measurements.submission(path)
    except Missing as missing:
        raise UserError(missing.reason.text) from None
    counter, place = f"{SUBMITTED}/{path.parents[1].name}", f"{record.place.dataset}/{record.place.split}"
    captions = project.benchmarks[record.benchmark].kind == "captions"
    metrics = {name: measure(METRICS[name], predictions) for name in (CAPTION_METRICS if captions else ERROR_METRICS)}
    rows = [row for row in against(measurements, counter) if row.dataset == place]
    lines = [
        f"{record.name} on {place}, {len(predictions.ids)} samples ({record.benchmark}); 95 % intervals over samples"
    ]
    for name, found in metrics.items():
        bounds = interval(found.interval.low, found.interval.high, found.interval.value)
        lines.append(f"  {METRICS[name].label}: {number(found.interval.value)}{f' ({bounds})' if bounds else ''}")
    lines += list(_prompt_lines(record.prompt_tests))
    heads = ("Against", "Weights", "Seeds", "Its number", "Better by", "p", "This one is")
    tested = [row for row in rows if row.verdict != "not tested"]
    sheet = Sheet("", heads, [_against_row(row) for row in tested], [row.verdict for row in tested])
    reasons = {row.against: row.reason.text.removeprefix(f"{row.against}: ") for row in rows if row not in tested}
    after = [
        f"Not tested against {', '.join(name for name, why in reasons.items() if why == reason)}: {reason}"
        for reason in dict.fromkeys(reasons.values())
    ]
    content = {
        "submission": record.model_dump(mode="json"),
        "metrics": {name: found.interval for name, found in metrics.items()},
        "against": rows,
    }
    columns = ("counter", "against", "benchmark", "metric", "selection", "value", "value_against", "effect", "ci_low",
               "ci_high", "p_value", "n", "verdict")  # fmt: skip
    table = [[getattr(row, column) for column in columns] for row in rows]
    return Document(record.name, lines, [sheet], content, columns, table, after, COLOURS)


def _against_row(row: Against) -> list[str]:
    bounds = interval(row.ci_low, row.ci_high, row.value)
    return [
        row.against, row.selection or "–", row.seeds or "–", number(row.value_against),
        f"{signed(row.effect)}{f' ({bounds})' if bounds else ''}", f"{row.p_value:.3g}", row.verdict,
    ]  # fmt: skip


def _prompt_lines(tests: BenchmarkTests | None) -> Iterator[str]:
    if tests is None:
        return
    negative, pairs = tests.negative_prompts, tests.pairs
    if isinstance(negative, NegativePrompts):
        yield (
            f"  wrong prompts, {len(negative.pictures)} pictures: NP {negative.np:.3g} (ideal 1), "
            f"NMN {negative.nmn:.3g} (ideal 0), PCCN {negative.pccn:.3g} %"
        )
    if isinstance(pairs, Pairs):
        yield (
            f"  pairs, {len(pairs.pictures)} pictures: MAE on the minority {pairs.minority_mae:.3g}, nearer to the "
            f"majority {pairs.nearer_to_majority:.0%}, changed by the prompt {pairs.prompt_swap:.0%}"
        )
    for test in TESTS:
        if isinstance(found := getattr(tests, test), NotTested):
            yield f"  {test.replace('_', ' ')}: not tested: {found.not_tested}"
