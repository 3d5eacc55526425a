"""What the authors' own numbers say of a claim: printed tables, printed confusion matrices, a committed training log.

Printed numbers are single runs. An accuracy whose confusion matrix was printed has a binomial interval; the two arms'
images cannot be paired, so the interval of a difference is that of independent samples, wider than a paired one. Errors
have no interval: nobody printed the predictions.

Files: ``published.csv``, and below ``evidence/`` ``confusions.csv`` (matrices) and any CSV that is a training log.
"""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product

import numpy as np
from scipy import stats

from recount.judging import published_log
from recount.judging.claims import Part, difference_region, region_of
from recount.judging.countclip_evidence import NUMBERS, Panel, read_panels
from recount.judging.verdicts import Finding
from recount.metrics import ALL, RECALLS
from recount.results.published import PublishedRow, read_published
from recount.results.reason import Missing, Reason
from recount.scoring.statistics import CONFIDENCE
from recount.settings.paper import TRIVIAL_ARMS, Claim, Paper, Table

COMPARED = ("difference", "ratio")
COUNTED = {"log_own_run": "rows", "log_same_rate": "epochs", "log_constant_rate": "epochs"}  # the others compare MAE


class PrintedClaims:
    """The evidence for one paper's claims that its authors published."""

    def __init__(self, paper: Paper) -> None:
        self.folder, self.paper = paper.folder, paper

    def selections(self, claim: Claim) -> list[str]:
        """Return the selections for which a claim can be held against printed numbers; "" for logs and the like."""
        if claim.audits:
            return [""]
        if claim.test not in COMPARED:
            return []
        arms = (*claim.arm, *claim.against)
        return list(dict.fromkeys(table.weights for arm in arms for _, table, _ in self._rows(arm)))

    def parts(self, claim: Claim, selection: str) -> list[Part]:
        """Return the parts of a claim from printed numbers."""
        if claim.test in ("annotation", "figures"):
            found = list(self._of_annotation(claim) if claim.test == "annotation" else self._of_figures(claim))
            return found or [Part("nothing", missing=Reason("no counterpart", "it stands in no file of evidence"))]
        compare = self._logged if claim.audits else self._compared
        benchmarks = [" + ".join(claim.on)] if claim.audits else claim.on
        found = []
        for better, worse in claim.pairs or (("", ""),):
            name = f"{better} | {worse}" if worse else better or "best run"
            for benchmark in benchmarks:
                metric = "mae" if claim.audits else claim.metric
                part = Part(name, benchmark, "", metric, better, worse)
                try:
                    found.append(compare(claim, part, selection))
                except Missing as missing:
                    found.append(replace(part, missing=missing.reason))
        return found

    @cached_property
    def _lines(self) -> list[PublishedRow]:
        return read_published(self.folder)

    @cached_property
    def _trivial(self) -> list[dict[str, str]]:
        path = self.folder / "evidence" / "trivial_on_real_annotation.csv"
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    def _rows(self, arm: str) -> list[tuple[str, Table, str]]:
        """Return (table, its description, id of the row in published.csv) of an arm's rows."""
        tables = self.paper.tables.items()
        return [(key, table, row.key) for key, table in tables for row in table.rows if arm in (row.run, row.id)]

    def value(self, arm: str, benchmark: str, metric: str, selection: str) -> float:
        """Return a printed number; of constants, what they score on the real annotations; else ``Missing``."""
        if arm in TRIVIAL_ARMS:
            return self._trivial_value(arm, benchmark, metric)
        for key, table, row in self._rows(arm):
            wanted = (key, row, benchmark, metric)
            for line in self._lines if table.weights == selection else ():
                if (line.table, line.row, line.benchmark, line.metric) == wanted:
                    return float(line.value)
        raise Missing("no counterpart", f"the {metric} of {arm} on {benchmark} was not printed")

    def _trivial_value(self, arm: str, benchmark: str, metric: str) -> float:
        names = (arm, f"{arm}_{metric}")
        for line in self._trivial:
            where = (f"{line['dataset']}/{line['split']}", line["metric"])
            if where == (benchmark, metric) and line["predictor"] in names:
                return float(line["value"])
        raise Missing("no counterpart", f"what {arm} scores on {benchmark} is not among the evidence")

    def _compared(self, claim: Claim, part: Part, selection: str) -> Part:
        panels = [self._panel(arm, part.benchmark, selection) for arm in (part.better, part.worse)]
        if panels[0] is not None and panels[1] is not None and claim.metric in ("accuracy", *RECALLS):
            return _of_panels(claim, part, panels[0], panels[1])
        better, worse = (self.value(arm, part.benchmark, claim.metric, selection) for arm in (part.better, part.worse))
        if claim.test == "ratio":
            effect, region = better / worse, region_of(claim)
        else:
            high_is_good = ALL[claim.metric].better == "high"
            effect, region = (better - worse if high_is_good else worse - better), difference_region(claim)
        finding = Finding(effect, region=region, grade="printed", rule="the printed numbers, as they are")
        return replace(part, value_better=better, value_worse=worse, finding=finding)

    @cached_property
    def _panels(self) -> list[Panel]:
        path = self.folder / "evidence" / "confusions.csv"
        return read_panels(path) if path.is_file() else []

    def _panel(self, arm: str, benchmark: str, selection: str) -> Panel | None:
        """Return the matrix whose accuracy is the printed one of an arm: the paper exchanged two of them."""
        try:
            printed = self.value(arm, benchmark, "accuracy", selection)
        except Missing:
            return None
        _, _, variant = arm.partition("/")
        return next((panel for panel in self._panels if panel.variant == variant and panel.fits(printed)), None)

    def _of_annotation(self, claim: Claim) -> Iterator[Part]:
        """Yield a part for each split whose annotation was counted, with its interval over pictures."""
        path = self.folder / "evidence" / "annotation.csv"
        rows = list(csv.DictReader(path.open(encoding="utf-8", newline=""))) if path.is_file() else []
        for bound, row in product(claim.bounds, rows):
            if row["metric"] == bound.metric:
                value, n, where = float(row["value"]), int(row["n"]), f"{row['dataset']}/{row['split']}"
                rule = f"Wilson's 95 % interval, from the annotation of {where}"
                interval = float(row["ci_low"]), float(row["ci_high"])
                finding = Finding(value, region_of(bound), "printed", n=n, interval=interval, rule=rule)
                yield Part(where, where, "", bound.metric, value_better=value, finding=finding)

    def _of_figures(self, claim: Claim) -> Iterator[Part]:
        """Yield a part for each printed picture with a true count and a prediction of both arms."""
        pictures: dict[tuple[str, str], dict[str, float]] = {}
        for line in self._lines:
            if line.metric in ("true_count", "predicted_count"):
                pictures.setdefault((line.table, line.note), {})[line.system] = float(line.value)
        for (table, note), (better, worse) in product(pictures, claim.pairs):
            printed, systems = pictures[table, note], [arm.partition("/")[0] for arm in (better, worse)]
            if {"truth", *systems} <= printed.keys():
                first, second = (abs(printed[system] - printed["truth"]) for system in systems)
                said = f"{printed[systems[0]]:g} against {printed[systems[1]]:g} of {printed['truth']:g}"
                rule = "the printed prediction that is nearer to the printed truth"
                finding = Finding(second - first, grade="printed", rule=rule, notes=(said,))
                part = Part(f"{table}: {note.partition(';')[0]}", "", "", "mae", better, worse, first, second)
                yield replace(part, finding=finding)

    @cached_property
    def _runs(self) -> list[published_log.LoggedRun]:
        for path in sorted((self.folder / "evidence").glob("*.csv")):
            with path.open(encoding="utf-8", newline="") as stream:
                if set(published_log.COLUMNS) <= set(next(csv.reader(stream), [])):
                    return published_log.logged_runs(published_log.read_log(path))
        raise Missing("no counterpart", "no training log of this paper is public")

    def _logged(self, claim: Claim, part: Part, _: str) -> Part:
        tests: dict[str, Callable[[str, str], Finding]] = {
            "log_holds": lambda arm, _: self._holds(arm),
            "log_at_end": lambda arm, _: self._at_end(arm),
            "log_own_run": lambda arm, _: self._own_run(arm, claim.arm),
            "log_same_rate": self._same_rate,
            "log_constant_rate": lambda arm, _: self._constant_rate(arm),
            "log_settled": lambda *_: self._settled(),
        }
        finding = tests[claim.test](part.better, part.worse)
        return replace(part, metric=COUNTED.get(claim.test, "mae"), finding=finding)

    def _printed_row(self, arm: str) -> tuple[float, float, int | None]:
        """Return MAE, RMSE and the stated number of epochs of the first table that prints both for an arm."""
        for key, table, row in self._rows(arm):
            lines = [line for line in self._lines if (line.table, line.row) == (key, row)]
            printed = {line.metric: float(line.value) for line in lines if line.metric in ("mae", "rmse")}
            if len(printed) == 2:
                system, _, variant = arm.partition("/")
                label = next(r.label for r in table.rows if (r.system, r.variant or "") == (system, variant))
                return printed["mae"], printed["rmse"], published_log.stated_epochs(label)
        raise Missing("no counterpart", f"no table prints MAE and RMSE of {arm}")

    def _found(self, arm: str) -> published_log.Found:
        mae, rmse, horizon = self._printed_row(arm)
        found = published_log.find_pair(self._runs, mae, rmse, horizon)
        if found is None:
            raise Missing("no counterpart", f"{mae:g} / {rmse:g} of {arm} stand nowhere in the log")
        return found

    def _holds(self, arm: str) -> Finding:
        mae, rmse, horizon = self._printed_row(arm)
        found = published_log.find_pair(self._runs, mae, rmse, horizon)
        rule = "MAE and RMSE stand together in the log, to the printed digits"
        if found is not None:
            return _exact(
                0.0, published_log.PRINTED_SCORE, rule, f"{mae:g} / {rmse:g} are line {found.line}, epoch {found.epoch}"
            )
        every = np.concatenate([run.evaluations["mae"].to_numpy(dtype=float) for run in self._runs])
        logged = float(every[np.abs(every - mae).argmin()])
        note = f"{mae:g} / {rmse:g} stand nowhere together; the nearest logged MAE is {logged:g}"
        return _exact(max(abs(logged - mae), 2 * published_log.PRINTED_SCORE), published_log.PRINTED_SCORE, rule, note)

    def _at_end(self, arm: str) -> Finding:
        mae, _, horizon = self._printed_row(arm)
        found = self._found(arm)
        if found.at_horizon is None:
            raise Missing("no counterpart", f"{arm}: the log has no evaluation at epoch {horizon}")
        at_end = found.at_horizon[0]
        note = (
            f"printed {mae:g} is epoch {found.epoch}, the best on the test images up to {horizon}; at epoch {horizon} "
            f"the log has {at_end:g}"
        )
        rule = "the printed MAE is that at the stated number of epochs, to the printed digits"
        return _exact(abs(at_end - mae), published_log.PRINTED_SCORE, rule, note)

    def _own_run(self, arm: str, arms: Sequence[str]) -> Finding:
        run = self._found(arm).run
        others = [other for other in arms if other != arm and self._found(other).run.number == run.number]
        note = f"read off the run of lines {run.lines[0]} to {run.lines[1]}"
        note += f", as {', '.join(others)}" if others else ""
        return _exact(len(others), 0.5, "no other of these rows is read off its run", note)

    def _same_rate(self, better: str, worse: str) -> Finding:
        first, second = self._found(better), self._found(worse)
        differing, of = published_log.different_rates(first.run, second.run, first.horizon)
        note = f"the learning rates differ after {differing} of {of} epochs up to {first.horizon}"
        return _exact(differing, 0.5, "the two runs' printed learning rates are equal", note)

    def _constant_rate(self, arm: str) -> Finding:
        run = self._found(arm).run
        low, high = float(run.rates["rate"].min()), float(run.rates["rate"].max())
        note = f"its run (lines {run.lines[0]} to {run.lines[1]}) has rates from {low:g} to {high:g}"
        return _exact(published_log.rate_changes(run), 0.5, "the printed learning rate does not change", note)

    def _settled(self) -> Finding:
        run = published_log.best_run(self._runs)
        late = published_log.late_evaluations(run, int(run.epochs * published_log.LATE_SHARE))
        drift = abs(late.mae_slope) * (run.epochs - late.first_epoch)
        note = (
            f"{late.n} evaluations from epoch {late.first_epoch}: MAE {late.mae_min:g} to {late.mae_max:g}, standard "
            f"deviation {late.mae_sd:.3g}; their line changes by {drift:.3g}"
        )
        return _exact(drift / late.mae_sd, 1.0, "drift over the last sixth below one standard deviation", note)


def _exact(effect: float, below: float, rule: str, note: str) -> Finding:
    return Finding(float(effect), region=(-math.inf, below), grade="exact", rule=rule, notes=(note,))


def _of_panels(claim: Claim, part: Part, better: Panel, worse: Panel) -> Part:
    low, high = RECALLS.get(claim.metric, (NUMBERS[0], NUMBERS[-1]))
    numbers = range(low, high + 1)
    (a, n), (b, m) = (panel.hits(numbers) for panel in (better, worse))
    first, second = a / n, b / m
    error = math.sqrt(first * (1 - first) / n + second * (1 - second) / m)
    half = float(stats.norm.ppf(1 - (1 - CONFIDENCE) / 2)) * error
    difference = first - second
    finding = Finding(
        difference,
        difference_region(claim),
        grade="printed",
        interval=(difference - half, difference + half),
        n=n,
        rule="95 % interval of two independent shares from the printed confusion matrices",
        notes=(f"{a} against {b} of {n} images right",),
    )
    return replace(part, value_better=first, value_worse=second, finding=finding)
