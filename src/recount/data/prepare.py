"""``recount prepare``: a fetched data set into pictures, points and ``index.csv`` at a method's size.

Every picture is decoded once and every annotation checked; all defects are collected and named in one error. What is
written (below ``resources/data/<dataset>/<preparation>/``):

* ``index.csv``: one row per sample (``recount.data.index``); ``points/<id>.npy`` and ``boxes/<id>.npy``, float32;
* ``images/``: pictures as the size rule saves them. "original" keeps the published bytes: a hard link to the raw file
  where the file system allows it, a copy elsewhere, so that the folder is complete and no path leads out of it;
* ``summary.json``: what was found (totals, points outside, coincident, repaired pictures) and the data digest;
  ``raw.csv``: the raw files behind it (``recount.results.prepared``).

The folder appears under its name only when it is complete.
"""

import hashlib
import io
import json
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from recount.data.checks import MOST_OUTSIDE, SAFE_ID, Placed, outside_defects, sample_defects, splits_of
from recount.data.dataset import DataError, Dataset
from recount.data.digests import raw_files
from recount.data.health import Defects
from recount.data.index import COLUMNS
from recount.data.pictures import Picture, read_picture, resize, save
from recount.data.sample import ORIGINAL_COUNT, RawSample
from recount.data.size_rules import SizeRule, place_points
from recount.results.files import file_digest, shared_lock, write_rows
from recount.results.prepared import RAW, RAW_FILES, SUMMARY, Pictures, RawFiles, Samples, Summary

_THREADS = 2  # that decode, resize and save pictures
_Source = Path | Callable[[], Image.Image]


class _Prepared(NamedTuple):
    path: str  # relative to the index's folder
    size: tuple[int, int]  # before and after
    new_size: tuple[int, int]
    grey: bool  # and what else was noticed, as in ``Picture``
    turned: bool
    transparent: bool
    repaired: bool
    lost: float
    sha256: str  # of the prepared file
    raw_sha256: str  # of the file that it was made from; "" if a function drew it


def prepare(dataset: Dataset, preparation: str, raw_root: Path, data_root: Path, accept: str = "") -> Path:
    """Prepare ``raw_root/<dataset>`` into ``data_root/<dataset>/<preparation>`` and return the path of its index.

    ``accept`` says why more points than usual may lie outside their pictures ("": as the data set says). A
    ``DataError`` lists all missing files, broken pictures, impossible annotations, wrong totals; nothing is written.
    """
    dataset.check_preparation(preparation)
    rule = dataset.preparations[preparation]
    target = data_root / dataset.name / preparation
    target.parent.mkdir(parents=True, exist_ok=True)
    with shared_lock(target.parent / f".{preparation}.lock"), _replacing(target) as folder:
        defects = Defects()
        samples = _read(dataset, raw_root / dataset.name, rule, defects)
        pictures = _write_pictures(dataset, samples, rule, folder, defects)
        read = {source: picture.raw_sha256 for source, picture in pictures.items() if isinstance(source, Path)}
        raw = raw_files(dataset, raw_root, read, defects)
        if not defects.lines:
            _check_totals(dataset, samples, defects)
        placed = [_placed(sample, pictures, rule) for sample in samples if not sample.image or sample.image in pictures]
        summary = _summary(dataset, rule, placed, pictures, accept or dataset.accept)
        for line in outside_defects(summary, placed, rule):
            defects.add(line)
        if count := len(defects.lines):
            how = "" if dataset.embedded else f"; delete a file that is broken, and `recount fetch {dataset.name}`"
            title = f"{dataset.name}: {count} defect{'s' if count > 1 else ''}; nothing was prepared{how}"
            raise DataError("\n".join([title, *defects.lines]))
        _write_index(placed, pictures, rule, folder)
        RAW_FILES.write(folder / RAW, raw)
        summary.data_digest = file_digest(folder / "index.csv")
        summary.raw = RawFiles(
            folder=os.path.relpath(raw_root, target), files=len(raw), sha256=file_digest(folder / RAW)
        )
        summary.write(folder / SUMMARY)
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
            name = str(getattr(sample, "id", sample))
            where = f"{dataset.name}, sample {name!r}"
            wrong = ["the id occurs twice"] if name in ids else []
            ids.add(name)
            with defects.collected(where):
                wrong += sample_defects(sample, dataset, rule)
                if not wrong:
                    samples.append(sample)
            for line in wrong:
                defects.add(f"{where}: {line}")
    if not samples and not defects.lines:
        defects.add(f"{raw}: no sample was found")
    return samples


