"""Whether a file is what its name says: nothing is recorded as fetched before that, wherever it came from.

What comes in place of a file is called by its name: a web page, a pointer of Git LFS or git-annex, nothing at all, an
archive of another kind. What has a structure must have all of it: an archive opens and the checksums of its members are
right, JSON and XML parse, a picture's header decodes, a container of weights or arrays opens and is as long as it says.
"""

import json
import math
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recount.fetching.archives import BROKEN, TAR_SUFFIXES, ArchiveError, brief, read_through

HEAD_BYTES = 4096
POINTER_BYTES = 1024  # more than any pointer has
LFS_POINTER = re.compile(rb"version https://(?:git-lfs|hawser)\.github\.com/spec/.*?size (\d+)", re.DOTALL)
ANNEX_POINTER = re.compile(rb"(?:\.\./)*(?:\.git)?/annex/objects/")
WEB_PAGE = re.compile(
    rb"(?>\s+|<\?xml[^>]*>|<!--.*?-->)*+<(?:!doctype html|html|head|title|meta|body|script)\b",
    re.DOTALL | re.IGNORECASE,
)
PAGE_TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.DOTALL | re.IGNORECASE)
MAGIC: dict[str, tuple[int, tuple[bytes, ...]]] = {  # how files of a kind begin: offset, alternatives
    "a zip archive": (0, (b"PK\x03\x04", b"PK\x05\x06")),
    "a gzip file": (0, (b"\x1f\x8b",)),
    "a bzip2 file": (0, (b"BZh",)),
    "an xz file": (0, (b"\xfd7zXZ\0",)),
    "a zstd file": (0, (b"\x28\xb5\x2f\xfd",)),
    "a 7z archive": (0, (b"7z\xbc\xaf\x27\x1c",)),
    "a RAR archive": (0, (b"Rar!\x1a\x07",)),
    "a tar archive": (257, (b"ustar",)),
    "a PDF": (0, (b"%PDF-",)),
    "a PNG picture": (0, (b"\x89PNG\r\n\x1a\n",)),
    "a JPEG picture": (0, (b"\xff\xd8\xff",)),
    "an HDF5 file": (0, (b"\x89HDF\r\n\x1a\n",)),
    "a MATLAB 7.3 file": (0, (b"MATLAB 7.",)),
    "a MATLAB 5 file": (0, (b"MATLAB 5.0 MAT-file",)),
    "a numpy array": (0, (b"\x93NUMPY",)),
    "a Parquet file": (0, (b"PAR1",)),
    "a pickle": (0, (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")),
}


class UnusableError(Exception):
    """A file is not what its name says; the message goes on after its name: "is …"."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What files with one of ``suffixes`` are."""

    suffixes: tuple[str, ...]
    what: str
    most: int  # bytes that a transfer may bring where nobody says how many the file has
    # Raises UnusableError; returns whether the content proves that nothing is missing at its end
    prove: Callable[[Path], bool]
    begins: tuple[str, ...] = ()  # keys of MAGIC


def kind_of(name: str) -> Kind:
    """Return the kind of a file by its name."""
    return next(kind for kind in KINDS if name.lower().endswith(kind.suffixes))


def prove(path: Path, name: str, *, unpacked: bool = False) -> bool:
    """Raise UnusableError unless the bytes at ``path`` can be the whole file called ``name``.

    An archive that is ``unpacked`` next is only opened here: unpacking reads all of it. Returns whether the content
    proves that nothing is missing at its end; that of a text, for one, does not.
    """
    head = _head(path)
    if what := stranger(path, name):
        raise UnusableError(f"is {what}")
    kind = kind_of(name)
    try:
        whole = kind.prove(path)
        if kind.suffixes in (ZIP, TAR_SUFFIXES) and not unpacked:
            read_through(path, name)
    except (UnusableError, ArchiveError) as error:
        found = next((what for what, (at, magic) in MAGIC.items() if head[at:].startswith(magic)), None)
        if found is None or found in kind.begins:
            raise UnusableError(str(error)) from error
        raise UnusableError(f"is {found}, not {kind.what}") from error
    return whole


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def stranger(path: Path, name: str) -> str:
    """Return what the bytes at ``path`` are if they come in place of a file called ``name``; "" if they may be it."""
    head = _head(path)
    if not head:
        return "empty (0 bytes)"
    if len(head) < POINTER_BYTES and (pointer := LFS_POINTER.match(head)):
        return f"a Git-LFS pointer and not the file itself, which has {int(pointer[1]):,} bytes"
    if len(head) < POINTER_BYTES and ANNEX_POINTER.match(head):
        return "a git-annex pointer and not the file itself"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", errors="ignore").encode()
    if WEB_PAGE.match(head.removeprefix(b"\xef\xbb\xbf")) and not name.lower().endswith((".html", ".htm", ".xhtml")):
        title = PAGE_TITLE.search(head)
        words = " ".join(title[1].decode(errors="replace").split())[:80] if title else ""
        return f"a web page{f' ({words!r})' if words else ''} and not the file: a log-in, consent or error page?"
    return ""


def _zip(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            begun = stream.read(4) == b"PK\x03\x04"
        raise UnusableError("is cut off: a zip archive whose end is missing" if begun else "is no zip archive")
    try:
        zipfile.ZipFile(path).close()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UnusableError(f"is a damaged zip archive ({brief(error)})") from error
    return True


def _tar(path: Path) -> bool:
    try:
        tarfile.open(path).close()
    except BROKEN as error:
        raise UnusableError(f"is cut off or damaged, or no tar archive ({brief(error)})") from error
    return True


def _weights(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(4)
    if head.startswith(b"PK"):
        return _zip(path)
    if not head.startswith(MAGIC["a pickle"][1]):  # torch.save before version 1.6
        raise UnusableError("is no file of torch.save")
    return False


def _safetensors(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            return True
    except SafetensorError as error:
        raise UnusableError(f"is cut off or damaged, or no safetensors file ({brief(error)})") from error


def _npy(path: Path) -> bool:
    from numpy.lib import format as npy

    try:
        with path.open("rb") as stream:
            header = {(1, 0): npy.read_array_header_1_0}.get(npy.read_magic(stream), npy.read_array_header_2_0)
            shape, _, dtype = header(stream)
            held = path.stat().st_size - stream.tell()
    except Exception as error:  # numpy's reader stumbles over damaged headers in many ways
        raise UnusableError(f"is no numpy array ({brief(error)})") from error
    needed = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and held != needed:
        raise UnusableError(f"is cut off or damaged: {held:,} bytes after its header, which says {needed:,}")
    return not dtype.hasobject


def _mat(path: Path) -> bool:
    """A MATLAB 5 file: a header of 128 bytes, then elements that begin with their type and length (MAT-file format)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(head[126:])
        if order is None or not head.startswith(MAGIC["a MATLAB 5 file"][1]):
            raise UnusableError("is no MATLAB 5 file")
        position = 128
        while position < size:
            stream.seek(position)
            tag = stream.read(8)
            position += 8 + (struct.unpack(f"{order}II", tag)[1] if len(tag) == 8 else 0)
    if position == 128 or position != size:
        raise UnusableError(f"is cut off or damaged: it has {size:,} bytes, and its variables end at {position:,}")
    return True


def _parquet(path: Path) -> bool:
    import pyarrow
    import pyarrow.parquet

    try:
        pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UnusableError(f"is cut off or damaged, or no Parquet file ({brief(error)})") from error
    return True


def _picture(path: Path) -> bool:
    from PIL import Image

    import recount.data.pictures  # noqa: F401 - sets Pillow's limit of pixels

    try:
        Image.open(path).close()
    except Exception as error:  # Pillow stumbles over damaged pictures in many ways
        raise UnusableError("is no picture that can be decoded") from error
    return False


def _json(path: Path) -> bool:
    """One document, or one on each line."""
    content = path.read_bytes()
    try:
        json.loads(content)
        return b"\n" in content.strip()  # one line might be the first of many
    except (ValueError, RecursionError) as error:
        reason = brief(error)
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            json.loads(line or b"0")
        except (ValueError, RecursionError) as error:
            where = reason if number == 1 else f"line {number}: {brief(error)}"
            raise UnusableError(f"is cut off or damaged, or no JSON ({where})") from error
    return False


def _xml(path: Path) -> bool:
    from defusedxml import DefusedXmlException, ElementTree

    try:
        ElementTree.parse(path)
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise UnusableError(f"is cut off or damaged, or no XML ({brief(error)})") from error
    return True


def _hdf5(path: Path) -> bool:
    with path.open("rb") as stream:
        if stream.read(8) not in MAGIC["an HDF5 file"][1]:
            raise UnusableError("is no HDF5 file")
    return False


def _text(path: Path) -> bool:
    with path.open("rb") as stream:
        if b"\0" in stream.read(HEAD_BYTES):
            raise UnusableError("is no text")
    return False


def _anything(path: Path) -> bool:
    return False


ZIP = (".zip",)
TEXT = Kind((".txt", ".csv", ".tsv", ".md", ".pbtxt", ".yaml"), "a text", 2**28, _text)
KINDS = (
    Kind(ZIP, "a zip archive", 128 * 2**30, _zip, ("a zip archive",)),
    Kind(
        TAR_SUFFIXES,
        "a tar archive",
        128 * 2**30,
        _tar,
        ("a tar archive", "a gzip file", "a bzip2 file", "an xz file"),
    ),
    Kind((".safetensors",), "a safetensors file", 32 * 2**30, _safetensors),
    Kind((".pth", ".pt", ".ckpt", ".pkl"), "a file of torch.save", 32 * 2**30, _weights, ("a zip archive", "a pickle")),
    Kind((".h5", ".hdf5"), "an HDF5 file", 32 * 2**30, _hdf5, ("an HDF5 file",)),
    Kind((".parquet",), "a Parquet file", 32 * 2**30, _parquet, ("a Parquet file",)),
    Kind((".npz",), "a zip archive of arrays", 8 * 2**30, _zip, ("a zip archive",)),
    Kind((".npy",), "a numpy array", 8 * 2**30, _npy, ("a numpy array",)),
    Kind((".mat",), "a MATLAB 5 file", 2**30, _mat, ("a MATLAB 5 file",)),
    Kind((".json", ".jsonl"), "JSON", 2 * 2**30, _json),
    Kind((".xml",), "XML", 2**28, _xml),
    Kind(
        (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"),
        "a picture",
        2**28,
        _picture,
        ("a PNG picture", "a JPEG picture"),
    ),
    TEXT,
    Kind(("",), "a file", 8 * 2**30, _anything),
)
