"""Readers of the crowd sets, on small files of exactly their format."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from recount import datasets
from recount.data.dataset import DataError, Dataset
from recount.data.index import read_index
from recount.data.prepare import prepare
from recount.data.sample import RawSample

INSIDE = [[30.0, 10.0], [31.0, 11.0], [32.0, 12.0]]  # of pictures of 64 x 48 pixels


def picture(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).convert(mode).save(path)


def shanghaitech_mat(path: Path, points: list[list[float]]) -> None:
    """Write ``image_info{1,1}.location`` and ``.number`` as the authors' MATLAB does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = np.empty((1, 1), dtype=object)
    record = np.empty((1, 1), dtype=[("location", object), ("number", object)])
    record[0, 0] = (np.array(points, dtype=float).reshape(-1, 2), np.array([[len(points)]], dtype=np.uint16))
    info[0, 0] = record
    savemat(path, {"image_info": info})


def ann_mat(path: Path, points: list[list[float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"annPoints": np.array(points, dtype=float) if points else np.zeros((0, 0))})


def small(name: str, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Return the data set without the totals of the whole thing."""
    dataset = datasets.load(name)
    monkeypatch.setattr(type(dataset), "totals", {})
    return dataset


def points_of(samples: list[RawSample]) -> dict[str, list[list[float]]]:
    return {sample.id: sample.points.tolist() for sample in samples}


# ------------------------------------------------------------------------------------------------------ ShanghaiTech


@pytest.fixture(params=[("part_A", "ground-truth"), ("part_A_final", "ground_truth")], ids=["published", "kaggle"])
def shanghaitech(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    part, ground_truth = request.param
    for split, numbers in (("train", (1, 2, 10)), ("test", (1,))):
        folder = tmp_path / "ShanghaiTech" / part / f"{split}_data"
        for number in numbers:
            picture(folder / "images" / f"IMG_{number}.jpg", "L" if number == 2 else "RGB")
            shanghaitech_mat(folder / ground_truth / f"GT_IMG_{number}.mat", [[number, 2.5], [3.0, 4.0]])
    return tmp_path


def test_shanghaitech_reads_both_spellings_of_its_folders_in_numeric_order(shanghaitech: Path) -> None:
    samples = list(datasets.load("shanghaitech_a").read(shanghaitech))
    assert [sample.id for sample in samples] == ["train_IMG_1", "train_IMG_2", "train_IMG_10", "test_IMG_1"]
    assert [sample.split for sample in samples] == ["train", "train", "train", "test"]
    assert samples[2].points.tolist() == [[10.0, 2.5], [3.0, 4.0]]
    assert samples[2].points.dtype == np.float32


def test_shanghaitech_prepares_to_rgb(shanghaitech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    (shanghaitech / "ShanghaiTech").rename(tmp_path / "raw" / "shanghaitech_a")
    index = prepare(small("shanghaitech_a", monkeypatch), "clip_ebc", tmp_path / "raw", tmp_path / "data")
    for sample in read_index(index):
        assert (sample.width, sample.height) == (608, 448)
        with Image.open(sample.image) as image:
            assert image.mode == "RGB"


def test_shanghaitech_names_every_missing_partner(shanghaitech: Path) -> None:
    (next(shanghaitech.rglob("GT_IMG_2.mat"))).unlink()
    (next(shanghaitech.rglob("train_data")) / "images" / "IMG_10.jpg").unlink()
    next(shanghaitech.rglob("GT_IMG_1.mat")).write_bytes(b"not MATLAB")
    with pytest.raises(DataError) as caught:
        list(datasets.load("shanghaitech_a").read(shanghaitech))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("IMG_2.jpg: its annotation is missing" in line for line in lines)
    assert any("GT_IMG_10.mat: its picture is missing" in line for line in lines)
    assert any("GT_IMG_1.mat: not a readable MATLAB file" in line for line in lines)


def test_shanghaitech_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder part_B or part_B_final.*by hand from https.*Licence:"):
        list(datasets.load("shanghaitech_b").read(tmp_path))


def test_another_number_of_pictures_than_published_is_refused(shanghaitech: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (shanghaitech / "ShanghaiTech").rename(tmp_path / "raw" / "shanghaitech_a")
    with pytest.raises(DataError, match="train: images 3 instead of 300"):
        prepare(datasets.load("shanghaitech_a"), "original", tmp_path / "raw", tmp_path / "data")


# ---------------------------------------------------------------------------------------------------------- UCF-QNRF


@pytest.fixture
def qnrf(tmp_path: Path) -> Path:
    raw = tmp_path / "ucf_qnrf"
    for split, numbers in (("Train", (1, 2, 3)), ("Test", (1,))):
        for number in numbers:
            picture(raw / "UCF-QNRF_ECCV18" / split / f"img_{number:04d}.jpg")
            points = [[number, 5.5], [70.0, 9.0], *INSIDE]
            ann_mat(raw / "UCF-QNRF_ECCV18" / split / f"img_{number:04d}_ann.mat", points)
    return raw


def test_qnrf_reads_train_and_test(qnrf: Path) -> None:
    samples = list(datasets.load("ucf_qnrf").read(qnrf))
    assert [sample.id for sample in samples] == ["train_img_0001", "train_img_0002", "train_img_0003", "test_img_0001"]
    assert samples[1].points.tolist() == [[2.0, 5.5], [70.0, 9.0], *INSIDE]


def test_qnrf_train_is_also_read_as_the_lists_of_dm_count(
    qnrf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (qnrf / "qnrf_train.txt").write_text("img_0003.jpg\nimg_0001.jpg\n")
    (qnrf / "qnrf_val.txt").write_text("img_0002.jpg\n")
    index = prepare(small("ucf_qnrf", monkeypatch), "original", tmp_path, tmp_path / "data")
    assert [sample.id for sample in read_index(index, "train_1081")] == ["train_img_0001", "train_img_0003"]
    assert [sample.id for sample in read_index(index, "held_out_120")] == ["train_img_0002"]
    assert len(read_index(index, "train")) == 3


def test_qnrf_list_that_names_a_missing_picture_is_a_defect(qnrf: Path) -> None:
    (qnrf / "qnrf_val.txt").write_text("img_0002.jpg\nimg_0999.jpg\n")
    with pytest.raises(DataError, match=r"img_0999\.jpg: the list held_out_120 names it"):
        list(datasets.load("ucf_qnrf").read(qnrf))


def test_qnrf_is_prepared_with_a_cut_picture_and_a_point_outside(
    qnrf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = next(qnrf.rglob("Train")) / "img_0002.jpg"
    cut.write_bytes(cut.read_bytes()[:-400])
    dataset = small("ucf_qnrf", monkeypatch)
    kept = read_index(prepare(dataset, "clip_ebc", tmp_path, tmp_path / "data"))
    dropped = read_index(prepare(dataset, "dm_count", tmp_path, tmp_path / "data"))
    assert [sample.count for sample in kept] == [5, 5, 5, 5]
    assert [sample.count for sample in dropped] == [4, 4, 4, 4]


def test_qnrf_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(datasets.load("ucf_qnrf").read(tmp_path))
    assert "https://www.crcv.ucf.edu/data/ucf-qnrf/" in str(caught.value)


# -------------------------------------------------------------------------------------------------------- NWPU-Crowd


@pytest.fixture
def nwpu(tmp_path: Path) -> Path:
    raw = tmp_path / "nwpu"
    for name, points in (("0001", [[1.0, 2.0]]), ("1000", []), ("3110", [[5.0, 5.0]] * 3)):
        ann_mat(raw / "mats" / "mats" / f"{name}.mat", points)
    for name, part in (("0001", 1), ("1000", 1), ("3110", 4), ("5109", 5)):
        picture(raw / f"images_part{part}" / f"{name}.jpg")
    (raw / "train.txt").write_text("0001 1 2\n1000 0 0\n")
    (raw / "val.txt").write_text("3110 0 1\n")
    (raw / "test.txt").write_text("5109\n")
    return raw


def test_nwpu_reads_lists_parts_and_pictures_without_people(nwpu: Path) -> None:
    samples = list(datasets.load("nwpu").read(nwpu))
    assert [(sample.id, sample.split) for sample in samples] == [
        ("0001", "train"),
        ("1000", "train"),
        ("3110", "val"),
        ("5109", "test"),
    ]
    assert points_of(samples)["1000"] == []
    assert [sample.count for sample in samples[:3]] == [1, 0, 3]


def test_nwpu_test_counts_are_unknown_not_zero(nwpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = prepare(small("nwpu", monkeypatch), "dm_count", tmp_path, tmp_path / "data")
    (hidden,) = read_index(index, "test")
    assert math.isnan(hidden.count)
    assert (hidden.width, hidden.height) == (1920, 1440)


def test_nwpu_names_every_missing_file(nwpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nwpu / "mats" / "mats" / "0001.mat").unlink()
    (nwpu / "images_part4" / "3110.jpg").unlink()
    (nwpu / "test.txt").unlink()
    with pytest.raises(DataError) as caught:
        prepare(small("nwpu", monkeypatch), "original", tmp_path, tmp_path / "data")
    text = str(caught.value)
    assert all(part in text for part in ("3 defects", "0001.mat", "3110.jpg", "test.txt"))
