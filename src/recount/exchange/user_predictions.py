"""Anyone's predictions against a truth file: errors with intervals, strata, calibration, comparison of two systems.

Files are CSV (or text with tabs, semicolons or blanks between columns), JSON lines, or one JSON list or object. A line
names an image and gives a count, or the points that are counted (in CSV also one point per line, columns x and y):

    image,count              {"image": "1.jpg", "count": 12}             {"1.jpg": 12, "2.jpg": [[3, 4], [8, 1]]}
    1.jpg,12                 {"image": "2.jpg", "points": [[3, 4]]}      {"1.jpg": {"points": [[3, 4]]}}

Without a header, columns are image and count (as in NWPU-Crowd's submissions). Where all files have a prompt, a line is
about that prompt on that image. Nothing is guessed: images that do not match or occur twice, counts that are not finite
and true counts below 0 stop with a list of them. Predictions below 0 count as they are, and that is said.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from recount.errors import UserError
from recount.metrics import ACCURACY, MAE, NAE, RMSE, SRE, Floats, Metric
from recount.scoring import statistics
from recount.scoring.groups import count_bins, terciles
from recount.scoring.statistics import Difference, Interval, bootstrap

IMAGE_COLUMNS = ("image", "file", "filename", "image_id", "id", "name")
PREDICTED = ("predicted_count", "prediction", "predicted", "pred", "count", "points")
TRUE = ("true_count", "truth", "gt", "count", "points")
SHOWN = 5
INFLUENTIAL_IMAGES = 5

Key = tuple[str, str]  # image, prompt


class Counts(NamedTuple):
    """Counts read from a file, by image and prompt (prompts are "" where the file has none)."""

    path: Path
    counts: dict[Key, float]


def read_counts(path: Path, values: Sequence[str], lowest: float = -math.inf) -> Counts:
    """Read a file of counts or points, none below ``lowest``; UserError lists the first of what is wrong.

    ``values`` are the names that the column (or key) of the count or the points may have; the first one there is taken.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    lines = (_json_lines if text.lstrip()[0] in "{[" else _columns)(text, path, values)
    counts: dict[Key, float] = {}
    problems = []
    for where, key, value in lines:
        count, problem = _count(value)
        if count < lowest:
            problem = f"the count is {count:g}; it must not be below {lowest:g}"
        if key in counts:
            problem = "occurs twice"
        if problem:
            problems.append(f"{where}: {_named(key)}: {problem}")
        counts[key] = count
    if problems:
        raise UserError(f"{path}: " + _listed(problems, "\n  "))
    return Counts(path, counts)


def _named(key: Key) -> str:
    return f"{key[0]} ({key[1]})" if key[1] else key[0]


def _listed(items: Sequence[str], separator: str = ", ") -> str:
    rest = f"{separator}and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return separator.join(items[:SHOWN]) + rest


