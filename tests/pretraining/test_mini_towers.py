"""The tiny CLIP towers: what they were shown, what their card says, and that the card says the truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recount import systems
from recount.nn.clip import MINI_TOWERS, ClipTowers, named_towers, token_ids
from recount.pretraining import mini_towers
from recount.scenes import shapes as scenes
from recount.systems.clip_count import CARPK_PROMPT

PLAN = mini_towers.Plan(scenes=24, steps=4, batch=8, warmup=2)
TEXT_GUIDED = ("clip_count", "vlcounter", "countx")


def card() -> dict[str, Any]:
    return json.loads((mini_towers.WEIGHTS / "mini_towers.json").read_text("utf-8"))


def shipped() -> mini_towers.TinyClip:
    state = load_file(mini_towers.WEIGHTS / "mini_towers.safetensors")
    model = mini_towers.TinyClip()
    model.load_state_dict(named_towers(state, "visual.", "text.") | {"logit_scale": state["logit_scale"]})
    return model.eval()


def test_weights_are_small_and_belong_to_the_card() -> None:
    assert (mini_towers.WEIGHTS / "mini_towers.safetensors").stat().st_size < 2e6
    assert card()["clip"] == ClipTowers(**MINI_TOWERS).model_dump(mode="json")
    assert card()["plan"] == mini_towers.Plan().model_dump()
    assert card()["parameters"] == sum(parameter.numel() for parameter in shipped().parameters())


def test_the_card_says_what_the_shipped_weights_do() -> None:
    measured = mini_towers.quality(shipped(), card()["seed"])
    assert measured == pytest.approx(card()["quality"], abs=0.02)


def test_trained_towers_find_unseen_pairs_and_random_ones_do_not() -> None:
    trained, random = card()["quality"], card()["quality_random"]
    assert trained["pairs"] == random["pairs"] > 200
    assert trained["recognised"] > 3 * trained["recognised_chance"] > random["recognised"]
    assert trained["patch_auc"] > 0.7
    assert abs(random["patch_auc"] - 0.5) < 0.15


@pytest.mark.parametrize("name", TEXT_GUIDED)
def test_each_system_starts_from_the_shipped_towers_in_mini(name: str) -> None:
    system = systems.load(name)
    torch.manual_seed(0)
    network = system(system.Settings.model_validate(system.mini_settings()))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.prepare_training([])
    state = shipped().clip_state()
    image, text = ("image", "text.tower") if name == "countx" else ("image.tower", "text.tower")
    for key, value in network.state_dict().items():
        if key.startswith(f"{text}."):
            want = state[key.removeprefix(f"{text}.")]
        elif key.startswith(f"{image}."):
            want = state[f"visual.{key.removeprefix(f'{image}.')}"]
        else:
            want = before[key]
        assert torch.equal(value, want), key


def test_every_sentence_about_every_class_can_be_read() -> None:
    names = [*mini_towers.CLASSES, *scenes.SHAPES, *scenes.BLOOD_CELLS, *scenes.DICE, scenes.CARS, "car", "vehicles"]
    longest = token_ids([each.format(name) for each in mini_towers.SENTENCES for name in names], mini_towers.SIZE)
    assert (longest > 0).sum(dim=1).max() <= mini_towers.SIZE.context
    assert (longest == len(MINI_TOWERS["vocabulary"]) + 2).any(dim=1).all()  # no sentence is cut before its end


def test_car_parks_are_called_what_the_systems_scripts_call_them() -> None:
    rng = np.random.default_rng(0)
    said = {word for _ in range(60) for word in mini_towers.sentence("cars", rng).rstrip(".").split()}
    assert {"cars", "car", "vehicles"} <= said
    assert CARPK_PROMPT in said


def test_pretraining_never_shows_a_class_of_validation_or_test() -> None:
    shown = {name for index in range(200) for name in mini_towers.captioned_scene(index, 0, mini_towers.SIDE).classes}
    assert not shown & {*scenes.shape_classes("val"), *scenes.shape_classes("test")}


@pytest.mark.more
def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path: Path) -> None:
    mini_towers.pretrain(tmp_path, PLAN, 0)
    written = load_file(tmp_path / "mini_towers.safetensors")["visual.proj"]
    same, other = (mini_towers.train(PLAN, seed).clip_state()["visual.proj"].half() for seed in (0, 1))
    assert torch.equal(written, same) and not torch.equal(written, other)


def test_a_picture_of_two_classes_fits_both_captions_and_no_other() -> None:
    fits = torch.tensor([[True, True, False], [False, True, False], [False, False, True]])
    perfect = 50.0 * fits.float()
    target = fits / fits.sum(dim=1, keepdim=True)
    floor = -(target * target.clamp(min=1e-9).log()).sum(dim=1).mean()  # of pictures; captions have the same here
    assert mini_towers.shared_loss(perfect, fits).item() == pytest.approx(floor.item(), abs=1e-5)
    one = perfect.clone()
    one[0, 1] = 0.0  # forgets the second class of the first picture
    assert mini_towers.shared_loss(one, fits) > floor + 5
    identity = torch.eye(3, dtype=torch.bool)
    both_ways = [torch.nn.functional.cross_entropy(each, torch.arange(3)) for each in (one, one.T)]
    assert mini_towers.shared_loss(one, identity).item() == pytest.approx(float(sum(both_ways)) / 2, rel=1e-5)
