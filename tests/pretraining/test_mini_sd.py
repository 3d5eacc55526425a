"""The tiny Stable Diffusion: what it was shown, what it weighs, and whether its card says the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recount.data import scenes
from recount.pretraining import mini_sd
from recount.systems import t2icount


def card() -> dict:
    return json.loads((mini_sd.WEIGHTS / "mini_sd.json").read_text())


def test_weights_are_small_and_belong_to_the_card() -> None:
    assert (mini_sd.WEIGHTS / "mini_sd.safetensors").stat().st_size < 6e6
    assert card()["backbone"] == mini_sd.BACKBONE.model_dump(mode="json")
    assert 0.5e6 < sum(card()["parameters"].values()) < 3e6


def test_card_holds_the_quality_of_trained_and_random_weights() -> None:
    trained, random = card()["attention_auc"], card()["attention_auc_random"]
    assert trained["pairs"] == random["pairs"] > 200
    assert abs(random["fused"] - 0.5) < 0.1
    assert trained["fused"] > 0.8
    assert trained["fine"] > 0.88


def test_the_shipped_measure_gives_what_the_card_says() -> None:
    measured = mini_sd.quality(mini_sd.mini_system(), count=10)
    assert measured["fused"] == pytest.approx(card()["attention_auc"]["fused"], abs=0.06)


def test_pretraining_never_shows_a_class_of_the_quality_scenes() -> None:
    shown = {name for index in range(60) for name in mini_sd.captioned_scene(index, 0, 64).classes}
    unseen = {name for index in range(20) for name in mini_sd.unseen_scene(index, 0).counts()}
    assert not shown & unseen
    assert unseen <= set(scenes.shape_classes("test"))


def test_captions_name_classes_of_the_scene_and_nothing_else() -> None:
    words = mini_sd.caption(["red stars", "cars"], np.random.default_rng(0), mini_sd.Plan(drop_caption=0.0))
    assert set(words.split(" and ")) <= {"red stars", "cars"}
    assert mini_sd.caption([], np.random.default_rng(0), mini_sd.Plan()) == ""


def test_the_vocabulary_reads_every_class_that_can_be_drawn() -> None:
    words = t2icount.tokenizer(mini_sd.BACKBONE)
    every = [name for split in ("train", "val", "test") for name in scenes.shape_classes(split)]
    for prompt in (*every, scenes.CARS, *scenes.BLOOD_CELLS, *scenes.DICE):
        assert len(words.encode(prompt)) <= mini_sd.BACKBONE.text_length - 2


def test_a_dropped_caption_is_all_padding() -> None:
    ids = mini_sd.context_ids(["", "cars"])
    words = t2icount.tokenizer(mini_sd.BACKBONE)
    assert ids[0].tolist() == [words.start] + [words.end] * (mini_sd.BACKBONE.text_length - 1)


def test_noise_schedule_is_that_of_stable_diffusion() -> None:
    assert float(mini_sd.alpha_bar()[0]) == pytest.approx(t2icount.first_alpha_bar())
    assert float(mini_sd.alpha_bar()[-1]) == pytest.approx(0.00466, abs=1e-4)


def test_the_linear_start_reconstructs_colours_roughly() -> None:
    torch.manual_seed(0)
    vae = t2icount.autoencoder(mini_sd.BACKBONE)
    picture = mini_sd.scaled(mini_sd.captioned_scene(0, 0, 64).image[None])
    mini_sd._start_linear(vae)
    with torch.no_grad():
        latent = vae.encode(picture).latent_dist.mode()
    small = torch.nn.functional.avg_pool2d(picture, 4)
    correlation = torch.corrcoef(torch.stack([latent[0, 0].flatten(), small[0, 0].flatten()]))[0, 1]
    assert correlation > 0.8


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_area_under_curve_is_the_share_of_ordered_pairs(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([float(score) for score, _ in pairs])
    positive = np.array([hit for _, hit in pairs])
    if positive.all() or not positive.any():
        return
    above = scores[positive][:, None] - scores[~positive][None]
    expected = ((above > 0) + 0.5 * (above == 0)).mean()
    assert mini_sd.area_under_curve(scores, positive) == pytest.approx(expected)
