"""LoViTCrowd: golden outputs of the released network, windows and targets of cells, and what each setting changes."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from golden_tools import assert_matches, fill, golden, golden_case, refilled, tensor
from recount.errors import UserError
from recount.settings.base import Strict
from recount.systems.lovitcrowd import (
    CELL,
    LoViTCrowd,
    LovitcrowdSettings,
    aggregated,
    cell_targets,
    framed,
    new_size,
    our_name,
    resized_positions,
    windows_of,
)
from small_systems import assert_refused, batch_of, loss_of, mini
from tiny_pool import TinyPool

case_of = partial(golden_case, "lovitcrowd")
tiny = partial(mini, LoViTCrowd)


def official_shapes(depth: int) -> dict[str, list[int]]:
    """Return names and shapes of the released network with so many blocks."""
    given = golden("lovitcrowd")["networks"]["lovitcrowd_depth2"]["tensors"]
    first = {key: shape for key, shape in given.items() if ".blocks.0." in key}
    rest = {key: shape for key, shape in given.items() if ".blocks." not in key}
    return rest | {key.replace("s.0.", f"s.{n}.", 1): shape for n in range(depth) for key, shape in first.items()}


def filled(inputs: dict[str, Any], depth: int) -> LoViTCrowd:
    network = LoViTCrowd(LovitcrowdSettings(depth=depth)).eval()
    shapes = {key: shape for key, shape in official_shapes(depth).items() if our_name(key) is not None}
    names = {key: our_name(key) for key in shapes}
    state = refilled(network, inputs["weights"]["then_multiply"], names)
    assert {key: list(value.shape) for key, value in state.items()} == shapes
    network.load_state_dict({names[key]: value for key, value in state.items()})
    return network.double()


@torch.no_grad()
@pytest.mark.parametrize(("name", "depth"), [("depth2_eval", 2), pytest.param("full_eval", 12, marks=pytest.mark.more)])
def test_the_network_gives_the_golden_counts(name: str, depth: int) -> None:
    inputs, want = case_of(name)
    network, image = filled(inputs, depth), tensor(inputs["image"]).double()
    sizes = inputs.get("parameters") or golden("lovitcrowd")["networks"]["lovitcrowd_depth2"]["parameters"]
    assert sum(p.numel() for p in network.parameters()) == sizes["total"] - sizes["unused_head"]
    assert sum(p.numel() for p in network.patch_embed.backbone.parameters()) == sizes["backbone"]
    tokens = network.patch_embed(image)
    encoded = network.encoded(tokens)
    norm = network.norm(encoded)
    found = {
        "backbone": network.patch_embed.backbone(image),
        "tokens": tokens,
        "encoder_plus_skip": encoded,
        "norm": norm,
    }
    found |= {"output1": network.output1(norm[:, 1:].flatten(0, 1)), "out": network.count_cells(image)[:, None]}
    for part, value in found.items():
        if part in want:
            assert_matches(value, want[part], 1e-7)


@pytest.mark.more
def test_gradients_and_statistics_of_a_training_pass_are_the_golden_ones() -> None:
    """Of what the trunk's normalisations amplify (gradients of 1e9) double precision leaves two digits: a picture that
    differs by 1e-15 moves it by up to 8e-3 here, and so do other kernels. The rest is held to the golden tolerance."""
    inputs, want = case_of("depth2_train")
    network = filled(inputs, 2).train()
    network.output2[3].p = 0.0
    seen: dict[str, Tensor] = {}
    network.norm.register_forward_hook(lambda _, __, out: seen.update(norm=out))
    counts = network.count_cells(tensor(inputs["image"]).double())
    assert_matches(counts[:, None], want["out"])
    assert_matches(seen["norm"], want["norm"], 1e-2)
    counts.sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert_matches(torch.stack([grad.square().sum() for grad in gradients.values()]).sum().sqrt(), want["grad_norm"])
    found = {f"grad:{name}": grad for name, grad in gradients.items()}
    found |= {f"buffer after:{name}": value for name, value in network.state_dict().items()}
    compared = [key for key in want if ":" in key]
    assert len(compared) == 14
    for key in compared:
        amplified = key.startswith(("grad:part_cnn.patch_embed.backbone", "grad:part_cnn.pos_embed"))
        assert_matches(found[key.replace("part_cnn.", "")], want[key], 1e-2 if amplified else 1e-4)


def test_the_position_embedding_is_resized_with_aligned_corners() -> None:
    _, want = case_of("position_embedding")
    given = torch.from_numpy(fill().fill("pos_embed", (1, 145, 768)))
    assert_matches(resized_positions(given), want["pos_embed"])


def test_negative_cells_count_as_none() -> None:
    inputs, want = case_of("aggregate")
    cells = torch.tensor(inputs["cells"])
    assert aggregated(cells, "zero").sum() == want["count"]
    assert aggregated(cells, "kept").sum() == sum(inputs["cells"])


# ------------------------------------------------------------------------------------------------- windows and targets


def test_windows_are_centred_on_their_cells_and_the_frame_fills_what_is_outside() -> None:
    image = torch.rand(3, 64, 96)
    picture = framed(image, "mean")
    assert picture.shape == (3, 128, 160)
    windows = windows_of(picture, torch.arange(6), "seen")
    cells = image.unfold(1, CELL, CELL).unfold(2, CELL, CELL).flatten(1, 2).movedim(1, 0)
    assert torch.equal(windows[..., CELL : 2 * CELL, CELL : 2 * CELL], cells)
    assert torch.allclose(windows[0, :, 0, 0], image.mean(dim=(1, 2)))
    assert torch.equal(windows[0, :, CELL:, CELL:], image[:, :64, :64])


def test_a_hidden_surround_shows_the_cell_alone() -> None:
    picture = framed(torch.rand(3, 64, 96), "mean")
    seen, hidden = (windows_of(picture, torch.tensor([1, 4]), kind) for kind in ("seen", "hidden"))
    inner = (..., slice(CELL, 2 * CELL), slice(CELL, 2 * CELL))
    assert torch.equal(seen[inner], hidden[inner])
    assert (hidden[:, :, 0] == picture[:, 0, :1]).all()
    assert not torch.equal(seen, hidden)


def test_frames_differ() -> None:
    image = torch.rand(3, 64, 64)
    edges = {kind: framed(image, kind)[:, CELL - 1, CELL + 5] for kind in ("mean", "zeros", "reflect")}
    assert torch.allclose(edges["zeros"], torch.tensor([0.485, 0.456, 0.406]))
    assert torch.equal(edges["reflect"], image[:, 1, 5])
    assert torch.allclose(edges["mean"], image.mean(dim=(1, 2)))


def test_every_head_is_in_a_cell_and_coincident_ones_add_up() -> None:
    points = torch.tensor([[0.0, 0.0], [31.9, 31.9], [32.0, 0.0], [-3.0, 70.0], [200.0, 5.0], [200.0, 5.0]])
    assert cell_targets(points, 64, 96, "points").tolist() == [2, 1, 2, 1, 0, 0]
    blurred = cell_targets(torch.tensor([[32.0, 32.0], [48.0, 48.0]]), 64, 64, "gaussian")
    assert blurred.sum().item() == pytest.approx(2, abs=0.01)
    assert 0 < blurred[0] < blurred[3] < 2


def test_pictures_have_one_size_or_keep_their_aspect() -> None:
    forced = LovitcrowdSettings()
    assert new_size(forced, 600, 600) == (768, 1152)
    assert new_size(forced, 900, 600) == (1152, 768)
    aspect = LovitcrowdSettings(size="aspect", short=1024)
    assert new_size(aspect, 700, 900) == (704, 896)
    assert new_size(aspect, 2048, 4096) == (1024, 2048)
    assert new_size(aspect, 10, 400) == (64, 384)


def test_half_of_the_windows_hold_heads() -> None:
    pool = TinyPool([(256, 384)], [np.array([[100.0, 100.0]])])
    shares = {}
    for sampling in ("half_occupied", "uniform"):
        maker = tiny(sampling=sampling).example_maker()
        counts = [each.count for seed in range(20) for each in maker(0, pool, np.random.default_rng(seed))]
        shares[sampling] = np.mean(np.array(counts) > 0)
    assert shares["uniform"] < 0.1
    assert 0.5 <= shares["half_occupied"] < 0.6


def test_a_picture_without_heads_has_windows_too() -> None:
    (*examples,) = tiny().example_maker()(0, TinyPool([(256, 384)], [np.zeros((0, 2))]), np.random.default_rng(0))
    assert [each.count for each in examples] == [0.0] * 16


def test_the_density_has_a_cell_per_cell() -> None:
    system = tiny()
    picture = system.prepare_image(torch.rand(3, 100, 200))
    density = system.predict(picture[None], [""]).density
    assert density.shape == (1, 1, 8, 12)
    raw = tiny(negatives="kept")
    raw.load_state_dict(system.state_dict())
    alone = raw.count_cells(raw.normalise(windows_of(picture, torch.tensor([95]), "seen")))
    assert raw.predict(picture[None], [""]).density[0, 0, 7, 11].item() == pytest.approx(alone.item(), abs=1e-5)


# ------------------------------------------------------------------------------------------------------------ switches

SWITCHES: list[dict[str, Any]] = [
    {"frame": "zeros"}, {"frame": "reflect"}, {"surround": "hidden"}, {"target": "gaussian"}, {"sampling": "uniform"},
    {"loss": "l1"}, {"loss": "mse"}, {"jitter": 0.1}, {"trunk_norm": "frozen"}, {"skip": False}, {"depth": 0},
    {"size": "aspect"},
]  # fmt: skip


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_each_switch_changes_the_loss(switch: dict[str, Any]) -> None:
    pool, losses = TinyPool([(250, 300)]), []
    for changes in ({}, switch):
        system = tiny(**changes).train()
        for layer in system.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        losses.append(loss_of(system, batch_of(system, pool)).item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_new_parts_learn_faster() -> None:
    system = tiny(new_rate=4.0)
    slow, fast = system.parameter_groups(system.recipe)
    assert fast["lr_scale"] == 4.0
    assert len(fast["params"]) == 8
    assert len(slow["params"]) + 8 == len([*system.parameters()])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"surround": "hidden", "frame": "reflect"}, "frame: reflect has none"),
        ({"trunk_depths": (1, 1, 1, 1)}, "two in the last one"),
        ({"long": 100}, "multiple of 32"),
        ({"heads": 5}, "width 768 is no multiple of heads 5"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LovitcrowdSettings(**wrong)


# ------------------------------------------------------------------------------------------------------------- weights


def test_base_weights_fill_trunk_and_transformer(tmp_path: Path) -> None:
    from timm.models.vision_transformer import VisionTransformer
    from torchvision.models.resnet import BasicBlock, ResNet

    depths, settings = [3, 4, 6, 3], {"trunk_widths": (64, 128, 256, 512), "trunk_depths": (3, 4, 6, 3)}
    torch.save(resnet := ResNet(BasicBlock, depths).state_dict(), tmp_path / "resnet.pth")
    vit = VisionTransformer(img_size=384, patch_size=32, embed_dim=48, depth=3, num_heads=3)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    files = {"trunk_weights": str(tmp_path / "resnet.pth"), "transformer_weights": str(tmp_path / "vit.pth")}
    system = tiny(**settings, **files, depth=2)
    trunk = system.patch_embed.backbone
    torch.manual_seed(3)
    image = torch.rand(2, 3, 96, 96)
    whole = ResNet(BasicBlock, depths).eval()
    whole.load_state_dict(resnet)
    x = whole.layer3(whole.layer2(whole.layer1(whole.maxpool(whole.relu(whole.bn1(whole.conv1(image)))))))
    x, last = whole.layer4[:2](x), whole.layer4[2]
    assert torch.allclose(trunk(image), last.conv2(last.relu(last.bn1(last.conv1(x)))), atol=1e-5)
    assert torch.equal(system.blocks[1].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight)
    assert torch.equal(system.pos_embed, resized_positions(vit.pos_embed))
    assert torch.equal(system.norm.weight, vit.norm.weight)


def released(settings: Strict, *, places: tuple[str, str] = ("", "")) -> dict[str, Tensor]:
    """Return the state dict of a small network under the released names, with the head that is never used."""
    own = LoViTCrowd(settings).state_dict()
    return {
        **{f"module.part_cnn.{key.replace(*places) if places[0] else key}": value for key, value in own.items()},
        **{"module.part_cnn.head.weight": torch.ones(2, 2), "module.part_cnn.head.bias": torch.ones(2)},
    }


@pytest.mark.parametrize("places", [("", ""), ("7.2.5", "7.2.3")])
def test_a_released_state_dict_is_read_whoever_numbered_its_last_convolution(places: Any, tmp_path: Path) -> None:
    settings = tiny(trunk_depths=(1, 1, 1, 3)).settings
    torch.save(released(settings, places=places), tmp_path / "best.pth")
    LoViTCrowd(settings).load_state_dict(LoViTCrowd.import_checkpoint(tmp_path / "best.pth", settings))


def test_a_file_without_a_layer_is_refused(tmp_path: Path) -> None:
    settings = tiny().settings
    state = {key: value for key, value in released(settings).items() if "proj.bias" not in key}
    assert_refused(LoViTCrowd, state, settings, tmp_path / "best.pth", r"missing: .*patch_embed\.proj\.bias")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(UserError, match="not a dictionary"):
        LoViTCrowd.import_checkpoint(tmp_path / "list.pth", settings)
