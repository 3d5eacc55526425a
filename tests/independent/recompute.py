"""Cells and verdicts a second time, from the files alone: numpy and the standard library, nothing of recount.

Takes from scores.csv and verdicts.csv only what was asked, and prints what differs. Arguments: results/<suite>
[same.json], from a run to the one whose predictions it has. Not covered: times, facts, printed opponents, best of N.
"""

# fmt: off
import csv
import json
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np

LEVELS = (0.05, 0.027, 0.0195, 0.015, 0.0127, 0.0112, 0.0101, 0.0091)
RECALLS = {"recall_2_to_6": (2, 6), "recall_7_to_10": (7, 10)}
ERRORS, SHARES = ("mae", "rmse", "nae", "sre", "mean_absolute_deviation", "bias"), ("accuracy", *RECALLS)
TRIVIAL = ("zero", "one", "training_mean", "training_median", "best_constant", "prompt_blind")
KEPT = {"picture_over_caption": ("picture", "caption"), "objects_over_background": ("objects", "background")}
PROMPTED = ("pccn", "nmn", "similarity_gain", *(f"{b}attention_{w}" for b in ("", "base_") for w in ("reached", "auc")))
INF, NAN, FIXED = math.inf, math.nan, (0.0, math.inf)  # FIXED: no variance over seeds, where nothing is random
NODES, WEIGHTS = np.polynomial.legendre.leggauss(600)
def beta_inc(a, b, x):  # regularised incomplete beta function: x = sin² of an angle, by Gauss and Legendre
    angle = math.asin(math.sqrt(min(max(x, 1e-300), 1)))
    logs = (2 * a - 1) * np.log(np.sin(angle * (NODES + 1) / 2)) + (2 * b - 1) * np.log(np.cos(angle * (NODES + 1) / 2))
    return float(angle * WEIGHTS @ np.exp(logs + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)))
def t_tail(t, df):  # two-sided p of Student's t
    return math.erfc(abs(t) / math.sqrt(2)) if df > 1e8 else beta_inc(df / 2, 0.5, df / (df + t * t))
def t_quantile(level, df):  # the t beyond which ``level`` lies on both sides, by bisection
    low, high = 0.0, 1e6
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_tail(middle, df) > level else (low, middle)
    return low
def within(metric, true):  # the images that it is about
    return (true >= RECALLS.get(metric, (-INF,))[0]) & (true <= RECALLS.get(metric, (INF,))[-1])
def score(metric, true, predicted):  # a metric of one run
    error = (predicted - true)[within(metric, true)]
    if metric in (*SHARES, "bias"):
        return (error == 0).mean() if metric in SHARES else abs(error.mean())
    root, below = metric in ("rmse", "sre"), np.maximum(true, 1) if metric in ("nae", "sre") else 1
    return math.sqrt((error**2 / below).mean()) if root else (np.abs(error) / below).mean()
def scaled(metric, levels, n):  # on the scale on which seeds scatter, and the derivative of the mean by it
    mean, clipped = float(np.mean(levels)), np.clip(levels, 0.5 / n, 1 - 0.5 / n)
    if metric in SHARES:
        return np.log(clipped / (1 - clipped)), mean * (1 - mean)
    return (np.log(levels), mean) if np.all(np.asarray(levels) > 0) else (np.full(len(levels), np.log(0.5 / n)), 0.0)
def leave_one_out(metric, true, table):  # metric of each seed, of each without each image, and images it is about
    true, table = true[within(metric, true)], table[:, within(metric, true)]
    keep = ~np.eye(len(true), dtype=bool) if len(true) > 1 else []
    without = [[score(metric, true[mask], row[mask]) for mask in keep] or [NAN] for row in table]
    return np.array([score(metric, true, row) for row in table]), np.array(without), len(true)
def jackknife(left):  # variance and third moment over images from a statistic with each of n left out
    n, apart = len(left), left - left.mean()
    return ((n - 1) / n * (apart**2).sum(), -(((n - 1) / n) ** 3) * (apart**3).sum()) if n > 1 else (NAN, 0.0)
