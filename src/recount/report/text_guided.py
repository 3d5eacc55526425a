"""Does it read the prompt? What the text-guided systems of a paper answered to other prompts, and where they looked.

Everything comes from the files of ``recount test-prompts``: scores by benchmark (``prompt_tests/…json``) and maps of a
few pictures that were asked for their majority and for their minority (``…npz``).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zipfile import BadZipFile

import matplotlib as mpl
import numpy as np
from PIL import Image

from recount.metrics import MEAN
from recount.report.gallery import Card, Photo, crowded, overlay_uri, photo_of, smoothed
from recount.report.sections import Variant
from recount.report.sources import Sources
from recount.scoring.statistics import Interval, bootstrap
from recount.settings.project import Run

NOTHING = float("nan")
PROMPTS = ("majority", "minority")
READS_ABOVE = 0.6  # PCCN as a share, and NMN: the rule of claim T2I-14, which is recount's
IGNORES_FROM = 0.5
PHOTO_WIDTH = 320  # pixels of a photograph in the comparison of prompts
HEAT_LEVELS = 64
#: maps of a strip: name -> (label, colours, lowest, highest value; None: of the map itself)
MAPS: Mapping[str, tuple[str, str, tuple[float, float] | None]] = {
    "attention_coarse": ("attention, coarse", "inferno", None),
    "attention_middle": ("attention, middle", "inferno", None),
    "attention_fine": ("attention, fine", "inferno", None),
    "attention": ("attention, fused", "inferno", (0.0, 1.0)),
    "S3": ("similarity S3", "coolwarm", None),
    "S2": ("similarity S2", "coolwarm", None),
}


@dataclass(frozen=True)
class PromptTested:
    """What the runs of one variant answered: the contents of their files, by seed."""

    variant: Variant
    seeds: tuple[int, ...]
    files: tuple[dict[str, Any], ...]

    def of(self, test: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield each benchmark with a test's results, one per seed; those that were not made are left out."""
        for benchmark in self.files[0]["benchmarks"]:
            entries = [file["benchmarks"].get(benchmark, {}).get(test) for file in self.files]
            found = [entry for entry in entries if entry is not None and "not_tested" not in entry]
            if found:
                yield benchmark, found

    def reasons(self) -> list[str]:
        """Return why a test was not made, as sentences."""
        return [
            f"{benchmark}, {test.replace('_', ' ')}: {entry['not_tested']}"
            for benchmark, tests in self.files[0]["benchmarks"].items()
            for test, entry in tests.items()
            if isinstance(entry, dict) and "not_tested" in entry
        ]


def prompt_tested(sources: Sources, variants: Sequence[Variant]) -> list[PromptTested]:
    """Return what was answered, in the order of the variants; an unreadable file counts as none."""
    found = []
    for variant in variants:
        runs = [
            r
            for r in sources.project.runs
            if r.prompt_tests and (r.system, r.variant) == (variant.system, variant.variant)
        ]
        files = {run.seed: _file(sources, run) for run in runs}
        there = {seed: file for seed, file in files.items() if file}
        if there:
            found.append(PromptTested(variant, tuple(there), tuple(there.values())))
    return found


def not_tested(sources: Sources, variants: Sequence[Variant]) -> list[str]:
    """Return the labels of variants that are to be prompt-tested and left no file."""
    wanted = {(run.system, run.variant) for run in sources.project.runs if run.prompt_tests}
    there = {(entry.variant.system, entry.variant.variant) for entry in prompt_tested(sources, variants)}
    keys = [(variant, (variant.system, variant.variant)) for variant in variants]
    return [variant.label for variant, key in keys if key in wanted and key not in there]


def _file(sources: Sources, run: Run) -> dict[str, Any]:
    path = sources.project.root / sources.project.prompt_test_file(run)
    content = sources.read_json(path) if path.is_file() else {}
    if content and not isinstance(content.get("benchmarks"), dict):
        sources.problem(path, "no scores by benchmark")
        return {}
    return content


# ------------------------------------------------------------------------------------------------------------ scores


