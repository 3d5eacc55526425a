"""Learning rates, against the printed and computed rates of the released code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden_tools import golden_case
from recount.settings.recipe import Schedule
from recount.training.schedules import learning_rate, position_of, steps_of


@pytest.mark.parametrize("case", ["head", "eval_script_high", "log_30_epochs"])
def test_warmup_and_restarts_give_the_rates_of_the_released_scripts(case: str) -> None:
    """CLIP-EBC's are held by its own recipe (systems/test_clip_ebc.py), CounTX's by its (systems/test_countx.py)."""
    inputs, want = golden_case("gigacount", f"lr_schedule_{case}")
    schedule = Schedule(
        name="warmup_cosine_restarts",
        warmup=inputs["warmup_epochs"],
        initial_lr=inputs["warmup_lr"],
        minimum_lr=inputs["eta_min"],
        period=inputs["T_0"],
        period_factor=inputs["T_mult"],
    )
    for epoch, rate in want.items():
        assert learning_rate(schedule, inputs["base_lr"], int(epoch), 3000) == pytest.approx(rate, rel=1e-6)


def test_countclip_sawtooth_as_coded() -> None:
    inputs, want = golden_case("countclip", "scheduler_code_cycle5")
    schedule = Schedule(name="sawtooth", unit="step", period=5)
    steps = inputs["steps"]
    rates = [learning_rate(schedule, 1.0, step, steps) for step in range(steps)]
    assert rates[: len(want["relative_lr"])] == pytest.approx(want["relative_lr"], abs=1e-9)
    assert rates[-10:] == pytest.approx(want["last_ten"], abs=1e-9)
    assert sum(rates) / steps == pytest.approx(want["mean_over_all_steps"], abs=1e-4)


def test_countclip_warmup_cosine_as_the_paper_words_it() -> None:
    inputs, want = golden_case("countclip", "scheduler_paper_warmup_cosine")
    schedule = Schedule(name="warmup_cosine", unit="step", warmup=0.5)
    for step, rate in want["relative_lr"].items():
        assert learning_rate(schedule, 1.0, int(step), inputs["n_steps"]) == pytest.approx(rate, abs=1e-9)


def test_cosines_that_each_begin_at_half_the_rate_of_the_one_before() -> None:
    schedule = Schedule(name="decayed_cosine_restarts", period=100, factor=0.5, minimum_lr=0.1)
    rates = [learning_rate(schedule, 1.0, epoch, 600) for epoch in (0, 50, 99, 100, 200, 500)]
    assert rates == pytest.approx([1.0, 0.55, 0.1002, 0.5, 0.25, 0.03125], abs=1e-4)


def test_halving_every_hundred_epochs() -> None:
    schedule = Schedule(name="step", period=100, factor=0.5)
    assert [learning_rate(schedule, 8.0, epoch, 600) for epoch in (0, 99, 100, 599)] == [8.0, 8.0, 4.0, 0.25]


def test_milestones_and_linear_decay() -> None:
    at = Schedule(name="step_at", milestones=(3, 5), factor=0.1)
    assert [learning_rate(at, 1.0, epoch, 9) for epoch in (2, 3, 5)] == pytest.approx([1.0, 0.1, 0.01])
    assert learning_rate(Schedule(name="linear"), 1.0, 5, 10) == pytest.approx(0.5)


def test_positions_count_epochs_steps_or_fractions() -> None:
    units = {unit: Schedule(unit=unit) for unit in ("epoch", "step", "fraction")}
    assert [position_of(schedule, 2, 3, 4) for schedule in units.values()] == [2, 11, 2.75]
    assert steps_of(units["step"], 5, 4) == 20
    assert steps_of(units["fraction"], 5, 4) == 5


@given(st.integers(0, 5000), st.integers(1, 50), st.integers(1, 3))
def test_restarts_stay_between_the_minimum_and_the_base(epoch: int, period: int, factor: int) -> None:
    schedule = Schedule(name="warmup_cosine_restarts", period=period, period_factor=factor, minimum_lr=0.1)
    assert 0.1 <= learning_rate(schedule, 1.0, epoch, 5001) <= 1.0
