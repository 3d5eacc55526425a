"""The tiny Stable Diffusion: what it was shown, what it weighs, and whether its card says the truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recount.nn import stable_diffusion as sd
from recount.pretraining import mini_sd
from recount.scenes import shapes as scenes


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
    alone = card()["attention_auc_denoising_alone"]
    assert random["fused"] < 0.8 < alone["fused"] < trained["fused"]
    assert trained["fused"] > 0.95
    assert trained["things"] > 0.9
    assert trained["shapes"] > 0.85


@pytest.mark.more
def test_the_shipped_measure_gives_what_the_card_says() -> None:
    measured = mini_sd.quality(mini_sd.mini_system(), count=10)
    assert measured["fused"] == pytest.approx(card()["attention_auc"]["fused"], abs=0.06)


def test_pretraining_never_shows_a_class_of_the_quality_scenes() -> None:
    plan = mini_sd.Plan()
    shown = {name for index in range(60) for name in mini_sd.captioned_scene(index, 0, 64).classes}
    shown |= {name for index in range(120) for name in mini_sd.grounded_scene(index, 0, 64, plan).classes}
    unseen = {name for index in range(20) for name in mini_sd.unseen_scene(index, 0).counts()}
    assert not shown & unseen
    assert unseen <= set(scenes.shape_classes("test"))


def test_captions_name_classes_of_the_scene_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        places = mini_sd.named(["a", "b", "c", "d", "e"], rng, 0.4, 0.0)
        assert 1 <= len(set(places)) == len(places) <= mini_sd.MOST_NAMED
    assert mini_sd.named([], rng, 0.4, 0.0) == []
    assert mini_sd.named(["a"], rng, 0.4, 1.0) == []


def test_each_word_of_a_caption_belongs_to_its_class() -> None:
    names = ["dice showing four pips", "cars", "red stars"]
    groups = mini_sd.token_groups(names)
    assert groups.sum(dim=1).tolist() == [1.0] * mini_sd.BACKBONE.text_length
    #        start  dice showing four pips  and  cars and  red stars  end
    assert groups.argmax(dim=1).tolist() == [0, 1, 1, 1, 1, 0, 2, 0, 3, 3, 0, 0]
    assert mini_sd.token_groups([]).argmax(dim=1).tolist() == [0] * mini_sd.BACKBONE.text_length


def test_a_cell_is_shared_by_what_it_shows() -> None:
    shares = torch.tensor([[[0.25, 1.0]], [[0.5, 0.0]], [[0.25, 0.0]]])
    target = mini_sd.target_shares(shares, [1, 0])
    assert target[:, 0].T.tolist() == [[0.25, 0.5, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0]]


def test_the_token_loss_is_least_where_attention_goes_to_the_words_of_what_a_cell_shows() -> None:
    target = torch.zeros(1, 4, 8, 8)
    target[:, 1, :4] = 1
    target[:, 0, 4:] = 1
    right = {divisor: torch.nn.functional.avg_pool2d(target, divisor) for divisor in (1, 2, 4)}
    wrong = {divisor: maps.flip(1) for divisor, maps in right.items()}
    even = {divisor: torch.full_like(maps, 0.25) for divisor, maps in right.items()}
    one = torch.ones(1)
    assert float(mini_sd.token_loss(right, target, one)) == pytest.approx(0, abs=1e-3)
    assert float(mini_sd.token_loss(even, target, one)) == pytest.approx(1.75 * np.log(4), rel=1e-3)
    assert float(mini_sd.token_loss(wrong, target, one)) > 10
    assert float(mini_sd.token_loss(wrong, target, torch.zeros(1))) == 0  # no caption, nothing to attend to


def test_the_token_loss_reaches_queries_and_keys_of_every_resolution() -> None:
    run = sd.UNetPass(mini_sd.new_unet(0), differentiable=True)
    groups = mini_sd.token_groups(["red stars"])[None]
    context = mini_sd.frozen_text_encoder(0)(mini_sd.context_ids(["red stars"])).last_hidden_state
    _, attention = run.denoise(torch.randn(1, 4, 16, 16), torch.tensor([10]), context, groups)
    mini_sd.token_loss(attention, torch.rand(1, 4, 16, 16), torch.ones(1)).backward()
    asked = [value for name, value in run.network.named_parameters() if "attn2.to_q" in name or "attn2.to_k" in name]
    reached = [value for value in asked if value.grad is not None and value.grad.abs().sum() > 0]
    assert len(reached) == len(asked) - 2  # the middle block's attention is not kept


def test_shares_of_a_grounded_scene_are_those_of_its_masks() -> None:
    plan = mini_sd.Plan(any_paint=1.0)
    scene = mini_sd.grounded_scene(3, 0, 64, plan)
    assert scene.shares.shape == (len(scene.classes), 16, 16)
    assert set(scene.classes) <= set(scenes.SHAPES)
    assert float(scene.shares.sum(dim=0).max()) <= 1.001
    assert all(float(share.sum()) > 0 for share in scene.shares)
    twins = mini_sd.grounded_scene(5, 0, 64, mini_sd.Plan(any_paint=0, one_colour=1))
    assert len({name.split()[0] for name in twins.classes}) == 1


def test_paints_without_name_are_far_from_all_that_have_one() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        paint = np.array(mini_sd.unnamed_paint(rng), float)
        assert min(np.linalg.norm(paint - np.array(named, float)) for named in scenes.COLOURS.values()) > 58


def test_an_interrupted_stage_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    def train(folder: str, stops: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 1)

        def loss(step: int) -> torch.Tensor:
            if step == stops:
                raise KeyboardInterrupt
            return layer(torch.full((2, 3), float(step % 7))).square().mean()

        work = mini_sd.Work(tmp_path / folder, "plan")
        made = mini_sd.optimise(layer, loss, 450, 1e-2, mini_sd.Plan(), work, "stage")
        return made.weight.detach().clone()

    with pytest.raises(KeyboardInterrupt):
        train("stopped", 430)
    went_on, whole = train("stopped", None), train("whole", None)
    assert torch.equal(went_on, whole)
    later = mini_sd.Work(tmp_path / "stopped", "plan")
    state = later.kept("stage")
    assert state is not None
    assert later.seconds() >= state["seconds"] > 0
    assert mini_sd.Work(tmp_path / "stopped", "another plan").kept("stage") is None


def test_a_standardised_latent_decodes_to_the_same_picture() -> None:
    torch.manual_seed(0)
    vae = sd.autoencoder(mini_sd.BACKBONE)
    mini_sd._start_linear(vae)
    images = torch.stack([mini_sd.captioned_scene(index, 0, 64).image for index in range(4)])
    with torch.no_grad():
        before = vae(mini_sd.scaled(images)).sample
        mini_sd._standardise(vae, images)
        latent = vae.encode(mini_sd.scaled(images)).latent_dist.mode()
        after = vae(mini_sd.scaled(images)).sample
    assert latent.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (latent.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3
    assert torch.allclose(before, after, atol=1e-4)


def test_the_vocabulary_reads_every_class_that_can_be_drawn() -> None:
    words = sd.tokenizer(mini_sd.BACKBONE)
    every = [name for split in ("train", "val", "test") for name in scenes.shape_classes(split)]
    for prompt in (*every, scenes.CARS, *scenes.BLOOD_CELLS, *scenes.DICE):
        assert len(words.encode(prompt)) <= mini_sd.BACKBONE.text_length - 2


def test_a_dropped_caption_is_all_padding() -> None:
    ids = mini_sd.context_ids(["", "cars"])
    words = sd.tokenizer(mini_sd.BACKBONE)
    assert ids[0].tolist() == [words.start] + [words.end] * (mini_sd.BACKBONE.text_length - 1)


def test_noise_schedule_is_that_of_stable_diffusion() -> None:
    assert float(sd.alpha_bar()[0]) == pytest.approx(sd.FIRST_ALPHA_BAR)
    assert float(sd.alpha_bar()[-1]) == pytest.approx(0.00466, abs=1e-4)


def test_the_linear_start_reconstructs_colours_roughly() -> None:
    torch.manual_seed(0)
    vae = sd.autoencoder(mini_sd.BACKBONE)
    picture = mini_sd.scaled(mini_sd.captioned_scene(0, 0, 64).image[None])
    mini_sd._start_linear(vae)
    with torch.no_grad():
        latent = vae.encode(picture).latent_dist.mode()
    small = torch.nn.functional.avg_pool2d(picture, 4)
    correlation = torch.corrcoef(torch.stack([latent[0, 0].flatten(), small[0, 0].flatten()]))[0, 1]
    assert correlation > 0.8
