"""Fetching from a web server that misbehaves, from a mirror, and by hand. Nothing here leaves localhost."""

import errno
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from fetch_tools import BODY, HALF, HASTE, PATH, Answers, Server, dataset, sha256

from recount.data.dataset import DataError, RemoteFile
from recount.fetching import transfers
from recount.fetching.fetch import fetch
from recount.fetching.web import CHUNK_BYTES


def known(server: Server, *urls: str, body: bytes = BODY, **more: Any) -> RemoteFile:
    return RemoteFile("a.bin", urls or (server.url(PATH),), sha256(body), len(body), **more)


def unknown(server: Server) -> RemoteFile:
    return RemoteFile("a.bin", (server.url(PATH),))


def part(root: Path) -> Path:
    return root / "toy" / "a.bin.part"


def interrupted(root: Path, server: Server, file: RemoteFile) -> None:
    """Fetch until the first dropped connection, and give up there."""
    server.faults[PATH].append(Answers(drop_after=HALF))
    server.faults[PATH].append(Answers(status=404))
    with pytest.raises(DataError):
        fetch(dataset(file), root, patience=HASTE)
    assert part(root).stat().st_size == HALF


# --- one file over HTTP


def test_file_arrives_whole_with_its_manifest(tmp_path: Path, server: Server) -> None:
    manifest = fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY
    assert json.loads((tmp_path / "toy" / "manifest.json").read_text()) == manifest
    assert (manifest["dataset"], manifest["title"], manifest["licence"]) == ("toy", "Toys", "CC0")
    (entry,) = manifest["files"]
    assert entry["date"]
    assert entry | {"date": ""} == {
        "path": "a.bin",
        "bytes": len(BODY),
        "sha256": sha256(BODY),
        "address": server.url(PATH),
        "date": "",
    }
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == [".fetched.jsonl", "a.bin", "manifest.json"]


def test_second_run_asks_for_nothing_and_keeps_the_manifests_bytes(tmp_path: Path, server: Server) -> None:
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    before = (tmp_path / "toy" / "manifest.json").read_bytes()
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert server.requests_for(PATH) == 1
    assert (tmp_path / "toy" / "manifest.json").read_bytes() == before


def test_manifest_that_a_workflow_deleted_comes_back_with_the_same_bytes(tmp_path: Path, server: Server) -> None:
    fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    manifest = tmp_path / "toy" / "manifest.json"
    before = manifest.read_bytes()
    manifest.unlink()
    fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    assert manifest.read_bytes() == before


def test_dropped_connection_is_continued_and_no_byte_comes_twice(tmp_path: Path, server: Server) -> None:
    server.faults[PATH].append(Answers(drop_after=HALF))
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert server.requests_for(PATH) == 2
    assert server.sent[PATH] == len(BODY)


def test_connection_that_drops_often_but_moves_on_is_not_given_up(tmp_path: Path, server: Server) -> None:
    body = BODY * 3
    server.files[PATH] = body
    server.faults[PATH].extend(Answers(drop_after=n * CHUNK_BYTES) for n in range(1, 13))
    fetch(dataset(known(server, body=body)), tmp_path, patience=HASTE)
    assert server.requests_for(PATH) == 13 > HASTE.attempts
    assert server.sent[PATH] == len(body)


def test_interrupted_run_is_continued_by_the_next_run(tmp_path: Path, server: Server) -> None:
    interrupted(tmp_path, server, known(server))
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY
    assert server.sent[PATH] == len(BODY)


