"""VLCounter: golden outputs of the released network, import of released files, and what each setting changes."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from golden_tools import assert_matches, fill, golden_case, refilled, shared, tensor
from recount.augmentation.countr_protocol import impulses
from recount.data.sample import Sample
from recount.nn.clip import ClipTowers
from recount.systems.base import Batch, Example, Prediction, System
from recount.systems.countx import SYSTEM as CounTX
from recount.systems.vlcounter import (
    PLURALS,
    SYSTEM,
    Counter,
    TextPromptedImage,
    VLCounterSettings,
    cell_rule_count,
    mean_direction,
    our_name,
    rank_loss,
    rank_mask,
    sentences,
)
from small_systems import assert_imported, assert_refused, mini
from tiny_pool import TinyPool

case = partial(golden_case, "vlcounter")
tiny = partial(mini, SYSTEM)


def batch_of(network: Any) -> Batch:
    torch.manual_seed(1)
    edge = network.settings.window
    dots = impulses(np.array([[10, 12], [11, 13], [50, 60]]), edge, edge)
    target = torch.from_numpy(gaussian_filter(dots, 3.0))[None]
    return Batch.of([Example("x", torch.rand(3, edge, edge), "red stars", maps={"density": target})])


def car_park(prompt: str = "cars", *, boxes: bool = True) -> Sample:
    edges = np.zeros((1, 4), np.float32) if boxes else None
    return Sample("a", "test", None, np.zeros((1, 2)), 1, prompt, 1280, 720, boxes=edges)


# ------------------------------------------------------------------------------------------------------------ golden


def golden_counter() -> Counter:
    counter = Counter(512, 768, 64, 24).eval()
    counter.load_state_dict(refilled(counter))
    return counter


@torch.no_grad()
def test_counter_is_the_released_one() -> None:
    inputs, want = case("counter")
    features = [tensor(spec) for spec in inputs["features (blocks 5,6,7,8)"]]
    prompts = fill().wave((11, 512), 0.371, 0.8) + fill().wave((11, 512), 0.011, 0.2, 0.3)
    text = mean_direction(torch.from_numpy(prompts)[None])
    skips = [features[index] for index in (3, 2, 1)]
    out, affine = golden_counter()(skips, tensor(inputs["final feature"]), text)
    assert_matches(affine, want["affine_map"])
    assert_matches(functional.interpolate(affine, scale_factor=16, mode="nearest"), want["affine_map_x16"])
    assert_matches(out, want["density"])
    assert float(out.double().sum()) / 60 == pytest.approx(want["count = sum/60"][0], rel=1e-4)


@torch.no_grad()
def test_similarity_is_the_released_one() -> None:
    inputs, want = case("similarity")
    text = functional.normalize(tensor(inputs["text"]), dim=-1)
    _, similarity, affine = golden_counter().similarity(tensor(inputs["final feature"]), text)
    assert_matches(similarity, want["similarity"], 1e-5)
    assert_matches(affine, want["affine"], 1e-5)


@pytest.mark.parametrize(
    ("twice", "final"),
    [(True, "final (unit norm over channels)"), (False, "final, class embedding added once (switch)")],
)
@torch.no_grad()
def test_encoder_is_the_released_one(twice: bool, final: str) -> None:
    inputs, want = case("encoder")
    towers = ClipTowers(image_size=96, vision_width=64, vision_heads=4, features=32)
    settings = VLCounterSettings(visual_prompts=5, cls_twice=twice, skips=(8, 7, 6))
    image = TextPromptedImage(towers, 512, settings).eval()
    image.kept = (5, 6, 7, 8)
    names = {key.removeprefix("tower."): key for key in image.state_dict()}
    image.load_state_dict({names[key]: value for key, value in refilled(image, names=names).items()})
    text = functional.normalize(tensor(inputs["text"]), dim=-1)
    maps, last = image(tensor(inputs["image"]), text)
    assert_matches(last, want[final], 1e-5)
    if twice:
        for number, block in maps.items():
            assert_matches(block, want[f"block_{number} (unit norm over channels)"], 1e-5)


def test_rank_loss_is_the_released_one() -> None:
    inputs, want = case("rank_loss")
    dots = inputs["dots (x,y) per image, 384x384, sigma 3, x60"]
    maps = [60 * gaussian_filter(impulses(np.array(points), 384, 384), 3.0) for points in dots]
    mask = rank_mask(torch.from_numpy(np.stack(maps))[:, None], 24)
    affine = tensor(inputs["similarity"]).requires_grad_()
    loss = rank_loss(affine, mask)
    loss.backward()
    assert loss.item() == pytest.approx(want["loss"], rel=1e-5)
    assert_matches(affine.grad, want["grad"], 1e-5)
    assert_matches(mask, want["mask"], 1e-5)
    masks = [rank_mask(torch.from_numpy(each)[None, None], 24) for each in maps]
    alone = [rank_loss(affine[i : i + 1], masks[i]).item() for i in range(2)]
    assert alone == pytest.approx(want["loss_if_each_image_were_its_own_batch"], rel=1e-5)


def test_rank_loss_of_an_empty_crop_is_the_released_one_and_teaches_nothing() -> None:
    affine = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = rank_loss(affine, rank_mask(torch.zeros(1, 1, 384, 384), 24))
    assert loss.item() == pytest.approx(3 * np.log(2))  # 2.079: no cell is in any set, as 0 / 0 compares false
    loss.backward()
    assert affine.grad is not None
    assert not affine.grad.any()


def test_dropout_of_prompts_draws_a_mask_for_each_image_and_slot() -> None:
    image = tiny().train().image
    torch.manual_seed(0)
    text = torch.ones(2, 1, image.text_proj.in_features)
    slots = image._slots(0, text)
    with torch.no_grad():
        image.prompt_proj.weight.zero_(), image.prompt_proj.bias.zero_()
        image.text_proj.weight.zero_(), image.text_proj.bias.fill_(1.0)
    masks = image._slots(0, text)
    assert not torch.equal(masks[0, 0], masks[0, 1])
    assert not torch.equal(masks[0], masks[1])
    assert slots.shape == masks.shape


def test_rule_for_cars_is_the_released_one() -> None:
    _, want = case("carpk_rule")
    scaled = (fill().wave((384, 683), 0.0123, 0.4, 0.3) + np.float32(0.22)) * (1 + fill().wave((384, 683), 0.0007, 0.3))
    map_ = torch.from_numpy(scaled / 60)[None, None]
    network = tiny()
    with_rule = network.read_out(Prediction(density=map_), car_park())
    whole = tiny(carpk_cell_rule=False).read_out(Prediction(density=map_), car_park())
    assert with_rule.item() == pytest.approx(want["count_with_rule"], abs=1e-3)
    assert whole.item() == pytest.approx(want["count_of_whole_map"], abs=2e-3)


def test_rule_for_cars_leaves_other_pictures_alone() -> None:
    map_ = torch.full((1, 1, 96, 96), 2 / 256)
    network = tiny()
    assert network.read_out(Prediction(density=map_), car_park()).item() == pytest.approx(36.0)
    for other in (car_park("red stars"), car_park(boxes=False)):
        assert network.read_out(Prediction(density=map_), other).item() == pytest.approx(72.0)


def test_cells_that_are_not_complete_are_not_counted_by_the_rule() -> None:
    assert cell_rule_count(torch.full((1, 1, 32, 43), 1 / 256)).item() == pytest.approx(4.0)


def test_plurals_are_those_of_the_released_rule() -> None:
    _, want = case("plural_nouns")
    rows = shared("mirror", "fsc147", "data", "ImageClasses_FSC147.txt").read_text().splitlines()
    names = {row.split("\t")[1] for row in rows}
    assert want["changed"] == PLURALS
    assert sum(name not in PLURALS for name in names) == want["unchanged"]
    assert sentences("spoon")[1] == "a photo of a number of small spoons."
    assert len(sentences("cars")) == 11


# ------------------------------------------------------------------------------------------------------------- sizes


def test_paper_size_has_the_released_number_of_trainable_parameters() -> None:
    with torch.device("meta"):
        network = SYSTEM(VLCounterSettings())
    parts = [getattr(network, name).parameters() for name in ("counter", "image", "text")]
    assert [sum(p.numel() for p in part if p.requires_grad) for part in parts] == [363_715, 1_078_272, 0]


@pytest.mark.parametrize("system", [SYSTEM, CounTX])
def test_windows_are_halved_and_carpk_is_683_wide(system: type[System]) -> None:
    network = mini(system, window=384)
    assert (network.windows.stitch, network.windows.stride) == ("halving", 128)
    assert network.prepare_image(torch.zeros(3, 384, 650)).shape == (3, 384, 640)
    assert network.prepare_image(torch.zeros(3, 720, 1280)).shape == (3, 384, 683)


def test_the_width_of_carpk_is_a_setting() -> None:
    assert tiny(window=384, carpk_width=682).prepare_image(torch.zeros(3, 720, 1280)).shape == (3, 384, 682)


# ---------------------------------------------------------------------------------------------------------- switches


def test_rank_weight_zero_leaves_the_density_loss_alone() -> None:
    for weight in (1e-6, 0.0):
        network = tiny(rank_weight=weight)
        terms = network.losses(batch_of(network))
        assert set(terms) == {"density", "rank"}
        assert network.loss_weights["rank"] == weight
        assert terms["rank"] > 0


def test_sigma_changes_the_training_maps_but_not_their_sum() -> None:
    pool = TinyPool([(96, 120)])
    maps = []
    for sigma in (3.0, 1.0):
        network = tiny(augmentation={"mosaic": 0, "jitter": 0, "sigma": sigma})
        maps.append(network.example_maker()(0, pool, np.random.default_rng(2))[0].maps["density"])
    assert maps[1].max() > 4 * maps[0].max()
    torch.testing.assert_close(maps[0].sum(), maps[1].sum(), rtol=1e-4, atol=0)


@torch.no_grad()
def test_class_embedding_added_once_changes_the_prediction() -> None:
    image = torch.rand(1, 3, 96, 96)
    twice, once = (tiny(cls_twice=value).predict(image, ["red stars"]).counts() for value in (True, False))
    assert twice != once


@torch.no_grad()
def test_pucpr_is_not_normalised_as_released() -> None:
    image = torch.rand(1, 3, 96, 96)
    released, mended = tiny(), tiny(pucpr_normalise=True)
    assert released.predict(image, ["vehicles"]).counts() != mended.predict(image, ["vehicles"]).counts()
    assert released.predict(image, ["cars"]).counts() == mended.predict(image, ["cars"]).counts()


@torch.no_grad()
@pytest.mark.parametrize("system", [SYSTEM, CounTX])
def test_prompts_of_different_classes_give_different_counts(system: type[System]) -> None:
    image = torch.rand(1, 3, 96, 96).expand(2, -1, -1, -1)
    first, second = mini(system).predict(image, ["the red stars", "the red rings"]).counts()
    assert first != second


def test_only_prompts_projections_and_counter_are_trained() -> None:
    network = tiny().train()
    terms = network.losses(batch_of(network))
    (terms["density"] + 1e-6 * terms["rank"]).backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"image.prompt_embeddings", "image.text_proj.weight", "counter.attn_weight"} <= moved
    assert not any(".tower." in name for name in moved)


# --------------------------------------------------------------------------------------------------------- checkpoint


def released_state(network: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return our formula-made state, and the same as the release would have written it."""
    state = refilled(network)
    last = network.settings.clip.vision_layers - 1
    theirs = {}
    for key, value in state.items():
        name = key.removeprefix("counter.")
        name = name.replace("text.tower.", "t_enc.").replace("image.tower.", "v_enc.").replace("image.", "v_enc.")
        block = f"resblocks.{last}.attn."
        name = name.replace(f"{block}in_proj_", f"{block}qkv.") if name.startswith("v_enc.") else name
        name = name.replace(f"{block}out_proj.", f"{block}proj.") if name.startswith("v_enc.") else name
        theirs[name] = value
        if name.startswith("v_enc.") and block in name:
            theirs[name.replace(f"transformer.{block}", "attn.")] = value
    return state, theirs