@dataclass(frozen=True)
class PromptRow:
    """What a variant answered to other prompts: means over seeds, intervals over pictures. NaN: not tested.

    Attributes:
        label, seeds, selection: the variant, how many seeds, which weights.
        pictures: of the wrong-prompt test; ``pairs``: pictures asked for majority and minority.
        majority, minority: mean (true, counted); ``absent``: mean counted for a class that is not there.
        nearer: share of pictures whose count for the minority is nearer to the majority's true count.
        changed: share of pictures whose count changes by more than 1 % from the majority's prompt to the minority's.
        np, nmn, pccn: PrACo's scores (``prompt_tests.NegativeScores``); pccn as a share.
        recall, precision, f: of the mosaics' counts.
    """

    label: str
    first: bool
    seeds: int
    selection: str
    pictures: int
    pairs: int
    majority: tuple[float, float]
    minority: tuple[float, float]
    absent: float
    nearer: float
    changed: float
    np: float
    nmn: Interval
    pccn: Interval
    recall: float
    precision: float
    f: float

    @property
    def reads(self) -> bool | None:
        """Return whether wrong prompts are told from right ones by T2ICount's claim T2I-14; None: not tested."""
        if np.isnan(self.pccn.value) or np.isnan(self.nmn.value):
            return None
        return self.pccn.value > READS_ABOVE and self.nmn.value < IGNORES_FROM


def prompt_rows(entries: Sequence[PromptTested]) -> list[PromptRow]:
    """Return a row for each variant that was tested with other prompts, its first benchmark of each kind."""
    return [_row(entry) for entry in entries if any(_first(entry, test) for test in ("pairs", "negative_prompts"))]


def benchmarks_of(entries: Sequence[PromptTested], test: str) -> list[str]:
    """Return which benchmarks a test was made on, each with the data set in its place."""
    places: dict[str, str] = {}
    for entry in entries:
        for benchmark, _ in entry.of(test):
            at = entry.files[0]["benchmarks"][benchmark]
            places.setdefault(benchmark, f"{at['dataset']}/{at['split']}, in place of {benchmark}")
    return list(places.values())


def _first(entry: PromptTested, test: str) -> list[dict[str, Any]]:
    return next((found for _, found in entry.of(test)), [])


def _row(entry: PromptTested) -> PromptRow:
    pairs, negative, mosaics = (_first(entry, test) for test in ("pairs", "negative_prompts", "mosaics"))
    means = {name: _mean([found["means"].get(name) for found in pairs]) for name in MEANS}
    wrong, nearer = _by_picture(negative)
    counts = [found["count"] for found in mosaics]
    return PromptRow(
        label=entry.variant.label,
        first=entry.variant.first,
        seeds=len(entry.seeds),
        selection=str(entry.files[0].get("selection", "")),
        pictures=len(negative[0]["pictures"]) if negative else 0,
        pairs=len(pairs[0]["pictures"]) if pairs else 0,
        majority=(means["majority_true"], means["majority_predicted"]),
        minority=(means["minority_true"], means["minority_predicted"]),
        absent=means["absent_predicted"],
        nearer=_mean([found["nearer_to_majority"] for found in pairs]),
        changed=_mean([found["prompt_swap"] for found in pairs]),
        np=_mean([found["np"] for found in negative]),
        nmn=_interval(_mean([found["nmn"] for found in negative]), wrong),
        pccn=_interval(_mean([found["pccn"] for found in negative]) / 100, nearer),
        recall=_mean([found["recall"] for found in counts]),
        precision=_mean([found["precision"] for found in counts]),
        f=_mean([found["f"] for found in counts]),
    )


MEANS = ("majority_true", "majority_predicted", "minority_true", "minority_predicted", "absent_predicted")


def _mean(values: Sequence[float | None]) -> float:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else NOTHING


