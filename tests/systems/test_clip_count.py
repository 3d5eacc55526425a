"""CLIP-Count: golden outputs of the released network, import of released files, and what each setting changes."""

import json
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from golden_tools import assert_matches, fill, golden_case, refilled, shared, tensor
from recount.augmentation.countr_protocol import impulses
from recount.data.sample import Sample
from recount.errors import UserError
from recount.nn.clip import ClipTowers, token_ids
from recount.nn.interaction import InteractionBlock
from recount.systems.base import Batch, Example
from recount.systems.clip_count import (
    SYSTEM,
    ClipCountSettings,
    ContextText,
    DensityDecoder,
    PromptedImage,
    contrastive_losses,
    count_loss,
    our_name,
    position_table,
)
from small_systems import assert_imported, assert_refused, filled_in_part, mini
from tiny_pool import TinyPool

ONE_TOKEN = ["strawberries", "apples", "sheep"]


case = partial(golden_case, "clip_count")
tiny = partial(mini, SYSTEM)


def batch_of(network: Any, prompts: tuple[str, ...] = ("red stars", "blue rings")) -> Batch:
    torch.manual_seed(1)
    edge = network.settings.window
    density = torch.zeros(1, edge, edge)
    density[:, 10::30, 20::25] = 0.2
    return Batch.of([Example("x", torch.rand(3, edge, edge), name, maps={"density": density}) for name in prompts])


# ------------------------------------------------------------------------------------------------------------ golden


def test_position_table_is_the_released_one() -> None:
    assert_matches(position_table(196, 512), case("pos_table")[1]["patch_emb_pos_embed"], 1e-6)


@torch.no_grad()
def test_interaction_block_is_the_released_one() -> None:
    inputs, want = case("small_block")
    block = InteractionBlock(32, 4, mlp_ratio=2, convolution=True).eval()
    block.load_state_dict(refilled(block))
    doubled = block.doubled(tensor(inputs["x"]), (3, 3))
    assert_matches(block(doubled, tensor(inputs["text"])), want["one_text_token"], 1e-5)
    assert_matches(block(doubled, tensor(inputs["text3"])), want["three_text_tokens"], 1e-5)


def golden_density(points: list[list[int]]) -> np.ndarray:
    return gaussian_filter(impulses(np.array(points, np.int64).reshape(-1, 2), 384, 384), 1.0) * 60


@pytest.mark.parametrize("option", ["default", "normalised by number of positives"])
def test_contrastive_loss_is_the_released_one(option: str) -> None:
    inputs, want = case("contrastive_loss")
    patches, text = tensor(inputs["patch"]).requires_grad_(), tensor(inputs["text"]).requires_grad_()
    target = torch.from_numpy(np.stack([golden_density(points) for points in inputs["points"]]))[:, None]
    losses = contrastive_losses(patches, text, target, ClipTowers())
    if option == "default":
        np.testing.assert_allclose(losses.detach(), want["per_image"], rtol=1e-5)
    else:  # an option of the release that its script never sets
        losses = losses / torch.tensor(want["positive_cells"]).clamp(min=1)
    losses.mean().backward()
    assert losses.mean().item() == pytest.approx(want[option]["loss"], rel=1e-5)
    assert_matches(patches.grad, want[option]["grad_patch"])
    assert_matches(text.grad, want[option]["grad_text"])


GOLDEN_TOWERS = ClipTowers(vision_width=64, vision_heads=1, features=32)


def golden_image_side(index: str = "previous") -> PromptedImage:
    image = PromptedImage(GOLDEN_TOWERS, 20, 10, index).eval()
    names = {key.replace("tower.", "vit.", 1): key for key in image.state_dict()}
    image.load_state_dict({names[key]: value for key, value in refilled(image, names=names).items()})
    return image


@torch.no_grad()
def test_deep_prompts_are_the_released_ones() -> None:
    inputs, want = case("deep_prompts")
    states, projected = golden_image_side()(tensor(inputs["image"]))
    assert_matches(states, want["tokens"])
    assert_matches(projected, want["class_embedding"])


def test_dropout_of_prompts_draws_a_mask_for_each_image() -> None:
    image = tiny().train().image
    torch.manual_seed(0)
    first, second = image.prompt(0, 2)
    assert not torch.equal(first == 0, second == 0)


