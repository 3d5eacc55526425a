"""CrowdCLIP: the ranking loss, nested crops, the three-stage test, and what each switch changes."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from golden_tools import assert_matches, golden_case, refilled, tensor
from recount.errors import UserError
from recount.nn.clip import build_tower
from recount.systems.base import Batch
from recount.systems.crowdclip import OBJECTS, PARTS, SYSTEM, CrowdClipSettings, nested_crops, ranking_loss
from small_systems import batch_of, losses_of_steps, mini
from tiny_pool import TinyPool

tiny = partial(mini, SYSTEM)


def batch_of_two(network: Any) -> Batch:
    return batch_of(network, TinyPool([(200, 260)] * 2), (0, 1))


class SeenBefore(torch.nn.Module):
    """Stands for the untuned tower: what it sees in each patch is given.

    Each patch is (object, its three best parts); sentence features are unit vectors, objects first.
    """

    def __init__(self, *patches: tuple[str, list[str]]) -> None:
        super().__init__()
        self.features = torch.zeros(len(patches), 32)
        for row, (thing, parts) in zip(self.features, patches, strict=True):
            row[OBJECTS.index(thing)] = 1
            row[[len(OBJECTS) + PARTS.index(part) for part in parts]] = torch.tensor([0.5, 0.4, 0.3])

    def forward(self, inputs: Tensor) -> Tensor:
        return self.features


def with_untuned(network: Any, *patches: tuple[str, list[str]]) -> tuple[Any, Tensor]:
    """Return the network with that untuned tower, and inputs of as many patches."""
    network.untuned = SeenBefore(*patches)
    network.object_features = torch.eye(32)[: len(OBJECTS)]
    network.part_features = torch.eye(32)[len(OBJECTS) : len(OBJECTS) + len(PARTS)]
    return network, torch.rand(1, len(patches), 3, 48, 48)


def counting_all(network: Any) -> Any:
    """Return the network without its filter."""
    network.kept = lambda inputs: torch.ones(inputs.shape[:2], dtype=torch.bool)
    return network


HEADS_THIRD = ["road", "legs", "human heads"]
NO_HEADS = ["road", "legs", "hands"]


# ------------------------------------------------------------------------------------------------------------ ranking


def test_ranking_loss_is_the_golden_one() -> None:
    inputs, want = golden_case("crowd_eval", "crowdclip_rank_loss")
    logits = tensor(inputs["logits"]).requires_grad_()
    loss = ranking_loss(logits)
    loss.backward()
    assert_matches(loss, want["loss"])
    assert_matches(logits.grad, want["grad"])


def test_a_perfect_ranking_costs_nothing() -> None:
    assert float(ranking_loss(torch.eye(6))) == 0


def test_crops_are_nested_and_grow_by_a_sixth() -> None:
    image = torch.arange(121.0)[:, None].expand(3, 121, 250)
    crops = nested_crops(image, 6)
    assert [tuple(crop.shape[1:]) for crop in crops] == [(20 * step, 40 * step) for step in range(1, 7)]
    assert [int(crop[0, 0, 0]) for crop in crops] == [50, 40, 30, 20, 10, 0]


def test_an_example_holds_all_crops_of_a_picture() -> None:
    batch = batch_of_two(tiny())
    assert batch.maps["crops"].shape == (2, 6, 3, 48, 48)
    assert len(batch.split(2)[0].maps["crops"]) == 1


def test_only_the_tuned_tower_is_trained() -> None:
    network = tiny().train()
    network.losses(batch_of_two(network))["ranking"].backward()
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {"image_encoder"}


def test_training_learns_the_ranking_of_a_picture() -> None:
    network = tiny().train()
    optimiser = torch.optim.RAdam(network.image_encoder.parameters(), 3e-3)
    losses = losses_of_steps(network, batch_of_two(network), optimiser, 20)
    assert losses[-1] < 0.7 * losses[0]


# --------------------------------------------------------------------------------------------------- three-stage test


def test_patches_lie_row_by_row_and_are_squeezed() -> None:
    image = torch.zeros(1, 3, 81, 160)
    image[:, :, 20:40, 80:120] = 1
    inputs = tiny().patches(image)
    assert inputs.shape == (1, 16, 3, 48, 48)
    means = inputs.mean(dim=(0, 2, 3, 4))
    assert means.argmax() == 6
    assert means[6] > 0.9


def test_patches_must_show_a_crowd_and_heads_among_the_three_best_parts() -> None:
    network, inputs = with_untuned(tiny(), ("crowd", HEADS_THIRD), ("tree", HEADS_THIRD), ("crowd", NO_HEADS))
    assert network.kept(inputs).tolist() == [[True, False, False]]


def test_where_no_patch_passes_all_are_counted() -> None:
    network, inputs = with_untuned(tiny(), ("car", HEADS_THIRD), ("crowd", NO_HEADS))
    assert network.kept(inputs).tolist() == [[True, True]]


def test_the_untuned_tower_filters_and_the_tuned_one_counts() -> None:
    network, image = tiny(), torch.rand(1, 3, 160, 200)
    inputs = network.patches(image)
    kept, before = network.kept(inputs), network.predict(image, [""]).density
    for parameter in network.image_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert torch.equal(network.kept(inputs), kept)
    assert not torch.equal(network.predict(image, [""]).density, before)


def test_each_patch_counts_one_of_the_numbers() -> None:
    network = counting_all(tiny())
    prediction = network.predict(torch.rand(2, 3, 160, 200), ["", ""])
    assert prediction.density.shape == (2, 1, 4, 4)
    assert set(prediction.density.flatten().tolist()) <= set(network.settings.numbers)


def test_patches_that_are_not_kept_count_nothing() -> None:
    network = tiny()
    network.kept = lambda inputs: torch.arange(16)[None] < 3
    prediction = network.predict(torch.rand(1, 3, 160, 200), [""])
    assert int((prediction.density > 0).sum()) == 3
    assert prediction.maps["kept"].sum() == 3


# ------------------------------------------------------------------------------------------------------------ switches


def test_patches_switch_changes_the_grid() -> None:
    assert tiny(patches=3).predict(torch.rand(1, 3, 160, 200), [""]).density.shape == (1, 1, 3, 3)


def test_count_with_switch_takes_the_other_tower() -> None:
    image = torch.rand(1, 3, 160, 200)
    tuned, untuned = counting_all(tiny()), counting_all(tiny(count_with="untuned"))
    assert torch.equal(tuned.predict(image, [""]).density, untuned.predict(image, [""]).density)
    for network in (tuned, untuned):
        torch.manual_seed(1)
        for parameter in network.image_encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    assert not torch.equal(tuned.predict(image, [""]).density, untuned.predict(image, [""]).density)


def test_numbers_switch_changes_the_prompts() -> None:
    settings = CrowdClipSettings()
    assert settings.sentences[0] == "There are 20 persons in the crowd"
    assert len(settings.sentences) == 6 + 4 + 6
    assert not torch.allclose(tiny().number_features, tiny(numbers=(2, 4, 6, 8, 10, 12)).number_features)


# --------------------------------------------------------------------------------------- base weights and checkpoints


def clip_file(folder: Path) -> tuple[str, dict[str, Tensor]]:
    network = tiny()
    for parameter in network.image_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = {f"visual.{key}": value for key, value in network.image_encoder.state_dict().items()}
    state |= {"logit_scale": torch.zeros(()), **refilled(build_tower(network.settings.text))}
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "clip.safetensors")
    return str(folder / "clip.safetensors"), state


def test_clip_weights_fill_both_towers_and_the_sentences(tmp_path: Path) -> None:
    path, state = clip_file(tmp_path)
    network = tiny(clip_weights=path)
    for tower in (network.image_encoder, network.untuned):
        assert torch.equal(tower.proj, state["visual.proj"])
    assert not torch.allclose(network.number_features, tiny().number_features)


def test_a_released_checkpoint_brings_the_tuned_tower_only(tmp_path: Path) -> None:
    path, clip = clip_file(tmp_path)
    tuned = {key: torch.full_like(value, 0.25) for key, value in tiny().image_encoder.state_dict().items()}
    state = {f"module.image_encoder.{key}": value for key, value in tuned.items()}
    tower = refilled(build_tower(tiny().settings.text))
    state |= {f"module.text_encoder.{key}": value for key, value in tower.items()}
    checkpoint = tmp_path / "best.ckpt"
    torch.save({"state_dict": {**state, "module.logit_scale": torch.tensor(4.6)}, "epoch": 9}, checkpoint)
    network = tiny(clip_weights=path)
    network.load_state_dict(SYSTEM.import_checkpoint(checkpoint, network.settings))
    assert torch.equal(network.image_encoder.proj, tuned["proj"])
    assert torch.equal(network.untuned.proj, clip["visual.proj"])
    with pytest.raises(UserError, match="set clip_weights"):
        SYSTEM.import_checkpoint(checkpoint, tiny().settings)
    del state["module.image_encoder.proj"]
    torch.save({"state_dict": state}, checkpoint)
    with pytest.raises(UserError, match=r"missing: image_encoder\.proj"):
        SYSTEM.import_checkpoint(checkpoint, network.settings)
