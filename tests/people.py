"""Other users of this machine: their umask, and files that they may not read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Have new files lack the bits of ``mask``."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def may_not_read(*paths: Path) -> Iterator[None]:
    """Take the right to read files and folders from root, too, who is nobody meanwhile; folders above are opened."""
    above = {folder: folder.stat().st_mode for path in paths for folder in path.parents if folder != Path("/")}
    root = os.geteuid() == 0
    for path in paths:
        path.chmod(0)
    if root:
        for folder, mode in above.items():
            folder.chmod(mode | 0o055)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
            for folder, mode in above.items():
                folder.chmod(mode)
        for path in paths:
            path.chmod(0o700)
