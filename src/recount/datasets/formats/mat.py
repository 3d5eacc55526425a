"""What the readers of the crowd sets share: folders, pairs of picture and annotation, points in MATLAB files."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from recount.data.dataset import DataError, Dataset
from recount.data.health import Defects
from recount.data.sample import NO_POINTS

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

    ``defects`` gets a line for each picture or annotation that lacks the other, and for each broken annotation.
    """
    of_pictures, of_annotations = _numbered(pictures, layout[0]), _numbered(annotations, layout[1])
    for number in sorted(of_pictures.keys() | of_annotations.keys()):
        if number not in of_annotations:
            defects.add(f"{of_pictures[number]}: its annotation is missing in {annotations}")
        elif number not in of_pictures:
            defects.add(f"{of_annotations[number]}: its picture is missing in {pictures}")
        else:
            with defects.collected():
                yield number, of_pictures[number], mat_points(of_annotations[number], layout[2])


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    expression = re.compile(pattern, re.IGNORECASE)
    matches = ((expression.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return {int(match[1]): path for match, path in matches if match}


def mat_points(path: Path, key: str) -> np.ndarray:
    """Return the points below ``key`` in a MATLAB 5 file, float32 [N, 2], x and y in pixels."""
    try:
        found = loadmat(path)[key]
        points = np.asarray(found[0, 0]["location"][0, 0] if key == "image_info" else found)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"{path}: its points are not where this data set keeps them: {error!r}") from None
    except Exception as error:  # scipy's reader stumbles over damaged files in many ways
        raise DataError(f"{path}: not a readable MATLAB file: {error}") from error
    if points.size == 0:
        return NO_POINTS
    if points.ndim != 2 or points.shape[1] != 2 or not np.issubdtype(points.dtype, np.number):
        found = f"shape {points.shape} and type {points.dtype}"
        raise DataError(f"{path}: the points have {found}, expected numbers (n, 2)")
    return points.astype(np.float32)
