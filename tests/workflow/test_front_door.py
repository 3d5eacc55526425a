"""Configuration, overriding, resources, and the ways in."""

import os
import re
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from house import EVERY_JOB, ROOT, Answer, House, snakemake

from projects import SETTINGS
from recount.planning import dry_run, plan
from recount.settings.base import ConfigError
from recount.settings.project import load

SUITES = sorted(path.stem for path in (ROOT / "suites").glob("*.yaml"))
TWO_CARDS = """#!/bin/sh
echo "0, GPU-aa, NVIDIA H200, 570.1, 143771"
echo "1, GPU-bb, NVIDIA H200, 570.1, 143771"
"""


def path_with_cards(folder: Path) -> str:
    """Return a PATH on which nvidia-smi knows of two cards."""
    program = folder / "nvidia-smi"
    program.write_text(TWO_CARDS)
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return os.pathsep.join([str(folder), os.environ["PATH"]])


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Return a folder with this repository's workflow and nothing made yet."""
    (tmp_path / "work").mkdir()
    for name in (*SETTINGS, "workflow", "profiles", "Snakefile"):
        (tmp_path / "work" / name).symlink_to(ROOT / name)
    return tmp_path / "work"


def dry(fresh: Path, *options: str) -> Answer:
    """Return what a dry run says."""
    answer = snakemake("--dry-run", *options, work=fresh, source=ROOT / "src", environment={})
    assert answer.code == 0, answer.text
    return answer


def jobs(answer: Answer) -> Counter[str]:
    """Return how many jobs of each rule a dry run names."""
    return Counter(re.findall(r"(?m)^(?:local)?rule (\w+):$", answer.text))


@pytest.mark.parametrize("suite", SUITES)
def test_dry_run_of_every_suite(suite: str, fresh: Path) -> None:
    answer = dry(fresh, "--config", f"suite={suite}")
    assert f"reports/{suite}" in answer.text
    assert jobs(answer)["report"] == 1


@pytest.mark.more
def test_a_paper_about_runs_of_another_adds_no_job(fresh: Path) -> None:
    both, one = (jobs(dry(fresh, "--config", f"papers=[{names}]")) for names in ("t2icount,text_counting", "t2icount"))
    assert both == one
    assert one["train"] > 0


def test_a_dry_run_is_short_and_counts_jobs_by_step_and_paper(fresh: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "--dry-run"]
    text = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=True).stderr
    assert len(text.splitlines()) <= 60
    head, *lines = text.partition("Jobs by step")[2].splitlines()[1:]
    project = load(fresh)
    assert re.split(r" {2,}", head.strip()) == [*project.papers, "in all"]
    told = {step: numbers for step, *numbers in (line.split() for line in lines)}
    assert {step: int(numbers[-1]) for step, numbers in told.items()} == {
        step: number for step, number in dry_run(fresh, {}).items() if step != "all"
    }
    costs = plan(project, {}, jobs=False).runs
    trained = [sum(name in run.papers for run in costs) for name in project.papers]
    assert [int(number) for number in told["train"][:-1]] == trained


def test_the_first_page_is_of_each_crowd_system_once_and_only_where_other_runs_come_later(fresh: Path) -> None:
    every, of_two_systems, of_two_seeds = (
        dry(fresh, "--config", *chosen)
        for chosen in (["suite=mini"], ["systems=[mcnn,dm_count]"], ["seeds=[0,1]", "papers=[gigacount,text_counting]"])
    )
    assert [jobs(answer)["so_far"] for answer in (every, of_two_systems, of_two_seeds)] == [1, 0, 1]
    runs = set(re.findall(r"predictions/crowd/test/(\w+)/(\w+)/seed0\.csv", described(every)["so_far"]))
    assert len({system for system, _ in runs}) == len(runs) == 10
    predictions = re.findall(r"results/mini/predictions/(\w+)/\S+/(seed\d)\.csv", described(of_two_seeds)["so_far"])
    assert set(predictions) == {("crowd", "seed0")}
    (fresh / "reports" / "mini").mkdir(parents=True)
    assert "so_far" not in jobs(dry(fresh))