@pytest.mark.parametrize(("index", "last"), [("previous", False), ("own", True)])
def test_vpt_index_decides_whether_the_last_prompts_act(index: str, last: bool) -> None:
    inputs, want = case("deep_prompts")
    image = golden_image_side(index)
    image(tensor(inputs["image"])[:1])[0].square().sum().backward()
    used = image.visual_prompt.grad.abs().amax(dim=(1, 2)) > 0
    assert used.tolist() == [*want["prompt_row_used"][:-1], last]


@pytest.mark.parametrize(("index", "case_name"), [("as_released", "as_released"), ("fixed", "eot_fixed")])
@torch.no_grad()
def test_text_side_is_the_released_one(index: str, case_name: str) -> None:
    inputs, want = case("text_encoder")
    towers = ClipTowers(text_width=64, text_heads=1, text_layers=3, features=48)
    text = ContextText(towers, 2, index).eval()
    names = {key.removeprefix("tower."): key for key in text.state_dict()}
    text.load_state_dict({names[key]: value for key, value in refilled(text, names=names).items()})
    features = text(inputs["names"])[:, 0]
    assert_matches(features, want[f"{case_name}_all"], 1e-5)
    np.testing.assert_allclose(features[:, :8], want[case_name], atol=1e-5)
    if index == "as_released":
        same = [torch.allclose(row, features[0], rtol=0, atol=1e-6) for row in features]
        assert same == want["as_released_equal_to_first_one_token_name"]


@torch.no_grad()
def test_interaction_and_decoder_are_the_released_ones() -> None:
    inputs, want = case("interaction_and_decoder")
    names = ("patch_feat_proj", "patch_feat_proj_contrast", "fim_blocks", "decoder_norm", "density_decoder")
    whole = filled_in_part(SYSTEM, names)
    whole.eval().patch_emb_pos_embed = position_table(196, 512)
    patches, text = tensor(inputs["patch_features"])[:, 1:], tensor(inputs["text"])
    coarse, fine = whole.interact(patches, text)
    density_map = whole.decode(patches, text)[:, 0]
    contrast = whole.patch_feat_proj_contrast(patches)
    assert_matches(whole.patch_feat_proj(patches), want["patch_embedding"])
    assert_matches(contrast, want["patch_embedding_contrast"])
    assert_matches(coarse, want["block0 (tokens 14x14)"])
    assert_matches(fine, want["block1 (tokens 28x28)"])
    assert_matches(density_map, want["density"])
    assert float(density_map.double().sum()) / 60 == pytest.approx(want["count = sum/60"][0], rel=1e-5)
    np.testing.assert_allclose([density_map.min(), density_map.max()], want["density_min_max"], rtol=1e-4)


def test_one_token_names_of_fsc147_are_as_counted() -> None:
    lists = json.loads(shared("mirror", "fsc147", "data", "Train_Test_Val_FSC_147.json").read_text())
    rows = shared("mirror", "fsc147", "data", "ImageClasses_FSC147.txt").read_text().splitlines()
    class_of = dict(row.split("\t") for row in rows)
    names = sorted(set(class_of.values()))
    one = {name for name, ids in zip(names, token_ids(names, ClipTowers()), strict=True) if int((ids > 0).sum()) == 3}
    want = case("one_token_names")[1]
    for split in ("train", "val", "test"):
        images = [class_of[file] for file in lists[split]]
        assert sum(name in one for name in images) == want[split]["images_one_token"]
        assert len(set(images) & one) == want[split]["classes_one_token"]
    assert sorted({class_of[file] for file in lists["test"]} & one) == want["test_class_names"]


# ------------------------------------------------------------------------------------------------------------- sizes


def test_paper_size_has_the_released_number_of_trainable_parameters() -> None:
    with torch.device("meta"):
        network = SYSTEM(ClipCountSettings())
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 16_363_969


def test_windows_are_blended_and_pictures_keep_a_multiple_of_16() -> None:
    network = tiny()
    assert (network.windows.stitch, network.windows.stride) == ("sigmoid", 48)
    assert network.prepare_image(torch.rand(3, 144, 220)).shape == (3, 144, 208)


