"""Golden cases in training mode, counting by text: five steps from a decoded JPEG, twice, and against oracles."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import diffusion_oracle
from recount.nn.clip import token_ids
from recount.systems.base import Batch
from step_oracles import (
    IN_SCENES,
    State,
    adam,
    as_clip_sees,
    assert_same_predictions,
    assert_same_updates,
    attend,
    clip_block,
    clip_text,
    conv,
    copied,
    dropout,
    dropped,
    group_norm,
    jpeg_pool,
    larger,
    linear,
    norm,
    oracle,
    patch_tokens,
    quick_gelu,
    text_states,
    trained,
)

MINI = {"heads": 4, "layers": 2}  # of the tiny text tower
BETAS = (0.9, 0.95)  # CounTR's


def constant(value: float) -> Callable[..., float]:
    return lambda *_: value


def activation_of(system: Any) -> Any:
    return quick_gelu if system.settings.clip.activation == "quickgelu" else F.gelu


@pytest.mark.parametrize(
    "name", ["clip_count", "vlcounter", "countx", "countclip", pytest.param("t2icount", marks=pytest.mark.more)]
)
def test_the_same_seed_trains_the_same_weights(name: str, tmp_path: Path) -> None:
    pool = captioned(tmp_path) if name == "countclip" else None
    first, second = (trained(name, tmp_path, pool=pool) for _ in range(2))
    assert all(torch.equal(first.end[key], second.end[key]) for key in first.end)


def kept(b: Batch, window: int) -> Tensor:
    """CounTR's Bernoulli mask, one for a step."""
    return (torch.rand(window, window, generator=torch.Generator().manual_seed(b.seed)) < 0.8).double()


def interaction(w: State, name: str, x: Tensor, text: Tensor, eps: float, drop: float) -> Tensor:
    q, k, v = linear(w, f"{name}.selfattn.qkv", norm(w, f"{name}.norm0", x, eps)).chunk(3, -1)
    x = x + dropped(dropout(linear(w, f"{name}.selfattn.proj", attend(q, k, v, 4)), drop), drop)
    n = norm(w, f"{name}.norm1", x, eps)
    q, k, v = (linear(w, f"{name}.attn.{part}", on) for part, on in (("wq", n), ("wk", text), ("wv", text)))
    x = x + dropped(dropout(linear(w, f"{name}.attn.proj", attend(q, k, v, 4)), drop), drop)
    n = dropout(F.gelu(linear(w, f"{name}.mlp.fc1", norm(w, f"{name}.norm2", x, eps))), drop)
    return x + dropped(dropout(linear(w, f"{name}.mlp.fc2", n), drop), drop)


