"""Settings that are marked as reading: they change how a trained model is read or prompted, and no training."""

from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from test_system_contract import two_pictures
from torch import Tensor

from recount import systems
from small_systems import batch_of, mini


def marked() -> list[tuple[str, str]]:
    return [
        (name, key)
        for name in systems.names()
        for key, field in systems.load(name).Settings.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("reading")
    ]


def other_value(name: str, key: str) -> Any:
    """Return a value of a setting that is not its default."""
    field = systems.load(name).Settings.model_fields[key]
    if isinstance(field.default, bool):
        return not field.default
    kinds = (field.annotation, *get_args(field.annotation))
    literals = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    return next((value for value in reversed(literals) if value != field.default), None)


def trained(name: str, **changes: Any) -> dict[str, Tensor]:
    """Return losses and gradients of one step from a seed."""
    system, pool = mini(systems.load(name), **changes).train(), two_pictures()
    system.prepare_training(pool.samples)
    system.begin_stage(system.stages(system.recipe)[-1])
    system.begin_epoch(100, pool.samples)
    terms = system.losses(batch_of(system, pool, (0, 1)))
    torch.stack(list(terms.values())).sum().backward()
    gradients = {key: value.grad for key, value in system.named_parameters() if value.grad is not None}
    return {**terms, **gradients}


def test_the_settings_of_released_evaluations_are_marked() -> None:
    assert {("vlcounter", "carpk_cell_rule"), ("countx", "test_text"), ("countclip", "eval_dtype")} <= set(marked())


@pytest.mark.parametrize(("name", "key"), marked())
def test_a_setting_that_only_reads_changes_no_loss_and_no_gradient(name: str, key: str) -> None:
    plain, other = trained(name), trained(name, **{key: other_value(name, key)})
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[term], other[term]) for term in plain)