def own_variance(arms, weights=(1, 1)):  # variance over seeds of several arms' values, and its degrees of freedom
    every = [(w, len(v), float(np.var(v, ddof=1))) for v, w in zip(arms, weights, strict=False) if len(v) > 1]
    w, k, s2 = np.array(every or [(1, 2, 0)], dtype=float).T
    df, parts = float((k - 1).sum()) if every else 0, w * w / k * s2
    welch = parts.sum() ** 2 / (parts**2 / (k - 1)).sum() if parts.any() else INF
    return max(float(s2 @ (k - 1)) / max(df, 1), float(parts.sum() / ((w * w / k).sum() or 1))), min(df, float(welch))
def anew(left, weight):  # what each run draws anew of the variance over images, of the mean of an arm's runs
    (k, n), apart = left.shape, left - left.mean(axis=1, keepdims=True)
    return weight**2 * (n - 1) / n * apart.var(axis=0, ddof=1).sum() / k if k > 1 and n > 1 else 0.0
def decided(effect, region, arms, weights, spread, images, n, looks, leans=False, twice=0.0):
    (s2, nu), (images, third) = spread if spread[1] else (0.01, INF), images  # assumed: 10 %
    seed = s2 * sum(w * w / len(values) for values, w in zip(arms, weights, strict=True)) if arms else 0.0
    seed, images = max(seed, twice), images if math.isnan(images) else max(images - twice, 0.0)
    total, below = seed + images, (seed**2 / nu if seed else 0) + (images**2 / (n - 1) if images and n > 1 else 0)
    df, distance = total**2 / below if below else INF, min(effect - region[0], region[1] - effect)
    t = abs(distance) / math.sqrt(total) if total else NAN  # less where the images are skewed away from the effect
    g = 2.5 * third / total**1.5 * (1 if (distance > 0) == (distance == effect - region[0]) else -1) if total else 0.0
    t = max(0, min(t, t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6)) if g < 0 else t
    p = NAN if math.isnan(total) else t_tail(t, df) if total else float(distance == 0)
    may = not leans and ((fewest := min(map(len, arms), default=3)) >= 3 or (fewest == 2 and nu >= 6))
    level = (LEVELS[looks - 1] if looks else LEVELS[2]) if arms else 0.05
    side = ("holds", "leans for") if distance > 0 else ("does not hold", "leans against")
    said = side[0] if may and p <= level else side[1] if not may and p <= 0.1 else "undecided"
    return {"effect": effect, "p_value": p, "df": df, "seed_variance": seed, "image_variance": images, "decided": said}