def test_server_without_ranges_starts_again_cleanly(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    interrupted(tmp_path, server, known(server))
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY
    assert server.sent[PATH] == HALF + len(BODY)


@pytest.mark.parametrize("there", [b"x" * HALF, BODY + b"more"], ids=["damaged", "longer than the file"])
def test_partial_file_of_other_bytes_is_fetched_anew(tmp_path: Path, server: Server, there: bytes) -> None:
    part(tmp_path).parent.mkdir()
    part(tmp_path).write_bytes(there)
    fetch(dataset(RemoteFile("a.bin", (server.url(PATH),), sha256(BODY))), tmp_path, patience=HASTE)
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY


def test_partial_file_that_is_complete_needs_no_network(tmp_path: Path, server: Server) -> None:
    part(tmp_path).parent.mkdir()
    part(tmp_path).write_bytes(BODY)
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert server.seen == []


@pytest.mark.parametrize(
    ("old", "new", "body"),
    [
        pytest.param('"old"', '"new"', BODY[::-1], id="another version"),
        pytest.param('"old"', '"new"', b"short", id="a shorter one, which keeps no tail of the old one"),
        pytest.param("", "", BODY[::-1], id="versions that cannot be told apart"),
    ],
)
def test_two_versions_are_never_joined_when_the_digest_is_unknown(
    tmp_path: Path, server: Server, old: str, new: str, body: bytes
) -> None:
    server.etag = old
    interrupted(tmp_path, server, unknown(server))
    server.etag, server.files[PATH] = new, body
    fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    assert (tmp_path / "toy" / "a.bin").read_bytes() == body


def test_same_version_is_continued_when_the_digest_is_unknown(tmp_path: Path, server: Server) -> None:
    server.etag = '"old"'
    interrupted(tmp_path, server, unknown(server))
    fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY
    assert server.sent[PATH] == len(BODY)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_overloaded_server_is_asked_again(tmp_path: Path, server: Server, status: int) -> None:
    server.faults[PATH].extend([Answers(status=status), Answers(status=status, headers={"Retry-After": "0"})])
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert server.requests_for(PATH) == 3


def test_pauses_between_attempts_double(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(transfers.Session, "pause", lambda self, seconds: pauses.append(seconds))
    server.faults[PATH].extend([Answers(status=503)] * 3)
    fetch(dataset(known(server)), tmp_path, patience=replace(HASTE, backoff_seconds=1))
    assert pauses == [1, 2, 4]


def test_server_that_asks_for_an_hour_is_not_waited_for(tmp_path: Path, server: Server) -> None:
    server.always[PATH] = Answers(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(DataError, match="HTTP 429"):
        fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert server.requests_for(PATH) == 1


def test_absent_file_is_asked_for_once(tmp_path: Path, server: Server) -> None:
    server.always[PATH] = Answers(status=404)
    with pytest.raises(DataError, match="HTTP 404 Not Found"):
        fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert server.requests_for(PATH) == 1


def test_silent_server_is_left_after_two_time_outs(tmp_path: Path, server: Server) -> None:
    server.always[PATH] = Answers(silent=True)
    with pytest.raises(DataError, match=r"no data for 0.1 s"):
        fetch(dataset(known(server)), tmp_path, patience=replace(HASTE, read_seconds=0.1))
    assert server.requests_for(PATH) <= 2


def test_size_that_is_not_announced_is_no_obstacle(tmp_path: Path, server: Server) -> None:
    server.announce = False
    fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY


# --- wrong bytes


def test_wrong_bytes_are_refused_with_both_digests_and_the_address(tmp_path: Path, server: Server) -> None:
    wrong = BODY[::-1]
    server.always[PATH] = Answers(body=wrong)
    with pytest.raises(DataError) as caught:
        fetch(dataset(known(server)), tmp_path, patience=HASTE)
    for text in (sha256(wrong), sha256(BODY), server.url("/set/")):
        assert text in str(caught.value)
    assert not (tmp_path / "toy" / "a.bin").exists()
    assert not part(tmp_path).exists()


def test_wrong_size_is_refused_before_the_body_is_read(tmp_path: Path, server: Server) -> None:
    server.always[PATH] = Answers(body=BODY * 100)
    with pytest.raises(DataError, match=r"has 30,720,000 bytes, expected 307,200"):
        fetch(dataset(known(server)), tmp_path, patience=HASTE)


def test_next_address_is_taken_when_the_first_is_wrong(tmp_path: Path, server: Server) -> None:
    server.files["/wrong"] = BODY[::-1]
    manifest = fetch(dataset(known(server, server.url("/wrong"), server.url(PATH))), tmp_path, patience=HASTE)
    assert manifest["files"][0]["address"] == server.url(PATH)


def test_partial_file_is_continued_from_the_next_address(tmp_path: Path, server: Server) -> None:
    server.files["/flaky"] = BODY
    server.faults["/flaky"].extend([Answers(drop_after=HALF), Answers(status=404)])
    fetch(dataset(known(server, server.url("/flaky"), server.url(PATH))), tmp_path, patience=HASTE)
    assert server.sent[PATH] == len(BODY) - HALF


def test_web_page_is_not_taken_for_an_unknown_file(tmp_path: Path, server: Server) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="web page instead of the file"):
        fetch(dataset(unknown(server)), tmp_path, patience=HASTE)


def test_flipped_bit_in_a_file_that_is_there_is_repaired(tmp_path: Path, server: Server) -> None:
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    (tmp_path / "toy" / "a.bin").write_bytes(b"\x01" + BODY[1:])
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY


# --- digests that are recorded at the first download


def test_unknown_digest_is_recorded_even_if_another_file_fails(tmp_path: Path, server: Server) -> None:
    other = RemoteFile("b.bin", (server.url("/nowhere"),))
    with pytest.raises(DataError):
        fetch(dataset(unknown(server), other), tmp_path, patience=HASTE)
    (tmp_path / "toy" / "a.bin").unlink()
    server.files[PATH] = BODY[::-1]
    with pytest.raises(DataError, match="recorded at the first download"):
        fetch(dataset(unknown(server)), tmp_path, patience=HASTE)


def test_changed_file_is_an_error_that_says_what_to_do(tmp_path: Path, server: Server) -> None:
    fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    (tmp_path / "toy" / "a.bin").unlink()
    changed = BODY[::-1]
    server.files[PATH] = changed
    with pytest.raises(DataError) as caught:
        fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    for text in (sha256(changed), sha256(BODY), server.url(PATH), f"delete {tmp_path / 'toy'} and fetch again"):
        assert text in str(caught.value)


def test_recorded_digest_is_read_from_the_manifest_alone(tmp_path: Path, server: Server) -> None:
    fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    (tmp_path / "toy" / ".fetched.jsonl").unlink()
    (tmp_path / "toy" / "a.bin").unlink()
    server.files[PATH] = BODY[::-1]
    with pytest.raises(DataError, match="recorded at the first download"):
        fetch(dataset(unknown(server)), tmp_path, patience=HASTE)


def test_record_cut_off_by_a_crash_is_mended(tmp_path: Path, server: Server) -> None:
    fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    ledger = tmp_path / "toy" / ".fetched.jsonl"
    before = ledger.read_text()
    ledger.write_text(before + '{"path": "b.b')
    fetch(dataset(unknown(server)), tmp_path, patience=HASTE)
    assert ledger.read_text() == before


def test_broken_record_is_named(tmp_path: Path, server: Server) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json: is broken"):
        fetch(dataset(unknown(server)), tmp_path, patience=HASTE)


# --- hosts that are not there


def test_unreachable_host_is_tried_once_for_three_hundred_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Any] = []

    def nobody_answers(address: Any, timeout: float) -> None:
        tries.append(address)
        raise TimeoutError

    monkeypatch.setattr(transfers.socket, "create_connection", nobody_answers)
    files = [RemoteFile(f"{n}.bin", (f"https://far.example/{n}.bin",)) for n in range(300)]
    with pytest.raises(DataError, match=r"(?s)300 of 300 files could not be had.*no connection within 5 s"):
        fetch(dataset(*files), tmp_path)
    assert tries == [("far.example", 443)]


def test_name_server_that_never_answers_costs_one_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never, tries = threading.Event(), []

    def hangs(address: Any, timeout: float) -> socket.socket:
        tries.append(address)
        never.wait()
        return socket.socket()

    monkeypatch.setattr(transfers.socket, "create_connection", hangs)
    files = [RemoteFile(f"{n}.bin", (f"https://far.example/{n}.bin",)) for n in range(50)]
    try:
        with pytest.raises(DataError, match=r"no connection within 0.05 s"):
            fetch(dataset(*files), tmp_path, patience=replace(HASTE, connect_seconds=0.05))
    finally:
        never.set()
    assert tries == [("far.example", 443)]


def test_without_any_network_not_every_host_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []

    def unknown_name(address: Any, timeout: float) -> None:
        tries.append(address)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(transfers.socket, "create_connection", unknown_name)
    files = [RemoteFile(f"{n}.jpg", (f"https://host{n}.example/{n}.jpg",)) for n in range(300)]
    with pytest.raises(DataError, match="none of 12 other hosts could be reached"):
        fetch(dataset(*files), tmp_path, workers=1)
    assert len(tries) == HASTE.dead_hosts


def test_host_that_always_fails_is_given_up_for_the_whole_set(tmp_path: Path, server: Server) -> None:
    files = [RemoteFile(f"{n}.bin", (server.url(f"/{n}"),)) for n in range(100)]
    server.always = {f"/{n}": Answers(status=503) for n in range(100)}
    with pytest.raises(DataError, match="given up after 16 failures in a row"):
        fetch(dataset(*files), tmp_path, patience=HASTE, workers=1)
    assert len(server.seen) == HASTE.failures_in_a_row


def test_refused_connection_is_named(tmp_path: Path) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody_listens.getsockname()[1]}/a.bin"
        with pytest.raises(DataError, match=r"127.0.0.1 cannot be reached \(Connection refused\)"):
            fetch(dataset(RemoteFile("a.bin", (address,))), tmp_path, patience=HASTE)


