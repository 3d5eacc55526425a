"""GigaCount: golden outputs of the released network, strict import, and what each setting changes."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from block_targets import dm_loss, stacked_block_counts
from golden_tools import assert_matches, fill, golden, golden_case, refilled, tensor
from projects import ROOT
from recount import systems
from recount.errors import UserError
from recount.nn.clip import TextFeatures, build_tower
from recount.nn.focus import CCSM, ConvNeXtEncoder, FeatureFusion, ODConv2d
from recount.settings.project import load
from recount.settings.recipe import resolve_recipe
from recount.systems.base import Batch
from recount.systems.gigacount import GigaCount, GigaCountSettings, ODConvEncoder, hybrid_loss, odconv_block
from recount.training.schedules import learning_rate
from small_systems import loss_of, losses_of_steps, mini
from tiny_pool import TinyPool

CASES = "gigacount"
our_name = GigaCount.our_name
case_of = partial(golden_case, CASES)
tiny = partial(mini, GigaCount, input_size=64)


def load_filled(module: nn.Module, inputs: dict[str, Any], keys: Any = None, prefix: str = "") -> nn.Module:
    """Load formula-made weights through the official key names, as ``keys`` lists them (or as the module's own)."""
    names = {key: our_name("x." + key.removeprefix(prefix)).removeprefix("x.") for key in keys or module.state_dict()}
    state = refilled(module, inputs["weights"].get("then_multiply"), names)
    module.load_state_dict({names[key]: value for key, value in state.items()})
    return module


@pytest.mark.parametrize("name", ["odconv_1x1_eval", "odconv_3x3_eval", "odconv_1x1_train"])
def test_odconv_gives_the_golden_map(name: str) -> None:
    inputs, want = case_of(name)
    _, out, channels, size, _ = inputs["tensors"]["weight"]
    layer = load_filled(ODConv2d(channels, out, size), inputs, inputs["tensors"]).train(name.endswith("train"))
    x = tensor(inputs["x"])
    assert_matches(layer(x), want["out"])
    if name.endswith("train"):
        assert_matches(layer.attention.bn.running_mean, want["attention.bn.running_mean"])
        assert_matches(layer.attention.bn.running_var, want["attention.bn.running_var"])
        return
    channel, filters, places, kernels = layer.attention(x)
    assert_matches(channel, want["channel_attention"])
    assert_matches(filters, want["filter_attention"])
    assert_matches(kernels, want["kernel_attention"])
    if "spatial_attention" in want:
        assert_matches(places.flatten(1), want["spatial_attention"])


def test_odconv_block_gives_the_golden_map() -> None:
    inputs, want = case_of("odconv_block_eval")
    block = load_filled(odconv_block(16), inputs, inputs["tensors"]).eval()
    assert_matches(block(tensor(inputs["x"])), want["out"])


@pytest.mark.parametrize(
    ("name", "dtype", "rtol"), [("ccsm_eval", torch.float32, 1e-4), ("ccsm_train", torch.float64, 1e-7)]
)
def test_ccsm_gives_the_golden_map(name: str, dtype: torch.dtype, rtol: float) -> None:
    inputs, want = case_of(name)
    neck = load_filled(CCSM(96, 48, 16), inputs, inputs["tensors"]).to(dtype).train(name.endswith("train"))
    seen = {}
    for part in ("conv1", "conv4"):
        getattr(neck, part).register_forward_hook(lambda _, __, out, part=part: seen.update({part: out}))
    assert_matches(neck(tensor(inputs["x"]).to(dtype)), want["out"], rtol)
    assert_matches(seen["conv1"], want["conv1"], rtol)
    assert_matches(seen["conv4"], want["conv4"], rtol)
    if name.endswith("train"):
        assert_matches(neck.conv1[2].running_mean, want["conv1.2.running_mean"], rtol)
        assert_matches(neck.conv4[2].running_var, want["conv4.2.running_var"], rtol)


def test_fusion_gives_the_golden_map() -> None:
    inputs, want = case_of("fusion")
    fusion = load_filled(FeatureFusion(16, 32, 64), inputs, inputs["tensors"])
    maps = [tensor(inputs[name]) for name in ("shallow", "mid", "deep")]
    assert_matches(fusion(*maps), want["out"])


def test_odconv_backbone_gives_the_golden_maps() -> None:
    inputs, want = case_of("odconv_backbone_eval")
    encoder = load_filled(ODConvEncoder((16, 32, 64, 128), (3, 3, 9, 3)), inputs, inputs["tensors"], "convnext.").eval()
    for got, name in zip(encoder(tensor(inputs["image"])), ("shallow", "mid", "deep"), strict=True):
        assert_matches(got, want[name])


# ------------------------------------------------------------------------------------------- the network at full size


def full_network(stage4: bool = False) -> GigaCount:
    """Return the network at paper size; its text features are given, so that no tower is built."""
    text = golden(CASES)["cases"]["full_eval"]["inputs"]["text_features"]
    features = TextFeatures(tensor(text), 63_428_096)
    return GigaCount(GigaCountSettings(stage4=stage4), text=features).eval()


def official_keys(network: GigaCount) -> list[str]:
    """Return our state dict's keys under the released names."""
    official = {"channel_attention": "ch_att_s.shared_MLP.0", "spatial_attention": "sa_s.conv1"}
    keys = []
    for key in network.state_dict():
        for ours, theirs in official.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
        keys.append(key)
    keys.remove("text_features")
    return keys


def fill_network(network: GigaCount, inputs: dict[str, Any]) -> GigaCount:
    names = {key: our_name(key) for key in official_keys(network)}
    state = refilled(network, inputs.get("weights", {}).get("then_multiply"), names)
    network.load_state_dict({names[key]: value for key, value in state.items()}, strict=False)
    return network


def watched(network: GigaCount) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for part in ("ccsm1", "ccsm2", "ccsm3", "fusion", "image_decoder", "projection"):
        network.get_submodule(part).register_forward_hook(lambda _, __, out, part=part: seen.update({part: out}))
    return seen


def forward_of(network: GigaCount, image: Tensor) -> tuple[Tensor, Tensor]:
    return network.head(network.neck(*network.image_encoder(image)), (28, 28))


def test_sizes_are_those_of_the_released_network() -> None:
    want = golden(CASES)["networks"]["gigacount"]
    network = full_network()
    trained = sum(parameter.numel() for parameter in network.parameters())
    assert trained == want["parameters"]["trainable"]
    assert sum(p.numel() for p in network.image_encoder.parameters()) == want["parameters"]["image_encoder"]
    assert trained + network.frozen_text_parameters == want["parameters"]["total"]
    ours = {key: list(network.state_dict()[our_name(key)].shape) for key in official_keys(network)}
    assert ours == {key: shape for key, shape in want["tensors"].items() if not key.startswith("text_encoder.")}


def test_image_encoder_gives_the_golden_maps() -> None:
    inputs, want = case_of("image_encoder_64x96")
    encoder = ConvNeXtEncoder((96, 192, 384, 768), (3, 3, 9, 3), stage4=False, layer_scale=1e-6)
    load_filled(encoder, inputs).eval()
    for got, name in zip(encoder(tensor(inputs["image"])), ("shallow", "mid", "deep"), strict=True):
        assert_matches(got, want[name])


@torch.no_grad()
def test_head_gives_the_golden_density() -> None:
    inputs, want = case_of("head_eval")
    network = fill_network(full_network(), inputs)
    seen = watched(network)
    logits, density = network.head(tensor(inputs["fused"]), (28, 28))
    assert_matches(seen["image_decoder"], want["image_decoder"])
    assert_matches(seen["projection"], want["projection"])
    assert_matches(logits, want["logits"])
    assert_matches(density, want["density"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["full_eval", "with_stage4_full_eval"])
def test_whole_network_gives_the_golden_density(name: str) -> None:
    inputs, want = case_of(name)
    network = fill_network(full_network(stage4="stage4" in name), inputs)
    seen = watched(network)
    logits, density = forward_of(network, tensor(inputs["image"]))
    for part, value in {**seen, "logits": logits, "density": density}.items():
        assert_matches(value, want[part])
    assert_matches(density.sum(dim=(1, 2, 3)), want["count"])
    if "stage4" in name:
        sizes = golden(CASES)["networks"]["gigacount_stage4"]["parameters"]
        assert sum(p.numel() for p in network.parameters()) == sizes["trainable"]
        assert sum(p.numel() for p in network.image_encoder.parameters()) == sizes["image_encoder"]


def test_under_autocast_only_odconv_computes_in_single_precision() -> None:
    network, seen = tiny(), {}
    watched = {"odconv": network.ccsm1.conv1[0], "attention": network.ccsm1.channel_attention}
    watched["transposed"] = network.fusion.upsample_1
    for name, layer in watched.items():
        layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.dtype}))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network.classify(torch.rand(1, 3, 96, 96))
    assert seen == {"odconv": torch.float32, "attention": torch.bfloat16, "transposed": torch.bfloat16}


