"""The captioned sets of CountCLIP: fixed order, class counts, replacements, editions, dead links, captions of boxes."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from golden_tools import golden, shared
from recount import datasets
from recount.data.dataset import DataError
from recount.data.sample import RawSample
from recount.datasets import countclip_zenodo
from recount.datasets.coco_ten import CocoTen, plural
from recount.datasets.countbench import CountBench, read_items
from recount.datasets.countbench_hf491 import CountBenchHf491
from recount.datasets.countclip_zenodo import (
    CLASS_COUNTS,
    CountClipZenodo,
    check_order,
    held_out_groups,
    one_in_32,
    with_replacements,
)
from recount.datasets.formats.captions import item
from recount.fetching.fetch import fetch
from recount.fetching.transfers import Patience
from recount.systems.countclip import has_number_word, nine_captions


def counting(samples: list[RawSample]) -> list[bool]:
    return [bool(sample.attributes["counting"]) for sample in samples]


# ---------------------------------------------------------------------------------------------------------- shapes_ten


@pytest.fixture(scope="module")
def shapes() -> list[RawSample]:
    return list(datasets.load("shapes_ten").read(Path("nowhere")))


def test_shapes_come_four_without_a_number_then_one_that_counts(shapes: list[RawSample]) -> None:
    training = [sample for sample in shapes if sample.split == "train"]
    assert counting(training) == [False, False, False, False, True] * 701


def test_shapes_are_unbalanced_in_training_and_balanced_in_test(shapes: list[RawSample]) -> None:
    numbers = Counter(sample.count for sample in shapes if sample.split == "train" and sample.attributes["counting"])
    assert numbers == {2: 451, 3: 142, 4: 61, 5: 21, 6: 12, 7: 5, 8: 4, 9: 2, 10: 3}
    assert Counter(s.count for s in shapes if s.split == "test") == dict.fromkeys(range(2, 11), 20)


def test_shapes_have_as_many_points_as_their_caption_says(shapes: list[RawSample]) -> None:
    for sample in shapes:
        if sample.attributes["counting"]:
            assert len(sample.points) == sample.count
            assert has_number_word(sample.prompt, int(sample.count), "whole_word")
        else:
            assert np.isnan(sample.count)


# ------------------------------------------------------------------------------------------------------------ coco_ten


@pytest.fixture(scope="module")
def coco() -> list[RawSample]:
    return list(CocoTen().read(shared("mirror", "coco_ten")))


def test_coco_has_the_69_pairs_of_picture_and_class(coco: list[RawSample]) -> None:
    templated = [s for s in coco if s.attributes["counting"] and s.attributes["caption"] == "templated"]
    totals = json.loads(shared("mirror", "coco_ten.json").read_text())["totals"]
    assert len(templated) == totals["image_class_pairs_with_2_to_10"]
    assert Counter(int(s.count) for s in templated) == {int(n): k for n, k in totals["pairs_by_number"].items()}


def test_coco_training_keeps_the_order_and_shares_no_picture_with_test(coco: list[RawSample]) -> None:
    training = [sample for sample in coco if sample.split == "train"]
    assert counting(training) == [False, False, False, False, True] * (len(training) // 5)
    assert not {s.image for s in training} & {s.image for s in coco if s.split == "test"}


def test_coco_training_has_every_number(coco: list[RawSample]) -> None:
    assert {s.count for s in coco if s.split == "train" and s.attributes["counting"]} == set(range(2, 11))


def test_a_human_caption_counts_only_what_its_boxes_confirm(coco: list[RawSample]) -> None:
    human = [s for s in coco if s.attributes["counting"] and s.attributes["caption"] == "human"]
    assert human
    assert all(has_number_word(s.prompt.lower(), int(s.count), "whole_word") for s in human)


@pytest.mark.parametrize(
    ("name", "many"), [("person", "people"), ("knife", "knives"), ("dog", "dogs"), ("bus", "buses")]
)
def test_plurals(name: str, many: str) -> None:
    assert plural(name) == many


# ---------------------------------------------------------------------------------------------------------- countbench


def test_countbench_has_what_the_golden_file_counts() -> None:
    rows = read_items(shared("mirror", "countbench", "CountBench.json"))
    want = golden("countclip")["cases"]["countbench_captions"]["outputs"]
    assert len(rows) == want["rows"]
    lost = Counter(r["number"] for r in rows if len(set(nine_captions(r["text"], r["number"], 77))) == 1)
    assert lost == {int(number): times for number, times in want["lost_by_77_cut"].items()}
    assert sum(len(set(nine_captions(r["text"], r["number"], None))) == 1 for r in rows) == want["lost_without_cut"]
    differ = [
        nine_captions(r["text"], r["number"], 77) != nine_captions(r["text"], r["number"], 77, "whole_word")
        for r in rows
    ]
    assert sum(differ) == want["captions_where_substring_and_whole_word_differ_within_cut"]
    assert len({r["image_url"] for r in rows}) == want["distinct_urls"]


def few_items(folder: Path, addresses: list[str]) -> Path:
    """Write a CountBench.json whose first items have ``addresses``."""
    rows = [{"image_url": f"http://localhost:9/{i}.jpg", "text": "two", "number": 2 + i % 9} for i in range(540)]
    for row, address in zip(rows, addresses, strict=False):
        row["image_url"] = address
    (folder / "CountBench.json").write_text(json.dumps(rows))
    return folder


def test_dead_addresses_are_listed_as_missing(tmp_path: Path) -> None:
    few_items(tmp_path, [])
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "item000.jpg")
    (tmp_path / "pictures" / "item001.jpg").write_text("<html>gone</html>")
    samples = list(CountBench().read(tmp_path))
    assert [sample.split for sample in samples[:3]] == ["test", "missing", "missing"]
    assert Counter(sample.split for sample in samples) == {"test": 1, "missing": 539}


def test_fetching_goes_on_over_the_addresses_in_the_list(tmp_path: Path) -> None:
    class Listed(CountBench):
        def files(self) -> list[Any]:
            return []

        def listed_files(self, raw: Path) -> list[Any]:
            return super().listed_files(raw)[:2]

    mirror = tmp_path / "mirror" / "countbench" / "pictures"
    mirror.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(mirror / "item000.jpg")
    raw = tmp_path / "raw" / "countbench"
    raw.mkdir(parents=True)
    few_items(raw, [])
    patience = Patience(connect_seconds=0.2, read_seconds=0.2, attempts=1, backoff_seconds=0)
    manifest = fetch(Listed(), tmp_path / "raw", mirror=tmp_path / "mirror", patience=patience)
    assert [file["path"] for file in manifest["files"]] == ["pictures/item000.jpg"]
    assert manifest["missing"] == ["pictures/item001.jpg"]


def test_a_list_that_is_not_countbench_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CountBench.json").write_text(json.dumps([{"image_url": "u", "text": "two", "number": 2}]))
    with pytest.raises(DataError, match="60 for each number"):
        list(CountBench().read(tmp_path))


def test_a_number_beyond_ten_is_refused() -> None:
    with pytest.raises(DataError, match="item 3: number 11"):
        item(3, 11, "eleven", None)


def test_the_hub_edition_reads_pictures_from_the_table(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (9, 9, 9)).save(buffer, "PNG")
    rows = [
        {"text": "two cats", "number": 2, "image": {"bytes": buffer.getvalue(), "path": None}},
        {"text": "ten cats", "number": 10, "image": None},
        {"text": "six cats", "number": 6, "image": {"bytes": b"<html>", "path": None}},
    ]
    dataset = CountBenchHf491()
    path = tmp_path / dataset.files()[0].path
    path.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    samples = list(dataset.read(tmp_path))
    assert [(sample.split, sample.count) for sample in samples] == [("test", 2), ("missing", 10), ("missing", 6)]
    assert callable(samples[0].image)
    assert samples[0].image().size == (8, 6)


# -------------------------------------------------------------------------------------------------------------- zenodo


def row(path: str, count: int, url: str = "http://a/x.jpg") -> dict[str, Any]:
    return {"pths": path, "caps": "a caption", "urls": url, "counts": count}


def merged_rows() -> list[dict[str, Any]]:
    numbers = [number for number, times in CLASS_COUNTS.items() for _ in range(times)]
    groups = ([row(f"data/merged/NC{4 * g + k}.jpg", -1) for k in range(4)] for g in range(len(numbers)))
    return [
        each
        for g, (plain, number) in enumerate(zip(groups, numbers, strict=True))
        for each in [*plain, row(f"data/merged/C{g}.jpg", number)]
    ]


def write_faulty(path: Path, replacements: list[tuple[int, dict[str, Any]]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "json_str"])
        writer.writerows([index, json.dumps(each)] for index, each in replacements)
    return path


def test_the_merged_set_is_replaced_ordered_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(countclip_zenodo, "REPLACED", 1)
    monkeypatch.setattr(countclip_zenodo, "ITEMS", 2)
    (tmp_path / "merged.json").write_text("\n".join(json.dumps(each) for each in merged_rows()))
    items = [row("data/VAL/VAL0.jpg", 4), row("data/VAL/VAL1.jpg", 5)]
    (tmp_path / "val.json").write_text("\n".join(json.dumps(each) for each in items))
    write_faulty(tmp_path / "faulty.csv", [(6, row("data/merged/NC77777.jpg", -1))])
    (tmp_path / "data" / "data" / "merged").mkdir(parents=True)
    (tmp_path / "data" / "data" / "VAL").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "data" / "VAL" / "VAL0.jpg")
    samples = list(CountClipZenodo().read(tmp_path))
    training = [sample for sample in samples if sample.split == "train"]
    assert len(training) == 10_505
    assert counting(training) == [False, False, False, False, True] * 2101
    assert Path(str(training[6].image)).name == "NC77777.jpg"
    assert [sample.split for sample in samples[-2:]] == ["test", "missing"]
    held_out = [sample for sample in training if "held_out" in sample.attributes["lists"]]
    assert all(sample.attributes["counting"] for sample in held_out)
    most = [sample for sample in training if "train_most" in sample.attributes["lists"]]
    assert counting(most) == [False, False, False, False, True] * (len(most) // 5)
    assert len(most) + 5 * len(held_out) == len(training)
    sparse = counting([sample for sample in training if "train_1_in_32" in sample.attributes["lists"]])
    batches = [sum(sparse[start : start + 32]) for start in range(0, len(sparse), 32)]
    assert batches == [1] * (2101 // 8)


def test_a_replacement_of_a_counting_pair_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(countclip_zenodo, "REPLACED", 1)
    faulty = write_faulty(tmp_path / "faulty.csv", [(4, row("data/merged/NC1.jpg", -1))])
    with pytest.raises(DataError, match="index 4"):
        with_replacements(merged_rows()[:10], faulty)


def test_another_number_of_pairs_than_inferred_is_told_and_does_not_stop(caplog: pytest.LogCaptureFixture) -> None:
    rows = merged_rows()
    three = next(row for row in rows if row["counts"] == 3)
    check_order(rows, Path("merged.json"))
    assert not caplog.messages
    three["counts"] = 4
    check_order(rows, Path("merged.json"))
    assert "3: 426, 4: 183" in caplog.text


def test_every_number_with_ten_pairs_has_one_held_out() -> None:
    numbers = [2] * 25 + [9] * 6
    assert held_out_groups(numbers) == {9, 19}


def test_of_eight_counting_pairs_the_rarest_number_stays() -> None:
    numbers = [2, 2, 3, 2, 9, 2, 3, 2] + [2] * 8 + [9] * 3
    kept = one_in_32(numbers)
    assert sorted(place // 5 for place in kept if place % 5 == 4) == [2, 8]  # there are two threes, and four nines
    assert len(kept) == 64
    assert not kept & {0, 40, 4, 80}