def test_proxy_of_the_environment_is_what_must_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []

    def nobody_answers(address: Any, timeout: float) -> None:
        tries.append(address)
        raise TimeoutError

    monkeypatch.setattr(transfers.socket, "create_connection", nobody_answers)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    with pytest.raises(DataError, match=r"proxy.example cannot be reached"):
        fetch(dataset(RemoteFile("a.bin", ("https://far.example/a.bin",))), tmp_path, patience=HASTE)
    assert tries == [("proxy.example", 3128)]


# --- by hand, and the one message


def test_one_message_names_every_file_reason_and_place(tmp_path: Path, server: Server) -> None:
    server.always["/set/c.bin"] = Answers(status=403)
    files = [
        known(server),
        RemoteFile("deep/b.zip", sha256="12ab", bytes=1234567),
        RemoteFile("c.bin", (server.url("/gone/c.bin"), server.url("/set/c.bin"))),
    ]
    with pytest.raises(DataError) as caught:
        fetch(dataset(*files, by_hand="Ask the authors for deep/b.zip."), tmp_path, patience=HASTE)
    assert str(caught.value).splitlines() == [
        "toy (Toys): 2 of 3 files could not be had",
        "  no address is known, only by hand:",
        "    deep/b.zip  (1,234,567 bytes, SHA-256 12ab…)",
        f"  {server.address}/gone/<path>: HTTP 404 Not Found",
        f"  {server.address}/set/<path>: HTTP 403 Forbidden",
        "    c.bin",
        "What has been fetched stays (1 files).",
        "By hand: Ask the authors for deep/b.zip.",
        "  homepage: https://toys.example/",
        "  licence: CC0",
        f"  put each file below {tmp_path / 'toy'}/ under exactly the path above, and run the same command again",
    ]
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY
    assert not (tmp_path / "toy" / "manifest.json").exists()


