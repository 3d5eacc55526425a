"""Snakemake's own waiting, where it would have no end or cost a core: what the workflow mends of it."""

import pytest
from house import EVERY_JOB, House

LOCKED = """

class Watched(logging.Handler):
    def filter(self, record):
        return get_event(record) != LogEvent.JOB_ERROR

    def emit(self, record):
        if get_event(record) == LogEvent.JOB_ERROR:
            Path("locked.txt").write_text(str(self.lock._is_owned()))


logger.addHandler(Watched())
"""


def test_a_failure_is_told_under_each_handlers_lock_or_two_threads_would_wait_for_each_other(house: House) -> None:
    house.add(LOCKED)
    house.run(FAIL="train alpha/small")
    assert (house.work / "locked.txt").read_text() == "True"


TOLD_TO_END = """

import snakemake.scheduling.job_scheduler as scheduling

select = scheduling.JobScheduler.update_available_resources


def ended(scheduler, jobs):
    os.kill(os.getpid(), signal.SIGTERM)
    select(scheduler, jobs)


scheduling.JobScheduler.update_available_resources = ended
"""


def test_sigterm_ends_a_workflow_also_while_it_selects_jobs(house: House) -> None:
    house.add(TOLD_TO_END)
    answer = house.run("--quiet", "host")
    assert answer.code != 0
    assert "Will exit after finishing currently running jobs" in answer.text
    assert 0 < len(house.calls()) < len(EVERY_JOB)


COUNTED = """

class Counted(threading.Timer):
    def start(self):
        with open("timers.txt", "a") as stream:
            print(self.interval, file=stream)
        super().start()


threading.Timer = Counted
"""


@pytest.mark.parametrize("limit", [None, "4/1s"])
def test_jobs_are_selected_again_by_the_clock_only_where_their_number_per_second_held_some_back(
    house: House, limit: str | None
) -> None:
    house.add(COUNTED)
    answer = house.run(*(("--max-jobs-per-timespan", limit) if limit else ()))
    assert answer.code == 0, answer.text
    assert house.calls() == EVERY_JOB
    assert (house.work / "timers.txt").exists() == (limit is not None)