def _by_picture(negative: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return per picture, over seeds: wrong prompts' count over the truth, and how often the right one is nearer."""
    if not negative:
        return np.zeros(0), np.zeros(0)
    columns = {name: _column(negative, name) for name in ("true", "right", "wrong")}  # (seeds, pictures)
    true, right, wrong = columns["true"], columns["right"], columns["wrong"]
    nearer = np.abs(right - true) < np.abs(wrong - true)
    return (wrong / true).mean(axis=0), nearer.mean(axis=0)


def _column(entries: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    rows = [[NOTHING if row[name] is None else row[name] for row in entry["pictures"]] for entry in entries]
    return np.array(rows, np.float64)


def _interval(value: float, contributions: np.ndarray) -> Interval:
    if not len(contributions):
        return Interval(value, NOTHING, NOTHING)
    found = bootstrap(MEAN, np.zeros(len(contributions)), contributions)
    return Interval(value, found.low, found.high)


# --------------------------------------------------------------------------------------------------- where maps lie


@dataclass(frozen=True)
class MapRow:
    """Where the maps of a variant lie on one benchmark: means over seeds of means over pictures.

    ``auc`` is by the maps' names for people.
    """

    label: str
    benchmark: str
    pictures: int
    auc: dict[str, float]
    reached: float
    elsewhere: float


def map_rows(entries: Sequence[PromptTested]) -> list[MapRow]:
    """Return a row for each variant and benchmark, after one for the pretrained network that all of them start from."""
    rows: list[MapRow] = []
    for entry in entries:
        for benchmark, found in entry.of("maps_before_training"):
            if not any(row.benchmark == benchmark for row in rows):
                rows.append(_map_row("before training", benchmark, found[:1]))
    for entry in entries:
        rows += [_map_row(entry.variant.label, benchmark, found) for benchmark, found in entry.of("maps")]
    return sorted(rows, key=lambda row: list(dict.fromkeys(r.benchmark for r in rows)).index(row.benchmark))


def _map_row(label: str, benchmark: str, found: Sequence[dict[str, Any]]) -> MapRow:
    names = [name for name in MAPS if name in found[0]["auc"]]
    return MapRow(
        label=label,
        benchmark=benchmark,
        pictures=len(found[0]["pictures"]),
        auc={MAPS[name][0]: _mean([entry["auc"][name] for entry in found]) for name in names},
        reached=_mean([entry["points_reached"] for entry in found]),
        elsewhere=_mean([entry["reached_elsewhere"] for entry in found]),
    )


# ---------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Asked:
    """A picture asked for one of its classes: every system's answer. ``others`` are the variants of later tables."""

    photo: Photo
    which: str
    prompt: str
    true: float
    cards: tuple[Card, ...]
    others: tuple[Card, ...]


@dataclass(frozen=True)
class Heat:
    """A map as a picture of its own: its label, PNG data URI and the values of its first and last colour."""

    label: str
    uri: str
    low: float
    high: float

    @property
    def ends(self) -> str:
        """Return the range in words; four digits, since similarities may all be near 1."""
        return f"{self.low:.4g} to {self.high:.4g}".replace("-", "−")


@dataclass(frozen=True)
class Strip:
    """A picture asked for one of its classes: the maps of one variant, its density, and the truth."""

    asked: Asked
    card: Card
    heats: tuple[Heat, ...]


@dataclass(frozen=True)
class PromptGallery:
    """The pictures that were asked for two of their classes.

    Attributes:
        place: data set and split.
        pictures: for each the majority, then the minority.
        strips: of the variant that ``strip_label`` names; empty if no variant has attention maps.
    """

    place: str
    pictures: tuple[tuple[Asked, ...], ...]
    strips: tuple[Strip, ...]
    strip_label: str


@dataclass(frozen=True)
class _Answers:
    """Of one variant's first seed: maps by key of the npz, pairs by picture, and where the pictures lie."""

    variant: Variant
    maps: dict[str, np.ndarray]
    pairs: dict[str, dict[str, Any]]
    dataset: str
    split: str
    preparation: str

    def map(self, name: str, which: str, kind: str) -> np.ndarray | None:
        return self.maps.get(f"{self.dataset}/{self.split}/{name}/{which}/{kind}")


def prompt_gallery(sources: Sources, entries: Sequence[PromptTested], stem: str) -> PromptGallery | None:
    """Build the comparison of prompts, or None if nothing was asked for two classes.

    Args:
        sources: the files.
        entries: what was answered.
        stem: for class names of the page.
    """
    answers = [found for entry in entries if (found := _answers(sources, entry)) is not None]
    if not answers:
        return None
    first = answers[0]
    names = list(dict.fromkeys(key.split("/")[2] for key in first.maps))
    samples = sources.samples(first.dataset, first.preparation)
    pictures = []
    for number, name in enumerate(names):
        photo = photo_of(sources, samples, name, f"{stem}-{number}-minority", PHOTO_WIDTH)
        if photo is not None:
            pictures.append(_asked(photo, f"{stem}-{number}-majority", answers))
    mapped = next((answer for answer in answers if any("/attention" in key for key in answer.maps)), None)
    both = [asked for picture in pictures for asked in picture if mapped is not None and asked.photo.id in mapped.pairs]
    strips = tuple(_strip(asked, mapped) for asked in both if mapped is not None)
    label = "" if mapped is None else mapped.variant.label
    return PromptGallery(f"{first.dataset}/{first.split}", tuple(pictures), strips, label)


def _answers(sources: Sources, entry: PromptTested) -> _Answers | None:
    run = sources.project.run(entry.variant.system, entry.variant.variant, entry.seeds[0])
    benchmark = next((benchmark for benchmark, _ in entry.of("pairs")), None)
    if benchmark is None or benchmark not in run.prompt_tests:
        return None
    split = run.prompt_tests[benchmark].split
    pairs = entry.files[0]["benchmarks"][benchmark]["pairs"]["pictures"]
    maps = _maps(sources, run)
    by_id = {str(pair["id"]): pair for pair in pairs}
    return _Answers(entry.variant, maps, by_id, split.dataset, split.split, split.preparation) if maps else None


def _maps(sources: Sources, run: Run) -> dict[str, np.ndarray]:
    path = (sources.project.root / sources.project.prompt_test_file(run)).with_suffix(".npz")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name].astype(np.float32) for name in stored.files}
    except (OSError, ValueError, BadZipFile) as error:
        sources.problem(path, f"not a readable file of maps: {error}")
        return {}


