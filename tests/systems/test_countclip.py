"""CountCLIP: golden losses, captions, lambdas, training runs and evaluation; and what each switch changes."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_tools import assert_matches, fill, golden_case, refilled, shared, tensor
from recount.data.sample import Sample
from recount.datasets.countbench import read_items
from recount.errors import UserError
from recount.metrics import ACCURACY, MEAN_ABSOLUTE_DEVIATION
from recount.nn.clip import build_clip, token_ids
from recount.prediction.samples import predict_samples
from recount.settings.project import load
from recount.settings.recipe import Recipe, Schedule
from recount.systems.base import Batch, Stage
from recount.systems.countclip import (
    NOT_COUNTING,
    NUMBERS,
    WORD_OF,
    CountCLIP,
    CountClipSettings,
    base_weights,
    captions_of_prompt,
    clip_loss,
    count_loss,
    cut_and_lowered,
    half_precision_keys,
    has_number_word,
    lambdas,
    nine_captions,
    swapped,
)
from recount.training.schedules import learning_rate
from tiny_pool import TinyPool

SIZE = {
    **{"embed_dim": 48, "image_size": 32, "patch": 8, "vision_width": 64, "vision_layers": 3},
    **{"text_width": 64, "text_heads": 1, "text_layers": 3},
}
ROOT = Path(__file__).parents[2]
UNIT = torch.nn.functional.normalize


case_of = partial(golden_case, "countclip")


def tiny(**settings: Any) -> CountCLIP:
    """Build a tiny CLIP with CLIP's vocabulary and random weights."""
    torch.manual_seed(0)
    return CountCLIP(CountClipSettings(**{"clip": SIZE, "weights": "random", **settings}))


def golden_clip(**settings: Any) -> CountCLIP:
    """Build the golden cases' model: weights by formula, images not normalised."""
    system = tiny(**settings)
    system.clip.load_state_dict(refilled(system.clip))
    system.normalise = nn.Identity()  # type: ignore[assignment]
    return system


def sample(name: str, caption: str, count: float) -> Sample:
    return Sample(name, "train", None, np.zeros((0, 2), np.float32), count, caption, 32, 32)


def pool_of(samples: list[Sample]) -> TinyPool:
    """Return noise pictures of samples."""
    pool = TinyPool([(40, 52)] * len(samples))
    pool.samples = samples
    return pool


PAIRS = [
    sample("a", "a street", math.nan),
    sample("b", "Three red dogs", 3),
    sample("c", "two Cats", 2),
    *(sample(f"n{number}", f"{WORD_OF[number]} things", number) for number in range(4, 11)),
]


def batch_of(system: CountCLIP, indices: tuple[int, ...] = (0, 1, 2), epoch: int = 0) -> Batch:
    """Return the examples that a prepared system makes of ``PAIRS``."""
    pool, maker = pool_of(PAIRS), system.example_maker()
    return Batch.of([e for i in indices for e in maker(i, pool, np.random.default_rng([epoch, i]))]).to("cpu")


# -------------------------------------------------------------------------------------------------------------- losses


def golden_features(name: str, inputs: dict[str, Any]) -> Tensor:
    return tensor(inputs[name]).double().requires_grad_()


def test_count_loss_and_its_gradients_are_golden() -> None:
    inputs, want = case_of("losses")
    image, text, other = (golden_features(name, inputs) for name in ("image", "text", "counterfactual"))
    cosines = torch.nn.functional.cosine_similarity(image[:, None], torch.stack([text, other], 1), dim=-1)
    loss = count_loss(cosines).mean()
    assert loss.item() == pytest.approx(want["count"]["loss"], abs=1e-6)
    loss.backward()
    for name, leaf in (("image", image), ("text", text), ("counterfactual", other)):
        assert_matches(leaf.grad, want["count"][f"grad_{name}"], rtol=1e-5)


def test_countplus_loss_and_its_gradients_are_golden() -> None:
    inputs, want = case_of("losses")
    image = golden_features("image", inputs)
    nine = golden_features("nine (countplus; text = row 3)", inputs)
    order = [3, *(row for row in range(9) if row != 3)]
    loss = count_loss(torch.nn.functional.cosine_similarity(image[:, None], nine[order][None], dim=-1)).mean()
    assert loss.item() == pytest.approx(want["countplus"]["loss"], abs=1e-6)
    loss.backward()
    assert_matches(image.grad, want["countplus"]["grad_image"], rtol=1e-5)
    assert_matches(nine.grad, want["countplus"]["grad_nine"], rtol=1e-5)