def test_carpk_is_682_wide_and_asked_for_in_the_singular() -> None:
    network = tiny(window=384)
    picture = torch.zeros(3, 720, 1280)
    assert network.prepare_image(picture).shape == (3, 384, 682)
    assert tiny(window=384, carpk_width=683).prepare_image(picture).shape == (3, 384, 683)
    boxes = np.zeros((1, 4), np.float32)
    lot = Sample("a", "test", None, np.zeros((1, 2)), 1, "cars", 1280, 720, boxes=boxes)
    assert network.prompt_of(lot) == "car"
    assert network.prompt_of(Sample("b", "test", None, np.zeros((1, 2)), 1, "cars", 640, 384)) == "cars"


# ---------------------------------------------------------------------------------------------------------- switches


@torch.no_grad()
def test_names_of_one_token_give_the_same_count_as_released_and_not_when_mended() -> None:
    image = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(3)).expand(2, -1, -1, -1)
    released = tiny().predict(image, ["cars", "platelets"]).counts()
    mended = tiny(eot_index="fixed").predict(image, ["cars", "platelets"]).counts()
    torch.testing.assert_close(released[0], released[1], rtol=1e-6, atol=0)
    assert abs(mended[0] - mended[1]) > 1e-5 * mended[0]


@torch.no_grad()
def test_names_of_two_tokens_are_read_after_the_first() -> None:
    text = tiny().text
    red_stars, red_rings, blue_stars = text(["red stars", "red rings", "blue stars"])
    torch.testing.assert_close(red_stars, red_rings, rtol=0, atol=1e-6)
    assert not torch.allclose(red_stars, blue_stars, rtol=0, atol=1e-4)


def test_the_released_count_mask_scales_the_loss_and_the_spatial_one_masks_pixels() -> None:
    density_map, target = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    density_map[..., 0, 0] = 2.0
    mask = torch.ones(4, 4)
    mask[0, 0] = 0
    assert count_loss(density_map, target, mask, spatial=False) == pytest.approx(4 / 16 * 15 / 16)
    assert count_loss(density_map, target, mask, spatial=True) == 0


@torch.no_grad()
def test_a_sigmoid_keeps_the_output_below_one_and_linear_does_not() -> None:
    torch.manual_seed(0)
    coarse, fine = 30 * torch.randn(1, 16, 6, 6), 30 * torch.randn(1, 16, 12, 12)
    for activation, bounded in (("sigmoid", True), ("linear", False)):
        torch.manual_seed(0)
        decoder = DensityDecoder(16, (16, 16, 8, 8), 96, activation)
        decoder.final_conv[0].weight.mul_(100)
        out = decoder(coarse, fine)
        assert bool(((out >= 0) & (out <= 1)).all()) is bounded


@torch.no_grad()
def test_density_scale_divides_what_is_predicted() -> None:
    image = torch.rand(1, 3, 96, 96)
    sixty, six = (tiny(density_scale=scale).predict(image, ["red stars"]).counts() for scale in (60.0, 6.0))
    torch.testing.assert_close(six, 10 * sixty)


@torch.no_grad()
def test_antialiasing_changes_what_the_tower_sees() -> None:
    image = torch.rand(1, 3, 96, 96)
    off, on = (tiny(resize_antialias=value).patch_features(image) for value in (False, True))
    assert not torch.allclose(off, on)


def test_the_contrast_trains_alone_at_first_and_the_count_alone_later() -> None:
    network = tiny(contrast_epochs=2)
    for epoch, term in ((0, "contrast"), (2, "contrast"), (3, "count")):
        network.begin_epoch(epoch, [])
        assert list(network.losses(batch_of(network))) == [term]
    never = tiny(contrast_epochs=0)
    never.begin_epoch(0, [])
    assert list(never.losses(batch_of(never))) == ["count"]


def test_the_contrast_moves_prompts_and_context_but_no_decoder_and_no_clip() -> None:
    network = tiny().train()
    network.begin_epoch(0, [])
    network.losses(batch_of(network))["contrast"].backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"image.visual_prompt", "text.learnable_context", "patch_feat_proj_contrast.weight"} <= moved
    assert not any(name.startswith(("image.tower", "text.tower", "density_decoder", "fim_blocks")) for name in moved)


