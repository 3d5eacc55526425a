"""Stable Diffusion's networks, tokens and names against outputs of cha15yq/T2ICount@289d3fb on formula-made weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

import diffusion_oracle
from golden_tools import assert_matches, fill
from recount.errors import UserError
from recount.nn import stable_diffusion as sd
from recount.systems import t2icount as t2i
from t2icount_golden import assert_case, case, filled, official_unet_names, official_vae_names, small_unet, tensor

# --------------------------------------------------------------------------------------------------- UNet, attention


def vae_encoder() -> Any:
    network = sd.autoencoder(sd.Backbone()).eval()
    del network.decoder
    return network


def test_unet_features_and_every_attention_map_match_the_released_code() -> None:
    expected = case("unet_small")
    network = small_unet()
    assert sum(p.numel() for p in network.parameters()) == expected["scalars"]["parameters"]
    once = sd.UNetPass(network)
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
    average = sd.layer_average(layers, (48, 48))
    assert_case({f"attn{48 // divisor}": value for divisor, value in average.items()}, expected)


@pytest.mark.full_size
def test_unet_at_paper_size_matches_the_released_code() -> None:
    expected = case("unet_official")
    network = sd.unet(sd.Backbone()).eval()
    official = {ours: f"unet.unet.diffusion_model.{name}" for ours, name in official_unet_names(network).items()}
    network.load_state_dict(filled(network.state_dict(), official), assign=True)
    with torch.no_grad():
        inputs = expected["inputs"]
        features, maps = sd.UNetPass(network)(tensor(inputs["latent"]), tensor(inputs["context"]), torch.eye(77)[None])
    assert_case(features | {f"attn{48 // d}": value for d, value in maps.items()}, expected)


# ---------------------------------------------------------------------------------------------- VAE, text, tokenizer


def test_vae_encoder_returns_the_unscaled_mode() -> None:
    expected = case("vae_encoder_64")
    network = vae_encoder()
    names = official_vae_names(network)
    network.load_state_dict(filled(network.state_dict(), {ours: f"vae.{name}" for ours, name in names.items()}))
    with torch.no_grad():
        latent = network.encode(tensor(expected["inputs"]["image"])).latent_dist.mode()
    assert_case({"latent": latent}, expected)


@pytest.mark.more
def test_text_states_are_those_of_clip_without_a_padding_mask() -> None:
    expected = case("clip_text")
    encoder = sd.text_encoder(sd.Backbone()).eval()
    state = encoder.state_dict()
    official = {name: f"clip.transformer.text_model.{name.removeprefix('text_model.')}" for name in state}
    encoder.load_state_dict(filled(state, official))
    with torch.no_grad():
        states = encoder(torch.tensor(expected["inputs"]["input_ids"])).last_hidden_state
    assert_case({"last_hidden_state": states}, expected)


def test_prompts_become_clip_tokens() -> None:
    expected = case("prompt_tokens")
    words = sd.tokenizer(sd.Backbone())
    names = expected["inputs"]["names"]
    assert {name: words.encode(name) for name in names} == expected["ids"]
    ids, mask = sd.token_ids(names, words, 77)
    assert ids[:, 0].unique().item() == 49406
    assert ids[0].tolist() == [49406, *expected["ids"][names[0]]] + [49407] * (76 - len(expected["ids"][names[0]]))
    assert dict(zip(names, mask.sum(1).int().tolist(), strict=True)) == expected["scalars"]["n_tokens"]
    assert mask[0].nonzero().flatten().tolist() == [1, 2]


def test_the_ids_of_start_and_end_stand_first() -> None:
    words = sd.tokenizer(sd.Backbone(vocabulary=("red", "stars")))
    assert (words.start, words.end, words.size, words.encode("Red, stars.")) == (0, 1, 4, [2, 3])


def test_an_unknown_word_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match="does not know bears; it knows: red, stars"):
        sd.tokenizer(sd.Backbone(vocabulary=("red", "stars"))).encode("Red bears")


def test_the_first_step_of_the_noise_schedule() -> None:
    expected = case("noise_schedule")["outputs"]
    first = expected["alpha_bar_first_8"]["samples"][0]
    assert pytest.approx(first, abs=1e-7) == sd.FIRST_ALPHA_BAR


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("ldm", "ours"),
    [
        ("time_embed.0.weight", "time_embedding.linear_1.weight"),
        ("input_blocks.0.0.bias", "conv_in.bias"),
        ("input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight",
         "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight"),
        ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
        ("input_blocks.11.0.emb_layers.1.bias", "down_blocks.3.resnets.1.time_emb_proj.bias"),
        ("middle_block.2.out_layers.3.weight", "mid_block.resnets.1.conv2.weight"),
        ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
        ("output_blocks.8.2.conv.bias", "up_blocks.2.upsamplers.0.conv.bias"),
        ("output_blocks.9.0.skip_connection.weight", "up_blocks.3.resnets.0.conv_shortcut.weight"),
        ("out.2.bias", "conv_out.bias"),
    ],
)  # fmt: skip
def test_diffusers_conversion_gives_unet_tensors_the_names_of_the_specification(ldm: str, ours: str) -> None:
    assert official_unet_names(small_unet())[ours] == ldm


def test_diffusers_conversion_gives_vae_tensors_the_names_of_the_specification() -> None:
    names = official_vae_names(vae_encoder())
    for ldm, ours in (
        ("encoder.down.0.block.1.norm2.weight", "encoder.down_blocks.0.resnets.1.norm2.weight"),
        ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
        ("encoder.mid.block_2.conv1.weight", "encoder.mid_block.resnets.1.conv1.weight"),
        ("encoder.mid.attn_1.proj_out.weight", "encoder.mid_block.attentions.0.to_out.0.weight"),
        ("encoder.mid.attn_1.k.bias", "encoder.mid_block.attentions.0.to_k.bias"),
        ("encoder.norm_out.weight", "encoder.conv_norm_out.weight"),
        ("quant_conv.bias", "quant_conv.bias"),
    ):
        assert names[ours] == ldm


def test_a_weight_without_its_bias_is_refused() -> None:
    with pytest.raises(UserError, match=r"without .*conv\.bias"):
        sd.ldm_names(["model.diffusion_model.output_blocks.0.1.conv.weight"], 4)


@pytest.mark.parametrize("key", ["model_ema.decay", "betas", "first_stage_model.decoder.conv_in.weight"])
def test_what_counting_does_not_need_of_a_file_is_left_out(key: str) -> None:
    assert sd.ldm_renamer([key], {})(key) is None


def test_what_no_network_has_keeps_its_name() -> None:
    key = "model.diffusion_model.extra.weight"
    assert sd.ldm_renamer([key], {})(key) == key


@pytest.mark.parametrize(
    ("sizes", "cells", "samples"),
    [
        ({"unet_channels": (16, 32, 48, 64), "unet_heads": (2, 4, 3, 8), "unet_groups": 4, "context": 24}, (8, 24), 3),
        ({"unet_channels": (24, 24, 40, 40), "unet_heads": (1, 3, 5, 2), "unet_groups": 8, "context": 48}, (40, 16), 1),
    ],
)
def test_networks_of_other_sizes_are_those_of_an_independent_implementation(
    sizes: dict[str, Any], cells: tuple[int, int], samples: int
) -> None:
    """UNet, VAE and text tower on pictures that are not square, against functions of torch alone, to 1e-5."""
    rest = {"vae_channels": (8, 16, 24), "vae_groups": 4, "vae_layers": 2, "text_layers": 3, "text_heads": 2}
    backbone = sd.Backbone(**sizes, **rest, text_feedforward=56, text_length=9, vocabulary=("red", "blue", "stars"))
    parts = {"unet": sd.unet(backbone), "vae": sd.autoencoder(backbone), "text": sd.text_encoder(backbone)}
    state = {}
    for part, network in parts.items():
        filled_state = fill().fill_state_dict(network.state_dict(), norm_scales=fill().norm_scale_keys(network))
        network.load_state_dict(filled_state)
        network.double().eval()
        state |= {f"{part}.{name}": value for name, value in network.state_dict().items()}
    picture = torch.from_numpy(fill().wave((samples, 3, 4 * cells[0], 4 * cells[1]), 0.71, 0.2)).double()
    latent = torch.from_numpy(fill().wave((samples, 4, *cells), 0.53, 1.1)).double()
    ids = torch.tensor([[0, 2 + i, 4, *[1] * 6] for i in range(samples)])
    with torch.no_grad():
        mode = parts["vae"].encode(picture).latent_dist.mode()
        states = parts["text"](ids).last_hidden_state
        features, maps = sd.UNetPass(parts["unet"])(latent, states, torch.eye(9).expand(samples, -1, -1))
        text = diffusion_oracle.text_states(state, ids, backbone.text_heads)
        expected, attention = diffusion_oracle.unet(state, latent, text, backbone.unet_heads, backbone.unet_groups)
        encoded = diffusion_oracle.encoded(state, picture, backbone.vae_groups)
    assert_matches(mode, encoded.numpy(), 1e-5)
    assert_matches(states, text.numpy(), 1e-5)
    for name, value in features.items():
        assert_matches(value, expected[name].numpy(), 1e-5)
    for divisor, value in maps.items():
        assert_matches(value, attention[divisor].numpy(), 1e-5)
