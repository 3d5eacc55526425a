"""Transfers that stall or bring too much, users that share a folder, and data sets that are fetched at once."""

import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fetch_tools import BODY, HALF, HASTE, PATH, Answers, Server, dataset, sha256

from recount.data.dataset import DataError, RemoteFile
from recount.fetching import addresses
from recount.fetching import fetch as fetching
from recount.fetching.fetch import fetch
from recount.fetching.proof import kind_of
from recount.fetching.web import CHUNK_BYTES

IMPATIENT = replace(HASTE, slowest_bytes_per_second=CHUNK_BYTES / 0.3)
DISPOSITION = {"Content-Disposition": 'attachment; filename="a.bin"'}


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "toy").iterdir())


# --- transfers that stall


def test_transfer_that_stalls_is_continued_from_the_next_address(tmp_path: Path, server: Server) -> None:
    server.files["/slow"] = BODY
    server.faults["/slow"].append(Answers(drip=HALF))
    server.always["/slow"] = Answers(drip=0)
    file = RemoteFile("a.bin", (server.url("/slow"), server.url(PATH)), sha256(BODY))
    manifest = fetch(dataset(file), tmp_path, patience=IMPATIENT)
    assert manifest["files"][0]["address"] == server.url(PATH)
    assert next(headers["Range"] for path, headers in server.seen if path == PATH) == f"bytes={HALF}-"


@pytest.mark.parametrize("announced", [True, False])
def test_trickle_is_given_up_with_a_line_though_it_never_falls_silent(
    tmp_path: Path, server: Server, announced: bool
) -> None:
    server.announce = announced
    server.always[PATH] = Answers(drip=10)
    with pytest.raises(DataError, match=r"stalls: it sends fewer than 218,453 bytes a second"):
        fetch(dataset(RemoteFile("a.bin", (server.url(PATH),))), tmp_path, patience=IMPATIENT)
    assert server.requests_for(PATH) == 2


def test_trickle_of_google_drive_is_given_up_as_soon_as_any_other(tmp_path: Path, impostor: Server) -> None:
    impostor.files["/uc?id=KEY"] = BODY * 9
    impostor.always["/uc?id=KEY"] = Answers(drip=10, headers=DISPOSITION)
    impatient, began = replace(HASTE, slowest_bytes_per_second=CHUNK_BYTES / 0.5), time.monotonic()
    with pytest.raises(DataError, match="stalls: it sends fewer than"):
        fetch(dataset(RemoteFile("a.bin", ("gdrive:KEY",))), tmp_path, patience=impatient)
    assert impostor.requests_for("/uc?id=KEY") == 2
    assert time.monotonic() - began < 5  # a chunk of gdown's own takes 4 s at the slowest speed, and both 8 s


def test_line_that_drops_after_every_byte_is_given_up(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(999))  # one passes whenever the clock is asked
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(addresses, "time", clock)
    server.etag = '"same"'
    server.faults[PATH].extend(Answers(drop_after=place) for place in range(1, 99))
    with pytest.raises(DataError, match="the connection dropped"):
        fetch(dataset(RemoteFile("a.bin", (server.url(PATH),))), tmp_path, patience=HASTE)
    assert server.requests_for(PATH) == HASTE.attempts


# --- transfers that bring too much


@pytest.fixture
def small_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "kind_of", lambda name: replace(kind_of(name), most=1000))


