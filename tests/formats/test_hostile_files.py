"""Every reader over broken files: it gives samples or one error of clear lines, soon and in little memory.

The files are small ones in each data set's format (``small_data``) and excerpts of the mirror, changed at random: bytes
flipped, cut, entries deleted, types changed, files missing or a web page, JSON nested without end.
"""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_data
from hypothesis import given, settings
from hypothesis import strategies as st

import recount.datasets.countbench
import recount.datasets.countclip_zenodo
from golden_tools import shared
from recount import datasets
from recount.data.dataset import DataError
from recount.data.prepare import prepare
from recount.fetching.archives import unpacked_folder

SECONDS, MEGABYTES = 10, 400  # of processor time, of memory more than before
LONGEST = 1000  # characters of a line
NAMES = [name for name in datasets.names() if not datasets.load(name).embedded]


def nwpu() -> dict[str, bytes]:
    """Return two pictures with annotations and one without."""
    files = {"train.txt": b"0001 1 2\n", "val.txt": b"3110 0 1\n", "test.txt": b"5109\n"}
    for name, part in (("0001", 1), ("3110", 4), ("5109", 5)):
        files[f"images_part{part}/{name}.jpg"] = small_data.picture("JPEG", (64, 48))
        files[f"mats/{name}.mat"] = small_data.matlab({"annPoints": np.array([[3.0, 4.0], [5.0, 6.0]])})
    return files


def of_mirror(name: str, chosen: Callable[[str], bool]) -> dict[str, bytes]:
    folder = shared("mirror") / name
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if chosen(str(path.relative_to(folder)))}


def bccd() -> dict[str, bytes]:
    files = of_mirror("bccd", lambda path: re.search(r"_0000[0-3]|\.txt$", path) is not None)
    return files | {
        f"BCCD/ImageSets/Main/{split}.txt": f"BloodImage_0000{k}\n".encode()
        for k, split in enumerate(("train", "val", "test"))
    }


def coco_ten() -> dict[str, bytes]:
    content = json.loads((shared("mirror") / "coco_ten" / "instances_coco_ten.json").read_bytes())
    content["images"] = content["images"][:4]
    ids = {record["id"] for record in content["images"]}
    for what in ("annotations", "captions"):
        content[what] = [entry for entry in content[what] if entry["image_id"] in ids]
    files = of_mirror("coco_ten", lambda path: any(path == record["path"] for record in content["images"]))
    return files | {"instances_coco_ten.json": json.dumps(content).encode()}


def dice6() -> dict[str, bytes]:
    files = of_mirror("dice6", lambda path: path.endswith(".record"))
    for path, content in files.items():
        length = int.from_bytes(content[:8], "little")
        files[path] = content[: length + 16]  # the first record
    return files


def sha_train75() -> dict[str, bytes]:
    return of_mirror("sha_train75", lambda path: re.search(r"IMG_(1|2)\.", path) is not None)


MADE = {**small_data.DATA, "nwpu": nwpu, "bccd": bccd, "coco_ten": coco_ten, "dice6": dice6, "sha_train75": sha_train75}


@cache
def files_of(name: str) -> dict[str, bytes]:
    """Return the files of a data set by path, archives unpacked, as they lie after fetching."""
    files = dict(MADE[name]())
    if name == "carpk":
        files |= small_data.carpk_by_hand()
    for file in datasets.load(name).files():
        if file.unpack and file.path in files:
            folder = unpacked_folder(Path(file.path))
            with zipfile.ZipFile(io.BytesIO(files.pop(file.path))) as archive:
                files |= {str(folder / member): archive.read(member) for member in archive.namelist()}
    return files


