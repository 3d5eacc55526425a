"""The picture browser: every picture that was predicted, with the truth, every system's count and its map.

The page holds no data. Beside it, ``browse/<benchmark>/data.js`` has what search, filters and sorting need; points come
in files of a few hundred kilobytes, a small photograph and a strip of all maps of a picture lie in files of their own
and are read when they are seen. Script files, because a page from disk may not fetch; nothing else is asked for.
Photographs and points are shown only where the data set's licence lets them be published.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from recount import datasets
from recount.report.exhibits import Variant
from recount.report.gallery import crowded, decoded, map_png, photo_of
from recount.report.pages.site import Page
from recount.report.sections import predictions_of
from recount.report.sources import Place, Sources
from recount.report.words import said

FOLDER, DATA = "browse", "data.js"
PHOTO, TILE = 320, 64  # pixels of a photograph's width, and of the longer side of a map
POINTS_BYTES = 300_000  # of a file of points, about
Wanted = tuple[Variant, str]  # a variant that a paper shows, and which of its weights


@dataclass(frozen=True, slots=True)
class Shown:
    """A benchmark in the browser, as its choice names it."""

    slug: str
    title: str
    pictures: int
    notice: str


@dataclass(slots=True)
class _Tiles:
    """Maps of one picture, small: shares of each one's own peak, 0 to 255, uint8 [h, w]."""

    systems: list[int] = field(default_factory=list)
    shares: list[np.ndarray] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)  # objects per picture area
    crowded: list[float] = field(default_factory=list)  # what is drawn at full strength (``gallery.crowded``)

    def add(self, system: int, density: np.ndarray, size: tuple[int, int]) -> None:
        """Add a density map [h, w], objects per cell; maps of other resolutions mean the same after it."""
        per_area = np.nan_to_num(density, posinf=0.0, neginf=0.0).clip(min=0).astype(np.float32) * density.size
        small = np.asarray(Image.fromarray(per_area).resize(size, Image.Resampling.BILINEAR))
        peak = float(small.max())
        self.systems.append(system)
        self.peaks.append(peak)
        self.shares.append((small * (255 / peak if peak > 0 else 0)).round().astype(np.uint8))
        self.crowded.append(crowded(small))

    def strip(self) -> bytes:
        """Return all maps below each other as a PNG, each with its first and last row once more; one scale for all."""
        top = float(np.median([value for value in self.crowded if value > 0] or [1.0]))
        shares = [
            np.sqrt(np.clip(tile * (peak / 255 / top), 0, 1))
            for tile, peak in zip(self.shares, self.peaks, strict=True)
        ]
        return map_png(
            np.concatenate([np.pad(tile, ((1, 1), (0, 0)), "edge") for tile in shares]), "inferno", transparent=True
        )


def browse_page(sources: Sources, folder: Path, wanted: Sequence[Wanted]) -> Page | None:
    """Write the browser's files below ``folder`` and return its page; None where nothing was predicted."""
    shown = [found for place in sources.places() if (found := _write(sources, folder, place, wanted))]
    content = {"shown": shown, "folder": FOLDER, "data": DATA}
    return (
        Page("browse.html", "Browse pictures", "browse.html.j2", ("browse",), (), content, False, script="browse.js")
        if shown
        else None
    )


def _write(sources: Sources, folder: Path, place: Place, wanted: Sequence[Wanted]) -> Shown | None:
    """Write the files of a benchmark."""
    samples = sources.samples(place.dataset, place.preparation)
    systems = list(_systems(sources, place, wanted))
    ids = list(dict.fromkeys(name for system in systems for name in system["predicted"].index if name in samples.index))
    if not ids:
        return None
    slug = f"{place.dataset}-{place.split}".replace("+", "-")
    target = folder / FOLDER / slug
    target.mkdir(parents=True)
    card = datasets.load(place.dataset) if place.dataset in datasets.names() else None
    shows = card is None or card.may_be_shown
    mine = samples.loc[ids].fillna({"width": 0, "height": 0})  # of what has no picture
    tiles = _tiles(sources, place, systems, mine)
    for number, name in enumerate(ids):
        if name in tiles:
            (target / f"{number}.png").write_bytes(tiles[name].strip())
    photos, chunks = _photos(sources, target, mine) if shows else (set[int](), [])
    strips = list({tuple(found.systems): None for found in tiles.values()})
    tags = [_tags(text) for text in mine["attributes"]]
    names = _numbered(tag for found in tags for tag in found)
    prompts = _numbered(mine["prompt"])
    data = {
        "slug": slug,
        "ids": ids,
        "prompts": list(prompts),
        "prompt": [prompts[prompt] for prompt in mine["prompt"]],
        "classes": list(names),
        "shows": [[names[tag] for tag in found] for found in tags],
        "true": _short(mine["count"]),
        "width": [int(width) for width in mine["width"]],
        "height": [int(height) for height in mine["height"]],
        "photos": "all" if len(photos) == len(ids) else sorted(photos),
        "points": chunks,  # of each file the first picture in it
        "strips": strips,
        "strip": [strips.index(tuple(tiles[name].systems)) if name in tiles else -1 for name in ids],
        "tile": TILE,
        "systems": [
            {key: system[key] for key in ("label", "run", "weights")}
            | {"counts": _short(system["predicted"].reindex(ids))}
            for system in systems
        ],
    }
    _script(target / DATA, "set", data)
    notice = "" if shows else said("browse_unpublishable", dataset=place.dataset)
    benchmarks = [name for name in sources.project.stand_ins if sources.project.place(name) == str(place)]
    also = f", which stands for {', '.join(benchmarks)}" if benchmarks != [str(place)] else ""
    return Shown(slug, f"{place}{also}", len(ids), notice)


