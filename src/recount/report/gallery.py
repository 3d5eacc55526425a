"""Galleries: which pictures are shown, and how photograph, points and maps become a few kilobytes each.

Nothing is picked by hand. The comparison shows the test images nearest to fixed quantiles of the true count; each
system's own best, median and worst image follow from its absolute errors.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from recount.data.dataset import DataError
from recount.data.health import load_npy
from recount.data.pictures import read_picture
from recount.data.sample import NO_POINTS
from recount.report.numbers import count, off_by, present
from recount.report.sources import Place, Sources
from recount.report.words import said

QUANTILES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BRIGHTEST_SHARE = 0.2  # of the objects are drawn at full strength
BLUR = 0.008  # of the width of a map
LEVELS = 48  # palette entries of a map
PHOTO_WIDTHS = ((40, 560), (120, 400))  # up to so many photographs -> width in pixels
SMALLEST_PHOTO = 260
ANSWERED, THUMBNAIL = 9, 160  # photographs of a table of answers, and their width in pixels


@dataclass(frozen=True)
class Photo:
    """A photograph with its annotated points, embedded once and used by every card that shows it."""

    id: str
    css: str  # the class that paints it
    uri: str  # JPEG; "" if the picture cannot be read
    width: int
    height: int
    points: str  # SVG path that marks every point, in the picture's pixels; "" where none are annotated
    count: float
    prompt: str = ""


@dataclass(frozen=True)
class Card:
    """A photograph with what one system says of it."""

    photo: Photo
    label: str  # who says it
    value: str = ""  # the count
    words: str = ""  # how far off it is, or what is missing
    overlay: str = ""  # data URI of the density or map
    kind: str = ""  # "truth" (with its points), "plain" (the picture alone), "heat" (a map instead of it) or ""


@dataclass(frozen=True)
class Group:
    """Cards side by side under a heading; ``others`` are variants of later tables, folded."""

    heading: str
    cards: tuple[Card, ...]
    others: tuple[Card, ...] = ()
    css: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Gallery:
    """Groups of cards, with the photographs in them; a gallery with a heading is folded under it."""

    sentence: str
    photos: tuple[Photo, ...]
    groups: tuple[Group, ...]
    heading: str = ""
    notice: str = ""

    @property
    def densities(self) -> bool:
        """Whether any card has a density; systems that count by captions have none."""
        return any(card.overlay for group in self.groups for card in (*group.cards, *group.others))


@dataclass(frozen=True)
class AnswerTable:
    """A table of answers: a column for each photograph, a line (label, (answer, whether it is right)) per system."""

    sentence: str
    photos: tuple[Photo, ...]
    lines: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]
    notice: str = ""


def by_quantiles(counts: pd.Series, quantiles: Sequence[float] = QUANTILES) -> list[str]:
    """Return the ids whose true counts are nearest to the quantiles of all; ties go to the smaller id, no id twice."""
    ordered = counts.rename_axis("id").reset_index(name="count").sort_values(["count", "id"], ignore_index=True)
    places = dict.fromkeys(round(q * (len(ordered) - 1)) for q in quantiles)
    return [str(ordered["id"].iloc[place]) for place in places]


def best_median_worst(predictions: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (rank, id) of the smallest, the median and the largest absolute error; NaN predictions are left out."""
    errors = (predictions["predicted_count"] - predictions["true_count"]).abs()
    ordered = predictions.assign(error=errors).dropna(subset="error").sort_values(["error", "id"], ignore_index=True)
    if ordered.empty:
        return []
    places = {"best": 0, "median": (len(ordered) - 1) // 2, "worst": len(ordered) - 1}
    return [(rank, str(ordered["id"].iloc[place])) for rank, place in places.items()]


def map_png(shares: np.ndarray, colours: str, *, transparent: bool) -> bytes:
    """Return a map [h, w] of shares (0 to 1) as a PNG in a colour map; low values may let the photograph through."""
    picture = Image.fromarray((shares * (LEVELS - 1)).round().astype(np.uint8), mode="P")
    palette = mpl.colormaps[colours](np.linspace(0.2 if transparent else 0, 1, LEVELS))[:, :3]
    picture.putpalette((palette * 255).round().astype(np.uint8).tobytes())
    opacity = bytes(int(v) for v in (255 * np.minimum(1, 1.5 * np.linspace(0, 1, LEVELS))).round())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True, **({"transparency": opacity} if transparent else {}))
    return buffer.getvalue()


