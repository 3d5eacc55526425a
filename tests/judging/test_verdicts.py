"""Rules: when a part holds, which scatter counts, how parts make a claim, what would have decided."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from recount.judging.scatter import pooled
from recount.judging.verdicts import (
    ALPHA,
    MIN_SEEDS,
    NOMINAL,
    SKEWED,
    Decision,
    Finding,
    Number,
    Pool,
    SeedArm,
    benjamini_hochberg,
    combine,
    decide,
    nominal_level,
    number_power,
    power,
    reaches,
    shortened,
    spread_of,
    with_needs,
)


def compared(effect: float, *spreads: tuple[float, ...], images: float = 0.01, n: int = 100, **more: object) -> Finding:
    """Return a comparison whose arms have these logs of their metric, one for each seed."""
    arms = tuple(SeedArm(f"a/{k}", logs, 1.0) for k, logs in enumerate(spreads))
    return Finding(effect, arms=arms, image_variance=images, n=n, **more)  # type: ignore[arg-type]


def around(sd: float, seeds: int) -> tuple[float, ...]:
    """Return logs with exactly this standard deviation."""
    values = np.arange(seeds) - (seeds - 1) / 2
    return tuple((sd * values / values.std(ddof=1)).tolist())


THREE = around(0.05, 3)


# --------------------------------------------------------------------------------------------------- one comparison


def test_interval_and_p_are_students_with_satterthwaites_degrees_of_freedom() -> None:
    finding = compared(0.4, THREE, THREE, images=0.004, n=50)
    seed = 0.05**2 * 2 / 3
    variance = seed + 0.004
    df = variance**2 / (seed**2 / 4 + 0.004**2 / 49)
    found = decide(finding)
    assert (found.df, found.seed_part) == pytest.approx((df, seed))
    half = stats.t.ppf(0.975, df) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((0.4 - half, 0.4 + half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.4 / math.sqrt(variance), df))
    assert found.decided == "holds"


def test_it_does_not_hold_on_the_other_side_and_is_undecided_between() -> None:
    assert decide(compared(-0.5, THREE, THREE)).decided == "does not hold"
    between = decide(compared(0.1, THREE, THREE))
    assert (between.decided, between.direction) == ("undecided", "for")
    assert "reaches both sides" in between.reason


def test_without_random_training_the_images_decide() -> None:
    assert decide(compared(0.5)).decided == "holds"
    assert decide(compared(0.5)).seed_part == 0


def test_one_seed_of_an_arm_leans_at_most() -> None:
    strong = replace(compared(5.0, THREE, (0.0,)), pool=Pool(0.001, 12, ("a/x",)))
    assert decide(strong).decided == "leans for"
    assert decide(replace(strong, effect=-5.0)).decided == "leans against"
    assert decide(replace(strong, effect=0.1)).decided == "undecided"
    assert "1 seed" in decide(strong).reason


def test_one_seed_leans_at_five_per_cent_on_one_side() -> None:
    finding = replace(compared(0.0, (0.0,), (0.0,), images=0.0), n=None, pool=Pool(0.01, 12, ("a/x",)))
    edge = stats.t.ppf(0.95, 12) * math.sqrt(0.02)
    assert decide(replace(finding, effect=1.01 * edge)).decided == "leans for"
    assert decide(replace(finding, effect=0.99 * edge)).decided == "undecided"


def test_two_seeds_decide_only_with_six_degrees_of_freedom_behind_their_spread() -> None:
    two = around(0.02, 2)
    assert decide(compared(2.0, two, two)).decided == "leans for"
    assert decide(replace(compared(2.0, two, two), pool=Pool(0.0008, 4, ("a/x",)))).decided == "holds"


def test_margins_and_two_sided_regions() -> None:
    assert decide(compared(0.5, THREE, THREE, region=(0.6, math.inf))).decided == "undecided"
    assert decide(compared(0.2, THREE, THREE, images=1e-5, region=(0.0, 0.4))).decided == "holds"
    assert decide(compared(0.9, THREE, THREE, images=1e-5, region=(0.0, 0.4))).decided == "does not hold"


def test_effect_exactly_at_the_limit_is_never_decided() -> None:
    nothing = compared(0.0, images=0.0)
    found = with_needs(nothing, decide(nothing))
    assert (found.decided, found.direction) == ("undecided", "")
    assert found.needed.startswith("no number would")


def test_one_image_has_no_interval() -> None:
    found = decide(compared(5.0, images=math.nan, n=1))
    assert (found.decided, found.reason) == ("undecided", "one image has no interval")


def test_share_of_an_arm_without_seeds_is_decided_by_its_own_interval() -> None:
    share = Finding(0.9, (0.5, math.inf), image_variance=0.01, n=40, interval=(0.77, 0.96))
    assert decide(share).decided == "holds"
    assert decide(replace(share, region=(0.8, math.inf))).decided == "undecided"


# ------------------------------------------------------------------------------------------------ scatter over seeds


def test_other_variants_join_only_if_the_own_arms_do_not_scatter_more() -> None:
    variance, df, p = pooled([0.008, 0.01, 0.002], 4, 0.01, 12)
    assert p == pytest.approx(stats.f.sf([0.8, 1, 0.2], 4, 12))
    assert (p > 0.5).tolist() == [True, False, True]
    assert df.tolist() == [16, 4, 16]
    assert variance.tolist() == pytest.approx([(4 * 0.008 + 0.12) / 16, 0.01, (4 * 0.002 + 12 * 0.01) / 16])


@pytest.mark.parametrize("calm", [3, 8])
def test_two_arms_need_not_scatter_alike(calm: int) -> None:
    own = compared(0.5, around(0.10, 3), around(0.01, calm)).own
    parts = 0.10**2 / 3, 0.01**2 / calm
    df = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / (calm - 1))
    assert (own.variance, own.df) == pytest.approx((sum(parts) / (1 / 3 + 1 / calm), df))
    shared = (2 * 0.01**2 + 7 * 0.10**2) / 9
    assert compared(0.5, around(0.01, 3), around(0.10, 8)).own.variance == pytest.approx(shared)  # the larger one


def test_scatter_of_arms_that_scatter_alike_and_of_one_arm_is_the_pooled_one() -> None:
    alike, alone = compared(0.5, THREE, THREE).own, compared(0.5, THREE, (0.0,)).own
    assert (alike.variance, alike.df) == pytest.approx((0.05**2, 4))
    assert (alone.variance, alone.df) == pytest.approx((0.05**2, 2))
    assert (compared(0.5, (0.0,)).own.variance, compared(0.5, (0.0,)).own.df) == (0, 0)


@pytest.mark.parametrize(("t", "g", "counts"), [(2.5, 0.1, 2.5), (-2.5, -0.1, -2.5), (0.0, 0.3, 0.0)])
def test_skewness_towards_the_effect_changes_nothing(t: float, g: float, counts: float) -> None:
    assert shortened(t, g) == counts


def test_skewness_against_the_effect_counts_as_halls_transformation() -> None:
    g = SKEWED * 0.1
    expected = 2.5 - g * 2.5**2 / 3 + g**2 * 2.5**3 / 27 - g / 6
    assert shortened(2.5, -0.1) == pytest.approx(expected)
    assert shortened(-2.5, 0.1) == pytest.approx(-expected)
    assert shortened(1.0, -9.0) >= 0
    found = decide(compared(0.26, THREE, THREE, images=0.01, image_third=-0.0005))
    assert (found.decided, found.low > 0) == ("undecided", True)
    assert "skewed" in found.reason


def test_where_the_spread_is_from_is_said() -> None:
    own = compared(0.5, THREE, THREE)
    assert "no other variant" in spread_of(own).source
    joined = spread_of(replace(own, pool=Pool(0.06**2, 12, ("a/x", "a/y"))))
    assert (joined.df, joined.f_p > 0.5) == (16, True)
    assert "2 other variants (a/x, a/y)" in joined.source
    apart = spread_of(replace(own, pool=Pool(0.005**2, 12, ("a/x",))))
    assert (apart.df, apart.variance) == (4, pytest.approx(0.05**2))
    assert "alone" in apart.source


def test_one_seed_takes_the_systems_spread_else_the_widest_here_else_an_assumed_one() -> None:
    one = compared(0.5, (0.0,), (0.0,))
    assert spread_of(replace(one, pool=Pool(0.04, 6, ("a/x",)))).variance == 0.04
    assert "b/y" in spread_of(replace(one, pool=Pool(widest=(0.09, 2, "b/y")))).source
    assert spread_of(one).variance == pytest.approx(0.01)
    assert "assumed" in spread_of(one).source


# ----------------------------------------------------------------------------------------------------- printed numbers


NO_POOL = Pool()


def number(*values: float, published: float = 11.76, pool: Pool = NO_POOL, **more: object) -> Finding:
    limits = tuple(math.log(published * factor) for factor in (0.9, 1.0, 1.1))
    asked = Number(published, 0.1 * published, limits, False, **more)  # type: ignore[arg-type]
    arm = SeedArm("a/b", tuple(math.log(value) for value in values), 1.0)
    return Finding(
        float(np.mean(values)) - published, (-math.inf, 1.176), "number", arms=(arm,), pool=pool, number=asked
    )


@pytest.mark.parametrize(
    ("values", "decided"),
    [
        ((11.6, 11.8, 12.0), "holds"),
        ((9.0, 9.1, 9.2), "holds"),
        ((15.5, 15.88, 16.2), "does not hold"),  # CounTX as printed, by 3 %
        ((16.6, 17.05, 17.5), "does not hold"),  # VLCounter
        ((14.6, 14.96, 15.3), "does not hold"),  # a user's failed reruns
        ((12.2, 13.0, 13.9), "undecided"),
        ((8.0, 14.0, 20.0), "undecided"),
        ((14.96,), "leans against"),
        ((12.8,), "undecided"),
        ((9.0,), "leans for"),
    ],
)
def test_number_is_reached_missed_or_open(values: tuple[float, ...], decided: str) -> None:
    assert decide(number(*values, pool=Pool(0.03**2, 12, ("a/x",)))).decided == decided


def test_reached_number_says_what_more_is_known() -> None:
    better, same = (decide(number(*values)) for values in ((9.0, 9.05, 9.1), (11.7, 11.76, 11.8)))
    assert "better than printed" in better.reason
    assert "equivalent" in same.reason
    assert "inside the prediction interval" in same.reason


def test_best_of_n_epochs_makes_a_printed_number_easier_to_have_been_printed() -> None:
    runs = (14.2, 14.3, 14.1, 14.25, 14.15)
    assert decide(number(*runs)).decided == "does not hold"
    pool = Pool(0.03**2, 12, ("a/x",))
    assert decide(number(14.2, pool=pool)).decided == "leans against"
    assert decide(number(14.2, pool=pool, best_of=10, epoch_sd=0.12)).decided == "undecided"
    chosen = number(*runs, best_of=10, epoch_sd=0.12)
    assert decide(chosen).decided == "undecided"
    assert number_power(chosen, 5) < 0.5 < number_power(number(*runs), 5)  # what would decide it knows of the choice


def test_best_of_n_epochs_is_not_missed_where_nobody_knows_how_epochs_scatter() -> None:
    found = decide(number(14.2, 14.3, 14.1, 14.25, 14.15, best_of=10))
    assert found.decided == "leans against"
    assert "the best of 10 epochs" in found.reason
    assert "after each epoch" in found.needed


def test_prediction_interval_of_the_best_of_n_epochs_is_that_of_simulated_runs() -> None:
    found = reaches(2.0, 0.04, 4, 5, (1.9, 2.0, 2.1), 0.05, best=(10, 0.3))
    rng = np.random.default_rng(0)
    epochs = rng.standard_normal((200_000, 10)).max(axis=1)
    runs = 2 + rng.standard_t(4, 200_000) * math.sqrt(0.04 * 1.2) - 0.3 * epochs
    ends = np.quantile(runs, (0.025, 0.975))
    assert (found.predicted_low, found.predicted_high) == pytest.approx(ends, abs=0.01)


def test_limit_and_prediction_interval_are_those_of_students_t() -> None:
    found = reaches(2.0, 0.04, 4, 5, (1.9, 2.0, 2.1), 0.05)
    error = math.sqrt(0.04 / 5)
    assert found.upper == pytest.approx(2 + stats.t.ppf(0.95, 4) * error)
    assert found.predicted_high == pytest.approx(2 + stats.t.ppf(0.975, 4) * math.sqrt(0.04 * 1.2))


# ------------------------------------------------------------------------------------------------- looks, needs, power


def test_more_looks_take_a_stricter_level_each() -> None:
    levels = [nominal_level(looks) for looks in range(1, 15)]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] == ALPHA == NOMINAL[0]
    assert levels[: len(NOMINAL)] == [*NOMINAL]
    assert decide(compared(0.22, THREE, THREE), looks=1).decided == "holds"
    assert decide(compared(0.22, THREE, THREE), looks=3).decided == "undecided"


def test_needed_seeds_reach_80_per_cent_and_one_step_less_does_not() -> None:
    finding = compared(0.1, around(0.1, 3), around(0.1, 3), images=1e-5)
    seeds = with_needs(finding, decide(finding)).needed_seeds
    assert seeds is not None
    assert seeds > MIN_SEEDS
    assert power(finding, seeds) >= 0.8
    assert power(finding, MIN_SEEDS) < 0.8


def test_benchmark_that_is_too_small_says_which_effects_it_can_decide() -> None:
    finding = compared(0.1, THREE, THREE, images=0.04, base=2.0)
    found = with_needs(finding, decide(finding))
    assert found.needed_seeds is None
    assert found.needed.startswith("it cannot be decided on this benchmark: with its 100 pictures, effects above")
    smallest = float(found.needed.partition("(")[2].partition(")")[0])
    assert power(replace(finding, effect=smallest), 30) == pytest.approx(0.8, abs=0.03)


def drawing_anew(anew: float, images: float) -> Finding:
    arms = tuple(SeedArm(name, THREE, 1.0, anew) for name in ("a/a", "a/b"))
    return Finding(0.3, arms=arms, image_variance=images, n=100)


def test_what_each_run_draws_anew_on_each_image_counts_once() -> None:
    seeds, once = 0.05**2 * 2 / 3, 0.0009 * 2 / 3
    found = decide(drawing_anew(0.0009, 0.002))
    assert (found.seed_part, found.image_part) == pytest.approx((seeds, 0.002 - once))
    more = 0.009 * 2 / 3  # than all that images and the runs' means show
    found = decide(drawing_anew(0.009, 0.002))
    assert (found.seed_part, found.image_part) == pytest.approx((more, 0))
    two = replace(drawing_anew(0.009, 0.002), arms=(SeedArm("a/a", (0.0, 0.1), 1.0, 0.009),) * 2)
    assert decide(two).df == pytest.approx(2)  # with two seeds it adds no degrees of freedom


@pytest.mark.parametrize(("anew", "joins"), [(0.009, True), (0.0026, True), (0.0024, False), (0.0, False)])
def test_what_runs_draw_anew_joins_the_own_arms_if_these_scatter_no_more(anew: float, joins: bool) -> None:
    """The own arms have 0.0025 with 4 degrees of freedom, the images 99; p > 0.4 up to F = 1.02."""
    found = spread_of(drawing_anew(anew, 0.02))
    assert (found.drawn_p > 0.4) == joins
    assert (found.variance, found.df) == pytest.approx(((0.01 + 99 * anew) / 103, 103) if joins else (0.0025, 4))
    assert ("draw anew" in found.source) == joins


def test_images_that_each_run_draws_anew_count_less_with_more_seeds() -> None:
    assert power(drawing_anew(0.03, 0.02), 20) > power(drawing_anew(0.0, 0.02), 20)


# ------------------------------------------------------------------------------------------ claims of several parts


def part(decided: str, p: float = 0.001) -> Decision:
    side = "against" if decided in ("does not hold", "leans against") else "for"
    return Decision(decided, side, level=0.05, p_value=p)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "together"),
    [
        ((part("holds"), part("holds", 0.04)), "holds"),
        ((part("holds"), part("leans for", 0.08)), "leans for"),
        ((part("holds"), part("undecided", 0.3)), "undecided"),
        ((part("holds"), Decision("not tested")), "undecided"),
        ((part("holds"), part("does not hold", 0.001)), "does not hold"),
        ((part("holds"), part("holds"), part("does not hold", 0.02)), "leans against"),  # 0.06 after Holm over three
        ((part("does not hold", 0.001), Decision("not tested")), "does not hold"),
        ((Decision("not tested"), Decision("not tested")), "not tested"),
    ],
)
def test_claim_holds_if_every_part_does_and_falls_with_one_after_holm(
    parts: tuple[Decision, ...], together: str
) -> None:
    if parts[-1].p_value == 0.02:  # Holm multiplies the smallest of three p values by three
        assert 3 * 0.02 > 0.05
    assert combine(parts).decided == together


def test_untested_parts_are_counted() -> None:
    assert "1 of 2 parts could be tested" in combine([part("holds"), Decision("not tested")]).reason


def test_claim_needs_what_its_hardest_part_needs() -> None:
    parts = [replace(part("undecided"), needed=f"{k} seeds", needed_seeds=k) for k in (5, 12)]
    assert combine(parts).needed_seeds == 12
    assert combine([*parts, replace(part("undecided"), needed="it cannot")]).needed == "it cannot"


def test_q_values_are_benjamini_and_hochbergs_and_leave_nan_out() -> None:
    q = benjamini_hochberg([0.01, math.nan, 0.04, 0.03])
    assert q[[0, 2, 3]] == pytest.approx([0.03, 0.04, 0.04])
    assert math.isnan(q[1])
