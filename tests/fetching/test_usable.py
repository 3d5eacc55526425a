"""Nothing is recorded before it has proved usable, from whatever source; what fails is in nobody's way."""

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io
import torch
from fetch_tools import HASTE, Answers, Server, dataset, sha256
from PIL import Image
from safetensors.numpy import save

from recount.data.dataset import DataError, RemoteFile
from recount.fetching.fetch import fetch
from recount.fetching.proof import UnusableError, prove

HTML = b"<!DOCTYPE html>\n<html><head><title>Google Drive - Quota exceeded</title></head><body>No.</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 104857600\n"


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "picture" * 99)
    return stream.getvalue()


def _tar(mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("a.txt")
        info.size = 693
        archive.addfile(info, io.BytesIO(b"picture" * 99))
    return stream.getvalue()


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _torch(stream: io.BytesIO, *, new: bool = True) -> None:
    torch.save({"a": torch.zeros(99)}, stream, _use_new_zipfile_serialization=new)


@cache
def good(name: str) -> bytes:
    """Return a right file of a kind."""
    picture = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
    return {
        "a.zip": _zip,
        "a.tar": lambda: _tar("w"),
        "a.tar.gz": lambda: _tar("w:gz"),
        "a.json": lambda: json.dumps({"points": list(range(99))}, indent=1).encode(),
        "lines.json": lambda: b'{"text": "a\xe2\x80\xa8b"}\n{"text": "c"}\n',
        "a.xml": lambda: b"<annotation><object/></annotation>",
        "a.jpg": lambda: _written(lambda stream: picture.save(stream, "JPEG")),
        "a.png": lambda: _written(lambda stream: picture.save(stream, "PNG")),
        "a.safetensors": lambda: save({"a": np.zeros(99, np.float32)}),
        "a.pth": lambda: _written(_torch),
        "old.pth": lambda: _written(lambda stream: _torch(stream, new=False)),
        "a.npy": lambda: _written(lambda stream: np.save(stream, np.zeros((9, 9)))),
        "a.npz": lambda: _written(lambda stream: np.savez(stream, a=np.zeros(9))),
        "a.mat": lambda: _written(lambda stream: scipy.io.savemat(stream, {"a": np.zeros((99, 2))})),
        "packed.mat": lambda: _written(
            lambda stream: scipy.io.savemat(stream, {"a": np.zeros(9), "b": "text"}, do_compression=True)
        ),
        "a.parquet": lambda: _written(
            lambda stream: pyarrow.parquet.write_table(pyarrow.table({"a": list(range(99))}), stream)
        ),
        "a.txt": lambda: b"0001 1 2\n0002 0 1\n",
        "a.bin": lambda: bytes(range(256)),
    }[name]()


NAMES = (
    "a.zip", "a.tar", "a.tar.gz", "a.json", "lines.json", "a.xml", "a.jpg", "a.png", "a.safetensors", "a.pth",
    "old.pth", "a.npy", "a.npz", "a.mat", "packed.mat", "a.parquet", "a.txt", "a.bin",
)  # fmt: skip
WHOLE = (  # kinds whose content proves its own end
    "a.zip", "a.tar", "a.tar.gz", "a.json", "a.xml", "a.safetensors", "a.pth", "a.npy", "a.npz", "a.mat", "packed.mat",
    "a.parquet",
)  # fmt: skip


def flipped(name: str) -> bytes:
    return good(name).replace(b"picturepicture", b"picturepictore", 1)


def cut(name: str) -> bytes:
    body = good(name).rstrip(b"\0") if name == "a.tar" else good(name)  # which is filled up with zeros
    return body[: len(body) * 7 // 10]


UNUSABLE = {  # name of the file, what comes instead, what is said of it
    "page": ("a.zip", HTML, r"is a web page \('Google Drive - Quota exceeded'\)"),
    "page after a comment": ("a.txt", b"\xef\xbb\xbf\n<!-- x -->\n<HTML><p>Sign in", "is a web page"),
    "page in UTF-16": ("a.bin", "<html>".encode("utf-16"), "is a web page"),
    "pointer": ("a.json", LFS, "is a Git-LFS pointer and not the file itself, which has 104,857,600 bytes"),
    "annex pointer": ("a.jpg", b"/annex/objects/SHA256E-s5--12.jpg\n", "is a git-annex pointer"),
    "empty": ("a.bin", b"", r"is empty \(0 bytes\)"),
    "other archive": ("a.zip", _tar("w:gz"), "is a gzip file, not a zip archive"),
    "another archive": ("a.tar.gz", _zip(), "is a zip archive, not a tar archive"),
    "RAR": ("a.zip", b"Rar!\x1a\x07\x01\0" + bytes(99), "is a RAR archive, not a zip archive"),
    "flipped bit": ("a.zip", flipped("a.zip"), "Bad CRC-32"),
    "weights of another kind": ("a.safetensors", good("a.pth"), "is a zip archive, not a safetensors file"),
    "MATLAB 7.3": ("a.mat", b"MATLAB 7.3 MAT-file" + bytes(600), "is a MATLAB 7.3 file, not a MATLAB 5 file"),
    "no picture": ("a.jpg", b"Not found", "is no picture that can be decoded"),
    "no JSON": ("a.json", b"Not found", "no JSON"),
    "bytes for a text": ("a.txt", bytes(99), "is no text"),
    **{f"cut {name}": (name, cut(name), "cut off|is broken") for name in (*WHOLE, "lines.json")},
    "cut header": ("a.png", good("a.png")[:12], "no picture that can be decoded"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_right_file_of_each_kind_is_usable(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.part").write_bytes(good(name))
    prove(tmp_path / "x.part", name)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("missing", [1, 3, 9])
def test_a_few_missing_bytes_are_noticed(tmp_path: Path, name: str, missing: int) -> None:
    body = good(name)[: 3 * 512] if name == "a.tar" else good(name)  # without the zeros that fill it up
    (tmp_path / "x").write_bytes(body[:-missing])
    with pytest.raises(UnusableError):
        prove(tmp_path / "x", name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("body", [HTML, LFS, b""], ids=["page", "pointer", "empty"])
def test_what_comes_instead_of_any_file_is_called_by_its_name(tmp_path: Path, name: str, body: bytes) -> None:
    (tmp_path / "x").write_bytes(body)
    with pytest.raises(UnusableError, match=r"^is (a web page|a Git-LFS pointer|empty)"):
        prove(tmp_path / "x", name)


@pytest.mark.parametrize("begin", [b"<!---->", b"<?xml ?>", b" <!-- "])
def test_what_looks_like_a_page_for_long_is_looked_at_once(tmp_path: Path, begin: bytes) -> None:
    (tmp_path / "x").write_bytes(begin * 500)
    prove(tmp_path / "x", "a.txt")


def test_page_that_is_asked_for_is_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(HTML)
    prove(tmp_path / "x", "a.html")


def test_lengths_of_matlab_files_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(">H", 0x0100) + b"MI"
    (tmp_path / "x").write_bytes(head + struct.pack(">II", 15, 5) + b"12345")
    prove(tmp_path / "x", "a.mat")


# --- every kind, from every source


class Sources:
    """Puts a body where a source delivers it, and says which address a file then has."""

    def __init__(self, root: Path, server: Server) -> None:
        self.root, self.server = root, server

    def web(self, name: str, body: bytes) -> RemoteFile:
        self.server.files[f"/set/{name}"] = body
        return RemoteFile(name, (f"https://files.example/set/{name}",))

    def hub(self, name: str, body: bytes) -> RemoteFile:
        self.server.files[f"/datasets/org/set/resolve/{'a' * 40}/{name}"] = body
        return RemoteFile(name, (f"hf:datasets/org/set@{'a' * 40}/{name}",))

    def gdrive(self, name: str, body: bytes) -> RemoteFile:
        self.server.files["/uc?id=KEY"] = body
        self.server.always["/uc?id=KEY"] = Answers(headers={"Content-Disposition": 'attachment; filename="a"'})
        return RemoteFile(name, ("gdrive:KEY",))

    def web_mirror(self, name: str, body: bytes) -> RemoteFile:
        self.server.files[f"/copies/toy/{name}"] = body
        return RemoteFile(name)

    def folder_mirror(self, name: str, body: bytes) -> RemoteFile:
        (self.root / "mirror" / "toy").mkdir(parents=True, exist_ok=True)
        (self.root / "mirror" / "toy" / name).write_bytes(body)
        return RemoteFile(name)

    def by_hand(self, name: str, body: bytes) -> RemoteFile:
        (self.root / "raw" / "toy").mkdir(parents=True, exist_ok=True)
        (self.root / "raw" / "toy" / name).write_bytes(body)
        return RemoteFile(name)

    def mirror(self, source: str) -> str:
        (self.root / "mirror").mkdir(exist_ok=True)
        return {"web_mirror": "https://files.example/copies", "folder_mirror": str(self.root / "mirror")}.get(
            source, ""
        )


SOURCES = ("web", "hub", "gdrive", "web_mirror", "folder_mirror", "by_hand")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_is_told_and_moved_aside_and_the_right_file_is_taken_at_the_second_try(
    tmp_path: Path, impostor: Server, source: str, kind: str
) -> None:
    name, body, said = UNUSABLE[kind]
    sources = Sources(tmp_path, impostor)
    put, mirror, raw = getattr(sources, source), sources.mirror(source), tmp_path / "raw"
    toy = dataset(put(name, body))
    with pytest.raises(DataError, match=said):
        fetch(toy, raw, mirror=mirror, patience=HASTE)
    assert {path.name: path.read_bytes() for path in (raw / "toy").iterdir()} == {f"{name}.rejected": body}
    put(name, good(name))
    (entry,) = fetch(toy, raw, mirror=mirror, patience=HASTE)["files"]
    assert (entry["path"], entry["sha256"]) == (name, sha256(good(name)))
    assert (raw / "toy" / name).read_bytes() == good(name)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("body", [HTML, cut("a.zip"), flipped("a.zip"), _tar("w:gz")])
def test_archive_that_cannot_be_unpacked_is_not_recorded(
    tmp_path: Path, impostor: Server, source: str, body: bytes
) -> None:
    sources = Sources(tmp_path, impostor)
    put, mirror, raw = getattr(sources, source), sources.mirror(source), tmp_path / "raw"

    def toy(body: bytes) -> object:
        file = put("a.zip", body)
        return dataset(RemoteFile(file.path, file.urls, unpack=True))

    with pytest.raises(DataError):
        fetch(toy(body), raw, mirror=mirror, patience=HASTE)  # type: ignore[arg-type]
    assert [path.name for path in (raw / "toy").iterdir()] == ["a.zip.rejected"]
    fetch(toy(good("a.zip")), raw, mirror=mirror, patience=HASTE)  # type: ignore[arg-type]
    assert (raw / "toy" / "a" / "a.txt").read_text() == "picture" * 99


def test_page_of_a_declared_size_is_called_a_page_though_its_size_is_not_announced(
    tmp_path: Path, impostor: Server
) -> None:
    impostor.announce = False
    file = Sources(tmp_path, impostor).web("a.zip", HTML)
    with pytest.raises(DataError, match=r"is a web page.*it has 102 bytes, expected 4,552"):
        fetch(dataset(RemoteFile("a.zip", file.urls, "0" * 64, 4552)), tmp_path, patience=HASTE)
    assert len(impostor.seen) == 1


def test_rejected_files_of_the_users_own_are_all_kept(tmp_path: Path, impostor: Server) -> None:
    sources = Sources(tmp_path, impostor)
    for body in (HTML, LFS):
        with pytest.raises(DataError):
            fetch(dataset(sources.by_hand("a.zip", body)), tmp_path / "raw")
    with pytest.raises(DataError):
        fetch(dataset(sources.web("a.zip", b"from the web")), tmp_path / "raw", patience=HASTE)
    there = {path.name: path.read_bytes() for path in (tmp_path / "raw" / "toy").iterdir()}
    assert there == {"a.zip.rejected": HTML, "a.zip.2.rejected": LFS}


@pytest.mark.parametrize("again", ["by hand", "from its address"])
def test_record_of_a_file_that_is_unusable_is_forgotten(tmp_path: Path, impostor: Server, again: str) -> None:
    """As recount wrote it before files were proved."""
    sources = Sources(tmp_path, impostor)
    toy = dataset(sources.by_hand("a.json", LFS))
    entry = {"path": "a.json", "bytes": len(LFS), "sha256": sha256(LFS), "address": "by hand", "date": "2026"}
    (tmp_path / "raw" / "toy" / ".fetched.jsonl").write_text(json.dumps(entry) + "\n")
    (tmp_path / "raw" / "toy" / "manifest.json").write_text(json.dumps({"files": [entry]}))
    if again == "by hand":
        with pytest.raises(DataError, match="Git-LFS pointer"):
            fetch(toy, tmp_path / "raw")
        assert not (tmp_path / "raw" / "toy" / "manifest.json").exists()
        sources.by_hand("a.json", good("a.json"))
    else:
        toy = dataset(sources.web("a.json", good("a.json")))
    assert fetch(toy, tmp_path / "raw", patience=HASTE)["files"][0]["sha256"] == sha256(good("a.json"))


# --- a connection that is cut, and nobody said how long the file is


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.json", "a.pth", "a.bin", "a.jpg", "lines.json"])
def test_cut_connection_of_unknown_length_is_not_recorded_as_whole(tmp_path: Path, impostor: Server, name: str) -> None:
    impostor.announce = False
    toy = dataset(Sources(tmp_path, impostor).web(name, good(name)))
    after = good(name).index(b"\n") + 1 if name == "lines.json" else 90
    impostor.faults[f"/set/{name}"].append(Answers(drop_after=after))
    with pytest.raises(DataError, match=r"cut off|is broken|other bytes at the second time|no picture"):
        fetch(toy, tmp_path / "raw", patience=HASTE)
    assert not (tmp_path / "raw" / "toy" / name).exists()
    assert fetch(toy, tmp_path / "raw", patience=HASTE)["files"][0]["sha256"] == sha256(good(name))