def test_a_released_checkpoint_is_imported(tmp_path: Path) -> None:
    network = tiny()
    ours, theirs = released_state(network)
    content = {"state_dict": theirs, "epoch": 182, "best_mae": 18.06, "optimizer": {}}
    assert_imported(SYSTEM, content, ours, network.settings, tmp_path / "182_best.pth")


def test_a_checkpoint_that_lacks_a_key_or_whose_two_copies_of_the_last_attention_differ_is_refused(
    tmp_path: Path,
) -> None:
    network = tiny()
    _, theirs = released_state(network)
    differing = {**theirs, "v_enc.attn.qkv.bias": theirs["v_enc.attn.qkv.bias"] + 1}
    assert_refused(SYSTEM, {"state_dict": differing}, network.settings, tmp_path / "x.pth", "differ")
    del theirs["attn_bias"]
    assert_refused(SYSTEM, {"state_dict": theirs}, network.settings, tmp_path / "x.pth", "attn_bias")


def test_released_names_are_those_of_the_specification() -> None:
    names = set(tiny().state_dict())
    listed = ["t_proj.weight", "v_proj.bias", "proj.0.weight", "proj2.1.bias", "decoder.4.gn.weight", "attn_weight"]
    listed += ["v_enc.prompt_norm.weight", "v_enc.deep_prompt_embeddings", "v_enc.text_proj.bias", "v_enc.proj"]
    assert {our_name(name) for name in listed} <= names
