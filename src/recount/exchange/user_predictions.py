"""Anyone's predictions against a truth file: errors with intervals, strata, calibration, comparison of two systems.

What the files look like stands in ``user_files``. Where all of them have a prompt, a line is about that prompt on that
image. Images that do not match stop with a list of them. Predictions below 0 count as they are, and that is said. Where
truth and predictions are points, it is also said how many of them lie where objects are (``scoring.matching``).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice, product
from pathlib import Path, PurePosixPath

import numpy as np

from recount.documents import Document, Sheet
from recount.errors import UserError
from recount.exchange.user_files import SHOWN, Entry, Key, Table, listed, read_table, shown
from recount.metrics import ACCURACY, MAE, NAE, RMSE, SRE, Floats, Metric
from recount.scoring import statistics
from recount.scoring.groups import count_bins, terciles
from recount.scoring.matching import Localisation, localisation
from recount.scoring.statistics import Calibration, Difference, Interval, bootstrap

INFLUENTIAL_IMAGES = 5
SIGMAS = (4.0, 8.0)  # pixels, as FIDTM's evaluation has them where no boxes are known
BOXES = ("sigma_s = min(w, h) / 2 of each box", "sigma_l = sqrt(w^2 + h^2) / 2 of each box")
COMPARED_NAMES = 10_000  # that a name is compared with, to name the nearest


@dataclass(frozen=True, slots=True)
class Stratum:
    """Errors on the images of a range of true counts."""

    kind: str  # "count" or "tercile"
    name: str
    images: int
    mae: Interval
    rmse: Interval
    bias: float


@dataclass(frozen=True, slots=True)
class Influential:
    """An image with a large share of the squared error."""

    image: str
    true: float
    predicted: float
    share: float


@dataclass(frozen=True, slots=True)
class SystemScores:
    """Everything about one file of predictions."""

    name: str
    read: str  # which column, selection and name of the image were read
    metrics: dict[str, Interval]
    calibration: Calibration
    strata: list[Stratum]
    influential: list[Influential]
    rmse_without: tuple[float, float]  # the image of largest error, the two of largest error
    negative: list[str]  # where predictions are below 0
    localisation: list[Localisation]  # one for each threshold; empty where one side has no points
    all_true: bool  # every prediction equals the truth

    def lines(self) -> Iterator[str]:
        """Yield it as lines for a terminal."""
        yield f"{self.name} ({self.read})"
        if self.all_true:
            yield "  every prediction equals the truth: is it the truth's column?"
        if self.negative:
            yield f"  {len(self.negative)} predictions are below 0; they count as they are: {listed(self.negative)}"
        for name, interval in (*self.metrics.items(), ("bias", self.calibration.bias)):
            yield f"  {name:<9} {_with_interval(interval)}"
        slope, intercept = _with_interval(self.calibration.slope), _shown(self.calibration.intercept)
        yield f"  {'slope':<9} {slope}, intercept {intercept}"
        one, two = map(_shown, self.rmse_without)
        yield f"  rmse without the largest error {one}, without the two largest {two}"
        for image in self.influential:
            counts = f"(true {_shown(image.true)}, predicted {_shown(image.predicted)})"
            yield f"  {image.share:>6.1%} of the squared error: {image.image} {counts}"
        for stratum in self.strata:
            errors = f"mae {_with_interval(stratum.mae)}, rmse {_with_interval(stratum.rmse)}"
            bias = _shown(stratum.bias)
            yield f"  {stratum.kind} {stratum.name:<7} n = {stratum.images}: {errors}, bias {bias}"
        for entry in self.localisation:
            shares = ", ".join(
                f"{name} {_with_interval(getattr(entry, name))}" for name in ("precision", "recall", "f1")
            )
            counts = f"{entry.found:,} found, {entry.false:,} false, {entry.missed:,} missed"
            yield f"  points within {entry.threshold}: {shares}; {counts}"


@dataclass(frozen=True, slots=True)
class UserScores:
    """What ``recount score --predictions --truth`` says."""

    truth: str
    read: str  # of the truth: which column, selection and name of the image
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
            f"{self.images} images of {self.truth} ({self.read}){left_out}; 95 % intervals over images",
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

    def document(self) -> Document:
        """Return everything as a document; its table has each file's metrics, and the differences of two files."""
        columns = ("predictions", "metric", "value", "low", "high", "p_value")
        rows: list[tuple[str, str, float, float, float, float]] = []
        for system in self.systems:
            metrics = {**system.metrics, "bias": system.calibration.bias}
            rows += [(system.name, name, m.value, m.low, m.high, math.nan) for name, m in metrics.items()]
        between = " minus ".join(system.name for system in self.systems)
        rows += [(between, name, d.value, d.low, d.high, d.p_value) for name, d in self.differences.items()]
        texts = [[*row[:2], *map(_shown, row[2:])] for row in rows]
        text = self.text().splitlines()
        sheet = Sheet("", ("Predictions", "Metric", "Value", "From", "To", "p"), texts)
        return Document("Scores of predictions", text[:2], [sheet], self, columns, rows, plain=text)


