"""T2ICount's golden cases: their inputs, their weights by official names, and pictures to make examples of."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from golden_tools import fill, golden, wave
from recount.data.sample import Sample
from recount.nn import stable_diffusion as sd
from recount.systems import t2icount as t2i

VAE_LEVELS = 4
SMALL = sd.Backbone(
    unet_channels=(32, 64, 128, 128), vae_channels=(32, 32, 64, 64), vae_layers=1, text_layers=1, image_size=384
)


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
    counter = ["conv.0", "norm1", "norm2", "reg_head.0", "reg_head.2", "reg_head.4"]
    counter += [name for n in (1, 2) for name in (f"img_pe_transform{n}", *(f"self_attn{n}.{a}" for a in attention))]
    return names + both(*(f"regressor.{name}" for name in counter))


def inverted(found: dict[str, str], ours: str, theirs: str, state: dict[str, Tensor]) -> dict[str, str]:
    """Return our name -> LDM name of what is in ``state``, both without their prefixes."""
    pairs = [(name.removeprefix(ours), ldm.removeprefix(theirs)) for ldm, name in found.items()]
    table = {name: ldm for name, ldm in pairs if name in state}
    assert len(table) == sum(name in state for name, _ in pairs), "two LDM names become one of ours"
    assert set(table) == set(state)
    return table


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
    prefix = "model.diffusion_model."
    found = sd.ldm_names([f"{prefix}{name}.{part}" for name in ldm for part in ("weight", "bias")], VAE_LEVELS)
    return inverted(found, "unet.", prefix, network.state_dict())


def official_vae_names(network: nn.Module) -> dict[str, str]:
    """Return our name -> LDM name of every tensor of a VAE without decoder."""
    names = ["encoder.conv_in", "encoder.norm_out", "encoder.conv_out", "quant_conv", "post_quant_conv"]
    resnet = ["norm1", "conv1", "norm2", "conv2", "nin_shortcut"]
    blocks = [f"encoder.down.{level}.block.{block}" for level in range(4) for block in range(2)]
    names += [f"{block}.{part}" for block in [*blocks, "encoder.mid.block_1", "encoder.mid.block_2"] for part in resnet]
    names += [f"encoder.down.{level}.downsample.conv" for level in range(3)]
    names += [f"encoder.mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")]
    prefix = "first_stage_model."
    found = sd.ldm_names([f"{prefix}{name}.{part}" for name in names for part in ("weight", "bias")], VAE_LEVELS)
    return inverted(found, "vae.", prefix, network.state_dict())


def official_state(system: t2i.T2ICount) -> dict[str, Tensor]:
    """Return the system's weights under the names of ``best_model_paper.pth``."""
    unet = official_unet_names(system.unet)
    decoder_names = official_names(list(system.decoder.state_dict()), official_decoder_names(), t2i.decoder_key)
    vae = official_vae_names(system.vae)
    state = {f"unet.unet.diffusion_model.{unet[k]}": v for k, v in system.unet.state_dict().items()}
    state |= {f"decoder.{decoder_names[k]}": v for k, v in system.decoder.state_dict().items()}
    for name, value in system.vae.state_dict().items():
        is_projection = ".attn_1." in vae[name] and name.endswith("weight") and value.ndim == 2
        state[f"vae.{vae[name]}"] = value[..., None, None] if is_projection else value
    text = {k.removeprefix("text_model."): v for k, v in system.text.state_dict().items()}
    state |= {f"clip.transformer.text_model.{k}": v for k, v in text.items()}
    return state | {"clip.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}


@cache
def small_unet() -> Any:
    network = sd.unet(SMALL).eval()
    names = official_unet_names(network)
    official = {ours: f"unet.unet.diffusion_model.{name}" for ours, name in names.items()}
    network.load_state_dict(filled(network.state_dict(), official))
    return network


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
