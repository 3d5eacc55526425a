"""What every data set promises, tested over all of them.

A data set whose files are not embedded is tested with the mirror's copy, and skipped where there is none.
"""

import re
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from golden_tools import shared
from recount import datasets
from recount.data.dataset import DataError
from recount.data.index import read_index
from recount.data.needs import check_needs
from recount.data.prepare import prepare
from recount.data.sample import Sample
from recount.fetching.fetch import SHIPPED

NAMES = datasets.names()
EMBEDDED = [name for name in NAMES if datasets.load(name).embedded]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@cache
def prepared(name: str, workspace: Path) -> Path:
    """Prepare a data set once, from nothing or from the mirror."""
    dataset = datasets.load(name)
    if not dataset.embedded:
        mirror = shared("mirror") / name
        missing = [file.path for file in dataset.files() if not file.optional and not (mirror / file.path).is_file()]
        if missing:
            pytest.skip(f"{name}: {len(missing)} files are not in the mirror, among them {missing[0]}")
        shutil.copytree(mirror, workspace / "raw" / name)
    return prepare(dataset, "original", workspace / "raw", workspace / "data")


@pytest.fixture(params=NAMES)
def samples(request: pytest.FixtureRequest, workspace: Path) -> list[Sample]:
    return read_index(prepared(request.param, workspace))


@pytest.mark.parametrize("name", NAMES)
def test_it_introduces_itself(name: str) -> None:
    dataset = datasets.load(name)
    assert dataset.name == name
    assert dataset.title
    assert dataset.licence
    assert dataset.splits
    assert len(set(dataset.splits)) == len(dataset.splits)
    assert all(re.fullmatch(r"[a-z0-9_]+", split) for split in dataset.splits)
    assert set(dataset.totals) <= {*dataset.splits, "all"}


@pytest.mark.parametrize("name", NAMES)
def test_its_preparations_have_their_rules_names(name: str) -> None:
    preparations = datasets.load(name).preparations
    assert "original" in preparations
    assert all(rule.name == key for key, rule in preparations.items())


@pytest.mark.parametrize("name", NAMES)
def test_its_files_have_safe_paths_and_honest_addresses(name: str) -> None:
    dataset = datasets.load(name)
    files = dataset.files()
    assert bool(files) != dataset.embedded
    assert len({file.path for file in files}) == len(files)
    for file in files:
        path = PurePosixPath(file.path)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert all(url.startswith(("https://", "http://", "gdrive:", "hf:", SHIPPED)) for url in file.urls)
        assert all(not url.startswith("http://") or file.sha256 for url in file.urls), "http needs a checksum"
    if any(not file.urls and not file.sha256 for file in files):
        assert dataset.by_hand, "files without an address and a checksum need instructions"


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_all_its_training_samples_have(name: str, workspace: Path) -> None:
    samples, gives = read_index(prepared(name, workspace)), datasets.load(name).gives
    training = [sample for sample in samples if sample.split.startswith("train")] or samples
    for need in ("points", "boxes", "prompts"):
        with suppress(DataError):
            check_needs(training, {need}, "x")
            assert need in gives
            continue
        assert need not in gives or not datasets.load(name).embedded  # of others a file may be missing


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EMBEDDED])
def test_without_its_files_it_says_how_to_get_them(name: str, tmp_path: Path) -> None:
    dataset = datasets.load(name)
    with pytest.raises(DataError) as caught:
        list(dataset.read(tmp_path))
    assert f"recount fetch {name}" in str(caught.value) or dataset.by_hand in str(caught.value)


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_set_is_the_same_each_time(name: str, workspace: Path) -> None:
    first = read_index(prepared(name, workspace))
    again = list(datasets.load(name).read(workspace / "raw" / name))
    assert [sample.id for sample in first] == [sample.id for sample in again]
    for one, other in zip(first[::7], again[::7], strict=True):
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_equal(one.count, other.count)  # NaN, where it is hidden, equals NaN
        assert (one.prompt, one.split) == (other.prompt, other.split)
        assert one.image is not None
        assert callable(other.image)
        with Image.open(one.image) as image:
            assert image.convert("RGB").tobytes() == other.image().convert("RGB").tobytes()


def test_samples_have_ids_of_their_own_that_are_safe_as_file_names(samples: list[Sample]) -> None:
    assert samples
    assert len({sample.id for sample in samples}) == len(samples)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", sample.id) for sample in samples)


def test_counts_are_not_negative_and_agree_with_the_points(samples: list[Sample]) -> None:
    for sample in samples:
        hidden = bool(sample.attributes.get("hidden"))
        assert np.isnan(sample.count) == hidden
        assert hidden or sample.count >= 0
        if len(sample.points):
            assert sample.points.dtype == np.float32


def test_points_lie_in_the_picture_unless_the_sample_says_so(samples: list[Sample]) -> None:
    for sample in samples:
        if sample.image is not None:
            edge = np.array([sample.width, sample.height])
            outside = int((((sample.points < 0) | (sample.points > edge)).any(axis=1)).sum())
            assert outside == sample.attributes.get("points_outside", 0), sample.id


def test_pictures_are_where_the_index_says(samples: list[Sample]) -> None:
    for sample in samples:
        if sample.image is not None:
            assert sample.image.is_file()
            assert sample.width > 0
            assert sample.height > 0
