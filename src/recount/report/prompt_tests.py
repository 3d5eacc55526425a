"""Exhibits of any paper with text-guided runs: does a system read its prompt, and where do its maps lie?

Everything comes from the files of ``recount test-prompts``: scores by benchmark (``prompt_tests/…json``) and maps of a
few pictures that were asked for their majority and for their minority (``…npz``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recount.metrics import MEAN
from recount.report.exhibits import Cell, Context, Exhibit, Line, Sheet, Variant
from recount.report.gallery import Card, Gallery, Group, Photo, answer, data_uri, map_png, photo_of, scale_of
from recount.report.numbers import count, percent, present
from recount.report.panels import row_axes, shortened
from recount.report.sources import Sources
from recount.report.style import BEHIND, INK, MUTED, SERIES
from recount.report.tables import SELECTIONS
from recount.results.prompt_tests import BenchmarkTests, Maps, NegativePrompts, NotTested, PairPicture, PromptTests
from recount.scoring.statistics import Interval, bootstrap
from recount.settings.project import Run

NOTHING = float("nan")
PROMPTS = ("majority", "minority")
READS_ABOVE, IGNORES_FROM = 0.6, 0.5  # PCCN as a share, NMN: recount's rule for "reads its prompt"
PUBLISHED = "prompt_tests"  # the table of published.csv that has printed scores of the same tests
PHOTO_WIDTH = 320  # pixels
MEANS = ("majority_true", "majority_predicted", "minority_true", "minority_predicted", "absent_predicted")
#: maps of a strip: name -> (label, colours, lowest, highest value; None: of the map itself)
MAPS: Mapping[str, tuple[str, str, tuple[float, float] | None]] = {
    "attention_coarse": ("attention, coarse", "inferno", None),
    "attention_middle": ("attention, middle", "inferno", None),
    "attention_fine": ("attention, fine", "inferno", None),
    "attention": ("attention, fused", "inferno", (0.0, 1.0)),
    "S3": ("similarity S3", "coolwarm", None),
    "S2": ("similarity S2", "coolwarm", None),
}
MAPS_HELP = (
    "AUC of each map as a test for the prompted objects' cells against all others, mean over pictures (0.5 is chance). "
    "Points: the share of annotated points that the fused attention reaches with at least 0.3. Other cells: the share "
    "of the other cells that it reaches as well."
)


@dataclass(frozen=True)
class PromptTested:
    """What the runs of one variant answered: the contents of their files, by seed."""

    variant: Variant
    files: Mapping[int, PromptTests]

    @property
    def benchmarks(self) -> Mapping[str, BenchmarkTests]:
        """Return the tests of the first seed by benchmark."""
        return next(iter(self.files.values())).benchmarks

    def of(self, test: str) -> Iterator[tuple[str, list[Any]]]:
        """Yield each benchmark with a test's results, one per seed; those that were not made are left out."""
        for benchmark in self.benchmarks:
            entries = [getattr(file.benchmarks.get(benchmark), test, None) for file in self.files.values()]
            found = [entry for entry in entries if entry is not None and not isinstance(entry, NotTested)]
            if found:
                yield benchmark, found

    def first(self, test: str) -> list[Any]:
        """Return a test's results, one per seed, on the first benchmark that has them."""
        return next((found for _, found in self.of(test)), [])

    def reasons(self) -> list[str]:
        """Return why tests were not made, as sentences."""
        return [
            f"{self.variant.label}: {benchmark}, {test.replace('_', ' ')}: {entry.not_tested}"
            for benchmark, tests in self.benchmarks.items()
            for test, entry in tests
            if isinstance(entry, NotTested)
        ]


def prompt_tested(sources: Sources, variants: Sequence[Variant]) -> tuple[list[PromptTested], list[str]]:
    """Return what was answered, and the labels of variants that are to be tested and left no file."""
    found, absent = [], []
    for variant in variants:
        runs = [r for r in sources.project.runs if r.prompt_tests and (r.system, r.variant) == variant.key]
        files = {run.seed: file for run in runs if (file := sources.prompt_tests(run)) is not None}
        if files:
            found.append(PromptTested(variant, files))
        elif runs:
            absent.append(variant.label)
    return found, absent


