"""What power at three seeds costs in size: other rules for the scatter over seeds, on the same simulated numbers.

``python tests/judging/frontier.py`` writes the table between its marks in docs/verdicts.md, in a minute: arrays instead
of files, tens of thousands of papers. Size: seeds alone scatter, where every rule errs most, and where what runs draw
anew explains part of it. Power: the model of ``simulated.py`` (normal errors drawn anew, log-normal pictures).
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from scipy import special
from simulate import write_between

from recount.judging.scatter import DRAWN_ABOVE, POOLS_ABOVE, counted_once, own_scatter, pooled, welch
from recount.judging.verdicts import ALPHA, p_of
from recount.metrics import Floats

BEGIN, END = "<!-- frontier: begin -->", "<!-- frontier: end -->"
POOL_SEEDS, NULLS, PAPERS, BATCH = 13, 20_000, 4_000, 100
POWER = [(effect, sd, n) for effect, sd in ((0.2, 0.03), (0.1, 0.03), (0.2, 0.1)) for n in (334, 1190)]
#: p of a two-sided F test between the arms below which each has its own variance; above which p others join; and what
#: is drawn anew
RULES = {
    "these rules (2.4)": (2.0, POOLS_ABOVE, DRAWN_ABOVE),
    "without what is drawn anew (2.3)": (2.0, POOLS_ABOVE, 1.0),
    "Welch if the arms' F test has p < 0.2": (0.2, POOLS_ABOVE, 1.0),
    "Welch if the arms' F test has p < 0.1": (0.1, POOLS_ABOVE, 1.0),
    "one variance for equal seeds (2.2)": (0.0, POOLS_ABOVE, 1.0),
    "these rules, others join at p > 0.35": (2.0, 0.35, DRAWN_ABOVE),
    "one variance, others join at p > 0.2": (0.0, 0.2, 1.0),
}


def runs(
    rng: np.random.Generator, effect: float, sds: tuple[float, float, float], k: tuple[int, int], n: int
) -> Floats:
    """Return a batch of papers [6, BATCH]: effect, s² of both arms and of the pool, images, what is drawn anew."""
    hard = np.exp(1.3 * rng.standard_normal((BATCH, 1, n)))
    arms = []
    for level, sd, seeds in ((1 - effect, sds[0], k[0]), (1.0, sds[1], k[1]), (1.0, sds[2], POOL_SEEDS)):
        scatter = np.exp(sd * rng.standard_normal((BATCH, seeds, 1)))
        arms.append(level * hard * scatter * np.abs(rng.standard_normal((BATCH, seeds, n))))
    means = [arm.mean(axis=2) for arm in arms]
    anew = [(a - m[:, :, None]).var(axis=1, ddof=1).sum(axis=1) / (n * (n - 1)) / a.shape[1]
            for a, m in zip(arms[:2], means, strict=False)]  # fmt: skip
    images = (arms[1].mean(axis=1) - arms[0].mean(axis=1)).var(axis=1, ddof=1) / n
    levels = [m.mean(axis=1) for m in means]
    s2 = [np.log(m).var(axis=1, ddof=1) for m in means]
    weight = (levels[0] ** 2 / k[0] + levels[1] ** 2 / k[1]) / (1 / k[0] + 1 / k[1])  # of a log, in the effect's units
    own = levels[0] ** 2 * s2[0], levels[1] ** 2 * s2[1]
    return np.array([levels[1] - levels[0], *own, weight * s2[2], images, sum(anew)])


def alone(rng: np.random.Generator, sds: tuple[float, float, float], k: tuple[int, int], pool: bool) -> Floats:
    """Return ``NULLS`` papers [6, NULLS] like those of ``runs`` where nothing but seeds scatters."""
    s2 = [sd**2 * rng.chisquare(m - 1, NULLS) / (m - 1) for sd, m in zip(sds, (*k, POOL_SEEDS), strict=True)]
    effect = rng.standard_normal(NULLS) * np.sqrt(sds[0] ** 2 / k[0] + sds[1] ** 2 / k[1])
    return np.array([effect, s2[0], s2[1], s2[2] * pool, np.zeros(NULLS), np.zeros(NULLS)])


def decided(rule: tuple[float, float, float], drawn: Floats, k: tuple[int, int], n: int = 100) -> Floats:
    """Return effect where a rule decides, else 0 [papers]; skewness is left out."""
    apart, joins, anew_joins = rule
    effect, one, two, others, images, anew = drawn
    own = own_scatter(np.array([one, two]), k, (1.0, 1.0))
    tail = special.fdtr(k[0] - 1, k[1] - 1, one / two)
    df = np.where(2 * np.minimum(tail, 1 - tail) < apart, own.df, own.shared_df)
    weight = 1 / k[0] + 1 / k[1]
    variance, df, _ = pooled(own.variance, df, anew / weight, np.where(anew > 0, n - 1, 0), anew_joins)
    variance, df, _ = pooled(variance, df, others, np.where(others > 0, POOL_SEEDS - 1, 0), joins)
    seeds, images = counted_once(variance * weight, images, anew)
    total, df = welch(seeds, df, images, n - 1)
    found: Floats = np.where(p_of(effect, total, df) <= ALPHA, effect, 0.0)
    return found


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    rng = np.random.default_rng(1)
    sizes: dict[str, list[tuple[Floats, tuple[int, int], int]]] = {"3 and 3": [], "5 and 5": [], "3 and 8": []}
    for (name, found), unlike, scatter in product(sizes.items(), (1, 2, 3, 5, 10), (0.6, 1, 2)):
        k = (int(name[0]), int(name[-1]))
        for pool in (False, True):
            found.append((alone(rng, (scatter * unlike, scatter, 1.0), k, pool), k, 100))
    for unlike, sd in product((1, 2, 5), (0.03, 0.1, 0.2)):
        batch = [runs(rng, 0.0, (sd * unlike, sd, sd), (3, 3), 100) for _ in range(NULLS // BATCH // 4)]
        sizes["3 and 3"].append((np.concatenate(batch, axis=1), (3, 3), 100))
    strong = [
        np.concatenate([runs(rng, effect, (sd, sd, sd), (3, 3), n) for _ in range(PAPERS // BATCH)], axis=1)
        for effect, sd, n in POWER
    ]
    heads = [f"size, {name} seeds" for name in sizes] + [f"{e:.0%}, ± {sd:.0%}, {n}" for e, sd, n in POWER]
    yield f"| rule | {' | '.join(heads)} |"
    yield "|---" * (1 + len(heads)) + "|"
    for name, rule in RULES.items():
        worst = [max((decided(rule, *cell) != 0).mean() for cell in cells) for cells in sizes.values()]
        power = [(decided(rule, drawn, (3, 3), n) > 0).mean() for drawn, (_, _, n) in zip(strong, POWER, strict=True)]
        yield f"| {name} | {' | '.join(f'{share:.1%}' for share in (*worst, *power))} |"
    printed = " | ".join(f"{share}%" for share in (58, 92, 12, 36, 33, 53))
    yield f"| printed by the trial | | | | {printed} |"


if __name__ == "__main__":
    lines = "\n".join(table())
    print(lines)
    write_between(BEGIN, END, lines)
