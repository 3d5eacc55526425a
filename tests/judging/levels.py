"""The level of each look at which so many looks together decide 5 % of the claims without an effect: ``NOMINAL``.

Two arms on the same images, judged at 3, 5, 8, ... seeds of the same runs, by the functions that judge. Looks err most
where seeds alone scatter, for shared images bind the looks together; and where others join at one look and not at the
next. ``python tests/judging/levels.py`` prints, for each world and number of looks, the level that keeps 5 %.
"""

import numpy as np

from recount.judging.scatter import own_scatter, pooled, welch
from recount.judging.verdicts import p_of
from recount.metrics import Floats

SEEDS = (3, 5, 8, 12, 16, 20, 25, 30)
#: degrees of freedom of the pool, scatter of the own arms over that of the pool
WORLDS = [(0, 1.0), (12, 1.0), (12, 1.5), (12, 2.0), (12, 3.0), (40, 2.0)]


def smallest_p(pool: int, scatter: float, images: float, draws: int, n: int = 100) -> Floats:
    """Return the smallest p up to each look [looks, draws]; ``images``: their variance over that of one seed."""
    rng = np.random.default_rng(1)
    arms = scatter * rng.standard_normal((2, draws, SEEDS[-1]))
    apart = scatter * np.sqrt(images) * rng.standard_normal(draws)
    seen = images * scatter**2 * rng.chisquare(n - 1, draws) / (n - 1)
    others = rng.chisquare(pool, draws) / pool if pool else np.zeros(draws)
    found, smallest = [], np.ones(draws)
    for k in SEEDS:
        own = own_scatter(arms[:, :, :k].var(axis=2, ddof=1), (k, k), (1, 1))
        variance, df, _ = pooled(own.variance, own.df, others, pool)
        total, df = welch(2 * variance / k, df, seen, n - 1)
        distance = arms[0, :, :k].mean(axis=1) - arms[1, :, :k].mean(axis=1) + apart
        smallest = np.minimum(smallest, p_of(distance, total, df))
        found.append(smallest)
    return np.array(found)


if __name__ == "__main__":
    for pool, scatter in WORLDS:
        for images in (0.0, 0.1, 0.3):
            levels = np.quantile(smallest_p(pool, scatter, images, 60_000), 0.05, axis=1)
            print(f"pool of {pool}, scatter {scatter}, images {images}:", *levels.round(4))