class Files:  # what lies below results/<suite>, and the prepared indexes beside it
    def __init__(self, results, same):
        self.results, self.same, self.data = Path(results), same, Path(results).parents[1] / "resources/data"
        self.predicted, self.record, self.index = cache(self._predicted), cache(self._record), cache(self._index)
    def _record(self, arm):
        paths = sorted((self.results / "runs" / self.same.get(arm, arm)).glob("seed*/run.json"))
        return json.loads(paths[0].read_text()) if paths else {}
    def fixed(self, arm):  # whether nothing random is behind an arm's predictions
        record = self.record(arm)
        return not record.get("settings", {}).get("train", True) or record.get("status") == "checkpoint"
    def _predicted(self, arm, place, selection):  # seed -> (ids, true, predicted)
        found, wanted = {}, "last" if self.fixed(arm) else selection
        for path in (self.results / "predictions" / place / self.same.get(arm, arm)).glob("seed*.csv"):
            rows = [row for row in rows_of(path) if row["selection"] == wanted]
            numbers = [np.array([float(row[name]) for row in rows]) for name in ("true_count", "predicted_count")]
            found |= {int(path.stem[4:]): ([row["id"] for row in rows], *numbers)} if rows else {}
        return dict(sorted(found.items())[: 1 if self.fixed(arm) else None])
    def _index(self, dataset, preparation, split):
        return [r for r in rows_of(self.data / dataset / preparation / "index.csv") if r["split"] in split.split("+")]
    def constant(self, arm, other, place, ids, true):  # what a predictor that sees no picture says, beside another arm
        if arm == "prompt_blind":
            dataset, split = place.split("/")
            preparation = next(p.name for p in (self.data / dataset).iterdir() if (p / "index.csv").is_file())
            rows = {row["id"]: json.loads(row["attributes"]) for row in self.index(dataset, preparation, split)}
            return np.array([float(rows[name]["majority_count"]) for name in ids])
        if arm in ("zero", "one", "best_constant"):
            return np.full(len(ids), np.median(true) if arm == "best_constant" else float(arm == "one"))
        where = map(self.record(other)["run"]["training"].get, ("dataset", "preparation", "split"))
        counts = [float(r["count"]) for r in self.index(*where) if r["count"] not in ("", "nan")]
        of = {"training_mean": np.mean, "mode": lambda c: max(sorted(set(c)), key=c.count)}.get(arm, np.median)
        return np.full(len(ids), of(counts))
    def unprepared(self, arm, place, ids):  # true counts before preparation
        beside = next((self.results / "predictions" / place / self.same.get(arm, arm)).glob("seed*.timing.json"))
        dataset, preparation = next(iter(json.loads(beside.read_text())["made"]["data"])).split("/")
        rows = self.index(dataset, preparation, place.split("/")[1])
        counts = {r["id"]: json.loads(r["attributes"] or "{}").get("original_count", r["count"]) for r in rows}
        return np.array([float(counts[name]) for name in ids])
    def pair(self, one, other, place, selection):  # true counts and predictions [seeds, n] on the images of both
        arms = {name: self.predicted(name, place, selection) for name in (one, other) if name and name not in TRIVIAL}
        every = [entry for found in arms.values() for entry in found.values()]
        ids = [name for name in every[0][0] if all(name in set(entry[0]) for entry in every)]
        truths, tables = [dict(zip(entry[0], entry[1], strict=True)) for entry in every], []
        true = np.array([truths[0][name] for name in ids])
        unlike = any(own[name] != truths[0][name] for own in truths for name in ids)  # of preparations
        true = self.unprepared(one if one in arms else other, place, ids) if unlike else true
        for name in filter(None, (one, other)):
            rows = [list(map(dict(zip(e[0], e[2], strict=True)).get, ids)) for e in arms.get(name, {}).values()]
            tables.append(np.array(rows) if rows else self.constant(name, one, place, ids, true)[None])
        return true, tables