def score_files(
    predictions: Sequence[Path],
    truth: Path,
    *,
    only_predicted: bool = False,
    column: str | None = None,
    truth_column: str | None = None,
    selection: str | None = None,
    sigmas: Sequence[float] = (),
) -> UserScores:
    """Score one file of predictions, or compare two, against a truth file.

    Args:
        predictions: one or two files.
        truth: the file of true counts or points.
        only_predicted: leave out images without a prediction, which are a UserError otherwise.
        column: of the predictions, where several could be (``user_files.read_table``).
        truth_column: of the truth.
        selection: of files that have several, recount's own predictions above all.
        sigmas: thresholds in pixels for points, ``SIGMAS`` if none; where the truth has boxes, theirs come on top.
    """
    if len(predictions) not in {1, 2}:
        raise UserError(f"{len(predictions)} files of predictions: give one, or two to compare")
    if wrong := [sigma for sigma in sigmas if not 0 < sigma < math.inf]:
        raise UserError(f"--sigma {wrong[0]:g}: expected pixels, more than 0")
    tables = [read_table(path, "prediction", column, selection) for path in predictions]
    if selection is not None and not any(table.selection for table in tables):
        raise UserError(f"--selection {selection}: {predictions[0]} has no column selection")
    truths = read_table(truth, "truth", truth_column, selection)
    counted = next((table for table in (truths, *tables) if not table.has_points), None)
    if sigmas and counted is not None:
        raise UserError(f"{counted.path}: --sigma is for points, and column {counted.column} has counts")
    partly = "to score only the predicted ones, say so (--only-predicted)"
    names, (there, *claimed) = matched(truths, tables, partly, only_predicted=only_predicted)
    keys = [key for key in there if key in claimed[0]]
    true = np.array([there[key].count for key in keys])
    predicted = [np.array([entries[key].count for key in keys]) for entries in claimed]
    systems = []
    for table, name, entries in zip(tables, names[1:], claimed, strict=True):
        pairs = [(there[key], entries[key]) for key in keys]
        found = [] if counted else list(_localised(pairs, sigmas or SIGMAS))
        systems.append(_scored(str(table.path), _read(table, name), keys, pairs, found))
    constant = statistics.best_constant(true)
    flat = np.full(len(true), constant)
    metrics = _metrics(true, *predicted) if len(tables) == 2 else []
    return UserScores(
        truth=str(truth),
        read=_read(truths, names[0]),
        images=len(keys),
        left_out=len(there) - len(keys),
        best_constant=(constant, MAE(true, flat), RMSE(true, flat)),
        systems=systems,
        differences={metric.name: statistics.paired_difference(metric, true, *predicted) for metric in metrics},
    )


def matched(
    truth: Table, tables: Sequence[Table], partly: str = "", *, only_predicted: bool = False
) -> tuple[list[str], list[dict[Key, Entry]]]:
    """Return by which column the truth and each file name the images, and the entries of each by image and prompt.

    A UserError lists the images that are missing (but not if ``only_predicted``; ``partly`` says what to do about
    them), unknown, or there twice.
    """
    names = _name_columns(truth, tables)
    there, *claimed = _by_key([truth, *tables], names)
    wanted = claimed[0] if only_predicted else there
    for table, name, entries in zip(tables, names[1:], claimed, strict=True):
        _check_match(table, name, entries, there, wanted, truth.path, partly)
    return names, [there, *claimed]


def _read(table: Table, name: str) -> str:
    parts = [f"column {table.column}", f"selection {table.selection}" if table.selection else ""]
    if not any(entry.count for entry in table.entries):
        parts.append("nothing but zeros: no image has points")
    return ", ".join(filter(None, [*parts, f"images by {name}" if len(table.name_columns) > 1 else ""]))


def _name_columns(truth: Table, tables: Sequence[Table]) -> list[str]:
    """Return by which column each file names the images: by those that have most names in common with the truth."""
    called = {
        id(table): {name: set(of) for name, of in zip(table.name_columns, zip(*table.names, strict=True), strict=True)}
        for table in (truth, *tables)
    }

    def common(choice: tuple[str, ...]) -> int:
        known = called[id(truth)][choice[0]]
        return sum(len(known & called[id(table)][name]) for table, name in zip(tables, choice[1:], strict=True))

    choices: list[tuple[str, ...]] = [*product(*(table.name_columns for table in (truth, *tables)))]
    best = max(choices, key=common)
    return list(best)


def _by_key(tables: Sequence[Table], names: Sequence[str]) -> list[dict[Key, Entry]]:
    """Return each file's entries by image and prompt; by image alone unless all files have prompts."""
    found = [table.by_key(name) for table, name in zip(tables, names, strict=True)]
    if all(any(prompt for _, prompt in entries) for entries in found):
        return found
    return [_without_prompts(table.path, entries) for table, entries in zip(tables, found, strict=True)]


