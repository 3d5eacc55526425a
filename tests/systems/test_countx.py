"""CounTX: golden outputs of the released network, import of released files, and what each setting changes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden_tools import assert_matches, fill, golden, refilled, wave
from recount.data.sample import Sample
from recount.errors import UserError
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
from tiny_pool import TinyPool


def case(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = golden("countx")["cases"][name]
    return found["inputs"], found["outputs"]


def tensor(spec: dict[str, Any]) -> Tensor:
    return torch.from_numpy(wave(spec))


def tiny(**changes: Any) -> Any:
    torch.manual_seed(0)
    return SYSTEM(CounTXSettings.model_validate({**SYSTEM.mini_settings(), **changes})).eval()


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
    with torch.device("meta"):
        whole = SYSTEM(CounTXSettings())
    for name in ("fim_blocks", "fim_norm", *(f"decode_head{stage}" for stage in range(4))):
        part = getattr(whole, name).to_empty(device="cpu")
        filled = refilled(torch.nn.ModuleDict({name: part}))
        part.load_state_dict({key.removeprefix(f"{name}."): value for key, value in filled.items()})
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


def test_windows_are_halved_and_carpk_is_683_wide() -> None:
    network = tiny(window=384)
    assert (network.windows.stitch, network.windows.stride) == ("halving", 128)
    assert network.prepare_image(torch.zeros(3, 384, 650)).shape == (3, 384, 640)
    assert network.prepare_image(torch.zeros(3, 720, 1280)).shape == (3, 384, 683)


# ---------------------------------------------------------------------------------------------------------- switches


def test_text_is_the_description_or_the_class_name() -> None:
    tray = sample_of("donuts tray", description="the donuts in the donut tray")
    assert tiny().prompt_of(tray) == "the donuts in the donut tray"
    assert tiny().prompt_of(sample_of("cars")) == "the cars"
    assert tiny(text="class_name").prompt_of(tray) == "donuts tray"


def test_a_model_that_is_trained_with_descriptions_can_be_tested_with_class_names() -> None:
    network = tiny(test_text="class_name")
    pool = TinyPool([(96, 120)])
    pool.samples = [Sample("a", "train", None, np.array([[5.0, 5.0]]), 1, "red stars", 120, 96)]
    assert network.example_maker()(0, pool, np.random.default_rng(0))[0].prompt == "the red stars"
    assert network.prompt_of(pool.samples[0]) == "red stars"


def test_training_examples_are_told_the_same_as_predictions() -> None:
    pool = TinyPool([(96, 120)])
    pool.samples = [sample_of("red stars", description="the stars")]
    pool.samples = [Sample("a", "train", None, np.array([[5.0, 5.0]]), 1, "red stars", 120, 96)]
    example = tiny().example_maker()(0, pool, np.random.default_rng(0))[0]
    assert example.prompt == "the red stars"


@torch.no_grad()
@pytest.mark.parametrize(("switch", "other"), [("vision_norm", "ln_post"), ("resize_antialias", False)])
def test_a_switch_of_the_image_side_changes_the_prediction(switch: str, other: Any) -> None:
    image = torch.rand(1, 3, 96, 96)
    assert (
        tiny().predict(image, ["red stars"]).counts() != tiny(**{switch: other}).predict(image, ["red stars"]).counts()
    )


@torch.no_grad()
def test_prompts_of_different_classes_give_different_counts() -> None:
    image = torch.rand(1, 3, 96, 96).expand(2, -1, -1, -1)
    first, second = tiny().predict(image, ["the red stars", "the red rings"]).counts()
    assert first != second


def test_the_image_side_is_trained_and_the_text_side_is_not() -> None:
    network = tiny().train()
    target = torch.zeros(1, 144, 144)
    target[0, 10, 10] = 1
    network.losses(Batch.of([Example("x", torch.rand(3, 144, 144), "red stars", maps={"density": target})]))[
        "density"
    ].backward()
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


def test_a_released_checkpoint_is_imported(tmp_path: Path) -> None:
    network = tiny()
    content = {"model": released_state(network), "optimizer": {}, "epoch": 999, "scaler": {}, "args": Namespace(lr=1)}
    torch.save(content, tmp_path / "paper-model.pth")
    state = SYSTEM.import_checkpoint(tmp_path / "paper-model.pth", network.settings)
    want = refilled(network)
    assert set(state) == set(want)
    assert all(torch.equal(state[key], want[key]) for key in want)


def test_a_checkpoint_that_lacks_a_key_is_refused_by_name(tmp_path: Path) -> None:
    network = tiny()
    state = released_state(network)
    del state["fim_blocks.1.mlp.fc2.bias"]
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"fim_blocks\.1\.mlp\.fc2\.bias"):
        SYSTEM.import_checkpoint(tmp_path / "x.pth", network.settings)


def test_released_names_are_those_of_the_specification() -> None:
    names = set(tiny().state_dict())
    listed = ["fim_pos_embed", "fim_blocks.1.selfattn.qkv.weight", "fim_norm.bias", "decode_head2.1.weight"]
    listed += ["decode_head3.3.bias", "clip_model.visual.proj", "clip_model.text_projection"]
    assert {our_name(name) for name in listed} <= names
