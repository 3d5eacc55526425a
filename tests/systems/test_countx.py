"""CounTX: golden outputs of the released network, import of released files, and what each setting changes."""

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_tools import assert_matches, fill, golden_case, refilled, tensor
from recount.data.sample import Sample
from recount.nn.clip import ClipTowers, image_tower
from recount.systems.base import Batch, Example
from recount.systems.countx import (
    SYSTEM,
    CounTXSettings,
    image_tokens,
    our_name,
    position_table,
    train_loss,
)
from recount.training.schedules import learning_rate
from small_systems import assert_imported, assert_refused, filled_in_part, mini
from tiny_pool import TinyPool

case = partial(golden_case, "countx")
tiny = partial(mini, SYSTEM)


def sample_of(prompt: str, **attributes: Any) -> Sample:
    return Sample("a", "test", None, np.zeros((1, 2)), 1, prompt, 96, 96, attributes=attributes)


# ------------------------------------------------------------------------------------------------------------ golden


def test_position_table_is_the_released_one() -> None:
    assert_matches(position_table(14, 512), case("pos_table")[1]["fim_pos_embed"], 1e-6)


@torch.no_grad()
def test_image_encoder_is_the_released_one() -> None:
    inputs, want = case("image_encoder")
    towers = ClipTowers(
        image_size=64, patch=16, vision_width=64, vision_layers=3, vision_heads=4, features=32, activation="gelu"
    )
    tower = image_tower(towers).eval()
    tower.load_state_dict(refilled(tower))
    assert_matches(image_tokens(tower, tensor(inputs["image"]), "none"), want["tokens"])


@torch.no_grad()
def test_interaction_and_decoder_are_the_released_ones() -> None:
    inputs, want = case("interaction_and_decoder")
    whole = filled_in_part(SYSTEM, ("fim_blocks", "fim_norm", *(f"decode_head{stage}" for stage in range(4))))
    whole.eval().fim_pos_embed = position_table(14, 512)
    seen = {}
    for number, block in enumerate(whole.fim_blocks):
        block.register_forward_hook(lambda _, __, out, number=number: seen.update({number: out}))
    tokens = whole.interact(tensor(inputs["image_tokens"]), tensor(inputs["text_tokens"]))
    density = whole.decode(tokens)[:, 0]
    assert_matches(seen[0], want["block0"])
    assert_matches(seen[1], want["block1"])
    assert_matches(tokens, want["fim_norm"])
    assert_matches(density, want["density"], 1e-3)
    assert float(density.double().sum()) / 60 == pytest.approx(want["count = sum/60"][0], rel=1e-3)
    np.testing.assert_allclose([density.min(), density.max()], want["density_min_max"], rtol=1e-3)


def test_train_loss_is_the_released_one() -> None:
    _, want = case("train_loss")
    make = fill().wave
    output = torch.from_numpy(make((2, 384, 384), 0.0171, 0.3) + np.float32(0.2))[:, None]
    target = torch.from_numpy(make((2, 384, 384), 0.0174, 0.8) + np.float32(1))[:, None]
    mask = torch.from_numpy((make((384, 384), 0.37, 0.3) > -0.8).astype(np.float32))
    assert train_loss(output, target, mask).item() == pytest.approx(want["loss"], rel=1e-5)


def test_learning_rate_is_the_released_one() -> None:
    inputs, want = case("learning_rate")
    recipe = SYSTEM.recipe
    rates = [learning_rate(recipe.schedule, recipe.optimiser.lr, at, recipe.epochs) for at in inputs["at"]]
    assert rates == pytest.approx(want["lr"], abs=1e-15)


# ------------------------------------------------------------------------------------------------------------- sizes


def test_paper_size_has_the_released_numbers_of_parameters() -> None:
    with torch.device("meta"):
        network = SYSTEM(CounTXSettings())

    def size(*names: str) -> int:
        return sum(p.numel() for name in names for p in getattr(network, name).parameters())

    assert size("fim_blocks", "fim_norm") == 8_409_088
    assert size(*(f"decode_head{stage}" for stage in range(4))) == 2_952_449


