"""The qualitative gallery: which images are shown, and how photograph, points and density become a few kilobytes each.

Nothing is picked by hand. The comparison shows the test images nearest to fixed quantiles of the true count; each
system's own best, median and worst image follow from its absolute errors.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from recount.report.sources import Sources

QUANTILES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
BRIGHTEST_SHARE = 0.2  # of the objects are drawn at full strength
BLUR = 0.008  # of the width of a map
LEVELS = 48  # palette entries of a density overlay
PHOTO_WIDTHS = ((40, 560), (120, 400))  # up to so many photographs -> width in pixels
SMALLEST_PHOTO = 260


@dataclass(frozen=True)
class Photo:
    """A photograph with its annotated points, embedded once and used by every card that shows it.

    Attributes:
        id: sample id; ``css``: the class that paints it.
        uri: JPEG as data URI ("" if the picture cannot be read).
        width, height: of the prepared picture, pixels.
        points: SVG path that marks every point, in the picture's pixels; "" where none are annotated.
        prompt: what is to be counted, or "".
    """

    id: str
    css: str
    uri: str
    width: int
    height: int
    points: str
    count: float
    prompt: str = ""


@dataclass(frozen=True)
class Card:
    """One prediction on one photograph; ``overlay`` is a PNG data URI of the density, "" if none was stored."""

    photo: Photo
    label: str
    rank: str
    true: float
    predicted: float
    overlay: str

    @property
    def error(self) -> float:
        """Return predicted minus true."""
        return self.predicted - self.true


@dataclass(frozen=True)
class Comparison:
    """One photograph with every system's prediction beside it; ``others`` are the variants of later tables."""

    photo: Photo
    cards: tuple[Card, ...]
    others: tuple[Card, ...]


@dataclass(frozen=True)
class Gallery:
    """The gallery of a benchmark."""

    benchmark: str
    place: str
    photos: tuple[Photo, ...]
    comparisons: tuple[Comparison, ...]
    extremes: tuple[tuple[str, tuple[Card, ...]], ...]
    selection: str
    notice: str

    @property
    def densities(self) -> bool:
        """Whether any system has density maps here; count-by-caption systems have none."""
        every = [card for comparison in self.comparisons for card in (*comparison.cards, *comparison.others)]
        return any(card.overlay for card in every)

    @property
    def dots(self) -> bool:
        """Whether any photograph has annotated points."""
        return any(photo.points for photo in self.photos)


def by_quantiles(counts: pd.Series, quantiles: Sequence[float] = QUANTILES) -> list[str]:
    """Return the ids whose true counts are nearest to the quantiles of all; ties go to the smaller id, no id twice.

    Args:
        counts: true counts by sample id.
    """
    ordered = counts.rename_axis("id").reset_index(name="count").sort_values(["count", "id"], ignore_index=True)
    places = dict.fromkeys(round(q * (len(ordered) - 1)) for q in quantiles)
    return [str(ordered["id"].iloc[place]) for place in places]