def test_clip_loss_is_golden_and_open_clips() -> None:
    from open_clip.loss import ClipLoss

    inputs, want = case_of("losses")
    images, texts = golden_features("clip images", inputs), golden_features("clip texts", inputs)
    scale = torch.tensor(math.log(1 / 0.07), dtype=torch.float64)
    loss = clip_loss(images, texts, scale)
    assert loss.item() == pytest.approx(want["clip"]["loss"], abs=1e-5)
    assert loss.item() == pytest.approx(ClipLoss()(UNIT(images), UNIT(texts), scale.exp()).item())


def test_losses_of_cosines_are_golden() -> None:
    inputs, want = case_of("losses_from_cosines")
    values = list(want.values())
    for (true, other), value in zip(inputs["count"], values[:5], strict=True):
        assert count_loss(torch.tensor([[true, other]], dtype=torch.float64)).item() == pytest.approx(value, abs=1e-9)
    for (nine, true), value in zip(inputs["countplus"], values[5:], strict=True):
        cosines = torch.tensor([[nine[true], *(c for i, c in enumerate(nine) if i != true)]], dtype=torch.float64)
        assert count_loss(cosines).item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", ["train_const_count_nosched", "train_modal_countplus_sched", "train_log_count_sched"])
def test_eight_training_steps_are_golden(name: str) -> None:
    inputs, want = case_of(name)
    kind = "countplus" if "countplus" in name else "count"
    system = golden_clip(loss=kind, weighting=name.split("_")[1], precision="fp32").double()
    system.set_lambdas({int(number): times for number, times in inputs["class_counts"].items()})
    before = {key: value.clone() for key, value in system.clip.state_dict().items()}
    optimiser = torch.optim.Adam(system.parameters(), lr=1.0, betas=(0.9, 0.98), eps=5e-6, weight_decay=0.2)
    schedule = Schedule(name="constant" if name.endswith("nosched") else "sawtooth", unit="step", period=5)
    for step, pairs in enumerate(inputs["batches"]):
        rate = learning_rate(schedule, 5e-6, step, 8)
        optimiser.param_groups[0]["lr"] = rate
        terms = system.losses(golden_batch(step, pairs, kind, inputs))
        outcome = want["steps"][step]
        assert rate == pytest.approx(outcome["lr"], abs=1e-12)
        assert terms["clip"].item() == pytest.approx(outcome["clip_loss"], abs=1e-9)
        assert terms["count"].item() == pytest.approx(outcome["count_loss"] * outcome["lambda"], abs=1e-9)
        optimiser.zero_grad()
        sum(terms.values()).backward()  # type: ignore[union-attr]
        optimiser.step()
    after = system.clip.state_dict()
    for key, change in want["change_of_parameters"].items():
        got = fill().digest((after[key] - before[key]).numpy())
        assert got["samples"] == pytest.approx(change["samples"], abs=1e-10), key


def golden_batch(step: int, pairs: list[Any], kind: str, inputs: dict[str, Any]) -> Batch:
    counterfactuals: list[list[str]] = []
    for caption, number in pairs:
        lowered = cut_and_lowered(caption, 110)
        if number == NOT_COUNTING:
            counterfactuals.append([])
        elif kind == "countplus":
            counterfactuals.append([swapped(lowered, number, other) for other in NUMBERS if other != number])
        else:
            counterfactuals.append([inputs["counterfactuals"][step]])
    images = torch.from_numpy(fill().wave((5, 3, 32, 32), 0.131, 0.2 + 0.5 * step)).double()
    attributes = {"number": [number for _, number in pairs], "counterfactuals": counterfactuals}
    prompts = [caption[:110] for caption, _ in pairs]
    return Batch([str(step)] * 5, images, prompts, [], torch.zeros(5), {}, attributes)


def test_a_batch_without_a_counting_pair_has_no_count_loss() -> None:
    system = tiny()
    system.prepare_training(PAIRS)
    assert system.losses(batch_of(system, (0,)))["count"].item() == 0


