"""What a job imports of large libraries: what it uses, and no other part."""

import subprocess
import sys

import pytest

HEAVY = ("timm.models", "transformers", "torchvision.datasets", "pandas", "matplotlib", "torch._dynamo.eval_frame")
SMALL = "{'context': 8, 'vocabulary': ('a',), 'text_width': 8, 'text_heads': 1, 'text_layers': 1}"
USES = {
    "towers": f"from recount.nn.clip import ClipTowers, text_tower; text_tower(ClipTowers(**{SMALL}))",
    "clip": f"from recount.nn.clip import ClipSize, build_clip; build_clip(ClipSize(**{SMALL} | dict(text_heads=1)))",
    "interaction": "from recount.nn.interaction import InteractionBlock; InteractionBlock(4, 1)",
    "vgg": "from recount.nn.vgg import vgg19; vgg19((1, 1, 1, 1, 1))",
    "jitter": """
import recount.nn, torch
from torchvision.transforms.v2 import ColorJitter
ColorJitter(0.5)(torch.ones(3, 4, 4))
""",
    "steps": """
import recount.nn, torch
from recount.devices import choose_kernels
choose_kernels("bitwise", torch.device("cpu"))
weight = torch.nn.Parameter(torch.ones(1))
optimiser = torch.optim.AdamW([weight])
weight.sum().backward()
optimiser.step()
""",
    "training": "import recount.training.run, recount.prediction.predict, recount.prediction.run_prompt_tests",
}


def loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.more
@pytest.mark.parametrize("use", USES)
def test_a_job_imports_only_what_it_uses(use: str) -> None:
    modules = loaded(USES[use])
    assert "torch" in modules
    assert {name for name in HEAVY if name in modules} == set()


@pytest.mark.more
def test_the_compiler_is_read_as_a_whole_once_somebody_compiles() -> None:
    code = """
import recount.nn, torch
assert "torch._dynamo.eval_frame" not in sys.modules
assert torch.compiler.disable(len) is len and torch.compiler.disable()(len) is len
assert torch.compile(lambda value: value + 1, backend="eager")(torch.ones(1)) == 2
import torch._dynamo.config
assert torch._dynamo.disable.__module__.startswith("torch._dynamo")
print("compiled")
"""
    assert "compiled" in loaded(code)


def test_a_package_is_read_as_a_whole_once_a_name_of_it_is_asked_for() -> None:
    code = """
import recount.nn
import open_clip, torchvision
from torchvision.ops.misc import Permute
assert "open_clip.factory" not in sys.modules and "torchvision.datasets" not in sys.modules
assert open_clip.create_model.__module__ == "open_clip.factory"
assert torchvision.models.resnet18.__module__ == "torchvision.models.resnet"
assert torchvision.ops.misc.Permute is Permute and torchvision.__version__
import timm
from timm.models.vision_transformer import Attention
assert timm.layers.Attention is Attention and timm.create_model.__module__ == "timm.models._factory"
try:
    open_clip.nothing
except AttributeError:
    print("refused")
"""
    assert "refused" in loaded(code)