def best_median_worst(predictions: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (rank, id) of the smallest, the median and the largest absolute error; NaN predictions are left out.

    Args:
        predictions: columns id, true_count, predicted_count.
    """
    errors = (predictions["predicted_count"] - predictions["true_count"]).abs()
    ordered = predictions.assign(error=errors).dropna(subset="error").sort_values(["error", "id"], ignore_index=True)
    if ordered.empty:
        return []
    places = {"best": 0, "median": (len(ordered) - 1) // 2, "worst": len(ordered) - 1}
    return [(rank, str(ordered["id"].iloc[place])) for rank, place in places.items()]


def overlay_png(density: np.ndarray, top: float) -> bytes:
    """Return a density map as a PNG: colour and opacity grow with the density up to ``top``.

    Args:
        density: float [h, w], objects per cell.
        top: density that is drawn at full strength.
    """
    scaled = np.nan_to_num(density / top if top > 0 else density * 0)
    levels = (np.sqrt(np.clip(scaled, 0, 1)) * (LEVELS - 1)).round().astype(np.uint8)
    picture = Image.fromarray(levels, mode="P")
    colours = mpl.colormaps["inferno"](np.linspace(0.2, 1, LEVELS))[:, :3]
    picture.putpalette((colours * 255).round().astype(np.uint8).tobytes())
    opacity = bytes(int(v) for v in (255 * np.minimum(1, 1.5 * np.linspace(0, 1, LEVELS))).round())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", transparency=opacity, optimize=True)
    return buffer.getvalue()


def overlay_uri(density: np.ndarray, top: float) -> str:
    """Return ``overlay_png`` as a data URI."""
    return "data:image/png;base64," + base64.b64encode(overlay_png(density, top)).decode()


def photo_of(sources: Sources, samples: pd.DataFrame, name: str, css: str, width: int) -> Photo | None:
    """Return a sample's photograph, painted by the class ``css``, or None where the index does not have it."""
    if name not in samples.index:
        return None
    row: Any = samples.loc[name]
    folder = Path(row["folder"])
    points = _points(sources, folder / row["points"]) if isinstance(row["points"], str) and row["points"] else []
    return Photo(
        id=name,
        css=css,
        uri=_jpeg(sources, folder / row["image"], width) if isinstance(row["image"], str) else "",
        width=int(row["width"]),
        height=int(row["height"]),
        points="".join(f"M{x:.0f} {y:.0f}h0" for x, y in points),
        count=float(row["count"]),
        prompt=row["prompt"] if isinstance(row["prompt"], str) else "",
    )


def _points(sources: Sources, path: Path) -> np.ndarray | list[tuple[float, float]]:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        sources.problem(path, f"not readable points: {error}")
        return []


def _jpeg(sources: Sources, path: Path, width: int) -> str:
    """Return a picture as a JPEG data URI, or "" where it cannot be read: its place stays empty, the file is listed."""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
    except OSError as error:
        sources.problem(path, f"not a readable picture: {error}")
        return ""
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=72, optimize=True, progressive=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Shown:
    """A variant in the gallery: its label and its predictions with one selection and one seed, with maps if stored.

    ``first`` marks the rows of the paper's first table, which are shown without asking.
    """

    label: str
    predictions: pd.DataFrame
    maps: dict[str, np.ndarray]
    first: bool = True


def gallery(
    sources: Sources, number: int, place: tuple[str, str, str, str], shown: Sequence[Shown], selection: str, notice: str
) -> Gallery | None:
    """Build the gallery of a benchmark, or None if there is nothing to show.

    Args:
        number: of the benchmark in the report, for class names.
        place: benchmark, data set, split, preparation.
        shown: the variants, in the order in which they appear.
        selection: which weights the predictions are of, for the caption.
        notice: what the data set's licence says about showing its pictures.
    """
    benchmark, dataset, split, preparation = place
    samples = sources.samples(dataset, preparation)
    if samples.empty or not shown:
        return None
    true = shown[0].predictions.drop_duplicates("id").set_index("id")["true_count"]
    compared = by_quantiles(true)
    ranked = {entry.label: best_median_worst(entry.predictions) for entry in shown if entry.first}
    wanted = list(dict.fromkeys([*compared, *(name for ranks in ranked.values() for _, name in ranks)]))
    width = next((width for limit, width in PHOTO_WIDTHS if len(wanted) <= limit), SMALLEST_PHOTO)
    built = {name: photo_of(sources, samples, name, f"photo-{number}-{n}", width) for n, name in enumerate(wanted)}
    photos = {name: photo for name, photo in built.items() if photo is not None}
    tops = {name: _top(name, shown) for name in photos}
    return Gallery(
        benchmark=benchmark,
        place=f"{dataset}/{split}",
        photos=tuple(photos.values()),
        comparisons=tuple(
            Comparison(
                photos[name],
                tuple(_card(entry, photos[name], "", tops[name]) for entry in shown if entry.first),
                tuple(_card(entry, photos[name], "", tops[name]) for entry in shown if not entry.first),
            )
            for name in compared
            if name in photos
        ),
        extremes=tuple(
            (
                entry.label,
                tuple(_card(entry, photos[n], rank, tops[n]) for rank, n in ranked[entry.label] if n in photos),
            )
            for entry in shown
            if entry.first
        ),
        selection=selection,
        notice=notice,
    )


def _top(name: str, shown: Sequence[Shown]) -> float:
    """Return the density drawn at full strength on an image, the same for all systems so that they can be compared."""
    peaks = [crowded(smoothed(entry.maps[name])) for entry in shown if name in entry.maps]
    return float(np.median(peaks)) if peaks else 0.0


def crowded(density: np.ndarray) -> float:
    """Return the density above which a fifth of a map's objects lie, a scale for sparse and crowded images alike."""
    values = np.sort(np.nan_to_num(density).clip(min=0), axis=None)[::-1]
    share = np.cumsum(values)
    return float(values[np.searchsorted(share, BRIGHTEST_SHARE * share[-1])]) if share[-1] > 0 else 0.0


def smoothed(density: np.ndarray) -> np.ndarray:
    """Blur a map as wide as a small picture can show, for display only: single cells would vanish."""
    return gaussian_filter(np.nan_to_num(density), sigma=density.shape[-1] * BLUR, mode="reflect")


def _card(entry: Shown, photo: Photo, rank: str, top: float) -> Card:
    mine = entry.predictions[entry.predictions["id"] == photo.id]
    predicted = float(mine["predicted_count"].iloc[0]) if len(mine) else float("nan")
    density = entry.maps.get(photo.id)
    overlay = overlay_uri(smoothed(density), top) if density is not None else ""
    return Card(photo, entry.label, rank, photo.count, predicted, overlay)
