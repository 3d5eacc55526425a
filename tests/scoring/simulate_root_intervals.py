"""``make simulate``: how often each interval of an RMSE covers the truth, where 95 % is said: root_intervals.tsv."""

import numpy as np

from recount.scoring.root_intervals import METHODS, TABLE, resampled


def coverages(images: int, log_sd: float, sets: int = 500, resamples: int = 400) -> dict[str, float]:
    """Return the share of simulated sets whose interval holds the true RMSE, by method."""
    rng, truth = np.random.default_rng([images, int(100 * log_sd)]), np.exp(log_sd**2)
    inside = dict.fromkeys(METHODS, 0)
    for _ in range(sets):
        squares = np.exp(2 * log_sd * rng.standard_normal(images))
        drawn = resampled(squares, resamples, rng)
        for name, method in METHODS.items():
            low, high = method(squares, drawn)
            inside[name] += low <= truth <= high
    return {name: hits / sets for name, hits in inside.items()}


def main() -> None:
    """Write the table."""
    lines = ["images\tlog_sd\tmethod\tcoverage"]
    for images in (20, 40, 80, 180, 334, 1000):
        for log_sd in (0.3, 0.6, 0.9, 1.2, 1.5, 1.8):
            found = coverages(images, log_sd)
            lines += [f"{images}\t{log_sd}\t{name}\t{share:.3f}" for name, share in found.items()]
            print(images, log_sd, found, flush=True)
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
