"""T2ICount against outputs of cha15yq/T2ICount@289d3fb on formula-made weights, and on its own."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recount.augmentation import prompted
from recount.data.sample import Sample
from recount.errors import UserError
from recount.nn import stable_diffusion as sd
from recount.systems import t2icount as t2i
from recount.systems.base import Batch
from small_systems import assert_imported, assert_refused, mini
from t2icount_golden import (
    SMALL,
    assert_case,
    case,
    examples,
    filled,
    official_decoder_names,
    official_names,
    official_state,
    official_unet_names,
    small_unet,
    target,
    tensor,
)

PLAIN_SIZES = {"weights": "random", "counter_width": 32}


def decoder(channels: Sequence[int], width: int, *, hscm: bool = True, similarity: bool = True) -> t2i.Decoder:
    module = t2i.Decoder(channels, 768, width, 8, hscm=hscm, similarity=similarity)
    names = official_names(list(module.state_dict()), official_decoder_names(), t2i.decoder_key)
    module.load_state_dict(filled(module.state_dict(), {ours: f"decoder.{name}" for ours, name in names.items()}))
    return module.eval()


def decoded(module: t2i.Decoder, inputs: dict[str, Any]) -> dict[str, Tensor]:
    mask = tensor(inputs["token_mask"])
    text = (tensor(inputs["text"]) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    with torch.no_grad():
        return module({name: tensor(inputs[name]) for name in ("F1", "F2", "F3", "F4")}, text) | {"t0": text}


# ------------------------------------------------------------------------------------------------- decoder, variants


@pytest.mark.parametrize("name", ["decoder_small", "decoder_official"])
def test_decoder_matches_the_released_one(name: str) -> None:
    expected = case(name)
    module = decoder(expected["widths"]["in_dim"], expected["widths"]["out_dim"])
    assert sum(p.numel() for p in module.parameters()) == expected["scalars"]["parameters"]
    assert_case(decoded(module, expected["inputs"]), expected)


@pytest.mark.parametrize("rrc", [False, True])
@pytest.mark.parametrize("hscm", [False, True])
def test_variants_follow_the_toggles(rrc: bool, hscm: bool) -> None:
    expected = case(f"variant_small_rrc{int(rrc)}_hscm{int(hscm)}")
    module = decoder(expected["widths"]["in_dim"], expected["widths"]["out_dim"], hscm=hscm, similarity=rrc or hscm)
    assert sum(p.numel() for p in module.parameters()) == expected["scalars"]["parameters"]
    assert_case(decoded(module, expected["inputs"]), expected)


@pytest.mark.parametrize("fusion", [False, True])
@pytest.mark.parametrize("correction", [False, True])
def test_stage_with_and_without_fusion_and_correction(fusion: bool, correction: bool) -> None:
    expected = case(f"stage_sem{int(fusion)}_scm{int(correction)}")
    stage = t2i.Stage(64, 48, 32, text=768 if fusion else 0, fusion=fusion, heads=8).eval()
    released = [name.partition(".")[2] for name in official_decoder_names() if name.startswith("upsample1.")]
    names = official_names(list(stage.state_dict()), released, t2i.stage_key)
    stage.load_state_dict(filled(stage.state_dict(), {ours: f"stage.{name}" for ours, name in names.items()}))
    inputs = {name: tensor(spec) for name, spec in expected["inputs"].items()}
    with torch.no_grad():
        v, c = stage(inputs["low"], inputs["high"], inputs["t0"], inputs["S"] if correction else None)
    assert_case({"V": v} | ({} if c is None else {"c": c}), expected)


def test_baseline_with_and_without_rrc_predicts_the_same_for_shared_weights() -> None:
    inputs = case("variant_small_rrc0_hscm0")["inputs"]
    plain, trained_by_rrc = (decoder((32, 64, 128, 128), 32, hscm=False, similarity=rrc) for rrc in (False, True))
    assert torch.equal(decoded(plain, inputs)["density"], decoded(trained_by_rrc, inputs)["density"])


@pytest.mark.parametrize(
    ("rrc", "hscm", "parameters"),
    [(False, False, 27_114_625), (True, False, 27_854_785), (False, True, 48_903_425), (True, True, 48_903_425)],
)
def test_decoders_at_paper_size_have_the_measured_parameters(rrc: bool, hscm: bool, parameters: int) -> None:
    with torch.device("meta"):
        module = t2i.Decoder((320, 640, 1280, 1280), 768, 256, 8, hscm=hscm, similarity=rrc or hscm)
    assert sum(p.numel() for p in module.parameters()) == parameters


def test_fused_attention_and_pooled_text() -> None:
    expected = case("fused_attention")
    inputs = {name: tensor(spec) for name, spec in expected["inputs"].items()}
    share = inputs["token_mask"] / inputs["token_mask"].sum(1, keepdim=True)
    maps = {d: torch.einsum("bthw,bt->bhw", inputs[f"attn{48 // d}"], share)[:, None] for d in (1, 2, 4)}
    text = torch.einsum("btd,bt->bd", inputs["text"], share)
    assert_case({"A_cross": t2i.fused_attention(maps, (0.6, 0.3, 0.1)), "t0": text}, expected)


# ------------------------------------------------------------------------------------------------------------ losses


def predicted(name: str, density: Tensor, inputs: dict[str, Any]) -> Tensor:
    if name == "reg_perfect":
        return density.clone()
    spec = inputs["P_hat"]
    if "zeros" in spec:
        return torch.zeros(spec["zeros"])
    if name == "reg_wrong_prompt":
        first = case("reg_two_images")["inputs"]
        return predicted("reg_two_images", tensor(first["D"]), first)[:1]
    return (float(spec["formula"].split("*")[0].split(",")[1]) * density + tensor(spec["noise"])).clamp(min=0)


@pytest.mark.parametrize(
    "kind", ["two_images", "wrong_prompt", "wrong_prompt_silent", "missed", "perfect", "border_and_empty"]
)
def test_regression_loss(kind: str) -> None:
    expected = case(f"reg_{kind}")
    density = tensor(expected["inputs"]["D"])
    guess = predicted(f"reg_{kind}", density, expected["inputs"]).requires_grad_()
    loss = t2i.regression_loss(guess, density)
    loss.backward()
    levels = t2i.ssim_losses(guess, density, (density > 0.06).float())
    actual = {f"L_ssim_{index}_level": torch.stack(levels[:index]).mean() for index in (1, 2, 3)}
    actual |= {"L_reg": loss, "L_dist": t2i.distribution_loss(guess, density), "grad_P": guess.grad}
    assert_case(actual, expected)


def test_a_wrong_prompt_sample_has_no_gradient_in_the_regression_loss() -> None:
    guess = torch.rand(1, 1, 48, 48).requires_grad_()
    t2i.regression_loss(guess, torch.zeros(1, 1, 48, 48)).backward()
    assert guess.grad.abs().max() < 1e-6


def test_ssim_window() -> None:
    assert_case({"window": t2i.ssim_window()}, case("ssim_window"))


@pytest.mark.parametrize(
    "kind", ["two_images", "mosaic_and_wrong_prompt", "empty_positives", "empty_negatives", "threshold_mean"]
)
def test_region_labels_and_coherence_loss(kind: str) -> None:
    expected = case(f"rrc_{kind}")
    inputs = expected["inputs"]
    threshold = "mean" if kind == "threshold_mean" else inputs["attention_threshold"]
    labels = t2i.region_labels(target(inputs), tensor(inputs["A_cross"]), tensor(inputs["img_mask"]), threshold)
    similarity = tensor(inputs["S"]).requires_grad_()
    loss = t2i.coherence_loss(similarity, labels)
    loss.backward()
    assert [int((row == 1).sum()) for row in labels] == expected["scalars"]["positive"]
    assert [int((row == 0).sum()) for row in labels] == expected["scalars"]["negative"]
    assert_case({"PNA_label": labels, "L_RRC": loss, "grad_S": similarity.grad}, expected)


def test_total_loss_of_a_batch_with_all_sample_kinds() -> None:
    expected = case("total_batch")
    inputs = expected["inputs"]
    density, own = target(inputs), tensor(inputs["img_mask"])
    leaves = {name: tensor(inputs[name]).requires_grad_() for name in ("S3", "S2")}
    guess = (0.5 * density + tensor(inputs["noise"])).clamp(min=0).requires_grad_()
    outputs = t2i.Outputs({"density": guess, **leaves}, tensor(inputs["A_cross"]), {})
    stub = SimpleNamespace(settings=t2i.T2ICountSettings())
    terms = t2i.T2ICount.loss_terms(stub, outputs, density / 60, own)  # type: ignore[arg-type]
    total = terms["regression"] + 0.01 * terms["rrc_s3"] + 0.01 * terms["rrc_s2"]
    total.backward()
    actual = {"L_reg": terms["regression"], "L_RRC_S3": terms["rrc_s3"], "L_RRC_S2": terms["rrc_s2"], "L_total": total}
    assert_case(actual | {"grad_P": guess.grad, "grad_S3": leaves["S3"].grad, "grad_S2": leaves["S2"].grad}, expected)


# -------------------------------------------------------------------------------------------------------- end to end


@cache
def small_system(checkpointing: bool = False, layout: torch.memory_format = torch.channels_last) -> t2i.T2ICount:
    system = t2i.T2ICount(t2i.T2ICountSettings(backbone=SMALL, gradient_checkpointing=checkpointing, **PLAIN_SIZES))
    system.unet.load_state_dict(small_unet().state_dict())
    system.decoder.load_state_dict(decoder(SMALL.unet_channels, 32).state_dict())
    return system.train().to(memory_format=layout)


@pytest.mark.parametrize(("setting", "answers"), [("auto", [True, False]), (True, [False]), (False, [False])])
def test_the_unet_is_computed_twice_only_where_memory_is_saved(setting: Any, answers: list[bool]) -> None:
    system = mini(t2i.T2ICount, gradient_checkpointing=setting)
    assert system.unet.is_gradient_checkpointing is (setting is True)
    assert [system.save_memory() for _ in answers] == answers
    assert system.unet.is_gradient_checkpointing is (setting is not False)


@pytest.mark.parametrize(
    ("checkpointing", "layout", "same_way"),
    [
        (False, torch.contiguous_format, 0.2),
        # as it is used: GroupNorm rounds otherwise there
        pytest.param(False, torch.channels_last, 0.5, marks=pytest.mark.more),
        pytest.param(True, torch.channels_last, 0.5, marks=pytest.mark.more),
    ],
)
def test_forward_losses_and_gradients_end_to_end(
    checkpointing: bool, layout: torch.memory_format, same_way: float
) -> None:
    expected = case("end_to_end_small")
    system = small_system(checkpointing, layout)
    inputs = expected["inputs"]
    outputs = system.decode(tensor(inputs["latent"]), tensor(inputs["context"]), tensor(inputs["token_mask"]))
    terms = system.loss_terms(outputs, target(inputs) / 60, tensor(inputs["img_mask"]))
    total = terms["regression"] + sum(system.loss_weights[name] * terms[name] for name in ("rrc_s3", "rrc_s2"))
    total.backward()
    gradients = {f"grad:{name}": parameter.grad for name, parameter in by_official_name(system).items()}
    actual = gradients | outputs.decoded | {"A_cross": outputs.attention}
    actual |= {"L_reg": terms["regression"], "L_RRC_S3": terms["rrc_s3"], "L_RRC_S2": terms["rrc_s2"], "L_total": total}
    assert_case(actual, expected, same_way=same_way)
    none = sorted(name for name, parameter in by_official_name(system).items() if parameter.grad is None)
    given = {name: p.grad.abs().max() for name, p in by_official_name(system).items() if p.grad is not None}
    zero = expected["scalars"]["parameters_with_zero_gradient"]  # attention to a single key
    assert none == sorted(expected["scalars"]["parameters_without_gradient"])
    assert all(given[name] < 1e-10 for name in zero), "zero but for rounding, which differs by machine"
    assert {name for name, largest in given.items() if largest == 0} <= set(zero)


def by_official_name(system: t2i.T2ICount) -> dict[str, nn.Parameter]:
    unet = official_unet_names(system.unet)
    names = official_names(list(system.decoder.state_dict()), official_decoder_names(), t2i.decoder_key)
    parameters = {f"unet.unet.diffusion_model.{unet[name]}": p for name, p in system.unet.named_parameters()}
    return parameters | {f"decoder.{names[name]}": p for name, p in system.decoder.named_parameters()}


# ------------------------------------------------------------------------------------------------- system, checkpoints


tiny = partial(mini, t2i.T2ICount)
small = cache(tiny)


def test_swapping_the_prompt_changes_the_prediction_of_a_random_network() -> None:
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        maps = [small().predict(image, [prompt]).maps["attention"] for prompt in ("red stars", "blue rings")]
    assert not torch.allclose(maps[0], maps[1])


def test_windows_of_a_batch_are_predicted_as_alone() -> None:
    images = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    prompts = ["red stars", "cars", "dice showing four pips"]
    with torch.no_grad():
        together = small().predict(images, prompts).density
        alone = torch.cat([small().predict(images[i : i + 1], [prompts[i]]).density for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_windows_of_prediction_have_the_backbones_size_whatever_the_training_crop() -> None:
    windows = small().windows
    assert (small().settings.crop, windows.height, windows.width, windows.stride) == (64, 96, 96, 96)
    assert t2i.T2ICountSettings().crop == sd.Backbone().image_size == 384  # one size in the released code


def test_noise_of_the_papers_text_is_drawn_in_training_and_fixed_in_evaluation() -> None:
    noisy = tiny(noise="first_step", weights="random")
    image = torch.rand(2, 3, 96, 96)
    assert not torch.equal(noisy.train().latent(image), noisy.latent(image))
    assert torch.equal(noisy.eval().latent(image), noisy.latent(image))


def test_several_denoising_steps_end_near_the_picture_and_are_fixed_in_evaluation() -> None:
    settings = t2i.T2ICount.mini_settings() | {"denoising_steps": 4}
    several = t2i.T2ICount(t2i.T2ICountSettings(**settings)).eval()
    context, mask = several.context(["red stars"])
    share = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)
    latent = several.latent(torch.rand(1, 3, 64, 64))
    last = several._denoised(latent, context, share)
    assert last.shape == latent.shape
    assert not torch.equal(last, latent)
    assert torch.equal(last, several._denoised(latent, context, share))
    assert torch.equal(tiny()._denoised(latent, context, share), latent)


def test_ambiguous_cells_as_background_push_their_similarity_down() -> None:
    terms = {}
    for ambiguous in ("left_out", "background"):
        system = t2i.T2ICount(t2i.T2ICountSettings(**t2i.T2ICount.mini_settings() | {"ambiguous": ambiguous}))
        similarity, attention = torch.full((1, 1, 16, 16), 0.5), torch.ones(1, 1, 16, 16)
        decoded = {"S3": similarity, "S2": similarity, "density": torch.zeros(1, 1, 16, 16)}
        outputs = t2i.Outputs(decoded, attention, {})
        terms[ambiguous] = system.loss_terms(outputs, torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16))["rrc_s3"]
    assert (float(terms["left_out"]), float(terms["background"])) == pytest.approx((0, 0.5))


def test_foreground_is_where_the_coherence_loss_sees_the_objects() -> None:
    points = np.array([[20.0, 12.0]], np.float32)
    sample = Sample("a", "test", None, points, 1.0, "red stars", 100, 60)
    cells, stride = small().foreground(sample)
    assert cells.shape == (-(-60 // stride), -(-100 // stride))  # the border's cells may be smaller
    density = prompted.density_from_points(points, 100, 60, "adaptive")
    assert cells[int(12 // stride), int(20 // stride)]
    assert int(cells.sum()) <= int((density > 0).sum())
    nothing, _ = small().foreground(replace(sample, points=points[:0]))
    assert not nothing.any()


def test_base_weights_come_back_and_the_decoder_stays() -> None:
    system = tiny()
    decoder = {name: value.clone() for name, value in system.decoder.state_dict().items()}
    assert system.restore_base_weights()
    base = {name: value.clone() for name, value in system.unet.state_dict().items()}
    with torch.no_grad():
        for parameter in system.unet.parameters():
            parameter.add_(1.0)
    assert system.restore_base_weights()
    assert all(torch.equal(value, base[name]) for name, value in system.unet.state_dict().items())
    assert all(torch.equal(value, decoder[name]) for name, value in system.decoder.state_dict().items())


def test_random_weights_are_no_base() -> None:
    assert not tiny(weights="random").restore_base_weights()


def test_unet_and_decoder_train_and_the_rest_is_frozen() -> None:
    system = tiny(unet_factor=0.1)
    groups = system.parameter_groups(t2i.T2ICount.recipe)
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in system.parameters() if parameter.requires_grad}
    assert groups[1]["lr_scale"] == 0.1
    assert groups[1]["weight_decay"] == pytest.approx(5e-6)


def test_wrong_prompt_control_punishes_counts_under_wrong_prompts_only() -> None:
    outputs = t2i.Outputs({"density": torch.full((2, 1, 24, 24), 0.1)}, torch.zeros(2, 1, 24, 24), {})
    settings = t2i.T2ICountSettings(rrc=False, wrong_prompt_weight=0.01)
    own = torch.stack([torch.ones(1, 24, 24), torch.zeros(1, 24, 24)])
    terms = t2i.T2ICount.loss_terms(SimpleNamespace(settings=settings), outputs, torch.zeros(2, 1, 24, 24), own)  # type: ignore[arg-type]
    assert float(terms["wrong_prompt"]) == pytest.approx(0.1 * 576 / 60)


def test_losses_of_a_training_batch_have_gradients() -> None:
    made = examples(own=1.0)[:2]
    system = small()
    terms = system.losses(Batch.of(made).to("cpu"))
    assert set(terms) == {"regression", "rrc_s3", "rrc_s2", "train_mae"}
    assert all(torch.isfinite(value) for value in terms.values())
    for name in ("rrc_s3", "rrc_s2", "regression"):
        gradient = torch.autograd.grad(terms[name], system.unet.conv_in.weight, retain_graph=True)[0]
        assert gradient.isfinite().all()
        assert gradient.any(), name


class ShapesMade(TorchDispatchMode):
    """Keeps the shape of every tensor that an operation makes, and the operations' names."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.operations.add(str(func))
        self.shapes |= {tuple(each.shape) for each in tree_leaves(made) if isinstance(each, Tensor)}
        return made


