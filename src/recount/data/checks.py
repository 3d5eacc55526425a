"""What must be true of samples before they are prepared, and what is told of them afterwards."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recount.data.dataset import Dataset
from recount.data.sample import HIDDEN, LISTS, RawSample
from recount.data.size_rules import PlacedPoints, Size, SizeRule, place_points
from recount.results.prepared import Samples, Summary

SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
TOLD_OUTSIDE, MOST_OUTSIDE = 0.01, 0.2  # shares of points outside their picture: said aloud; refused without a reason
# No picture has an edge of this many pixels; a coordinate beyond is a broken annotation, not a point outside.
_FARTHEST = 100_000
_NAMED = 5  # samples or pictures in one line


class Placed(NamedTuple):
    """A sample with its points in the prepared picture; the size of the raw picture, None without one."""

    sample: RawSample
    placed: PlacedPoints
    size: Size | None


def splits_of(sample: RawSample) -> tuple[str, ...]:
    """Return the split and the lists that a sample is in."""
    return (sample.split, *sample.attributes.get(LISTS, ()))


def sample_defects(sample: RawSample, dataset: Dataset, rule: SizeRule) -> Iterator[str]:
    """Yield what is wrong with a sample that a reader gave, of whatever types its parts are."""
    if not isinstance(sample, RawSample):
        yield f"a {type(sample).__name__} is no RawSample"
        return
    if not (isinstance(sample.id, str) and SAFE_ID.fullmatch(sample.id)):
        yield "the id is not safe as a file name (letters, digits, '_', '.', '+', '-')"
    if unwritable := _unwritable(sample):
        yield f"{unwritable}: it cannot be written as text"
        return
    for split in splits_of(sample):
        if split not in dataset.splits:
            yield f"split {split!r} is none of {', '.join(dataset.splits)}"
    number = isinstance(sample.count, int | float | np.integer | np.floating)
    hidden = number and bool(sample.attributes.get(HIDDEN)) and math.isnan(sample.count)
    if not hidden and not (number and math.isfinite(sample.count) and sample.count >= 0):
        yield f"the count is {sample.count!r}; it must be a number of at least 0"
    yield from _coordinate_defects("points", sample.points, 2)
    if sample.boxes is not None:
        yield from _coordinate_defects("boxes", sample.boxes, 4)
    if not (sample.image is None or isinstance(sample.image, Path) or callable(sample.image)):
        yield f"the picture is a {type(sample.image).__name__}; it must be a Path, a function or None"
    if sample.image is None and rule.encoding != "source":
        yield f"there is no picture, so preparation {rule.name!r} cannot scale its points; use 'original'"


def _unwritable(sample: RawSample) -> str:
    """Return what of a sample's texts UTF-8 or JSON do not have, such as half a surrogate pair; "" for nothing."""
    for name in ("split", "prompt", "attributes"):
        value = getattr(sample, name)
        try:
            if name == "attributes":
                json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()
                assert isinstance(value, dict)
                assert all(isinstance(split, str) for split in value.get(LISTS, ()))
            else:
                value.encode()
        except (AssertionError, AttributeError, TypeError, ValueError, RecursionError):
            return f"{name} = {repr(value)[:60]}"
    return ""


def _coordinate_defects(what: str, values: Any, columns: int) -> Iterator[str]:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        yield f"{what} are a {getattr(values, 'dtype', type(values).__name__)}, expected an array of numbers"
        return
    if values.ndim != 2 or values.shape[1] != columns:
        turned = "; rows and columns seem to be exchanged" if values.ndim == 2 and len(values) == columns else ""
        yield f"{what} have shape {values.shape}, expected (n, {columns}){turned}"
        return
    broken = ~np.isfinite(values)
    huge = np.abs(np.where(broken, 0, values)) > _FARTHEST
    for wrong, how in ((broken, "NaN or infinite"), (huge, f"beyond {_FARTHEST:,} pixels")):
        if wrong.any():
            yield f"{int(wrong.any(axis=1).sum())} of {len(values)} {what} are {how}"


def outside_defects(summary: Summary, samples: Sequence[Placed], rule: SizeRule) -> Iterator[str]:
    """Yield what is wrong if more points lie outside their pictures than anybody has accepted."""
    of = {"": summary.whole} if summary.whole.share_outside > MOST_OUTSIDE else summary.splits
    for split, found in of.items():
        if found.share_outside > MOST_OUTSIDE and not summary.accepted:
            own = [one for one in samples if one.placed.outside and (not split or split in splits_of(one.sample))]
            exchanged = sum(place_points(rule, one.sample.points[:, ::-1], one.size).outside for one in own)
            hint = f"; with x and y exchanged it would be {exchanged:,}" if exchanged < found.points_outside / 2 else ""
            yield (
                f"{summary.dataset}{f', {split}' if split else ''}: {_outside(found)}{hint}; more than "
                f"{MOST_OUTSIDE:.0%} are refused. Is the annotation of these pictures? If it is right, say why in "
                f"config.yaml: accept: {{{summary.dataset}: <the reason>}}"
            )


def told(summary: Summary) -> Iterator[str]:
    """Yield the health of a prepared data set in lines for people: first its size, then what is odd about it."""
    whole, pictures = summary.whole, summary.pictures
    share = f", {whole.share_outside:.2%} of them outside their picture" if whole.points else ""
    size = f"{whole.samples:,} samples, {pictures.number:,} pictures, {whole.points:,} points{share}"
    yield f"{summary.dataset}/{summary.preparation}: {size}"
    if whole.share_outside > TOLD_OUTSIDE:
        yield f"  {_outside(whole)}: {summary.points_outside_are}"
    elif whole.samples_mostly_outside:
        some = _some(whole.samples_mostly_outside)
        yield f"  more than {MOST_OUTSIDE:.0%} of the points lie outside the picture in {some}"
    if summary.accepted:
        yield f"  accepted, because: {summary.accepted}"
    if whole.points_coincident:
        merged = f", {whole.points_merged:,} merged" if whole.points_merged else ""
        yield f"  {whole.points_coincident:,} points are at the place of another one{merged}"
    if whole.counts_that_are_not_points:
        yield f"  {whole.counts_that_are_not_points:,} samples have a count that is not the number of their points"
    repaired = [f"{name} ({lost:.0%} of it)" for name, lost in pictures.repaired.items()]
    for names, what in (
        (repaired, "lack their end, which is filled with grey"),
        (pictures.with_unapplied_exif_orientation, "have an EXIF orientation, which is not applied"),
        (pictures.transparent, "are transparent, and lie on white"),
    ):
        if names:
            yield f"  {len(names):,} pictures {what}: {_some(names)}"
    if pictures.grey:
        yield f"  {pictures.grey:,} pictures are grey"


def _outside(found: Samples) -> str:
    names = [f"{name} {number}" for name, number in found.samples_with_points_outside.items()]
    share = f"{found.points_outside:,} of {found.points:,} points ({found.share_outside:.1%})"
    return f"{share} lie outside their picture ({_some(names)})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
