"""``recount prepare``: a fetched data set into pictures, points and ``index.csv`` at a method's size.

Every picture is decoded once and every annotation checked; all defects are collected and named in one error. What is
written (below ``resources/data/<dataset>/<preparation>/``):

* ``index.csv``: one row per sample (``recount.data.index``); ``points/<id>.npy`` and ``boxes/<id>.npy``, float32;
* ``images/``: pictures as the size rule saves them. "original" keeps the published bytes: a hard link to the raw file
  where the file system allows it, a copy elsewhere, so that the folder is complete and no path leads out of it;
* ``summary.json``: what was found (totals, points outside, coincident, repaired pictures) and the digest of the data.

The folder appears under its name only when it is complete.
"""

import csv
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from PIL import Image
from rich.console import Console
from rich.progress import track

from recount.data.dataset import DataError, Dataset
from recount.data.health import Defects
from recount.data.index import COLUMNS
from recount.data.pictures import Picture, read_picture, resize, save
from recount.data.sample import HIDDEN, LISTS, ORIGINAL_COUNT, RawSample
from recount.data.size_rules import PlacedPoints, SizeRule, place_points

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_THREADS = 2  # that decode, resize and save pictures
_NOTICED = ("outside", "coincident", "merged")  # of points; see PlacedPoints
# No picture has an edge of this many pixels; a coordinate beyond is a broken annotation, not a point outside.
_FARTHEST = 100_000
_Source = Path | Callable[[], Image.Image]


class _Prepared(NamedTuple):
    path: str  # relative to the index's folder
    size: tuple[int, int]  # before and after
    new_size: tuple[int, int]
    grey: bool  # and what else was noticed, as in ``Picture``
    turned: bool
    repaired: bool


