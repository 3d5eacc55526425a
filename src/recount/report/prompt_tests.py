"""Exhibits of any paper with text-guided runs: does a system read its prompt, and where do its maps lie?

Everything comes from the files of ``recount test-prompts``: scores by benchmark (``prompt_tests/…json``) and maps of a
few pictures that were asked for their majority and for their minority (``…npz``).
"""

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
from recount.report.words import WORDS, said
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
    **{f"attention_{level}": (f"attention, {level}", "inferno", None) for level in ("coarse", "middle", "fine")},
    "attention": ("attention, fused", "inferno", (0.0, 1.0)),
    **{level: (f"similarity {level}", "coolwarm", None) for level in ("S3", "S2")},
}
HEADS: dict[str, str] = WORDS["prompt_heads"]


KEPT = {"picture": "the picture", "caption": "its caption", "objects": "the objects", "background": "what is behind"}
FOLLOWS = (
    "One thing is kept and the rest changed: the picture under the caption of one of another number; the caption "
    "beside it; the counted objects alone on plain ground; the picture without them. An answer that follows what is "
    "kept stays."
)


@dataclass(frozen=True)
class PromptTested:
    """What the runs of one variant answered: the contents of their files, by seed."""

    variant: Variant
    files: Mapping[int, PromptTests]

    @property
    def benchmarks(self) -> Mapping[str, BenchmarkTests]:
        """Return the tests by benchmark, of the first seed that has them."""
        return {name: tests for file in reversed([*self.files.values()]) for name, tests in file.benchmarks.items()}

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

    def reasons(self) -> Iterator[str]:
        """Yield why tests were not made, as sentences."""
        for benchmark, tests in self.benchmarks.items():
            for test, entry in tests:
                if isinstance(entry, NotTested):
                    yield f"{self.variant.label}: {benchmark}, {test.replace('_', ' ')}: {entry.not_tested}"


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
    follows = kept_sheet(context.name, entries)
    if follows.lines:
        yield Exhibit("follows", "What does the answer follow?", FOLLOWS, tables=(follows,))
    maps = map_sheet(context.name, entries)
    if maps.lines:
        yield Exhibit(
            "maps", "Where attention and similarity lie", said("maps"), tables=(maps,),
            galleries=(strips,) if strips else (), short="Where the maps lie",
        )  # fmt: skip


def prompt_scores(entries: Sequence[PromptTested]) -> pd.DataFrame:
    """Return means over seeds (``HEADS``; NaN where not tested) of each variant, on its first benchmarks."""
    tested = [entry for entry in entries if entry.first("pairs") or entry.first("negative_prompts")]
    return pd.DataFrame([_scores(entry) for entry in tested])


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
    if not negative:
        return np.zeros(0), np.zeros(0)
    rows = [[(row.true, row.right, row.wrong) for row in found.pictures] for found in negative]
    table = np.array(rows, np.float64).reshape(len(rows), -1, 3)  # [seeds, pictures, counts]
    true, right, wrong = table[..., 0], table[..., 1], table[..., 2]
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
    sentence = ["The same pictures, other prompts.", *(said(test, places=at) for test, at in places.items() if at)]
    selection = scores["selection"].iloc[0]
    sentence.append(f"Weights: {SELECTIONS.get(selection, selection)}. Intervals are 95 % over pictures.")
    sizes = f"{scores['pairs'].iloc[0]} pictures for the pairs, {scores['pictures'].iloc[0]} for the other tests."
    found = tuple(_readers(scores))
    plot = context.plot(_prompt_figure(scores), "prompts", said("prompts"))
    sheet = prompt_sheet(context.name, scores, context.sources.published[context.name])
    return Exhibit(
        "prompts", "Does it read the prompt?", " ".join(sentence), (plot,), (sheet,), found, notes=(sizes, *notes),
        glance=found[0][0] if found else "",
    )  # fmt: skip


def _readers(scores: pd.DataFrame) -> Iterator[tuple[str, str]]:
    found = {row["label"]: reads(row["nmn"].value, row["pccn"].value) for row in scores.to_dict("records")}
    known = [label for label, read in found.items() if read is not None]
    readers = [label for label in known if found[label]]
    if known:
        whose = "reads its" if len(readers) < 2 else "read their"
        names = f": {', '.join(readers)}" if readers else ""
        sizes = sorted({row["pictures"] for row in scores.to_dict("records") if found[row["label"]] is not None})
        yield (
            f"{len(readers) or 'None'} of {len(known)} systems and variants {whose} prompt, on "
            f"{' to '.join(map(str, sizes[:: max(1, len(sizes) - 1)]))} pictures.",
            f"By recount's rule (PCCN above {percent(READS_ABOVE)} and NMN below {IGNORES_FROM:g}){names}.",
        )


def _places(entries: Sequence[PromptTested], test: str) -> list[str]:
    at = {name: entry.benchmarks[name] for entry in entries for name, _ in entry.of(test)}
    return [f"{place.dataset}/{place.split}, in place of {name}" for name, place in at.items()]


