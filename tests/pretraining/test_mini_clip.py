"""The tiny CLIP: what it was shown, what its card says, and that the card says the truth."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from recount.cli import app
from recount.errors import UserError
from recount.nn.clip import build_clip, token_ids
from recount.pretraining import mini_clip, mini_sd
from recount.scenes.captions import CLASSES, NUMBER_WORDS, VAGUE, VOCABULARY, draw_shapes

PLAN = mini_clip.Plan(scenes=400, steps=4, batch=8, per_class=(2, 1), warmup=2)


def card() -> dict[str, Any]:
    return json.loads((mini_clip.WEIGHTS / "mini_clip.json").read_text("utf-8"))


def shipped() -> torch.nn.Module:
    model = build_clip(mini_clip.SIZE)
    model.load_state_dict({k: v.float() for k, v in load_file(mini_clip.WEIGHTS / "mini_clip.safetensors").items()})
    return model.eval()


def test_weights_are_small_and_belong_to_the_card() -> None:
    assert (mini_clip.WEIGHTS / "mini_clip.safetensors").stat().st_size < 4e6
    assert card()["clip"] == mini_clip.SIZE.model_dump(mode="json")
    assert card()["plan"] == mini_clip.Plan().model_dump(mode="json")
    assert card()["steps_done"] == card()["plan"]["steps"]
    assert card()["parameters"] == sum(parameter.numel() for parameter in shipped().parameters())


@pytest.mark.more
def test_the_card_says_what_the_shipped_weights_do() -> None:
    said = card()["quality"]
    assert mini_clip.quality(shipped(), card()["seed"]) == pytest.approx(said, abs=0.02)
    assert said["retrieval_accuracy_64_classes"] > 20 * said["retrieval_chance"]
    assert said["regression_accuracy"] > 5 * said["regression_chance"]  # else there is nothing to teach words for


def test_every_caption_is_in_the_vocabulary_and_others_are_refused() -> None:
    for index in range(200):
        rng = np.random.default_rng(index)
        token_ids([mini_clip.caption(draw_shapes(rng), rng, mini_clip.Plan())], mini_clip.SIZE)
    with pytest.raises(UserError, match="does not know zebras"):
        token_ids(["two zebras"], mini_clip.SIZE)


def test_captions_have_vague_quantities_as_often_as_planned_and_never_a_number_word() -> None:
    plan = mini_clip.Plan(vague_words=0.3)
    vague = []
    for index in range(600):
        rng = np.random.default_rng(index)
        text = mini_clip.caption(draw_shapes(rng), rng, plan)
        assert not set(NUMBER_WORDS) & set(text.split())
        vague.append(any(f"{quantity} " in text for quantity in VAGUE))
    assert np.mean(vague) == pytest.approx(0.3, abs=0.06)


def test_a_batch_has_several_scenes_of_each_of_its_classes() -> None:
    drawn = [draw_shapes(np.random.default_rng(index), CLASSES[index % 64]) for index in range(400)]
    for step in range(4):
        chosen = mini_clip._chosen(drawn, PLAN, step, np.random.default_rng(0))
        assert len(set(chosen.tolist())) == PLAN.batch
        assert set(Counter(drawn[index].main for index in chosen).values()) == {PLAN.per_class[step % 2]}


def test_captions_that_mean_the_same_share_the_target() -> None:
    texts = ["a photo of some red circles", "some red circles", "many red circles and blue stars",
             "a drawing of blue stars and many red circles"]  # fmt: skip
    meanings = [mini_clip.meaning(text) for text in texts]
    assert meanings[0] == meanings[1] != meanings[2] == meanings[3]
    right = 20 * torch.tensor([[float(one == other) for other in meanings] for one in meanings])
    assert mini_clip.shared_caption_loss(right, meanings).item() == pytest.approx(math.log(2), abs=1e-6)
    own = 20 * torch.eye(4)
    assert mini_clip.shared_caption_loss(own, meanings) > 5  # to tell twins apart is an error


def test_where_all_captions_differ_the_loss_is_clips() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    meanings = [mini_clip.meaning(text) for text in ("red circles", "blue circles", "a few red circles", "red stars")]
    assert mini_clip.shared_caption_loss(logits, meanings).item() == pytest.approx(clip_logits_loss(logits), abs=1e-6)


def clip_logits_loss(logits: torch.Tensor) -> float:
    """Return CLIP's loss by its definition: minus the mean logarithm of the diagonal's share, both ways."""
    rows, columns = logits.exp() / logits.exp().sum(1, keepdim=True), logits.exp() / logits.exp().sum(0, keepdim=True)
    return -(rows.diagonal().log().mean() + columns.diagonal().log().mean()).item() / 2


@pytest.mark.more
def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path: Path) -> None:
    made = mini_clip.pretrain(tmp_path, PLAN, 0)
    written = load_file(tmp_path / "mini_clip.safetensors")["visual.proj"]
    same, other = (mini_clip.train(PLAN, seed).state_dict()["visual.proj"].half() for seed in (0, 1))
    assert torch.equal(written, same) and not torch.equal(written, other)
    assert made["steps_done"] == 4
    assert set(VOCABULARY) == set(made["clip"]["vocabulary"])


def test_the_command_makes_the_model_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("suite: small\n")
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "small.yaml").write_text("title: small\ncomparable: false\n")
    monkeypatch.chdir(tmp_path)
    made: list[str] = []
    monkeypatch.setattr(mini_clip, "pretrain", lambda: made.append("mini_clip"))
    monkeypatch.setattr(mini_sd, "pretrain", lambda work: (work.mkdir(parents=True), made.append(work.name)))
    for name in ("mini_clip", "mini_sd"):
        answer = CliRunner().invoke(app, ["pretrain", name])
        assert answer.exit_code == 0, answer.output
        assert re.search(rf"weights/{name}\.md$", answer.output.strip())
    assert made == ["mini_clip", "mini_sd"]
    assert not (tmp_path / "resources" / "pretraining" / "mini_sd").exists()  # so that the next call begins anew
    assert CliRunner().invoke(app, ["pretrain", "mini_gpt"]).exit_code == 2