def prepare(dataset: Dataset, preparation: str, raw_root: Path, data_root: Path) -> Path:
    """Prepare ``raw_root/<dataset>`` into ``data_root/<dataset>/<preparation>`` and return the path of its index.

    A ``DataError`` lists all missing files, broken pictures, impossible annotations, wrong totals; nothing is written.
    """
    if preparation not in dataset.preparations:
        known = ", ".join(dataset.preparations)
        raise DataError(f"{dataset.name}: there is no preparation {preparation!r}; there are: {known}")
    rule = dataset.preparations[preparation]
    target = data_root / dataset.name / preparation
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{preparation}.lock"), _replacing(target) as folder:
        defects = Defects()
        samples = _read(dataset, raw_root / dataset.name, rule, defects)
        pictures = _write_pictures(dataset, samples, rule, folder, defects)
        if not defects.lines:
            _check_totals(dataset, samples, defects)
        if count := len(defects.lines):
            title = f"{dataset.name}: {count} defect{'s' if count > 1 else ''}; nothing was prepared"
            raise DataError("\n".join([title, *defects.lines]))
        _write(dataset, rule, samples, pictures, folder)
    return target / "index.csv"


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give an empty folder that takes the place of ``target`` if the context ends without an error."""
    partial = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(dataset: Dataset, raw: Path, rule: SizeRule, defects: Defects) -> list[RawSample]:
    samples: list[RawSample] = []
    ids: set[str] = set()
    with defects.collected():
        for sample in dataset.read(raw):
            wrong = list(_annotation_defects(sample, dataset, rule))
            if sample.id in ids:
                wrong.append("the id occurs twice")
            ids.add(sample.id)
            for line in wrong:
                defects.add(f"{dataset.name}, sample {sample.id!r}: {line}")
            if not wrong:
                samples.append(sample)
    if not samples and not defects.lines:
        defects.add(f"{raw}: no sample was found")
    return samples


def _annotation_defects(sample: RawSample, dataset: Dataset, rule: SizeRule) -> Iterator[str]:
    if not _SAFE_ID.fullmatch(sample.id):
        yield "the id is not safe as a file name (letters, digits, '_', '.', '+', '-')"
    for split in _splits(sample):
        if split not in dataset.splits:
            yield f"split {split!r} is none of {', '.join(dataset.splits)}"
    hidden = bool(sample.attributes.get(HIDDEN)) and math.isnan(sample.count)
    if not hidden and not (math.isfinite(sample.count) and sample.count >= 0):
        yield f"the count is {sample.count}; it must be a number of at least 0"
    yield from _coordinate_defects("points", sample.points, 2)
    if sample.boxes is not None:
        yield from _coordinate_defects("boxes", sample.boxes, 4)
    if sample.image is None and rule.encoding != "source":
        yield f"there is no picture, so preparation {rule.name!r} cannot scale its points; use 'original'"


def _coordinate_defects(what: str, values: np.ndarray, columns: int) -> Iterator[str]:
    if values.ndim != 2 or values.shape[1] != columns:
        yield f"{what} have shape {values.shape}, expected (n, {columns})"
        return
    broken = ~np.isfinite(values)
    huge = np.abs(np.where(broken, 0, values)) > _FARTHEST
    for wrong, how in ((broken, "NaN or infinite"), (huge, f"beyond {_FARTHEST:,} pixels")):
        if wrong.any():
            yield f"{int(wrong.any(axis=1).sum())} of {len(values)} {what} are {how}"


def _check_totals(dataset: Dataset, samples: Sequence[RawSample], defects: Defects) -> None:
    why = "files are missing, or this is another edition of the data set"
    for split, expected in dataset.totals.items():
        found = _totals([sample for sample in samples if split == "all" or split in _splits(sample)])
        for key, value in expected.items():
            if found[key] != value:
                defects.add(f"{dataset.name}, {split}: {key} {found[key]:,} instead of {value:,}: {why}")


def _totals(samples: Sequence[RawSample]) -> dict[str, float]:
    return {
        "samples": len(samples),
        "images": len({sample.image or sample.id for sample in samples}),
        "points": sum(len(sample.points) for sample in samples),
        "boxes": sum(len(sample.boxes) for sample in samples if sample.boxes is not None),
        "count": sum(sample.count for sample in samples if not math.isnan(sample.count)),
    }


def _splits(sample: RawSample) -> tuple[str, ...]:
    return (sample.split, *sample.attributes.get(LISTS, ()))


def _write_pictures(
    dataset: Dataset, samples: Sequence[RawSample], rule: SizeRule, folder: Path, defects: Defects
) -> dict[_Source, _Prepared]:
    (folder / "images").mkdir()

    def written(job: tuple[_Source, str]) -> _Prepared | DataError:
        try:
            return _write_picture(*job, rule, folder, lenient=dataset.lenient)
        except DataError as error:
            return error

    jobs = list(_names(samples).items())
    pictures: dict[_Source, _Prepared] = {}
    console, title = Console(file=sys.stderr), f"{dataset.name}/{rule.name}"
    with ThreadPoolExecutor(max_workers=_THREADS) as threads:
        results = threads.map(written, jobs)
        shown = track(results, title, len(jobs), console=console, disable=not console.is_terminal, transient=True)
        for (source, _), outcome in zip(jobs, shown, strict=True):
            if isinstance(outcome, DataError):
                defects.add(str(outcome))
            else:
                pictures[source] = outcome
    return pictures


def _names(samples: Sequence[RawSample]) -> dict[_Source, str]:
    """Return a name for every different picture: its own where safe and the only one, else its first sample's id."""
    by_id: dict[_Source, str] = {}
    for sample in samples:
        if sample.image is not None:
            by_id.setdefault(sample.image, sample.id)
    stems = Counter(source.stem for source in by_id if isinstance(source, Path))
    names = {
        source: source.stem
        if isinstance(source, Path) and stems[source.stem] == 1 and _SAFE_ID.fullmatch(source.stem)
        else sample_id
        for source, sample_id in by_id.items()
    }
    return names if len(set(names.values())) == len(names) else by_id


def _write_picture(source: _Source, name: str, rule: SizeRule, folder: Path, *, lenient: bool) -> _Prepared:
    picture = read_picture(source, lenient=lenient) if isinstance(source, Path) else Picture(source().convert("RGB"))
    size = picture.image.size
    new_size = rule.new_size(*size)
    if rule.encoding == "source" and isinstance(source, Path) and not picture.repaired:
        relative = f"images/{name}{source.suffix.lower()}"
        try:
            os.link(source.resolve(), folder / relative)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, folder / relative)
    else:
        encoding = "png" if rule.encoding == "source" else rule.encoding
        relative = f"images/{name}.{'png' if encoding == 'png' else 'jpg'}"
        save(resize(picture.image, new_size, rule.resample, antialias=rule.antialias), folder / relative, encoding)
    return _Prepared(relative, size, new_size, picture.grey, picture.turned, picture.repaired)