def _without_prompts(path: Path, entries: Mapping[Key, Entry]) -> dict[Key, Entry]:
    """Return entries by image alone: another file does not tell prompts apart."""
    twice = [image for image, times in Counter(image for image, _ in entries).items() if times > 1]
    if twice:
        raise UserError(
            f"{path}: several prompts on one image, but another file has no prompts: {listed(twice)}; "
            "add a prompt column there"
        )
    return {(image, ""): entry for (image, _), entry in entries.items()}


def _check_match(
    table: Table, name: str, entries: Mapping[Key, Entry], there: Mapping[Key, Entry], wanted: Mapping[Key, Entry],
    truth: Path, partly: str,
) -> None:  # fmt: skip
    unknown, absent = [key for key in entries if key not in there], [key for key in wanted if key not in entries]
    by = f" (images by column {name})" if len(table.name_columns) > 1 else ""
    problems = []
    if unknown:
        near = [_with_nearest(key, absent or there) for key in unknown[:SHOWN]]
        rest = [shown(key) for key in unknown[SHOWN:]]
        problems.append(f"{len(unknown)} images are not in {truth}{by}: {listed([*near, *rest])}")
    if absent:
        problems.append(f"{len(absent)} images have no prediction: {listed([shown(key) for key in absent])}")
    stems, lacking = ({PurePosixPath(image).stem for image, _ in side} for side in (unknown, absent))
    if stems & lacking:
        problems.append("the names differ in folder or suffix; write them alike in both files")
    elif absent and not unknown and partly:
        problems.append(partly)
    if problems:
        raise UserError(f"{table.path}: " + "\n  ".join(problems))


def _with_nearest(key: Key, others: Iterable[Key]) -> str:
    near = get_close_matches(key[0], [image for image, _ in islice(others, COMPARED_NAMES)], n=1)
    return shown(key) + "".join(f" (the nearest there is {shown((name, ''))})" for name in near)


def _localised(pairs: Sequence[tuple[Entry, Entry]], sigmas: Sequence[float]) -> Iterator[Localisation]:
    """Yield precision, recall and F1 at each threshold; entries of the truth and of the predictions have points."""
    true, predicted = (
        [entry.points for entry in side if entry.points is not None] for side in zip(*pairs, strict=True)
    )
    for sigma in sigmas:
        yield localisation(true, predicted, [sigma] * len(pairs), f"{sigma:g} px")
    radii = [entry.radii for entry, _ in pairs if entry.radii is not None]
    if len(radii) == len(pairs):
        for place, label in enumerate(BOXES):
            yield localisation(true, predicted, [each[:, place] for each in radii], label)


def _scored(
    name: str, read: str, keys: Sequence[Key], pairs: Sequence[tuple[Entry, Entry]], found: list[Localisation]
) -> SystemScores:
    true, predicted = (np.array([entry.count for entry in side]) for side in zip(*pairs, strict=True))
    share = statistics.influence(true, predicted).share_of_squared_error
    order = [k for k in np.argsort(-share, kind="stable")[:INFLUENTIAL_IMAGES] if share[k] > 0]
    one, two = (statistics.rmse_without_largest(true, predicted, images) for images in (1, 2))
    return SystemScores(
        name=name,
        read=read,
        metrics={metric.name: bootstrap(metric, true, predicted) for metric in _metrics(true, predicted)},
        calibration=statistics.calibration(true, predicted),
        strata=list(_strata(true, predicted)),
        influential=[Influential(shown(keys[k]), *map(float, (true[k], predicted[k], share[k]))) for k in order],
        rmse_without=(one, two),
        negative=[
            f"{shown(key)} ({entry.where})" for key, (_, entry) in zip(keys, pairs, strict=True) if entry.count < 0
        ],
        localisation=found,
        all_true=bool((true == predicted).all()),
    )


def _metrics(true: Floats, *predicted: Floats) -> list[Metric]:
    whole = all((counts == np.round(counts)).all() for counts in (true, *predicted))
    return [MAE, RMSE, NAE, SRE, ACCURACY] if whole else [MAE, RMSE, NAE, SRE]


def _strata(true: Floats, predicted: Floats) -> Iterator[Stratum]:
    for kind, names in (("count", count_bins(true)), ("tercile", terciles(true))):
        for name in dict.fromkeys(name for _, name in sorted(zip(true.tolist(), names, strict=True))):
            inside = np.array([other == name for other in names])
            t, p = true[inside], predicted[inside]
            yield Stratum(kind, name, len(t), bootstrap(MAE, t, p), bootstrap(RMSE, t, p), float((p - t).mean()))


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"


def _with_interval(interval: Interval) -> str:
    if math.isnan(interval.low):
        return _shown(interval.value)
    return f"{_shown(interval.value)} [{_shown(interval.low)}, {_shown(interval.high)}]"