def test_self_attention_maps_are_never_made() -> None:
    images, cells = torch.rand(1, 3, 96, 96), {24 * 24, 12 * 12, 6 * 6}
    system = tiny().train()
    context, mask = system.context(["red stars"])
    with ShapesMade() as seen:
        outputs = system.decode(system.latent(images), context, mask)
        outputs.decoded["density"].sum().backward()
    assert any("flash_attention" in name and "backward" in name for name in seen.operations)
    assert {(1, 24 * 24, 24), (1, 12 * 12, 48), (1, 6 * 6, 56)} <= seen.shapes  # the cells of all levels were there
    assert not [shape for shape in seen.shapes if any(shape.count(number) > 1 for number in cells)]


def test_released_checkpoint_is_imported_under_our_names_and_one_with_other_tensors_refused(tmp_path: Path) -> None:
    system, path = small_system(), tmp_path / "best_model_paper.pth"
    state = official_state(system)
    assert_imported(t2i.T2ICount, state, system.state_dict(), system.settings, path)
    state["decoder.extra.weight"] = state.pop("decoder.regressor.norm1.weight")
    said = r"missing: decoder.counter.norm1.weight; unexpected: decoder.extra.weight"
    assert_refused(t2i.T2ICount, state, system.settings, path, said)


def test_released_weights_refuse_another_latent_scale(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need latent_scale 1"):
        t2i.T2ICount.import_checkpoint(tmp_path / "best_model_paper.pth", t2i.T2ICountSettings(latent_scale=0.18215))


def test_names_and_sizes_at_paper_size_are_those_of_the_released_file() -> None:
    with torch.device("meta"):
        system = t2i.T2ICount(t2i.T2ICountSettings())
    state = official_state(system)
    prefixes = ("unet.unet.diffusion_model.", "decoder.")
    assert [sum(key.startswith(prefix) for key in state) for prefix in prefixes] == [686, 168]
    assert sum(p.numel() for p in system.unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in system.text.parameters()) == 123_060_480
    assert sum(p.numel() for p in system.vae.parameters()) == 34_163_592 + 92
    assert sum(p.numel() for p in system.state_dict().values()) == 1_065_648_553


@pytest.mark.parametrize("dead", [True, False])
def test_a_counter_that_starts_dead_is_turned_and_no_other(tmp_path: Path, dead: bool) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    sample = Sample("a", "train", path, np.zeros((1, 2), np.float32), 1, "red stars", 64, 64)
    system = tiny(weights="random").train()
    last = system.decoder.counter.head[-2]
    with torch.no_grad():
        last.bias.fill_(-100.0 if dead else 100.0)
    system.prepare_training([sample])
    assert last.bias.item() == 100.0
    assert system.training
    assert bool((system.eval().predict(torch.rand(1, 3, 64, 64), ["red stars"]).density > 0).all())


def test_run_json_says_whether_ready_maps_are_learnt() -> None:
    plain = Sample("a", "train", None, np.ones((1, 2), np.float32), 1.0, "red stars", 64, 64)
    ready = replace(plain, attributes={"density_map": "fsc147/maps/a.npy"})
    system: Any = SimpleNamespace()  # it is asked nothing of itself
    assert t2i.T2ICount.targets_of(system, [ready, ready]) == "ready maps"
    assert t2i.T2ICount.targets_of(system, [plain]) == "own kernel"
