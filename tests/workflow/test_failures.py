"""What a failed job leaves behind: the rest of the results, the report of what there is, and a run that goes on."""

from pathlib import Path

import pytest
import yaml
from house import EVERY_JOB, ROOT, House

PROFILE = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text(encoding="utf-8"))
FAILING = "train alpha/small"


@pytest.fixture(scope="module")
def broken_house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Return a copy where one training run has failed."""
    house = House(tmp_path_factory.mktemp("house"))
    house.answer = house.run(FAIL=FAILING)
    return house


def test_failed_job_makes_the_whole_fail_and_shows_its_log(broken_house: House) -> None:
    assert broken_house.answer.code != 0
    assert "loss is not finite at step 7" in broken_house.answer.text


@pytest.mark.parametrize("quiet", [PROFILE["quiet"], ["rules", "progress"]])
def test_a_quiet_run_tells_its_failures_too_once_and_in_snakemakes_log(house: House, quiet: list[str]) -> None:
    answer = house.run("--quiet", *quiet, FAIL=FAILING)
    logs = [Path(place).read_text() for place in (house.work / ".snakemake/log").glob("*.log")]
    assert [text.count("loss is not finite at step 7") for text in [answer.text, *logs]] == [1, 1]
    assert "rule train_of" not in answer.text.replace("Error in rule train_of", "")  # the other jobs' starts


def test_a_wholly_quiet_run_tells_nothing(house: House) -> None:
    answer = house.run("--quiet", "all", FAIL=FAILING)
    assert answer.code != 0
    assert "loss is not finite" not in answer.text


def test_other_jobs_go_on(broken_house: House) -> None:
    predictions = (broken_house.work / "results/mini/predictions").rglob("*.csv")
    assert len(list(predictions)) == 3


def test_report_is_written_from_what_exists(broken_house: House) -> None:
    page = (broken_house.work / "reports/mini/index.html").read_text()
    assert "alpha/full" in page
    assert "alpha/small" not in page
    assert f"{(broken_house.work / 'reports/mini/index.html').as_uri()}" in broken_house.answer.text


def test_report_of_what_exists_is_made_by_the_recount_beside_the_workflow_not_by_an_installed_one(house: House) -> None:
    house.add('\ndel os.environ["PYTHONPATH"]\n')
    answer = house.run(FAIL=FAILING)
    assert "failed too" not in answer.text
    assert {"score", "judge", "report"} <= set(house.calls())


def test_log_of_the_failed_job_stands_where_the_report_looks_for_it(broken_house: House) -> None:
    log = broken_house.work / "logs/mini/train/alpha/small/seed0.log"
    assert "loss is not finite at step 7" in log.read_text()


def test_next_run_goes_on_and_renews_the_report(broken_house: House) -> None:
    broken_house.calls()
    answer = broken_house.run()
    assert answer.code == 0, answer.text
    assert broken_house.calls() == [
        job for job in EVERY_JOB if "alpha/small" in job or job in ("judge", "report", "score")
    ]
    assert "alpha/small" in (broken_house.work / "reports/mini/index.html").read_text()


def test_report_is_renewed_when_the_failed_variant_is_given_up(house: House) -> None:
    house.run(FAIL=FAILING)
    paper = house.work / "papers/demo/paper.yaml"
    paper.write_text(paper.read_text().replace("alpha/small, ", ""))
    house.calls()
    assert house.run().code == 0
    assert house.calls() == ["judge", "report", "score"]


def test_report_that_fails_too_is_said_with_its_log(house: House) -> None:
    answer = house.run(FAIL="report")
    assert answer.code != 0
    assert "logs/mini/report/report_after_failure.log" in answer.text


def test_a_benchmark_that_fails_costs_its_own_predictions_only(house: House) -> None:
    answer = house.run(FAIL="predict alpha/full/seed0/sha_a/test")
    assert answer.code != 0
    predictions = {path.relative_to(house.work / "results/mini/predictions") for path in house.work.rglob("seed0.csv")}
    assert {str(path) for path in predictions} == {
        *("dots/test/alpha/full/seed0.csv", "dots/test/alpha/small/seed0.csv", "dots/val/alpha/small/seed0.csv"),
        "dots/test/beta/full/seed0.csv",
    }
    assert "alpha/full" in (house.work / "reports/mini/index.html").read_text()
