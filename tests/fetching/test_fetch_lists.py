"""File lists of the package agree with the mirror, the mirror's sets arrive, and .npy files are never unpickled."""

import json
import os
import pickle
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from fetch_tools import dataset

from recount import datasets
from recount.data.dataset import DataError
from recount.data.health import load_npy
from recount.fetching.fetch import SHIPPED, fetch
from recount.fetching.file_lists import read_file_list
from recount.fetching.weights import WEIGHTS

SETS = {
    "bccd": 733,
    "dice6": 4,
    "coco_ten": 41,
    "sha_train75": 150,
    "fsc147": 6,
    "fsc147s": 2,
    "carpk": 4,
    "countbench": 1,
}


@pytest.fixture
def mirror() -> Path:
    shared = Path(os.environ.get("RECOUNT_SHARED", Path(__file__).parents[3] / "shared"))
    if not (shared / "mirror").is_dir():
        pytest.skip(f"the mirror is not at {shared / 'mirror'}: set RECOUNT_SHARED")
    return shared / "mirror"


@pytest.mark.parametrize(("name", "number"), SETS.items())
def test_every_list_is_complete_and_hashed(name: str, number: int) -> None:
    files = read_file_list(name)
    assert len({file.path for file in files}) == number
    assert all(file.sha256 is not None and len(file.sha256) == 64 and file.bytes for file in files)


@pytest.mark.parametrize("name", SETS)
def test_every_list_is_the_mirrors_manifest(name: str, mirror: Path) -> None:
    manifest = json.loads((mirror / f"{name}.json").read_text())
    for file, entry in zip(read_file_list(name), manifest["files"], strict=True):
        assert (file.path, file.bytes, file.sha256) == (entry["path"], entry["bytes"], entry["sha256"])
        urls = [url for url in file.urls if not url.startswith(SHIPPED)]
        own = [] if entry.get("derived") else [entry.get("url") or manifest["upstream"] + quote(entry["path"])]
        assert urls == own + ([entry["coco_url"]] if "coco_url" in entry else [])


@pytest.mark.parametrize("name", SETS)
def test_addresses_are_pinned_to_a_commit(name: str) -> None:
    for file in read_file_list(name):
        for url in (url for url in file.urls[:1] if not url.startswith(SHIPPED)):
            assert url.startswith("https://raw.githubusercontent.com/")
            assert len(url.split("/")[5]) == 40


def test_shipped_files_arrive_without_network_or_mirror(tmp_path: Path) -> None:
    shipped = [file for name in SETS for file in read_file_list(name) if any(SHIPPED in url for url in file.urls)]
    assert [file.path for file in shipped] == ["instances_coco_ten.json"]
    manifest = fetch(dataset(*shipped), tmp_path, mirror="")
    assert [(entry["sha256"], entry["address"]) for entry in manifest["files"]] == [
        (file.sha256, file.urls[0]) for file in shipped
    ]


def test_every_file_without_an_address_is_told_as_by_hand() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    sources = [*map(datasets.load, datasets.names()), *WEIGHTS.values()]
    made = ["fsc147_counts.csv"]  # recount reads dataset.csv, which has an address, where this is not there
    nowhere = {source.name: [f.path for f in source.files() if not f.urls and f.path not in made] for source in sources}
    by_hand = {name: paths for name, paths in nowhere.items() if paths}
    assert "nwpu" in by_hand
    for source in (source for source in sources if source.name in by_hand):
        assert source.by_hand, source.name
        assert [name for name in [source.name, *by_hand[source.name]] if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", SETS)
def test_every_set_of_the_mirror_arrives(name: str, mirror: Path, tmp_path: Path) -> None:
    files = read_file_list(name)
    toy = dataset(*files)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "toy").symlink_to(mirror / name)
    manifest = fetch(toy, tmp_path / "raw", mirror=tmp_path / "mirror")
    assert [(entry["path"], entry["sha256"]) for entry in manifest["files"]] == [(f.path, f.sha256) for f in files]
    assert all(entry["address"] == f"mirror:toy/{entry['path']}" for entry in manifest["files"])


def test_list_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(FileNotFoundError, match=r"'nothing'; there are: bccd, .*sha_train75"):
        read_file_list("nothing")


def test_optional_files_are_marked_by_path() -> None:
    assert {file.path for file in read_file_list("dice6", optional=["LICENSE"]) if file.optional} == {"LICENSE"}


def test_mark_on_a_file_that_is_not_listed_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"has no file nothing.zip"):
        read_file_list("dice6", optional=["nothing.zip"])


def test_array_of_numbers_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    assert load_npy(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"objects.npy: holds pickled Python objects"):
        load_npy(tmp_path / "objects.npy")
    assert not (tmp_path / "sprung").exists()


def test_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(DataError, match=r"bare.npy: is not a readable .npy file"):
        load_npy(tmp_path / "bare.npy")
    assert not (tmp_path / "sprung").exists()


def test_cut_off_array_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(99))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:200])
    with pytest.raises(DataError, match=r"a.npy: is not a readable .npy file"):
        load_npy(tmp_path / "a.npy")