class Judge:  # the rules once more
    def __init__(self, files):
        self.files, self.scatter = files, cache(self._scatter)
    def _scatter(self, system, where):  # variant -> variance and degrees of freedom over seeds
        (place, metric, selection), found = where, {}
        for folder in sorted((self.files.results / "predictions" / place / system).glob("*")):
            arm = f"{system}/{folder.name}"
            if not self.files.fixed(arm) and len(self.files.predicted(arm, place, selection)) > 1:
                true, (table,) = self.files.pair(arm, "", place, selection)
                levels = [score(metric, true, row) for row in table]
                found[arm] = own_variance([scaled(metric, levels, leave_one_out(metric, true, table[:1])[2])[0]])
        return found
    def variance(self, names, arms, weights, where, drawn=0.0, m=0):  # s² and its degrees of freedom; m: images less 1
        (own, df), mine = own_variance(arms, weights), {self.files.same.get(name, name) for name in names}
        drawn /= sum(w * w / len(values) for w, values in zip(weights, arms, strict=False)) or INF
        if drawn and min(map(len, arms)) > 2 and beta_inc(m / 2, df / 2, m / (m + df * own / drawn)) > 0.4:
            own, df = (df * own + m * drawn) / (df + m), df + m
        every = [self.scatter(system, where) for system in {name.split("/")[0] for name in names}]
        others = [v for found in every for arm, v in found.items() if arm not in mine]
        more = sum(entry[1] for entry in others)
        pool = sum(a * b for a, b in others) / more if more else 0.0
        joins = df and more and beta_inc(more / 2, df / 2, more / (more + df * (own / pool if pool else INF))) > 0.5
        if df or more:
            return ((df * own + more * pool) / (df + more), df + more) if joins else (own, df) if df else (pool, more)
        folders = (self.files.results / "predictions" / where[0]).glob("*")
        return max((v for folder in folders for v in self.scatter(folder.name, where).values()), default=(0.01, INF))
    def part(self, row):  # recompute a row of one part: what must agree; None where it is not covered
        metric, where = row["metric"], (row["dataset"], row["metric"], row["selection"])
        region, looks = (float(row["claimed_from"]), float(row["claimed_to"])), int(row["looks"] or 0)
        if " + " in row["dataset"] or metric in (*PROMPTED, *KEPT):
            return (self.drop if " + " in row["dataset"] else self.prompted)(row, region, looks)
        quoted = row["worse"] and "/" not in row["worse"] and row["worse"] not in TRIVIAL
        if metric not in (*ERRORS, *SHARES, "nearer_to_majority", "mode_among_wrong") or quoted:
            return None
        majority = "prompt_blind" if metric == "nearer_to_majority" else row["worse"]
        true, tables = self.files.pair(row["better"], majority, row["dataset"], row["selection"])
        sides = list(filter(None, (row["better"], row["worse"])))
        names = [name for name in sides if "/" in name and not self.files.fixed(name)]
        if metric == "nearer_to_majority":
            nearer = np.abs(tables[0] - tables[1][0]) < np.abs(tables[0] - true)
            return self.sums(nearer * 1.0, np.ones(nearer.shape), 1.0, region, names, looks)
        if metric == "mode_among_wrong":
            mode = self.files.constant("mode", row["better"], "", true, true)
            wrong = ((tables[0] != true) & (true != mode)) * 1.0
            tops, some = wrong * (tables[0] == mode), wrong.any(axis=0)
            return self.sums(tops[:, some], wrong[:, some], 1.0, region, names, looks)
        every = [leave_one_out(metric, true, table) for table in tables]
        means, n = [float(levels.mean()) for levels, _, _ in every], every[0][2]
        log = any(f"{metric} {of}over" in row["claim_rule"] for of in ("", "of each "))
        of_seeds = [scaled(metric, e[0], n) for e, name in zip(every, sides, strict=True) if name in names]
        arms, slopes = [values for values, _ in of_seeds], [1.0 if log else slope for _, slope in of_seeds]
        twice = sum(anew(e[1], 1 / m if log else 1) for e, m, s in zip(every, means, sides, strict=False) if s in names)
        spread = self.variance(names, arms, slopes, where, twice * (len(sides) > 1), n - 1) if names else FIXED
        if len(sides) == 1:
            least = 1 / (12 * max(n * slopes[0], 0.5 * (1 - 0.5 / n)) ** 2) if metric in SHARES else 0.0
            return self.number(row, arms[0], (max(spread[0], least), spread[1]), means[0], looks, metric in SHARES)
        left, share = [without.mean(axis=0) for _, without, _ in every], metric in SHARES
        if log:
            ends = [math.log(end) if 0 < end < INF else math.copysign(INF, end or -1) for end in region]
            images = jackknife(np.log(left[0] / left[1]))
            found = decided(math.log(means[0] / means[1]), ends, arms, slopes, spread, images, n, looks, twice=twice)
            return found | {"effect": math.exp(found["effect"]), "value_better": means[0]}
        effect, apart = ((1 if share else -1) * (x[0] - x[1]) for x in (means, left))
        (images, third), d = jackknife(apart), n * effect - (n - 1) * apart
        images = max(images, (d @ d + 1 - d.sum() ** 2 / (n + 2)) / (n + 2) ** 2) if share and n > 1 else images
        unfair = row["reason"].startswith("the epoch of ")  # chosen on test against an arm that was not
        found = decided(effect, region, arms, slopes, spread, (images, third), n, looks, unfair, twice)
        return found | {"value_better": means[0], "value_worse": means[1]}
    def sums(self, tops, bottoms, yes, region, names, looks):  # a ratio of sums; a share, where a yes adds ``yes``
        n, each, m = tops.shape[1], tops.sum(axis=1) / bottoms.sum(axis=1), float(bottoms.sum(axis=1).mean())
        left = (tops.sum(axis=1)[:, None] - tops) / (bottoms.sum(axis=1)[:, None] - bottoms)
        (images, third), effect = jackknife(left.mean(axis=0)), float(each.mean())
        images = max([images, *(end * (yes - end) / m for end in region if yes and math.isfinite(end))]), third
        if yes and not names:  # Wilson's interval
            share, z, (a, b), m = effect / yes, 1.959963984540054, region, round(m)
            half = z * math.sqrt(share * (1 - share) / m + z * z / 4 / m / m)
            low, high = (yes * (share + z * z / 2 / m + side * half) / (1 + z * z / m) for side in (-1, 1))
            said = "holds" if a < low <= high < b else "undecided" if a <= high and low <= b else "does not hold"
            return {"effect": effect, "ci_low": low, "ci_high": high, "decided": said}
        shares, size = np.clip(each / (yes or 1), 0.5 / m, 1 - 0.5 / m), abs(effect) or 1.0
        values = np.log(shares / (1 - shares)) if yes else each / size
        weight = float(shares.mean() * (1 - shares.mean())) * yes if yes else size
        arms, spread = ([values], own_variance([values])) if names else ([], FIXED)
        return decided(effect, region, arms, [weight] * len(arms), spread, images, n, looks)
    def prompted(self, row, region, looks):  # a quantity of the prompt tests, picture by picture
        metric, arm, place = row["metric"], row["better"], row["benchmark"].split(" + ")[0]
        base = metric.startswith("base_")
        paths = sorted((self.files.results / "prompt_tests" / place / self.files.same.get(arm, arm)).glob("seed*.json"))
        tests = [t for t in (json.loads(path.read_text()) for path in paths) if t["selection"] == row["selection"]]
        names, key = [] if base or self.files.fixed(arm) else [arm], row["part"].partition(" (")[2].rstrip(")")
        def pair(p):
            if metric in ("pccn", "nmn"):
                near = 100.0 * (abs(round(p["right"], 2) - p["true"]) < abs(p["wrong"] - p["true"]))
                return near if metric == "pccn" else p["wrong"] / p["true"], 1.0
            if metric.endswith("reached"):
                return p["reached"], p["points"]
            ends = [None if p[name] is None else float(p[name] == p["own"]) for name in KEPT.get(metric, ())]
            ends = ends or ([p["auc"]["S2"], p["auc"][key]] if key else [p["auc"]["attention"], 0.0])
            return (None if None in ends else ends[0] - ends[1]), 1.0
        kind = "negative_prompts" if metric in ("pccn", "nmn") else "maps_before_training" if base else "maps"
        kind, tests = "counterfactuals" if metric in KEPT else kind, tests[: None if names else 1]
        values = [{p["id"]: pair(p) for p in test["benchmarks"][place][kind]["pictures"]} for test in tests]
        ids = [name for name in values[0] if all(v.get(name, (None,))[0] is not None for v in values)]
        table = np.array([[v[name] for name in ids] for v in values], dtype=float)
        return self.sums(table[..., 0], table[..., 1], 100.0 * (metric == "pccn"), region, names, looks)
    def drop(self, row, region, looks):
        pairs = [self.files.pair(*row["part"].split(" | "), p, row["selection"]) for p in row["dataset"].split(" + ")]
        every = [[leave_one_out(row["metric"], true, table) for table in tables] for true, tables in pairs]
        one, two = (a[0].mean() / b[0].mean() for a, b in every)
        left = [a[1].mean(axis=0) / b[1].mean(axis=0) for a, b in every]
        arms = [one * np.log(every[0][k][0]) - two * np.log(every[1][k][0]) for k in (0, 1)]
        n, spread, ((v, third), (other, less)) = min(map(len, left)), own_variance(arms), map(jackknife, left)
        return decided(one - two, region, arms, [1, 1], spread, (v + other, third - less), n, looks)
    def number(self, row, values, spread, mean, looks, share):  # a printed number: one more run on the same images
        (s2, nu), printed, k = spread, float(row["published"]), len(values)
        far = printed + (-1 if share else 1) * abs(float(row["claimed_from" if share else "claimed_to"]))
        limit, at = (math.log((1 - x) / x) if share else math.log(x) for x in (far, printed))
        middle, level = float(np.mean(values)) * (-1 if share else 1), LEVELS[looks - 1] if looks else LEVELS[2]
        error, one, two = math.sqrt(s2 / k), t_quantile(2 * level, nu), t_quantile(level, nu)
        wide, reached = error * math.sqrt(k + 1), middle + one * error <= limit
        missed = middle - one * error > limit and abs(at - middle) > two * wide
        against = "leans against" if middle - t_quantile(0.1, nu) * wide > limit else "undecided"
        said = ("holds", "leans for") if reached else ("does not hold" if missed else "undecided", against)
        said = said[0] if k > 2 or (k == 2 and nu >= 6) else said[1]
        return {"value_better": mean, "effect": mean - printed} | ({} if "best" in row["rule"] else {"decided": said})