def exhibits(context: Context) -> Iterator[Exhibit]:
    """Yield what the paper's own text-guided systems answered to other prompts."""
    entries, absent = prompt_tested(context.sources, context.variants)
    scores = prompt_scores(entries)
    if len(scores):
        reasons = [reason for entry in entries for reason in entry.reasons()]
        reasons += [f"{label}: no prompt tests were made; logs/ says why" for label in absent]
        yield _prompts(context, entries, scores, [f"Not tested: {reason}" for reason in reasons])
    pictures, strips = prompt_galleries(context.sources, entries, f"{context.name}-asked")
    if pictures:
        yield Exhibit("asked", "One picture, two prompts", galleries=(pictures,))
    maps = map_sheet(context.name, entries)
    if maps.lines:
        yield Exhibit(
            "maps", "Where attention and similarity lie", MAPS_HELP, tables=(maps,),
            galleries=(strips,) if strips else (), short="Where the maps lie",
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ scores


def prompt_scores(entries: Sequence[PromptTested]) -> pd.DataFrame:
    """Return a row for each variant that was tested with other prompts, on its first benchmark of each kind.

    Returns:
        means over seeds, NaN where not tested: ``majority``, ``minority``, ``absent`` (mean counts, with ``…_true``),
        ``nearer`` (share of pictures whose count for the minority is nearer to the majority's true count), ``changed``
        (share whose count changes by more than 1 % from one prompt to the other), PrACo's ``np``, ``nmn`` and ``pccn``
        (a share) with intervals over pictures, and ``f``, ``recall`` and ``precision`` of the mosaics.
    """
    return pd.DataFrame(
        [_scores(entry) for entry in entries if entry.first("pairs") or entry.first("negative_prompts")]
    )


def _scores(entry: PromptTested) -> dict[str, Any]:
    pairs, negative, mosaics = (entry.first(test) for test in ("pairs", "negative_prompts", "mosaics"))
    means = {name.removesuffix("_predicted"): _mean([found.means.get(name) for found in pairs]) for name in MEANS}
    wrong, nearer = _by_picture(negative)
    counts = [found["count"] for found in mosaics]
    return {
        "label": entry.variant.label,
        "seeds": len(entry.files),
        "selection": next(iter(entry.files.values())).selection,
        "pairs": len(pairs[0].pictures) if pairs else 0,
        "pictures": len(negative[0].pictures) if negative else 0,
        **means,
        "nearer": _mean([found.nearer_to_majority for found in pairs]),
        "changed": _mean([found.prompt_swap for found in pairs]),
        "np": _mean([found.np for found in negative]),
        "nmn": _interval(_mean([found.nmn for found in negative]), wrong),
        "pccn": _interval(_mean([found.pccn for found in negative]) / 100, nearer),
        **{name: _mean([getattr(found, name) for found in counts]) for name in ("f", "recall", "precision")},
    }


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(known)) if known else NOTHING


def _by_picture(negative: Sequence[NegativePrompts]) -> tuple[np.ndarray, np.ndarray]:
    """Return per picture, over seeds: wrong prompts' count over the truth, and how often the right one is nearer."""
    if not negative:
        return np.zeros(0), np.zeros(0)
    true, right, wrong = (
        np.array(
            [[getattr(row, name) for row in found.pictures] for found in negative], np.float64
        )  # (seeds, pictures)
        for name in ("true", "right", "wrong")
    )
    nearer = np.abs(right - true) < np.abs(wrong - true)
    return (wrong / true).mean(axis=0), nearer.mean(axis=0)


