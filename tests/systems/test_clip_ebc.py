"""CLIP-EBC: golden outputs of the released networks, import of released files, and what each setting changes."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from block_targets import dm_loss, stacked_block_counts
from golden_tools import assert_matches, fill, golden, golden_case, refilled, tensor
from recount.errors import UserError
from recount.nn.clip import TextFeatures, build_tower
from recount.nn.dm_loss import DM_WEIGHTS
from recount.settings.base import merged
from recount.settings.project import load
from recount.settings.recipe import resolve_recipe
from recount.systems.clip_ebc import SYSTEM, ClipEbcSettings, dace_loss, resized_positions
from recount.training.schedules import learning_rate
from small_systems import batch_of, loss_of, losses_of_steps, mini
from tiny_pool import TinyPool

CASES = "clip_ebc"
our_name = SYSTEM.our_name
BACKBONES = ("resnet50", "vit_b16")
NETWORK = {"resnet50": "resnet50", "vit_b16": "vit_b_16"}
FULL_CASE = {"resnet50": "resnet50_96x128", "vit_b16": "vit_b16_deep_vpt_224"}


@cache
def filled(backbone: str) -> Any:
    """Return the network at paper size with formula-made weights; its text features are given, so no tower is built."""
    inputs, _ = golden_case(CASES, FULL_CASE[backbone])
    features = TextFeatures(tensor(inputs["text_features"]), 0)
    network = SYSTEM(ClipEbcSettings(backbone=backbone), text=features).eval()
    own = network.state_dict()
    names = {key: our_name(key) for key in golden(CASES)["networks"][NETWORK[backbone]]["tensors"]}
    names = {key: name for key, name in names.items() if name in own}
    assert set(names.values()) == set(own) - {"text_features"}
    state = refilled(network, inputs["weights"]["then_multiply"], names)
    network.load_state_dict({names[key]: value for key, value in state.items()}, strict=False)
    return network


def seen_in(**parts: Any) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    return seen


def tiny(backbone: str = "resnet50", **changes: Any) -> Any:
    return mini(SYSTEM, **{"backbone": backbone, **changes})


CROWD = TinyPool([(240, 260)], [np.random.default_rng(3).uniform(0, 200, (60, 2))])


def loss(network: Any) -> float:
    return loss_of(network, batch_of(network, CROWD)).item()


# ------------------------------------------------------------------------------------------------------------ golden


@torch.no_grad()
@pytest.mark.parametrize("case", ["vit_b16_deep_vpt_224", "vit_b16_deep_vpt_160x192", "vit_b16_shallow_vpt_160x192"])
def test_vit_agrees_with_the_released_code(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, want = golden_case(CASES, case)
    network = filled("vit_b16")
    encoder = network.image_encoder
    # shallow prompting uses the first of the deep prompts and nothing else of them
    monkeypatch.setattr(encoder, "settings", encoder.settings.model_copy(update={"deep": inputs["deep_vpt"]}))
    seen = seen_in(
        resblocks_1=encoder.trunk.transformer.resblocks[1],
        ln_post=encoder.trunk.ln_post,
        image_decoder=network.image_decoder,
        projection=network.projection,
    )
    logits, density = network.head(encoder(tensor(inputs["image"])))
    for part, value in {**seen, "logits": logits, "density": density, "count": density.sum()}.items():
        assert_matches(value, want[part.replace("resblocks_", "resblocks.")])


@torch.no_grad()
def test_resnet_agrees_with_the_released_code() -> None:
    inputs, want = golden_case(CASES, "resnet50_96x128")
    network = deepcopy(filled("resnet50")).double()
    trunk = network.image_encoder.trunk
    seen = seen_in(
        layer1=trunk.layer1, layer4=trunk.layer4, image_decoder=network.image_decoder, projection=network.projection
    )
    logits, density = network.head(network.image_encoder(tensor(inputs["image"]).double()))
    for part, value in {**seen, "logits": logits, "density": density, "count": density.sum()}.items():
        assert_matches(value, want[part], 1e-7)


@pytest.mark.parametrize("backbone", [pytest.param("resnet50", marks=pytest.mark.more), "vit_b16"])
def test_train_step_of_decoder_and_head_is_the_golden_one(backbone: str) -> None:
    inputs, want = golden_case(CASES, f"{backbone}_head_train_step")
    network = deepcopy(filled(backbone)).double().train()
    spec = inputs["encoder_features"]
    shape = tuple(spec["shape"][1:])
    features = torch.from_numpy(np.stack([fill().wave(shape, a, spec["b"], spec["scale"]) for a in spec["a"]])).double()
    points = [torch.tensor(each, dtype=torch.float32).reshape(-1, 2) for each in inputs["points"]]
    seen = seen_in(image_decoder=network.image_decoder, projection=network.projection)
    logits, density = network.head(features)
    blocks = stacked_block_counts(points, 64, 64, 8).double()
    terms = dace_loss(network.settings, logits, density, blocks, points)
    loss = terms["cross_entropy"] + dm_loss(terms)
    loss.backward()
    for part, value in {**seen, "logits": logits, "density": density, "count": density.sum(dim=(1, 2, 3))}.items():
        assert_matches(value, want[part], 1e-7)
    names = {"loss": loss, "ce_loss": terms["cross_entropy"], "tv_loss": terms["variation"]}
    for part, value in {**names, "count_loss": terms["count"]}.items():
        assert_matches(value, want[part], 1e-7)
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    norm = torch.stack([grad.square().sum() for grad in gradients.values()]).sum().sqrt()
    assert_matches(norm, want["grad_norm(image_decoder, projection, logit_scale)"], 1e-7)
    for key in [key for key in want if key.startswith("grad:")]:
        assert_matches(gradients[our_name(key.removeprefix("grad:"))], want[key], 1e-7)
    for key in [key for key in want if key.startswith("buffer after:")]:
        assert_matches(network.state_dict()[our_name(key.removeprefix("buffer after:"))], want[key], 1e-7)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_sizes_are_those_of_the_released_network(backbone: str) -> None:
    want = golden(CASES)["networks"][NETWORK[backbone]]
    network = filled(backbone)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == want["parameters"]["trainable"]
    with torch.device("meta"):
        tower = build_tower(network.settings.text)
    total = sum(p.numel() for part in (network, tower) for p in part.parameters())
    assert total == want["parameters"]["total"]
    own = network.state_dict()
    official = {key: shape for key, shape in want["tensors"].items() if our_name(key) is not None}
    assert {key: list(own[our_name(key)].shape) for key in official} == official


@pytest.mark.parametrize("name", ["mae", "mse", "dmcount", "dmcount_224_12_bins"])
def test_dace_is_the_golden_one(name: str) -> None:
    inputs, want = golden_case(CASES, f"dace_{name}")
    count_loss = name.split("_", maxsplit=1)[0]
    chosen = {"truncation": 11} if name.endswith("bins") else {}
    settings = ClipEbcSettings(count_loss=count_loss, **chosen)
    logits = tensor(inputs["logits"]).requires_grad_()
    anchors = torch.tensor(inputs["anchors"], dtype=torch.float32).view(1, -1, 1, 1)
    assert settings.bins.anchors == pytest.approx(inputs["anchors"])
    density = (logits.softmax(dim=1) * anchors).sum(dim=1, keepdim=True)
    points = [torch.tensor(each, dtype=torch.float32).reshape(-1, 2) for each in inputs["points"]]
    blocks = stacked_block_counts(points, inputs["input_size"], inputs["input_size"], 8)
    terms = dace_loss(settings, logits, density, blocks, points)
    loss = torch.stack([DM_WEIGHTS.get(key, 1.0) * value for key, value in terms.items()]).sum()
    loss.backward()
    names = {"mae": {"mae_loss": "count_mae"}, "mse": {"mse_loss": "count_mse"}}
    names = {"ce_loss": "cross_entropy", **names.get(count_loss, {"tv_loss": "variation", "count_loss": "count"})}
    assert_matches(loss, want["loss"])
    for theirs, ours in names.items():
        assert_matches(terms[ours], want[theirs])
    assert_matches(logits.grad, want["grad_logits"])


@pytest.mark.parametrize(("case", "over"), [("default", {}), ("vit_qnrf", {"schedule": {"initial_lr": 1e-3}})])
def test_learning_rates_are_those_of_the_released_commands(case: str, over: dict[str, Any]) -> None:
    recipe = resolve_recipe(SYSTEM.recipe, over)
    for index, rate in golden(CASES)["cases"][f"lr_schedule_{case}"]["outputs"].items():
        assert learning_rate(recipe.schedule, recipe.optimiser.lr, int(index), recipe.epochs) == pytest.approx(rate)


# ----------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("block", [8, 16, 32])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_block_size_has_a_cell_per_block(backbone: str, block: int) -> None:
    network = tiny(backbone, block=block, truncation={8: 4, 16: 8, 32: 19}[block])
    assert network.predict(torch.rand(1, 3, 96, 64), [""]).density.shape == (1, 1, 96 // block, 64 // block)


def test_the_last_stage_keeps_its_resolution_unless_blocks_are_large() -> None:
    image = torch.rand(1, 3, 64, 96)
    assert tiny().image_encoder(image).shape[2:] == (4, 6)
    assert tiny(block=32, truncation=19).image_encoder(image).shape[2:] == (2, 3)


def test_only_prompts_decoder_and_head_of_the_vit_are_trained() -> None:
    trained = {name.split(".")[0] for name, p in tiny("vit_b16").named_parameters() if p.requires_grad}
    assert trained == {"image_encoder", "image_decoder", "projection", "logit_scale"}
    encoder = tiny("vit_b16").image_encoder
    assert {name.split(".")[0] for name, p in encoder.named_parameters() if p.requires_grad} == {"prompts"}


def test_without_prompts_the_whole_vit_is_trained() -> None:
    network = tiny("vit_b16", vit={**SYSTEM.mini_settings()["vit"], "visual_prompts": 0})
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_positions_keep_the_class_row_when_they_are_resized() -> None:
    positions = torch.randn(1 + 49, 8)
    assert resized_positions(positions, (7, 7)) is positions
    resized = resized_positions(positions, (5, 9))
    assert resized.shape == (46, 8)
    assert torch.equal(resized[0], positions[0])


def test_images_for_the_resnet_are_padded_to_its_stride() -> None:
    assert tiny().prepare_image(torch.rand(3, 100, 161)).shape == (3, 112, 176)
    assert tiny("vit_b16").prepare_image(torch.rand(3, 100, 161)).shape == (3, 100, 161)


def test_the_vit_looks_through_windows_and_the_resnet_does_not() -> None:
    assert tiny().windows is None
    windows = tiny("vit_b16", window_fit="resize").windows
    assert (windows.height, windows.stride, windows.fit) == (112, 112, "resize")


# ----------------------------------------------------------------------------------------------------------- switches


@pytest.mark.parametrize(
    "switch",
    [
        {"truncation": 2},
        {"block": 16, "truncation": 8},
        {"block": 16, "truncation": 8, "granularity": "dynamic"},
        {"block": 16, "truncation": 8, "granularity": "coarse"},
        {"anchors": "middle"},
        {"last_anchor": 9.0},
        {"count_loss": "none"},
        {"count_loss": "mae"},
        {"count_loss": "mse"},
        {"prompts": "number"},
        {"augmentation": "crop_flip"},
        {"crops": 2},
        {"crop_scale": (1.0, 1.1)},
        {"bins_of": "sha"},
        {"backbone": "vit_b16"},
    ],
)
def test_switch_changes_the_loss(switch: dict[str, Any]) -> None:
    assert loss(tiny(**switch)) == loss(tiny(**switch)) != loss(tiny())


@pytest.mark.parametrize("switch", [{"visual_prompts": 0}, {"deep": False}, {"visual_prompts": 8}])
def test_prompt_switch_changes_the_prediction(switch: dict[str, Any]) -> None:
    image = torch.rand(1, 3, 112, 112)
    changed = tiny("vit_b16", vit={**SYSTEM.mini_settings()["vit"], **switch})
    assert not torch.allclose(changed.predict(image, [""]).density, tiny("vit_b16").predict(image, [""]).density)


def test_coincident_points_switch_changes_the_target() -> None:
    pool = TinyPool([(240, 260)], [np.full((6, 2), 100.0)])
    sums = []
    for coincident in ("set", "add"):
        maker = tiny(coincident_points=coincident, crop_scale=(1.9, 2.0)).example_maker()
        examples = [maker(0, pool, np.random.default_rng(seed))[0] for seed in range(8)]
        sums.append(sum(float(example.maps["blocks"].sum()) for example in examples))
    assert sums[1] == 6 * sums[0] > 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_lowers_the_loss_on_one_picture(backbone: str) -> None:
    network = tiny(backbone).train()
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 3e-3)
    losses = losses_of_steps(network, batch_of(network, CROWD, (0, 1)), optimiser, 8)
    assert losses[-1] < 0.8 * losses[0]


# --------------------------------------------------------------------------------------- base weights and checkpoints


def clip_file(folder: Path, backbone: str) -> tuple[str, dict[str, Tensor]]:
    """Write a CLIP state dict of the tiny size, image and text, with open_clip's names; return its path and tensors."""
    network = tiny(backbone)
    for parameter in network.image_encoder.parameters():
        torch.nn.init.normal_(parameter)
    state = {f"visual.{key}": value for key, value in network.image_encoder.trunk.state_dict().items()}
    unused = "visual.attnpool.q_proj.weight" if backbone == "resnet50" else "visual.proj"
    state |= {unused: torch.zeros(2), "logit_scale": torch.zeros(()), **refilled(build_tower(network.settings.text))}
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "clip.safetensors")
    return str(folder / "clip.safetensors"), state


