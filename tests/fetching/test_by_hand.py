"""A folder that somebody has unpacked stands for its archive: its files are proved, digested and recorded."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fetch_tools import HASTE, Server, dataset, sha256
from PIL import Image

from recount.data.dataset import DataError, Dataset, RemoteFile
from recount.fetching.fetch import fetch


def picture(grey: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((9, 9), grey, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


FILES = {"Train/1.png": picture(1), "Train/1.txt": b"", "Test/2.png": picture(2), "Test/2.txt": b"3 4\n"}
LEFT_BY_SYSTEMS = {".DS_Store": b"\0", "Train/Thumbs.db": b"", "__MACOSX/Train/._1.png": b"Mac"}


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return folder


def toy(*urls: str, folders: tuple[str, ...] = ()) -> Dataset:
    return dataset(RemoteFile("set.zip", urls, unpack=True, unpacked=folders), by_hand="Ask for set.zip.")


def found(manifest: dict[str, object]) -> dict[str, str]:
    files: list[dict[str, str]] = manifest["files"]  # type: ignore[assignment]
    assert {entry["address"] for entry in files} == {"by hand"}
    return {entry["path"]: entry["sha256"] for entry in files}


def test_unpacked_folder_is_taken_instead_of_its_archive_and_digested(tmp_path: Path, server: Server) -> None:
    unpacked(tmp_path / "toy" / "set", FILES | LEFT_BY_SYSTEMS)
    first = fetch(toy(server.url("/set.zip")), tmp_path)
    assert found(first) == {f"set/{name}": sha256(body) for name, body in FILES.items()}
    assert fetch(toy(server.url("/set.zip")), tmp_path) == first
    assert server.seen == []


def test_folders_of_other_names_are_taken_where_all_are_there(tmp_path: Path) -> None:
    unpacked(tmp_path / "toy", {"Train/1.png": picture()})
    both = toy(folders=("Train+Test",))
    with pytest.raises(DataError, match=r"Ask for set.zip"):
        fetch(both, tmp_path)
    unpacked(tmp_path / "toy", {"Test/1.png": picture()})
    assert list(found(fetch(both, tmp_path))) == ["Test/1.png", "Train/1.png"]


def test_folder_that_is_a_link_is_followed_and_a_circle_ends(tmp_path: Path) -> None:
    elsewhere = unpacked(tmp_path / "disk", FILES)
    (elsewhere / "Train" / "again").symlink_to(elsewhere)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "set").symlink_to(elsewhere)
    assert set(found(fetch(toy(), tmp_path))) == {f"set/{name}" for name in FILES}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", r"set/Test/2.png is empty"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", r"set/Test/2.png is a Git-LFS pointer"),
        (b"<html>", r"set/Test/2.png is a web page"),
    ],
)
def test_unusable_file_in_a_folder_is_named_and_nothing_is_moved_or_recorded(
    tmp_path: Path, body: bytes, said: str
) -> None:
    unpacked(tmp_path / "toy" / "set", FILES | {"Test/2.png": body})
    with pytest.raises(DataError, match=rf"1 of its 4 files cannot be taken: {said}"):
        fetch(toy(), tmp_path)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["set"]
    unpacked(tmp_path / "toy" / "set", FILES)
    assert len(fetch(toy(), tmp_path)["files"]) == 4


def test_folder_that_cannot_be_taken_stops_the_set_even_where_it_is_optional(tmp_path: Path) -> None:
    unpacked(tmp_path / "toy" / "set", {"Test/2.png": b""})
    with pytest.raises(DataError, match="is empty"):
        fetch(dataset(RemoteFile("set.zip", unpack=True, optional=True)), tmp_path)


def test_changed_and_lost_files_are_told_with_what_to_do(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "toy" / "set", FILES)
    fetch(toy(), tmp_path)
    unpacked(folder, {"Test/2.png": picture(9)})
    (folder / "Test" / "2.txt").unlink()
    with pytest.raises(
        DataError, match=r"2 of its 3 files .* has changed since .*; set/Test/2.txt is gone.*delete (\S+)"
    ):
        fetch(toy(), tmp_path)
    for name in (".fetched.jsonl", "manifest.json"):
        (tmp_path / "toy" / name).unlink(missing_ok=True)
    assert found(fetch(toy(), tmp_path))["set/Test/2.png"] == sha256(picture(9))


def test_archive_beside_its_unpacked_folder_is_recorded_and_not_unpacked_again(tmp_path: Path) -> None:
    unpacked(tmp_path / "toy" / "set", FILES)
    with zipfile.ZipFile(tmp_path / "toy" / "set.zip", "w") as archive:
        archive.writestr("set/Train/1.png", picture(1))
    paths = [entry["path"] for entry in fetch(toy(), tmp_path)["files"]]
    assert paths == ["set.zip", *(f"set/{name}" for name in sorted(FILES))]
    assert not (tmp_path / "toy" / "set" / ".unpacked.json").exists()


def test_archive_is_taken_after_the_folder_has_gone(tmp_path: Path, server: Server) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("Train/1.png", picture())
    server.files["/set.zip"] = stream.getvalue()
    folder = unpacked(tmp_path / "toy" / "set", FILES)
    fetch(toy(server.url("/set.zip")), tmp_path)
    shutil.rmtree(folder)
    (entry,) = fetch(toy(server.url("/set.zip")), tmp_path, patience=HASTE)["files"]
    assert entry["address"] == server.url("/set.zip")
    assert (folder / "Train" / "1.png").read_bytes() == picture()


def test_empty_folder_stands_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "toy" / "set").mkdir(parents=True)
    with pytest.raises(DataError, match="only by hand"):
        fetch(toy(), tmp_path)