def test_mosaic_jitter_is_a_switch_of_the_augmentation() -> None:
    pool = TinyPool([(96, 140)])
    always = {"mosaic": 1.0, "jitter": 0.0, "mosaic_kind": "self"}
    crops = []
    for jitter in (False, True):
        maker = tiny(augmentation={**always, "mosaic_jitter": jitter}).example_maker()
        crops.append(maker(0, pool, np.random.default_rng(4))[0])
    assert not torch.allclose(crops[0].image, crops[1].image)
    assert torch.equal(crops[0].maps["density"], crops[1].maps["density"])


def test_a_word_that_the_tiny_tower_does_not_know_is_refused_before_training() -> None:
    sample = Sample("a", "train", None, np.zeros((1, 2)), 1, "zebras", 96, 96)
    with pytest.raises(UserError, match="zebras"):
        tiny().prepare_training([sample])


# --------------------------------------------------------------------------------------------------------- checkpoint


def released_files(folder: Path) -> tuple[Any, Path, Path]:
    """Return a network, a CLIP state dict and a Lightning file, as the release would have written them."""
    network = tiny()
    state = refilled(network)
    clip = {key.replace("image.tower.", "visual."): value for key, value in state.items() if "image.tower." in key}
    clip |= {key.removeprefix("text.tower."): value for key, value in state.items() if "text.tower." in key}
    save_file(clip | {"logit_scale": torch.tensor(4.6)}, folder / "clip.safetensors")
    renames = {"image": "img_encoder", "text": "text_encoder"}
    theirs = {}
    for key, value in state.items():
        side, _, rest = key.partition(".")
        if ".tower." not in key:
            theirs[f"model.{renames.get(side, side)}.{rest}".removesuffix(".")] = value
    content = {"state_dict": theirs, "epoch": 184, "hyper_parameters": {"args": Namespace(mode="train")}}
    torch.save(content, folder / "released.ckpt")
    return network, folder / "clip.safetensors", folder / "released.ckpt"


def test_a_released_checkpoint_is_imported_with_clip_beside_it_and_one_that_lacks_a_key_refused_by_name(
    tmp_path: Path,
) -> None:
    network, clip, released = released_files(tmp_path)
    settings = network.settings.model_copy(update={"weights": str(clip)})
    content = torch.load(released, weights_only=False)
    assert_imported(SYSTEM, content, refilled(network), settings, released)
    del content["state_dict"]["model.patch_feat_proj.bias"]
    assert_refused(SYSTEM, content, settings, released, r"patch_feat_proj\.bias")


def test_released_names_are_those_of_the_specification() -> None:
    assert our_name("model.img_encoder.visual_prompt") == "image.visual_prompt"
    assert our_name("model.text_encoder.learnable_context") == "text.learnable_context"
    names = set(tiny().state_dict())
    listed = [
        *("patch_emb_pos_embed", "decoder_ln_pre.weight", "decoder_norm.bias", "patch_feat_proj_contrast.weight"),
        *("fim_blocks.0.conv0.weight", "fim_blocks.1.selfattn.qkv.bias", "fim_blocks.1.attn.wq.weight"),
        *("fim_blocks.0.mlp.fc2.weight", "density_decoder.convs.3.1.weight", "density_decoder.final_conv.0.bias"),
        *("density_decoder.pyradim_conv.0.weight", "img_encoder.vpt_norm.weight", "img_encoder.vpt_proj.bias"),
    ]
    assert {our_name(f"model.{name}") for name in listed} <= names


def test_a_released_checkpoint_without_clip_is_refused(tmp_path: Path) -> None:
    network, _, released = released_files(tmp_path)
    with pytest.raises(UserError, match="holds no CLIP"):
        SYSTEM.import_checkpoint(released, network.settings.model_copy(update={"weights": "random"}))


def test_training_starts_from_the_base_weights(tmp_path: Path) -> None:
    network, clip, _ = released_files(tmp_path)
    fresh = SYSTEM(network.settings.model_copy(update={"weights": str(clip)}))
    fresh.prepare_training([Sample("a", "train", None, np.zeros((1, 2)), 1, "red stars", 96, 96)])
    want = fill().fill("image.tower.conv1.weight", tuple(fresh.image.tower.conv1.weight.shape))
    np.testing.assert_allclose(fresh.image.tower.conv1.weight.detach(), want)