def waves_per_sample(spec: dict[str, Any]) -> Tensor:
    shape = tuple(spec["shape"][1:])
    return torch.from_numpy(np.stack([fill().wave(shape, a + spec["d"], spec["b"], spec["scale"]) for a in spec["a"]]))


def test_train_step_of_neck_and_head_is_the_golden_one() -> None:
    inputs, want = case_of("neck_head_train_step")
    network = fill_network(full_network(), inputs)
    points = [torch.tensor(each, dtype=torch.float32).reshape(-1, 2) for each in inputs["points"]]
    maps = [waves_per_sample(spec).double() for spec in inputs["shallow, mid, deep"]]
    network = network.double().train()
    seen = watched(network)
    logits, density = network.head(network.neck(*maps), (28, 28))
    terms = hybrid_loss(network.settings, logits, density, stacked_block_counts(points, 224, 224, 8).double(), points)
    loss = terms["cross_entropy"] + terms["probability"] + dm_loss(terms)
    for part, value in {**seen, "logits": logits, "density": density, "loss": loss}.items():
        assert_matches(value, want[part], 1e-7)
    assert_matches(terms["cross_entropy"], want["ce"], 1e-7)
    assert_matches(terms["variation"], want["tv"], 1e-7)
    assert_matches(terms["count"], want["count_loss"], 1e-7)
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    norm = torch.stack([grad.square().sum() for grad in gradients.values()]).sum().sqrt()
    assert_matches(norm, want["grad_norm"], 1e-7)
    for key in [key for key in want if key.startswith("grad:")]:
        assert_matches(gradients[our_name(key.removeprefix("grad:"))], want[key], 1e-7)
    for key in [key for key in want if key.startswith("buffer after:")]:
        assert_matches(network.state_dict()[our_name(key.removeprefix("buffer after:"))], want[key], 1e-7)