def _write(
    dataset: Dataset, rule: SizeRule, samples: Sequence[RawSample], pictures: dict[_Source, _Prepared], folder: Path
) -> None:
    (folder / "points").mkdir()
    (folder / "boxes").mkdir()
    found = [pictures[sample.image] if sample.image is not None else None for sample in samples]
    placed = [place_points(rule, s.points, picture and picture.size) for s, picture in zip(samples, found, strict=True)]
    with (folder / "index.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_row(*row, rule, folder) for row in zip(samples, placed, found, strict=True))
    summary = {
        "dataset": dataset.name,
        "title": dataset.title,
        "licence": dataset.licence,
        "publishable": dataset.publishable,
        "preparation": rule.name,
        "size_rule": rule.source,
        "points_outside_are": "kept" if rule.keep_outside else "dropped",
        "sha256": _digest(folder),
        "splits": {split: _split_summary(split, samples, placed) for split in dataset.splits},
        "pictures": {
            "number": len(pictures),
            "grey": sum(picture.grey for picture in pictures.values()),
            "with_unapplied_exif_orientation": sorted(picture.path for picture in pictures.values() if picture.turned),
            "repaired": sorted(picture.path for picture in pictures.values() if picture.repaired),
            "resized": sum(picture.size != picture.new_size for picture in pictures.values()),
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _count(sample: RawSample, placed: PlacedPoints) -> float:
    """Return the count after the rule dropped or merged points; a count that is not the number of points stays."""
    return len(placed.points) if sample.count == len(sample.points) else sample.count


def _row(
    sample: RawSample, placed: PlacedPoints, picture: _Prepared | None, rule: SizeRule, folder: Path
) -> tuple[str | int, ...]:
    attributes = dict(sample.attributes)
    if placed.outside:
        attributes["points_outside"] = placed.outside
    if len(placed.points) != len(sample.points):
        attributes[ORIGINAL_COUNT] = sample.count
    boxes = sample.boxes
    if boxes is not None and picture is not None:
        boxes = boxes * (rule.scale(picture.size) * 2)
    return (
        sample.id,
        sample.split,
        picture.path if picture else "",
        sample.prompt,
        f"{_count(sample, placed):.17g}",
        *(picture.new_size if picture else (0, 0)),
        _saved(placed.points, "points", sample.id, folder) if len(placed.points) else "",
        _saved(boxes, "boxes", sample.id, folder) if boxes is not None else "",
        json.dumps(attributes, ensure_ascii=False, sort_keys=True) if attributes else "",
    )


def _saved(array: np.ndarray, kind: str, name: str, folder: Path) -> str:
    np.save(folder / kind / f"{name}.npy", array.astype("<f4"), allow_pickle=False)
    return f"{kind}/{name}.npy"


def _digest(folder: Path) -> str:
    """Return the sha256 over the index, the points and the boxes, in the order of their names."""
    digest = hashlib.sha256()
    for file in (folder / "index.csv", *sorted(folder.glob("points/*")), *sorted(folder.glob("boxes/*"))):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _split_summary(split: str, samples: Sequence[RawSample], placed: Sequence[PlacedPoints]) -> dict[str, Any]:
    chosen = [pair for pair in zip(samples, placed, strict=True) if split in _splits(pair[0])]
    counts = [_count(sample, points) for sample, points in chosen if not math.isnan(sample.count)]
    return {
        **_totals([sample for sample, _ in chosen]),
        "points_prepared": sum(len(points.points) for _, points in chosen),
        **{f"points_{what}": sum(getattr(points, what) for _, points in chosen) for what in _NOTICED},
        "count_prepared": sum(counts),
        "count_min": min(counts, default=None),
        "count_median": float(np.median(counts)) if counts else None,
        "count_mean": float(np.mean(counts)) if counts else None,
        "count_max": max(counts, default=None),
        "samples_with_points_outside": [sample.id for sample, points in chosen if points.outside],
    }