def together(parts):  # the decision on a claim from the rows of its parts, after Holm against it
    tested = [row for row in parts if row["decided"] != "not tested"]
    against = [float(r["p_value"] or 0) if r["direction"] == "against" else 1.0 for r in tested]
    corrected, running = [0.0] * len(against), 0.0
    for step, k in enumerate(sorted(range(len(against)), key=against.__getitem__)):
        corrected[k] = running = max(running, min(1.0, against[k] * (len(against) - step)))
    said = [(row["decided"], p, float(row["level"] or 0.05)) for row, p in zip(tested, corrected, strict=True)]
    if any(word in ("does not hold", "leans against") and p <= 0.1 for word, p, _ in said):
        return "does not hold" if any(w == "does not hold" and p <= level for w, p, level in said) else "leans against"
    words = {word for word, _, _ in said}
    whole = "holds" if words == {"holds"} else "leans for" if words <= {"holds", "leans for"} else "undecided"
    return "not tested" if not tested else "undecided" if len(tested) < len(parts) else whole
def differs(row, found):  # yield what of a row is not what was recomputed
    for name, value in found.items():
        told = row[name] if isinstance(value, str) else float(row[name] or "nan")
        close = not isinstance(value, str) and (value != value or abs(told - value) <= 1e-6 * max(1, abs(value)))
        if told != value and not close:
            yield f"{name}: {told} in the file, {value} recomputed"
