"""FFNet: golden outputs of the released network, its crops, tiles and training step, and what each setting changes."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from block_targets import dm_loss, stacked_block_counts
from golden_tools import assert_matches, fill, golden, golden_case, refilled
from recount.data.windows import layout, stitch
from recount.nn.dm_loss import DM_COUNT_EPS, dm_terms
from recount.nn.focus import our_name
from recount.systems.ffnet import BLOCK, Ffnet, FfnetSettings, enlarged_size
from small_systems import assert_refused, batch_of, mini
from tiny_pool import TinyPool

case_of = partial(golden_case, "ffnet")
tiny = partial(mini, Ffnet, crop_size=64)


def waves(spec: dict[str, Any]) -> Tensor:
    """Return an input whose samples are waves of their own."""
    one, d = tuple(spec["shape"][1:]), spec.get("d", 0.0)
    return torch.from_numpy(np.stack([fill().wave(one, a + d, spec["b"], spec["scale"]) for a in spec["a"]]))


def filled(inputs: dict[str, Any]) -> Ffnet:
    """Return the network at paper size with formula-made weights under the released names."""
    network = Ffnet(FfnetSettings()).eval()
    shapes = golden("ffnet")["networks"]["ffnet"]["tensors"]
    names = {key: our_name(key) for key in shapes}
    state = refilled(network, inputs["weights"]["then_multiply"], names)
    assert {key: list(value.shape) for key, value in state.items()} == shapes
    network.load_state_dict({names[key]: value for key, value in state.items()})
    return network


def watched(network: Ffnet) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for part in ("ccsm1", "ccsm2", "ccsm3", "fusion.upsample_1", "fusion.upsample_2"):
        network.get_submodule(part).register_forward_hook(lambda _, __, out, part=part: seen.update({part: out}))
    return seen


@torch.no_grad()
def test_the_whole_network_gives_the_golden_maps() -> None:
    inputs, want = case_of("full_eval")
    network = filled(inputs)
    sizes = golden("ffnet")["networks"]["ffnet"]["parameters"]
    parts = {name: getattr(network, name) for name in ("backbone", "ccsm1", "ccsm2", "ccsm3", "fusion")}
    assert {n: sum(p.numel() for p in m.parameters()) for n, m in (parts | {"total": network}).items()} == sizes
    seen = watched(network)
    maps = network.backbone(waves(inputs["image"]))
    density = network.neck(*maps)
    features = {f"feature{n}": each for n, each in enumerate(maps, 1)}
    totals = density.sum(dim=(1, 2, 3))
    given = {"density": density, "normalised": density / (totals + DM_COUNT_EPS)[:, None, None, None], "count": totals}
    for part, value in {**features, **seen, **given}.items():
        assert_matches(value, want[part])


def test_the_train_step_of_neck_and_loss_is_the_golden_one() -> None:
    inputs, want = case_of("neck_train_step")
    network = filled(inputs).double().train()
    points = [torch.tensor(each, dtype=torch.float32).reshape(-1, 2) for each in inputs["points_xy"]]
    blocks = stacked_block_counts(points, 64, 64, BLOCK, coincident="add", rounding="half_even").double()
    assert blocks.sum(dim=(1, 2, 3)).tolist() == want["gt_blocks_sum"]
    seen = watched(network)
    density = network.neck(*(waves(spec).double() for spec in inputs["feature1, feature2, feature3"]))
    terms = dm_terms(density, blocks, points, BLOCK, eps=DM_COUNT_EPS)
    loss = dm_loss(terms)
    values = {"density": density, "count_per_image": density.sum(dim=(1, 2, 3)), "loss": loss, "count": terms["count"]}
    values |= {"tv": terms["variation"], "wasserstein": terms["transport_cost"]}
    for part, value in {**{n: v for n, v in seen.items() if n in want}, **values}.items():
        assert_matches(value, want[part], 1e-7)
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert not any(name.startswith("backbone.") for name in gradients)
    assert_matches(
        torch.stack([grad.square().sum() for grad in gradients.values()]).sum().sqrt(), want["grad_norm"], 1e-7
    )
    found = {f"grad:{name}": grad for name, grad in gradients.items()}
    found |= {f"buffer after:{name}": value for name, value in network.state_dict().items()}
    compared = [key for key in want if ":" in key]
    assert len(compared) == 13
    for key in compared:
        assert_matches(found[our_name(key)], want[key], 1e-7)


class Draws:
    """A generator that draws what a golden case says, and keeps the ranges that it is asked for."""

    def __init__(self, offsets: list[int], uniform: float) -> None:
        self.offsets, self.uniform, self.ranges = offsets, uniform, []

    def integers(self, low: int, high: int) -> int:
        self.ranges.append([low, high - 1])
        return self.offsets[len(self.ranges) - 1]

    def random(self) -> float:
        return self.uniform


@pytest.mark.parametrize("name", ["sh_flip", "base_flip", "base_plain"])
def test_crops_are_those_of_the_released_transforms(name: str) -> None:
    inputs, want = case_of(f"train_transform_{name}")
    rule = "width_minus_one" if name.startswith("sh") else "width"
    settings = FfnetSettings(crop_size=inputs["crop_size"], flip_rule=rule)
    pool = TinyPool([(inputs["height"], inputs["width"])], [np.array(inputs["points_xy"])])
    draws: Any = Draws([inputs["offset_row"], inputs["offset_column"]], inputs["uniform"])
    (example,) = Ffnet.examples(settings, 0, pool, draws)
    assert draws.ranges == want["draw_ranges"]
    assert_matches(example.points, want["points_xy"])
    blocks = example.maps["blocks"][0]
    assert [[*place, int(blocks[tuple(place)])] for place in blocks.nonzero().tolist()] == want[
        "blocks_nonzero_row_col_value"
    ]
    assert example.count == want["n"] == blocks.sum()


@pytest.mark.parametrize("name", ["150x200", "64x128"])
def test_tiles_are_put_together_as_the_released_evaluation_does(name: str) -> None:
    inputs, want = case_of(f"evaluation_tiles_{name}")
    size = inputs["crop_size"]
    windows = tiny(crop_size=size).windows
    place = layout(inputs["height"], inputs["width"], windows)
    assert [list(place.rows), list(place.columns)] == [want["tile_tops"], want["tile_lefts"]]
    grid = (1, size // BLOCK, size // BLOCK)
    maps = [
        fill().wave(grid, inputs["a"], inputs["b"] + inputs["b_step"] * k, inputs["scale"])
        + np.float32(inputs["offset"])
        for k in range(want["tiles"])
    ]
    stacked = torch.from_numpy(np.stack(maps))
    whole = stitch(stacked, inputs["height"], inputs["width"], windows)
    assert_matches(whole, want["map"])
    assert_matches(whole.sum(), want["count"])
    assert_matches(stacked.sum(), want["sum_of_tile_sums"])


# ----------------------------------------------------------------------------------------------------------- switches


def test_small_pictures_are_enlarged_for_tiles_and_padded_when_whole() -> None:
    assert enlarged_size(50, 101, 64) == (64, 129)  # 129.28
    assert enlarged_size(64, 40, 64) == (102, 64)  # 102.4
    image = torch.rand(3, 50, 101)
    assert tiny().prepare_image(image).shape == (3, 64, 129)
    whole = tiny(tiles="whole")
    assert whole.windows is None
    assert torch.equal(whole.prepare_image(image), F.pad(image, (0, 27, 0, 14)))


def test_a_tile_of_its_own_size_is_for_reading_alone() -> None:
    system = tiny(tile=96)
    assert system.windows.height == system.windows.width == 96
    assert system.prepare_image(torch.rand(3, 80, 100)).shape == (3, 96, 120)
    assert system.example_maker()(0, TinyPool([(200, 200)]), np.random.default_rng(0))[0].image.shape == (3, 64, 64)


def test_whole_pictures_have_no_tile() -> None:
    with pytest.raises(ValidationError, match="leave one of them out"):
        FfnetSettings(tiles="whole", tile=96)


def test_the_gates_are_gone_where_they_are_switched_off() -> None:
    gated, plain = tiny(), tiny(gates=False)
    assert {key for key in gated.state_dict() if key not in plain.state_dict()} == {
        f"ccsm{n}.{kind}_attention.weight" for n in (1, 2, 3) for kind in ("channel", "spatial")
    }
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if key in plain.state_dict()})
    image = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(plain.density(image), gated.density(image))


def test_maps_that_the_last_relu_left_empty_are_told() -> None:
    batch = batch_of(system := tiny(output_bias=-100.0), TinyPool([(100, 100)] * 2), (0, 1))
    assert system.losses(batch)["empty_maps"] == 1
    assert tiny(output_bias=5.0).losses(batch)["empty_maps"] == 0
    assert system.loss_weights["empty_maps"] == 0


def test_a_file_of_another_network_is_refused(tmp_path: Any) -> None:
    settings = tiny().settings
    assert_refused(
        Ffnet, {"backbone.stem.0.0.weight": torch.ones(1)}, settings, tmp_path / "SHA_model.pth", "missing: back"
    )
