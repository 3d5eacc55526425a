"""Small files of exactly the formats of suite paper's weights: names, nesting and container; the sizes are a test's."""

import re
import struct
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from recount import systems
from recount.nn.clip import build_tower
from recount.settings.base import merged
from t2icount_golden import official_state

FEATURES, TEXT_WIDTH, IMAGE, PATCH, WIDTH, LAYERS, HEADS = 64, 64, 96, 16, 48, 4, 3
"""Of the small CLIP with a ViT, which all systems share."""


def clip_vit(path: Path) -> None:
    """Write a CLIP as open_clip's hub has it: one safetensors file under OpenAI's names."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=LAYERS, width=WIDTH, head_width=WIDTH // HEADS, patch_size=PATCH, image_size=IMAGE)
    _save_clip(CLIP(FEATURES, vision, CLIPTextCfg(width=TEXT_WIDTH, heads=1, layers=1), quick_gelu=True), path)


def clip_resnet(path: Path) -> None:
    """Write the same of a CLIP with a ResNet, whose attention pooling stays in the file."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, head_width=64, image_size=112)
    _save_clip(CLIP(FEATURES, vision, CLIPTextCfg(width=TEXT_WIDTH, heads=1, layers=1), quick_gelu=True), path)


def _save_clip(clip: Any, path: Path) -> None:
    save_file({name: value.contiguous().clone() for name, value in clip.state_dict().items()}, path)


def vgg19(path: Path) -> None:
    """Write torchvision's VGG-19: a bare state dict with its classifier."""
    from torchvision.models.vgg import make_layers

    widths = [8, 8, "M", 16, 16, "M", *[32] * 4, "M", *[64] * 4, "M", *[64] * 4, "M"]
    state = {f"features.{name}": value for name, value in make_layers(widths).state_dict().items()}  # type: ignore[arg-type]
    torch.save(state | {"classifier.0.weight": torch.zeros(4, 4), "classifier.0.bias": torch.zeros(4)}, path)


def convnext(path: Path) -> None:
    """Write torchvision's ConvNeXt: a bare state dict with its classifier."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    plan = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 1), CNBlockConfig(64, 128, 2), CNBlockConfig(128, None, 1)]
    torch.save(ConvNeXt(plan, num_classes=10).state_dict(), path)


def deit(path: Path) -> None:
    """Write DeiT's file: timm's names below "model"."""
    from recount.systems.transcrowd import SYSTEM, build_transformer

    settings = SYSTEM.Settings.model_validate(SYSTEM.mini_settings())
    torch.save({"model": build_transformer(settings).state_dict()}, path)


def resnet34(path: Path) -> None:
    """Write timm's ResNet-34: torchvision's names, a bare state dict with its classifier; a small one."""
    from recount.systems.lovitcrowd import SYSTEM, build_trunk

    widths, depths = (SYSTEM.mini_settings()[f"trunk_{what}"] for what in ("widths", "depths"))
    places = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    state = {places[n.split(".")[0]] + n[1:]: v for n, v in build_trunk(widths, depths).state_dict().items()}
    for ours, theirs in {"0": "conv1", "1": "bn1", "5": "conv2"}.items():  # of the block that is cut
        state = {n.replace(f"layer4.1.{ours}.", f"layer4.1.{theirs}."): v for n, v in state.items()}
    state |= {n.replace("bn1", "bn2"): v.clone() for n, v in state.items() if n.startswith("layer4.1.bn1.")}
    torch.save(state | {"fc.weight": torch.zeros(4, widths[3]), "fc.bias": torch.zeros(4)}, path)


def vit_b32(path: Path) -> None:
    """Write timm's ViT-B/32 at 384 pixels, small: a bare state dict with patches of its own and its classifier."""
    from timm.models.vision_transformer import VisionTransformer

    torch.save(VisionTransformer(img_size=384, patch_size=32, embed_dim=48, depth=2, num_heads=3).state_dict(), path)


def stable_diffusion(path: Path) -> None:
    """Write a Stable Diffusion v1 file: LDM's names, VAE attention as 1x1 convolutions, and what counting drops."""
    system = systems.load("t2icount")
    network = system(system.Settings.model_validate({**system.mini_settings(), "weights": "random"}))
    state = {ldm_name(name): value for name, value in network.state_dict().items() if not name.startswith("decoder.")}
    attention = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight$")
    state = {name: value[..., None, None] if attention.search(name) else value for name, value in state.items()}
    state["first_stage_model.decoder.conv_in.weight"] = torch.zeros(4, 4, 3, 3)
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path)


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def ldm_name(name: str) -> str:
    """Return LDM's name of a tensor that diffusers and transformers name as T2ICount does."""
    part, _, rest = name.partition(".")
    if part == "unet":
        return f"model.diffusion_model.{_unet(rest)}"
    if part == "vae":
        return f"first_stage_model.{_vae(rest)}"
    return f"cond_stage_model.transformer.text_model.{rest.removeprefix('text_model.')}"