# ------------------------------------------------------------------------------------------------------------ imports


def released_state(network: GigaCount) -> dict[str, Tensor]:
    own = network.state_dict()
    state = {key: own[our_name(key)] + 0 for key in official_keys(network)}
    tower = {f"text_encoder.{key}": value for key, value in refilled(build_tower(network.settings.text)).items()}
    return {**state, **tower}


def test_released_checkpoint_imports_with_its_own_text_tower(tmp_path: Path) -> None:
    source, path = tiny(), tmp_path / "best_mae.pth"
    torch.save({"epoch": 3, "best_mae": 1.5, "model_state_dict": released_state(source)}, path)
    state = GigaCount.import_checkpoint(path, source.settings)
    target = tiny()
    target.load_state_dict(state)
    assert not torch.equal(state["text_features"], source.text_features)
    source.load_state_dict({**source.state_dict(), "text_features": state["text_features"]})
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(target.predict(image, [""]).density, source.predict(image, [""]).density)


def test_import_names_every_missing_and_unexpected_key(tmp_path: Path) -> None:
    network, path = tiny(), tmp_path / "broken.pth"
    state = released_state(network)
    del state["projection.bias"], state["ccsm2.sa_s.conv1.weight"]
    torch.save({**state, "projection.scale": torch.ones(1)}, path)
    with pytest.raises(
        UserError,
        match=r"broken\.pth.*missing: ccsm2\.spatial_attention\.weight, projection\.bias.*unexpected: projection\.sc",
    ):
        GigaCount.import_checkpoint(path, network.settings)


def test_backbone_weights_switch_loads_torchvisions_convnext(tmp_path: Path) -> None:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    sizes = [(16, 32, 1), (32, 64, 1), (64, 128, 2), (128, None, 1)]
    pretrained, path = ConvNeXt([CNBlockConfig(*size) for size in sizes]).eval(), tmp_path / "convnext.pth"
    torch.save(pretrained.state_dict(), path)
    network = tiny(backbone_weights=str(path))
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(network.image_encoder(image)[2], pretrained.features[:6](image))


# ----------------------------------------------------------------------------------------------------------- settings


POOL = TinyPool([(90, 120)], [np.random.default_rng(5).uniform(0, (120, 90), (40, 2)).repeat(2, axis=0)])