def _interval(value: float, contributions: np.ndarray) -> Interval:
    if not len(contributions):
        return Interval(value, NOTHING, NOTHING)
    found = bootstrap(MEAN, np.zeros(len(contributions)), contributions)
    return Interval(value, found.low, found.high)


def reads(nmn: float, pccn: float) -> bool | None:
    """Return whether right prompts are told from wrong ones by recount's rule; None: not tested."""
    return None if np.isnan(pccn) or np.isnan(nmn) else pccn > READS_ABOVE and nmn < IGNORES_FROM


def _prompts(context: Context, entries: Sequence[PromptTested], scores: pd.DataFrame, notes: list[str]) -> Exhibit:
    places = {test: "; ".join(_places(entries, test)) for test in ("pairs", "negative_prompts")}
    sentence = ["The same pictures, other prompts."]
    if places["pairs"]:
        sentence.append(
            "Majority and minority are two classes of one picture; absent is a class that the picture is not known to "
            f"show ({places['pairs']})."
        )
    if places["negative_prompts"]:
        sentence.append(
            "NP, NMN and PCCN are PrACo's test with wrong prompts: mean count over truth for the right prompt (ideal "
            "1) and for wrong ones (ideal 0), and the share of pictures whose right prompt comes nearer to the truth. "
            "A system that ignores its prompt has NMN equal to NP. F, recall and precision come from its mosaics: a "
            "picture above, one of another class below, and only the upper class is asked for "
            f"({places['negative_prompts']})."
        )
    selection = scores["selection"].iloc[0]
    sentence.append(f"Weights: {SELECTIONS.get(selection, selection)}. Intervals are 95 % over pictures.")
    caption = (
        "Does it read the prompt? Left: mean count when pictures are asked for their majority, for a minority and for "
        "a class that is not there. Right: PrACo's NP and NMN. Where marks lie on each other, the prompt is ignored."
    )
    sizes = f"{scores['pairs'].iloc[0]} pictures for the pairs, {scores['pictures'].iloc[0]} for the other tests."
    return Exhibit(
        id="prompts",
        title="Does it read the prompt?",
        sentence=" ".join(sentence),
        figures=(context.plot(prompt_figure(scores), "prompts", caption),),
        tables=(prompt_sheet(context.name, scores, context.sources.published[context.name]),),
        findings=tuple(_readers(scores)),
        notes=(sizes, *notes),
    )


def _readers(scores: pd.DataFrame) -> Iterator[tuple[str, str]]:
    found = {row["label"]: reads(row["nmn"].value, row["pccn"].value) for row in scores.to_dict("records")}
    known = [label for label, read in found.items() if read is not None]
    readers = [label for label in known if found[label]]
    if known:
        whose = "reads its" if len(readers) < 2 else "read their"
        names = f": {', '.join(readers)}" if readers else ""
        yield (
            f"{len(readers) or 'None'} of {len(known)} systems and variants {whose} prompt.",
            f"By recount's rule (PCCN above {percent(READS_ABOVE)} and NMN below {IGNORES_FROM:g}){names}.",
        )


def _places(entries: Sequence[PromptTested], test: str) -> list[str]:
    """Return which benchmarks a test was made on, each with the data set in its place."""
    at = {name: entry.benchmarks[name] for entry in entries for name, _ in entry.of(test)}
    return [f"{place.dataset}/{place.split}, in place of {name}" for name, place in at.items()]


PROMPT_HEADS = {
    "System": "", "Seeds": "", "Majority": "counted when asked for the class with most objects, mean over pictures",
    "Majority, true": "", "Minority": "counted when asked for a class with fewer objects, mean over pictures",
    "Minority, true": "", "Absent": "counted when asked for a class that is not there; true: 0",
    "To majority": "share of pictures whose count for the minority is nearer to the majority's true count; ideal 0",
    "Changes": "share of pictures whose count changes by more than 1 % between both prompts; ideal 1",
    "NP": "count over truth, right prompt; ideal 1", "NMN": "count over truth, wrong prompts; ideal 0",
    "PCCN": "share of pictures whose right prompt is nearer; ideal 100 %", "F": "harmonic mean of recall and precision",
    "Recall": "of the upper picture's objects", "Precision": "of what was counted",
}  # fmt: skip