def _asked(photo: Photo, majority_css: str, answers: Sequence[_Answers]) -> tuple[Asked, ...]:
    """Return a picture asked for its majority and for its minority, which alone has its points in the index."""
    shown = [answer for answer in answers if photo.id in answer.pairs]
    densities = [answer.map(photo.id, which, "density") for answer in shown for which in PROMPTS]
    peaks = [crowded(smoothed(density)) for density in densities if density is not None]
    top = float(np.median(peaks)) if peaks else 0.0
    asked = []
    for which in PROMPTS:
        pair = shown[0].pairs[photo.id]
        mine = replace(photo, css=majority_css, points="") if which == "majority" else photo
        mine = replace(mine, count=float(pair[f"{which}_true"]))
        cards = [(answer.variant.first, _card(answer, mine, which, top)) for answer in shown]
        asked.append(
            Asked(
                photo=mine,
                which=which,
                prompt=str(pair[which]),
                true=mine.count,
                cards=tuple(card for first, card in cards if first),
                others=tuple(card for first, card in cards if not first),
            )
        )
    return tuple(asked)


def _card(answer: _Answers, photo: Photo, which: str, top: float) -> Card:
    density = answer.map(photo.id, which, "density")
    overlay = "" if density is None else overlay_uri(smoothed(density), top)
    predicted = answer.pairs[photo.id][f"{which}_predicted"]
    predicted = NOTHING if predicted is None else float(predicted)
    return Card(photo, answer.variant.label, "", photo.count, predicted, overlay)


def _strip(asked: Asked, answer: _Answers) -> Strip:
    heats = []
    for kind, (label, colours, limits) in MAPS.items():
        values = answer.map(asked.photo.id, asked.which, kind)
        if values is not None:
            low, high = limits or _range(values)
            heats.append(Heat(label, heat_uri(values, low, high, colours), low, high))
    card = next(card for card in (*asked.cards, *asked.others) if card.label == answer.variant.label)
    return Strip(asked, card, tuple(heats))


def _range(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def heat_uri(values: np.ndarray, low: float, high: float, colours: str) -> str:
    """Return a map [h, w] as a PNG data URI, coloured from ``low`` to ``high``; NaN is drawn as ``low``."""
    span = high - low if high > low else 1.0
    shares = np.clip((np.nan_to_num(values, nan=low) - low) / span, 0, 1)
    picture = Image.fromarray((shares * (HEAT_LEVELS - 1)).round().astype(np.uint8), mode="P")
    palette = mpl.colormaps[colours](np.linspace(0, 1, HEAT_LEVELS))[:, :3]
    picture.putpalette((palette * 255).round().astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
