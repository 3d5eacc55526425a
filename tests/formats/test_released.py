"""Every released variant of suite paper: a file of its release's layout is read with just the settings it resolves to.

Small networks here, with each variant's own settings; of files whose official names and shapes are in the golden files,
the sizes are the real ones too (a tensor is one number, expanded). From fetching to a score it goes in
``test_formats.py``.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import small_weights
import torch
from small_weights import FEATURES, HEADS, IMAGE, LAYERS, PATCH, TEXT_WIDTH, WIDTH
from torch import Tensor

from golden_tools import golden, golden_case
from projects import ROOT
from recount import systems
from recount.settings.base import merged
from recount.settings.project import Run, load

RUNS = {f"{run.system}/{run.variant}": run for run in load(ROOT, {"suite": "paper", "runs": "released"}).runs}
TEXT = {"text_width": TEXT_WIDTH, "text_heads": 1, "text_layers": 1}
VIT = {"features": FEATURES, "image_size": IMAGE, "patch": PATCH, "vision_width": WIDTH, "vision_layers": LAYERS}
TOWERS = {**VIT, "vision_heads": HEADS, **TEXT, "context": 77, "vocabulary": None}
SMALL: dict[str, dict[str, Any]] = {
    "clip_count": {"clip": TOWERS},
    "vlcounter": {"clip": TOWERS, "window": 16 * (IMAGE // PATCH)},
    "countx": {"clip": {**TOWERS, "activation": "gelu"}},
    "crowdclip": small_weights.CROWDCLIP,
    "t2icount": {"backbone": "mini_sd"},
}
SMALLER = {  # sizes that a variant itself states
    "clip_ebc/vit_l14_nwpu_hub": {
        "vit": {"width": 64, "layers": 3, "heads": 4, "features": 64, "input_size": 112},
        **TEXT,
    }
}


def written(run: Run, folder: Path) -> tuple[Path, Any]:
    """Write the release's file of a small network with the variant's settings; return it and these settings."""
    clip = folder / "open_clip_model.safetensors"
    own = merged(run.settings, SMALLER.get(f"{run.system}/{run.variant}", {}))
    settings = json.loads(json.dumps(own).replace("resources/weights/clip_vit_b16", str(folder)))
    if str(clip) in json.dumps(settings):
        small_weights.clip_vit(clip)
    module, path = systems.load(run.system), folder / Path(str(run.checkpoint_path)).name.replace("*", "_0")
    small = merged(SMALL.get(run.system, {}), settings)
    small_weights.write_released(run.system, path, small)
    return path, module.Settings.model_validate(merged(module.mini_settings(), small))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.more) if name.startswith("t2icount/") else name for name in RUNS]
)
def test_a_file_of_the_releases_layout_is_read_with_the_settings_of_its_variant(name: str, tmp_path: Path) -> None:
    path, settings = written(RUNS[name], tmp_path)
    module = systems.load(RUNS[name].system)
    network = module(settings)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(module.import_checkpoint(path, settings))
    learnt = [key for key, value in network.named_parameters() if value.ndim > 1]
    kept = ("rotation_head.", "untuned.", "text.tower.", "image.tower.")  # not in every file
    assert all(not torch.equal(before[key], network.state_dict()[key]) for key in learnt if not key.startswith(kept))
    image = network.eval().prepare_image(torch.rand(3, 256, 256))
    assert torch.isfinite(network.predict(image[None], ["red stars"]).counts()).all()


def expanded(shapes: dict[str, Any], path: Path) -> Path:
    """Save tensors of these shapes, each of which is one number."""
    torch.save({name: torch.tensor(0.01).expand(shape) for name, shape in shapes.items()}, path)
    return path


def of_golden(run: Run) -> dict[str, Any]:
    """Return names and shapes of the official network that a released file is of."""
    if run.system == "dm_count":
        return golden_case("crowd_eval", "dm_count_network")[0]["tensors"]
    if run.system == "ffnet":
        return golden("ffnet")["networks"]["ffnet"]["tensors"]
    if run.system == "lovitcrowd":  # two blocks in the golden file, twelve in the release
        shapes = dict(golden("lovitcrowd")["networks"]["lovitcrowd_depth2"]["tensors"])
        first = {name: shape for name, shape in shapes.items() if ".blocks.0." in name}
        shapes |= {name.replace("s.0.", f"s.{n}.", 1): shape for n in range(12) for name, shape in first.items()}
        assert len(shapes) == 369  # as the specification counts them
        return shapes
    if run.system == "dmcount_ebc":  # DM-Count's layers below "backbone.", and a classifier for its last one
        body = golden_case("crowd_eval", "dm_count_network")[0]["tensors"]
        shapes = {f"backbone.{name}": shape for name, shape in body.items() if not name.startswith("density_layer.")}
        return {**shapes, "classifier.weight": [5, 128, 1, 1], "classifier.bias": [5]}
    vit, large = run.settings["backbone"] == "vit_b16", "width" in run.settings["vit"]
    networks = golden("clip_ebc")["networks"]
    shapes = dict(networks["vit_b_16" if vit else "resnet50"]["tensors"])
    blocks = networks["vit_b_16"]["tensors"].items()  # of the text tower, whose width is the same
    shapes |= {name: shape for name, shape in blocks if name.startswith("text_encoder.transformer.")}
    assert len(shapes) == (327 if vit else 500)  # as the specification counts them
    if vit and run.settings["vit"].get("visual_prompts") == 0:  # version 1: no prompts, 256 pixels
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("vpt_")}
        shapes["image_encoder.positional_embedding"] = [257, 768]
    return enlarged(shapes) if large else shapes


def enlarged(shapes: dict[str, Any]) -> dict[str, Any]:
    """Return the names and shapes of CLIP-EBC's ViT-L/14 from those of its ViT-B/16: 24 layers in place of 12."""
    image = {768: 1024, 3072: 4096, 2304: 3072, 197: 257, 16: 14, 512: 768}
    text = {512: 768, 2048: 3072, 1536: 2304}
    result = {}
    for name, shape in shapes.items():
        sizes = text if name.startswith("text_encoder.") else image
        new = [sizes.get(edge, edge) for edge in shape]
        result[name] = new
        found = re.fullmatch(r"(image_encoder\.transformer\.resblocks\.|vpt_)(\d+)(.*)", name)
        if found:
            result[f"{found[1]}{int(found[2]) + 12}{found[3]}"] = new
    return result


OF_GOLDEN = ("clip_ebc", "dmcount_ebc", "dm_count", "ffnet", "lovitcrowd")
FULL_SIZE = [name for name in RUNS if name.partition("/")[0] in OF_GOLDEN]
ONE_EACH = ("dm_count/vgg19_released", "dmcount_ebc/vgg19_released", "ffnet/sha_released")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ONE_EACH else pytest.mark.more) for name in FULL_SIZE]
)
def test_names_and_shapes_of_the_official_network_are_those_that_the_variant_reads(name: str, tmp_path: Path) -> None:
    run = RUNS[name]
    module, path = systems.load(run.system), expanded(of_golden(run), tmp_path / "best.pth")
    state: dict[str, Tensor] = module.import_checkpoint(path, module.Settings.model_validate(run.settings))
    assert sum(value.numel() for value in state.values()) > 20_000_000