def prompt_sheet(paper: str, scores: pd.DataFrame, published: pd.DataFrame) -> Sheet:
    """Return the scores, and below them what was published of the same tests."""
    lines = []
    for row in scores.to_dict("records"):
        nmn, pccn = row["nmn"], row["pccn"]
        counts = [row[name] for name in ("majority", "majority_true", "minority", "minority_true", "absent")]
        shares = [Cell(row[name], percent(row[name])) for name in ("nearer", "changed")]
        below = f"{percent(pccn.low)} to {percent(pccn.high)}" if present(pccn.low) else ""
        wrong = (
            row["np"],
            Cell(nmn.value, ends=(nmn.low, nmn.high)),
            Cell(pccn.value, percent(pccn.value), (pccn.low, pccn.high), below),
        )
        mosaics = (row["f"], row["recall"], row["precision"])
        lines.append(Line((row["label"], row["seeds"], *counts, *shares, *wrong, *mosaics)))
    rows = published[published["table"] == PUBLISHED]
    for label, mine in rows.groupby("row"):
        printed = dict(zip(mine["metric"], mine["value"], strict=True))
        where = "; ".join(dict.fromkeys(mine["source"]))
        names = ("np", "nmn", "pccn", "mosaic_f", "mosaic_recall", "mosaic_precision")
        cells = [_printed(printed.get(name), where, name == "pccn") for name in names]
        lines.append(Line((Cell(str(label), below="published, real pictures"), *[None] * 8, *cells), css="quoted"))
    groups = (("", 2), ("counted, mean over pictures", 5), ("of the pairs", 2), ("wrong prompts", 3), ("mosaics", 3))
    title = "What each system counts under other prompts"
    return Sheet(f"{paper}-prompts", title, tuple(PROMPT_HEADS), tuple(lines), tuple(PROMPT_HEADS.items()), groups)


def _printed(text: str | None, where: str, in_percent: bool) -> Cell:
    if text is None:
        return Cell(None)
    return Cell(float(text) / 100, f"{text} %", hint=where) if in_percent else Cell(float(text), text, hint=where)


def prompt_figure(scores: pd.DataFrame) -> Figure:
    """Draw, a line per variant, the mean counts under three prompts, and PrACo's NP and NMN.

    A system that ignores its prompt has its marks on top of each other in both panels.
    """
    figure, (left, right) = row_axes(
        [shortened(label, 34) for label in scores["label"]], 0.3, above=0.35, ratios=(3, 2)
    )
    _marks(
        left,
        {
            "majority": (scores["majority"], {"marker": "o", "color": SERIES[1]}),
            "minority": (scores["minority"], {"marker": "s", "color": SERIES[0]}),
            "absent class": (scores["absent"], {"marker": "X", "color": SERIES[3]}),
        },
    )
    for name, colour in (("majority_true", SERIES[1]), ("minority_true", SERIES[0])):
        for true in scores[name].dropna()[:1]:
            left.axvline(true, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0)
    left.set_xlim(left=0)
    left.set_xlabel("counted when asked for it, mean over pictures; dashed: true")
    wrong = scores["nmn"].map(lambda interval: interval.value)
    _marks(
        right,
        {
            "right prompt (NP)": (scores["np"], {"marker": "o", "color": INK, "markerfacecolor": "none"}),
            "wrong ones (NMN)": (wrong, {"marker": "X", "color": SERIES[3]}),
        },
    )
    for ideal, colour in ((1, MUTED), (0, SERIES[3])):
        right.axvline(ideal, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0)
    right.set_xlabel("count ÷ true count; ideal: 1 and 0")
    return figure


