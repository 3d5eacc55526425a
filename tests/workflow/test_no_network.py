"""Suite paper where no address can be reached: one list of what could not be fetched, and what was there stays."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from house import ROOT
from safetensors.numpy import save

from projects import SETTINGS
from recount.settings.project import load

pytestmark = pytest.mark.more

CLOSED = "http://127.0.0.1:9"  # a port on which nobody listens
PROXIES = {f"{name}_proxy": CLOSED for name in ("http", "https", "all")}
BY_HAND = "t2icount_paper"  # files whose digest nobody has published, so that any bytes of their kind will do
MIRRORED = "clip_vit_b16_laion2b"
ANNOTATED = "carpk"  # as if fetched before, without the pictures, which have no address
FILES = {BY_HAND: "best_model_paper.pth", MIRRORED: "open_clip_model.safetensors"}
BODIES = {BY_HAND: b"\x80\x02stands for weights", MIRRORED: save({"stands": np.zeros(1)})}


@dataclass(frozen=True)
class Offline:
    """What a run left: its folder, what it printed, and the processor time of all its processes."""

    folder: Path
    text: str
    code: int
    seconds: float

    @property
    def listed(self) -> str:
        """Return the list."""
        return self.text.partition("\nCould not be fetched (")[2]


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Offline:
    folder, mirror = tmp_path_factory.mktemp("offline"), tmp_path_factory.mktemp("mirror")
    for name in SETTINGS:
        (folder / name).symlink_to(ROOT / name)
    for name, place in ((BY_HAND, folder / "resources/weights"), (MIRRORED, mirror)):
        (place / name).mkdir(parents=True)
        (place / name / FILES[name]).write_bytes(BODIES[name])
    (folder / "resources/raw" / ANNOTATED).mkdir(parents=True)
    (folder / "resources/raw" / ANNOTATED / "manifest.json").write_text("{}")
    capitals = {name.upper(): address for name, address in PROXIES.items()}
    environment = {**os.environ, **PROXIES, **capitals, "no_proxy": "", "NO_PROXY": "", "RECOUNT_MIRROR": str(mirror)}
    command = ["--snakefile", ROOT / "Snakefile", "--cores", "all", "--config", "suite=paper", "papers=[]"]
    before = _spent()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *command],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Offline(folder, done.stdout, done.returncode, _spent() - before)


def test_it_fails_without_trying_for_long(offline: Offline) -> None:
    assert offline.code != 0
    assert offline.seconds < 5 * 60  # of processor time: 22 on a machine of 2026, nearly all of it for starting Pythons


def test_one_list_at_the_end_has_everything_that_is_missing_with_reasons_and_what_to_do_by_hand(
    offline: Offline,
) -> None:
    project = load(ROOT, {"suite": "paper", "papers": []})
    names = {split.dataset for run in project.runs for split in run.splits}
    names |= {name for run in project.runs for name in run.weights}
    missing = names - {BY_HAND, MIRRORED}
    assert offline.text.count("\nCould not be fetched (") == 1
    assert offline.listed.startswith(f"{len(missing)} data sets and weights)")
    for name in missing:
        assert f"\n{name} (" in offline.listed
    assert offline.listed.count("\nBy hand: ") == len(missing)
    assert f"\n{ANNOTATED} (CARPK: cars in car parks, seen from a drone): its pictures were not" in offline.listed
    assert "cannot be reached (Connection refused)" in offline.listed
    assert "reports/" not in offline.listed, "nothing comes after it"


@pytest.mark.parametrize(
    ("name", "address"), [(BY_HAND, "by hand"), (MIRRORED, f"mirror:{MIRRORED}/{FILES[MIRRORED]}")]
)
def test_what_could_be_had_stays_and_is_not_listed(offline: Offline, name: str, address: str) -> None:
    place = offline.folder / "resources/weights" / name
    assert (place / FILES[name]).read_bytes() == BODIES[name]
    assert json.loads((place / "manifest.json").read_text())["files"][0]["address"] == address
    assert f"\n{name} (" not in offline.listed
