"""Reading an index: splits, lists, and files that are not what they should be."""

from pathlib import Path

import numpy as np
import pytest
from data_sets import Given, photograph, sample

from prepared import complete, sealed
from recount.data.dataset import DataError
from recount.data.index import COLUMNS, read_index
from recount.data.prepare import prepare


@pytest.fixture
def index(tmp_path: Path) -> Path:
    pictures = [photograph(tmp_path / f"{name}.png") for name in "abc"]
    samples = [
        sample(pictures[0], attributes={"lists": ["some"]}),
        sample(pictures[1], [[1.0, 2.0]], prompt='people, "many"'),
        sample(pictures[2], split="test"),
    ]
    return prepare(Given(samples), "original", tmp_path, tmp_path / "data")


def ids(path: Path, split: str | None = None) -> list[str]:
    return [read.id for read in read_index(path, split)]


def broken(index: Path, old: str, new: str) -> Path:
    content = index.read_text()
    assert old in content
    index.write_text(content.replace(old, new))
    return sealed(index)


def test_a_split_is_read_in_order(index: Path) -> None:
    assert ids(index) == ["a", "b", "c"]
    assert ids(index, "train") == ["a", "b"]
    assert ids(index, "test") == ["c"]


def test_a_list_is_read_like_a_split(index: Path) -> None:
    (read,) = read_index(index, "some")
    assert (read.id, read.split) == ("a", "some")


def test_text_survives(index: Path) -> None:
    assert read_index(index)[1].prompt == 'people, "many"'


def test_an_unknown_split_lists_the_known_ones(index: Path) -> None:
    with pytest.raises(DataError, match="no sample is in split 'val'; there are: some, test, train"):
        read_index(index, "val")


def test_a_missing_index_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="recount prepare"):
        read_index(tmp_path / "index.csv")


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd", "images/../../a.png", "..\\a.png"])
def test_a_path_out_of_the_folder_is_refused(index: Path, path: str) -> None:
    with pytest.raises(DataError, match=r"line 2 \(a\).*leads out of"):
        read_index(broken(index, "images/a.png", path))


def test_pickled_points_are_refused(index: Path) -> None:
    np.save(index.parent / "points" / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy: holds pickled Python objects"):
        read_index(complete(index))


def test_points_of_the_wrong_shape_are_refused(index: Path) -> None:
    np.save(index.parent / "points" / "a.npy", np.zeros((3, 5)))
    complete(index)
    with pytest.raises(DataError, match=r"shape \(3, 5\), expected \(n, 2\)"):
        read_index(index)


def test_other_columns_are_refused(index: Path) -> None:
    with pytest.raises(DataError, match="the columns must be id, split, image"):
        read_index(broken(index, ",".join(COLUMNS), ",".join(COLUMNS[1:])))


def test_broken_numbers_and_attributes_name_the_line(index: Path) -> None:
    content = index.read_text()
    with pytest.raises(DataError, match=r"line 4 \(c\): count, width and height must be numbers"):
        read_index(broken(index, "c,test,images/c.png,,2,", "c,test,images/c.png,,two,"))
    index.write_text(content)
    with pytest.raises(DataError, match="line 2: attributes are not a JSON object"):
        read_index(broken(index, '"{""lists"": [""some""]}"', "[]"))