def prompt_sheet(paper: str, scores: pd.DataFrame, published: pd.DataFrame) -> Sheet:
    """Return the scores, and below them what was published of the same tests."""
    lines = []
    for row in scores.to_dict("records"):
        nmn, pccn = row["nmn"], row["pccn"]
        counts = [row[name] for name in ("majority", "majority_true", "minority", "minority_true", "absent")]
        shares = [Cell(row[name], percent(row[name])) for name in ("nearer", "changed")]
        below = f"{percent(pccn.low)} to {percent(pccn.high)}" if present(pccn.low) else ""
        wrong = Cell(nmn.value, ends=(nmn.low, nmn.high))
        nearer = Cell(pccn.value, percent(pccn.value), (pccn.low, pccn.high), below)
        mosaics = (row["f"], row["recall"], row["precision"])
        lines.append(Line((row["label"], row["seeds"], *counts, *shares, row["np"], wrong, nearer, *mosaics)))
    rows = published[published["table"] == PUBLISHED]
    for label, mine in rows.groupby("row"):
        printed = dict(zip(mine["metric"], mine["value"], strict=True))
        where = "; ".join(dict.fromkeys(mine["source"]))
        names = ("np", "nmn", "pccn", "mosaic_f", "mosaic_recall", "mosaic_precision")
        cells = [_printed(printed.get(name), where, name == "pccn") for name in names]
        lines.append(Line((Cell(str(label), below="published, real pictures"), *[None] * 8, *cells), css="quoted"))
    groups = (("", 2), ("counted, mean over pictures", 5), ("of the pairs", 2), ("wrong prompts", 3), ("mosaics", 3))
    title = "What each system counts under other prompts"
    return Sheet(f"{paper}-prompts", title, tuple(HEADS), tuple(lines), tuple(HEADS.items()), groups)


def _printed(text: str | None, where: str, in_percent: bool) -> Cell:
    if text is None:
        return Cell(None)
    return Cell(float(text) / 100, f"{text} %", hint=where) if in_percent else Cell(float(text), text, hint=where)


def _prompt_figure(scores: pd.DataFrame) -> Figure:
    """Draw mean counts under three prompts, and PrACo's NP and NMN; marks lie on each other if a prompt is ignored."""
    labels = [shortened(label, 34) for label in scores["label"]]
    figure, (left, right) = row_axes(labels, 0.3, above=0.35, ratios=(3, 2))
    counted = scores[["majority", "minority", "absent"]].set_axis(["majority", "minority", "absent class"], axis=1)
    looks = [{"marker": "o", "color": SERIES[1]}, {"marker": "s", "color": SERIES[0]}]
    _marks(left, counted, [*looks, {"marker": "X", "color": SERIES[3]}])
    dashed = [(left, true, SERIES[1]) for true in scores["majority_true"].dropna()[:1]]
    dashed += [(left, true, SERIES[0]) for true in scores["minority_true"].dropna()[:1]]
    left.set_xlabel("counted when asked for it, mean over pictures; dashed: true")
    wrong = scores["nmn"].map(lambda interval: interval.value)
    shares = pd.DataFrame({"right prompt (NP)": scores["np"], "wrong ones (NMN)": wrong})
    hollow = {"marker": "o", "color": INK, "markerfacecolor": "none"}
    _marks(right, shares, [hollow, {"marker": "X", "color": SERIES[3]}])
    for ax, place, colour in [*dashed, (right, 1, MUTED), (right, 0, SERIES[3])]:
        ax.axvline(place, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0)
    left.set_xlim(left=0)
    right.set_xlabel("count ÷ true count; ideal: 1 and 0")
    return figure


def _marks(ax: Axes, table: pd.DataFrame, looks: Sequence[Mapping[str, Any]]) -> None:
    ax.hlines(range(len(table)), table.min(axis=1), table.max(axis=1), color=BEHIND, linewidth=2, zorder=1)
    for name, look in zip(table, looks, strict=True):
        ax.plot(table[name], range(len(table)), linestyle="", markersize=6.5, label=name, **look)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, columnspacing=1, handletextpad=0.2)


def kept_sheet(paper: str, entries: Sequence[PromptTested]) -> Sheet:
    """Return how often an answer stays when one thing of a picture is kept, by variant and pictures."""
    lines: dict[tuple[str, str], Line] = {}  # several benchmarks may be the same pictures here
    for entry in entries:
        for benchmark, found in entry.of("counterfactuals"):
            at = entry.benchmarks[benchmark]
            where = entry.variant.label, f"{at.dataset}/{at.split}"
            shares = [_mean([tests.stays.get(kept) for tests in found]) for kept in KEPT]
            lines[where] = Line((*where, *(Cell(share, percent(share)) for share in shares), len(found[0].pictures)))
    heads, title = ("System", "On", *KEPT.values(), "Pictures"), "Answers that stay when only one thing is kept"
    groups = (("", 2), ("share of answers that stay with", len(KEPT)), ("", 1))
    return Sheet(f"{paper}-follows", title, heads, tuple(lines.values()), groups=groups)


