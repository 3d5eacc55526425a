"""The pool of training pictures."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_sets import Given, photograph, sample
from torch.utils.data import DataLoader, Dataset

from recount.data import pool as pool_module
from recount.data.dataset import DataError
from recount.data.index import read_index
from recount.data.pictures import load_image
from recount.data.pool import ImagePool
from recount.data.prepare import prepare
from recount.data.sample import Sample
from recount.results.files import file_digest


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    pictures = [photograph(tmp_path / f"{seed}.png", (40 + seed, 30), seed=seed) for seed in range(6)]
    shared = [sample(pictures[0], id="again")]
    given = Given([*map(sample, pictures), *shared])
    return read_index(prepare(given, "original", tmp_path, tmp_path / "data", accept="the points do not matter here"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Count decodings, also those in loader processes: one line per decoding in a file."""
    log = tmp_path / "decoded.txt"
    log.touch()

    def counting(path: Path, sha256: str) -> torch.Tensor:
        with log.open("a") as file:
            file.write(f"{path.name}\n")
        return load_image(path, sha256)

    monkeypatch.setattr(pool_module, "load_image", counting)
    return log


class _Indexed(Dataset):
    def __init__(self, pool: ImagePool) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, index: int) -> int:
        return int(self.pool.image(index).long().sum())


def test_pictures_are_as_stored_from_the_cache_and_without_it(samples: list[Sample]) -> None:
    for cache_mb in (0, 10):
        pool = ImagePool(samples, cache_mb)
        for _ in range(2):
            for index, one in enumerate(samples):
                assert one.image is not None
                assert torch.equal(pool.image(index), load_image(one.image))


def test_a_picture_is_decoded_once_however_often_it_is_asked_for(samples: list[Sample], decoded: Path) -> None:
    pool = ImagePool(samples, cache_mb=10)
    for _ in range(3):
        for index in range(len(samples)):
            pool.image(index)
    assert len(decoded.read_text().split()) == 6  # seven samples, two of which share a picture


def test_what_does_not_fit_is_decoded_each_time(samples: list[Sample], decoded: Path) -> None:
    two_pictures = (40 + 41) * 30 * 3 / 1e6
    pool = ImagePool(samples, cache_mb=two_pictures)
    for _ in range(2):
        for index in range(6):
            pool.image(index)
    assert len(decoded.read_text().split()) == 2 + 2 * 4


def test_forked_loader_processes_share_the_cache(samples: list[Sample], decoded: Path) -> None:
    pool = ImagePool(samples[:6], cache_mb=10)
    loader = DataLoader(_Indexed(pool), batch_size=1, num_workers=2, multiprocessing_context="fork")
    first, second = ([int(value) for value in loader] for _ in range(2))
    assert first == second == [int(load_image(one.image).long().sum()) for one in samples[:6] if one.image]
    assert len(decoded.read_text().split()) == 6


def test_a_caller_cannot_spoil_the_cache(samples: list[Sample]) -> None:
    pool = ImagePool(samples, cache_mb=10)
    whole = pool.image(0).clone()
    pool.image(0).zero_()
    assert torch.equal(pool.image(0), whole)


def test_a_pool_can_be_sent_to_another_process(samples: list[Sample]) -> None:
    pool = ImagePool(samples, cache_mb=10)
    pool.image(0)
    sent = pickle.dumps(pool)
    assert len(sent) < 20_000  # the samples, not the pixels
    assert torch.equal(pickle.loads(sent).image(0), pool.image(0))


def test_a_picture_of_another_size_than_in_the_index_is_refused(samples: list[Sample], tmp_path: Path) -> None:
    other = replace(samples[0], width=50)
    with pytest.raises(DataError, match="40 x 30 pixels, but the index says 50 x 30"):
        ImagePool([other], cache_mb=10).image(0)


@pytest.mark.parametrize("cache_mb", [0, 10])
def test_a_picture_that_is_not_the_prepared_one_is_refused(samples: list[Sample], cache_mb: int) -> None:
    picture = samples[0].image
    assert picture is not None
    was = file_digest(picture)
    picture.unlink()
    photograph(picture, (40, 30), seed=9)
    match = f"0.png: damaged: its sha256 is {file_digest(picture)}, expected {was}.*recount prepare given original"
    with pytest.raises(DataError, match=match):
        ImagePool(samples, cache_mb).image(0)


def test_an_annotation_without_a_picture_cannot_be_trained_on(tmp_path: Path) -> None:
    index = prepare(Given([sample(None, [], count=3)]), "original", tmp_path, tmp_path / "data")
    with pytest.raises(DataError, match="none: only its annotation is here"):
        ImagePool(read_index(index), cache_mb=10).image(0)