def _marks(ax: Axes, columns: Mapping[str, tuple[pd.Series, dict[str, Any]]]) -> None:
    """Draw columns of values, a row per variant, joined by a line, with a legend above."""
    table = pd.DataFrame([values for values, _ in columns.values()]).astype(float)
    ax.hlines(range(table.shape[1]), table.min(), table.max(), color=BEHIND, linewidth=2, zorder=1)
    for name, (values, look) in columns.items():
        ax.plot(values, range(len(values)), linestyle="", markersize=6.5, label=name, **look)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, columnspacing=1, handletextpad=0.2)


# --------------------------------------------------------------------------------------------------- where maps lie


def map_sheet(paper: str, entries: Sequence[PromptTested]) -> Sheet:
    """Return where maps lie by variant and benchmark, after the pretrained network that all of them start from."""
    rows: dict[tuple[str, str], list[Maps]] = {}
    for entry in entries:
        for benchmark, found in entry.of("maps_before_training"):
            rows.setdefault((benchmark, "before training"), found[:1])
    for entry in entries:
        rows |= {(benchmark, entry.variant.label): found for benchmark, found in entry.of("maps")}
    places = list(dict.fromkeys(benchmark for benchmark, _ in rows))
    kinds = [kind for kind in MAPS if any(kind in found[0].auc for found in rows.values())]
    lines = []
    for (benchmark, label), found in sorted(rows.items(), key=lambda row: places.index(row[0][0])):
        reached, elsewhere = (
            _mean([getattr(e, name) for e in found]) for name in ("points_reached", "reached_elsewhere")
        )
        aucs = [_mean([entry.auc.get(kind) for entry in found]) for kind in kinds]
        shares = Cell(reached, percent(reached)), Cell(elsewhere, percent(elsewhere))
        lines.append(Line((label, benchmark, *aucs, *shares, len(found[0].pictures))))
    heads = ("System", "Benchmark", *(MAPS[kind][0] for kind in kinds), "Points", "Other cells", "Pictures")
    groups = (("", 2), ("AUC", len(kinds)), ("reached by attention", 2), ("", 1))
    title = "How well attention and similarity maps find what the prompt names"
    return Sheet(f"{paper}-maps", title, heads, tuple(lines), groups=groups)


# ---------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class _Answers:
    """Of one variant's first seed: pairs by picture, maps by key of the npz, and where the pictures lie."""

    variant: Variant
    pairs: Mapping[str, PairPicture]
    maps: Mapping[str, np.ndarray]
    place: str
    preparation: str

    def map(self, name: str, which: str, kind: str) -> np.ndarray | None:
        return self.maps.get(f"{self.place}/{name}/{which}/{kind}")

    def card(self, photo: Photo, which: str, top: float) -> Card:
        predicted = getattr(self.pairs[photo.id], f"{which}_predicted")
        return answer(photo, self.variant.label, predicted, self.map(photo.id, which, "density"), top)

    def heats(self, photo: Photo, which: str) -> Iterator[Card]:
        """Yield the attention and similarity maps as cards, each with the range of its colours."""
        for kind, (label, colours, limits) in MAPS.items():
            values = self.map(photo.id, which, kind)
            if values is not None:
                low, high = limits or _range(values)
                ends = f"{low:.4g} to {high:.4g}".replace("-", "−")  # four digits: similarities may all be near 1
                yield Card(photo, label, "", ends, heat_uri(values, low, high, colours), "heat")


