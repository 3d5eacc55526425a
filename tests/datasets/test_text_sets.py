"""The data sets of text-guided counting: integrity totals of real annotations, and what the scenes promise."""

import shutil
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_tools import golden, shared
from recount import datasets
from recount.data.dataset import DataError
from recount.data.sample import RawSample
from recount.datasets.formats.tfrecord import crc32c, masked_crc32c, records
from recount.scenes import shapes as scenes


@cache
def rows(name: str) -> tuple[RawSample, ...]:
    raw = Path("unused") if datasets.load(name).embedded else shared("mirror") / name
    return tuple(datasets.load(name).read(raw))


def of(name: str, split: str) -> list[RawSample]:
    return [row for row in rows(name) if split in (row.split, *row.attributes.get("lists", ()))]


# ---------------------------------------------------------------------------------------------------- real annotations


def test_fsc147_has_the_splits_classes_and_counts_of_its_authors() -> None:
    counts = {split: sum(row.count for row in of("fsc147", split)) for split in datasets.load("fsc147").splits}
    assert counts == {"train": 182_815, "val": 82_042, "test": 78_836, "val_coco": 24_665, "test_coco": 18_532}
    classes = [{row.prompt for row in of("fsc147", split)} for split in ("train", "val", "test")]
    assert [len(names) for names in classes] == [89, 29, 29]
    assert len(set.union(*classes)) == 147
    by_id = {row.id: row for row in rows("fsc147")}
    assert by_id["1123"].count == 3_701
    assert by_id["2"].attributes["description"] == "the sea shells"
    assert by_id["2"].image is None


def test_fsc147_reads_points_exemplars_and_density_maps_where_they_are(tmp_path: Path) -> None:
    raw = tmp_path / "fsc147"
    shutil.copytree(shared("mirror") / "fsc147", raw)
    entries = {row.id: row for row in rows("fsc147")}
    points = {
        f"{name}.jpg": {"points": [[5, 7]] * int(row.count), "box_examples_coordinates": []}
        for name, row in entries.items()
    }
    points["2.jpg"]["box_examples_coordinates"] = [[[1, 2], [1, 9], [8, 9], [8, 2]]]
    write_json(raw / "annotation_FSC147_384.json", points)
    (raw / "gt_density_map_adaptive_384_VarV2").mkdir()
    np.save(raw / "gt_density_map_adaptive_384_VarV2" / "2.npy", np.zeros((4, 4)))
    found = {row.id: row for row in datasets.load("fsc147").read(raw)}
    assert len(found["2"].points) == found["2"].count
    assert found["2"].attributes["exemplars"] == [[1, 2, 8, 9]]
    assert found["2"].attributes["density_map"] == "fsc147/gt_density_map_adaptive_384_VarV2/2.npy"
    assert "density_map" not in found["3"].attributes


def test_fsc147_names_pictures_whose_points_disagree_with_the_count_list(tmp_path: Path) -> None:
    raw = tmp_path / "fsc147"
    shutil.copytree(shared("mirror") / "fsc147", raw)
    points = {f"{row.id}.jpg": {"points": [], "box_examples_coordinates": []} for row in rows("fsc147")}
    write_json(raw / "annotation_FSC147_384.json", points)
    with pytest.raises(DataError, match=r"2\.jpg has 0 points, the count list 8"):
        list(datasets.load("fsc147").read(raw))


def write_json(path: Path, content: object) -> None:
    import json

    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("version", "total", "ones", "prompts"), [("v1", 903, 90, 60), ("v2", 911, 120, 74)])
def test_fsc147s_versions_are_kept_apart(version: str, total: int, ones: int, prompts: int) -> None:
    chosen = of("fsc147s", version)
    assert sum(row.count for row in chosen) == total
    assert sum(row.count == 1 for row in chosen) == ones
    assert len({row.prompt for row in chosen}) == prompts
    assert max(row.count for row in chosen) == 117


def test_fsc147s_knows_test_pictures_and_the_majority_beside_fsc147() -> None:
    assert (len(of("fsc147s", "v1_test")), len(of("fsc147s", "v2_test"))) == (45, 51)
    assert all(row.prompt != row.attributes["majority_class"] for row in rows("fsc147s"))
    blind = {
        v: np.mean([abs(r.attributes["majority_count"] - r.count) for r in of("fsc147s", v)]) for v in ("v1", "v2")
    }
    assert blind["v1"] == pytest.approx(46.24, abs=0.005)
    assert blind["v2"] == pytest.approx(42.48, abs=0.005)


def test_constants_on_fsc147s_are_the_published_trivial_rows() -> None:
    assert golden("trivial_baselines")
    errors = {(v, k): np.mean([abs(r.count - k) for r in of("fsc147s", v)]) for v in ("v1", "v2") for k in (1, 2)}
    assert errors["v1", 2] == pytest.approx(3.53, abs=0.005)
    assert errors["v2", 1] == pytest.approx(2.96, abs=0.005)


def test_fsc147s_without_fsc147_has_counts_only(tmp_path: Path) -> None:
    shutil.copytree(shared("mirror") / "fsc147s", tmp_path / "fsc147s")
    alone = list(datasets.load("fsc147s").read(tmp_path / "fsc147s"))
    assert len(alone) == 426
    assert all(not row.attributes and row.image is None for row in alone)


