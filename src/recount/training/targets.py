"""Whether the targets of a batch are what its samples' counts promise."""

from recount.systems.base import Batch

TARGETS = ("density", "blocks")  # maps of a batch that sum to its counts
MERGED = 0.5  # share of a crop's heads that may vanish where heads of one pixel count once (dense crowds, zoomed out)
ROUNDING = 0.02


def target_sums(batch: Batch) -> list[float]:
    """Return what each example's target sums to: its map, or where a system learns counts, its count."""
    maps = [batch.maps[name] for name in TARGETS if name in batch.maps]
    return (maps[0].double().flatten(1).sum(dim=1) if maps else batch.counts).tolist()


def unlike(target: float, count: float) -> bool:
    """Return whether a target sums to more than its count, or to so much less that merged heads do not explain it."""
    return not (MERGED * count - 0.5 <= target <= (1 + ROUNDING) * count + 0.5)