@pytest.fixture(autouse=True)
def small_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for no more than the small files have."""
    for name in NAMES:
        monkeypatch.setattr(type(datasets.load(name)), "totals", {})
    monkeypatch.setattr(recount.datasets.countbench, "PER_NUMBER", 1)
    zenodo = {"PAIRS": 45, "REPLACED": 1, "ITEMS": small_data.ITEMS, "CLASS_COUNTS": small_data.CLASS_COUNTS}
    for key, value in zenodo.items():
        monkeypatch.setattr(recount.datasets.countclip_zenodo, key, value)


def read(name: str, files: dict[str, bytes], root: Path) -> list[str]:
    """Prepare a data set of these files; return the lines of the error, or none."""
    shutil.rmtree(root, ignore_errors=True)
    small_data.write(root / "raw" / name, files)
    if name == "fsc147s":
        small_data.write(root / "raw" / "fsc147", files_of("fsc147"))
    try:
        prepare(datasets.load(name), "original", root / "raw", root / "data")
    except DataError as error:
        return str(error).split("\n")
    return []


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_read(name: str, tmp_path: Path) -> None:
    assert read(name, files_of(name), tmp_path) == []


# ------------------------------------------------------------------------------------------------------------- changes

VALUES: list[Any] = [
    None,
    True,
    -1,
    1e308,
    float("nan"),
    "",
    "\ud800",
    "../../x",
    "a\u2028b\x00",
    [],
    {},
    [[1]],
    10**400,
]
TEXTS = [b"", b"<!DOCTYPE html>", b"\xff\xfe\x00", b"version https://git-lfs.github.com/spec/v1\n", b"[" * 200_000]
TEXTS += [b'{"a":' * 100_000, b"\x85\xe2\x80\xa8", b"nan nan nan nan 1\n", b'id,count\n"', b"\x89HDF\r\n\x1a\n", b"0\n"]


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) in JSON."""
    for key in list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ():
        yield content, key
        yield from places(content[key])


def changed_json(content: bytes, data: st.DataObject) -> bytes:
    """Change or delete a value somewhere in JSON or in a line of JSON."""
    lines = content.split(b"\n") if b"\n{" in content else [content]
    number = data.draw(st.integers(0, len(lines) - 1))
    try:
        value = json.loads(lines[number] or b"[0]")
    except (ValueError, RecursionError):
        return content
    found = list(places(value))
    if found:
        container, key = data.draw(st.sampled_from(found[:300]))
        if data.draw(st.booleans()):
            del container[key]
        else:
            container[key] = data.draw(st.sampled_from(VALUES))
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines)


def changed(content: bytes, data: st.DataObject) -> bytes:
    """Change a file's bytes."""
    kind = data.draw(st.sampled_from(["flip", "cut", "text", "lines", "json", "insert"]))
    place = data.draw(st.integers(0, max(len(content) - 1, 0)))
    if kind == "flip":
        harmed = bytearray(content)
        for offset in data.draw(st.lists(st.integers(0, 200), min_size=1, max_size=6)):
            if place + offset < len(harmed):
                harmed[place + offset] ^= 1 << offset % 8
        return bytes(harmed)
    if kind == "cut":
        return content[:place]
    if kind == "lines":
        lines = content.split(b"\n")
        number = place % len(lines)
        return b"\n".join(
            lines[:number] + data.draw(st.sampled_from([[], lines[number : number + 1] * 2])) + lines[number + 1 :]
        )
    if kind == "insert":
        return content[:place] + data.draw(st.sampled_from(TEXTS[:3] + TEXTS[6:])) + content[place:]
    if kind == "json" and content[:1] in (b"{", b"["):
        return changed_json(content, data)
    return data.draw(st.sampled_from(TEXTS))


def survives(name: str, root: Path, data: st.DataObject) -> None:
    """Assert that a reader over changed files gives samples or clear lines, within time and memory."""
    files = dict(files_of(name))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(sorted(files)))
        if data.draw(st.integers(0, 5)) == 0 and len(files) > 1:
            del files[path]
        else:
            files[path] = changed(files[path], data)
    before, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = read(name, files, root)
    assert time.process_time() - before < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEGABYTES * 1000
    for line in lines:
        assert line.strip()
        assert line.isprintable()
        assert len(line) < LONGEST
        assert name in line
        assert "stumbles" not in line, "a built-in reader names the entry itself"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(data=st.data())
def test_changed_files_give_samples_or_clear_lines(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    survives(name, tmp_path_factory.getbasetemp() / f"hostile_{name}", data)


@pytest.mark.more
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=400)
@given(data=st.data())
def test_many_changed_files_give_samples_or_clear_lines(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    survives(name, tmp_path_factory.getbasetemp() / f"hostile_{name}", data)
