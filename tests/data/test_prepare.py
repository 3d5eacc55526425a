"""Preparing a data set: what is written, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_sets import Given, photograph, sample
from PIL import Image

from recount.data.dataset import DataError
from recount.data.index import read_index
from recount.data.prepare import prepare


def prepared(tmp_path: Path, dataset: Given, preparation: str = "original", accept: str = "") -> Path:
    return prepare(dataset, preparation, tmp_path / "raw", tmp_path / "data", accept)


def defects(tmp_path: Path, dataset: Given, preparation: str = "original") -> list[str]:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, dataset, preparation)
    assert not (tmp_path / "data" / "given" / preparation).exists()
    return str(caught.value).splitlines()


def summary(index: Path) -> dict:
    return json.loads((index.parent / "summary.json").read_text())


def test_original_pictures_keep_their_bytes(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.jpg")
    (read,) = read_index(prepared(tmp_path, Given([sample(picture)])))
    assert read.image is not None
    assert read.image.read_bytes() == picture.read_bytes()
    assert (read.width, read.height, read.count) == (96, 64, 2)
    np.testing.assert_array_equal(read.points, [[10.0, 20.0], [30.5, 40.25]])


def test_points_and_boxes_are_scaled_with_the_picture(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png", (32, 40))
    boxed = sample(picture, [[8.0, 10.0]], boxes=np.array([[0.0, 10.0, 32.0, 40.0]]))
    (read,) = read_index(prepared(tmp_path, Given([boxed]), "clip_ebc"))
    assert (read.width, read.height) == (64, 64)  # 80 rounds to 64: half to even
    np.testing.assert_allclose(read.points, [[16.0, 16.0]])
    assert read.boxes is not None
    np.testing.assert_allclose(read.boxes, [[0.0, 16.0, 64.0, 64.0]])
    with Image.open(read.image) as image:
        assert image.size == (64, 64)
        assert image.format == "JPEG"


def test_opencv_quality_differs_from_pillow_quality(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png", (600, 600))
    tables = {}
    for preparation in ("clip_ebc", "dm_count"):
        (read,) = read_index(prepared(tmp_path, Given([sample(picture)]), preparation))
        with Image.open(read.image) as image:
            tables[preparation] = max(image.quantization[0])
    assert tables["clip_ebc"] < tables["dm_count"] / 4  # quality 95 against 75


def test_points_outside_are_kept_or_dropped_by_the_rule_and_reported(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png", (600, 600))
    given = Given([sample(picture, [[1.0, 1.0], [-5.0, 1.0], [700.0, 1.0]])])
    kept, dropped = (prepared(tmp_path, given, name, accept="as drawn") for name in ("original", "dm_count"))
    (of_kept,), (of_dropped,) = read_index(kept), read_index(dropped)
    assert (of_kept.count, of_dropped.count) == (3, 1)
    assert of_kept.original_count == of_dropped.original_count == 3  # on which systems are compared
    assert of_dropped.attributes == {"original_count": 3, "points_outside": 2}
    assert summary(kept)["splits"]["train"]["samples_with_points_outside"] == {"a": 2}
    assert summary(dropped)["splits"]["train"]["points_prepared"] == 1


def test_coincident_points_are_reported_and_merged_only_where_the_method_does(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png", (1152, 768))
    given = Given([sample(picture, [[5.0, 5.0], [5.0, 5.0], [9.0, 9.0]])])
    assert read_index(prepared(tmp_path, given))[0].count == 3
    merged = prepared(tmp_path, given, "transcrowd")
    assert read_index(merged)[0].count == 2
    assert summary(merged)["splits"]["train"]["points_coincident"] == 1
    assert summary(merged)["splits"]["train"]["points_merged"] == 1


def test_a_count_without_points_stays(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png")
    (read,) = read_index(prepared(tmp_path, Given([sample(picture, [], count=7.5)]), "clip_ebc"))
    assert read.count == 7.5
    assert len(read.points) == 0


def test_annotations_without_pictures_are_allowed_at_original_size_only(tmp_path: Path) -> None:
    given = Given([sample(None, [], count=12, prompt="sea shells", attributes={"class": "shell, “sea”"})])
    (read,) = read_index(prepared(tmp_path, given))
    assert (read.image, read.count, read.prompt) == (None, 12, "sea shells")
    assert read.attributes == {"class": "shell, “sea”"}
    assert "use 'original'" in defects(tmp_path, given, "clip_ebc")[1]


def test_a_hidden_count_is_nan_and_leaves_the_totals_alone(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png")
    hidden = sample(picture, [], count=math.nan, split="test", attributes={"hidden": True})
    index = prepared(tmp_path, Given([hidden]))
    assert math.isnan(read_index(index)[0].count)
    assert summary(index)["splits"]["test"]["count"] == 0


def test_samples_that_share_a_picture_share_its_file(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png")
    given = Given([sample(picture, id=f"a-{prompt}", prompt=prompt) for prompt in ("cats", "dogs")])
    first, second = read_index(prepared(tmp_path, given))
    assert first.image == second.image
    assert first.prompt != second.prompt


def test_pictures_of_the_same_name_in_two_folders_do_not_collide(tmp_path: Path) -> None:
    pictures = [photograph(tmp_path / "raw" / split / "1.png", seed=seed) for seed, split in enumerate(("x", "y"))]
    given = Given([sample(path, id=f"{path.parent.name}_1") for path in pictures])
    for picture, read in zip(pictures, read_index(prepared(tmp_path, given)), strict=True):
        assert read.image is not None
        assert read.image.read_bytes() == picture.read_bytes()


def test_every_defect_is_named_not_only_the_first(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    good, cut, empty, text = (photograph(raw / f"{name}.jpg", (200, 200)) for name in ("good", "cut", "empty", "text"))
    cut.write_bytes(cut.read_bytes()[:1500])
    empty.write_bytes(b"")
    text.write_text("<html>404</html>")
    lines = defects(
        tmp_path,
        Given(
            [
                *(sample(path) for path in (good, cut, empty, text, raw / "gone.jpg")),
                sample(good, [[math.nan, 1.0], [2.0, 2.0]], id="nan"),
                sample(good, [[1.0, 2e9]], id="huge"),
                sample(good, id="good"),
                sample(good, id="../up"),
                sample(good, id="where", split="elsewhere"),
                sample(good, id="less", count=-1),
            ]
        ),
    )
    assert "10 defects" in lines[0]
    for part in (
        "cut.jpg: not a readable picture",
        "empty.jpg: the file is empty",
        "text.jpg: not a readable picture",
        "gone.jpg: no such file",
        "'nan': 1 of 2 points are NaN",
        "'huge': 1 of 1 points are beyond",
        "'good': the id occurs twice",
        "'../up': the id is not safe",
        "'where': split 'elsewhere' is none of",
        "'less': the count is -1",
    ):
        assert sum(part in line for line in lines) == 1, part


def test_totals_that_differ_are_refused(tmp_path: Path) -> None:
    given = Given([sample(photograph(tmp_path / "raw" / "a.png"))])
    given.totals = {"train": {"images": 2, "points": 2}, "all": {"points": 3}}  # type: ignore[misc]
    lines = defects(tmp_path, given)
    assert len(lines) == 3
    assert "train: images 1 instead of 2" in lines[1]
    assert "all: points 2 instead of 3" in lines[2]


def test_an_unknown_preparation_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="huge: there is no such preparation; there are clip_ebc, dm_count"):
        prepared(tmp_path, Given([]), "huge")


def test_an_empty_data_set_is_a_defect(tmp_path: Path) -> None:
    assert "no sample was found" in defects(tmp_path, Given([]))[1]


def test_a_failed_preparation_leaves_the_old_one_alone(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png")
    index = prepared(tmp_path, Given([sample(picture)]))
    before = index.read_bytes()
    with pytest.raises(DataError):
        prepared(tmp_path, Given([sample(tmp_path / "gone.png")]))
    assert index.read_bytes() == before
    assert sorted(path.name for path in index.parent.parent.iterdir() if path.suffix != ".lock") == ["original"]


def test_preparing_again_replaces_everything(tmp_path: Path) -> None:
    pictures = [photograph(tmp_path / "raw" / f"{name}.png") for name in "ab"]
    prepared(tmp_path, Given([sample(path) for path in pictures]))
    index = prepared(tmp_path, Given([sample(pictures[1])]))
    assert [path.name for path in (index.parent / "images").iterdir()] == ["b.png"]


def test_the_digest_changes_with_a_point_and_not_with_the_run(tmp_path: Path) -> None:
    picture = photograph(tmp_path / "raw" / "a.png")
    digests = [
        summary(prepared(tmp_path, Given([sample(picture, [[1.0, y]])])))["data_digest"] for y in (1.0, 1.0, 1.0000001)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_picture_made_by_a_function_is_saved_without_loss(tmp_path: Path) -> None:
    made = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    (read,) = read_index(prepared(tmp_path, Given([replace(sample(None, []), image=lambda: made)])))
    assert read.image is not None
    np.testing.assert_array_equal(np.asarray(Image.open(read.image)), np.asarray(made))
