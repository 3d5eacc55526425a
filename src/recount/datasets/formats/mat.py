"""What the readers of the crowd sets share: folders, pairs of picture and annotation, points in MATLAB files."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from recount.data.dataset import DataError, Dataset, reason
from recount.data.health import Defects
from recount.data.sample import NO_POINTS

Layout = tuple[str, str, str]  # names of pictures and of annotations, their number as a group; the key of the points
SHANGHAITECH: Layout = (r"IMG_(\d+)\.jpg", r"GT_IMG_(\d+)\.mat", "image_info")
UCF_QNRF: Layout = (r"img_(\d+)\.jpg", r"img_(\d+)_ann\.mat", "annPoints")
_HEADER = 128  # bytes of a MATLAB 5 file before its first element
_COMPRESSED = 15  # type of an element
_MOST_BYTES = 100_000_000  # of an unpacked file; the points of NWPU-Crowd's fullest picture take 320,528


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
            with defects.collected():
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
    content = _content(path, key)
    try:
        found = content[key]
        info = found[0, 0] if key == "image_info" else None
        points = np.asarray(found if info is None else info["location"][0, 0])
        names = () if info is None else info.dtype.names
        number = int(info["number"][0, 0].item()) if info is not None and "number" in names else None
    except Exception as error:  # other names, shapes or types than these
        what = f"{type(error).__name__}: {reason(error)}"
        raise DataError(f"{path}: its points are not where this data set keeps them, in {key!r}: {what}") from None
    if points.size == 0:
        points = NO_POINTS
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        turned = "; rows and columns seem to be exchanged" if points.ndim == 2 and points.shape[0] == 2 else ""
        shape = f"shape {points.shape} and type {points.dtype}"
        raise DataError(f"{path}: the points have {shape}, expected numbers (n, 2){turned}")
    if broken := np.flatnonzero(~np.isfinite(points).all(axis=1)).tolist():
        raise DataError(f"{path}: {len(broken)} points are NaN or infinite, first in row {broken[0] + 1}")
    if number is not None and number != len(points):
        raise DataError(f"{path}: it has {len(points)} points and says that their number is {number}")
    return points.astype(np.float32)


def _content(path: Path, key: str) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
        if content.startswith((b"MATLAB 7.3", b"\x89HDF")):
            raise DataError(
                f"{path}: a MATLAB 7.3 file (HDF5), which is not read here; convert it in MATLAB: "
                f"load('{path.name}'); save('{path.name}', '{key}', '-v7')"
            )
        _check_size(path, content)
        return loadmat(io.BytesIO(content), variable_names=[key])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError:
        raise
    except Exception as error:  # scipy's reader stumbles over damaged files in many ways
        what = f"{type(error).__name__}: {reason(error)}"
        raise DataError(f"{path}: not a readable MATLAB file ({what}); fetch or unpack it again") from None


def _check_size(path: Path, content: bytes) -> None:
    """Refuse a file whose compressed elements grow beyond all reason, before scipy unpacks them."""
    order = ">" if content[_HEADER - 2 : _HEADER] == b"MI" else "<"
    position, left = _HEADER, _MOST_BYTES
    while position + 8 <= len(content) and left > 0:
        kind, size = struct.unpack_from(f"{order}II", content, position)
        stream, packed = zlib.decompressobj(), content[position + 8 : position + 8 + size]
        while kind == _COMPRESSED and packed and left > 0:
            left -= len(stream.decompress(packed, 1_000_000))
            packed = stream.unconsumed_tail
        position += 8 + size
    if left <= 0:
        raise DataError(f"{path}: its content takes more than {_MOST_BYTES:,} bytes when it is unpacked")
