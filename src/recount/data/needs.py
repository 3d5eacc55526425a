"""What a training needs of its samples, checked before it starts: no system learns targets that nobody gave it.

A system says on its class what its targets are made from (``System.needs``). A data set that has counts alone passes
every other check, and would teach zeros for days.
"""

from collections.abc import Callable, Collection, Sequence

from recount.data.dataset import HOW_TO_GET_PICTURES, DataError, Dataset
from recount.data.sample import Need, Sample

READY_MAP = "density_map"  # the attribute that names a sample's ready density map
SHOWN = 5  # ids in a message


def has_ready_map(sample: Sample) -> bool:
    """Return whether the data set has a ready density map of a sample."""
    return READY_MAP in sample.attributes


def _lacks_points(sample: Sample) -> bool:
    return len(sample.points) != sample.count  # also where the count is NaN, because nobody may know it


_LACKS: dict[Need, tuple[Callable[[Sample], bool], str]] = {
    "points": (_lacks_points, "no points, or not as many as their count, and its targets are made from points"),
    "density": (
        lambda sample: not has_ready_map(sample) and _lacks_points(sample),
        "neither a ready density map nor as many points as their count, of which its targets are made",
    ),
    "boxes": (lambda sample: sample.boxes is None, "no boxes"),
    "prompts": (lambda sample: not sample.prompt.strip(), "no prompt or caption"),
}


def unmet(dataset: Dataset, needs: Collection[Need]) -> list[Need]:
    """Return what a training needs and no sample of a data set has; maps are made of points where none are ready."""
    gives = dataset.gives | ({"density"} if "points" in dataset.gives else set())
    return sorted(set(needs) - gives)


def check_needs(samples: Sequence[Sample], needs: Collection[Need], who: str) -> None:
    """Raise ``DataError``, a line for each need of ``who`` that samples do not meet, with their ids and what to do."""
    problems = []
    for need in sorted(needs):
        lacks, what = _LACKS[need]
        lacking = [sample.id for sample in samples if lacks(sample)]
        if lacking:
            problems.append(f"{who}: {len(lacking)} of {len(samples)} training samples ({_some(lacking)}) have {what}")
    if "density" in needs:
        without = [sample.id for sample in samples if not has_ready_map(sample)]
        if 0 < len(without) < len(samples):
            problems.append(
                f"{who}: {len(without)} of {len(samples)} training samples ({_some(without)}) lack the ready density "
                "map that the others have; two kernels would be mixed: complete the folder of maps, or remove it, and "
                "prepare the data set again"
            )
    if problems:
        raise DataError("\n".join([*problems, f"{HOW_TO_GET_PICTURES} (points and maps come the same way)"]))


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "")
