"""Small files in exactly the formats of suite paper's data sets, as a mirror holds them (or a user's hands)."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image
from scipy.io import savemat

FSC147 = {"train": ["2.jpg", "3.jpg", "4.jpg"], "val": ["5.jpg"], "test": ["6.jpg", "7.jpg"]}
CLASSES = {"2.jpg": "red circles", "3.jpg": "blue stars", "4.jpg": "red stars"}
CLASSES |= {"5.jpg": "green rings", "6.jpg": "yellow hearts", "7.jpg": "blue rings"}
POINTS = [[30.0 + 25 * k, 40.0 + 20 * (k % 4)] for k in range(8)]


def picture(kind: str, size: tuple[int, int] = (256, 384), seed: int = 0) -> bytes:
    """Return a picture of coarse noise as a file of ``kind`` (JPEG or PNG)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def matlab(content: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    savemat(stream, content)
    return stream.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return stream.getvalue()


def as_json(content: object) -> bytes:
    return json.dumps(content).encode()


def as_lines(rows: list[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# -------------------------------------------------------------------------------------------------------------- crowds


def ucf_qnrf() -> dict[str, bytes]:
    """Return the archive with pictures and ``annPoints``, and DM-Count's two lists."""
    members = {}
    for split, number in (("Train", 4), ("Test", 2)):
        for k in range(1, number + 1):
            place = f"UCF-QNRF_ECCV18/{split}/img_{k:04d}"
            members[f"{place}.jpg"] = picture("JPEG", (640, 480), k)
            members[f"{place}_ann.mat"] = matlab({"annPoints": np.array(POINTS) * 2 + k})
    lists = {"qnrf_train.txt": b"img_0001.jpg\nimg_0002.jpg\nimg_0003.jpg\n", "qnrf_val.txt": b"img_0004.jpg\n"}
    return {"UCF-QNRF_ECCV18.zip": archive(members), **lists}


def shanghaitech() -> dict[str, bytes]:
    """Return the archive of both parts: ``image_info{1,1}.location`` and ``.number``, one picture grey."""
    members = {}
    for part in "AB":
        for split, number in (("train", 3), ("test", 1)):
            for k in range(1, number + 1):
                folder = f"ShanghaiTech/part_{part}/{split}_data"
                members[f"{folder}/images/IMG_{k}.jpg"] = picture("JPEG", (512, 384), k)
                info, record = np.empty((1, 1), object), np.empty((1, 1), [("location", object), ("number", object)])
                record[0, 0] = (np.array(POINTS) + k, np.array([[len(POINTS)]], np.uint16))
                info[0, 0] = record
                members[f"{folder}/ground-truth/GT_IMG_{k}.mat"] = matlab({"image_info": info})
    return {"ShanghaiTech.zip": archive(members)}


def nwpu() -> dict[str, bytes]:
    """Return the archives of pictures and ``annPoints``, and the lists; the test split has no annotation."""
    lists = {"train": ["0001", "0002", "0003", "1001", "2001"], "val": ["3001"], "test": ["4001"]}
    parts = {f"images_part{part}.zip": dict[str, bytes]() for part in range(1, 6)}
    for number, name in enumerate(name for names in lists.values() for name in names):
        parts[f"images_part{int(name) // 1000 + 1}.zip"][f"{name}.jpg"] = picture("JPEG", (640, 480), number)
    known = [name for split in ("train", "val") for name in lists[split]]
    mats = {f"mats/{name}.mat": matlab({"annPoints": np.array(POINTS) * 2}) for name in known}
    written = {f"{split}.txt": "".join(f"{name} 0 1\n" for name in names).encode() for split, names in lists.items()}
    return {**{name: archive(members) for name, members in parts.items()}, "mats.zip": archive(mats), **written}


# --------------------------------------------------------------------------------------------------------- open classes


def fsc147() -> dict[str, bytes]:
    """Return lists, classes, descriptions, counts, points with exemplar boxes, and the pictures."""
    names = [name for listed in FSC147.values() for name in listed]
    corners = [[10, 10], [10, 40], [40, 40], [40, 10]]
    annotations = {name: {"points": POINTS, "box_examples_coordinates": [corners] * 3} for name in names}
    descriptions = {name: {"data_split": "", "text_description": f"the {CLASSES[name]}"} for name in names}
    counts = "".join(f"{name},{len(POINTS)},{CLASSES[name]}\n" for name in names)
    return {
        "LICENSE": b"MIT",
        "LICENSE.CounTX": b"MIT",
        "data/Train_Test_Val_FSC_147.json": as_json({**FSC147, "val_coco": ["5.jpg"], "test_coco": ["6.jpg"]}),
        "data/ImageClasses_FSC147.txt": "".join(f"{name}\t{label}\n" for name, label in CLASSES.items()).encode(),
        "FSC-147-D.json": as_json(descriptions),
        "fsc147_counts.csv": f"file,count,class\n{counts}".encode(),
        "annotation_FSC147_384.json": as_json(annotations),
        "FSC147_384_V2.zip": archive(
            {f"images_384_VarV2/{name}": picture("JPEG", (512, 384), k) for k, name in enumerate(names)}
        ),
    }


def fsc147s() -> dict[str, bytes]:
    """Return both versions' lists of picture, minority prompt and count; their pictures are FSC-147's."""
    entries = {"6.jpg": {"class": "blue rings", "count": 2}, "2.jpg": {"class": "blue stars", "count": 1}}
    return {"asset/FSC-147-S-v1.json": as_json(entries), "FSC-147-S.json": as_json(entries)}


def carpk() -> dict[str, bytes]:
    """Return SAFECount's box files (y first), which are fetched without asking."""
    row = {"filename": "20160331_NTU_00001.png", "boxes": [[20.0, 10.0, 60.0, 30.0], [70.0, 90.0, 110.0, 120.0]]}
    return {
        "LICENSE": b"non-commercial",
        "data/CARPK_devkit/train.json": as_lines([row | {"filename": "20160331_NTU_00002.png"}]),
        "data/CARPK_devkit/test.json": as_lines([row]),
        "data/CARPK_devkit/exemplar.json": as_json({}),
    }


def carpk_by_hand() -> dict[str, bytes]:
    """Return the authors' folder: pictures, lines of x1 y1 x2 y2 class, lists of names."""
    folder, name = "CARPK_devkit/data", "20160331_NTU_00001"
    files = {f"{folder}/ImageSets/{split}.txt": f"{name}\n".encode() for split in ("train", "test")}
    files[f"{folder}/ImageSets/train.txt"] = b""
    files[f"{folder}/Annotations/{name}.txt"] = b"10 20 30 60 1\n90 70 120 110 1\n"
    return files | {f"{folder}/Images/{name}.png": picture("PNG", (640, 360))}


# ------------------------------------------------------------------------------------------------------------- captions


def countbench() -> dict[str, bytes]:
    """Return the list of nine items, and the pictures of all but one, whose address is dead."""
    words = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    rows = [
        {"image_url": f"http://127.0.0.1:9/{k}.png", "text": f"{word} red circles", "number": k + 2}
        for k, word in enumerate(words)
    ]
    pictures = {f"pictures/item{k:03d}.png": picture("PNG", (120, 90), k) for k in range(8)}
    return {"CountBench.json": as_json(rows), **pictures}


def countbench_hf491() -> dict[str, bytes]:
    """Return the Hub's parquet file: pictures as bytes, one row without."""
    content = {"bytes": picture("JPEG", (120, 90)), "path": None}
    rows = [
        {"image_url": "http://a/1.jpg", "text": "three red circles", "number": 3, "image": content},
        {"image_url": "http://a/2.jpg", "text": "ten red circles", "number": 10, "image": None},
    ]
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return {"data/train-00000-of-00001-cf54c241ba947306.parquet": stream.getvalue()}


CLASS_COUNTS = dict.fromkeys(range(2, 11), 1)  # of the small merged set: nine groups of five
ITEMS = 2


def countclip_zenodo() -> dict[str, bytes]:
    """Return the archive and lists of the Zenodo record: four pairs without a number, then one that counts."""
    words = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    rows: list[object] = []
    for group, word in enumerate(words):
        rows += [_pair(f"merged/NC{4 * group + k}.jpg", "a red circle", -1) for k in range(4)]
        rows.append(_pair(f"merged/C{group}.jpg", f"{word} red circles", group + 2))
    items: list[object] = [_pair(f"VAL/VAL{k}.jpg", f"{words[k]} blue stars", k + 2) for k in range(ITEMS)]
    names = [f"merged/NC{k}.jpg" for k in (*range(36), 77)] + [f"merged/C{k}.jpg" for k in range(9)]
    names += [f"VAL/VAL{k}.jpg" for k in range(ITEMS)]
    faulty = io.StringIO()
    replacement = json.dumps(_pair("merged/NC77.jpg", "a blue star", -1))
    csv.writer(faulty).writerows([["index", "json_str"], [6, replacement]])
    return {
        "data.zip": archive({f"data/{name}": picture("JPEG", (120, 90), k) for k, name in enumerate(names)}),
        "merged.json": as_lines(rows),
        "val.json": as_lines(items),
        "faulty.csv": faulty.getvalue().encode(),
    }


def _pair(path: str, caption: str, number: int) -> dict[str, object]:
    return {"pths": f"data/{path}", "caps": caption, "urls": f"http://a/{path}", "counts": number}


DATA: dict[str, Callable[[], dict[str, bytes]]] = {
    "ucf_qnrf": ucf_qnrf,
    "shanghaitech_a": shanghaitech,
    "shanghaitech_b": shanghaitech,
    "nwpu": nwpu,
    "fsc147": fsc147,
    "fsc147s": fsc147s,
    "carpk": carpk,
    "countbench": countbench,
    "countbench_hf491": countbench_hf491,
    "countclip_zenodo": countclip_zenodo,
}


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