def overlay_png(density: np.ndarray, top: float) -> bytes:
    """Return a density map [h, w] as a PNG: colour and opacity grow with the density up to ``top``."""
    scaled = np.nan_to_num(density / top if top > 0 else density * 0)
    return map_png(np.sqrt(np.clip(scaled, 0, 1)), "inferno", transparent=True)


def data_uri(content: bytes, kind: str = "png") -> str:
    """Return a picture's bytes as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def decoded(uri: str) -> bytes:
    """Return the bytes in a data URI."""
    return base64.b64decode(uri.partition(";base64,")[2])


def crowded(density: np.ndarray) -> float:
    """Return the density above which a fifth of a map's objects lie, a scale for sparse and crowded images alike."""
    values = np.sort(np.nan_to_num(density).clip(min=0), axis=None)[::-1]
    share = np.cumsum(values)
    return float(values[np.searchsorted(share, BRIGHTEST_SHARE * share[-1])]) if share[-1] > 0 else 0.0


def smoothed(density: np.ndarray) -> np.ndarray:
    """Blur a map as wide as a small picture can show, for display only: single cells would vanish."""
    return gaussian_filter(np.nan_to_num(density), sigma=density.shape[-1] * BLUR, mode="reflect")


def scale_of(densities: Sequence[np.ndarray]) -> float:
    """Return the density drawn at full strength on an image, the same for all its maps so that they can be compared."""
    peaks = [crowded(smoothed(density)) for density in densities]
    return float(np.median(peaks)) if peaks else 0.0


def photo_of(sources: Sources, samples: pd.DataFrame, name: str, css: str, width: int) -> Photo | None:
    """Return a sample's photograph, painted by the class ``css``, or None where the index does not have it."""
    if name not in samples.index:
        return None
    row: Any = samples.loc[name]
    folder = Path(row["folder"])
    points = NO_POINTS
    try:
        points = load_npy(folder / row["points"], row["points_sha256"]) if row["points"] else NO_POINTS
    except DataError as error:
        sources.problem(folder / row["points"], str(error))
    uri = _jpeg(sources, folder / row["image"], row["image_sha256"], width) if row["image"] else ""
    marks = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in points)
    return Photo(name, css, uri, int(row["width"]), int(row["height"]), marks, float(row["count"]), row["prompt"])


def _jpeg(sources: Sources, path: Path, sha256: str, width: int) -> str:
    """Return a picture as a JPEG data URI; "" where it cannot be read, and the file is listed."""
    try:
        small = read_picture(path, sha256=sha256).image
    except DataError as error:
        sources.problem(path, str(error))
        return ""
    small.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=72, optimize=True, progressive=True)
    return data_uri(buffer.getvalue(), "jpeg")


def answer(photo: Photo, label: str, predicted: float, density: np.ndarray | None, top: float, rank: str = "") -> Card:
    """Return the card of a prediction, with its density up to ``top``; a ``rank`` stands in the label's place."""
    overlay = "" if density is None else data_uri(overlay_png(smoothed(density), top))
    if not present(predicted):
        return Card(photo, rank or label, "", "no finite prediction", overlay)
    value = f"{count(predicted)} of {count(photo.count)}" if rank else count(predicted)
    return Card(photo, rank or label, value, off_by(photo.count, predicted), overlay)


@dataclass(frozen=True)
class Shown:
    """A variant in the gallery: its label and its predictions with one selection and one seed, with maps if stored."""

    label: str
    predictions: pd.DataFrame
    maps: dict[str, np.ndarray]
    first: bool  # a row of the paper's first table, shown without asking

    def card(self, photo: Photo, top: float, rank: str = "") -> Card:
        """Return its card for a photograph."""
        mine = self.predictions.loc[self.predictions["id"] == photo.id, "predicted_count"]
        predicted = float(mine.iloc[0]) if len(mine) else float("nan")
        return answer(photo, self.label, predicted, self.maps.get(photo.id), top, rank)