@pytest.mark.parametrize(("backbone", "part"), [("resnet50", "resnet"), ("vit_b16", "vit")])
def test_base_weights_fill_trunk_and_sentences(tmp_path: Path, backbone: str, part: str) -> None:
    path, state = clip_file(tmp_path, backbone)
    network = tiny(backbone, **{part: {**SYSTEM.mini_settings()[part], "weights": path}})
    assert torch.equal(network.image_encoder.trunk.conv1.weight, state["visual.conv1.weight"])
    assert not torch.allclose(network.text_features, tiny(backbone).text_features)


def test_base_positions_are_resized_to_the_input(tmp_path: Path) -> None:
    path, state = clip_file(tmp_path, "vit_b16")
    changes = {"weights": path, "input_size": 128, "visual_prompts": 0}
    network = tiny("vit_b16", vit={**SYSTEM.mini_settings()["vit"], **changes})
    expected = resized_positions(state["visual.positional_embedding"], (8, 8))
    assert torch.equal(network.image_encoder.trunk.positional_embedding, expected)


def official(network: Any) -> dict[str, Tensor]:
    """Return a network's state under the released names, with a text tower of its own."""
    tower = {f"text_encoder.{key}": value for key, value in refilled(build_tower(network.settings.text)).items()}
    own = {}
    for key, value in network.state_dict().items():
        if key != "text_features":
            key = key.replace("image_encoder.prompts.", "vpt_").replace("image_encoder.trunk.", "image_encoder.")
            own[key] = value.clone()
    return {**own, **tower}