def test_a_lost_number_word_gives_equal_captions_and_lambda_one() -> None:
    system = tiny(weighting="modal", cut_train=5)
    system.prepare_training(PAIRS)
    system.lambdas = dict.fromkeys(NUMBERS, 7.0)
    lost = [sample("x", "dogs, all three", 3)]
    system.drawn = {"x": 8}
    made = system.example_maker()(0, pool_of(lost), np.random.default_rng(0))
    assert made[0].attributes["counterfactuals"] == ["dogs,"]
    assert system.losses(Batch.of(made).to("cpu"))["count"].item() == pytest.approx(math.log(2), abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ captions


@pytest.mark.parametrize("cut", [77, 110])
def test_nine_captions_are_golden(cut: int) -> None:
    _, want = case_of(f"captions_{cut}")
    for case in want["variants"]:
        assert cut_and_lowered(case["caption"], cut) == case["cut_lowered"]
        assert nine_captions(case["caption"], case["count"], cut) == case["nine"]
        assert (len(set(case["nine"])) == 1) == case["word_lost"]


def test_whole_word_swap_leaves_kittens_alone() -> None:
    caption = "Tender portrait of ten kittens"
    assert swapped(caption.lower(), 10, 4, "whole_word") == "tender portrait of four kittens"
    assert swapped(caption.lower(), 10, 4) == "fourder portrait of four kitfours"


def test_without_a_cut_no_word_is_lost() -> None:
    caption = "a very long caption " * 6 + "six gulls"
    assert len(set(nine_captions(caption, 6, 77))) == 1
    assert len(set(nine_captions(caption, 6, None))) == 9


def test_countbench_loses_21_number_words() -> None:
    _, want = case_of("countbench_captions")
    rows = read_items(shared("mirror", "countbench", "CountBench.json"))
    lost = [row for row in rows if not has_number_word(cut_and_lowered(row["text"], 77), row["number"])]
    assert len(lost) == want["lost_total"]


def test_tokens_are_golden() -> None:
    _, want = case_of("tokens")
    for case in want["tokens"]:
        ids = token_ids([case["text"]], CountClipSettings().clip)[0]
        assert ids[ids != 0].tolist() == case["ids"]


def test_a_prompt_is_nine_captions_or_one_with_one_number_word() -> None:
    assert captions_of_prompt("Three cats")[0] == "two cats"
    nine = "\n".join(str(number) for number in NUMBERS)
    assert captions_of_prompt(nine) == nine.split("\n")
    for wrong in ("cats", "two of three cats", "two\nthree"):
        with pytest.raises(UserError, match="exactly one"):
            captions_of_prompt(wrong)


# ------------------------------------------------------------------------------------------------------------- lambdas


@pytest.mark.parametrize("name", ["lambda_2101", "lambda_candidates_2319", "lambda_dice"])
@pytest.mark.parametrize("weighting", ["norm", "modal", "log"])
def test_lambdas_are_golden(name: str, weighting: Any) -> None:
    inputs, want = case_of(name)
    system = tiny(weighting=weighting)
    counts = {int(number): times for number, times in inputs["class_counts"].items()}
    system.set_lambdas(counts)
    expected = dict(want[weighting])
    assert system.lambda_of("no word", 4) == expected.pop("number word absent")
    assert system.lambdas == pytest.approx({int(number): value for number, value in expected.items()}, abs=1e-9)
    mean = sum(system.lambdas[number] * times for number, times in counts.items()) / sum(counts.values())
    assert mean == pytest.approx(want["sample mean"][weighting], abs=1e-9)


def test_unit_mean_rescales_lambda_to_a_mean_of_one() -> None:
    system = tiny(weighting="modal", weighting_rescale="unit_mean")
    counts = {2: 10, 3: 5, 4: 1}
    system.set_lambdas(counts)
    assert sum(system.lambdas[number] * times for number, times in counts.items()) / 16 == pytest.approx(1)


def test_log_needs_every_number() -> None:
    with pytest.raises(UserError, match="no counting pair for ten"):
        lambdas("log", dict.fromkeys(range(2, 10), 3))


def test_count_weight_zero_is_clip_alone() -> None:
    system = tiny(count_weight=0.0)
    system.prepare_training(PAIRS)
    assert system.losses(batch_of(system))["count"].item() == 0


# ---------------------------------------------------------------------------------------------------------- precision


def test_fp16_round_trip_is_golden() -> None:
    _, want = case_of("fp16_round_trip")
    system = golden_clip()
    assert sorted(half_precision_keys(system.clip)) == sorted(want["half_precision_keys"])
    system.after_step()
    named = dict(system.clip.named_parameters())
    start = {key: value.detach().clone() for key, value in named.items()}
    optimiser = torch.optim.Adam(named.values(), lr=5e-6, betas=(0.9, 0.98), eps=5e-6, weight_decay=0.2)
    for step in range(3):
        for key, parameter in named.items():
            gradient = torch.from_numpy(fill().wave(tuple(parameter.shape), 0.191, 0.1 + 0.2 * step, 0.001))
            parameter.grad = gradient.half().float() if key in want["half_precision_keys"] else gradient
        optimiser.step()
        system.after_step()
    unchanged = sum(int((named[key] == start[key]).sum()) for key in want["half_precision_keys"])
    assert unchanged == pytest.approx(want["half_unchanged"], rel=1e-3)
    for key, told in want["tensors"].items():
        got = fill().digest(named[key].detach().numpy())
        spacing = 1e-7 if told["dtype"] == "float32" else 2**-10
        assert got["samples"] == pytest.approx(told["after"]["samples"], rel=spacing, abs=1e-7), key


def test_in_half_precision_mode_gradients_of_half_weights_are_half() -> None:
    system = tiny()
    system.prepare_training(PAIRS)
    sum(system.losses(batch_of(system)).values()).backward()  # type: ignore[union-attr]
    gradient = system.clip.text_projection.grad
    assert gradient is not None
    assert torch.equal(gradient, gradient.half().float())
    assert not torch.equal(system.clip.ln_final.weight.grad, system.clip.ln_final.weight.grad.half().float())


def test_small_updates_survive_in_fp32_only() -> None:
    moved = {}
    for precision in ("fp16_roundtrip", "fp32"):
        system = tiny(precision=precision)
        system.begin_stage(Stage("train", Recipe()))
        weight = system.clip.visual.conv1.weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight.add_(1e-9)
        system.after_step()
        moved[precision] = not torch.equal(weight, before)
    assert moved == {"fp16_roundtrip": False, "fp32": True}


def test_bf16_computes_in_another_precision() -> None:
    images = torch.rand(2, 3, 32, 32)
    fine, coarse = tiny(precision="fp32"), tiny(precision="bf16")
    assert not torch.equal(fine.encode_images(images), coarse.encode_images(images))
    torch.testing.assert_close(fine.encode_images(images), coarse.encode_images(images), rtol=0.1, atol=0.1)


# --------------------------------------------------------------------------------------------------------- the switches


def drawn_captions(epoch: int, **settings: Any) -> list[list[str]]:
    system = tiny(**settings)
    torch.manual_seed(3)
    system.prepare_training(PAIRS)
    return batch_of(system, tuple(range(len(PAIRS))), epoch).attributes["counterfactuals"]


def test_fixed_counterfactuals_stay_and_others_are_drawn_each_epoch() -> None:
    assert drawn_captions(0) == drawn_captions(1)
    assert drawn_captions(0, draw="per_epoch") != drawn_captions(1, draw="per_epoch")


def test_a_counterfactual_never_has_the_true_number() -> None:
    made = drawn_captions(0)
    assert made[0] == []
    assert all(has_number_word(row[0], other.count) is False for row, other in zip(made[1:], PAIRS[1:], strict=True))  # type: ignore[arg-type]


def test_countplus_contrasts_with_all_eight() -> None:
    made = drawn_captions(0, loss="countplus")
    assert [len(row) for row in made] == [0] + [8] * 9
    assert "three red dogs" not in made[1]


def test_captions_are_cut_in_training() -> None:
    system = tiny(cut_train=7)
    system.prepare_training(PAIRS)
    assert batch_of(system).prompts == ["a stree", "Three r", "two Cat"]


def test_base_weights_come_from_a_file_under_openais_names(tmp_path: Path) -> None:
    source = build_clip(CountClipSettings(clip=SIZE).clip)
    torch.save({"input_resolution": torch.tensor(32), **source.half().state_dict()}, tmp_path / "model_9.pt")
    system = tiny(weights=str(tmp_path / "model_9.pt"))
    system.prepare_training(PAIRS)
    assert torch.equal(system.clip.token_embedding.weight, source.float().token_embedding.weight)


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    other = build_clip(CountClipSettings(clip={**SIZE, "embed_dim": 32}).clip).state_dict()
    del other["logit_scale"]
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"missing: clip\.logit_scale.*wrong shape: .*text_projection"):
        CountCLIP.import_checkpoint(tmp_path / "other.pt", CountClipSettings(clip=SIZE))


