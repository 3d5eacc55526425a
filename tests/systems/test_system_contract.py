"""What every system promises, at its mini size, on pictures made up here."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recount import systems
from recount.config import Strict
from recount.data.sample import Sample
from recount.systems.base import Batch, System

WIDTH, HEIGHT = 160, 128
PROMPTS = ["three red circles", "six blue stars"]  # words that every tiny text tower knows


class MadeUpPool:
    """Two noisy pictures with bright dots on dark ground."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.samples, self.pictures = [], []
        for index, number in enumerate((3, 6)):
            points = (rng.random((number, 2)) * [WIDTH, HEIGHT]).astype(np.float32)
            picture = rng.integers(0, 80, (3, HEIGHT, WIDTH), dtype=np.uint8)
            for x, y in points.astype(int):
                picture[:, y, x] = 255
            self.pictures.append(torch.from_numpy(picture))
            self.samples.append(Sample(f"s{index}", "train", None, points, number, PROMPTS[index], WIDTH, HEIGHT))

    def image(self, index: int) -> Tensor:
        return self.pictures[index]


@cache
def settings_of(name: str) -> Strict:
    system = systems.load(name)
    return system.Settings.model_validate(system.mini_settings())


def build(name: str) -> System:
    torch.manual_seed(0)
    system = systems.load(name)(settings_of(name))
    system.prepare_training(MadeUpPool().samples)
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
    pool: Any = MadeUpPool()
    for stage in system.stages(system.recipe):
        system.train()
        system.begin_stage(stage)
        system.begin_epoch(0, pool.samples)
        torch.manual_seed(0)
        maker = system.example_maker()
        examples = [example for index in (0, 1) for example in maker(index, pool, np.random.default_rng(index))]
        weights = system.loss_weights
        terms = system.losses(Batch.of(examples))
        loss = sum(weights.get(term, 1.0) * value for term, value in terms.items())
        assert torch.isfinite(loss), f"{stage.name}: {terms}"
        loss.backward()
        gradients = [p.grad for group in system.parameter_groups(stage.recipe) for p in group["params"]]
        present = [gradient for gradient in gradients if gradient is not None]
        assert present, f"{stage.name}: no parameter gets a gradient"
        assert all(torch.isfinite(gradient).all() for gradient in present)
        assert any(gradient.abs().sum() > 0 for gradient in present)


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