@IN_SCENES
def test_clip_count(scene: str, tmp_path: Path) -> None:
    ours = trained("clip_count", tmp_path, scene)
    act, window = activation_of(ours.system), 144

    def patches_of(w: State, images: Tensor) -> Tensor:
        x = patch_tokens(w, "image.tower", as_clip_sees(larger(images, (72, 72))))

        def prompts() -> Tensor:  # of blocks 0 and 1: both the first row, as released
            return dropout(linear(w, "image.vpt_proj", w["image.visual_prompt"][0]).expand(len(x), -1, -1), 0.1)

        x = norm(w, "image.tower.ln_pre", torch.cat([x[:, :1], prompts(), x[:, 1:]], 1))
        x = clip_block(w, "image.tower.transformer.resblocks.0", x, 4, act)
        x = torch.cat([x[:, :1], prompts(), x[:, 5:]], 1)
        x = clip_block(w, "image.tower.transformer.resblocks.1", x, 4, act)
        x = clip_block(w, "image.tower.transformer.resblocks.2", torch.cat([x[:, :1], x[:, 5:]], 1), 4, act)
        return norm(w, "image.vpt_norm", x, 1e-6)[:, 1:]

    def text_of(w: State, prompts: list[str]) -> Tensor:
        ids = token_ids(prompts, ours.system.settings.clip)
        x = w["text.tower.token_embedding.weight"][ids]
        context = w["text.learnable_context"].expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], context, x[:, 1:-2]], 1)
        return text_states(w, "text.tower.", x, ids.argmax(1), **MINI, act=act)[
            :, None
        ]  # before the shift, as released

    def contrast(w: State, b: Batch, patches: Tensor, text: Tensor) -> Tensor:
        cosines = F.cosine_similarity(linear(w, "patch_feat_proj_contrast", patches), text, dim=-1)
        positive = F.max_pool2d(b.maps["density"][..., ::2, ::2], 8).flatten(1) > 0
        e = (cosines / 0.07).exp()
        pos, neg = (e * positive).sum(1), (e * ~positive).sum(1)
        return -((pos + 1e-5) / (pos + neg + 2e-5)).log().mean()

    def decoded(w: State, patches: Tensor, text: Tensor) -> Tensor:
        x = linear(w, "patch_feat_proj", patches) + w["patch_emb_pos_embed"]
        coarse = interaction(w, "fim_blocks.0", x, text, 1e-5, 0.1)
        grid = coarse.mT.unflatten(2, (9, 9))
        grid = larger(grid + F.gelu(conv(w, "fim_blocks.1.conv0", grid)), 2)
        fine = interaction(w, "fim_blocks.1", grid.flatten(2).mT, text, 1e-5, 0.1).mT.unflatten(2, (18, 18))
        x = coarse.mT.unflatten(2, (9, 9))
        for i in range(4):
            d = "density_decoder"
            if i == 1:
                x = x + F.gelu(group_norm(w, f"{d}.pyradim_conv.1", conv(w, f"{d}.pyradim_conv.0", fine)))
            x = F.gelu(group_norm(w, f"{d}.convs.{i}.1", conv(w, f"{d}.convs.{i}.0", x)))
            x = larger(x, 2 if i < 3 else (window, window))
        return conv(w, "density_decoder.final_conv.0", x).sigmoid()

    def loss(w: State, b: Batch, epoch: int) -> Tensor:
        patches, text = patches_of(w, b.images), text_of(w, b.prompts)
        if epoch <= 1:
            return contrast(w, b, patches, text)
        density = decoded(w, patches, text)
        return (density - 200 * b.maps["density"]).square().mean() * kept(b, window).mean()

    def trains(name: str) -> bool:
        return not name.startswith(("image.tower.", "text.tower.", "patch_emb"))

    def predicted(w: State, images: Tensor) -> Tensor:
        return decoded(w, patches_of(w, images), text_of(w, ["six red circles"] * len(images))) / 200

    update = adam(BETAS, decoupled=True)
    assert_same_updates(ours, oracle(ours, loss, update, trains=trains, rate=constant(1e-4), decay=constant(0.05)))
    assert_same_predictions(ours, predicted, (1, 144, 144), (3, 144, 144))


