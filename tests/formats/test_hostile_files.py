"""Every reader over broken files: it gives samples or one error of clear lines, soon and in little memory.

The files are small ones in each data set's format (``small_data``) and excerpts of the mirror, changed at random: bytes
flipped, cut, entries deleted, types changed, files missing or a web page, JSON nested without end.
"""

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


# --------------------------------------------------------------------------------------------------------- named cases


def edited(name: str, path: str, *keys: Any, value: Any = None, delete: bool = False) -> bytes:
    """Return a JSON file of a data set with one value changed or deleted."""
    content = json.loads(files_of(name)[path])
    *outer, last = keys
    container = content
    for key in outer:
        container = container[key]
    if delete:
        del container[last]
    else:
        container[last] = value
    return json.dumps(content).encode()


POINTS, LISTS, COCO = "annotation_FSC147_384.json", "data/Train_Test_Val_FSC_147.json", "instances_coco_ten.json"
DESCRIPTIONS, CSV, V2 = "FSC-147-D.json", "fsc147_counts.csv", "FSC-147-S.json"
CARPK = "CARPK_devkit/data/Annotations/20160331_NTU_00001.txt"
QNRF = "UCF-QNRF_ECCV18/UCF-QNRF_ECCV18/Train"
# what is wrong: data set, changed files (None: missing), one line for each defect
CASES: dict[str, tuple[str, Callable[[], dict[str, bytes | None]], list[str]]] = {
    "entries are missing in two files": (
        "fsc147",
        lambda: {
            DESCRIPTIONS: edited("fsc147", DESCRIPTIONS, "2.jpg", delete=True),
            POINTS: edited("fsc147", POINTS, "7.jpg", delete=True),
        },
        [f"{DESCRIPTIONS}: it has no entry '2.jpg'", f"{POINTS}: it has no entry '7.jpg'"],
    ),
    "two files are missing": (
        "fsc147",
        lambda: {LISTS: None, DESCRIPTIONS: None},
        [f"{LISTS}: not found; `recount fetch fsc147`", f"{DESCRIPTIONS}: not found; `recount fetch fsc147`"],
    ),
    "values of two entries have other types": (
        "fsc147",
        lambda: {
            DESCRIPTIONS: edited("fsc147", DESCRIPTIONS, "2.jpg", "text_description", value=3),
            POINTS: edited("fsc147", POINTS, "3.jpg", "points", 1, value=["7", 1.0]),
        },
        ["2.jpg.text_description: Input should be a valid string, found 3", "3.jpg.points.entry 1.entry 0: Input"],
    ),
    "a list is a number": (
        "fsc147",
        lambda: {LISTS: edited("fsc147", LISTS, "val", value=4)},
        [f"{LISTS}: val: Input should be a valid list, found 4"],
    ),
    "a picture leads out of its folder": (
        "fsc147s",
        lambda: {V2: b'{"../../7.jpg": {"class": "a", "count": 1}}'},
        ["'../../7.jpg' leads out of"],
    ),
    "a picture is there twice in JSON": (
        "fsc147s",
        lambda: {V2: b'{"6.jpg": {"class": "a", "count": 1}, "6.jpg": {"class": "b", "count": 2}}'},
        [f"{V2}: not JSON: the key '6.jpg' is there twice"],
    ),
    "a picture is there twice in CSV": (
        "fsc147",
        lambda: {CSV: files_of("fsc147")[CSV] + b"2.jpg,9,red circles\n"},
        [f"{CSV}, line 8: another count of 2.jpg than before"],
    ),
    "NaN in JSON": (
        "fsc147",
        lambda: {POINTS: b'{"2.jpg": {"points": [[NaN, 1]]}}'},
        [f"{POINTS}: not JSON: NaN is no number"],
    ),
    "JSON nested without end": (
        "fsc147",
        lambda: {POINTS: b"[" * 10**6},
        [f"{POINTS}: not JSON: it is nested too deeply"],
    ),
    "an image of the same id": (
        "coco_ten",
        lambda: {
            COCO: edited("coco_ten", COCO, "images", 1, value=json.loads(files_of("coco_ten")[COCO])["images"][0])
        },
        [f"{COCO}: Record with id "],
    ),
    "an annotation of an unknown class": (
        "coco_ten",
        lambda: {COCO: edited("coco_ten", COCO, "annotations", 2, "category_id", value=-5)},
        [f"{COCO}: annotations.entry 2: there is no -5"],
    ),
    "a box of three numbers": ("carpk", lambda: {CARPK: b"1 2 3 4 1\n5 6 7\n"}, [f"{CARPK}, line 2: not x1 y1 x2 y2"]),
    "two pictures of one number": (
        "ucf_qnrf",
        lambda: {f"{QNRF}/img_1.jpg": small_data.picture("JPEG")},
        ["img_1.jpg: img_0001.jpg has the same number"],
    ),
    "a list is no text": ("ucf_qnrf", lambda: {"qnrf_val.txt": b"\xff\xfe"}, ["qnrf_val.txt: not a readable text"]),
}


@pytest.mark.parametrize("case", CASES)
def test_each_defect_is_a_line_with_file_and_entry(case: str, tmp_path: Path) -> None:
    name, change, expected = CASES[case]
    files = {path: content for path, content in {**files_of(name), **change()}.items() if content is not None}
    title, *lines = read(name, files, tmp_path)
    assert len(lines) == len(expected), lines
    assert f"{len(expected)} defect" in title
    for what in expected:
        assert sum(what in line for line in lines) == 1, lines


def test_a_caption_may_hold_any_line_separator(tmp_path: Path) -> None:
    rows = files_of("countclip_zenodo")["merged.json"].decode().split("\n")
    rows[0] = rows[0].replace("a red circle", "a\u2028red\x85circle")
    files = {**files_of("countclip_zenodo"), "merged.json": "\n".join(rows).encode()}
    assert read("countclip_zenodo", files, tmp_path) == []
    assert "\u2028" in (tmp_path / "data" / "countclip_zenodo" / "original" / "index.csv").read_text()


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
@settings(max_examples=8)
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
