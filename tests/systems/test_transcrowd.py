"""TransCrowd: both heads against the released code, counts of tiles, lost heads, and what each switch changes."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_tools import assert_matches, golden, golden_case, refilled, tensor
from recount.errors import UserError
from recount.systems.base import Batch
from recount.systems.transcrowd import SYSTEM, TransCrowdSettings, our_name, tile_counts
from small_systems import mini
from tiny_pool import TinyPool

REDUCED = {"width": 96, "depth": 2, "heads": 3}


tiny = partial(mini, SYSTEM)


def examples_of(system, pool, seed=0):
    return system.example_maker()(0, pool, np.random.default_rng(seed))


# ------------------------------------------------------------------------------------------------------------ golden


@pytest.mark.parametrize("head", ["token", "gap"])
def test_both_heads_agree_with_the_released_code(head):
    inputs, want = golden_case("crowd_eval", f"transcrowd_{head}")
    system = SYSTEM(TransCrowdSettings(head=head, **REDUCED)).eval()
    names = {key: our_name(key) for key in inputs["tensors"]}
    state = refilled(system, inputs["weights"]["then_multiply"], names)
    assert {key: list(value.shape) for key, value in state.items()} == inputs["tensors"]
    assert sum(parameter.numel() for parameter in system.parameters()) == inputs["parameters"]
    system.load_state_dict({names[key]: value for key, value in state.items()})
    image = tensor(inputs["image"])  # normalised already
    if double := "precision" in golden("crowd_eval")["cases"][f"transcrowd_{head}"]:
        system, image = system.double(), image.double()
    counts = system.count_tiles(image * system.normalise.std + system.normalise.mean)
    assert_matches(system.tokens(image), want["features"], rtol=1e-7 if double else 1e-4)
    assert_matches(counts[:, None], want["out"], rtol=1e-7 if double else 1e-4)


# ------------------------------------------------------------------------------------------------------------- tiles


def test_lying_and_upright_pictures_have_three_by_two_tiles():
    system = tiny()
    assert system.prepare_image(torch.zeros(3, 100, 300)).shape == (3, 192, 288)
    assert system.prepare_image(torch.zeros(3, 300, 299)).shape == (3, 288, 192)


def test_merged_dots_lose_coincident_and_outside_heads():
    points = torch.tensor([[10.2, 3.0], [10.9, 3.5], [95.0, 3.0], [200.0, 3.0], [-2.0, 5.0]])
    assert tile_counts(points, 48, 1, 2, "merged").tolist() == [[1, 1]]
    assert tile_counts(points, 48, 1, 2, "all").tolist() == [[3, 2]]


@given(st.lists(st.tuples(st.floats(-5, 300), st.floats(-5, 200)), max_size=30))
def test_no_head_is_lost_when_all_dots_count(points):
    counts = tile_counts(torch.tensor(points).view(-1, 2), 48, 4, 6, "all")
    assert int(counts.sum()) == len(points)


def test_the_counts_of_the_tiles_and_the_lost_heads_add_up_to_the_true_count():
    points = np.array([[1.0, 1.0], [1.2, 1.1], [50.0, 60.0], [99.0, 79.0]])
    examples = examples_of(tiny(), TinyPool([(80, 100)], [points]))
    assert len(examples) == 6
    assert sum(example.count for example in examples) == 4  # at 288 x 192 the first two no longer coincide
    crowded = TinyPool([(800, 1000)], [points * 10])
    crowded.samples[0].points[1] = crowded.samples[0].points[0] + 0.1
    examples = examples_of(tiny(), crowded)
    assert sum(example.count for example in examples) == 3
    assert sum(float(example.maps["lost"]) for example in examples) == pytest.approx(1)


def test_a_mirrored_tile_keeps_its_count():
    pool = TinyPool([(192, 288)])
    one, other = examples_of(tiny(), pool, 0), examples_of(tiny(), pool, 1)
    assert [example.count for example in one] == [example.count for example in other]
    pairs = [(a.image, b.image) for a, b in zip(one, other, strict=True)]
    assert not all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in pairs)


# ---------------------------------------------------------------------------------------------------------- training


def test_the_loss_is_the_sum_of_absolute_errors():
    system = tiny()
    batch = Batch.of(examples_of(system, TinyPool([(192, 288)])))
    terms = system.losses(batch)
    expected = (system.count_tiles(batch.images) - batch.counts).abs().sum()
    assert terms["count"].item() == pytest.approx(expected.item())
    assert system.loss_weights["lost_heads"] == 0


def test_the_density_has_a_cell_per_tile():
    system = tiny()
    image = system.prepare_image(torch.rand(3, 200, 310))
    density = system.predict(image[None], [""]).density
    assert density.shape == (1, 1, 2, 3)
    assert density[0, 0, 1, 2].item() == pytest.approx(system.count_tiles(image[None, :, 96:, 192:]).item(), rel=1e-4)


# ---------------------------------------------------------------------------------------------------------- switches


def test_head_changes_what_is_counted_with():
    token, gap = tiny(head="token"), tiny(head="gap")
    assert token.output1[-1].in_features == 64
    assert gap.output1[1].in_features == 36 * 12


def test_dots_changes_the_targets():
    points = np.full((5, 2), 30.0)
    pool = TinyPool([(192, 288)], [points])
    assert sum(example.count for example in examples_of(tiny(dots="merged"), pool)) == 1
    assert sum(example.count for example in examples_of(tiny(dots="all"), pool)) == 5


def test_dropout_changes_training():
    batch = Batch.of(examples_of(tiny(), TinyPool([(192, 288)])))
    system = tiny()
    assert system.losses(batch)["count"].item() == system.losses(batch)["count"].item()
    system.train()
    assert system.losses(batch)["count"].item() != system.losses(batch)["count"].item()


def test_weights_are_loaded_into_the_transformer(tmp_path):
    torch.manual_seed(9)
    deit = {key: torch.randn_like(value) for key, value in tiny().vit.state_dict().items()}
    torch.save({"model": deit}, tmp_path / "deit.pth")
    system = tiny(weights=str(tmp_path / "deit.pth"))
    assert torch.equal(system.vit.blocks[1].mlp.fc1.weight, deit["blocks.1.mlp.fc1.weight"])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    torch.save({"model": {"cls_token": torch.zeros(1, 1, 48)}}, tmp_path / "deit.pth")
    with pytest.raises(UserError, match="missing: blocks"):
        tiny(weights=str(tmp_path / "deit.pth"))


# --------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("head", ["token", "gap"])
def test_a_released_checkpoint_is_imported_strictly(tmp_path, head):
    tensors = golden_case("crowd_eval", f"transcrowd_{head}")[0]["tensors"]
    state = {f"module.{key}": torch.full(shape, 0.5) for key, shape in tensors.items()}
    settings_ = TransCrowdSettings(head=head, **REDUCED)
    path = tmp_path / "model_best.pth"
    torch.save({"epoch": 1, "state_dict": state}, path)
    SYSTEM(settings_).load_state_dict(SYSTEM.import_checkpoint(path, settings_))
    del state["module.pos_embed"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(UserError, match=r"missing: vit\.pos_embed"):
        SYSTEM.import_checkpoint(path, settings_)
