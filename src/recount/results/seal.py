"""A SHA-256 at the end of a file of somebody else's format, for files that are read by parts or by a lenient reader.

PyTorch's zip reader does not check what it reads, and takes what follows the archive for a comment.
"""

import hashlib
from pathlib import Path

from recount.results.files import file_digest

_MARK = b"recount-sha256:"
_END = len(_MARK) + 64  # bytes: the mark, and the digest of all before it in hexadecimal


def seal(path: Path) -> None:
    """Append the digest of a file to it."""
    digest = file_digest(path)
    with path.open("ab") as file:
        file.write(_MARK + digest.encode())


def damage(path: Path) -> str:
    """Return what is wrong with the bytes of a sealed file, or ""."""
    try:
        left = size = path.stat().st_size - _END
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                digest.update(block)
                left -= len(block)
            end = file.read()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if size <= 0 or not end.startswith(_MARK):
        return "its end is missing: it was cut, or an older recount wrote it"
    said, found = end.removeprefix(_MARK).decode("ascii", "replace"), digest.hexdigest()
    return "" if said == found else f"its content has {found[:12]} instead of {said[:12]}"
