"""T2ICount against outputs of cha15yq/T2ICount@289d3fb on formula-made weights, and on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
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

from golden_tools import fill, golden, wave
from recount.data.sample import Sample
from recount.errors import UserError
from recount.systems import t2icount as t2i
from recount.systems.base import Batch, CheckpointError

SMALL = t2i.Backbone(
    unet_channels=(32, 64, 128, 128), vae_channels=(32, 32, 64, 64), vae_layers=1, text_layers=1, image_size=384
)
PLAIN_SIZES = {"weights": "random", "counter_width": 32}


def case(name: str) -> dict[str, Any]:
    return golden("t2icount")["cases"][name]


def tensor(spec: dict[str, Any]) -> Tensor:
    """Return the input a golden case describes."""
    if "wave" in spec:
        return torch.from_numpy(wave(spec["wave"] | {key: spec[key] for key in ("offset",) if key in spec}))
    if "token_mask" in spec:
        mask = torch.zeros(spec["token_mask"]["shape"])
        for row, (start, end) in zip(mask, spec["token_mask"]["ones_from_to"], strict=True):
            row[start:end] = 1
        return mask
    if "quadrants" in spec:
        return quadrants(spec["quadrants"]["tl_tr_bl_br"], spec["quadrants"]["shape"][-1])
    if "spots" in spec:
        return spots(spec["spots"])
    if "zeros" in spec:
        return torch.zeros(spec["zeros"])
    return torch.full(spec["constant"], spec["value"])


def quadrants(values: Sequence[Sequence[float]], side: int) -> Tensor:
    corners = torch.tensor(values, dtype=torch.float32).view(-1, 1, 2, 2)
    return corners.repeat_interleave(side // 2, 2).repeat_interleave(side // 2, 3)


def spots(spec: dict[str, Any]) -> Tensor:
    shape, sigma = spec["shape"], spec["sigma"]
    y, x = np.mgrid[: shape[2], : shape[3]].astype(np.float64)
    maps = np.zeros(shape)
    for row, points in enumerate(spec["points_yx"]):
        for py, px in points:
            maps[row, 0] += np.exp(-((y - py) ** 2 + (x - px) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    return torch.from_numpy((spec["scale"] * maps).astype(np.float32))


def target(inputs: dict[str, Any]) -> Tensor:
    density = tensor(inputs["D"])
    return density * tensor(inputs["img_mask"]) if inputs["D"].get("times") == "img_mask" else density


def assert_case(actual: dict[str, Tensor], expected: dict[str, Any], *, same_way: float = 0.2) -> None:
    """Assert the golden file's own tolerance for every output it holds.

    ``same_way``: how much of it every value may be off in the same direction, for the sums.
    """
    for name, want in expected["outputs"].items():
        values = actual[name].detach().double().reshape(want["shape"]).numpy()
        atol = expected["atol"][name]
        got = fill().digest(values)
        samples = got["samples"] if values.size >= fill().SAMPLES else values.ravel()
        np.testing.assert_allclose(samples, want["samples"], rtol=0, atol=atol, err_msg=name)
        for total in ("sum", "abs_sum"):
            allowed = max(1e-5 * want["abs_sum"], same_way * atol * values.size)
            assert abs(got[total] - want[total]) <= allowed, f"{name}: {total}"


def filled(state: dict[str, Tensor], official: dict[str, str]) -> dict[str, Tensor]:
    """Return ``state`` with formula-made values; ``official``: our name -> released name, which sets the value."""
    weights = {}
    for name, value in state.items():
        official_name = official[name]
        is_scale = value.ndim == 1 and name.endswith("weight")
        weights[name] = torch.from_numpy(fill().fill(official_name, tuple(value.shape), is_scale))
    return weights


def official_names(
    ours: Sequence[str], candidates: Sequence[str], rename: Callable[[str], str | None]
) -> dict[str, str]:
    """Return our name -> official name, through the renaming that the checkpoint import uses."""
    table = {rename(name): name for name in candidates}
    missing = set(ours) - set(table)
    assert not missing, f"no official name for {sorted(missing)[:5]}"
    return {name: table[name] for name in ours}


def official_decoder_names() -> list[str]:
    """Return the 168 names of the specification's table."""

    def both(*names: str) -> list[str]:
        return [f"{name}.{part}" for name in names for part in ("weight", "bias")]

    attention = ["q_proj", "k_proj", "v_proj", "out_proj"]
    fusion = ["img_pe_transform", *(f"{way}.{name}" for way in ("txt2img", "img2txt") for name in attention)]
    fusion += ["mlp.net.0.0", "mlp.net.2", "norm1", "norm2", "norm3"]
    names = []
    for stage in (1, 2, 3):
        modules = ["conv1.0", "conv2.0"]
        if stage < 3:
            modules += ["text_conv", "norm1", "conv3.0"]
            modules += [f"img_txt_fusion{number}.{name}" for number in (1, 2) for name in fusion]
        names += both(*(f"upsample{stage}.{name}" for name in modules))
    counter = [
        "conv.0",
        *(f"img_pe_transform{n}" for n in (1, 2)),
        *(f"self_attn{n}.{a}" for n in (1, 2) for a in attention),
    ]
    counter += ["norm1", "norm2", "reg_head.0", "reg_head.2", "reg_head.4"]
    return names + both(*(f"regressor.{name}" for name in counter))


