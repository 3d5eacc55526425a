"""The chain from raw files to prepared data: what does not fit is found and never used."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_sets import Given, photograph, sample

from recount.data.dataset import DataError
from recount.data.digests import unfit_files
from recount.data.index import read_index
from recount.data.pictures import load_image
from recount.data.prepare import prepare
from recount.results.digest_cache import DigestCache
from recount.results.files import ResultsError, file_digest
from recount.results.prepared import data_digest


def manifest(raw: Path, *names: str) -> None:
    """Write a manifest of these files, as fetching does."""
    files = [{"path": name, "sha256": file_digest(raw / name)} for name in names]
    (raw / "manifest.json").write_text(json.dumps({"files": files}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a prepared data set of two pictures with points and boxes; one raw file is listed, one is not."""
    raw = tmp_path / "raw" / "given"
    pictures = [photograph(raw / f"{name}.png") for name in "ab"]
    (raw / "points.txt").write_text("10 20")
    manifest(raw, "a.png", "points.txt")
    boxes = np.array([[0.0, 0.0, 8.0, 8.0]])
    samples = [sample(path, boxes=boxes) for path in pictures]
    return prepare(Given(samples), "clip_ebc", tmp_path / "raw", tmp_path / "data").parent


def flipped(path: Path) -> None:
    """Change one bit of a file, and neither its size nor its date."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def found(folder: Path, *, full: bool = False) -> list[tuple[str, str]]:
    return [(unfit.path.name, unfit.kind) for unfit in unfit_files(folder, full=full)]


def test_what_was_prepared_fits(folder: Path) -> None:
    assert found(folder) == found(folder, full=True) == []


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["images/a.jpg", "points/b.npy", "boxes/a.npy", "index.csv", "raw.csv"])
def test_a_flipped_bit_is_found_where_it_is(folder: Path, name: str, full: bool) -> None:
    found(folder)  # remembers the digests
    flipped(folder / name)
    (unfit,) = unfit_files(folder, full=full)
    assert (unfit.path, unfit.kind) == (folder / name, "damaged")
    assert unfit.found == file_digest(folder / name) != unfit.expected


def test_missing_and_untracked_files_are_told_apart(folder: Path) -> None:
    (folder / "images" / "a.jpg").rename(folder / "images" / "c.jpg")
    assert found(folder) == [("a.jpg", "missing"), ("c.jpg", "untracked")]


@pytest.mark.parametrize("name", ["index.csv", "summary.json"])
def test_without_its_index_or_summary_nothing_is_believed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert found(folder) == [(name, "missing")]
    with pytest.raises(DataError, match=r"recount prepare given clip_ebc"):
        read_index(folder / "index.csv")


def change_listed(raw: Path) -> None:
    (raw / "points.txt").write_text("11 21")
    manifest(raw, "a.png", "points.txt")


def change_unlisted(raw: Path) -> None:
    photograph(raw / "b.png", seed=5)


def add_listed(raw: Path) -> None:
    (raw / "more.txt").write_text("more")
    manifest(raw, "a.png", "points.txt", "more.txt")


@pytest.mark.parametrize(
    ("change", "name"), [(change_listed, "points.txt"), (change_unlisted, "b.png"), (add_listed, "more.txt")]
)
def test_another_raw_file_makes_prepared_data_stale(
    folder: Path, tmp_path: Path, change: Callable[[Path], None], name: str
) -> None:
    change(tmp_path / "raw" / "given")
    assert found(folder) == [(name, "stale")]


def test_raw_files_that_were_deleted_to_save_space_make_nothing_stale(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "raw")
    assert found(folder, full=True) == []


def test_a_moved_project_still_fits(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("raw", "data"):
        (tmp_path / name).rename(moved / name)
    assert found(moved / "data" / "given" / "clip_ebc") == []
    change_listed(moved / "raw" / "given")
    assert found(moved / "data" / "given" / "clip_ebc") == [("points.txt", "stale")]


def test_a_raw_file_that_changed_after_it_was_fetched_is_a_defect(tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "given"
    picture = photograph(raw / "a.png")
    (raw / "points.txt").write_text("10 20")
    manifest(raw, "a.png", "points.txt")
    flipped(raw / "points.txt")
    with pytest.raises(DataError, match=r"points\.txt: its sha256 is .* `recount fetch given`"):
        prepare(Given([sample(picture)]), "original", tmp_path / "raw", tmp_path / "data")


def test_the_data_digest_stands_for_every_file(tmp_path: Path) -> None:
    def digest(colour: int, y: float, edge: float) -> str:
        picture = photograph(tmp_path / "raw" / "given" / "a.png", seed=colour)
        given = Given([sample(picture, [[1.0, y]], boxes=np.array([[0.0, 0.0, edge, 8.0]]))])
        return data_digest(prepare(given, "original", tmp_path / "raw", tmp_path / "data"))

    same = (0, 1.0, 8.0)
    assert len({digest(*case) for case in (same, same, (1, 1.0, 8.0), (0, 1.0000001, 8.0), (0, 1.0, 9.0))}) == 4


@pytest.mark.parametrize("name", ["index.csv", "points/a.npy", "boxes/b.npy"])
def test_a_changed_file_is_not_read(folder: Path, name: str) -> None:
    was = file_digest(folder / name)
    flipped(folder / name)
    expected = f"{Path(name).name}: damaged: its sha256 is {file_digest(folder / name)[:12]}.*, expected {was[:12]}"
    with pytest.raises(DataError, match=f"{expected}.*`recount prepare given clip_ebc` makes it anew"):
        read_index(folder / "index.csv")


def test_a_changed_picture_is_not_decoded(folder: Path) -> None:
    (first, _) = read_index(folder / "index.csv")
    assert first.image is not None
    assert load_image(first.image, first.image_sha256).shape[1:] == (first.height, first.width)
    flipped(first.image)
    with pytest.raises(DataError, match=r"a\.jpg: damaged: its sha256 is"):
        load_image(first.image, first.image_sha256)


def test_data_that_an_older_recount_prepared_say_so(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text()) | {"schema_version": 1}
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ResultsError, match=r"an older recount wrote it.*`recount prepare"):
        data_digest(folder / "index.csv")


def test_remembered_digests_are_not_read_again_and_no_change_escapes(tmp_path: Path) -> None:
    path, cache = tmp_path / "a", tmp_path / "cache.json"
    path.write_bytes(b"one")
    time.sleep(2.1)  # a file that changed a moment ago is not remembered
    first = DigestCache(cache)
    digest = first.digest(path)
    first.save()
    stored = json.loads(cache.read_text())
    cache.write_text(json.dumps({"a": [*stored["a"][:-1], "remembered"]}))
    assert DigestCache(cache).digest(path) == "remembered"
    flipped(path)
    assert DigestCache(cache).digest(path) not in ("remembered", digest)


def test_a_file_that_changed_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    cache = DigestCache(tmp_path / "cache.json")
    cache.digest(tmp_path / "a")
    cache.save()
    assert not (tmp_path / "cache.json").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a": 3}', b"[" * 100_000])
def test_a_broken_memory_of_digests_is_forgotten(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "cache.json").write_bytes(content)
    assert DigestCache(tmp_path / "cache.json").digest(tmp_path / "a") == file_digest(tmp_path / "a")
