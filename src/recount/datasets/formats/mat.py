"""What the readers of the crowd sets share: folders, pairs of picture and annotation, points in MATLAB files."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recount.data.dataset import DataError, Dataset, reason
from recount.data.health import Defects
from recount.data.sample import NO_POINTS
from recount.datasets.formats.mat_file import MatError, variable

Layout = tuple[str, str, str]  # names of pictures and of annotations, their number as a group; the key of the points
SHANGHAITECH: Layout = (r"IMG_(\d+)\.jpg", r"GT_IMG_(\d+)\.mat", "image_info")
UCF_QNRF: Layout = (r"img_(\d+)\.jpg", r"img_(\d+)_ann\.mat", "annPoints")


def find_folder(raw: Path, names: tuple[str, ...], dataset: Dataset) -> Path:
    """Return the folder of one of ``names`` in ``raw`` or at most two levels below it, as archives unpack."""
    for level in ("", "*/", "*/*/"):
        for name in names:
            found = sorted(path for path in raw.glob(level + name) if path.is_dir())
            if found:
                return found[0]
    how = f"{dataset.by_hand}. Licence: {dataset.licence}"
    raise DataError(f"{raw}: there is no folder {' or '.join(names)} in it. {how}")


def annotated_pictures(
    pictures: Path, annotations: Path, layout: Layout, defects: Defects
) -> Iterator[tuple[int, Path, np.ndarray]]:
    """Yield (number, picture, points [N, 2]) by number.

    ``defects`` gets a line for each picture or annotation that lacks the other or whose number is there twice, and for
    each broken annotation.
    """
    of_pictures, of_annotations = (
        _numbered(folder, pattern, defects) for folder, pattern in ((pictures, layout[0]), (annotations, layout[1]))
    )
    for number in sorted(of_pictures.keys() | of_annotations.keys()):
        if number not in of_annotations:
            defects.add(f"{of_pictures[number]}: its annotation is missing in {annotations}")
        elif number not in of_pictures:
            defects.add(f"{of_annotations[number]}: its picture is missing in {pictures}")
        else:
            with defects.collected(of_annotations[number]):
                yield number, of_pictures[number], mat_points(of_annotations[number], layout[2])


def _numbered(folder: Path, pattern: str, defects: Defects) -> dict[int, Path]:
    expression = re.compile(pattern, re.IGNORECASE | re.ASCII)
    found: dict[int, Path] = {}
    if not folder.is_dir():
        defects.add(f"{folder}: there is no such folder")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (match := expression.fullmatch(path.name)) and found.setdefault(int(match[1]), path) != path:
            defects.add(f"{path}: {found[int(match[1])].name} has the same number; delete the one that is wrong")
    return found


def mat_points(path: Path, key: str) -> np.ndarray:
    """Return the points below ``key`` in a MATLAB 5 file, float32 [N, 2], x and y in pixels."""
    try:
        found = variable(path.read_bytes(), key)
        info = found[0][0] if key == "image_info" else {"location": found}
        points, number = np.asarray(info["location"]), info.get("number")
        number = None if number is None else int(number.item())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, MatError) as error:
        raise DataError(f"{path}: {reason(error)}") from None
    except Exception as error:  # other shapes or types than these
        what = f"{type(error).__name__}: {reason(error)}"
        raise DataError(f"{path}: its points are not where this data set keeps them, in {key!r}: {what}") from None
    if points.size == 0:
        points = NO_POINTS
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        turned = "; rows and columns seem to be exchanged" if points.ndim == 2 and points.shape[0] == 2 else ""
        shape = f"shape {points.shape} and type {points.dtype}"
        raise DataError(f"{path}: the points have {shape}, expected numbers (n, 2){turned}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        points = points.astype(np.float32)
    if broken := np.flatnonzero(~np.isfinite(points).all(axis=1)).tolist():
        raise DataError(f"{path}: {len(broken)} points are NaN or infinite, first in row {broken[0] + 1}")
    if number is not None and number != len(points):
        raise DataError(f"{path}: it has {len(points)} points and says that their number is {number}")
    return points
