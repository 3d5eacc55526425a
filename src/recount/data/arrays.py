"""Reading NumPy files of strangers: arrays of numbers only, never unpickled (a pickle can run any program)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recount.data.dataset import DataError


def load_npy(path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file.

    Args:
        path: the file.

    Raises:
        DataError: the file is missing, broken, or holds Python objects (which only a pickle could bring back).
    """
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