@IN_SCENES
def test_vlcounter(scene: str, tmp_path: Path) -> None:
    ours = trained("vlcounter", tmp_path, scene, recipe={"batch_size": 1})  # so that an empty crop is alone
    act = activation_of(ours.system)

    def text_of(w: State, name: str) -> Tensor:
        sizes = ("", "small ", "medium ", "large ")
        said = [f"a photo of a number of {size}{name}." for size in sizes]
        said += [f"there are a photo of a number of {size}{name}." for size in sizes]
        said += [
            f"{start} {name} in the scene."
            for start in ("a number of", "a photo of a number of", "there are a number of")
        ]
        ids = token_ids(said, ours.system.settings.clip)
        each = F.normalize(clip_text(w, "text.tower.", ids, **MINI, act=act), dim=-1)
        return F.normalize(each.mean(0, keepdim=True), dim=-1)

    def encoded(w: State, images: Tensor, text: Tensor) -> tuple[list[Tensor], Tensor]:
        tower, unit = "image.tower", lambda x: F.normalize(x[:, -81:].mT.unflatten(2, (9, 9)), dim=1)
        size = {"mode": "bilinear", "antialias": True}  # only the tiny tower is smaller than a window
        x = patch_tokens(w, tower, F.interpolate(as_clip_sees(images), (72, 72), **size))
        x = torch.cat([x[:, :1] + w[f"{tower}.class_embedding"], x[:, 1:]], 1)
        x, maps = norm(w, f"{tower}.ln_pre", x), []
        for i in range(2):
            vectors = w["image.prompt_embeddings"][0] if i == 0 else w["image.deep_prompt_embeddings"][i - 1]
            slots = dropout(linear(w, "image.prompt_proj", vectors).expand(len(x), -1, -1), 0.1)
            slots = slots + dropout(linear(w, "image.text_proj", text[:, None]).expand(-1, 4, -1), 0.1)
            x = clip_block(w, f"{tower}.transformer.resblocks.{i}", torch.cat([x[:, :1], slots, x[:, -81:]], 1), 4, act)
            maps.append(unit(x))
        last, x = f"{tower}.transformer.resblocks.2", x[:, -81:]
        value = (
            norm(w, f"{last}.ln_1", x) @ w[f"{last}.attn.in_proj_weight"][128:].T + w[f"{last}.attn.in_proj_bias"][128:]
        )
        x = norm(w, "image.prompt_norm", x + linear(w, f"{last}.attn.out_proj", value), 1e-6)
        return maps, unit(norm(w, f"{tower}.ln_post", x) @ w[f"{tower}.proj"])

    def counted(w: State, images: Tensor) -> tuple[Tensor, Tensor]:
        text = text_of(w, "six red circles").expand(len(images), -1)
        maps, final = encoded(w, images, text)
        patches = linear(w, "counter.v_proj", final.movedim(1, -1)).movedim(-1, 1)
        product = (linear(w, "counter.t_proj", text)[:, :, None, None] * patches).sum(1, keepdim=True)
        a = w["counter.attn_weight"] * product + w["counter.attn_bias"]
        x = torch.cat([patches, a], 1)
        for k, (part, skip) in enumerate((("", 0), ("proj", 1), ("proj1", 1), ("proj2", 0))):
            if k:
                side = F.gelu(group_norm(w, f"counter.{part}.1", conv(w, f"counter.{part}.0", maps[skip])))
                x = x + larger(side, 2**k, corners=True) * a.repeat_interleave(2**k, 2).repeat_interleave(2**k, 3)
            x = F.gelu(group_norm(w, f"counter.decoder.{k}.gn", conv(w, f"counter.decoder.{k}.conv", x)))
            x = larger(x, 2, corners=True)
        return conv(w, "counter.decoder.4.conv", x), a

    def loss(w: State, b: Batch, _: int) -> Tensor:
        x, a = counted(w, b.images)
        target = 400 * b.maps["density"]
        rank, m = x.new_zeros(()), target[..., ::16, ::16]
        m = (m - m.min()) / (m.max() - m.min())  # NaN of an empty crop: then no cell is in a set
        for high, low in ((1.0, 0.8), (0.8, 0.6), (0.6, 0.4)):
            inside, below = ((m > low) & (m < high)).double(), (m < low).double()
            pos, neg = (a * inside).exp().sum((1, 2, 3)), (a * below).exp().sum((1, 2, 3))
            rank = rank - (pos / (pos + neg)).log().mean()
        return (x - target).square().mean() + 1e-6 * rank

    def trains(name: str) -> bool:
        return not name.startswith(("image.tower.", "text.tower."))

    assert scene != "crowd" or any(not batch.maps["density"].any() for batch in ours.batches), "no crop was empty"
    result = oracle(ours, loss, adam(decoupled=True), trains=trains, rate=constant(1e-4), decay=constant(1e-2))
    assert_same_updates(ours, result)
    assert_same_predictions(ours, lambda w, x: counted(w, x)[0] / 400, (1, 144, 144), (3, 144, 144))


