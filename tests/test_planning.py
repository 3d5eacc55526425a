"""recount plan and recount doctor: what would run and cost, and whether this machine is ready."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from prepared import written
from projects import ROOT, copy_settings, experiment, write_project
from records import SELECTION, run_record
from recount import doctor, planning
from recount.cli import app
from recount.doctor import Finding
from recount.documents import FORMATS, as_json, write
from recount.errors import UserError
from recount.fetching.weights import WEIGHTS
from recount.rehearsal import costs as costs_of_cards
from recount.results.files import Made
from recount.results.reference import RECORD, Reference, folder_of, read_record
from recount.results.rehearsals import Rehearsals, Rehearsed, rehearsals_path
from recount.results.run_record import Provenance
from recount.settings import project as config
from recount.settings.base import ConfigError
from recount.settings.project import Project


def project(**over: Any) -> Project:
    return config.load(ROOT, {"suite": "paper", "papers": ["gigacount"], **over})


def ended(folder: Path, run: str, seconds: float, epochs: int) -> None:
    cost = {"gpu_seconds": seconds, "wall_seconds": 2 * seconds}
    # a training that stopped early: what it took is that of the epochs it went through
    last = {"last": {**SELECTION, "epoch": epochs}}
    record = run_record(run, cost=cost, recipe={"epochs": 2 * epochs}, selections=last)
    record.write(folder / "paper" / "runs" / run / "run.json")


def costs(found: Project) -> dict[str, planning.RunCost]:
    return {entry.run: entry for entry in planning._run_costs(found)}


def downloads(found: Project) -> list[planning.Download]:
    return list(planning._downloads(found, planning.disk_needs(found)))


def test_hours_are_the_suites_quoted_ones_times_epochs_until_something_ended_here(tmp_path: Path) -> None:
    found = costs(project(results=str(tmp_path)))
    assert found["gigacount/full/seed0"].gpu_hours == pytest.approx(7.5 * 6)  # 600 epochs
    assert found["gigacount/stage4/seed0"].gpu_hours == pytest.approx(7.5 * 1.5)
    assert "Table 2" in found["gigacount/full/seed0"].basis
    assert found["mcnn/rgb/seed0"].basis == "model of T4"  # nobody published it, and no card is here


def test_a_named_card_has_modelled_hours_of_every_training_with_the_published_ones_beside_them(tmp_path: Path) -> None:
    every = config.load(ROOT, {"suite": "paper", "results": str(tmp_path), "resources": str(tmp_path)})
    hours = {card: {cost.run: cost for cost in planning._run_costs(every, card)} for card in ("T4", "H200")}
    for run, cost in hours["H200"].items():
        assert cost.basis.startswith(("model of H200", "no training"))
        assert cost.gpu_hours <= hours["T4"][run].gpu_hours
    full = hours["H200"]["gigacount/full/seed0"]
    assert (full.published_hours, full.published_source) == (45, "the paper's Table 2, a T4")
    assert (full.peak_bytes or 0) > 4e9
    longer, shorter = (hours["H200"][f"gigacount/{name}/seed0"].gpu_hours for name in ("full", "stage4"))
    assert longer == pytest.approx(4 * shorter)  # 600 and 150 epochs
    with pytest.raises(UserError, match=r"--card = H20: .*H200"):
        list(planning._run_costs(every, "H20"))


def test_a_rehearsal_on_a_card_is_the_basis_where_that_card_is_named(tmp_path: Path) -> None:
    row = Rehearsed(run="mcnn/rgb/seed0", batch=1, seconds_per_step=0.5)
    there = Rehearsals(device="NVIDIA H200", kind="cuda", memory_mb=141_000, rehearsed={row.run: row})
    there.write(rehearsals_path(tmp_path, there.device))
    every = config.load(ROOT, {"suite": "paper", "results": str(tmp_path), "resources": str(tmp_path)})
    cost = {cost.run: cost for cost in planning._run_costs(every, "H200")}["mcnn/rgb/seed0"]
    assert cost.basis == "measured on this machine (NVIDIA H200)"
    epochs = costs_of_cards.recipe_of(every, every.run("mcnn", "rgb", 0)).epochs
    assert cost.gpu_hours == pytest.approx(0.5 * 1201 * epochs / 3600)
    assert {c.run: c for c in planning._run_costs(every, "H100")}["mcnn/rgb/seed0"].basis == "model of H100"


def test_hours_of_ended_runs_are_measured_and_scaled_to_the_epochs_of_others(tmp_path: Path) -> None:
    ended(tmp_path, "gigacount/stage4/seed0", 3600, 150)
    found = costs(project(results=str(tmp_path)))
    assert (found["gigacount/stage4/seed0"].gpu_hours, found["gigacount/stage4/seed0"].done) == (1.0, True)
    assert found["gigacount/full/seed0"].gpu_hours == pytest.approx(4.0)
    assert found["gigacount/full/seed0"].basis == "scaled from 1 runs here"


def test_a_damaged_record_is_a_run_that_has_not_ended(tmp_path: Path) -> None:
    ended(tmp_path, "gigacount/stage4/seed0", 3600, 150)
    (tmp_path / "paper/runs/gigacount/stage4/seed0/run.json").write_text('{"cost": ')
    assert not costs(project(results=str(tmp_path)))["gigacount/stage4/seed0"].done


def test_tables_and_claims_choose_runs() -> None:
    of_table = {run.variant for run in project(tables=["table3"]).runs}
    assert {"stage4", "no_stage4"} <= of_table
    assert "full" not in of_table
    claims = project().papers["gigacount"].claims
    claim = next(claim for claim in claims if "gigacount/stage4" in (*claim.arm, *claim.against))
    assert {run.variant for run in project(claims=[claim.id]).runs} == {"stage4", "no_stage4"}
    with pytest.raises(ConfigError, match=r"claims = G99: there is no such claim; the nearest is G9"):
        project(claims=["G99"])


def test_released_weights_or_all_but_them_are_chosen() -> None:
    every, released, trained = (
        {f"{run.system}/{run.variant}": run for run in project(runs=kind).runs}
        for kind in ("all", "released", "trained")
    )
    assert every.keys() == released.keys() | trained.keys()
    assert all(run.checkpoint and run.splits == [*run.benchmarks.values()] for run in released.values())
    assert not any(run.checkpoint for run in trained.values())
    assert project(runs="released").not_run("gigacount", "full") == "config.yaml leaves it out (runs: released)"
    with pytest.raises(ConfigError, match=r"runs = \"relesed\".*'released'.*the nearest is released"):
        project(runs="relesed")


def test_several_keys_may_follow_one_config_as_in_snakemake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    keys = ["suite=papr", "runs=al", "sede=1", "systems=[mcn]", "seeds=[1,1]", "only=[mcnn/rbg]"]
    answer = CliRunner().invoke(app, ["prepare", "x", "--config", *keys])
    assert answer.output.splitlines() == [
        "recount: config.yaml: runs = \"al\": Input should be 'all', 'released' or 'trained'; the nearest is all",
        "config.yaml: sede = 1: no such key; the nearest is seeds",
        "config.yaml: seeds: 1 is there twice",
        "config.yaml: suite = papr: there is no such suite; the nearest is paper",
        "config.yaml: systems = mcn: there is no such system; the nearest is mcnn",
        "config.yaml: only = mcnn/rbg: there is no such run; the nearest is mcnn/rgb",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("suites/mini.yaml", "crowd, split: held_out", "crowd, split: held_uot", "nearest is held_out"),
        ("suites/mini.yaml", ": parking", ": parkin", "there is no such data set; the nearest is parking"),
        ("suites/open.yaml", "longest_192", "longest_129", "no such preparation of dice6; the nearest is longest"),
        ("suites/open.yaml", ": transcrowd", ": transcrwd", "the nearest is transcrowd"),
        ("suites/paper.yaml", "weights:vgg19/", "weights:vgg91/", "no such file of weights; the nearest is vgg19"),
        ("benchmarks.yaml", "countclip_zenodo/train }", "countclip_zenodo/trian }", "the nearest is train"),
    ],
)
def test_names_of_data_that_do_not_exist_are_told_before_anything_runs(
    tmp_path: Path, file: str, old: str, new: str, said: str
) -> None:
    path = copy_settings(tmp_path) / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    suite = path.stem if file.startswith("suites") else "paper"
    with pytest.raises(ConfigError, match=said):
        planning.check_data(config.load(tmp_path, {"suite": suite}))


def test_a_data_set_without_what_a_system_learns_from_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_settings(tmp_path) / "suites/open.yaml"
    old, new = "dataset: sha_train75, split: train, preparation: longest_512", "dataset: countbench_hf491, split: test"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    said = r"suites/open\.yaml: ucf_qnrf/train: mcnn is trained on it and needs points; countbench_hf491 gives prompts"
    with pytest.raises(ConfigError, match=said):
        planning.check_data(config.load(tmp_path, {"suite": "open"}))
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["fetch", "countbench_hf491", "--config", "suite=open"])
    assert answer.exit_code == 1 and "mcnn is trained on it and needs points" in answer.output
    assert not (tmp_path / "resources").exists()


def test_a_system_without_code_is_told(tmp_path: Path) -> None:
    ghost = experiment("Ghost", {"full": "full"}, trained_on="a/train", evaluated_on=["a/test"])
    suite = {"title": "s", "comparable": False}
    write_project(tmp_path, experiments={"mcn": ghost}, papers={}, suite=suite, config={"suite": "small"})
    with pytest.raises(ConfigError, match=r"experiments/mcn\.yaml: there is no such system; the nearest is mcnn"):
        planning.check_data(config.load(tmp_path))


@pytest.mark.parametrize("suite", ["mini", "open", "paper"])
def test_the_repositorys_suites_name_only_data_that_exist(suite: str) -> None:
    planning.check_data(config.load(ROOT, {"suite": suite}))


def test_downloads_name_size_licence_and_what_is_by_hand(tmp_path: Path) -> None:
    found = {entry.name: entry for entry in downloads(project(resources=str(tmp_path)))}
    assert found["clip_ebc_resnet50_qnrf"].bytes == 542_307_202
    assert found["clip_ebc_resnet50_qnrf"].by_hand == ""
    assert (found["deit_b16_384"].unsized, found["deit_b16_384"].by_hand) == (1, "")
    assert found["ucf_qnrf"].bytes > 4_552_702_871 and found["ucf_qnrf"].by_hand == ""
    (tmp_path / "weights" / "vgg19").mkdir(parents=True)
    (tmp_path / "weights" / "vgg19" / "manifest.json").write_text("{}")
    there = {entry.name: entry.there for entry in downloads(project(resources=str(tmp_path)))}
    assert there["vgg19"] and not there["convnext_tiny"]


def test_pictures_that_may_or_may_not_be_fetched_are_of_unknown_size_not_of_none(tmp_path: Path) -> None:
    found = {entry.name: entry for entry in downloads(project(papers=["t2icount"], resources=str(tmp_path)))}
    assert found["fsc147"].unsized == 3  # pictures, points and density maps


def test_pictures_that_no_address_delivers_are_by_hand_although_the_annotation_is_fetched(tmp_path: Path) -> None:
    small = project(papers=["t2icount"], resources=str(tmp_path))
    for name in ("carpk", "fsc147"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    assert (by_subject(small)["carpk"].verdict, by_subject(small)["fsc147"].verdict) == ("problem", "missing")
    for name in ("carpk", "fsc147"):
        (tmp_path / "raw" / name / "manifest.json").write_text('{"files": []}')
    advice = by_subject(small)["fsc147"].advice
    assert by_subject(small)["fsc147"].verdict == "problem"
    assert "FSC147_384_V2.zip" in advice and advice.endswith("recount fetch fsc147 and recount prepare fsc147")
    assert all(entry.by_hand for entry in downloads(small) if entry.name in ("carpk", "fsc147"))
    (tmp_path / "raw/carpk/CARPK_devkit/data/Images").mkdir(parents=True)
    (tmp_path / "raw/fsc147/images_384_VarV2").mkdir()
    assert (by_subject(small)["carpk"].verdict, by_subject(small)["fsc147"].verdict) == ("ok", "ok")
    assert not any(entry.by_hand for entry in downloads(small) if entry.name in ("carpk", "fsc147"))


def test_what_has_another_size_than_when_it_was_fetched_is_a_problem(tmp_path: Path) -> None:
    small, folder = project(resources=str(tmp_path)), tmp_path / "raw" / "ucf_qnrf"
    folder.mkdir(parents=True)
    (folder / "list.txt").write_text("12345")
    entry = {"path": "list.txt", "bytes": 5, "sha256": "", "address": "by hand", "date": ""}
    (folder / "manifest.json").write_text(json.dumps({"files": [entry]}))
    assert by_subject(small)["ucf_qnrf"].verdict == "ok"
    (folder / "list.txt").write_text("123456")
    assert "list.txt is not what was fetched" in by_subject(small)["ucf_qnrf"].found
    (folder / "manifest.json").write_text("{}")
    assert "manifest.json: is broken" in by_subject(small)["ucf_qnrf"].found


def test_what_the_mirror_has_is_not_to_be_had_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, mirror = project(papers=["t2icount"], resources=str(tmp_path / "resources")), tmp_path / "mirror"
    monkeypatch.setenv("RECOUNT_MIRROR", str(mirror))
    for path in ("carpk/data/CARPK_devkit/train.json", "fsc147/FSC147_384_V2.zip"):
        (mirror / path).parent.mkdir(parents=True)
        (mirror / path).touch()
    assert [entry.name for entry in planning.to_get_by_hand(small)] == ["carpk"]  # its boxes are, its pictures are not
    assert by_subject(small)["fsc147"].verdict == "ok"
    (mirror / "carpk" / "CARPK_devkit.tar.gz").touch()
    assert not planning.to_get_by_hand(small)


def test_an_unpacked_folder_stands_for_its_archive(tmp_path: Path) -> None:
    for name in ("Train", "Test"):
        (tmp_path / "raw" / "ucf_qnrf" / name).mkdir(parents=True)
    small = project(resources=str(tmp_path))
    (found,) = [entry for entry in downloads(small) if entry.name == "ucf_qnrf"]
    assert found.bytes < 20_000  # two lists
    assert by_subject(small)["ucf_qnrf"].found == "there, not checked yet"


def test_the_plan_is_told_in_words_and_as_json(tmp_path: Path) -> None:
    small = planning.within_budget(project(resources=str(tmp_path), results=str(tmp_path), budget_gpu_hours=30))
    by_hand = project(papers=["clip_ebc"], resources=str(tmp_path))
    found = planning.Plan(
        "paper", ["gigacount"], 30, {"train": 3}, list(planning._run_costs(small)), {"mcnn/rgb": "too dear"},
        downloads(by_hand),
    )  # fmt: skip
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    planning.show(found, console)
    text = console.export_text()
    for part in ("3 train", "Not run", "too dear", "mcnn/rgb", "By hand: nwpu", "~18"):
        assert part in text
    assert json.loads(as_json(planning.document(found)))["hours"]["gigacount"]["gpu_hours"] <= 30


def test_minutes_of_a_processor_are_those_of_the_reference_run(tmp_path: Path) -> None:
    copy_settings(tmp_path)
    project = config.load(tmp_path, {"systems": ["mcnn"]})
    assert (
        "recount rehearse"
        in planning._minutes(project, list(planning._run_costs(project)), {"train": 1})["minutes_basis"]
    )
    seconds = {f"train/{run.system}/{run.variant}": 120.0 for run in project.trainings} | {"predict": 30.0}
    Reference(
        suite=project.suite.name, when="", seeds=[0], made=Made(), planned={}, code={}, seconds=seconds,
        origin=Provenance(hardware={"cpu": "a processor"}),
    ).write(folder_of(project) / RECORD)  # fmt: skip
    runs = list(planning._run_costs(project))
    found = planning._minutes(project, runs, {"all": 1, "train": len(runs), "predict": 4, "score": 1})
    assert found["minutes"] == pytest.approx(2 * len(runs) + 2)
    assert "as in the reference run on a processor" in found["minutes_basis"]
    assert "without 1 other jobs" in found["minutes_basis"]


def test_variants_that_are_not_run_stand_in_a_table_by_reason() -> None:
    gone = "no file is given for the released checkpoint {} (config.yaml: checkpoints)"
    table = planning._not_run_table({"a/x": gone.format("one"), "a/y": gone.format("two"), "b/z": "takes [too] long"})
    stream = StringIO()
    Console(file=stream, width=200).print(table)
    said = stream.getvalue()
    assert "a/x (one), a/y (two)" in said and said.count("released checkpoint (config") == 1
    assert "takes [too] long" in said


def test_several_papers_have_a_sum(tmp_path: Path) -> None:
    runs = [planning.RunCost("a", "x/y/seed0", 20.0, "a log", False), planning.RunCost("b", "x/z/seed0", 3, "", False)]
    runs += [planning.RunCost("b", "x/w/seed0", 0, "", False), planning.RunCost("b", "x/v/seed0", 7, "here", True)]
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    planning.show(planning.Plan("paper", ["a", "b"], None, {}, runs), console)
    (line,) = [line for line in console.export_text().splitlines() if line.split()[:1] == ["all"]]
    assert line.split()[:4] == ["all", "1/4", "23", "0"]


def test_what_two_trainings_share_counts_once_and_states_of_the_largest_twice(tmp_path: Path) -> None:
    one, two = (planning.RunCost(("a",), f"x/{name}/seed0", 1.0, "b", False) for name in ("y", "z"))
    needs = {
        run.run: planning.Needs(state, 4 * 10**9, 2, ("d/png",), ("d",)) for run, state in ((one, 10**9), (two, 0))
    }
    fetched = planning.Download("d", "D", "", False, 5 * 10**9, 0, 0, 10**10, "")
    prepared = [planning.Prepared("d/png", 3 * 10**9, False)]
    found = planning.Plan(
        "paper", ["a"], None, {}, [one, two], {}, [fetched], claims={"a C1": ("x/z",)}, needs=needs, prepared=prepared
    )
    both, claim = found.takes(found.runs), found.takes(found.of_claim("a C1"))
    assert both == {"gpu_hours": 2, "downloads": 5, "fetched": 10, "prepared": 3, "models": 16, "states": 2, "disk": 31}
    assert (claim["models"], claim["states"], claim["disk"]) == (8, 0, 21)
    content = json.loads(as_json(planning.document(found)))["takes"]
    assert content["claim"]["a C1"] == claim and content["paper"]["a"] == both == content["all"]
    assert content["run"]["x/y/seed0"]["disk"] == 23


def test_the_plan_knows_hours_and_sizes_of_everything_and_fits_a_narrow_terminal(tmp_path: Path) -> None:
    every = config.load(ROOT, {"suite": "paper", "results": str(tmp_path), "resources": str(tmp_path)})
    found = planning.plan(every, {}, jobs=False)
    assert all(run.basis and (run.gpu_hours > 0) == (run.basis != config.NO_TRAINING) for run in found.runs)
    assert all(entry.about > 10_000 for entry in found.downloads if entry.unsized)
    assert all(entry.bytes > 10**6 for entry in found.prepared if entry.name.endswith(("clip_ebc", "css_ccnn")))
    console = Console(width=80, record=True, force_terminal=True, file=(tmp_path / "out").open("w"))
    planning.show(found, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text and "unknown" not in text
    for name in (
        "clip_ebc/resnet50_sha_number_released",
        "gigacount G3 ",
        "nwpu/clip_ebc",
        "clip_ebc_resnet50_sha_number",
    ):
        assert any(line.startswith(name) for line in text.splitlines()), name


@pytest.mark.parametrize("suite", ["mini", "open"])
def test_hours_are_those_of_the_reference_run_else_of_one_job(suite: str, tmp_path: Path) -> None:
    small = config.load(ROOT, {"suite": suite, "results": str(tmp_path), "resources": str(tmp_path)})
    cost = {cost.run: cost for cost in planning._run_costs(small)}["mcnn/rgb/seed0"]
    if reference := read_record(folder_of(small)):
        assert cost.gpu_hours == reference.seconds["train/mcnn/rgb"] / 3600 > 0
        assert "reference run" in cost.basis
    else:
        assert cost.gpu_hours == small.suite.training_minutes / 60
        assert "rehearsed" in cost.basis


# -------------------------------------------------------------------------------------------------------------- doctor


def by_subject(found: Project) -> dict[str, Finding]:
    return {finding.subject: finding for finding in doctor.examine(found)}


def test_the_doctor_tells_problems_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOUNT_MIRROR", str(tmp_path / "gone"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(WEIGHTS["dm_count_qnrf"], "file", replace(WEIGHTS["dm_count_qnrf"].file, urls=()))
    found = by_subject(project(papers=["gigacount", "clip_ebc"], resources=str(tmp_path), device="cuda"))
    assert found["GPU"].verdict == "problem" and "device: cpu" in found["GPU"].advice
    assert found["mirror"].verdict == "problem"
    assert found["nwpu"].verdict == "problem" and str(tmp_path / "raw" / "nwpu") in found["nwpu"].advice
    assert found["ucf_qnrf"].found.startswith("not there; recount fetches it")
    assert found["dm_count_qnrf"].verdict == "missing"  # only its own rows of the tables
    assert found["conda"].verdict == found["SLURM"].verdict == "missing"
    assert all(finding.advice for finding in found.values() if finding.verdict != "ok")


@pytest.mark.parametrize(("megabytes", "verdict"), [(1, "problem"), (10, "ok")])
def test_the_disk_must_hold_states_and_models_of_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int, verdict: str
) -> None:
    """Of MCNN: two states and two models, the last and the one chosen on test."""
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=megabytes * 1e6))
    found = by_subject(project(systems=["mcnn"], resources=str(tmp_path / "a"), results=str(tmp_path / "b")))
    assert found[f"disk: {tmp_path / 'b'}"].verdict == verdict
    assert found[f"disk: {tmp_path / 'a'}"].verdict == "problem"  # UCF-QNRF


def test_the_doctor_tells_of_a_training_set_without_points(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ucf_qnrf" / "c3"
    written(folder / "index.csv", [["a", "train", "", "people", 7, 8, 8, "", "", ""]])
    told = by_subject(project(resources=str(tmp_path)))["ucf_qnrf/train"]
    assert told.verdict == "problem"
    assert told.found.startswith("mcnn: 1 of 1 training samples (a) have no points")
    assert "recount fetch" in told.advice


def test_suite_mini_needs_nothing_that_a_plain_machine_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SimpleNamespace(total=8e9, available=2e9)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: plain)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=20e9))
    found = by_subject(project(suite="mini", resources=str(tmp_path), results=str(tmp_path)))
    assert [finding for finding in found.values() if finding.verdict == "problem"] == []


def test_an_old_conda_and_partitions_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, answer in (("conda", '{"conda_version": "23.1.0"}'), ("sinfo", "gpu* 2 idle")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{answer}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = by_subject(project(suite="mini"))
    assert "24.7.1" in found["conda"].advice
    assert found["SLURM"].found == "gpu* 2 idle"


def test_where_nvidia_smi_and_pytorch_disagree_or_cards_are_too_few_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "0, GPU-aa, NVIDIA H200, 570.1, 143771"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    refused = by_subject(project(suite="mini"))["GPU"]  # PyTorch does not see it
    assert refused.verdict == "problem" and refused.found.startswith("not usable: nvidia-smi shows NVIDIA H200 (driver")
    assert "every job stops, but with device: cpu" in refused.advice
    assert by_subject(project(suite="mini", device="cpu"))["GPU"].verdict == "ok"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hidden = by_subject(project(suite="mini"))["GPU"]
    assert (hidden.verdict, hidden.advice) == ("missing", "unset it, or let it name a card")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert by_subject(project(suite="mini"))["GPU"].verdict == "ok"
    found = by_subject(project(suite="mini", gpus_per_job=2))["GPU"]
    assert (found.verdict, found.advice) == ("problem", "gpus_per_job is 2: set it to 1 or fewer")
    assert "NVIDIA H200 (143771 MB, driver 570.1)" in found.found


def test_the_plan_is_written_in_every_form(tmp_path: Path) -> None:
    runs = [planning.RunCost(("a",), "mcnn/rgb/seed0", 1.5, "measured", False)]
    found = planning.document(planning.Plan("paper", ["a"], None, {"train": 1}, runs, {"mcnn/x": "too long"}))
    for suffix in FORMATS:
        write(found, tmp_path / f"plan{suffix}")
        assert "1.5" in (tmp_path / f"plan{suffix}").read_text()
    assert "too long" in (tmp_path / "plan.md").read_text()