@pytest.mark.usefixtures("small_kinds")
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("source", ["web", "hub", "gdrive", "web mirror", "folder mirror"])
def test_more_bytes_than_a_kind_may_have_are_stopped_and_leave_nothing(
    tmp_path: Path, impostor: Server, source: str, announced: bool
) -> None:
    impostor.announce = announced
    hub = f"/org/model/resolve/{'a' * 40}/a.bin"
    for path in (PATH, hub, "/uc?id=KEY", "/toy/a.bin"):
        impostor.files[path] = BODY
        impostor.always[path] = Answers(headers=DISPOSITION)
    (tmp_path / "mirror" / "toy").mkdir(parents=True)
    (tmp_path / "mirror" / "toy" / "a.bin").write_bytes(BODY)
    urls = {"web": f"https://files.example{PATH}", "hub": f"hf:org/model@{'a' * 40}/a.bin", "gdrive": "gdrive:KEY"}
    mirror = {"web mirror": "https://files.example", "folder mirror": str(tmp_path / "mirror")}.get(source, "")
    file = RemoteFile("a.bin", (urls[source],) if source in urls else ())
    with pytest.raises(DataError, match="more than the 1,000 that such a file may have"):
        fetch(dataset(file), tmp_path / "raw", mirror=mirror, patience=HASTE)
    assert left(tmp_path / "raw") == []


def test_more_bytes_than_declared_are_stopped(tmp_path: Path, server: Server) -> None:
    server.announce = False
    server.files[PATH] = BODY * 9
    with pytest.raises(DataError, match="sends more than the 307,200 bytes that it should have"):
        fetch(dataset(RemoteFile("a.bin", (server.url(PATH),), sha256(BODY), len(BODY))), tmp_path, patience=HASTE)
    assert left(tmp_path) == []


@pytest.mark.usefixtures("small_kinds")
def test_size_that_one_source_states_allows_more_but_not_less(tmp_path: Path, server: Server) -> None:
    file = RemoteFile("a.bin", (server.url(PATH),), bytes=len(BODY) - 1, seen_once=("bytes",))
    assert fetch(dataset(file), tmp_path, patience=HASTE)["files"][0]["bytes"] == len(BODY)


def test_every_kind_has_a_limit() -> None:
    most = {
        name: kind_of(name).most for name in ("a.json", "a.jpg", "a.mat", "a.pth", "a.zip", "a.tar.gz", "a", "a.txt")
    }
    assert most["a.jpg"] == most["a.txt"] == 2**28 and most["a.zip"] == most["a.tar.gz"] == 2**37
    assert max(most.values()) == 2**37


# --- what one source states


@pytest.mark.parametrize("fact", ["sha256", "bytes", "git_blob", "md5"])
def test_what_only_one_source_states_is_told_and_refuses_nothing(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture, fact: str
) -> None:
    other: Any = 7 if fact == "bytes" else "0" * {"sha256": 64, "git_blob": 40, "md5": 32}[fact]
    file = RemoteFile("a.bin", (server.url(PATH),), **{fact: other}, seen_once=(fact,))
    for _ in range(2):
        caplog.clear()
        assert fetch(dataset(file), tmp_path, patience=HASTE)["files"][0]["sha256"] == sha256(BODY)
        assert "a.bin is taken, although it" in caplog.text and "only one source states that" in caplog.text


@pytest.mark.parametrize(("fact", "stated"), [("git_blob", "0" * 40), ("md5", "0" * 32)])
def test_what_the_publisher_states_refuses(tmp_path: Path, server: Server, fact: str, stated: str) -> None:
    with pytest.raises(DataError, match=rf"its (git blob id|MD5) is \w+, expected {stated}"):
        fetch(dataset(RemoteFile("a.bin", (server.url(PATH),), **{fact: stated})), tmp_path, patience=HASTE)  # type: ignore[arg-type]
    assert left(tmp_path) == ["a.bin.rejected"]


