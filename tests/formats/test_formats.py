"""Files of suite paper's formats, made small, from the mirror to a scored cell: fetch, prepare, a step, predict, score.

Digests and totals are those of the whole sets and files, so they are left out; all else is what suite paper runs.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import small_data
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from small_weights import FEATURES, HEADS, IMAGE, LAYERS, PATCH, TEXT_WIDTH, WEIGHTS, WIDTH
from small_weights import RELEASED as LAYOUTS

import recount.datasets.countbench
import recount.datasets.countclip_zenodo
from projects import experiment, write_project
from recount import datasets
from recount.data.index import read_index
from recount.data.prepare import prepare
from recount.fetching.fetch import fetch
from recount.fetching.transfers import Patience
from recount.fetching.weights import WEIGHTS as DECLARED
from recount.prediction.predict import predict_benchmark
from recount.scoring.score import score
from recount.settings.base import merged
from recount.settings.project import Project, load
from recount.training.run import train

IMPATIENT = Patience(connect_seconds=0.2, read_seconds=0.2, attempts=1, backoff_seconds=0)
TEXT = {"text_width": TEXT_WIDTH, "text_heads": 1, "text_layers": 1}
TOWERS = {
    **{"features": FEATURES, "image_size": IMAGE, "patch": PATCH, "vision_width": WIDTH, "vision_layers": LAYERS},
    **{"vision_heads": HEADS, **TEXT, "context": 77, "vocabulary": None},
}
CLIP_SIZE = {
    **{"embed_dim": FEATURES, "image_size": IMAGE, "patch": PATCH, "vision_layers": LAYERS, "vision_width": WIDTH},
    **{"vision_head_width": WIDTH // HEADS, **TEXT, "context": 77},
}
VIT_B16 = "weights:clip_vit_b16/open_clip_model.safetensors"
VGG19 = "weights:vgg19/vgg19-dcbb9e9d.pth"
QNRF, FSC147 = ("ucf_qnrf/train", ["ucf_qnrf/test"]), ("fsc147/train", ["fsc147/test", "fsc147s/v1", "carpk/test"])
COUNTBENCH = ["countclip_zenodo/test", "countbench_hf491/test", "countbench/test"]

# System: what it is trained on and evaluated on, its settings over its mini size, and the preparation.
SYSTEMS: dict[str, tuple[tuple[str, list[str]], dict[str, Any], str | None]] = {
    "mcnn": (QNRF, {}, "c3"),
    "dm_count": (QNRF, {"backbone_weights": VGG19}, "dm_count"),
    "gigacount": (
        QNRF,
        {"backbone_weights": "weights:convnext_tiny/convnext_tiny-983f1562.pth", "text_weights": VIT_B16},
        "clip_ebc",
    ),
    "clip_ebc": (
        QNRF,
        {"resnet": {"weights": "weights:clip_rn50/open_clip_model.safetensors"}},
        "clip_ebc",
    ),
    "transcrowd": (QNRF, {"weights": "weights:deit_b16_384/deit_base_patch16_384-8de9b5d1.pth"}, "transcrowd"),
    "ffnet": (QNRF, {"backbone_weights": "weights:convnext_tiny/convnext_tiny-983f1562.pth"}, "dm_count"),
    "lovitcrowd": (
        QNRF,
        {
            "trunk_weights": "weights:resnet34/resnet34-43635321.pth",
            "transformer_weights": "weights:vit_b32_384/jx_vit_base_p32_384-830016f5.pth",
        },
        None,
    ),
    "crowdclip": (
        QNRF,
        {
            **{"clip_weights": VIT_B16, "patch": PATCH, "width": WIDTH, "layers": LAYERS, "heads": HEADS},
            **{"features": FEATURES, "input_size": IMAGE, "resized": IMAGE + 16, **TEXT},
        },
        None,
    ),
    "css_ccnn": (("shanghaitech_b/train", ["shanghaitech_b/test"]), {"features": "random"}, "css_ccnn"),
    "dmcount_ebc": (
        ("shanghaitech_a/train", ["shanghaitech_a/test", "shanghaitech_b/test"]),
        {"backbone_weights": VGG19},
        "clip_ebc",
    ),
    "t2icount": (FSC147, {"weights": "weights:sd15/v1-5-pruned-emaonly.safetensors"}, None),
    "clip_count": (FSC147, {"clip": TOWERS, "weights": VIT_B16}, None),
    "vlcounter": (FSC147, {"clip": TOWERS, "weights": VIT_B16, "window": 16 * (IMAGE // PATCH)}, None),
    "countx": (
        FSC147,
        {
            "clip": {**TOWERS, "activation": "gelu"},
            "weights": "weights:clip_vit_b16_laion2b/open_clip_model.safetensors",
        },
        None,
    ),
    "countclip": (
        ("countclip_zenodo/train", COUNTBENCH),
        {"clip": CLIP_SIZE, "weights": "weights:clip_vit_b32/open_clip_model.safetensors"},
        None,
    ),
}
RELEASED = {"dm_count": "dm_count_qnrf", "dmcount_ebc": "dmcount_ebc_qnrf"}  # fetched; the others lie at a path
READ_WITH: dict[str, dict[str, Any]] = {  # what a released file's network needs
    "clip_ebc": {"backbone": "vit_b16", "vit": {"visual_prompts": 0, "input_size": 128}, "window_fit": "resize"},
    "mcnn": {"colour": "grey"},
}
RANDOM = {  # the settings of what a released file's network starts from, which the file replaces
    **{name: {"weights": "random"} for name in ("clip_count", "vlcounter", "countx", "t2icount")},
    "clip_ebc": {"resnet": {"weights": "random"}},
}
FROZEN = {  # tensor of the model that a step leaves alone: where it comes from
    "t2icount": ("vae.quant_conv.weight", "sd15", "first_stage_model.quant_conv.weight"),
    "clip_count": ("image.tower.conv1.weight", "clip_vit_b16", "visual.conv1.weight"),
    "vlcounter": ("text.tower.token_embedding.weight", "clip_vit_b16", "token_embedding.weight"),
    "crowdclip": ("untuned.conv1.weight", "clip_vit_b16", "visual.conv1.weight"),
}


def _released(system: str) -> dict[str, Any]:
    if system not in LAYOUTS:
        return {}
    checkpoint = RELEASED.get(system, f"{system}_released")
    return {"released": {"label": "released", "checkpoint": checkpoint, "settings": READ_WITH.get(system, {})}}


def _experiments() -> dict[str, Any]:
    return {
        name: experiment(name, {"full": "full", **_released(name)}, trained_on=training, evaluated_on=benchmarks)
        for name, ((training, benchmarks), _, _) in SYSTEMS.items()
    }


def _paper() -> dict[str, Any]:
    tables = {
        name: {
            **{"title": name, "on": benchmarks, "metrics": ["mae"]},
            "rows": [{"run": f"{name}/{variant}", "label": name} for variant in ("full", *_released(name))],
        }
        for name, ((_, benchmarks), _, _) in SYSTEMS.items()
    }
    return {"tables": tables}


def _suite() -> dict[str, Any]:
    benchmarks = {name for sets, _, _ in SYSTEMS.values() for name in (sets[0], *sets[1])}
    return {
        "title": "formats",
        "comparable": False,
        "checkpoints": {name: f"weights:{name}/{WEIGHTS[name][0]}" for name in RELEASED.values()},
        "benchmarks": {name: dict(zip(("dataset", "split"), name.split("/"), strict=True)) for name in benchmarks},
        "systems": {
            name: {
                **{"size": "mini", "settings": settings, "preparation": preparation},
                "recipe": {"epochs": 1, "max_steps": 1, "batch_size": 2, "evaluate_every": None, "precision": "fp32"},
            }
            for name, (_, settings, preparation) in SYSTEMS.items()
        },
    }


NOTHING_STATED: dict[str, Any] = {"sha256": None, "bytes": None, "git_blob": None, "seen_once": ()}


def _without_digests(patch: pytest.MonkeyPatch) -> None:
    """Let small files pass for the whole ones."""
    for name in small_data.DATA:
        kind = type(datasets.load(name))
        files = kind.files

        def stripped(self: Any, files: Any = files) -> list[Any]:
            return [replace(file, **NOTHING_STATED) for file in files(self)]

        patch.setattr(kind, "files", stripped)
        patch.setattr(kind, "totals", {})
    for name in WEIGHTS:
        patch.setattr(DECLARED[name], "file", replace(DECLARED[name].file, **NOTHING_STATED))
    zenodo = recount.datasets.countclip_zenodo
    patch.setattr(zenodo, "CLASS_COUNTS", small_data.CLASS_COUNTS)
    patch.setattr(zenodo, "PAIRS", 5 * len(small_data.CLASS_COUNTS))
    patch.setattr(zenodo, "REPLACED", 1)
    patch.setattr(zenodo, "ITEMS", small_data.ITEMS)
    patch.setattr(recount.datasets.countbench, "PER_NUMBER", 1)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Return a project with everything fetched from a mirror."""
    root, mirror = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("mirror")
    (root / "released").mkdir()
    paths = {f"{name}_released": f"released/{file}" for name, (file, _) in LAYOUTS.items() if name not in RELEASED}
    config = {"suite": "formats", "device": "cpu", "checkpoints": paths}
    write_project(root, experiments=_experiments(), papers={"formats": _paper()}, suite=_suite(), config=config)
    for name, files in small_data.DATA.items():
        small_data.write(mirror / name, files())
    for name, (file, make) in WEIGHTS.items():
        (mirror / name).mkdir()
        make(mirror / name / file)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # a suite's weights are named from there
        _without_digests(patch)
        made = load(root)
        for name, (file, write) in ((name, LAYOUTS[name]) for name in LAYOUTS.keys() - RELEASED.keys()):
            written = merged(SYSTEMS[name][1], READ_WITH.get(name, {}))
            write(root / "released" / file, merged(written, RANDOM.get(name, {})))
        for name in small_data.DATA:
            fetch(datasets.load(name), root / made.raw, mirror=mirror, patience=IMPATIENT)
        for name in WEIGHTS:
            fetch(DECLARED[name], root / made.weights, mirror=mirror, patience=IMPATIENT)
        small_data.write(root / made.raw / "carpk", small_data.carpk_by_hand())
        yield made


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", small_data.DATA)
def test_a_data_set_is_read_with_its_pictures(project: Project, name: str) -> None:
    index = prepare(datasets.load(name), "original", project.root / project.raw, project.root / project.data)
    samples = read_index(index)
    assert {sample.split for sample in samples if sample.image is not None} >= {"test"} or name == "fsc147s"
    assert all(sample.image.is_file() for sample in samples if sample.image is not None)
    assert any(sample.image is not None for sample in samples)


