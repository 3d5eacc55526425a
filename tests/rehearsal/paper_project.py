"""Suite paper with small files of the real formats, for a rehearsal of the whole workflow without downloads or a card.

``python tests/rehearsal/paper_project.py FOLDER`` writes a copy of the house, whose data sets and weights state neither
digests nor totals, and a mirror. Networks have their mini size, a training is one step; data sets, preparations,
variants, released files, claims and tables are those of suite paper. CARPK's pictures are absent, as for most users.
Then, in FOLDER: ``RECOUNT_MIRROR=$PWD/mirror snakemake --cores 2 --config suite=paper "systems=[mcnn]"``.
"""

import io
import shutil
import sys
import tarfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
for place in (TESTS, TESTS / "formats", TESTS / "systems"):
    sys.path.insert(0, str(place))

import small_data  # noqa: E402
import small_weights  # noqa: E402

from projects import ROOT, copy_settings, write_yaml  # noqa: E402
from recount import systems  # noqa: E402
from recount.fetching.weights import WEIGHTS  # noqa: E402
from recount.settings.base import merged, read_yaml  # noqa: E402
from recount.settings.project import load  # noqa: E402

BESIDE = ROOT.parent / "shared" / "mirror" / "coco_ten"
STATED = {"sha256", "bytes", "git_blob", "md5", "seen_once"}
SHORT = {"epochs": 1, "max_steps": 1, "batch_size": 2, "precision": "fp32", "evaluate_every": None}
SHORT |= {"evaluate_each_from": None, "patience": None}
TINY_CLIP = {  # reads any caption, as recount's own tiny one does not
    **{"embed_dim": 64, "image_size": 96, "patch": 16, "vision_layers": 4, "vision_width": 48, "vision_head_width": 16},
    **{"text_width": 64, "text_heads": 1, "text_layers": 1, "context": 77},
}
COUNTS = {  # module: constants that say how many entries its whole file has
    "countclip_zenodo": {
        "CLASS_COUNTS": small_data.CLASS_COUNTS,
        "PAIRS": 5 * len(small_data.CLASS_COUNTS),
        "REPLACED": 1,
        "ITEMS": small_data.ITEMS,
    },
    "countbench": {"PER_NUMBER": 1},
}


def write_paper_project(folder: Path, only: Sequence[str] = ()) -> None:
    """Write the house, the settings and the mirror into a folder; with ``only`` the released files of these runs."""
    folder.mkdir(parents=True)
    copy_settings(folder)
    shutil.copytree(ROOT / "src" / "recount", folder / "src" / "recount", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Snakefile", "official.yaml"):
        shutil.copy(ROOT / name, folder)
    _state_nothing(folder / "src" / "recount")
    suite = read_yaml(folder / "suites" / "paper.yaml")
    suite["systems"] = {name: _small(name, given, folder) for name, given in suite["systems"].items()}
    write_yaml(folder / "suites" / "paper.yaml", suite)
    for name, files in small_data.DATA.items():
        small_data.write(folder / "mirror" / name, files())
    if BESIDE.is_dir():  # real photographs, as their address gives them
        shutil.copytree(BESIDE, folder / "mirror" / BESIDE.name)
    crowdclip = folder / "mirror" / "clip_vit_b16" / "open_clip_model.safetensors"
    crowdclip.parent.mkdir()
    small_weights.clip_vit(crowdclip)  # CrowdCLIP's untuned network, which its releases do not hold
    _write_released(folder, only)


def _small(system: str, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the suite says of a system, at mini size, without base weights, for one step."""
    experiment = read_yaml(folder / "experiments" / f"{system}.yaml")
    kept = {key: value for key, value in given.items() if key in ("preparation", "skip")}
    one_step = {"rotation": SHORT} if system == "css_ccnn" else {}
    variants = {name: {"recipe": SHORT, "settings": one_step} for name in experiment["variants"]}
    settings: dict[str, Any] = {"clip": TINY_CLIP, "weights": "random"} if system == "countclip" else {}
    if system == "crowdclip":
        settings = {**small_weights.CROWDCLIP, **given["settings"]}
    return kept | {"size": "mini", "settings": settings, "recipe": SHORT, "variants": variants}


def _state_nothing(package: Path) -> None:
    """Take out what data sets and weights state of their whole files."""
    for path in (package / "datasets" / "cards").glob("*.yaml"):
        card = read_yaml(path)
        if path.stem in small_data.DATA:
            card["totals"] = {}
            card["remote_files"] = [_unstated(file) for file in card.get("remote_files", [])]
        write_yaml(path, card)
    for name in small_data.DATA:
        listed = package / "datasets" / "files" / f"{name}.tsv"
        if listed.is_file():
            lines = [line for line in listed.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
            for number, (file, _, _, urls) in enumerate((line.split("\t") for line in lines[1:]), start=1):
                content = small_data.DATA[name]()[file]
                lines[number] = "\t".join((file, str(len(content)), sha256(content).hexdigest(), urls))
            listed.write_text("\n".join(lines), encoding="utf-8")
    weights = package / "fetching" / "weights.yaml"
    entries = read_yaml(weights)
    for entry in entries.values():
        if "file" in entry:
            entry["file"] = _unstated(entry["file"])
    write_yaml(weights, entries)
    for module, constants in COUNTS.items():
        path = package / "datasets" / f"{module}.py"
        lines = [f"{name} = {value!r}\n" for name, value in constants.items()]
        path.write_text(path.read_text(encoding="utf-8") + "\n" + "".join(lines), encoding="utf-8")


def _unstated(file: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in file.items() if key not in STATED}


def _write_released(folder: Path, only: Sequence[str]) -> None:
    """Write each released file that a run of the suite reads, of the settings that it reads it with."""
    project = load(folder, {"suite": "paper", "only": [*only]} if only else {"suite": "paper"})
    for run in project.trainings:
        if run.checkpoint_path is None:
            continue
        name, _, inside = str(Path(run.checkpoint_path).relative_to(project.weights)).partition("/")
        settings = merged(systems.load(run.system).mini_settings(), run.settings)
        written = (folder / "released").with_suffix(Path(inside).suffix)
        small_weights.write_released(run.system, written, settings)
        file, content = WEIGHTS[name].file, written.read_bytes()
        written.unlink()
        if file.unpack:
            inside = inside.partition("/")[2].replace("**/", "").replace("*", "_0")
            content = _tar(inside, content)
        small_data.write(folder / "mirror" / name, {file.path if file.unpack else inside: content})


def _tar(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


if __name__ == "__main__":
    write_paper_project(Path(sys.argv[1]))
