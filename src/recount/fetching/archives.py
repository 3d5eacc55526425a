"""Unpacking archives of strangers (zip, tar) so that nothing lands outside their folder and nothing fills the disk.

Members are read one by one and written as plain files: no link, device, owner or permission of an archive reaches the
disk, whatever Python's own extraction filters do in a given version. A link to a regular file of the same archive
becomes a copy of that file; every other link is refused. ``a.zip``, all of which lies in a folder ``a``, becomes ``a/``
and not ``a/a/``.
"""

import gzip
import io
import json
import lzma
import os
import posixpath
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

TAR_SUFFIXES = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar")
SUFFIXES = (*TAR_SUFFIXES, ".zip")
MARKER = ".unpacked.json"
SMALL_BYTES = 2**30
MAX_RATIO = 200  # density maps and JSON shrink to a thirtieth or fiftieth; a bomb by deflate, to a thousandth
MAX_MEMBERS = 1_000_000
MAX_HEADER = 2**20  # bytes of names and attributes of one member
BROKEN = (
    zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, UnicodeError,
)  # fmt: skip


class ArchiveError(Exception):
    """An archive is broken, of an unknown kind, or dangerous; the message names the archive and the member."""


class NotHereError(ArchiveError):
    """The archive may be right, but cannot be unpacked here: it is one part of several, or the disk is too small."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    kind: Literal["file", "folder", "link", "hard link", "special file"]
    size: int = 0
    target: str = ""
    open: Callable[[], IO[bytes] | None] = lambda: None


def unpacked_folder(archive: Path) -> Path:
    """Return the folder that an archive is unpacked into: its path without the suffix (``a/b.tar.gz`` -> ``a/b``)."""
    for suffix in SUFFIXES:
        if archive.name.lower().endswith(suffix) and len(archive.name) > len(suffix):
            return archive.with_name(archive.name[: -len(suffix)])
    raise ArchiveError(f"{archive.name} is no archive that can be unpacked; there are: {', '.join(SUFFIXES)}")


def unpack(archive: Path, digest: str, *, name: str = "", check: Callable[[], None] = lambda: None) -> Path:
    """Unpack an archive, whose name will be ``name``, into its ``unpacked_folder``, all or nothing, unless it has been.

    A marker in the folder holds the archive's SHA-256 (``digest``) and the number and size of the files, so that the
    same archive is unpacked once, and again when it has changed or a file of the folder has gone. ``check`` is called
    before each member and stops the unpacking by raising. Raises ArchiveError, or OSError where it cannot write.
    """
    name = name or archive.name
    folder = unpacked_folder(archive.with_name(name))
    marked = is_unpacked(folder)
    if marked and (folder / MARKER).read_text(errors="replace") == _note(folder, digest):
        return folder
    if folder.exists() and not marked:
        raise ArchiveError(
            f"{folder} is in the place where {name} is to be unpacked, but was not unpacked from it: "
            "move it away and fetch again"
        )
    prefix = f".{folder.name}.unpacking-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent, ignore_cleanup_errors=True) as place:
        new = Path(place, "new")
        with _members(archive, name) as members:
            _write(_checked(members, archive, name), new, name, check)
        (new / MARKER).write_text(_note(new, digest))
        if folder.exists():
            folder.rename(Path(place, "old"))
        new.rename(folder)
    return folder


def read_through(archive: Path, name: str) -> None:
    """Read all of an archive that will be called ``name`` and is not unpacked; ArchiveError if a member is damaged."""
    with _members(archive, name) as members:
        for member in members:
            source = member.open()
            if source is not None:
                with source:
                    while source.read(2**20):
                        pass


def is_unpacked(folder: Path) -> bool:
    """Return whether ``unpack`` made a folder."""
    return (folder / MARKER).is_file()


def _note(folder: Path, digest: str) -> str:
    """Return what the marker says of a folder."""
    files = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    sizes = [file.stat().st_size for file in files if file != folder / MARKER]
    return json.dumps({"sha256": digest, "files": len(sizes), "bytes": sum(sizes)}) + "\n"


class _Header(tarfile.TarInfo):
    """A header of a tar file; one whose names and attributes would fill the memory is refused before they are read."""

    _LONG = frozenset((b"x", b"g", b"X", b"L", b"K"))  # pax headers, and GNU's long names and links

    def _proc_member(self, opened: tarfile.TarFile) -> Any:
        if self.type in self._LONG and self.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes, more than the {MAX_HEADER:,} allowed")
        return super()._proc_member(opened)  # type: ignore[misc]


@contextmanager
def _members(archive: Path, name: str) -> Iterator[Iterator[_Member]]:
    """Yield the members of an archive; whatever its libraries say of broken bytes becomes an ArchiveError."""
    try:
        if name.lower().endswith(".zip"):
            _refuse_split_zip(archive, name)
            with zipfile.ZipFile(archive) as opened:
                yield _zip_members(opened)
        else:
            with tarfile.open(archive, tarinfo=_Header) as opened_tar:
                yield _tar_members(opened_tar)
    except BROKEN as error:
        raise ArchiveError(f"{name} is broken or of an unknown kind ({brief(error)}); fetch it again") from error


def brief(error: Exception) -> str:
    """Return what an error says, in one line: tarfile lists all it has tried."""
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}…"


def _refuse_split_zip(archive: Path, name: str) -> None:
    """The end record of a zip names the volume that it lies in, 0 unless the archive was split (APPNOTE 4.3.16)."""
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - (22 + 0xFFFF)))
        tail = stream.read()
    end = tail.rfind(b"PK\x05\x06")
    split_end = 0 <= end <= len(tail) - 22 and struct.unpack("<H", tail[end + 4 : end + 6])[0] not in (0, 0xFFFF)
    if split_end or archive.with_name(name).with_suffix(".z01").exists():
        raise NotHereError(
            f"{name} is one part of a split archive (.zip with .z01, .z02 ...), which cannot be unpacked here: "
            f"join the parts with `zip -s 0 {name} --out joined.zip` and declare the joined archive instead"
        )


def _zip_members(opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        mode = info.external_attr >> 16
        if info.flag_bits & 0x1:
            raise ArchiveError(f"{opened.filename}: member {info.filename!r} is encrypted")
        if stat.S_ISLNK(mode):
            target = os.fsdecode(opened.read(info)) if info.file_size < 4096 else ""
            yield _Member(info.filename, "link", target=target)
        elif info.is_dir():
            yield _Member(info.filename, "folder")
        elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
            yield _Member(info.filename, "file", info.file_size, open=partial(opened.open, info))
        else:
            yield _Member(info.filename, "special file")


def _tar_members(opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened:
        if info.issym() or info.islnk():
            yield _Member(info.name, "link" if info.issym() else "hard link", target=info.linkname)
        elif info.isdir():
            yield _Member(info.name, "folder")
        elif info.isreg():
            yield _Member(info.name, "file", info.size, open=partial(opened.extractfile, info))
        else:
            yield _Member(info.name, "special file")
    # tarfile takes the end of the bytes for the end of the archive, which a block of zeros marks; what compresses it
    # has a checksum after that.
    stream = opened.fileobj
    assert stream is not None
    if isinstance(stream, io.BufferedReader):
        stream.seek(opened.offset)
        if any(end := stream.read(tarfile.BLOCKSIZE)) or not end:
            raise tarfile.ReadError("its end is missing")
    while stream.read(2**20):
        pass


def _checked(members: Iterator[_Member], archive: Path, name: str) -> list[tuple[str, _Member]]:
    """Return (path below the folder, file whose bytes go there) for each member, or refuse the whole archive."""
    limit = max(SMALL_BYTES, MAX_RATIO * archive.stat().st_size)
    found: list[_Member] = []
    total = 0
    for member in members:
        found.append(member)
        total += member.size
        if total > limit or len(found) > MAX_MEMBERS:
            raise _bomb(name, limit, f"at member {member.name!r}")
    files = {_safe_name(member.name, name): member for member in found if member.kind == "file"}
    plan = [(_safe_name(member.name, name), _content(member, files, name)) for member in found]
    needed = sum(content.size for _, content in plan)
    if needed > limit:
        raise _bomb(name, limit, "with the copies that its links become")
    free = shutil.disk_usage(archive.parent).free
    if needed > free:
        raise NotHereError(f"{name} unpacks to {needed:,} bytes, but only {free:,} are free on its disk")
    return _without_doubled_folder(plan, unpacked_folder(Path(name)).name)


def _bomb(name: str, limit: int, where: str) -> ArchiveError:
    return ArchiveError(
        f"{name} would unpack to more than {limit:,} bytes or {MAX_MEMBERS:,} files, {where}: this looks like a "
        "decompression bomb and is refused"
    )


def _without_doubled_folder(plan: list[tuple[str, _Member]], folder: str) -> list[tuple[str, _Member]]:
    own = [entry for entry in plan if not f"{entry[0]}/".startswith("__MACOSX/")]  # which macOS adds to a zip
    if any(not path.startswith(f"{folder}/") and (path != folder or member.kind != "folder") for path, member in own):
        return plan
    return [(path.removeprefix(f"{folder}/"), member) for path, member in plan if path != folder]


def _safe_name(name: str, archive: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or name[1:2] == ":":
        raise ArchiveError(f"{archive}: member {name!r} would land outside its folder; the archive is refused")
    return posixpath.normpath(path.as_posix())


def _content(member: _Member, files: dict[str, _Member], archive: str) -> _Member:
    """Return the member whose bytes one stands for: itself, or for a link the regular file that it points to."""
    if member.kind in ("file", "folder"):
        return member
    if member.kind == "special file":
        raise ArchiveError(f"{archive}: member {member.name!r} is a device or pipe; the archive is refused")
    base = posixpath.dirname(member.name) if member.kind == "link" else ""
    target = files.get(posixpath.normpath(posixpath.join(base, member.target)))
    if target is None:
        raise ArchiveError(
            f"{archive}: member {member.name!r} is a {member.kind} to {member.target!r}, which is no file of the "
            "archive; the archive is refused"
        )
    return target


def _write(plan: list[tuple[str, _Member]], folder: Path, archive: str, check: Callable[[], None]) -> None:
    folder.mkdir()
    for name, member in plan:
        check()
        place = folder / name
        try:
            (place if member.kind == "folder" else place.parent).mkdir(parents=True, exist_ok=True)
            source = member.open()
            if source is not None:
                with source, place.open("wb") as out:
                    shutil.copyfileobj(source, out, 2**20)
        except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
            raise ArchiveError(f"{archive}: member {name!r} is both a file and a folder") from error
