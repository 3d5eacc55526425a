"""What an evaluation holds of the pictures behind it: what it stores, and nothing else. Counted in bytes of tensors."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from records import save_run
from recount.data.sample import Sample
from recount.prediction.predict import MAP_CELLS, predict_run
from recount.settings.base import Strict
from recount.systems.base import Prediction
from recount.training.processes import Processes
from recount.training.selection import evaluate
from small_project import let_good_be
from small_systems import OnlyPredicts

SIDE = 2 * MAP_CELLS  # of the pictures; a density is stored at half of it, in half precision
STORED = 2 * MAP_CELLS**2  # bytes of a stored density


def live_bytes() -> int:
    """Return the bytes of all tensors that something refers to."""
    found = {}
    for item in gc.get_objects():
        if type(item) is Tensor:
            found[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
    return sum(found.values())


class Big(OnlyPredicts):
    """Density and two further maps in the resolution of the picture; notes what is alive when it is asked."""

    Settings = Strict

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def predict(self, images: Tensor, prompts: list[str]) -> Prediction:
        seen.append(live_bytes())
        density = self.weight * images[:, :1] / 1000
        return Prediction(density=density, maps={"attention": density + 1, "similarity": density + 2})


class Pictures:
    """A pool of white pictures."""

    def __init__(self, number: int) -> None:
        points = np.zeros((0, 2), np.float32)
        self.samples = [Sample(f"s{k}", "test", Path(f"s{k}.png"), points, 1, "", SIDE, SIDE) for k in range(number)]

    def image(self, index: int) -> Tensor:
        """Return a new picture."""
        return torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8)


seen: list[int] = []


def predicted_run(pool: Pictures, folder: Path) -> None:
    state = Big(Strict()).state_dict()
    moved = {key: value + 1 for key, value in state.items()}
    save_run(folder / "run", "good/full/seed0", {"last": state, "best_on_test": moved})
    predict_run(folder / "run", pool.samples, folder / "p.csv", lambda _: pool.image(0), maps=folder / "maps.npz")


def evaluated(pool: Pictures, folder: Path) -> None:
    evaluate(Big(Strict()), pool, torch.device("cpu"), "fp32", Processes())


@pytest.mark.parametrize(("evaluation", "per_picture"), [(predicted_run, STORED), (evaluated, 0)])
def test_no_more_is_held_of_a_picture_than_is_stored_of_it(
    evaluation: Callable[..., None], per_picture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_good_be(Big, monkeypatch)
    growth = []
    for number in (8, 24):
        seen.clear()
        gc.collect()
        evaluation(Pictures(number), tmp_path / str(number))
        growth.append(max(seen) - seen[0])
    assert growth[1] - growth[0] <= (24 - 8) * per_picture * 1.05