def test_what_no_address_delivers_is_listed(project: Project) -> None:
    index = prepare(datasets.load("countbench"), "original", project.root / project.raw, project.root / project.data)
    assert [sample.id for sample in read_index(index, "missing")] == ["item008"]


@pytest.mark.parametrize(
    "system", [pytest.param(name, marks=pytest.mark.more) if name == "t2icount" else name for name in SYSTEMS]
)
def test_a_run_trains_a_step_and_its_predictions_become_cells(project: Project, system: str) -> None:
    run = project.run(system, "full", 0)
    for split in (run.training, *run.benchmarks.values()):
        prepare(
            datasets.load(split.dataset), split.preparation, project.root / project.raw, project.root / project.data
        )
    assert train(project, run).is_file()
    for split in run.benchmark_of_split.values():
        assert predict_benchmark(project, run, split).is_file()
    with score(project).open(newline="") as file:
        cells = [row for row in csv.DictReader(file) if row["system"] == system and row["status"] == "trained"]
    assert {row["benchmark"] for row in cells} == set(SYSTEMS[system][0][1])
    assert all(float(row["value"]) >= 0 for row in cells)
    if system in FROZEN:
        ours, weights, theirs = FROZEN[system]
        model = load_file(project.root / project.run_folder(run) / "model.safetensors")
        source = load_file(project.root / project.weights / weights / WEIGHTS[weights][0])
        assert torch.equal(model[ours], source[theirs])


@pytest.mark.parametrize(
    "system", [pytest.param(name, marks=pytest.mark.more) if name == "t2icount" else name for name in LAYOUTS]
)
def test_a_released_checkpoint_is_imported_and_scored(project: Project, system: str) -> None:
    run = project.run(system, "released", 0)
    for split in run.benchmarks.values():
        prepare(
            datasets.load(split.dataset), split.preparation, project.root / project.raw, project.root / project.data
        )
    record = json.loads(train(project, run).read_text())
    name = RELEASED.get(system, "")
    folder = f"resources/weights/{name}/{WEIGHTS[name][0]}" if name else f"released/{LAYOUTS[system][0]}"
    assert record["checkpoint"]["file"] == folder
    for split in run.benchmark_of_split.values():
        assert predict_benchmark(project, run, split).is_file()
    with score(project).open(newline="") as file:
        cells = [row for row in csv.DictReader(file) if row["system"] == system and row["status"] == "checkpoint"]
    assert {row["benchmark"] for row in cells} == set(SYSTEMS[system][0][1])
