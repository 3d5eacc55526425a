"""Golden cases in training mode, crowds: five steps from a decoded JPEG, twice, and against oracles of the steps."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recount.systems.base import Batch
from step_oracles import (
    IN_SCENES,
    State,
    Trained,
    adam,
    assert_same_predictions,
    assert_same_updates,
    attend,
    batch_norm,
    block_cross_entropy,
    classes_of,
    clip_block,
    conv,
    dm_loss,
    dropout,
    dropped,
    expected,
    frozen_norm,
    imagenet,
    larger,
    linear,
    norm,
    oracle,
    patch_tokens,
    radam,
    sgd,
    trained,
)

NAMES = ["mcnn", "dm_count", "dmcount_ebc", "clip_ebc", "gigacount", "ffnet", "lovitcrowd"]
NAMES += ["transcrowd", "crowdclip", "css_ccnn"]
SMALLER = {"mcnn": {"crop_height": 48, "crop_width": 64}}


def everything(_: str) -> bool:
    return True


def weights(name: str) -> bool:
    return "running" not in name


def constant(value: float) -> Callable[..., float]:
    return lambda *_: value


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_trains_the_same_weights(name: str, tmp_path: Path) -> None:
    first, second = (trained(name, tmp_path, **SMALLER.get(name, {})) for _ in range(2))
    assert first.end.keys() == second.end.keys()
    assert all(torch.equal(first.end[key], second.end[key]) for key in first.end)


@IN_SCENES
def test_mcnn(scene: str, tmp_path: Path) -> None:
    def column(w: State, name: str, x: Tensor) -> Tensor:
        for layer in (0, 2, 4, 5):  # 1 and 3 are poolings
            x = conv(w, f"{name}.{layer}.conv", x).relu()
            x = F.max_pool2d(x, 2) if layer < 4 else x
        return x

    def network(w: State, images: Tensor) -> Tensor:
        x = imagenet(
            images, (0.413525998592, 0.378520160913, 0.371616870165), (0.284849464893, 0.277046442032, 0.281509846449)
        )
        out = conv(w, "fuse.0.conv", torch.cat([column(w, f"branch{n}", x) for n in (1, 2, 3)], 1)).relu()
        return out.repeat_interleave(4, 2).repeat_interleave(4, 3)

    def loss(w: State, b: Batch, _: int) -> Tensor:
        return (network(w, b.images) - 100 * b.maps["density"]).square().mean()

    ours = trained("mcnn", tmp_path, scene, opened="fuse.0.conv.bias", **SMALLER["mcnn"])
    assert_same_updates(ours, oracle(ours, loss, adam(), trains=everything, rate=constant(1e-4), decay=constant(1e-4)))
    assert_same_predictions(ours, lambda w, x: network(w, x) / 100, (1, 47, 93), (2, 64, 16))


def vgg(w: State, name: str, x: Tensor) -> Tensor:
    layer = 0
    for stage, depth in enumerate((2, 2, 4, 4, 4)):
        if stage:
            x, layer = F.max_pool2d(x, 2), layer + 1
        for _ in range(depth):
            x, layer = conv(w, f"{name}.{layer}", x).relu(), layer + 2
    return x


@IN_SCENES
def test_dm_count(scene: str, tmp_path: Path) -> None:
    def network(w: State, images: Tensor) -> Tensor:
        x = larger(vgg(w, "features", imagenet(images)), 2, corners=True)
        x = conv(w, "reg_layer.2", conv(w, "reg_layer.0", x).relu()).relu()
        return conv(w, "density_layer.0", x).relu()

    def loss(w: State, b: Batch, _: int) -> Tensor:
        return dm_loss(network(w, b.images), b.maps["blocks"], b.points, eps=1e-6)

    ours = trained("dm_count", tmp_path, scene)
    assert_same_updates(ours, oracle(ours, loss, adam(), trains=everything, rate=constant(1e-5), decay=constant(1e-4)))
    assert_same_predictions(ours, network, (1, 75, 130), (3, 128, 48))


def ebc_rate(_: str, epoch: int) -> float:
    return 1e-6 + (1e-4 - 1e-6) * epoch / 50  # the first of 50 epochs of warm-up


def dace(logits: Tensor, b: Batch) -> Tensor:
    classes = classes_of(b.maps["blocks"])
    return block_cross_entropy(logits, classes) + dm_loss(expected(logits), b.maps["blocks"], b.points)


@IN_SCENES
def test_dmcount_ebc(scene: str, tmp_path: Path) -> None:
    def logits(w: State, images: Tensor) -> Tensor:
        x = larger(vgg(w, "backbone.features", imagenet(images)), 2)
        x = conv(w, "backbone.reg_layer.2", conv(w, "backbone.reg_layer.0", x).relu()).relu()
        return conv(w, "classifier", x)

    def loss(w: State, b: Batch, _: int) -> Tensor:
        return dace(logits(w, b.images), b)

    ours = trained("dmcount_ebc", tmp_path, scene)
    assert_same_updates(ours, oracle(ours, loss, adam(), trains=everything, rate=ebc_rate, decay=constant(1e-4)))
    assert_same_predictions(ours, lambda w, x: expected(logits(w, x)), (1, 80, 144), (3, 128, 48))


def basic_block(w: State, name: str, x: Tensor, shortcut: bool, stride: int = 1) -> Tensor:
    y = batch_norm(w, f"{name}.bn1", conv(w, f"{name}.conv1", x, stride=stride)).relu()
    y = batch_norm(w, f"{name}.bn2", conv(w, f"{name}.conv2", y))
    if shortcut:
        x = batch_norm(w, f"{name}.downsample.1", conv(w, f"{name}.downsample.0", x, stride=stride))
    return (y + x).relu()


def compared(w: State, features: Tensor) -> Tensor:
    image = F.normalize(conv(w, "projection", features), dim=1)
    return w["logit_scale"].exp() * torch.einsum("bchw,kc->bkhw", image, F.normalize(w["text_features"], dim=1))


@IN_SCENES
def test_clip_ebc_with_visual_prompts(scene: str, tmp_path: Path) -> None:
    trunk = "image_encoder.trunk"

    def logits(w: State, images: Tensor) -> Tensor:
        x = norm(w, f"{trunk}.ln_pre", patch_tokens(w, trunk, imagenet(images)))
        for i in range(3):
            prompts = w[f"image_encoder.prompts.{i}"].expand(len(x), -1, -1)
            x = clip_block(
                w, f"{trunk}.transformer.resblocks.{i}", torch.cat([x[:, :1], prompts, x[:, 1:]], 1), heads=3
            )
            x = torch.cat([x[:, :1], x[:, 5:]], 1)  # four prompts go
        cells = images.shape[2] // 16, images.shape[3] // 16
        x = norm(w, f"{trunk}.ln_post", x)[:, 1:].mT.unflatten(2, cells)
        return compared(w, basic_block(w, "image_decoder.0", larger(x, 2), shortcut=False))

    def loss(w: State, b: Batch, _: int) -> Tensor:
        return dace(logits(w, b.images), b)

    def trains(name: str) -> bool:
        return not name.startswith(trunk) and name != "text_features" and "running" not in name

    ours = trained("clip_ebc", tmp_path, scene, backbone="vit_b16")
    assert_same_updates(ours, oracle(ours, loss, adam(), trains=trains, rate=ebc_rate, decay=constant(1e-4)))
    assert_same_predictions(ours, lambda w, x: expected(logits(w, x)), (1, 112, 112), (2, 80, 144))


@IN_SCENES
def test_clip_ebc_with_a_resnet(scene: str, tmp_path: Path) -> None:
    def bottleneck(w: State, name: str, x: Tensor, pooled: bool) -> Tensor:
        y = batch_norm(w, f"{name}.bn1", conv(w, f"{name}.conv1", x)).relu()
        y = batch_norm(w, f"{name}.bn2", conv(w, f"{name}.conv2", y)).relu()
        y = batch_norm(w, f"{name}.bn3", conv(w, f"{name}.conv3", F.avg_pool2d(y, 2) if pooled else y))
        if f"{name}.downsample.0.weight" in w:
            x = conv(w, f"{name}.downsample.0", F.avg_pool2d(x, 2) if pooled else x)
            x = batch_norm(w, f"{name}.downsample.1", x)
        return (y + x).relu()

    def logits(w: State, images: Tensor) -> Tensor:
        x, trunk = imagenet(images), "image_encoder.trunk"
        for n in (1, 2, 3):
            x = batch_norm(w, f"{trunk}.bn{n}", conv(w, f"{trunk}.conv{n}", x, stride=2 if n == 1 else 1)).relu()
        x = F.avg_pool2d(x, 2)
        for layer in (1, 2, 3, 4):  # the last one keeps its resolution
            x = bottleneck(w, f"{trunk}.layer{layer}.0", x, pooled=layer in (2, 3))
        return compared(w, bottleneck(w, "image_decoder.0", larger(x, 2), pooled=False))

    def loss(w: State, b: Batch, _: int) -> Tensor:
        return dace(logits(w, b.images), b)

    def trains(name: str) -> bool:
        return name != "text_features" and "running" not in name

    ours = trained("clip_ebc", tmp_path, scene)
    assert_same_updates(ours, oracle(ours, loss, adam(), trains=trains, rate=ebc_rate, decay=constant(1e-4)))
    assert_same_predictions(ours, lambda w, x: expected(logits(w, x)), (1, 96, 160), (2, 64, 32))


def odconv(w: State, name: str, x: Tensor) -> Tensor:
    a = f"{name}.attention"
    z = batch_norm(w, f"{a}.bn", conv(w, f"{a}.fc", x.mean((2, 3), keepdim=True))).relu()
    channels, filters = conv(w, f"{a}.channel_fc", z).sigmoid(), conv(w, f"{a}.filter_fc", z).sigmoid()
    kernels = conv(w, f"{a}.kernel_fc", z).flatten(1).softmax(1)
    each = [
        F.conv2d((channels * x)[i : i + 1], torch.einsum("k,kfcyx->fcyx", kernels[i], w[f"{name}.weight"]))
        for i in range(len(x))
    ]
    return filters * torch.cat(each)


def ccsm(w: State, name: str, x: Tensor) -> Tensor:
    x = x * conv(w, f"{name}.channel_attention", x.mean((2, 3), keepdim=True)).relu().sigmoid()
    for n in (1, 2, 3, 4):
        y = batch_norm(w, f"{name}.conv{n}.2", odconv(w, f"{name}.conv{n}.0", x).relu())
        x = y + x if n in (1, 3) else y
    return x * conv(w, f"{name}.spatial_attention", x.mean(1, keepdim=True)).sigmoid()


def convnext(w: State, name: str, x: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """The map of each stage of a ConvNeXt of five blocks, of which ``blocks`` are there."""

    def last_norm(name: str, x: Tensor) -> Tensor:
        return norm(w, name, x.movedim(1, -1), 1e-6).movedim(-1, 1)

    def block(name: str, x: Tensor, drop: float) -> Tensor:
        y = F.conv2d(x, w[f"{name}.block.0.weight"], w[f"{name}.block.0.bias"], padding=3, groups=x.shape[1])
        y = F.gelu(linear(w, f"{name}.block.3", norm(w, f"{name}.block.2", y.movedim(1, -1), 1e-6)))
        return x + dropped(w[f"{name}.layer_scale"] * linear(w, f"{name}.block.5", y).movedim(-1, 1), drop)

    maps: list[Tensor] = []
    for place, number in enumerate(blocks):
        stage = f"{name}.{f'stage{place}' if place else 'stem'}"
        if place:
            x = conv(w, f"{stage}.0.1", last_norm(f"{stage}.0.0", x), stride=2, padding=0)
        else:
            x = last_norm(f"{stage}.0.1", conv(w, f"{stage}.0.0", x, stride=4, padding=0))
        for i in range(number):
            x = block(f"{stage}.1.{i}", x, 0.1 * (sum(blocks[:place]) + i) / 4)
        maps.append(x)
    return maps


def fused(w: State, maps: list[Tensor]) -> Tensor:
    shallow, middle, deep = (ccsm(w, f"ccsm{n}", each) for n, each in enumerate(maps, 1))
    up = [("upsample_1", middle, {"stride": 2, "padding": 1}), ("upsample_2", deep, {"stride": 4})]
    enlarged = [F.conv_transpose2d(x, w[f"fusion.{n}.weight"], w[f"fusion.{n}.bias"], **how) for n, x, how in up]
    return torch.cat([shallow, *enlarged], 1)


@IN_SCENES
def test_ffnet(scene: str, tmp_path: Path) -> None:
    def network(w: State, images: Tensor) -> Tensor:
        neck = fused(w, convnext(w, "backbone", imagenet(images), (1, 1, 2, 1))[1:])
        return conv(w, "fusion.final.0", neck).relu()

    def loss(w: State, b: Batch, _: int) -> Tensor:
        return dm_loss(network(w, b.images), b.maps["blocks"], b.points, eps=1e-6)

    ours = trained("ffnet", tmp_path, scene)
    result = oracle(ours, loss, adam(decoupled=True), trains=weights, rate=constant(1e-5), decay=constant(0.0))
    assert_same_updates(ours, result)
    assert_same_predictions(ours, network, (1, 64, 160), (2, 96, 32))


@IN_SCENES
def test_lovitcrowd(scene: str, tmp_path: Path) -> None:
    def trunk(w: State, name: str, x: Tensor) -> Tensor:
        x = batch_norm(w, f"{name}.1", conv(w, f"{name}.0", x, stride=2)).relu()
        x = basic_block(w, f"{name}.4.0", F.max_pool2d(x, 3, 2, 1), shortcut=False)
        for n in (5, 6, 7):
            x = basic_block(w, f"{name}.{n}.0", x, shortcut=True, stride=2)
        return conv(w, f"{name}.7.1.5", batch_norm(w, f"{name}.7.1.1", conv(w, f"{name}.7.1.0", x)).relu())

    def network(w: State, images: Tensor) -> Tensor:
        x = conv(w, "patch_embed.proj", trunk(w, "patch_embed.backbone", imagenet(images))).flatten(2).mT
        start = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1)
        x = start + w["pos_embed"]
        for i in range(2):
            q, k, v = linear(w, f"blocks.{i}.attn.qkv", norm(w, f"blocks.{i}.norm1", x, 1e-6)).chunk(3, -1)
            x = x + linear(w, f"blocks.{i}.attn.proj", attend(q, k, v, 3))
            hidden = F.gelu(linear(w, f"blocks.{i}.mlp.fc1", norm(w, f"blocks.{i}.norm2", x, 1e-6)))
            x = x + linear(w, f"blocks.{i}.mlp.fc2", hidden)
        x = linear(w, "output1.1", norm(w, "norm", x + start, 1e-6)[:, 5].relu())
        return linear(w, "output2.4", dropout(linear(w, "output2.1", x.relu()).relu(), 0.5))[:, 0]

    def loss(w: State, b: Batch, _: int) -> Tensor:
        apart = network(w, b.images) - b.counts
        return torch.where(apart.abs() < 1, apart**2 / 2, apart.abs() - 0.5).mean()

    def rate(name: str, _: int) -> float:
        return 1e-4 if name.startswith(("patch_embed.proj", "output")) else 1e-5

    def cells(w: State, images: Tensor) -> Tensor:  # of framed pictures
        rows, columns = (edge // 32 - 2 for edge in images.shape[2:])
        corners = [(32 * row, 32 * column) for row in range(rows) for column in range(columns)]
        windows = [image[:, top : top + 96, left : left + 96] for image in images for top, left in corners]
        return network(w, torch.stack(windows)).view(len(images), 1, rows, columns)

    ours = trained("lovitcrowd", tmp_path, scene, negatives="kept")
    assert_same_updates(ours, oracle(ours, loss, adam(), trains=weights, rate=rate, decay=constant(5e-4)))
    assert_same_predictions(ours, cells, (1, 128, 160), (2, 96, 128))


@IN_SCENES
def test_gigacount(scene: str, tmp_path: Path) -> None:
    def network(w: State, images: Tensor) -> Tensor:
        neck = fused(w, convnext(w, "image_encoder", imagenet(images), (1, 1, 2)))
        return compared(w, basic_block(w, "image_decoder.0", larger(neck, (12, 12)), shortcut=True))

    def loss(w: State, b: Batch, _: int) -> Tensor:
        logits = network(w, b.images)
        classes = classes_of(b.maps["blocks"])
        one_hot = F.one_hot(classes, 5).movedim(-1, 1)
        return dace(logits, b) + (logits.softmax(1) - one_hot).square().sum() / len(logits)

    def trains(name: str) -> bool:
        return name != "text_features" and "running" not in name

    ours = trained("gigacount", tmp_path, scene)
    result = oracle(
        ours,
        loss,
        adam(decoupled=True),
        trains=trains,
        clip_norm=1.0,
        decay=constant(1e-4),
        rate=lambda _, epoch: 1e-5 + (5e-4 - 1e-5) * epoch / 20,
    )
    assert_same_updates(ours, result)
    assert_same_predictions(ours, lambda w, x: expected(network(w, x)), (1, 96, 96), (3, 96, 96))


@IN_SCENES
@pytest.mark.parametrize("head", ["token", "gap"])
def test_transcrowd(head: str, scene: str, tmp_path: Path) -> None:
    def network(w: State, images: Tensor) -> Tensor:
        x = F.conv2d(imagenet(images), w["vit.patch_embed.proj.weight"], w["vit.patch_embed.proj.bias"], stride=16)
        x = torch.cat([w["vit.cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], 1) + w["vit.pos_embed"]
        for i in range(2):
            n = f"vit.blocks.{i}"
            q, k, v = linear(w, f"{n}.attn.qkv", norm(w, f"{n}.norm1", x, 1e-6)).chunk(3, -1)
            x = x + linear(w, f"{n}.attn.proj", attend(q, k, v, 3))
            x = x + linear(w, f"{n}.mlp.fc2", F.gelu(linear(w, f"{n}.mlp.fc1", norm(w, f"{n}.norm2", x, 1e-6))))
        x = norm(w, "vit.norm", x, 1e-6)
        if head == "token":
            counts = linear(w, "output1.2", dropout(linear(w, "vit.head", x[:, 0]).relu(), 0.5))
        else:  # 48 channels averaged to 12 numbers
            pooled = x[:, 1:].unflatten(-1, (12, 4)).mean(-1).flatten(1).relu()
            counts = linear(w, "output1.4", dropout(linear(w, "output1.1", pooled).relu(), 0.5))
        return counts[:, 0]

    def loss(w: State, b: Batch, _: int) -> Tensor:
        return (network(w, b.images) - b.counts).abs().sum()

    def tiles(w: State, images: Tensor) -> Tensor:
        cut = images.unflatten(2, (-1, 96)).unflatten(4, (-1, 96)).permute(0, 2, 4, 1, 3, 5)  # B, rows, columns
        return network(w, cut.flatten(0, 2)).view(len(images), 1, *cut.shape[1:3])

    ours = trained("transcrowd", tmp_path, scene, head=head)
    assert_same_updates(ours, oracle(ours, loss, adam(), trains=everything, rate=constant(1e-5), decay=constant(5e-4)))
    assert_same_predictions(ours, tiles, (1, 192, 288), (2, 288, 192))


@IN_SCENES
def test_crowdclip(scene: str, tmp_path: Path) -> None:
    tower = "image_encoder"

    def similar(w: State, name: str, crops: Tensor, sentences: str) -> Tensor:
        x = norm(w, f"{name}.ln_pre", patch_tokens(w, name, imagenet(crops)))
        for i in range(2):
            x = clip_block(w, f"{name}.transformer.resblocks.{i}", x, heads=3)
        features = norm(w, f"{name}.ln_post", x[:, 0]) @ w[f"{name}.proj"]
        return 100 * F.normalize(features, dim=1) @ F.normalize(w[f"{sentences}_features"], dim=1).T

    def patches(w: State, images: Tensor) -> Tensor:
        high, wide, counts = images.shape[2] // 4, images.shape[3] // 4, []
        numbers = images.new_tensor((1, 3, 6, 10, 15, 20))
        for image in images:
            cut = [
                image[None, :, r * high : (r + 1) * high, c * wide : (c + 1) * wide] for r in range(4) for c in range(4)
            ]
            small = [F.interpolate(each, (56, 56), mode="bilinear", antialias=True)[..., 4:52, 4:52] for each in cut]
            x = torch.cat(small)
            crowds = similar(w, "untuned", x, "object").argmax(1) == 0
            heads = (similar(w, "untuned", x, "part").argsort(1, descending=True)[:, :3] == 0).any(1)
            kept = crowds & heads if (crowds & heads).any() else torch.ones(16, dtype=torch.bool)
            counts.append(numbers[similar(w, tower, x, "number").argmax(1)] * kept)
        return torch.stack(counts).view(len(images), 1, 4, 4)

    def loss(w: State, b: Batch, _: int) -> Tensor:
        total = w["number_features"].new_zeros(())
        for crops in b.maps["crops"]:  # of one picture, small to large
            logits = similar(w, tower, crops, "number")
            for i in range(len(logits)):
                for j in range(i + 1, len(logits)):
                    total = total + (logits[i, j] - logits[j, j]).clamp(min=0)
        return total / len(b.maps["crops"])

    ours = trained("crowdclip", tmp_path, scene, recipe={"batch_size": 1})
    result = oracle(ours, loss, radam, trains=lambda n: n.startswith(tower), rate=constant(1e-6), decay=constant(0.0))
    assert_same_updates(ours, result)
    assert_same_predictions(ours, patches, (1, 203, 331), (2, 260, 150))


@IN_SCENES
def test_css_ccnn_in_both_stages(scene: str, tmp_path: Path) -> None:
    def features(w: State, images: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        x = 255 * images - images.new_tensor([104.008, 116.669, 122.675]).view(1, 3, 1, 1)
        for name in ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3"):
            if name in ("2_1", "3_1"):
                x = pooled = F.max_pool2d(x, 2)
            x, n = conv(w, f"features.conv{name}", x), f"features.batch_norm_{name}"
            x = (batch_norm if training else frozen_norm)(w, n, x).relu()
        return pooled, x

    def rotation(w: State, b: Batch, _: int) -> Tensor:
        x = features(w, b.images, training=True)[1]
        for name in ("4_1", "5_1"):
            n = "rotation_head."
            x = batch_norm(w, f"{n}batch_norm_{name}", conv(w, f"{n}conv{name}", F.max_pool2d(x, 2))).relu()
        logits = linear(w, "rotation_head.fc", x.mean((2, 3)))
        return -logits.log_softmax(1)[torch.arange(len(logits)), b.maps["turns"]].mean()

    def network(w: State, images: Tensor) -> Tensor:
        x = torch.cat(features(w, images, training=False), 1)
        x = conv(w, "density_head.conv4_2", conv(w, "density_head.conv4_1", x).relu()).relu()
        return conv(w, "density_head.conv5_1", F.max_pool2d(x, 2)).relu()

    def matching(w: State, b: Batch, _: int) -> Tensor:
        density = network(w, b.images)
        sums, draws = (F.avg_pool2d(density, 8) * 64).flatten(), b.maps["prior"].flatten()
        cost, u, v = (sums[:, None] - draws) ** 2, torch.zeros_like(sums), torch.zeros_like(draws)
        log_a, log_b = (torch.log(density.new_tensor(1 / len(each) + 1e-8)) for each in (sums, draws))
        for _ in range(1000):
            before = u, v
            u = 0.1 * (log_a - torch.logsumexp((u[:, None] + v - cost) / 0.1, 1)) + u
            v = 0.1 * (log_b - torch.logsumexp((u[:, None] + v - cost) / 0.1, 0)) + v
            if float((u - before[0]).abs().sum() + (v - before[1]).abs().sum()) < 0.1:
                break
        return 0.01 * (torch.exp((u[:, None] + v - cost) / 0.1) * cost).sum()

    def trained_first(name: str) -> bool:
        return name.startswith(("features.", "rotation_head.")) and "running" not in name

    first = {"epochs": 5, "max_steps": 5, "batch_size": 2, "evaluate_every": None}
    ours: Trained = trained("css_ccnn", tmp_path, scene, rotation=first)
    turned, matched = ([b for b in ours.batches if key in b.maps] for key in ("turns", "prior"))
    assert (len(turned), len(matched)) == (5, 5)
    rate = ours.system.settings.rotation.optimiser.lr  # the mini size's
    middle = oracle(
        ours, rotation, sgd, trains=trained_first, rate=constant(rate), decay=constant(1e-4), batches=turned
    )
    end = oracle(
        ours,
        matching,
        sgd,
        trains=lambda n: n.startswith("density_head."),
        rate=constant(1e-5),
        decay=constant(1e-4),
        batches=matched,
        start=middle,
    )
    assert_same_updates(ours, end)
    assert_same_predictions(ours, network, (1, 136, 232), (3, 128, 64))