# ---------------------------------------------------------------------------------------------------------- switches


def test_text_is_the_description_or_the_class_name() -> None:
    tray = sample_of("donuts tray", description="the donuts in the donut tray")
    assert tiny().prompt_of(tray) == "the donuts in the donut tray"
    assert tiny().prompt_of(sample_of("cars")) == "the cars"
    assert tiny(text="class_name").prompt_of(tray) == "donuts tray"


@pytest.mark.parametrize(("switch", "told"), [({}, "the red stars"), ({"test_text": "class_name"}, "red stars")])
def test_a_model_that_is_trained_with_descriptions_can_be_tested_with_class_names(switch: Any, told: str) -> None:
    network, pool = tiny(**switch), TinyPool([(96, 120)], [[[5.0, 5.0]]], ["red stars"])
    assert network.example_maker()(0, pool, np.random.default_rng(0))[0].prompt == "the red stars"
    assert network.prompt_of(pool.samples[0]) == told


@torch.no_grad()
@pytest.mark.parametrize(("switch", "other"), [("vision_norm", "ln_post"), ("resize_antialias", False)])
def test_a_switch_of_the_image_side_changes_the_prediction(switch: str, other: Any) -> None:
    image = torch.rand(1, 3, 96, 96)
    plain, switched = (network.predict(image, ["red stars"]).counts() for network in (tiny(), tiny(**{switch: other})))
    assert plain != switched


def test_the_image_side_is_trained_and_the_text_side_is_not() -> None:
    network = tiny().train()
    target = torch.zeros(1, 144, 144)
    target[0, 10, 10] = 1
    batch = Batch.of([Example("x", torch.rand(3, 144, 144), "red stars", maps={"density": target})])
    network.losses(batch)["density"].backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"image.conv1.weight", "fim_blocks.0.attn.wv.weight", "decode_head3.3.weight"} <= moved
    assert not any(name.startswith(("text.", "image.ln_post")) for name in moved)


def test_vectors_have_no_weight_decay() -> None:
    matrices, vectors = tiny().parameter_groups(SYSTEM.recipe)
    assert "weight_decay" not in matrices
    assert vectors["weight_decay"] == 0
    assert all(p.ndim == 1 for p in vectors["params"])
    assert all(p.ndim > 1 for p in matrices["params"])


# --------------------------------------------------------------------------------------------------------- checkpoint


def released_state(network: Any) -> dict[str, Tensor]:
    def name(key: str) -> str:
        if key.startswith("image."):
            return f"clip_model.visual.{key.removeprefix('image.')}"
        return f"clip_model.{key.removeprefix('text.tower.')}" if key.startswith("text.") else key

    state = {name(key): value for key, value in refilled(network).items()}
    return state | {"clip_model.logit_scale": torch.tensor(4.6)}


def test_a_released_checkpoint_is_imported_and_one_that_lacks_a_key_refused_by_name(tmp_path: Path) -> None:
    network = tiny()
    content = {"model": released_state(network), "optimizer": {}, "epoch": 999, "scaler": {}, "args": Namespace(lr=1)}
    assert_imported(SYSTEM, content, refilled(network), network.settings, tmp_path / "paper-model.pth")
    del content["model"]["fim_blocks.1.mlp.fc2.bias"]
    assert_refused(SYSTEM, content, network.settings, tmp_path / "paper-model.pth", r"fim_blocks\.1\.mlp\.fc2\.bias")


def test_released_names_are_those_of_the_specification() -> None:
    names = set(tiny().state_dict())
    listed = ["fim_pos_embed", "fim_blocks.1.selfattn.qkv.weight", "fim_norm.bias", "decode_head2.1.weight"]
    listed += ["decode_head3.3.bias", "clip_model.visual.proj", "clip_model.text_projection"]
    assert {our_name(name) for name in listed} <= names