def _check_totals(dataset: Dataset, samples: Sequence[RawSample], defects: Defects) -> None:
    why = "files are missing, or this is another edition of the data set"
    for split, expected in dataset.totals.items():
        found = _totals([sample for sample in samples if split == "all" or split in splits_of(sample)])
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


def _write_pictures(
    dataset: Dataset, samples: Sequence[RawSample], rule: SizeRule, folder: Path, defects: Defects
) -> dict[_Source, _Prepared]:
    (folder / "images").mkdir()

    def written(job: tuple[_Source, str]) -> _Prepared | Exception:
        try:
            return _write_picture(*job, rule, folder, lenient=dataset.lenient)
        except Exception as error:  # told below, with all others
            return error

    jobs = list(_names(samples).items())
    pictures: dict[_Source, _Prepared] = {}
    console, title = Console(file=sys.stderr), f"{dataset.name}/{rule.name}"
    with ThreadPoolExecutor(max_workers=_THREADS) as threads:
        results = threads.map(written, jobs)
        shown = track(results, title, len(jobs), console=console, disable=not console.is_terminal, transient=True)
        for (source, name), outcome in zip(jobs, shown, strict=True):
            if isinstance(outcome, _Prepared):
                pictures[source] = outcome
                continue
            with defects.collected(source if isinstance(source, Path) else f"{dataset.name}, picture of {name!r}"):
                raise outcome
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
        if isinstance(source, Path) and stems[source.stem] == 1 and SAFE_ID.fullmatch(source.stem)
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
        sha256 = picture.sha256
    else:
        encoding = "png" if rule.encoding == "source" else rule.encoding
        relative = f"images/{name}.{'png' if encoding == 'png' else 'jpg'}"
        resized = resize(picture.image, new_size, rule.resample, antialias=rule.antialias)
        sha256 = save(resized, folder / relative, encoding)
    noticed = (picture.grey, picture.turned, picture.transparent, picture.repaired, picture.lost)
    return _Prepared(relative, size, new_size, *noticed, sha256, picture.sha256)


def _placed(sample: RawSample, pictures: dict[_Source, _Prepared], rule: SizeRule) -> Placed:
    size = pictures[sample.image].size if sample.image is not None else None
    return Placed(sample, place_points(rule, sample.points, size), size)


def _write_index(samples: Sequence[Placed], pictures: dict[_Source, _Prepared], rule: SizeRule, folder: Path) -> None:
    (folder / "points").mkdir()
    (folder / "boxes").mkdir()
    rows = (_row(one, pictures[one.sample.image] if one.sample.image else None, rule, folder) for one in samples)
    write_rows(folder / "index.csv", COLUMNS, ([*map(str, row)] for row in rows))


