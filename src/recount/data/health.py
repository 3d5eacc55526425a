"""How files that others made are checked: every defect is told in one run, and arrays are never unpickled."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recount.data.dataset import DataError


class Defects:
    """A list of defects, one line each; ``raise_if_any`` makes one ``DataError`` of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Note a defect: what is wrong, where, and what to do."""
        self.lines.append(line)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Note a ``DataError`` raised in this context instead of letting it stop the reading."""
        try:
            yield
        except DataError as error:
            self.lines.extend(str(error).splitlines())

    def raise_if_any(self) -> None:
        """Raise one ``DataError`` with all lines, if there are any."""
        if self.lines:
            raise DataError("\n".join(self.lines))


def load_npy(path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file; a ``DataError`` if it is missing, broken, or holds Python objects."""
    try:
        with path.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (ValueError, EOFError) as error:
        if "Object arrays" in str(error):
            raise DataError(
                f"{path}: holds pickled Python objects, which could run any program when read, and is refused; "
                "save it again as an array of numbers (dtype float or int) and put that in its place"
            ) from None
        raise DataError(f"{path}: is not a readable .npy file ({error}); fetch or make it again") from None