def test_openai_weights_exist_at_their_sizes_only() -> None:
    with pytest.raises(UserError, match="vit_b_32, vit_b_16 or vit_l_14"):
        base_weights(CountClipSettings(clip=SIZE))


def test_the_untrained_baseline_does_not_train() -> None:
    assert not tiny(train=False).trains
    assert tiny().trains


@pytest.mark.parametrize(("name", "parameters"), [("vit_b_32", 151_277_313), ("vit_b_16", 149_620_737)])
def test_named_sizes_have_clips_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = build_clip(CountClipSettings(clip=name).clip)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


# ---------------------------------------------------------------------------------------------------------- evaluation


def golden_predictions(**settings: Any) -> tuple[list[Sample], Any]:
    inputs, _ = case_of("evaluation")
    system = golden_clip(**settings)
    samples = [sample(f"i{n}", caption, number) for n, (caption, number) in enumerate(inputs["items"])]
    images = np.stack([fill().wave((3, 32, 32), 0.211, 0.4 + 0.31 * n) for n in range(len(samples))])
    with torch.no_grad():
        return samples, system.predict(torch.from_numpy(images), [system.prompt_of(each) for each in samples])


def test_nine_way_evaluation_is_golden() -> None:
    _, want = case_of("evaluation")
    samples, prediction = golden_predictions(precision="fp32")
    np.testing.assert_allclose(prediction.scores.numpy(), want["cosines"], atol=1e-5)
    true, predicted = [each.count for each in samples], prediction.counts().tolist()
    assert predicted == want["pred"]
    assert ACCURACY(true, predicted) == pytest.approx(want["accuracy"])
    assert MEAN_ABSOLUTE_DEVIATION(true, predicted) == pytest.approx(want["mean_abs_deviation"])