def test_git_blob_and_md5_are_those_of_git_and_of_md5sum(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.files[PATH] = b"what is up, doc?"
    blob, md5 = "bd9dbf5aae1a3862dd1526723246b20206e5fc37", "85d3b22486a86f117c680ae455c3f73f"
    file = RemoteFile("a.bin", (server.url(PATH),), git_blob=blob, md5=md5, seen_once=("md5",))
    fetch(dataset(file), tmp_path, patience=HASTE)
    assert caplog.text == ""


ZENODO = "https://zenodo.org/records/123/files/a.bin?download=1"


@pytest.mark.parametrize(("md5", "said"), [("0" * 32, r"its MD5 is \w+, expected 0000"), ("", "")])
def test_zenodos_own_md5_is_checked(tmp_path: Path, impostor: Server, md5: str, said: str) -> None:
    right = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    entry = f'{{"key": "a.bin", "size": {len(BODY)}, "checksum": "md5:{md5 or right}"}}'
    impostor.files["/api/records/123"] = f'{{"files": [{{"key": "b"}}, {entry}]}}'.encode()
    impostor.files["/records/123/files/a.bin?download=1"] = BODY
    toy = dataset(RemoteFile("a.bin", (ZENODO,)))
    if said:
        with pytest.raises(DataError, match=said):
            fetch(toy, tmp_path, patience=HASTE)
        assert left(tmp_path) == ["a.bin.rejected"]
    else:
        assert fetch(toy, tmp_path, patience=HASTE)["files"][0]["address"] == ZENODO


def test_zenodos_file_is_taken_where_its_api_does_not_answer(
    tmp_path: Path, impostor: Server, caplog: pytest.LogCaptureFixture
) -> None:
    impostor.files["/records/123/files/a.bin?download=1"] = BODY
    fetch(dataset(RemoteFile("a.bin", (ZENODO,))), tmp_path, patience=HASTE)
    assert "Zenodo's API does not state size and MD5 of a.bin" in caplog.text


# --- several users, several data sets


@pytest.fixture
def group_may_write() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


@pytest.mark.usefixtures("group_may_write")
def test_files_and_locks_have_the_mode_that_the_umask_says(tmp_path: Path, impostor: Server) -> None:
    impostor.files |= {"/uc?id=KEY": BODY, PATH: BODY}
    impostor.always["/uc?id=KEY"] = Answers(headers=DISPOSITION)
    files = RemoteFile("a.bin", ("gdrive:KEY",)), RemoteFile("b.bin", (f"https://files.example{PATH}",))
    fetch(dataset(*files), tmp_path, patience=HASTE)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    files = dict.fromkeys([".fetched.jsonl", "manifest.json", "a.bin", "b.bin"], 0o664)
    assert modes == files | {".toy.lock": 0o666}  # any user may take it


@pytest.mark.parametrize("name", ["a.bin", "manifest.json", ".fetched.jsonl", ".toy.lock"])
def test_file_that_may_not_be_read_is_one_line(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The tests may run as root, who may read everything."""
    toy = dataset(RemoteFile("a.bin", (server.url(PATH),)))
    fetch(toy, tmp_path, patience=HASTE)

    def refuse(path: Any) -> None:
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    real, real_open = Path.open, os.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **more: refuse(self) or real(self, *args, **more))
    monkeypatch.setattr(os, "open", lambda path, *args, **more: refuse(path) or real_open(path, *args, **more))
    with pytest.raises(DataError, match=rf"{name}: Permission denied") as caught:
        fetch(toy, tmp_path, patience=HASTE)
    assert len(str(caught.value).splitlines()) == 1


def test_record_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / ".fetched.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"\.fetched\.jsonl: is broken"):
        fetch(dataset(RemoteFile("a.bin")), tmp_path)


def test_data_sets_are_fetched_at_the_same_time(tmp_path: Path, server: Server) -> None:
    sets = [dataset(RemoteFile("a.bin", (server.url(PATH),), sha256(BODY))) for _ in range(6)]
    for number, one in enumerate(sets):
        type(one).name = f"toy{number}"  # each has a class of its own
    with ThreadPool(6) as pool:
        manifests = pool.map(lambda one: fetch(one, tmp_path / "deep" / "raw", patience=HASTE), sets)
    assert [manifest["dataset"] for manifest in manifests] == [one.name for one in sets]
    assert server.requests_for(PATH) == 6


def test_folder_in_the_place_of_a_file_is_moved_aside(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "toy" / "a.bin").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        fetch(dataset(RemoteFile("a.bin", (server.url(PATH),))), tmp_path, patience=HASTE)
    assert "a.bin is there, but is no file; now moved to" in caplog.text