@pytest.fixture
def hasty(house: House) -> House:
    """Return a house whose run of beta alone is of crowds, and comes first."""
    suite, benchmarks = house.work / "suites/mini.yaml", house.work / "benchmarks.yaml"
    suite.write_text(f"{suite.read_text()}first_page: crowd\n")
    benchmarks.write_text(benchmarks.read_text().replace("{title: Another test, kind: crowd", "{title: T, kind: text"))
    return house


def test_the_first_page_is_made_before_other_runs_begin(hasty: House) -> None:
    answer = hasty.snakemake("--cores", "1")
    assert answer.code == 0, answer.text
    calls = hasty.calls(in_order=True)
    first = calls.index("report --so-far")
    assert calls[:first] == ["fetch dots", "prepare dots original", "train beta/full/seed0",
                             "predict beta/full/seed0 ucf_qnrf/test"]  # fmt: skip
    assert hasty.run().code == 0
    assert hasty.calls() == []


def test_a_first_page_that_fails_costs_nothing_else(hasty: House) -> None:
    answer = hasty.run(FAIL="report --so-far")
    assert answer.code != 0
    assert hasty.calls() == sorted([*EVERY_JOB, "report --so-far"])
    assert "rule so_far" in answer.text
    assert hasty.run().code == 0
    assert hasty.calls() == []


def test_the_plan_has_the_jobs_of_the_dry_run_with_the_same_choices(fresh: Path) -> None:
    answer = dry(fresh, "--config", "suite=paper", "claims=[G2]", "seeds=[0,1]")
    assert dry_run(fresh, {"suite": "paper", "claims": ["G2"], "seeds": [0, 1]}) == jobs(answer)
    assert jobs(answer)["train"] == 4


def test_released_weights_alone_are_evaluated_with_what_they_need_and_nothing_is_trained(fresh: Path) -> None:
    answer = dry(fresh, "--config", "suite=paper", "runs=released")

    def made(pattern: str) -> set[str]:
        return set(re.findall(rf"(?m)^    output: {pattern}", answer.text))

    variants = {f"{s}/{v}": entry for s, e in load(fresh).experiments.items() for v, entry in e.variants.items()}
    assert made(r"results/paper/runs/(\S+)/seed0/run\.json") == {run for run, v in variants.items() if v.checkpoint}
    files = {entry.checkpoint for entry in variants.values() if entry.checkpoint}
    # of what systems start from, only the CLIP that CLIP-Count's and CrowdCLIP's files do not hold
    assert made(r"resources/weights/(\w+)/manifest\.json") == files | {"clip_vit_b16"}
    crowds = {"ucf_qnrf", "shanghaitech_a", "shanghaitech_b", "nwpu"}
    assert made(r"resources/raw/(\w+)/manifest\.json") == crowds | {"fsc147", "fsc147s", "carpk"}


def test_what_excludes_each_other_is_one_line(fresh: Path) -> None:
    with pytest.raises(ConfigError, match=r"^config\.yaml: no run is left: suite.* exclude each other$"):
        plan(load(fresh, {"suite": "mini", "runs": "released"}), {"suite": "mini", "runs": "released"})


def test_a_data_set_that_uses_pictures_of_another_waits_for_them(fresh: Path) -> None:
    answer = dry(fresh, "--config", "suite=paper", "--", "resources/data/fsc147s/original/index.csv")
    assert jobs(answer) == {"fetch": 2, "prepare": 1}


def test_drawn_benchmarks_of_a_run_are_one_job(house: House) -> None:
    path = house.source / "datasets" / "dots.py"
    path.write_text(path.read_text().replace("name, title", "embedded = True\n    name, title"))
    assert jobs(house.snakemake("--dry-run")).keys() >= {"predict_of_dots_test_dots_val", "predict_of_dots_test"}
    assert house.run().code == 0
    predicted = [call for call in house.calls() if call.startswith("predict alpha/full")]
    assert predicted == ["predict alpha/full/seed0 ucf_qnrf/test sha_a/test"]


def test_profiles_name_rules_that_there_are(fresh: Path) -> None:
    rules = jobs(dry(fresh, "--config", "suite=paper")).keys()
    for path in sorted((ROOT / "profiles").glob("*/config.yaml")):
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"(?m)^# {2,3}(\w+):$", text))  # below set-resources
        assert named <= rules, path
        assert named or path.parent.name != "slurm"