def test_file_put_there_by_hand_is_taken_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.bin").write_bytes(BODY)
    manifest = fetch(dataset(RemoteFile("a.bin")), tmp_path)
    assert (manifest["files"][0]["address"], manifest["files"][0]["sha256"]) == ("by hand", sha256(BODY))
    (tmp_path / "toy" / "a.bin").write_bytes(BODY[::-1])
    with pytest.raises(DataError, match=r"is there already, but its SHA-256 is .* recorded at the first download"):
        fetch(dataset(RemoteFile("a.bin")), tmp_path)


def test_wrong_file_put_there_by_hand_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.bin").write_bytes(b"something else")
    with pytest.raises(DataError, match=f"is there already, but its SHA-256 is .* expected {sha256(BODY)}"):
        fetch(dataset(RemoteFile("a.bin", sha256=sha256(BODY))), tmp_path)


def test_optional_file_may_be_missing_and_is_listed(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    extra = RemoteFile("extra.bin", (server.url("/gone"),), optional=True)
    manifest = fetch(dataset(known(server), extra), tmp_path, patience=HASTE)
    assert manifest["missing"] == ["extra.bin"]
    assert "goes on without 1 optional files" in caplog.text


@pytest.mark.parametrize("path", ["../a.bin", "/a.bin", "a/../b.bin", "manifest.json", "a//b"])
def test_path_that_is_none_is_a_mistake_of_the_data_set(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="cannot be the path of a file"):
        fetch(dataset(RemoteFile(path)), tmp_path)


# --- mirrors


@pytest.fixture
def folder_mirror(tmp_path: Path) -> Path:
    (tmp_path / "mirror" / "toy").mkdir(parents=True)
    (tmp_path / "mirror" / "toy" / "a.bin").write_bytes(BODY)
    return tmp_path / "mirror"


def test_mirror_folder_comes_first(
    tmp_path: Path, server: Server, folder_mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOUNT_MIRROR", str(folder_mirror))
    manifest = fetch(dataset(known(server)), tmp_path / "raw", patience=HASTE)
    assert (tmp_path / "raw" / "toy" / "a.bin").read_bytes() == BODY
    assert manifest["files"][0]["address"] == "mirror:toy/a.bin"
    assert server.seen == []


def test_mirror_address_comes_first(tmp_path: Path, server: Server) -> None:
    server.files["/copies/toy/with%20space.bin"] = BODY
    file = RemoteFile("with space.bin", (server.url(PATH),), sha256(BODY))
    manifest = fetch(dataset(file), tmp_path, mirror=server.url("/copies/"), patience=HASTE)
    assert manifest["files"][0]["address"] == "mirror:toy/with space.bin"
    assert server.requests_for(PATH) == 0


def test_wrong_bytes_in_the_mirror_are_worth_a_warning_only(
    tmp_path: Path, server: Server, folder_mirror: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder_mirror / "toy" / "a.bin").write_bytes(b"rotten")
    with caplog.at_level(logging.WARNING):
        manifest = fetch(dataset(known(server)), tmp_path / "raw", mirror=folder_mirror, patience=HASTE)
    assert manifest["files"][0]["address"] == server.url(PATH)
    assert sha256(b"rotten") in caplog.text


def test_wrong_size_at_a_mirror_address_is_worth_a_warning_only(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["/copies/toy/a.bin"] = b"rotten"
    manifest = fetch(dataset(known(server)), tmp_path, mirror=server.url("/copies"), patience=HASTE)
    assert manifest["files"][0]["address"] == server.url(PATH)
    assert "has 6 bytes, expected 307,200" in caplog.text


def test_file_that_the_mirror_lacks_comes_from_its_address(tmp_path: Path, server: Server, folder_mirror: Path) -> None:
    (folder_mirror / "toy" / "a.bin").unlink()
    manifest = fetch(dataset(known(server)), tmp_path / "raw", mirror=folder_mirror, patience=HASTE)
    assert manifest["files"][0]["address"] == server.url(PATH)


def test_mirror_that_is_not_there_is_an_error(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match="neither a folder that exists nor an http"):
        fetch(dataset(known(server)), tmp_path, mirror=tmp_path / "nowhere", patience=HASTE)


# --- this machine


class FullDisk:
    """A file on a disk that has room for ``HALF`` bytes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, chunk: bytes) -> int:
        if self.stream.tell() + len(chunk) > HALF:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.stream.write(chunk))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()


def test_full_disk_is_one_line_and_the_part_is_kept(tmp_path: Path, server: Server) -> None:
    real = Path.open

    def scarce(self: Path, *args: Any, **kwargs: Any) -> Any:
        stream = real(self, *args, **kwargs)
        return FullDisk(stream) if self.suffix == ".part" else stream

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", scarce)
        with pytest.raises(DataError, match="No space left on device") as caught:
            fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert len(str(caught.value).splitlines()) == 1
    assert part(tmp_path).stat().st_size == HALF
    sent = server.sent[PATH]
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert server.sent[PATH] - sent == len(BODY) - HALF


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path, server: Server) -> None:
    (tmp_path / "raw").write_text("a file, not a folder")
    with pytest.raises(DataError, match="Not a directory") as caught:
        fetch(dataset(known(server)), tmp_path / "raw", patience=HASTE)
    assert len(str(caught.value).splitlines()) == 1


def test_ctrl_c_does_not_wait_for_a_silent_server_and_leaves_the_set_unlocked(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = RemoteFile("b.bin", (server.url("/silent"),))
    server.always["/silent"] = Answers(silent=True)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recount.fetching.fetch._Bars.done", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(dataset(known(server), silent), tmp_path, patience=replace(HASTE, read_seconds=600))
    fetch(dataset(known(server)), tmp_path, patience=HASTE)
    assert server.requests_for(PATH) == 1


FETCH_IN_A_PROCESS = """
import sys
sys.path.insert(0, {tools!r})
from pathlib import Path
from fetch_tools import HASTE, dataset
from recount.data.dataset import RemoteFile
from recount.fetching.fetch import fetch
fetch(dataset(RemoteFile("a.bin", ({url!r},), {digest!r})), Path({root!r}), patience=HASTE)
"""


def test_two_processes_fetch_a_data_set_once(tmp_path: Path, server: Server) -> None:
    asked, waiting = threading.Event(), threading.Event()

    def hold_back(path: str) -> None:
        asked.set()
        waiting.wait(300)

    server.before = hold_back
    code = FETCH_IN_A_PROCESS.format(
        tools=str(Path(__file__).parent), url=server.url(PATH), digest=sha256(BODY), root=str(tmp_path)
    )
    with subprocess.Popen([sys.executable, "-c", code]) as first:
        assert asked.wait(300)
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            assert "another process is fetching" in second.stderr.readline()
            waiting.set()
            assert (first.wait(300), second.wait(300)) == (0, 0)
    assert server.requests_for(PATH) == 1


# --- Google Drive and the Hugging Face Hub


CONSENT = (
    b'<html><form id="download-form" action="https://drive.usercontent.google.com/download">'
    b'<input type="hidden" name="id" value="KEY"><input type="hidden" name="confirm" value="t"></form></html>'
)


def test_google_drive_is_fetched_through_its_consent_page_and_continued(tmp_path: Path, impostor: Server) -> None:
    disposition = {"Content-Disposition": 'attachment; filename="a.bin"'}
    impostor.files |= {"/uc?id=KEY": CONSENT, "/download?id=KEY&confirm=t": BODY}
    impostor.always["/uc?id=KEY"] = Answers(headers={"Content-Type": "text/html"})
    impostor.faults["/download?id=KEY&confirm=t"] = deque([Answers(drop_after=HALF, headers=disposition)])
    impostor.always["/download?id=KEY&confirm=t"] = Answers(headers=disposition)
    manifest = fetch(dataset(RemoteFile("a.bin", ("gdrive:KEY",), sha256(BODY))), tmp_path, patience=HASTE)
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY
    assert manifest["files"][0]["address"] == "gdrive:KEY"
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == [".fetched.jsonl", "a.bin", "manifest.json"]


def test_google_drives_refusal_is_passed_on(tmp_path: Path, impostor: Server) -> None:
    page = b'<html><p class="uc-error-subcaption">Too many users have viewed this file recently.</p></html>'
    impostor.files["/uc?id=KEY"] = page
    impostor.content_type = "text/html"
    with pytest.raises(DataError, match="Too many users have viewed"):
        fetch(dataset(RemoteFile("a.bin", ("gdrive:KEY",))), tmp_path, patience=HASTE)


def test_hub_file_is_asked_for_at_its_revision_with_the_users_token(
    tmp_path: Path, impostor: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    impostor.files["/datasets/org/set/resolve/abc123/data/a.bin"] = BODY
    file = RemoteFile("a.bin", ("hf:datasets/org/set@abc123/data/a.bin",), sha256(BODY))
    fetch(dataset(file), tmp_path, patience=HASTE)
    assert impostor.seen[0][1]["Authorization"] == "Bearer hf_secret"
    assert "hf_secret" not in (tmp_path / "toy" / "manifest.json").read_text()


def test_gated_hub_file_says_how_to_get_in(tmp_path: Path, impostor: Server) -> None:
    impostor.always["/org/model/resolve/main/a.bin"] = Answers(status=403)
    with pytest.raises(DataError, match=r"accept its licence at https://huggingface.co/org/model and log in"):
        fetch(dataset(RemoteFile("a.bin", ("hf:org/model@main/a.bin",))), tmp_path, patience=HASTE)


def test_address_of_no_known_kind_is_a_mistake_of_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'ftp://x/y' is no address"):
        fetch(dataset(RemoteFile("a.bin", ("ftp://x/y",))), tmp_path)
