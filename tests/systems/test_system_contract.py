"""What every system promises, at its mini size, on pictures made up here."""

import re
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recount import systems
from recount.settings.base import Strict
from recount.systems.base import Batch, Stage, System
from recount.training.batch_norm import batch_norms
from recount.training.parts import weight_of_part
from small_systems import batch_of, loss_of
from tiny_pool import TinyPool

WIDTH, HEIGHT = 160, 128
PROMPTS = ["three red circles", "six blue stars"]  # words that every tiny text tower knows


def two_pictures() -> TinyPool:
    """Return noisy pictures with three and six bright dots."""
    rng = np.random.default_rng(0)
    return TinyPool([(HEIGHT, WIDTH)] * 2, [rng.uniform(0, (WIDTH, HEIGHT), (number, 2)) for number in (3, 6)], PROMPTS)


@cache
def settings_of(name: str) -> Strict:
    system = systems.load(name)
    return system.Settings.model_validate(system.mini_settings())


def build(name: str) -> System:
    torch.manual_seed(0)
    system = systems.load(name)(settings_of(name))
    system.prepare_training(two_pictures().samples)
    return system


def images_of(system: System) -> Tensor:
    windows = system.windows
    height, width = (windows.height, windows.width) if windows else (HEIGHT, WIDTH)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, height, width, generator=generator)
    return images if windows else torch.stack([system.prepare_image(image) for image in images])


@pytest.mark.parametrize("name", systems.names())
def test_every_stage_has_a_finite_loss_with_gradients(name: str) -> None:
    system = build(name)
    if not system.trains:
        pytest.skip("nothing to train")
    pool = two_pictures()
    for stage in system.stages(system.recipe):
        system.train()
        system.begin_stage(stage)
        system.begin_epoch(0, pool.samples)
        loss = loss_of(system, batch_of(system, pool, (0, 1)))
        assert torch.isfinite(loss), stage.name
        loss.backward()
        gradients = [p.grad for group in system.parameter_groups(stage.recipe) for p in group["params"]]
        present = [gradient for gradient in gradients if gradient is not None]
        assert present, f"{stage.name}: no parameter gets a gradient"
        assert all(torch.isfinite(gradient).all() for gradient in present)
        assert any(gradient.abs().sum() > 0 for gradient in present)


def made(name: str, *, pointless: bool) -> list[Any]:
    system, pool = build(name), two_pictures()
    system.begin_stage(system.stages(system.recipe)[-1])
    if pointless:
        pool.samples = [replace(sample, points=sample.points[:0]) for sample in pool.samples]
    torch.manual_seed(0)
    examples = system.example_maker()(0, pool, np.random.default_rng(0))
    return [(len(each.points), each.count, *(value.sum().item() for value in each.maps.values())) for each in examples]


@pytest.mark.parametrize("name", [name for name in systems.names() if systems.load(name).trains])
def test_a_system_whose_targets_come_from_points_says_so(name: str) -> None:
    changed = made(name, pointless=False) != made(name, pointless=True)
    assert changed == bool(systems.load(name).needs & {"points", "density"})


def without_chance(system: System) -> System:
    """Switch off what draws random numbers for each example, and what normalises by the batch."""
    for layer in system.train().modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if hasattr(layer, "drop_prob"):
            layer.drop_prob = 0.0
    for layer in batch_norms(system):
        layer.eval()
    return system


def batch_of_three(system: System, stage: Stage, epoch: int) -> Batch:
    pool = two_pictures()
    system.begin_stage(stage)
    system.begin_epoch(epoch, pool.samples)
    return batch_of(system, pool, (0, 1, 0))


def terms_of(system: System, parts: list[Batch]) -> dict[str, Tensor]:
    """Return the loss terms of a batch from those of its parts, as the training loop adds them up."""
    total, whole = sum(map(len, parts)), {}
    for part in parts:
        for name, term in system.losses(part).items():
            whole[name] = whole.get(name, 0.0) + weight_of_part(system, name, len(part), total) * term
    return whole