def gallery(
    sources: Sources, stem: str, place: Place, shown: Sequence[Shown], selection: str, notice: str
) -> Gallery | None:
    """Build the gallery of a benchmark, or None if there is nothing to show; ``stem`` begins the names of classes."""
    samples = sources.samples(place.dataset, place.preparation)
    if samples.empty or not shown:
        return None
    compared = by_quantiles(shown[0].predictions.drop_duplicates("id").set_index("id")["true_count"])
    ranked = {entry.label: best_median_worst(entry.predictions) for entry in shown if entry.first}
    wanted = list(dict.fromkeys([*compared, *(name for ranks in ranked.values() for _, name in ranks)]))
    width = next((width for limit, width in PHOTO_WIDTHS if len(wanted) <= limit), SMALLEST_PHOTO)
    photos = {photo.id: photo for photo in _photos(sources, samples, wanted, stem, width)}
    tops = {name: scale_of([entry.maps[name] for entry in shown if name in entry.maps]) for name in photos}
    maps = any(entry.maps for entry in shown)
    groups = [_comparison(photos[name], shown, tops[name], maps) for name in compared if name in photos]
    for entry in (entry for entry in shown if entry.first):
        best = [(rank, photos[name]) for rank, name in ranked[entry.label] if name in photos]
        groups.append(_extremes(entry, best, tops))
    scale = f"{said('scale')} " if maps else ""
    sentence = said("gallery", place=place, benchmark=place.benchmark, scale=scale, selection=selection)
    heading = f"{place.benchmark}: {len(compared)} pictures"
    return Gallery(sentence, tuple(photos.values()), tuple(groups), heading, notice)


def answers_by_picture(
    sources: Sources, stem: str, place: Place, shown: Sequence[Shown], selection: str, notice: str
) -> AnswerTable | None:
    """Return what each system answers for the same pictures, or None if there is nothing to show; cf. ``gallery``."""
    samples = sources.samples(place.dataset, place.preparation)
    if samples.empty or not shown:
        return None
    true = shown[0].predictions.drop_duplicates("id").set_index("id")["true_count"]
    names = by_quantiles(true, np.linspace(0, 1, ANSWERED).tolist())
    photos = tuple(_photos(sources, samples, names, stem, THUMBNAIL))
    lines = []
    for entry in shown:
        mine = (
            entry.predictions.drop_duplicates("id").set_index("id")["predicted_count"].reindex([p.id for p in photos])
        )
        lines.append((entry.label, tuple((count(a), bool(a == p.count)) for a, p in zip(mine, photos, strict=True))))
    sentence = said("answers_by_picture", place=place, selection=selection)
    return AnswerTable(sentence, photos, tuple(lines), notice)


def _photos(sources: Sources, samples: pd.DataFrame, names: Sequence[str], stem: str, width: int) -> Iterator[Photo]:
    """Yield the photographs of samples that can be shown; ``stem`` and a number name their classes."""
    for number, name in enumerate(names):
        if (photo := photo_of(sources, samples, name, f"{stem}-{number}", width)) is not None:
            yield photo


def _comparison(photo: Photo, shown: Sequence[Shown], top: float, maps: bool) -> Group:
    plain = [_plain_card(photo)] if maps else []
    words = f"“{photo.prompt}”" if photo.prompt else ""
    truth = Card(photo, f"annotated, {photo.id}", count(photo.count), words, kind="truth")
    first, others = ([entry.card(photo, top) for entry in shown if entry.first == where] for where in (True, False))
    return Group("", (*plain, truth, *first), tuple(others))


def _extremes(entry: Shown, ranked: Sequence[tuple[str, Photo]], tops: dict[str, float]) -> Group:
    cards = []
    for rank, photo in ranked:
        card = entry.card(photo, tops[photo.id], rank)
        cards += [_plain_card(photo), card] if card.overlay else [card]
    return Group(f"{entry.label}: best, median and worst", tuple(cards), css="extremes", folded=True)


def _plain_card(photo: Photo) -> Card:
    return Card(photo, f"picture {photo.id}", words=f"“{photo.prompt}”" if photo.prompt else "", kind="plain")
