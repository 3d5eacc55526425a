"""Digests of files that have not changed since they were last read, for ``recount verify`` alone.

A file is taken for unchanged if path, size, inode and both times (of its content, of its inode) are. Whoever wants to
be sure reads all bytes (``files.file_digest``).
"""

import json
import logging
import os
import time
from pathlib import Path

from recount.results.files import SaveError, file_digest, write_text

log = logging.getLogger(__name__)

_SETTLED_NS = 2 * 10**9  # a file changed a moment ago may change again within one tick of the file system's clock


class DigestCache:
    """A JSON file with the digest and the marks of each file, by its path relative to the cache's folder."""

    def __init__(self, path: Path) -> None:
        """Read the cache at ``path``; none or a broken one is an empty one."""
        self._path = path
        try:
            content = json.loads(path.read_bytes())
            self._known: dict[str, list[int | str]] = content if isinstance(content, dict) else {}
        except (OSError, ValueError, RecursionError):
            self._known = {}
        self._new = False

    def digest(self, file: Path) -> str:
        """Return the SHA-256 of ``file``, from the cache if it is unchanged; an ``OSError`` if it cannot be read."""
        path, below, marks = str(file), f"{self._path.parent}/", _marks(file)
        name = path.removeprefix(below) if path.startswith(below) else os.path.relpath(path, below)
        match self._known.get(name):
            case [*known, str(digest)] if known == marks:
                return digest
        digest = file_digest(file)
        if _marks(file) == marks and time.time_ns() - max(marks[1:3]) > _SETTLED_NS:
            self._known[name], self._new = [*marks, digest], True
        return digest

    def save(self) -> None:
        """Write what is new; a folder that cannot be written only makes the next time slower."""
        if self._new:
            try:
                write_text(self._path, json.dumps(self._known, separators=(",", ":")))
            except SaveError as error:
                log.debug("no digests are remembered: %s", error)


def _marks(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