def _unet(name: str) -> str:
    simple = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    simple |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    simple |= {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    simple |= {"mid_block.attentions.0": "middle_block.1"}
    for ours, theirs in simple.items():
        if name.startswith(f"{ours}."):
            return theirs + _resnet(name.removeprefix(ours), "resnets" in ours)
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name)
    assert found, name
    way, level, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{3 * level + 3}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.{rest}"
    block = f"input_blocks.{3 * level + layer + 1}" if way == "down" else f"output_blocks.{3 * level + layer}"
    return f"{block}.{0 if kind == 'resnets' else 1}.{_resnet(rest, kind == 'resnets')}"


def _resnet(name: str, is_one: bool) -> str:
    for ours, theirs in RESNET.items() if is_one else ():
        name = re.sub(rf"(^|\.){ours}\.", rf"\g<1>{theirs}.", name)
    return name


def _vae(name: str) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
    name = re.sub(r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1", name)
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def bare(system: str) -> Callable[[Path, Mapping[str, Any]], None]:
    """Return the writer of a released checkpoint whose names are ours: a bare state dict."""

    def write(path: Path, settings: Mapping[str, Any]) -> None:
        torch.save(_state(system, settings)[1], path)

    return write


def _state(system: str, settings: Mapping[str, Any]) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a network with random weights, and a copy of its state dict."""
    module = systems.load(system)
    network = module(module.Settings.model_validate(merged(module.mini_settings(), settings)))
    for name, parameter in network.named_parameters():  # nothing is left as it starts
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return network, {name: value.clone() for name, value in network.state_dict().items()}


def clip_count_lightning(path: Path, settings: Mapping[str, Any]) -> None:
    """Write CLIP-Count's Lightning file: all but CLIP, below "model."."""
    _, state = _state("clip_count", settings)
    own = {name: value for name, value in state.items() if ".tower." not in name}
    theirs = {re.sub(r"^image\.", "img_encoder.", re.sub(r"^text\.", "text_encoder.", n)): v for n, v in own.items()}
    torch.save({"state_dict": {f"model.{n}": v for n, v in theirs.items()}, "hyper_parameters": {"lr": 1e-4}}, path)


def vlcounter_best(path: Path, settings: Mapping[str, Any]) -> None:
    """Write VLCounter's file: both towers, and the last block's attention twice."""
    network, state = _state("vlcounter", settings)
    last, theirs = f"resblocks.{network.settings.clip.vision_layers - 1}.attn.", {}
    for name, value in state.items():
        name = name.removeprefix("counter.").replace("text.tower.", "t_enc.").replace("image.tower.", "v_enc.")
        name = name.replace("image.", "v_enc.")
        if name.startswith("v_enc.") and last in name:
            name = name.replace("in_proj_", "qkv.").replace("out_proj.", "proj.")
            theirs[name.replace(f"transformer.{last}", "attn.")] = value
        theirs[name] = value
    torch.save({"epoch": 182, "state_dict": theirs, "best_mae": 1.0, "best_rmse": 1.0, "optimizer": {}}, path)


def countx_model(path: Path, settings: Mapping[str, Any]) -> None:
    """Write CounTX's file: a whole CLIP below "clip_model."."""
    _, state = _state("countx", settings)
    theirs = {re.sub(r"^image\.", "clip_model.visual.", name): value for name, value in state.items()}
    theirs = {name.replace("text.tower.", "clip_model."): value for name, value in theirs.items()}
    theirs["clip_model.logit_scale"] = torch.tensor(4.6)
    torch.save({"model": theirs, "optimizer": {}, "epoch": 999, "scaler": {}, "args": Namespace(lr=1.0)}, path)


def crowdclip_tuned(path: Path, settings: Mapping[str, Any]) -> None:
    """Write CrowdCLIP's file: the tuned tower and the text tower, below "module."."""
    network, state = _state("crowdclip", {**settings, "clip_weights": "random"})
    theirs = {f"module.{n}": v for n, v in state.items() if n.startswith("image_encoder.")}
    theirs |= {f"module.text_encoder.{n}": v for n, v in build_tower(network.settings.text).state_dict().items()}
    torch.save({"state_dict": {**theirs, "module.logit_scale": torch.tensor(4.6)}, "epoch": 9}, path)


def css_ccnn_stage2(path: Path, settings: Mapping[str, Any]) -> None:
    """Write CSS-CCNN's file of stage 2: features and density head, without the parts' names."""
    _, state = _state("css_ccnn", settings)
    theirs = {n.partition(".")[2]: v for n, v in state.items() if not n.startswith("rotation_head.")}
    torch.save({"epoch": 200, "state_dict": theirs, "optimizer": {}}, path)


def transcrowd_best(path: Path, settings: Mapping[str, Any]) -> None:
    """Write TransCrowd's file: timm's names and the head, below "module."."""
    _, state = _state("transcrowd", {**settings, "weights": "random"})
    theirs = {f"module.{n.removeprefix('vit.')}": v for n, v in state.items()}
    torch.save({"epoch": 9, "arch": None, "state_dict": theirs, "best_prec1": 66.1, "optimizer": {}}, path)


def ffnet_model(path: Path, settings: Mapping[str, Any]) -> None:
    """Write FFNet's file: a bare state dict under the names of its attention modules."""
    _, state = _state("ffnet", {**settings, "backbone_weights": "random"})
    theirs = {"channel_attention": "ch_att_s.shared_MLP.0", "spatial_attention": "sa_s.conv1"}
    torch.save({re.sub("|".join(theirs), lambda found: theirs[found[0]], n): v for n, v in state.items()}, path)


def lovitcrowd_best(path: Path, settings: Mapping[str, Any]) -> None:
    """Write LoViTCrowd's file: below the wrapper of several cards, with the head that is never used."""
    _, state = _state("lovitcrowd", {**settings, "trunk_weights": "random", "transformer_weights": "random"})
    theirs = {f"module.part_cnn.{n}": v for n, v in state.items()}
    unused = {"weight": torch.zeros(10, 48), "bias": torch.zeros(10)}
    torch.save(theirs | {f"module.part_cnn.head.{n}": v for n, v in unused.items()}, path)


def clip_ebc_best(path: Path, settings: Mapping[str, Any]) -> None:
    """Write CLIP-EBC's file: a bare state dict with the text tower; visual prompts, where there are, stand first."""
    network, state = _state("clip_ebc", settings)
    theirs = {n.replace("encoder.trunk.", "encoder."): v for n, v in state.items() if n != "text_features"}
    theirs = {n.replace("image_encoder.prompts.", "vpt_"): v for n, v in theirs.items()}
    theirs |= {f"text_encoder.{n}": v for n, v in build_tower(network.settings.text).state_dict().items()}
    torch.save(theirs, path)


def t2icount_best(path: Path, settings: Mapping[str, Any]) -> None:
    """Write T2ICount's file: UNet, VAE, CLIP and decoder below the names of the authors' wrappers."""
    torch.save(official_state(_state("t2icount", settings)[0]), path)


def hdf5(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return an HDF5 file of float32 arrays with the parts that h5py's defaults give: see ``recount.nn.hdf5``."""
    heap, offsets = b"\0" * 8, {}
    for name in sorted(arrays):
        offsets[name] = len(heap)
        heap += name.encode() + b"\0" * (8 - len(name) % 8)
    leaves = [sorted(arrays)[i : i + 8] for i in range(0, len(arrays), 8)]
    undefined, at = b"\xff" * 8, 96 + 40  # a superblock and the root group's header come first
    tree = 24 + 8 * (2 * 32 + 1)
    places = {"tree": at, "heap": at + tree, "names": at + tree + 32}
    leaf = places["names"] + len(heap)
    place, headers, data = leaf + len(leaves) * (8 + 8 * 40), {}, b""
    for name, array in arrays.items():
        space = struct.pack("<BBBx4x", 1, array.ndim, 0) + struct.pack(f"<{array.ndim}Q", *array.shape)
        kind = b"\x11\x20\x1f\x00" + struct.pack("<IHHBBBBI", 4, 0, 32, 23, 8, 0, 23, 127) + b"\0" * 4
        messages = [(1, space), (3, kind), (8, struct.pack("<BBQQ", 3, 1, 0, array.nbytes) + b"\0" * 6)]
        size = sum(8 + len(each) for _, each in messages)
        stored = place + 16 + size
        messages[2] = (8, struct.pack("<BBQQ", 3, 1, stored, array.nbytes) + b"\0" * 6)
        block = struct.pack("<BxHII4x", 1, 3, 1, size)
        block += b"".join(struct.pack("<HHB3x", k, len(each), 0) + each for k, each in messages)
        headers[name], data = place, data + block + array.astype("<f4").tobytes()
        data += b"\0" * (-len(data) % 8)
        place = leaf + len(leaves) * (8 + 8 * 40) + len(data)
    nodes = b"TREE" + struct.pack("<BBH", 0, 0, len(leaves)) + undefined * 2 + b"\0" * 8
    for number, names in enumerate(leaves):
        nodes += struct.pack("<QQ", leaf + number * (8 + 8 * 40), offsets[names[-1]])
    lists = b""
    for names in leaves:
        entries = b"".join(struct.pack("<QQ24x", offsets[name], headers[name]) for name in names)
        lists += b"SNOD" + struct.pack("<BxH", 1, len(names)) + entries.ljust(8 * 40, b"\0")
    entry = struct.pack("<QQI4xQQ", 0, 96, 1, places["tree"], places["heap"])
    first = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
    first += struct.pack("<Q", 0) + undefined + struct.pack("<Q", place) + undefined + entry
    root = struct.pack("<BxHII4x", 1, 1, 1, 24) + struct.pack("<HHB3xQQ", 17, 16, 0, places["tree"], places["heap"])
    names = b"HEAP" + struct.pack("<B3xQQQ", 0, len(heap), 1, places["names"]) + heap
    return first + root + nodes.ljust(tree, b"\0") + names + lists + data


def mcnn_h5(path: Path, settings: Mapping[str, Any]) -> None:
    """Write crowdcount-mcnn's file: HDF5, the network below "DME."."""
    state = _state("mcnn", settings)[1]
    path.write_bytes(hdf5({f"DME.{name}": value.numpy() for name, value in state.items()}))


RELEASED: dict[str, tuple[str, Callable[[Path, Mapping[str, Any]], None]]] = {
    "clip_count": ("clipcount_pretrained.ckpt", clip_count_lightning),
    "vlcounter": ("182_best.pth", vlcounter_best),
    "countx": ("paper-model.pth", countx_model),
    "crowdclip": ("crowdclip_qnrf.pth", crowdclip_tuned),
    "css_ccnn": ("stage2_cssccnn.pth", css_ccnn_stage2),
    "transcrowd": ("model_best.pth", transcrowd_best),
    "ffnet": ("SHA_model.pth", ffnet_model),
    "lovitcrowd": ("best_weights_qnrf.pth", lovitcrowd_best),
    "clip_ebc": ("best_mae.pth", clip_ebc_best),
    "t2icount": ("best_model_paper.pth", t2icount_best),
    "mcnn": ("mcnn_shtechA_660.h5", mcnn_h5),
    "dm_count": ("model_qnrf.pth", bare("dm_count")),
    "dmcount_ebc": ("best_mae.pth", bare("dmcount_ebc")),
}
"""Released checkpoints of layouts of their own: file and writer, of the settings that the network is read with."""


def write_released(system: str, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a release's file of a network of these settings: the Hub's wrapper puts "model." before each name."""
    if path.suffix != ".safetensors":
        RELEASED[system][1](path, settings)
        return
    bare = path.with_suffix(".pth")
    RELEASED[system][1](bare, settings)
    save_file({f"model.{name}": value.contiguous() for name, value in torch.load(bare).items()}, path)
    bare.unlink()


CROWDCLIP = {
    **{"patch": PATCH, "width": WIDTH, "layers": LAYERS, "heads": HEADS, "features": FEATURES},
    **{"input_size": IMAGE, "resized": IMAGE + 16, "text_width": TEXT_WIDTH, "text_heads": 1, "text_layers": 1},
}
"""CrowdCLIP's settings of the size of ``clip_vit``, which it is tuned from and reads beside its release."""

WEIGHTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "sd15": ("v1-5-pruned-emaonly.safetensors", stable_diffusion),
    "clip_vit_b32": ("open_clip_model.safetensors", clip_vit),
    "clip_vit_b16": ("open_clip_model.safetensors", clip_vit),
    "clip_vit_b16_laion2b": ("open_clip_model.safetensors", clip_vit),
    "clip_rn50": ("open_clip_model.safetensors", clip_resnet),
    "vgg19": ("vgg19-dcbb9e9d.pth", vgg19),
    "convnext_tiny": ("convnext_tiny-983f1562.pth", convnext),
    "dm_count_qnrf": ("model_qnrf.pth", lambda path: bare("dm_count")(path, {})),
    "dmcount_ebc_qnrf": ("best_mae.pth", lambda path: bare("dmcount_ebc")(path, {})),
    "resnet34": ("resnet34-43635321.pth", resnet34),
    "vit_b32_384": ("jx_vit_base_p32_384-830016f5.pth", vit_b32),
    "deit_b16_384": ("deit_base_patch16_384-8de9b5d1.pth", deit),
}