def official_unet_names(network: nn.Module) -> dict[str, str]:
    """Return our name -> LDM name of every UNet tensor, listed as LDM builds it: 4 levels, 2 residual blocks each."""
    ldm = []
    resnet = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection"]
    block = "transformer_blocks.0."
    transformer = ["norm", "proj_in", "proj_out", *(f"{block}norm{n}" for n in (1, 2, 3))]
    transformer += [f"{block}attn{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")]
    transformer += [f"{block}ff.net.0.proj", f"{block}ff.net.2"]
    for number in range(12):
        ldm += [f"input_blocks.{number}.0.{name}" for name in (resnet if number % 3 else ["op"])]
        ldm += [f"output_blocks.{number}.0.{name}" for name in resnet]
        ldm += [f"input_blocks.{number}.1.{name}" for name in transformer if number % 3]
        ldm += [f"output_blocks.{number}.1.{name}" for name in transformer if number > 2]
    ldm.remove("input_blocks.0.0.op")
    ldm += ["input_blocks.0.0", "output_blocks.2.1.conv", "output_blocks.5.2.conv", "output_blocks.8.2.conv"]
    ldm += [f"middle_block.{index}.{name}" for index in (0, 2) for name in resnet]
    ldm += [f"middle_block.1.{name}" for name in transformer] + ["time_embed.0", "time_embed.2", "out.0", "out.2"]
    ours = network.state_dict()
    table = {}
    for name in (f"{name}.{part}" for name in ldm for part in ("weight", "bias")):
        diffusers = t2i.unet_key(name)
        if diffusers in ours:
            assert diffusers not in table, f"{name} and {table[diffusers]} both become {diffusers}"
            table[diffusers] = name
    assert set(table) == set(ours)
    return table


@cache
def small_unet() -> Any:
    network = t2i.unet(SMALL).eval()
    names = official_unet_names(network)
    official = {ours: f"unet.unet.diffusion_model.{name}" for ours, name in names.items()}
    network.load_state_dict(filled(network.state_dict(), official))
    return network


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


# --------------------------------------------------------------------------------------------------- UNet, attention


def test_unet_features_and_every_attention_map_match_the_released_code() -> None:
    expected = case("unet_small")
    network = small_unet()
    assert sum(p.numel() for p in network.parameters()) == expected["scalars"]["parameters"]
    once = t2i.UNetPass(network)
    every_token = torch.eye(77)[None]
    with torch.no_grad():
        features, maps = once(tensor(expected["inputs"]["latent"]), tensor(expected["inputs"]["context"]), every_token)
    assert len(once.attention) == 15, "cross-attention of the middle block must not be kept"
    assert_case(
        features | {f"attn{48 // d}": value for d, value in maps.items()} | in_order(once.attention) | fused(maps),
        expected,
    )