@IN_SCENES
def test_countx(scene: str, tmp_path: Path) -> None:
    ours = trained("countx", tmp_path, scene)
    act = activation_of(ours.system)

    def counted(w: State, images: Tensor, prompts: list[str]) -> Tensor:
        small = F.interpolate(images, (72, 72), mode="bicubic", antialias=True)
        x = norm(w, "image.ln_pre", patch_tokens(w, "image", as_clip_sees(small)))
        for i in range(3):
            x = clip_block(w, f"image.transformer.resblocks.{i}", x, 4, act)
        ids = token_ids(prompts, ours.system.settings.clip)
        text = clip_text(w, "text.tower.", ids, **MINI, act=act)[:, None]
        x = (x @ w["image.proj"])[:, 1:] + w["fim_pos_embed"]  # no last norm, as released
        for i in range(2):
            x = interaction(w, f"fim_blocks.{i}", x, text, 1e-6, 0.0)
        x = norm(w, "fim_norm", x, 1e-6).mT.unflatten(2, (9, 9))
        for i in range(4):
            x = group_norm(w, f"decode_head{i}.1", conv(w, f"decode_head{i}.0", x)).relu()
            x = larger(conv(w, "decode_head3.3", x) if i == 3 else x, 2)
        return x

    def loss(w: State, b: Batch, _: int) -> Tensor:
        x = counted(w, b.images, b.prompts)
        return ((x - 600 * b.maps["density"]).square() * kept(b, 144)).sum() / 144**2 / len(x)

    def trains(name: str) -> bool:
        return not name.startswith(("text.tower.", "fim_pos"))

    result = oracle(
        ours,
        loss,
        adam(BETAS, decoupled=True),
        trains=trains,
        rate=lambda _, epoch: 6.25e-6 * epoch / 10,  # the beginning of ten epochs of warm-up
        decay=lambda _, weight: 0.05 if weight.ndim > 1 else 0.0,
    )

    def predicted(w: State, images: Tensor) -> Tensor:
        return counted(w, images, ["six red circles"] * len(images)) / 600

    assert {prompt[:4] for batch in ours.batches for prompt in batch.prompts} == {"the "}
    assert_same_updates(ours, result)
    assert_same_predictions(ours, predicted, (1, 144, 144), (3, 144, 144))


def captioned(folder: Path) -> Any:
    """A plain pair and a counting one."""
    pool = jpeg_pool(folder)
    pool.samples = [
        replace(pool.samples[0], prompt="red circles", count=math.nan),
        replace(pool.samples[1], prompt="three blue stars", count=3.0),
    ]
    return pool


def test_countclip(tmp_path: Path) -> None:
    ours = trained("countclip", tmp_path, pool=captioned(tmp_path))
    size = ours.system.settings.clip
    heads = size.vision_width // size.vision_head_width

    def image_of(w: State, images: Tensor) -> Tensor:
        x = norm(w, "clip.visual.ln_pre", patch_tokens(w, "clip.visual", as_clip_sees(images)))
        for i in range(size.vision_layers):
            x = clip_block(w, f"clip.visual.transformer.resblocks.{i}", x, heads)
        return norm(w, "clip.visual.ln_post", x[:, 0]) @ w["clip.visual.proj"]

    def text_of(w: State, said: list[str]) -> Tensor:
        return clip_text(w, "clip.", token_ids(said, size), size.text_heads, size.text_layers)

    def loss(w: State, b: Batch, _: int) -> Tensor:
        (counterfactual,) = b.attributes["counterfactuals"][1]
        image, text = F.normalize(image_of(w, b.images), dim=1), F.normalize(text_of(w, b.prompts), dim=1)
        wrong = F.normalize(text_of(w, [counterfactual]), dim=1)[0]
        logits = w["clip.logit_scale"].exp() * image @ text.T
        both = (logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()) / 2
        right, other = image[1] @ text[1], image[1] @ wrong
        return -both.mean() - (right - torch.logsumexp(torch.stack([right, other]), 0))  # lambda 1

    def is_half(name: str) -> bool:  # all but norms, embeddings and the scale
        return not any(part in name for part in (".ln_", "embedding", "logit_scale"))

    def half(name: str, x: Tensor) -> Tensor:
        return x.half().double() if is_half(name) else x

    update, start = adam((0.9, 0.98), 5e-6), {name: half(name, w) for name, w in ours.start.items()}
    how = {"rate": constant(5e-6), "decay": constant(0.2), "after": half, "gradient": half, "start": start}
    result = oracle(ours, loss, update, trains=lambda _: True, **how)
    assert any(not torch.equal(result[n], start[n]) for n in start if is_half(n))
    assert_same_updates(ours, result)


