"""What the readers of the crowd sets share: folders, pairs of picture and annotation, points in MATLAB files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from recount.data.dataset import DataError
from recount.data.defects import Defects


def find_folder(raw: Path, names: tuple[str, ...], by_hand: str) -> Path:
    """Return the folder of one of ``names`` in ``raw`` or at most two levels below it, as archives unpack.

    Raises:
        DataError: there is none; the message says how to get the data.
    """
    for level in ("", "*/", "*/*/"):
        for name in names:
            found = sorted(path for path in raw.glob(level + name) if path.is_dir())
            if found:
                return found[0]
    raise DataError(f"{raw}: there is no folder {' or '.join(names)} in it. {by_hand}".rstrip())


def matched_pairs(
    pictures: Path, annotations: Path, picture: str, annotation: str, defects: Defects
) -> Iterator[tuple[int, Path, Path]]:
    """Yield (number, picture, annotation) by number; note a picture or an annotation that lacks the other.

    Args:
        pictures, annotations: the folders.
        picture, annotation: file names as regular expressions with one group, the number (``img_(\\d+)\\.jpg``).
        defects: gets a line for each file without its partner.
    """
    of_pictures = _numbered(pictures, picture)
    of_annotations = _numbered(annotations, annotation)
    for number in sorted(of_pictures.keys() | of_annotations.keys()):
        if number not in of_annotations:
            defects.add(f"{of_pictures[number]}: its annotation is missing in {annotations}")
        elif number not in of_pictures:
            defects.add(f"{of_annotations[number]}: its picture is missing in {pictures}")
        else:
            yield number, of_pictures[number], of_annotations[number]


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    expression = re.compile(pattern, re.IGNORECASE)
    matches = ((expression.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return {int(match[1]): path for match, path in matches if match}


def mat_points(path: Path, select: Callable[[dict[str, np.ndarray]], np.ndarray]) -> np.ndarray:
    """Return the points of a MATLAB 5 file, float32 [N, 2], x and y in pixels.

    Args:
        path: the file.
        select: picks the array out of the file's variables.

    Raises:
        DataError: the file is missing or broken, or holds no such array.
    """
    try:
        points = np.asarray(select(loadmat(path)))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"{path}: its points are not where this data set keeps them: {error!r}") from None
    except Exception as error:  # scipy's reader stumbles over damaged files in many ways
        raise DataError(f"{path}: not a readable MATLAB file: {error}") from error
    if points.size == 0:
        return np.zeros((0, 2), np.float32)
    if points.ndim != 2 or points.shape[1] != 2 or not np.issubdtype(points.dtype, np.number):
        raise DataError(
            f"{path}: the points have shape {points.shape} and type {points.dtype}, expected numbers (n, 2)"
        )
    return points.astype(np.float32)


def image_info_points(mat: dict[str, np.ndarray]) -> np.ndarray:
    """Return the points of a ShanghaiTech file: ``image_info{1,1}.location``."""
    return mat["image_info"][0, 0]["location"][0, 0]


def ann_points(mat: dict[str, np.ndarray]) -> np.ndarray:
    """Return the points of a UCF-QNRF or NWPU-Crowd file: ``annPoints``."""
    return mat["annPoints"]