def test_carpk_boxes_are_turned_to_x_first() -> None:
    assert [len(of("carpk", split)) for split in ("train", "test")] == [989, 459]
    assert sum(row.count for row in of("carpk", "test")) == 47_500
    boxes = np.concatenate([row.boxes for row in rows("carpk")])
    assert boxes[:, 2].max() == 1279
    assert boxes[:, 3].max() == 719
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_carpk_reads_the_original_folder(tmp_path: Path) -> None:
    data = tmp_path / "CARPK_devkit" / "data"
    for folder in ("Annotations", "ImageSets", "Images"):
        (data / folder).mkdir(parents=True)
    (data / "ImageSets" / "train.txt").write_text("20160331_NTU_00001\n")
    (data / "ImageSets" / "test.txt").write_text("")
    (data / "Annotations" / "20160331_NTU_00001.txt").write_text("10 20 30 60 1\n0 0 4 8 1\n")
    (row,) = datasets.load("carpk").read(tmp_path)
    np.testing.assert_array_equal(row.boxes, [[10, 20, 30, 60], [0, 0, 4, 8]])
    np.testing.assert_array_equal(row.points, [[20, 40], [2, 4]])
    assert row.image == data / "Images" / "20160331_NTU_00001.png"


def test_bccd_has_a_row_per_picture_and_class() -> None:
    totals = {name: sum(r.count for r in of("bccd", f"{name}")) for name in ("train_majority", "val", "test_platelets")}
    assert totals == {"train_majority": 2_382, "val": 1_138, "test_platelets": 69}
    assert len(rows("bccd")) == 3 * 364
    assert {row.prompt for row in of("bccd", "test_minority")} == {"white blood cells", "platelets"}
    boxes = np.concatenate([row.boxes for row in rows("bccd")])
    assert int(((boxes[:, 2:] - boxes[:, :2]).min(axis=1) <= 0).sum()) == 2


def test_dice6_is_read_without_tensorflow() -> None:
    counts = {prompt: sum(row.count for row in rows("dice6") if row.prompt == prompt) for prompt in scenes.DICE}
    assert list(counts.values()) == [301, 308, 306, 292, 310, 278]
    minority = [row for split in ("train", "test") for row in of("dice6", f"{split}_minority")]
    assert len(minority) == 575
    assert len({row.attributes["file"] for row in minority}) == 203
    picture = rows("dice6")[0].image
    assert callable(picture)
    assert picture().size == (640, 640)


def test_crc32c_of_the_standard_check_string() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda b: b[:-1], "wrong length"),
        (lambda b: b[:5], "cut off"),
        (lambda b: b[:14] + bytes([b[14] ^ 1]) + b[15:], "wrong checksum"),
    ],
)
def test_a_damaged_record_is_named(harm: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    header = struct.pack("<Q", 4)
    whole = header + struct.pack("<I", masked_crc32c(header)) + b"abcd" + struct.pack("<I", masked_crc32c(b"abcd"))
    path = tmp_path / "x.record"
    path.write_bytes(whole)
    assert list(records(path)) == [b"abcd"]
    path.write_bytes(harm(whole))
    with pytest.raises(DataError, match=f"record 0 .*{message}"):
        list(records(path))


# ------------------------------------------------------------------------------------------------------- drawn scenes


def test_classes_of_the_splits_are_disjoint_and_share_their_words() -> None:
    classes = [set(scenes.shape_classes(split)) for split in ("train", "val", "test")]
    assert [len(names) for names in classes] == [40, 8, 16]
    assert len(set.union(*classes)) == 64
    for names in classes:
        assert {name.split()[0] for name in names} == set(scenes.COLOURS)
        assert {name.split()[1] for name in names} == set(scenes.SHAPES)


def test_shapes_prompts_name_the_majority_and_are_unseen_in_training() -> None:
    trained = {row.prompt for row in of("shapes", "train")}
    assert scenes.CARS in trained
    for row in of("shapes", "test"):
        assert row.prompt not in trained
        others = [count for label, count in row.attributes["counts"].items() if label != row.prompt]
        assert all(2 * count < row.count for count in others)


def test_shapes_minority_prompts_name_a_minority_of_test_classes() -> None:
    assert {row.prompt for row in rows("shapes_minority")} <= set(scenes.shape_classes("test"))
    assert all(2 * row.count < row.attributes["majority_count"] for row in rows("shapes_minority"))


def test_a_constant_learnt_on_training_lots_is_poor_on_other_lots() -> None:
    train, test = (np.array([row.count for row in of("parking", split)]) for split in ("train", "test"))
    assert np.abs(test - train.mean()).mean() > 1.1 * np.abs(test - np.median(test)).mean()


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), label=st.sampled_from([*scenes.shape_classes("test"), scenes.CARS]))
def test_every_thing_lies_in_its_mask_and_box(seed: int, label: str) -> None:
    scene = scenes.shapes_scene(np.random.default_rng(seed), {label: 1}, 96, 96)
    ys, xs = np.nonzero(scene.mask(label))
    x1, y1, x2, y2 = scene.boxes(label)[0]
    assert len(ys) > 20
    assert xs.min() >= x1 - 1
    assert xs.max() <= x2 + 1
    assert ys.min() >= y1 - 1
    assert ys.max() <= y2 + 1
    assert x1 <= scene.points(label)[0, 0] <= x2


def test_masks_of_different_classes_do_not_overlap() -> None:
    rng = np.random.default_rng(3)
    scene = scenes.shapes_scene(rng, {"red circles": 9, "blue stars": 9, "green rings": 5}, 96, 96)
    covered = np.sum([scene.mask(label) for label in scene.counts()], axis=0)
    assert covered.max() == 1