def gradients(system: System, stage: Stage, parts: list[Batch]) -> Tensor:
    system.zero_grad(set_to_none=True)
    weights = system.loss_weights
    sum(weights.get(name, 1.0) * term for name, term in terms_of(system, parts).items()).backward()
    trained = [parameter for group in system.parameter_groups(stage.recipe) for parameter in group["params"]]
    return torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])


TRAINED = [name for name in systems.names() if systems.load(name).trains]


@pytest.mark.parametrize("name", [name for name in TRAINED if not systems.load(name).batch_coupled_by])
@pytest.mark.parametrize("epoch", [0, 100])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(name: str, epoch: int) -> None:
    system = build(name)
    for stage in system.stages(system.recipe):
        batch = batch_of_three(system, stage, epoch)
        without_chance(system)
        whole, parts = gradients(system, stage, [batch]), gradients(system, stage, batch.split(2))
        assert (whole - parts).abs().max() <= 1e-4 * whole.abs().max()


@pytest.mark.parametrize("name", [name for name in TRAINED if systems.load(name).batch_coupled_by])
def test_a_batch_that_is_said_to_be_coupled_has_another_loss_in_parts(name: str) -> None:
    system = build(name)
    batch = batch_of_three(system, system.stages(system.recipe)[-1], 0)
    without_chance(system)
    for parameter in system.parameters():  # an untrained network says nearly the same of every cell
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    whole, parts = terms_of(system, [batch]), terms_of(system, batch.split(2))
    assert any((whole[term] - parts[term]).abs() > 1e-4 * whole[term].abs() for term in whole)


@pytest.mark.parametrize("name", systems.names())
def test_prediction_has_the_promised_shape(name: str) -> None:
    system = build(name).eval()
    with torch.no_grad():
        prediction = system.predict(images_of(system), PROMPTS)
    assert prediction.counts().shape == (2,)
    assert torch.isfinite(prediction.counts()).all()
    if prediction.density is not None:
        assert prediction.density.shape[:2] == (2, 1)
        assert prediction.density.ndim == 4
    else:
        assert prediction.scores is not None
        assert prediction.scores.shape == (2, len(prediction.numbers))


@pytest.mark.parametrize("name", systems.names())
def test_a_saved_system_predicts_the_same_when_loaded(name: str, tmp_path: Path) -> None:
    saved = build(name).eval()
    for parameter in saved.parameters():
        parameter.data.mul_(1.01)
    save_file({key: value.contiguous().clone() for key, value in saved.state_dict().items()}, tmp_path / "model")
    torch.manual_seed(7)
    loaded = systems.load(name)(settings_of(name)).eval()
    loaded.load_state_dict(load_file(tmp_path / "model"))
    with torch.no_grad():
        images = images_of(saved)
        assert torch.equal(loaded.predict(images, PROMPTS).counts(), saved.predict(images, PROMPTS).counts())


@pytest.mark.parametrize("name", systems.names())
def test_default_settings_are_the_paper_size(name: str) -> None:
    system = systems.load(name)
    assert set(system.mini_settings()) <= set(system.Settings.model_fields)
    assert system.Settings() is not None


# what a key starts with: an equation's or a section's number; otherwise the paper's own terms or symbols, up to a colon
NUMBER = re.compile(r"\(\d+\)|section \d+(\.\d+)*")


def references(key: str) -> list[str]:
    number = NUMBER.match(key)
    return [number.group()] if number else key.split(": ", maxsplit=1)[0].split(", ")


@pytest.mark.parametrize("name", sorted(systems.own_names()))
def test_the_papers_equations_lead_to_functions_that_name_them(name: str) -> None:
    module = import_module(f"recount.systems.{name}")
    if "No paper" in (module.__doc__ or ""):
        pytest.skip("no paper, so no equations")
    equations = module.EQUATIONS
    assert equations
    for key, function in equations.items():
        assert callable(function), key
        assert function.__module__.startswith("recount."), key
        text = " ".join((function.__doc__ or "").split()).lower()
        unnamed = [each for each in references(key) if each.lower() not in text]
        assert not unnamed, f"{function.__qualname__} implements {key!r}, but its docstring does not name {unnamed}"