def in_order(attention: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the maps as the golden file does: by order of computation within the down and the up path."""
    named = {}
    for side in ("down", "up"):
        layers = sorted(
            (name for name in attention if name.startswith(side)), key=lambda n: (n.split(".")[1], n.split(".")[3])
        )
        named |= {f"{side}_cross_{index}": attention[name] for index, name in enumerate(layers)}
    return named


def fused(maps: dict[int, Tensor]) -> dict[str, Tensor]:
    prompt = {divisor: value[:, 1:3].mean(1, keepdim=True) for divisor, value in maps.items()}
    return {"A_cross": t2i.fused_attention(prompt, (0.6, 0.3, 0.1))}


def test_layers_of_one_resolution_are_averaged_without_the_middle_block() -> None:
    expected = case("attention_layer_average")
    maps = {name: tensor(spec) for name, spec in expected["inputs"].items() if "cross" in name}
    layers = {"mid_block.attentions.0": maps["mid_cross_0"]}
    for number in range(6):
        layers[f"down_blocks.{number // 2}.attentions.{number % 2}"] = maps[f"down_cross_{number}"]
    for number in range(9):
        layers[f"up_blocks.{number // 3 + 1}.attentions.{number % 3}"] = maps[f"up_cross_{number}"]
    average = t2i.layer_average(layers, (48, 48))
    assert_case({f"attn{48 // divisor}": value for divisor, value in average.items()}, expected)


def test_fused_attention_and_pooled_text() -> None:
    expected = case("fused_attention")
    inputs = {name: tensor(spec) for name, spec in expected["inputs"].items()}
    share = inputs["token_mask"] / inputs["token_mask"].sum(1, keepdim=True)
    maps = {d: torch.einsum("bthw,bt->bhw", inputs[f"attn{48 // d}"], share)[:, None] for d in (1, 2, 4)}
    text = torch.einsum("btd,bt->bd", inputs["text"], share)
    assert_case({"A_cross": t2i.fused_attention(maps, (0.6, 0.3, 0.1)), "t0": text}, expected)


@pytest.mark.full_size
def test_unet_at_paper_size_matches_the_released_code() -> None:
    expected = case("unet_official")
    network = t2i.unet(t2i.Backbone()).eval()
    official = {ours: f"unet.unet.diffusion_model.{name}" for ours, name in official_unet_names(network).items()}
    network.load_state_dict(filled(network.state_dict(), official), assign=True)
    with torch.no_grad():
        inputs = expected["inputs"]
        features, maps = t2i.UNetPass(network)(tensor(inputs["latent"]), tensor(inputs["context"]), torch.eye(77)[None])
    assert_case(features | {f"attn{48 // d}": value for d, value in maps.items()}, expected)


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
    "name",
    [
        "reg_two_images",
        "reg_wrong_prompt",
        "reg_wrong_prompt_silent",
        "reg_missed",
        "reg_perfect",
        "reg_border_and_empty",
    ],
)
def test_regression_loss(name: str) -> None:
    expected = case(name)
    density = tensor(expected["inputs"]["D"])
    guess = predicted(name, density, expected["inputs"]).requires_grad_()
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
    "name",
    [
        "rrc_two_images",
        "rrc_mosaic_and_wrong_prompt",
        "rrc_empty_positives",
        "rrc_empty_negatives",
        "rrc_threshold_mean",
    ],
)
def test_region_labels_and_coherence_loss(name: str) -> None:
    expected = case(name)
    inputs = expected["inputs"]
    threshold = "mean" if name == "rrc_threshold_mean" else inputs["attention_threshold"]
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


@pytest.mark.parametrize(
    ("checkpointing", "layout", "same_way"),
    [
        (False, torch.contiguous_format, 0.2),
        (False, torch.channels_last, 0.5),  # as it is used: GroupNorm rounds otherwise there
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


# ---------------------------------------------------------------------------------------------- VAE, text, tokenizer


def official_vae_names() -> list[str]:
    names = ["encoder.conv_in", "encoder.norm_out", "encoder.conv_out", "quant_conv", "post_quant_conv"]
    resnet = ["norm1", "conv1", "norm2", "conv2", "nin_shortcut"]
    blocks = [f"encoder.down.{level}.block.{block}" for level in range(4) for block in range(2)]
    names += [f"{block}.{part}" for block in [*blocks, "encoder.mid.block_1", "encoder.mid.block_2"] for part in resnet]
    names += [f"encoder.down.{level}.downsample.conv" for level in range(3)]
    names += [f"encoder.mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")]
    return [f"{name}.{part}" for name in names for part in ("weight", "bias")]


def test_vae_encoder_returns_the_unscaled_mode() -> None:
    expected = case("vae_encoder_64")
    network = t2i.autoencoder(t2i.Backbone())
    del network.decoder
    state = network.state_dict()
    names = official_names(list(state), official_vae_names(), t2i.vae_key)
    network.load_state_dict(filled(state, {ours: f"vae.{name}" for ours, name in names.items()}))
    with torch.no_grad():
        latent = network.eval().encode(tensor(expected["inputs"]["image"])).latent_dist.mode()
    assert_case({"latent": latent}, expected)


def test_text_states_are_those_of_clip_without_a_padding_mask() -> None:
    expected = case("clip_text")
    encoder = t2i.text_encoder(t2i.Backbone()).eval()
    state = encoder.state_dict()
    official = {name: f"clip.transformer.text_model.{name.removeprefix('text_model.')}" for name in state}
    encoder.load_state_dict(filled(state, official))
    with torch.no_grad():
        states = encoder(torch.tensor(expected["inputs"]["input_ids"])).last_hidden_state
    assert_case({"last_hidden_state": states}, expected)


def test_prompts_become_clip_tokens() -> None:
    expected = case("prompt_tokens")
    words = t2i.tokenizer(t2i.Backbone())
    names = expected["inputs"]["names"]
    assert {name: words.encode(name) for name in names} == expected["ids"]
    ids, mask = t2i.token_ids(names, words, 77)
    assert ids[:, 0].unique().item() == 49406
    assert ids[0].tolist() == [49406, *expected["ids"][names[0]]] + [49407] * (76 - len(expected["ids"][names[0]]))
    assert dict(zip(names, mask.sum(1).int().tolist(), strict=True)) == expected["scalars"]["n_tokens"]
    assert mask[0].nonzero().flatten().tolist() == [1, 2]


def test_an_unknown_word_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match="does not know bears; it knows: red, stars"):
        t2i.WordTokenizer(("red", "stars")).encode("Red bears")


def test_the_first_step_of_the_noise_schedule() -> None:
    expected = case("noise_schedule")["outputs"]
    first = expected["alpha_bar_first_8"]["samples"][0]
    assert t2i.first_alpha_bar() == pytest.approx(first, abs=1e-7)


# --------------------------------------------------------------------------------------------------- training examples


def picture(spec: dict[str, Any]) -> Tensor:
    shape = tuple(spec["shape_h_w_c"])
    values = np.rint(127.5 + 127.5 * fill().wave(shape, spec["a"], spec["b"])).astype(np.uint8)
    return torch.from_numpy(values).permute(2, 0, 1)


def ready_density(spec: dict[str, Any]) -> Tensor:
    height, width = spec["shape_h_w"]
    index = np.arange(height * width, dtype=np.float64)
    return torch.from_numpy(0.01 * (1 + np.sin(spec["a"] * (index + 1) + spec["b"]))).view(height, width)


def canvas(inputs: dict[str, Any]) -> t2i.Canvas:
    image, density = picture(inputs["image"]), ready_density(inputs["density"])
    own = torch.ones(density.shape)
    corners = inputs.get("img_mask_quadrants_tl_tr_bl_br")
    if corners:
        height, width = density.shape
        rows, columns = torch.arange(height) >= height // 2, torch.arange(width) >= width // 2
        own = torch.tensor(corners, dtype=torch.float32).view(2, 2)[rows.long()][:, columns.long()]
    return t2i.Canvas(image, density, own)


def transformed(whole: t2i.Canvas, inputs: dict[str, Any]) -> dict[str, Tensor]:
    if inputs["scale"] is not None:
        whole = whole.enlarged(inputs["scale"])
    image, maps = t2i.training_maps(whole.cut(*inputs["crop_top_left"], 384), 8, inputs["mirror"])
    return {"image": image * 2 - 1, "density": maps["density"], "img_mask": maps["own"]}


@pytest.mark.parametrize("name", ["transform_plain", "transform_mirror_mask", "transform_enlarged"])
def test_training_transform_with_given_draws(name: str) -> None:
    expected = case(name)
    assert_case(transformed(canvas(expected["inputs"]), expected["inputs"]), expected)


@pytest.mark.parametrize("name", ["mosaic", "mosaic_enlarged"])
def test_mosaic_with_given_draws(name: str) -> None:
    expected = case(name)
    inputs = expected["inputs"]
    tiles = []
    for entry, corner in zip(inputs["images"], inputs["tile_crop_top_left"], strict=True):
        whole = canvas(entry)
        tiles.append((whole if entry["class"] == inputs["images"][0]["class"] else whole.blank()).cut(*corner, 224))
    made = transformed(t2i.mosaic([tiles[place] for place in inputs["tile_order"]["perm"]]), inputs)
    assert_case(made | {"token_mask": prompt_mask(expected)}, expected)


@pytest.mark.parametrize("name", ["prompt_swap_other_class", "prompt_swap_same_class"])
def test_another_pictures_prompt(name: str) -> None:
    expected = case(name)
    inputs = expected["inputs"]
    own, other = inputs["images"][0], inputs["images"][inputs["random_image"]]
    whole = canvas(own) if own["class"] == other["class"] else canvas(own).blank()
    assert_case(transformed(whole, inputs) | {"token_mask": prompt_mask(expected)}, expected)


def prompt_mask(expected: dict[str, Any]) -> Tensor:
    return t2i.token_ids([expected["scalars"]["prompt"]], t2i.ClipTokenizer(), 77)[1][0]


class Pictures:
    """Four pictures of two classes; the first has a row for each of two prompts."""

    def __init__(self) -> None:
        rows = [("a", "stars", 3), ("a", "rings", 1), ("b", "stars", 2), ("c", "cars", 4), ("d", "cars", 2)]
        points = np.random.default_rng(0).uniform(4, 90, (9, 2)).astype(np.float32)
        self.samples = [
            Sample(f"{file}-{name}", "train", Path(f"{file}.png"), points[:count], count, name, 96, 96)
            for file, name, count in rows
        ]

    def image(self, index: int) -> Tensor:
        return torch.full((3, 96, 96), 40 * index, dtype=torch.uint8)


def examples(**kinds: float) -> list[Any]:
    shares = {"own": 0.0, "other_prompt": 0.0, "mosaic": 0.0} | kinds
    settings = t2i.T2ICountSettings(backbone="mini_sd", weights="random", crop=96, mosaic_tile=56, sample_kinds=shares)
    maker = t2i.T2ICount.example_maker(SimpleNamespace(settings=settings))  # type: ignore[arg-type]
    pool = Pictures()
    return [maker(index, pool, np.random.default_rng(seed))[0] for index in range(5) for seed in range(12)]


def test_wrong_prompt_gets_no_positive_pixels_and_no_own_ones() -> None:
    wrong = [e for e in examples(other_prompt=1.0) if e.prompt == "cars" and e.id.startswith(("a", "b"))]
    assert wrong
    for example in wrong:
        assert example.count == 0
        assert not example.maps["own"].any()
        labels = t2i.region_labels(example.maps["density"], torch.ones(1, 24, 24), example.maps["own"], 0.3)
        assert (labels == 0).all()


def test_a_drawn_prompt_whose_truth_is_known_keeps_it() -> None:
    known = [e for e in examples(other_prompt=1.0) if e.id == "a-stars" and e.prompt == "rings"]
    assert known
    assert all(e.maps["own"].all() for e in known)


def test_mosaic_takes_density_only_from_tiles_of_the_prompts_class() -> None:
    made = [e for e in examples(mosaic=1.0) if e.id == "c-cars"]
    assert any(0 < float(e.maps["own"].mean()) < 1 for e in made)
    for example in made:
        near_own = torch.nn.functional.max_pool2d(example.maps["own"][None], 5, stride=1, padding=2)[0]
        assert not example.maps["density"][near_own == 0].any()


def test_a_picture_smaller_than_the_crop_is_refused_by_name() -> None:
    settings = t2i.T2ICountSettings(weights="random")
    maker = t2i.T2ICount.example_maker(SimpleNamespace(settings=settings))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"the picture is 96x96 pixels, T2ICount cuts squares of 384"):
        maker(0, Pictures(), np.random.default_rng(0))


def test_density_from_points_keeps_every_point_inside_and_no_other() -> None:
    points = np.array([[0, 0], [95.9, 50], [40, 40], [40, 40], [200, 3]], np.float32)
    assert float(t2i.density_from_points(points, 96, 96, "adaptive").sum()) == pytest.approx(4)
    assert not t2i.density_from_points(points[:0], 96, 96, 2.0).any()


# ------------------------------------------------------------------------------------------------- system, checkpoints


@cache
def mini() -> t2i.T2ICount:
    torch.manual_seed(0)
    return t2i.T2ICount(t2i.T2ICountSettings(**t2i.T2ICount.mini_settings())).eval()


def test_swapping_the_prompt_changes_the_prediction_of_a_random_network() -> None:
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        maps = [mini().predict(image, [prompt]).maps["attention"] for prompt in ("red stars", "blue rings")]
    assert not torch.allclose(maps[0], maps[1])


def test_windows_of_a_batch_are_predicted_as_alone() -> None:
    images = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    prompts = ["red stars", "cars", "dice showing four pips"]
    with torch.no_grad():
        together = mini().predict(images, prompts).density
        alone = torch.cat([mini().predict(images[i : i + 1], [prompts[i]]).density for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_windows_of_prediction_have_the_backbones_size_whatever_the_training_crop() -> None:
    windows = mini().windows
    assert (mini().settings.crop, windows.height, windows.width, windows.stride) == (64, 96, 96, 96)
    assert t2i.T2ICountSettings().crop == t2i.Backbone().image_size == 384  # one size in the released code


def test_noise_of_the_papers_text_is_drawn_in_training_and_fixed_in_evaluation() -> None:
    noisy = t2i.T2ICount(
        t2i.T2ICountSettings(**t2i.T2ICount.mini_settings() | {"noise": "first_step", "weights": "random"})
    )
    image = torch.rand(2, 3, 96, 96)
    assert not torch.equal(noisy.train().latent(image), noisy.latent(image))
    assert torch.equal(noisy.eval().latent(image), noisy.latent(image))


def test_foreground_is_where_the_coherence_loss_sees_the_objects() -> None:
    points = np.array([[20.0, 12.0]], np.float32)
    sample = Sample("a", "test", None, points, 1.0, "red stars", 100, 60)
    cells, stride = mini().foreground(sample)
    assert cells.shape == (-(-60 // stride), -(-100 // stride))  # the border's cells may be smaller
    density = t2i.density_from_points(points, 100, 60, "adaptive")
    assert cells[int(12 // stride), int(20 // stride)]
    assert int(cells.sum()) <= int((density > 0).sum())
    nothing, _ = mini().foreground(replace(sample, points=points[:0]))
    assert not nothing.any()


def test_base_weights_come_back_and_the_decoder_stays() -> None:
    system = t2i.T2ICount(t2i.T2ICountSettings(**t2i.T2ICount.mini_settings()))
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
    settings = t2i.T2ICount.mini_settings() | {"weights": "random"}
    assert not t2i.T2ICount(t2i.T2ICountSettings(**settings)).restore_base_weights()


def test_unet_and_decoder_train_and_the_rest_is_frozen() -> None:
    system = t2i.T2ICount(t2i.T2ICountSettings(**t2i.T2ICount.mini_settings() | {"unet_factor": 0.1}))
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
    system = mini()
    terms = system.losses(Batch.of(made))
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
    system = t2i.T2ICount(t2i.T2ICountSettings(**t2i.T2ICount.mini_settings())).train()
    context, mask = system.context(["red stars"])
    with ShapesMade() as seen:
        outputs = system.decode(system.latent(images), context, mask)
        outputs.decoded["density"].sum().backward()
    assert any("flash_attention" in name and "backward" in name for name in seen.operations)
    assert {(1, 24 * 24, 24), (1, 12 * 12, 48), (1, 6 * 6, 56)} <= seen.shapes  # the cells of all levels were there
    assert not [shape for shape in seen.shapes if any(shape.count(number) > 1 for number in cells)]


def released_state(system: t2i.T2ICount) -> dict[str, Tensor]:
    """Return the system's weights under the names of ``best_model_paper.pth``."""
    unet = official_unet_names(system.unet)
    decoder_names = official_names(list(system.decoder.state_dict()), official_decoder_names(), t2i.decoder_key)
    vae = official_names(list(system.vae.state_dict()), official_vae_names(), t2i.vae_key)
    state = {f"unet.unet.diffusion_model.{unet[k]}": v for k, v in system.unet.state_dict().items()}
    state |= {f"decoder.{decoder_names[k]}": v for k, v in system.decoder.state_dict().items()}
    for name, value in system.vae.state_dict().items():
        is_projection = ".attn_1." in vae[name] and name.endswith("weight") and value.ndim == 2
        state[f"vae.{vae[name]}"] = value[..., None, None] if is_projection else value
    text = {k.removeprefix("text_model."): v for k, v in system.text.state_dict().items()}
    state |= {f"clip.transformer.text_model.{k}": v for k, v in text.items()}
    return state | {"clip.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}


def test_released_checkpoint_is_imported_under_our_names(tmp_path: Path) -> None:
    system = small_system()
    torch.save(released_state(system), tmp_path / "best_model_paper.pth")
    imported = t2i.T2ICount.import_checkpoint(tmp_path / "best_model_paper.pth", system.settings)
    assert imported.keys() == system.state_dict().keys()
    assert all(torch.equal(imported[name], value) for name, value in system.state_dict().items())


def test_a_checkpoint_with_other_tensors_is_refused_with_a_list(tmp_path: Path) -> None:
    state = released_state(small_system())
    state["decoder.extra.weight"] = state.pop("decoder.regressor.norm1.weight")
    torch.save(state, tmp_path / "best_model_paper.pth")
    with pytest.raises(
        CheckpointError, match=r"missing: decoder.counter.norm1.weight; unexpected: decoder.extra.weight"
    ):
        t2i.T2ICount.import_checkpoint(tmp_path / "best_model_paper.pth", small_system().settings)


def test_released_weights_refuse_another_latent_scale(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="need latent_scale 1"):
        t2i.T2ICount.import_checkpoint(tmp_path / "best_model_paper.pth", t2i.T2ICountSettings(latent_scale=0.18215))


def test_names_and_sizes_at_paper_size_are_those_of_the_released_file() -> None:
    with torch.device("meta"):
        system = t2i.T2ICount(t2i.T2ICountSettings())
    state = released_state(system)
    count = {
        prefix: sum(key.startswith(prefix) for key in state) for prefix in ("unet.unet.diffusion_model.", "decoder.")
    }
    assert count == {"unet.unet.diffusion_model.": 686, "decoder.": 168}
    assert sum(p.numel() for p in system.unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in system.text.parameters()) == 123_060_480
    assert sum(p.numel() for p in system.vae.parameters()) == 34_163_592 + 92
    assert sum(p.numel() for p in system.state_dict().values()) == 1_065_648_553


@pytest.mark.parametrize("dead", [True, False])
def test_a_counter_that_starts_dead_is_turned_and_no_other(tmp_path: Path, dead: bool) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    sample = Sample("a", "train", path, np.zeros((1, 2), np.float32), 1, "red stars", 64, 64)
    torch.manual_seed(0)
    settings = t2i.T2ICountSettings(**(t2i.T2ICount.mini_settings() | {"weights": "random"}))
    system = t2i.T2ICount(settings)
    last = system.decoder.counter.head[-2]
    with torch.no_grad():
        last.bias.fill_(-100.0 if dead else 100.0)
    system.prepare_training([sample])
    assert last.bias.item() == 100.0
    assert system.training
    assert bool((system.eval().predict(torch.rand(1, 3, 64, 64), ["red stars"]).density > 0).all())