def exchanged(w: State, name: str, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """T2ICount's semantic enhancement of cells x [B, C, H, W] and one text token [B, 1, C]."""

    def attended(part: str, *inputs: Tensor) -> Tensor:
        of = f"{name}.{part}"
        projected = [linear(w, f"{of}.{n}", each) for n, each in zip(("query", "key", "value"), inputs, strict=True)]
        return linear(w, f"{of}.out", attend(*projected, 2))

    cells, places = (y.flatten(2).mT for y in (x, conv(w, f"{name}.position", x, groups=x.shape[1])))
    read = norm(w, f"{name}.norm_read", text + attended("text_reads_image", text, cells + places, cells))
    wide = linear(w, f"{name}.mlp.2", F.gelu(linear(w, f"{name}.mlp.0", read)))
    after = norm(w, f"{name}.norm_mlp", read + wide)
    cells = norm(w, f"{name}.norm_image", cells + attended("image_reads_text", cells + places, after + text, after))
    return cells.mT.unflatten(-1, x.shape[-2:]), after


def stage(w: State, name: str, low: Tensor, high: Tensor, s: Any = 0.0, text: Tensor | None = None) -> Any:
    """One of T2ICount's three stages: V, and where there is a text [B, 1, D] the similarity S of its cells to c'."""
    low = F.relu(conv(w, f"{name}.reduce", larger(low, 2)))
    x = F.relu(conv(w, f"{name}.merge", torch.cat([high, low], 1))) + s * low
    if text is None:
        return x
    token = linear(w, f"{name}.text_projection", text)
    x, token = exchanged(w, f"{name}.fusion1", x, token + norm(w, f"{name}.text_norm", token))
    x, token = exchanged(w, f"{name}.fusion2", F.relu(conv(w, f"{name}.refine", x)), token)
    seen = larger(larger(x, 2), 2) if name.endswith("1") else larger(x, 2)  # to the cells of F1
    return x, (F.normalize(seen, dim=1) * F.normalize(token[:, 0], dim=1)[:, :, None, None]).sum(1, keepdim=True)


def counted(w: State, x: Tensor) -> Tensor:
    """T2ICount's counter."""
    for n, before in ((1, None), (2, "decoder.counter.between")):
        x = x if before is None else F.relu(conv(w, before, x))
        cells = x.flatten(2).mT
        placed = cells + conv(w, f"decoder.counter.position{n}", x, groups=x.shape[1]).flatten(2).mT
        of = f"decoder.counter.attention{n}"
        q, k, v = (linear(w, f"{of}.{m}", y) for m, y in (("query", placed), ("key", placed), ("value", cells)))
        x = norm(w, f"decoder.counter.norm{n}", cells + linear(w, f"{of}.out", attend(q, k, v, 2))).mT.view(x.shape)
    for layer in (0, 2, 4):
        x = F.relu(conv(w, f"decoder.counter.head.{layer}", x))
    return x


def forwarded(w: State, images: Tensor, prompts: list[str], settings: Any) -> tuple[Any, Tensor, Tensor]:
    """T2ICount's features F1 to F4, text vector [B, 1, D] and fused attention [B, 1, h, w]."""
    size = settings.backbone
    ids = torch.ones(len(prompts), size.text_length, dtype=torch.long)  # the end, up to the last position
    for row, prompt in zip(ids, prompts, strict=True):
        own = [0, *(2 + size.vocabulary.index(word) for word in prompt.split())]  # the start, and the words
        row[: len(own)] = torch.tensor(own)
    share = ((ids > 1) / (ids > 1).sum(1, keepdim=True)).double()  # single precision, as there
    with torch.no_grad():
        latent = diffusion_oracle.encoded(w, 2 * images - 1, size.vae_groups)
        states = diffusion_oracle.text_states(w, ids, size.text_heads)
    features, maps = diffusion_oracle.unet(w, latent, states, size.unet_heads, size.unet_groups)
    fused = torch.zeros(())
    for weight, divisor in zip(settings.attention_weights, (4, 2, 1), strict=True):
        m = torch.einsum("blhw,bl->bhw", maps[divisor].detach(), share)[:, None]
        m = larger(m, divisor) if divisor > 1 else m
        low, high = m.amin((2, 3), True), m.amax((2, 3), True)
        fused = fused + weight * (m - low) / (high - low + 1e-7)
    return features, torch.einsum("bld,bl->bd", states, share)[:, None], fused


@pytest.mark.more
@IN_SCENES
def test_t2icount(scene: str, tmp_path: Path) -> None:
    ours = trained("t2icount", tmp_path, scene)

    def decoded(w: State, f: dict[str, Tensor], text: Tensor) -> dict[str, Tensor]:
        v3, s3 = stage(w, "decoder.stage1", f["F4"], f["F3"], text=text)
        v2, s2 = stage(w, "decoder.stage2", v3, f["F2"], larger(s3, f["F2"].shape[-2:]), text)
        return {"density": counted(w, stage(w, "decoder.stage3", v2, f["F1"], s2)), "S3": s3, "S2": s2}

    def ssim(a: Tensor, b: Tensor) -> Tensor:
        line = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / 4.5)  # single precision, as there
        window = torch.outer(line / line.sum(), line / line.sum())[None, None].double()
        mean = lambda x: F.conv2d(x, window, padding=1)  # noqa: E731
        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        return ((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))).mean()

    def loss(w: State, b: Batch, _: int) -> Tensor:
        features, text, attention = forwarded(w, b.images, b.prompts, ours.system.settings)
        made = decoded(w, features, text)
        p, d, own = made["density"], 6.0 * b.maps["density"], b.maps["own"]  # mini: six times the density
        front, edge = (d > 6.0e-3).double(), 6.0e-3
        fine, regression = (p * front, d * front), p.new_zeros(())
        for _ in range(3):
            regression = regression + (1 - ssim(*fine)) / 3
            fine = tuple(F.avg_pool2d(each, 2) for each in fine)
        share = [each / (each.sum((1, 2, 3), keepdim=True) + 1e-6) for each in (p, d)]
        total = regression + 1.5 * (share[0] - share[1]).abs().sum((1, 2, 3)).mean()
        positive = (d >= edge).double()
        negative = (1 - positive) * (attention * own < 0.3)
        for s in (made["S3"], made["S2"]):
            pull = ((1 - s) * positive).sum((1, 2, 3)) / (positive.sum((1, 2, 3)) + 1e-7)
            push = (s.clamp(min=0) * negative).sum((1, 2, 3)) / (negative.sum((1, 2, 3)) + 1e-7)
            total = total + 1.0 * (0.5 * pull + push).mean()
        return total

    def predicted(w: State, images: Tensor) -> Tensor:
        features, text, _ = forwarded(w, images, ["six red circles"] * len(images), ours.system.settings)
        return decoded(w, features, text)["density"] / 6

    def share_of(name: str) -> float:
        return 1.0 if name.startswith("decoder.") else 0.3  # the mini size's unet_factor

    result = oracle(
        ours,
        loss,
        adam(decoupled=True),
        trains=lambda name: name.startswith(("decoder.", "unet.")),
        rate=lambda name, _: 5e-5 * share_of(name),
        decay=lambda name, _: 5e-5 * share_of(name),
    )
    assert copied(result).keys() == ours.end.keys()
    assert_same_updates(ours, result)
    assert_same_predictions(ours, predicted, (1, 96, 96), (2, 64, 128))
