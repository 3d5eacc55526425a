"""How files that others made are checked: every defect is told in one run, and arrays are never unpickled."""

import hashlib
import io
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from recount.data.dataset import DataError, one_line, reason
from recount.results.prepared import prepare_again

_LONGEST = 600  # characters of a line, of which paths may need many


class Defects:
    """A list of defects, one line each; ``raise_if_any`` makes one ``DataError`` of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Note a defect: what is wrong, where, and what to do."""
        self.lines.append(one_line(line, _LONGEST))

    @contextmanager
    def collected(self, where: object = "") -> Iterator[None]:
        """Note an error that is raised in this context instead of letting it stop the reading.

        ``where`` are file and entry, for errors that do not name them; without it only a ``DataError`` is noted.
        """
        try:
            yield
        except DataError as error:
            for line in str(error).split("\n"):
                self.add(line)
        except Exception as error:
            if not where:
                raise
            self.add(f"{where}: {reason(error) or type(error).__name__}")

    def gathered(self, *reads: Callable[[], Any]) -> list[Any]:
        """Return what each of ``reads`` gives; the defects of all are raised together."""
        found = []
        for read in reads:
            with self.collected():
                found.append(read())
        self.raise_if_any()
        return found

    def expect(self, keys: Iterable[str], content: Collection[str], path: Path) -> None:
        """Note each of ``keys`` that ``content``, read from ``path``, does not have."""
        for key in keys:
            if key not in content:
                self.add(f"{path}: it has no entry {key!r}")

    def raise_if_any(self) -> None:
        """Raise one ``DataError`` with all lines, if there are any."""
        if self.lines:
            raise DataError("\n".join(self.lines))


def inside(folder: Path, relative: str, where: object) -> Path:
    """Return the path of a file in ``folder``; a ``DataError`` names ``where`` if it leads out of it."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\\" in relative or "\0" in relative or not parts.name:
        raise DataError(f"{where}: {relative!r} leads out of {folder}; paths must stay inside")
    return folder / parts


def checked(path: Path, content: bytes, sha256: str, folder: Path | None = None) -> str:
    """Return the SHA-256 of a file's ``content``; a ``DataError`` if it is not ``sha256``, which index.csv names.

    "" is for a file of no prepared data set. ``folder`` is the data set's, if ``path`` is not in a folder of it.
    """
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        again = prepare_again(folder or path.parents[1])
        raise DataError(f"{path}: damaged: its sha256 is {found}, expected {sha256} (index.csv); {again}")
    return found


def load_npy(path: Path, sha256: str = "", folder: Path | None = None) -> np.ndarray:
    """Return the array of a ``.npy`` file; a ``DataError`` if it is missing, broken, or holds Python objects.

    ``sha256`` and ``folder``: ``checked``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        what = "there is no such file" if missing else f"cannot be read: {error.strerror}"
        raise DataError(f"{path}: {what}") from None
    checked(path, content, sha256, folder)
    try:
        stream = io.BytesIO(content)
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if not dtype.hasobject and math.prod(shape) * dtype.itemsize > len(content):  # before numpy allocates it
            raise ValueError(f"{len(content):,} bytes cannot hold shape {shape} of {dtype}")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # numpy's reader stumbles over damaged headers in many ways
        if "Object arrays" in str(error):
            raise DataError(
                f"{path}: holds pickled Python objects, which could run any program when read, and is refused; "
                "save it again as an array of numbers (dtype float or int) and put that in its place"
            ) from None
        raise DataError(f"{path}: is not a readable .npy file ({reason(error)}); fetch or make it again") from None