def map_sheet(paper: str, entries: Sequence[PromptTested]) -> Sheet:
    """Return where maps lie by variant and benchmark, after the pretrained network that all of them start from."""
    rows: dict[tuple[str, str], list[Maps]] = {}
    for entry in entries:
        for benchmark, found in entry.of("maps_before_training"):
            rows.setdefault((benchmark, "before training"), found[:1])
    for entry in entries:
        rows |= {(benchmark, entry.variant.label): found for benchmark, found in entry.of("maps")}
    places = list(dict.fromkeys(benchmark for benchmark, _ in rows))
    used = {name: f"{at.dataset}/{at.split}" for entry in entries for name, at in entry.benchmarks.items()}
    kinds = [kind for kind in MAPS if any(kind in found[0].auc for found in rows.values())]
    lines = []
    for (benchmark, label), found in sorted(rows.items(), key=lambda row: places.index(row[0][0])):
        aucs = [_mean([entry.auc.get(kind) for entry in found]) for kind in kinds]
        shares = [_mean([entry.points_reached for entry in found]), _mean([entry.reached_elsewhere for entry in found])]
        reached = [Cell(share, percent(share)) for share in shares]
        lines.append(Line((label, used[benchmark], *aucs, *reached, len(found[0].pictures))))
    heads = ("System", "On", *(MAPS[kind][0] for kind in kinds), "Points", "Other cells", "Pictures")
    groups = (("", 2), ("AUC", len(kinds)), ("reached by attention", 2), ("", 1))
    title = "How well attention and similarity maps find what the prompt names"
    return Sheet(f"{paper}-maps", title, heads, tuple(lines), groups=groups)


@dataclass(frozen=True)
class _Answers:
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
            if (values := self.map(photo.id, which, kind)) is not None:
                finite = values[np.isfinite(values)]
                low, high = limits or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0))
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
        if (photo := photo_of(sources, samples, name, f"{stem}-{number}", PHOTO_WIDTH)) is not None:
            maps = [entry.map(name, which, "density") for entry in answers for which in PROMPTS]
            top = scale_of([density for density in maps if density is not None])
            asked += [(one, which, top) for which, one in _two_prompts(photo, first)]
    groups = [_asked(photo, which, top, answers) for photo, which, top in asked]
    photos = tuple(photo for photo, _, _ in asked)
    mapped = next((entry for entry in answers if any("/attention" in key for key in entry.maps)), None)
    pictures = Gallery(said("asked", place=first.place), photos, tuple(groups))
    return pictures, None if mapped is None else _strips(asked, mapped)


def _two_prompts(photo: Photo, answers: _Answers) -> Iterator[tuple[str, Photo]]:
    if (pair := answers.pairs.get(photo.id)) is None:
        return
    for which in PROMPTS:
        mine = replace(photo, count=getattr(pair, f"{which}_true"), prompt=getattr(pair, which))
        yield which, mine if which == "minority" else replace(mine, css=f"{photo.css}-majority", points="")


def _truth(photo: Photo) -> Card:
    return Card(photo, "annotated" if photo.points else "the picture", count(photo.count), kind="truth")


def _asked(photo: Photo, which: str, top: float, answers: Sequence[_Answers]) -> Group:
    asked = [entry for entry in answers if photo.id in entry.pairs]
    first = [entry.card(photo, which, top) for entry in asked if entry.variant.first]
    others = [entry.card(photo, which, top) for entry in asked if not entry.variant.first]
    heading = f"{photo.id}, asked for “{photo.prompt}” ({which}, true count {count(photo.count)})"
    return Group(heading, (_truth(photo), *first), tuple(others), css="joined" if which == "majority" else "")


def _strips(asked: Sequence[tuple[Photo, str, float]], answers: _Answers) -> Gallery:
    groups = [
        Group(
            f"{photo.id}, “{photo.prompt}” ({which})",
            (_truth(photo), *answers.heats(photo, which), answers.card(photo, which, top)),
            css="strip joined" if which == "majority" else "strip",
        )
        for photo, which, top in asked
        if photo.id in answers.pairs
    ]
    return Gallery(said("strips", label=answers.variant.label), (), tuple(groups))


def _answers(sources: Sources, entry: PromptTested) -> _Answers | None:
    run: Run = sources.project.run(*entry.variant.key, next(iter(entry.files)))
    benchmark = next((benchmark for benchmark, _ in entry.of("pairs")), None)
    if benchmark is None or benchmark not in run.prompt_tests:
        return None
    split = run.prompt_tests[benchmark].split
    maps = sources.prompt_maps(run)
    by_id = {pair.id: pair for pair in entry.first("pairs")[0].pictures}
    return _Answers(entry.variant, by_id, maps, f"{split.dataset}/{split.split}", split.preparation) if maps else None


def heat_uri(values: np.ndarray, low: float, high: float, colours: str) -> str:
    """Return a map [h, w] as a PNG data URI, coloured from ``low`` to ``high``; NaN is drawn as ``low``."""
    span = high - low if high > low else 1.0
    shares = np.clip((np.nan_to_num(values, nan=low) - low) / span, 0, 1)
    return data_uri(map_png(shares, colours, transparent=False))
