"""What a run is trained on and what is kept from it, and what its state is made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_system import TinySystem

from recount import provenance
from recount.data.sample import NO_POINTS, Sample
from recount.settings.recipe import Recipe
from recount.training import run as training
from small_project import let_good_be, make_project, write_index


def test_held_out_samples_are_not_trained_on_and_each_seed_draws_others(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=[0, 1, 2])
    write_index(tmp_path, [(f"t{k}", "train", float(k)) for k in range(20)])
    drawn = set()
    for seed in range(3):
        run, recipe = project.run("good", "full", seed), Recipe(evaluate_every=1, held_out=0.25)
        trained, watched = training._samples(project, run, recipe)
        held_out = watched["held_out"]
        assert len(held_out) == 5
        assert sorted(s.id for s in [*trained, *held_out]) == sorted(f"t{k}" for k in range(20))
        drawn.add(tuple(s.id for s in held_out))
    assert len(drawn) == 3


def test_the_pools_of_a_run_share_its_memory_for_pictures(tmp_path: Path) -> None:
    def of(name: str) -> list[Sample]:
        return [Sample(f"{name}{k}", "", tmp_path / f"{name}{k}.png", NO_POINTS, 0, "", 1000, 1000) for k in range(4)]

    pools: dict[str, Any] = training._pools({"": of("train"), "test": of("test"), "held_out": of("held")}, 20)
    assert {name: pool.planned_mb for name, pool in pools.items()} == {"": 12, "test": 6, "held_out": 0}  # 3 MB each


@pytest.mark.parametrize("changed", ["code", "packages", "data", "recipe", "run"])
def test_a_state_is_made_from_code_packages_data_recipe_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    let_good_be(TinySystem, monkeypatch)
    project = make_project(tmp_path, seeds=[0, 1])

    def made_from(recipe: Recipe, data: Mapping[str, str], seed: int) -> str:
        return training._made_from(project, project.run("good", "full", seed), recipe, data)

    before = made_from(Recipe(), {"a": "1"}, 0)
    assert made_from(Recipe(), {"a": "1"}, 0) == before
    if changed == "code":
        monkeypatch.setattr(provenance, "step_digest", lambda *_: "other")
    if changed == "packages":
        monkeypatch.setattr(provenance, "computing_packages", lambda: {"torch": "0"})
    recipe, data = Recipe(epochs=2 if changed == "recipe" else 1), {"a": "2" if changed == "data" else "1"}
    assert made_from(recipe, data, int(changed == "run")) != before