rows_of = lambda path: list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(keepends=True)))  # noqa: E731
def recompute(results, same):
    files, counted = Files(results, same), dict.fromkeys(("cells", "parts", "claims", "not covered"), 0)
    judge, wrong, claims = Judge(files), [], {}
    for row in rows_of(files.results / "scores.csv"):
        if row["status"] in ("trained", "checkpoint") and row["metric"] in (*ERRORS, "accuracy"):
            arm = f"{row['system']}/{row['variant']}"
            seeds = files.predicted(arm, row["dataset"], row["selection"]).items()
            levels = [score(row["metric"], *rest[1:]) for s, rest in seeds if row["seed"] in ("all", str(s))]
            sd = {"sd": float(np.std(levels, ddof=1))} if row["seed"] == "all" and len(levels) > 1 else {}
            wrong += [f"cell {arm}: {line}" for line in differs(row, {"value": float(np.mean(levels)), **sd})]
            counted["cells"] += 1
    for row in (row for row in rows_of(files.results / "verdicts.csv") if row["evidence_status"] != "published"):
        claims.setdefault(tuple(map(row.get, ("paper", "claim", "evidence_status", "selection"))), []).append(row)
    for key, (whole, *parts) in claims.items():
        for row in (row for row in parts if row["decided"] != "not tested"):
            found = judge.part(row)
            counted["parts" if found else "not covered"] += 1
            wrong += [f"{' '.join(key)}, {row['part']}: {line}" for line in differs(row, found or {})]
        said = together(parts) if len(parts) > 1 else parts[0]["decided"]
        if "released models alone" not in whole["reason"]:
            wrong += [f"{' '.join(key)}: {line}" for line in differs(whole, {"decided": said})]
            counted["claims"] += 1
    return wrong, counted
if __name__ == "__main__":
    lines, numbers = recompute(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()) if len(sys.argv) > 2 else {})
    print("\n".join([*lines, ", ".join(f"{number} {what}" for what, number in numbers.items())]))
    sys.exit(bool(lines))
