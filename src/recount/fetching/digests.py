"""Sizes and digests: what bytes have, and whether they are those of a declared file.

What the file's own publisher states, or several sources do, decides. What only one other source states
(``RemoteFile.seen_once``) is a doubt, which is told.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from recount.data.dataset import RemoteFile

DIGITS = 64  # of a whole SHA-256
LABELS = {"sha256": "SHA-256", "git_blob": "git blob id", "md5": "MD5"}
STATED = ("bytes", *LABELS)


@dataclass(frozen=True, slots=True)
class Measured:
    """Size and digests of a file that is there; "" for a digest that was not asked for."""

    bytes: int
    sha256: str
    git_blob: str
    md5: str


def measured(path: Path, file: RemoteFile) -> Measured:
    """Return what the bytes at ``path`` have, as far as ``file`` states it, and their SHA-256; they are read once."""
    size = path.stat().st_size
    digests = {"sha256": hashlib.sha256()}
    if file.md5:
        digests["md5"] = hashlib.md5(usedforsecurity=False)
    if file.git_blob:
        digests["git_blob"] = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            for digest in digests.values():
                digest.update(chunk)
    return Measured(size, *(digests[name].hexdigest() if name in digests else "" for name in LABELS))


def binding(file: RemoteFile) -> RemoteFile:
    """Return a file with only that stated which decides."""
    return replace(file, seen_once=(), **dict.fromkeys(file.seen_once))  # type: ignore[arg-type]


def doubtful(file: RemoteFile) -> RemoteFile:
    """Return a file with only that stated which a single source says."""
    return replace(file, seen_once=(), **dict.fromkeys(set(STATED) - set(file.seen_once)))  # type: ignore[arg-type]


def is_certain(file: RemoteFile) -> bool:
    """Return whether a whole digest is stated, so that bytes that have it need no other proof."""
    return len(file.sha256 or "") == DIGITS or bool(file.git_blob or file.md5)


def difference(file: RemoteFile, found: Measured) -> str:
    """Return in what bytes are not what ``file`` states; "" for nothing."""
    wrong = []
    if file.bytes not in (None, found.bytes):
        wrong.append(f"it has {found.bytes:,} bytes, expected {file.bytes:,}")
    for name, label in LABELS.items():
        stated, own = getattr(file, name), getattr(found, name)
        if stated and not own.startswith(stated):
            wrong.append(f"its {label} is {own}, expected {_shown(name, stated)}")
    return "; ".join(wrong)


def described(file: RemoteFile) -> str:
    """Return a file's path with what is stated of it."""
    size = "" if file.bytes is None else f"{file.bytes:,} bytes"
    digests = [f"{label} {_shown(name, getattr(file, name))}" for name, label in LABELS.items() if getattr(file, name)]
    known = ", ".join(filter(None, (size, *digests, "optional" if file.optional else "")))
    return f"{file.path}  ({known})" if known else file.path


def _shown(name: str, digest: str) -> str:
    return f"{digest}…" if name == "sha256" and len(digest) < DIGITS else digest