def batch_of(network: GigaCount, seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    return Batch.of(network.example_maker()(0, POOL, np.random.default_rng(seed)))


def loss(network: GigaCount, batch: Batch) -> float:
    torch.manual_seed(0)
    return loss_of(network.train(), batch).item()


def test_a_picture_is_decoded_once_for_its_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(POOL, "image", lambda index: (decoded.append(index), POOL.pictures[index])[1])
    assert len(batch_of(tiny(crops=4))) == 4
    assert decoded == [0]


NETWORK_SWITCHES = [
    *({"loss": "ce"}, {"loss": "dace"}, {"loss": "ce_prob"}, {"text_activation": "quickgelu"}, {"prompts": "number"}),
    *({"last_anchor": 4.32696}, {"anchors": "middle"}, {"truncation": 2}, {"stage4": True}, {"backbone": "odconv"}),
]


@pytest.mark.parametrize("switch", NETWORK_SWITCHES, ids=str)
def test_switch_changes_the_loss(switch: dict[str, Any]) -> None:
    plain = tiny()
    batch = batch_of(plain)
    assert loss(tiny(**switch), batch) != loss(plain, batch)


def test_coincident_points_switch_changes_the_target() -> None:
    once, each = batch_of(tiny()), batch_of(tiny(coincident_points="add"))
    assert each.maps["blocks"].sum() == each.counts.sum()
    assert once.maps["blocks"].sum() * 2 == once.counts.sum()


@pytest.mark.parametrize(
    "switch", [{"hue": 0.0}, {"blur": "isotropic"}, {"augmentation": "crop_flip"}, {"crop_scale": (1.0, 2.0)}]
)
def test_switch_changes_the_augmented_images(switch: dict[str, Any]) -> None:
    pairs = ((batch_of(tiny(), seed).images, batch_of(tiny(**switch), seed).images) for seed in range(12))
    assert not all(torch.equal(plain, switched) for plain, switched in pairs)


def test_default_recipe_is_the_released_scripts() -> None:
    recipe = GigaCount.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.optimiser.lr, recipe.clip_norm) == (600, 24, 5e-4, 1.0)
    assert recipe.eval_mode_after_first_evaluation


def test_training_lowers_the_loss_on_one_picture() -> None:
    network = tiny(augmentation="crop_flip").train()
    batch = batch_of(network)
    losses = losses_of_steps(network, batch, torch.optim.AdamW(network.parameters(), lr=2e-3), 25)
    assert loss(network, batch) < 0.7 * losses[0]


@pytest.mark.parametrize("switch", [{"stage4": True}, {"fusion": False}], ids=str)
def test_other_necks_run_at_the_mini_size(switch: dict[str, bool]) -> None:
    system = GigaCount(GigaCountSettings(**GigaCount.mini_settings(), **switch)).eval()
    size = system.settings.input_size
    assert system.predict(torch.rand(1, 3, size, size), [""]).density.shape == (1, 1, size // 8, size // 8)


def test_without_fusion_the_decoder_sees_the_deep_map_alone() -> None:
    system = GigaCount(GigaCountSettings(**GigaCount.mini_settings(), fusion=False)).eval()
    maps = system.image_encoder(torch.rand(1, 3, 96, 96))
    fused = system.neck(*maps)
    assert fused.shape == (1, system.settings.neck_widths[2], 24, 24)
    assert torch.equal(fused, system.neck(*(torch.zeros_like(each) for each in maps[:2]), maps[2]))


def _cosine(top: float, share: float) -> float:
    return 5e-6 + (top - 5e-6) * (1 + math.cos(math.pi * share)) / 2


def _warm(epoch: int) -> float:
    return 1e-5 + (5e-4 - 1e-5) * epoch / 20


RATES: dict[str, Callable[[int], float]] = {  # of the epoch, from the specification's sections 5 and 9
    "full": lambda epoch: _warm(epoch) if epoch < 20 else _cosine(5e-4, (epoch - 20) % 80 / 80),
    "clean": lambda epoch: _warm(epoch) if epoch < 20 else _cosine(5e-4, (epoch - 20) / 580),
    "no_scheduler": lambda _: 5e-4,
    "schedule_linear": lambda epoch: 5e-4 - (5e-4 - 5e-6) * epoch / 600,
    "schedule_halving": lambda epoch: _cosine(5e-4 * 0.5 ** (epoch // 100), epoch % 100 / 100),
}


@pytest.mark.parametrize("variant", RATES)
def test_each_schedule_of_suite_paper_gives_the_rates_that_its_protocol_names(variant: str) -> None:
    runs = {run.variant: run for run in load(ROOT, {"suite": "paper"}).trainings if run.system == "gigacount"}
    recipe = resolve_recipe(systems.load("gigacount").recipe, runs[variant].recipe)
    assert recipe.epochs == (30 if variant == "no_scheduler" else 600)
    rates = [
        learning_rate(recipe.schedule, recipe.optimiser.lr, epoch, recipe.epochs) for epoch in range(recipe.epochs)
    ]
    assert rates == pytest.approx([RATES[variant](epoch) for epoch in range(recipe.epochs)], rel=1e-9)