def test_lost_words_predict_two_or_are_dropped() -> None:
    _, kept = golden_predictions(precision="fp32")
    assert kept.kept is None and kept.counts()[4] == 2
    _, dropped = golden_predictions(precision="fp32", lost_word="drop")
    assert dropped.kept.tolist() == [index != 4 for index in range(10)]
    _, whole = golden_predictions(precision="fp32", lost_word="drop", cut_eval=None)
    assert whole.kept.all()


def test_in_the_models_precision_near_cosines_tie() -> None:
    _, fine = golden_predictions(eval_dtype="float32")
    _, coarse = golden_predictions()
    ties = [(scores == scores.max(dim=1, keepdim=True).values).sum(dim=1) for scores in (fine.scores, coarse.scores)]
    assert (ties[1] > 1).sum() > (ties[0] > 1).sum()
    assert torch.equal(coarse.scores, coarse.scores.half().float())


def test_captions_of_a_batch_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    system = tiny()
    passes: list[int] = []
    encode = system.encode_captions
    monkeypatch.setattr(system, "encode_captions", lambda captions: (passes.append(len(captions)), encode(captions))[1])
    with torch.no_grad():
        system.predict(torch.rand(3, 3, 32, 32), ["two cats", "three cats", "two dogs"])
    assert passes == [18]


def test_pictures_of_a_benchmark_share_a_pass_and_each_is_encoded_once_for_nine_captions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = tiny()
    passes: list[int] = []
    encode = system.encode_images
    monkeypatch.setattr(system, "encode_images", lambda images: (passes.append(len(images)), encode(images))[1])
    samples = [sample(f"s{index}", f"two things of kind {index}", 2) for index in range(30)]
    made = list(predict_samples(system, samples, lambda each: torch.zeros(3, 32, 32, dtype=torch.uint8)))
    assert passes == [30]
    assert all(each.scores is not None and len(each.scores) == len(NUMBERS) for each in made)


def test_predictions_leave_out_dropped_samples_and_name_ties() -> None:
    samples = [sample("kept", "two cats", 2), sample("lost", "x" * 77 + " six gulls", 6)]
    system = tiny(lost_word="drop")
    made = list(predict_samples(system, samples, lambda each: torch.zeros(3, 32, 32, dtype=torch.uint8)))
    assert [each.kept for each in made] == [True, False]
    assert made[1].tied


# -------------------------------------------------------------------------------------------------------------- suites


@pytest.mark.parametrize("suite", ["mini", "open", "paper"])
def test_every_suite_runs_each_row_of_the_papers_table_and_says_why_it_leaves_others_out(suite: str) -> None:
    project = load(ROOT, {"suite": suite, "papers": ["countclip"]})
    tables = project.papers["countclip"].tables
    rows = {row.run for name in ("table1_last", "table1_best") for row in tables[name].rows}
    ran = {f"countclip/{run.variant}" for run in project.runs if run.system == "countclip"}
    every = project.experiments["countclip"].variants
    assert len(rows) == 12
    assert rows <= ran
    assert all(project.not_run("countclip", variant) for variant in every if f"countclip/{variant}" not in ran)


def test_editions_of_countbench_never_stand_for_each_other() -> None:
    for suite, editions in (("mini", 1), ("open", 1), ("paper", 3)):
        for run in load(ROOT, {"suite": suite, "papers": ["countclip"]}).runs:
            shown = {name: split for name, split in run.benchmarks.items() if name.startswith("countbench")}
            assert len({split.dataset for split in shown.values()}) == len(shown) == editions