def _count(value: Any) -> tuple[float, str]:
    """Return the count that a value stands for, and what is wrong with it ("" if nothing)."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text) if text.startswith("[") else float(text)
        except ValueError:
            return math.nan, f"{text!r} is not a number"
    if isinstance(value, list):
        pairs = all(isinstance(point, list) and len(point) >= 2 for point in value)
        return float(len(value)), "" if pairs else "points must be a list of [x, y]"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan, f"{value!r} is neither a number nor a list of points"
    if not math.isfinite(value):
        return math.nan, f"the count is {value}; it must be finite"
    return float(value), ""


Line = tuple[str, Key, Any]  # where it stands, image and prompt, count or points


def _json_lines(text: str, path: Path, values: Sequence[str]) -> Iterator[Line]:
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:  # an object in each line
        lines = [(f"line {number}", line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        yield from _objects(((where, _parsed(line, f"{path}: {where}")) for where, line in lines), path, values)
        return
    if isinstance(whole, list):
        yield from _objects(((f"entry {number}", item) for number, item in enumerate(whole, start=1)), path, values)
    elif _first(whole, IMAGE_COLUMNS) is not None and _first(whole, values) is not None:
        yield from _objects([("line 1", whole)], path, values)
    else:
        for image, value in whole.items():
            inner = _first(value, values) if isinstance(value, dict) else None
            yield f"key {image!r}", (image, ""), value if inner is None else value[inner]


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON: {error.msg}") from None


def _objects(items: Iterable[tuple[str, Any]], path: Path, values: Sequence[str]) -> Iterator[Line]:
    for where, item in items:
        found = item if isinstance(item, dict) else {}
        image, value = _first(found, IMAGE_COLUMNS), _first(found, values)
        if image is None or value is None:
            raise UserError(f"{path}: {where}: expected an object with {_expected(values)}")
        yield where, (str(found[image]), str(found.get("prompt", ""))), found[value]


def _first(item: Container[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in item), None)


def _expected(values: Sequence[str]) -> str:
    return f"one of {', '.join(IMAGE_COLUMNS)} and one of {', '.join(values)}"


def _columns(text: str, path: Path, values: Sequence[str]) -> Iterator[Line]:
    lines = text.splitlines()
    delimiter = next((mark for mark in (",", "\t", ";") if mark in lines[0]), None)
    rows = csv.reader(lines, delimiter=delimiter) if delimiter else (line.split() for line in lines)
    numbered = [(number, [cell.strip() for cell in row]) for number, row in enumerate(rows, start=1) if any(row)]
    head, body = [cell.lower() for cell in numbered[0][1]], numbered[1:]
    image, value = _first(head, IMAGE_COLUMNS), _first(head, values)
    if image is not None and value is None and {"x", "y"} <= set(head):
        place = head.index(image)
        for name, points in Counter(row[place] for _, row in body if len(row) > place).items():
            yield "points", (name, ""), points
        return
    if image is None and len(head) == 2:
        with suppress(ValueError):  # a second number means that there is no header
            float(head[1])
            head, body = [image := "image", value := "count"], numbered
    if image is None or value is None:
        raise UserError(f"{path}: line 1: columns are {', '.join(head)}; expected {_expected(values)}")
    if not body:
        raise UserError(f"{path}: there is a header and nothing else")
    for number, row in body:
        if len(row) != len(head):
            raise UserError(f"{path}: line {number}: {len(row)} columns, but line 1 has {len(head)}")
        item = dict(zip(head, row, strict=True))
        yield f"line {number}", (item[image], item.get("prompt", "")), item[value]


Stratum = tuple[str, str, int, Interval, Interval, float]  # bin or tercile, its name, images, MAE, RMSE, bias


class SystemScores:
    """Everything about one file of predictions."""

    def __init__(self, name: str, keys: Sequence[Key], true: Floats, predicted: Floats) -> None:
        self.name = name
        self.metrics = {metric.name: bootstrap(metric, true, predicted) for metric in _metrics(true, predicted)}
        self.calibration = statistics.calibration(true, predicted)
        self.strata = list(_strata(true, predicted))
        share = statistics.influence(true, predicted).share_of_squared_error
        order = [k for k in np.argsort(-share, kind="stable")[:INFLUENTIAL_IMAGES] if share[k] > 0]
        self.influential = [(_named(keys[k]), true[k], predicted[k], share[k]) for k in order]
        self.rmse_without = [statistics.rmse_without_largest(true, predicted, images) for images in (1, 2)]
        self.negative = int((predicted < 0).sum())

    def lines(self) -> Iterator[str]:
        """Yield it as lines for a terminal."""
        yield self.name
        if self.negative:
            yield f"  {self.negative} predictions are below 0; they count as they are"
        for name, interval in (*self.metrics.items(), ("bias", self.calibration.bias)):
            yield f"  {name:<9} {_with_interval(interval)}"
        slope, intercept = _with_interval(self.calibration.slope), _shown(self.calibration.intercept)
        yield f"  {'slope':<9} {slope}, intercept {intercept}"
        one, two = map(_shown, self.rmse_without)
        yield f"  rmse without the largest error {one}, without the two largest {two}"
        for image, true, predicted, share in self.influential:
            yield f"  {share:>6.1%} of the squared error: {image} (true {_shown(true)}, predicted {_shown(predicted)})"
        for kind, name, images, mae, rmse, bias in self.strata:
            errors = f"mae {_with_interval(mae)}, rmse {_with_interval(rmse)}"
            yield f"  {kind} {name:<7} n = {images}: {errors}, bias {_shown(bias)}"


@dataclass(frozen=True, slots=True)
class UserScores:
    """What ``recount score --predictions --truth`` says."""

    truth: Path
    images: int  # that were scored
    left_out: int  # images of the truth file without a prediction, left out on request
    best_constant: tuple[float, float, float]  # that with the smallest MAE on the truth; its MAE and RMSE
    systems: list[SystemScores]  # one or two
    differences: dict[str, Difference]  # metric -> first minus second system; empty for one system

    def text(self) -> str:
        """Return everything as text for a terminal."""
        left_out = f", {self.left_out} left out" if self.left_out else ""
        constant, mae, rmse = map(_shown, self.best_constant)
        lines = [
            f"{self.images} images of {self.truth}{left_out}; 95 % intervals over images",
            f"best constant ({constant}, an oracle): MAE {mae}, RMSE {rmse}",
        ]
        for system in self.systems:
            lines += ["", *system.lines()]
        if self.differences:
            lines += ["", f"{self.systems[0].name} minus {self.systems[1].name}, on the same images"]
        for name, difference in self.differences.items():
            interval = Interval(difference.value, difference.low, difference.high)
            lines.append(f"  {name:<9} {_with_interval(interval)}, permutation p = {_shown(difference.p_value)}")
        return "\n".join(lines)


def score_files(predictions: Sequence[Path], truth: Path, *, only_predicted: bool = False) -> UserScores:
    """Score one file of predictions, or compare two, against a truth file.

    An image without a prediction is a UserError, unless ``only_predicted`` leaves it out.
    """
    if len(predictions) not in {1, 2}:
        raise UserError(f"{len(predictions)} files of predictions: give one, or two to compare")
    truths = read_counts(truth, TRUE, lowest=0)
    tables = [read_counts(path, PREDICTED) for path in predictions]
    if not all(any(prompt for _, prompt in table.counts) for table in (truths, *tables)):
        truths, *tables = (_without_prompts(table) for table in (truths, *tables))
    wanted = tables[0].counts if only_predicted else truths.counts
    for table in tables:
        _check_match(table, truths, wanted)
    keys = [key for key in truths.counts if key in wanted]
    true = np.array([truths.counts[key] for key in keys])
    predicted = [np.array([table.counts[key] for key in keys]) for table in tables]
    systems = [SystemScores(str(path), keys, true, counts) for path, counts in zip(predictions, predicted, strict=True)]
    constant = statistics.best_constant(true)
    flat = np.full(len(true), constant)
    metrics = _metrics(true, *predicted) if len(tables) == 2 else []
    return UserScores(
        truth=truth,
        images=len(keys),
        left_out=len(truths.counts) - len(keys),
        best_constant=(constant, MAE(true, flat), RMSE(true, flat)),
        systems=systems,
        differences={metric.name: statistics.paired_difference(metric, true, *predicted) for metric in metrics},
    )


def _without_prompts(table: Counts) -> Counts:
    """Return the table by image alone: another file does not tell prompts apart."""
    twice = [image for image, times in Counter(image for image, _ in table.counts).items() if times > 1]
    if twice:
        raise UserError(
            f"{table.path}: several prompts on one image, but another file has no prompts: {_listed(twice)}; "
            "add a prompt column there"
        )
    return Counts(table.path, {(image, ""): count for (image, _), count in table.counts.items()})


def _check_match(table: Counts, truths: Counts, wanted: Mapping[Key, float]) -> None:
    unknown = [_named(key) for key in table.counts if key not in truths.counts]
    absent = [_named(key) for key in wanted if key not in table.counts]
    problems = [f"{len(unknown)} images are not in {truths.path}: {_listed(unknown)}"] if unknown else []
    problems += [f"{len(absent)} images have no prediction: {_listed(absent)}"] if absent else []
    stems, true_stems = ({PurePosixPath(image).stem for image, _ in side.counts} for side in (table, truths))
    if unknown and absent and stems & true_stems:
        problems.append("the names differ in folder or suffix; write them alike in both files")
    elif absent and not unknown:
        problems.append("to score only the predicted ones, say so (--only-predicted)")
    if problems:
        raise UserError(f"{table.path}: " + "\n  ".join(problems))


def _metrics(true: Floats, *predicted: Floats) -> list[Metric]:
    whole = all((counts == np.round(counts)).all() for counts in (true, *predicted))
    return [MAE, RMSE, NAE, SRE, ACCURACY] if whole else [MAE, RMSE, NAE, SRE]


def _strata(true: Floats, predicted: Floats) -> Iterator[Stratum]:
    for kind, names in (("count", count_bins(true)), ("tercile", terciles(true))):
        for name in dict.fromkeys(name for _, name in sorted(zip(true.tolist(), names, strict=True))):
            inside = np.array([other == name for other in names])
            t, p = true[inside], predicted[inside]
            yield kind, name, len(t), bootstrap(MAE, t, p), bootstrap(RMSE, t, p), float((p - t).mean())


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"


def _with_interval(interval: Interval) -> str:
    if math.isnan(interval.low):
        return _shown(interval.value)
    return f"{_shown(interval.value)} [{_shown(interval.low)}, {_shown(interval.high)}]"