def test_lint_finds_nothing(house: House) -> None:
    answer = house.snakemake("--lint")
    assert answer.code == 0, answer.text


def test_unknown_key_is_one_line_with_file_and_key(house: House) -> None:
    answer = house.snakemake("--dry-run", "--config", "sede=3")
    assert answer.code != 0
    assert "config.yaml: sede = 3: no such key; the nearest is seeds" in answer.text.splitlines()


def test_wrong_value_says_what_is_allowed(house: House) -> None:
    answer = house.snakemake("--dry-run", "--config", "suite=medium", "device=gpu")
    lines = [line for line in answer.text.splitlines() if line.startswith("config.yaml:")]
    assert sorted(lines) == [
        "config.yaml: device = \"gpu\": Input should be 'auto', 'cpu' or 'cuda'",
        "config.yaml: suite = medium: there is no such suite; there are mini",
    ]


def test_overrides_reach_the_jobs(house: House) -> None:
    assert house.run("--config", "seeds=[3]", "systems=[beta]").code == 0
    assert house.calls() == [job.replace("seed0", "seed3") for job in EVERY_JOB if "alpha" not in job]


def test_pretrain_makes_all_tiny_models_each_time_it_is_asked_for(house: House) -> None:
    for _ in range(2):
        assert house.run("pretrain").code == 0
        assert house.calls() == ["pretrain mini_clip", "pretrain mini_sd", "pretrain mini_towers"]


def test_job_asks_for_a_card_where_there_is_one(house: House, tmp_path: Path) -> None:
    answer = house.snakemake("--dry-run", PATH=path_with_cards(tmp_path), CUDA_VISIBLE_DEVICES="0,1")
    assert "gpu=1" in answer.text


def test_training_by_several_cards_asks_for_them_with_their_memory_and_threads(house: House, tmp_path: Path) -> None:
    environment = {"PATH": path_with_cards(tmp_path), "CUDA_VISIBLE_DEVICES": "0,1"}
    answer = house.snakemake("--dry-run", "--cores", "4", "--config", "gpus_per_job=2", **environment)
    two = described(answer)
    assert "gpu=2" in two["train"] and "threads: 2" in two["train"]
    assert "gpu=1" in two["predict"]
    one = described(house.snakemake("--dry-run", "--cores", "4", **environment))
    memory = [int(re.findall(r"mem_mb=(\d+)", jobs["train"])[0]) for jobs in (one, two)]
    assert memory[1] == 2 * memory[0]


def described(answer: Answer) -> dict[str, str]:
    """Return what a dry run says of the last job of each rule."""
    return dict(re.findall(r"(?m)^rule (\w+):\n((?:    .*\n)+)", answer.text))


def test_job_asks_for_no_card_where_there_is_none(house: House, tmp_path: Path) -> None:
    answer = house.snakemake("--dry-run", PATH=path_with_cards(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert "gpu=1" not in answer.text


def test_device_cpu_asks_for_no_card(house: House, tmp_path: Path) -> None:
    environment = {"PATH": path_with_cards(tmp_path), "CUDA_VISIBLE_DEVICES": "0,1"}
    assert "gpu=1" not in house.snakemake("--dry-run", "--config", "device=cpu", **environment).text


def test_one_card_runs_one_job_at_a_time_unless_told_otherwise(house: House, tmp_path: Path) -> None:
    environment = {"PATH": path_with_cards(tmp_path), "CUDA_VISIBLE_DEVICES": "1"}
    assert "gpu=1" in provided(house.snakemake("--cores", "2", "--until", "fetch", **environment))
    assert "gpu=5" in provided(
        house.snakemake("--cores", "2", "--until", "prepare", "--resources", "gpu=5", **environment)
    )


def provided(answer: Answer) -> str:
    """Return the limits that Snakemake says it has."""
    line = next(line for line in answer.text.splitlines() if line.startswith("Provided resources:"))
    return re.sub(r'Resource\("\w+", (\d+)\)', r"\1", line)


def test_the_plan_counts_the_jobs_that_a_dry_run_has(house: House) -> None:
    answer = house.snakemake("--dry-run")
    assert jobs(answer) == {
        "fetch": 1, "prepare": 1, "train": 3, "predict": 5, "test_prompts": 1, "score": 1, "judge": 1,
        "report": 1, "all": 1,
    }  # fmt: skip