def _systems(sources: Sources, place: Place, wanted: Sequence[Wanted]) -> Iterator[dict[str, Any]]:
    """Yield each system that was evaluated on a benchmark once: label, run, weights, counts by id, where maps are."""
    known = set[tuple[str, str]]()
    for variant, selection in wanted:
        key = sources.evaluated_as(variant.key)
        if key not in known and (found := predictions_of(sources, place, variant, selection)) is not None:
            known.add(key)
            seed, chosen, predictions = found
            counts = predictions.drop_duplicates("id").set_index("id")["predicted_count"]
            yield {"label": variant.label, "run": f"{'/'.join(key)}/seed{seed}", "weights": chosen, "predicted": counts,
                   "maps": (*key, seed, chosen)}  # fmt: skip


def _tiles(
    sources: Sources, place: Place, systems: Sequence[Mapping[str, Any]], mine: pd.DataFrame
) -> dict[str, _Tiles]:
    """Return the small maps of each picture that has any; of one system at a time, whose maps fill memory."""
    found = dict[str, _Tiles]()
    sizes = {name: _size(row.width, row.height) for name, row in mine.iterrows()}
    for number, system in enumerate(systems):
        for name, density in sources.maps(place, *system["maps"]).items():
            if name in sizes and density.ndim == 2 and density.size:
                found.setdefault(name, _Tiles()).add(number, density, sizes[name])
    return found


def _size(width: float, height: float) -> tuple[int, int]:
    longer = max(width, height, 1)
    return max(1, int(TILE * width / longer + 0.5)), max(1, int(TILE * height / longer + 0.5))  # as browsers round


def _photos(sources: Sources, target: Path, mine: pd.DataFrame) -> tuple[set[int], list[int]]:
    """Write photographs and points; return which pictures have one, and where each file of points begins."""
    there, chunks = set[int](), [0]
    points, size = list[str](), 0
    for number, name in enumerate(mine.index):
        photo = photo_of(sources, mine, name, "", PHOTO)
        if photo is not None and photo.uri:
            (target / f"{number}.jpg").write_bytes(decoded(photo.uri))
            there.add(number)
        if size > POINTS_BYTES:
            _script(
                target / f"points-{chunks[-1]}.js",
                "points",
                {"slug": target.name, "first": chunks[-1], "paths": points},
            )
            chunks, points, size = [*chunks, number], [], 0
        points.append(photo.points if photo else "")
        size += len(points[-1])
    _script(target / f"points-{chunks[-1]}.js", "points", {"slug": target.name, "first": chunks[-1], "paths": points})
    return there, chunks


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    return {text: number for number, text in enumerate(sorted(set(texts)))}


def _tags(attributes: str) -> list[str]:
    """Return what a sample's attributes say that it shows: classes, scenes."""
    try:
        said_of = json.loads(attributes or "{}")
    except ValueError:
        return []
    values = [value for value in said_of.values() if isinstance(value, str)] if isinstance(said_of, dict) else []
    counts = said_of.get("counts") if isinstance(said_of, dict) else None
    return sorted({*values, *(counts if isinstance(counts, dict) else ())})


def _short(values: pd.Series) -> list[float | None]:
    """Return numbers with the digits that a picture's count deserves; None for what is not finite."""
    return [
        None if not np.isfinite(value) else round(value, 1) if abs(value) < 1000 else round(value)
        for value in map(float, values)
    ]


def _script(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    text = json.dumps(
        content, separators=(",", ":"), allow_nan=False
    )  # ASCII: no character means anything to a browser
    path.write_text(f'browse("{kind}",{text});\n', encoding="ascii")
