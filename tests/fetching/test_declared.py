"""What data sets and weights declare: every public digest is there, and addresses do not move."""

import csv
import os
import re
from pathlib import Path

import pytest

from recount import datasets
from recount.fetching.addresses import _way
from recount.fetching.fetch import SHIPPED
from recount.fetching.weights import WEIGHTS

SOURCES = {**{name: datasets.load(name) for name in datasets.names()}, **WEIGHTS}
FILES = {f"{name}/{file.path}": file for name, source in SOURCES.items() for file in source.files()}
ADDRESSES = [(where, url) for where, file in FILES.items() for url in file.urls]


@pytest.fixture(scope="module")
def public() -> list[dict[str, str]]:
    """Return what is public of each file."""
    table = Path(os.environ.get("RECOUNT_SHARED", Path(__file__).parents[3] / "shared")) / "specs" / "addresses.tsv"
    if not table.is_file():
        pytest.skip(f"there is no {table}: set RECOUNT_SHARED")
    with table.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_every_public_digest_and_size_is_declared(public: list[dict[str, str]]) -> None:
    by_digest = {file.sha256: file for file in FILES.values() if file.sha256}
    by_name = {Path(file.path).name: file for file in FILES.values()}
    rows = [row for row in public if row["sha256"] or row["bytes"]]
    assert len(rows) > 40
    for row in rows:
        file = by_digest[row["sha256"]] if row["sha256"] else by_name[row["file"]]
        assert str(file.bytes or "") == row["bytes"], row["what"]


def test_what_one_third_party_states_is_told_and_refuses_nothing(public: list[dict[str, str]]) -> None:
    by_digest = {file.sha256: file for file in FILES.values() if file.sha256}
    once = [row for row in public if row["sha256"] and re.search(r"ONE (third|third-)", row["source"])]
    assert {row["what"] for row in once} == {"fsc147 pictures", "fsc147 points"}
    assert all("sha256" in by_digest[row["sha256"]].seen_once for row in once)
    assert FILES["ucf_qnrf/UCF-QNRF_ECCV18.zip"].seen_once == ("bytes",)
    several = [row for row in public if row["sha256"] and row not in once]
    assert not any("sha256" in by_digest[row["sha256"]].seen_once for row in several)


@pytest.mark.parametrize(
    ("where", "address"),
    [
        ("fsc147/annotation_FSC147_384.json", r"https://raw\.githubusercontent\.com/"),
        ("fsc147/gt_density_map_adaptive_384_VarV2.zip", "https://archive.org/download/FSC147-GT/gt_density"),
        ("ucf_qnrf/UCF-QNRF_ECCV18.zip", "https://www.crcv.ucf.edu/"),
        ("shanghaitech_a/ShanghaiTech.zip", "https://www.dropbox.com/.*dl=1"),
        ("shanghaitech_b/ShanghaiTech.zip", "https://www.dropbox.com/.*dl=1"),
        ("dm_count_qnrf/model_qnrf.pth", r"https://raw\.githubusercontent\.com/"),
        ("clip_ebc_resnet50_qnrf/best_mae.pth", "https://media.githubusercontent.com/media/Yiming-M/CLIP-EBC/d0fefa7"),
    ],
)
def test_first_address_is_the_publishers(where: str, address: str) -> None:
    assert re.match(address, FILES[where].urls[0])
    assert FILES["fsc147/annotation_FSC147_384.json"].git_blob == "bc97805951dab999aca083b4de1e5a28de940213"


@pytest.mark.parametrize("name", ["data.zip", "merged.json", "val.json", "faulty.csv"])
def test_zenodos_files_have_a_second_address(name: str) -> None:
    zenodo, drive = FILES[f"countclip_zenodo/{name}"].urls
    assert _way(zenodo)[1].__name__ == "_zenodo" and drive.startswith("gdrive:")


def test_hub_and_git_addresses_name_a_revision_and_no_branch() -> None:
    hub = [url for _, url in ADDRESSES if url.startswith("hf:") or "huggingface.co" in url]
    assert len(hub) >= 8
    assert [url for url in hub if not re.match(r"hf:(datasets/)?[^@/]+/[^@/]+@[0-9a-f]{40}/", url)] == []
    git = [url for _, url in ADDRESSES if re.match(r"https://(raw|media)\.githubusercontent\.com/", url)]
    assert [url for url in git if not re.search(r"/[0-9a-f]{40}/", url)] == []


def test_every_address_is_one() -> None:
    assert all(_way(url) for _, url in ADDRESSES if not url.startswith(SHIPPED))


def test_digests_have_their_lengths_and_doubts_their_facts() -> None:
    lengths = {"sha256": {8, 64}, "git_blob": {40}, "md5": {32}}
    for where, file in FILES.items():
        for name, allowed in lengths.items():
            assert getattr(file, name) is None or len(getattr(file, name)) in allowed, where
        assert all(getattr(file, name) for name in file.seen_once), where
        assert not file.unpacked or file.unpack, where


def test_a_file_that_no_address_delivers_says_how_to_get_it() -> None:
    nowhere = {name for name, source in SOURCES.items() for file in source.files() if not file.urls and not file.sha256}
    assert nowhere == {
        "nwpu",
        "carpk",
        "crowdclip_qnrf",
        "crowdclip_sha",
        "crowdclip_shb",
        "css_ccnn_qnrf",
        "clip_ebc_hub_nwpu",
        "clip_ebc_hub_nwpu_l14",
        "css_ccnn_sha",
        "transcrowd_sha",
        "lovitcrowd_qnrf",
        "lovitcrowd_sha",
        "lovitcrowd_shb",
    }
    assert all(SOURCES[name].by_hand for name in nowhere)