def prompt_galleries(
    sources: Sources, entries: Sequence[PromptTested], stem: str
) -> tuple[Gallery | None, Gallery | None]:
    """Return every system's answers to two prompts of a picture, and the maps of the first that has attention."""
    answers = [found for entry in entries if (found := _answers(sources, entry)) is not None]
    if not answers:
        return None, None
    first = answers[0]
    samples = sources.samples(first.place.split("/")[0], first.preparation)
    asked: list[tuple[Photo, str, float]] = []
    for number, name in enumerate(dict.fromkeys(key.split("/")[2] for key in first.maps)):
        photo = photo_of(sources, samples, name, f"{stem}-{number}", PHOTO_WIDTH)
        if photo is not None:
            asked += [(one, which, _top(one, answers)) for which, one in _two_prompts(photo, first)]
    groups = [_asked(photo, which, top, answers) for photo, which, top in asked]
    sentence = (
        f"{first.place}: pictures at fixed quantiles of the minority's count, the same for every system. Each is first "
        "asked for what it shows most, then for what it shows less of. Densities of one picture share one scale over "
        "systems and prompts."
    )
    photos = tuple(photo for photo, _, _ in asked)
    mapped = next((entry for entry in answers if any("/attention" in key for key in entry.maps)), None)
    return Gallery(sentence, photos, tuple(groups)), None if mapped is None else _strips(asked, mapped)


def _two_prompts(photo: Photo, answers: _Answers) -> Iterator[tuple[str, Photo]]:
    """Yield the photo as the picture of its majority and of its minority, whose points the index has."""
    pair = answers.pairs.get(photo.id)
    if pair is None:
        return
    for which in PROMPTS:
        mine = replace(photo, count=getattr(pair, f"{which}_true"), prompt=getattr(pair, which))
        yield which, mine if which == "minority" else replace(mine, css=f"{photo.css}-majority", points="")


def _top(photo: Photo, answers: Sequence[_Answers]) -> float:
    densities = [entry.map(photo.id, which, "density") for entry in answers for which in PROMPTS]
    return scale_of([density for density in densities if density is not None])


def _truth(photo: Photo) -> Card:
    return Card(photo, "annotated" if photo.points else "the picture", count(photo.count), kind="truth")


def _asked(photo: Photo, which: str, top: float, answers: Sequence[_Answers]) -> Group:
    cards = [(a.variant.first, a.card(photo, which, top)) for a in answers if photo.id in a.pairs]
    return Group(
        f"{photo.id}, asked for “{photo.prompt}” ({which}, true count {count(photo.count)})",
        (_truth(photo), *(card for first, card in cards if first)),
        tuple(card for first, card in cards if not first),
        css="joined" if which == "majority" else "",
    )


def _strips(asked: Sequence[tuple[Photo, str, float]], answers: _Answers) -> Gallery:
    """Return a row of maps for each picture and prompt."""
    groups = [
        Group(
            f"{photo.id}, “{photo.prompt}” ({which})",
            (_truth(photo), *answers.heats(photo, which), answers.card(photo, which, top)),
            css="strip joined" if which == "majority" else "strip",
        )
        for photo, which, top in asked
        if photo.id in answers.pairs
    ]
    sentence = (
        f"Maps of {answers.variant.label}: truth, attention at each resolution and fused, similarity (cosine, lowest "
        "blue and highest red), and the predicted density. Below a map stands the range of its colours: its own "
        "values, or 0 to 1 where attention is fused."
    )
    return Gallery(sentence, (), tuple(groups))


def _answers(sources: Sources, entry: PromptTested) -> _Answers | None:
    run: Run = sources.project.run(*entry.variant.key, next(iter(entry.files)))
    benchmark = next((benchmark for benchmark, _ in entry.of("pairs")), None)
    if benchmark is None or benchmark not in run.prompt_tests:
        return None
    split = run.prompt_tests[benchmark].split
    maps = sources.prompt_maps(run)
    by_id = {pair.id: pair for pair in entry.first("pairs")[0].pictures}
    return _Answers(entry.variant, by_id, maps, f"{split.dataset}/{split.split}", split.preparation) if maps else None


def _range(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def heat_uri(values: np.ndarray, low: float, high: float, colours: str) -> str:
    """Return a map [h, w] as a PNG data URI, coloured from ``low`` to ``high``; NaN is drawn as ``low``."""
    span = high - low if high > low else 1.0
    shares = np.clip((np.nan_to_num(values, nan=low) - low) / span, 0, 1)
    return data_uri(map_png(shares, colours, transparent=False))