def _summary(
    dataset: Dataset,
    rule: SizeRule,
    samples: Sequence[Placed],
    pictures: dict[_Source, _Prepared],
    accept: str,
) -> Summary:
    made = sorted(pictures.values(), key=lambda picture: picture.path)
    whole = _samples_summary(samples)
    splits = {
        split: _samples_summary([one for one in samples if split in splits_of(one.sample)]) for split in dataset.splits
    }
    outside = any(found.share_outside > MOST_OUTSIDE for found in (whole, *splits.values()))
    return Summary(
        dataset=dataset.name,
        preparation=rule.name,
        title=dataset.title,
        licence=dataset.licence,
        publishable=dataset.publishable,
        size_rule=rule.source,
        points_outside_are="kept" if rule.keep_outside else "dropped",
        accepted=accept if outside else "",
        whole=whole,
        splits=splits,
        pictures=Pictures(
            number=len(made),
            grey=sum(picture.grey for picture in made),
            resized=sum(picture.size != picture.new_size for picture in made),
            with_unapplied_exif_orientation=[picture.path for picture in made if picture.turned],
            transparent=[picture.path for picture in made if picture.transparent],
            repaired={picture.path: picture.lost for picture in made if picture.repaired},
        ),
    )


def _count(one: Placed) -> float:
    """Return the count after the rule dropped or merged points; a count that is not the number of points stays."""
    return len(one.placed.points) if one.sample.count == len(one.sample.points) else one.sample.count


def _row(one: Placed, picture: _Prepared | None, rule: SizeRule, folder: Path) -> tuple[str | int, ...]:
    sample, placed, _ = one
    attributes = dict(sample.attributes)
    if picture and picture.repaired:
        attributes["filled_with_grey"] = round(picture.lost, 3)  # share of the rows
    if placed.outside:
        attributes["points_outside"] = placed.outside
    if len(placed.points) != len(sample.points):
        attributes[ORIGINAL_COUNT] = sample.count
    boxes = sample.boxes
    if boxes is not None and picture is not None:
        boxes = boxes * (rule.scale(picture.size) * 2)
    points, points_sha256 = _saved(placed.points if len(placed.points) else None, "points", sample.id, folder)
    boxes_file, boxes_sha256 = _saved(boxes, "boxes", sample.id, folder)
    return (
        sample.id,
        sample.split,
        picture.path if picture else "",
        sample.prompt,
        f"{_count(one):.17g}",
        *(picture.new_size if picture else (0, 0)),
        points,
        boxes_file,
        json.dumps(attributes, ensure_ascii=False, sort_keys=True) if attributes else "",
        picture.sha256 if picture else "",
        points_sha256,
        boxes_sha256,
    )


def _saved(array: np.ndarray | None, kind: str, name: str, folder: Path) -> tuple[str, str]:
    """Write an array, if there is one; return its path and SHA-256."""
    if array is None:
        return "", ""
    stream = io.BytesIO()
    np.save(stream, array.astype("<f4"), allow_pickle=False)
    (folder / kind / f"{name}.npy").write_bytes(stream.getbuffer())
    return f"{kind}/{name}.npy", hashlib.sha256(stream.getbuffer()).hexdigest()


def _samples_summary(samples: Sequence[Placed]) -> Samples:
    counts = [_count(one) for one in samples if not math.isnan(one.sample.count)]
    raw = [one.sample for one in samples]
    with_points = any(len(sample.points) for sample in raw)
    return Samples(
        **_totals(raw),
        points_prepared=sum(len(one.placed.points) for one in samples),
        points_outside=sum(one.placed.outside for one in samples),
        points_coincident=sum(one.placed.coincident for one in samples),
        points_merged=sum(one.placed.merged for one in samples),
        counts_that_are_not_points=sum(
            with_points and not math.isnan(sample.count) and sample.count != len(sample.points) for sample in raw
        ),
        count_prepared=sum(counts),
        count_min=min(counts, default=None),
        count_median=float(np.median(counts)) if counts else None,
        count_mean=float(np.mean(counts)) if counts else None,
        count_max=max(counts, default=None),
        samples_with_points_outside={one.sample.id: one.placed.outside for one in samples if one.placed.outside},
        samples_mostly_outside=[
            one.sample.id for one in samples if one.placed.outside > MOST_OUTSIDE * len(one.sample.points)
        ],
    )