def saved(folder: Path, layout: str, state: dict[str, Tensor]) -> Path:
    path = folder / f"{layout}.{'safetensors' if layout == 'hugging_face' else 'pth'}"
    if layout == "hugging_face":
        save_file({f"model.{key}": value.contiguous() for key, value in state.items()}, path)
    elif layout == "ckpt":
        torch.save({"model_state_dict": state, "optimizer_state_dict": {}, "epoch": 3, "best_scores": {}}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("layout", ["hugging_face", "ckpt", "bare"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_released_files_are_imported_with_their_own_text_tower(tmp_path: Path, backbone: str, layout: str) -> None:
    source = tiny(backbone)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = SYSTEM.import_checkpoint(saved(tmp_path, layout, official(source)), source.settings)
    target = tiny(backbone)
    target.load_state_dict(state)
    assert not torch.equal(state["text_features"], source.text_features)
    source.load_state_dict({**source.state_dict(), "text_features": state["text_features"]})
    image = torch.rand(1, 3, 112, 112)
    assert torch.equal(target.predict(image, [""]).density, source.predict(image, [""]).density)


def test_version_1_files_have_no_prompts_and_other_positions(tmp_path: Path) -> None:
    first = {**SYSTEM.mini_settings()["vit"], "visual_prompts": 0, "input_size": 128}
    source = tiny("vit_b16", vit=first, window_fit="resize")
    path = saved(tmp_path, "bare", official(source))
    source.load_state_dict(SYSTEM.import_checkpoint(path, source.settings))
    with pytest.raises(UserError, match="version 1"):
        SYSTEM.import_checkpoint(path, tiny("vit_b16").settings)


def test_the_released_vit_is_version_1_s_network_at_paper_size() -> None:
    project = load(Path(__file__).parents[2], {"suite": "paper"})
    settings = project.resolved("clip_ebc", "vit_b16_released").settings
    settings = ClipEbcSettings.model_validate(merged(settings, {"vit": {"weights": "random"}}))
    with torch.device("meta"):
        network = SYSTEM(settings, text=TextFeatures(torch.zeros(5, 512), 0))
    state = network.state_dict()
    assert not any("prompts" in key for key in state)  # the specification of CLIP-EBC's checkpoints
    assert state["image_encoder.trunk.positional_embedding"].shape == (257, 768)
    assert network.windows is not None
    assert (network.windows.height, network.windows.strides, network.windows.fit) == (256, (256, 256), "resize")
    assert all(parameter.requires_grad for parameter in network.image_encoder.parameters())


def test_import_names_every_missing_and_unexpected_key(tmp_path: Path) -> None:
    network = tiny()
    state = official(network)
    del state["projection.bias"]
    state["image_encoder.attnpool.bias"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"missing: projection\.bias; unexpected: image_encoder\.attnpool\.bias"):
        SYSTEM.import_checkpoint(saved(tmp_path, "bare", state), network.settings)
