"""What a job imports of large libraries: what it uses, and no other part."""

import subprocess
import sys

import pytest

HEAVY = ("sympy", "timm", "transformers", "torchvision.datasets", "torch._dynamo.convert_frame", "pandas", "matplotlib")
SMALL = "{'context': 8, 'vocabulary': ('a',), 'text_width': 8, 'text_heads': 1, 'text_layers': 1}"
USES = {
    "towers": f"from recount.nn.clip import ClipTowers, text_tower; text_tower(ClipTowers(**{SMALL}))",
    "clip": f"from recount.nn.clip import ClipSize, build_clip; build_clip(ClipSize(**{SMALL} | dict(text_heads=1)))",
    "vgg": "from recount.nn.vgg import vgg19; vgg19((1, 1, 1, 1, 1))",
    "step": """
from recount.settings.recipe import Optimiser
from recount.training.loop import build_optimiser
import torch
weight = torch.nn.Parameter(torch.ones(2))
optimiser = build_optimiser([{"params": [weight]}], Optimiser(name="adam"))
weight.sum().backward()
optimiser.step()
assert weight.max() < 1
""",
    "jitter": """
import recount.nn, torch
from torchvision.transforms.v2 import ColorJitter
ColorJitter(0.5)(torch.ones(3, 4, 4))
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


def test_a_package_is_read_as_a_whole_once_a_name_of_it_is_asked_for() -> None:
    code = """
import recount.nn
import open_clip, torchvision
from torchvision.ops.misc import Permute
assert "open_clip.factory" not in sys.modules and "torchvision.datasets" not in sys.modules
assert open_clip.create_model.__module__ == "open_clip.factory"
assert torchvision.models.resnet18.__module__ == "torchvision.models.resnet"
assert torchvision.ops.misc.Permute is Permute and torchvision.__version__
import torch
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
try:
    open_clip.nothing
except AttributeError:
    print("refused")
"""
    assert {"refused", "torch._dynamo.convert_frame"} <= loaded(code)


COMPILED_LATER = """
import sys
{imports}
import torch
weight = torch.nn.Parameter(torch.ones(2))
optimiser = torch.optim.SGD([weight], lr=0.1)
weight.sum().backward()
optimiser.step()
optimiser.zero_grad()
print("torch._dynamo.convert_frame" in sys.modules, file=sys.stderr)
frames = []
def backend(graph, examples):
    frames.append(graph.code)
    return graph.forward
def train(x):
    y = x * 2
    optimiser.zero_grad()
    return y + 1
torch.compile(train, backend=backend)(torch.ones(2))
from torch._dynamo.utils import counters
print(len(frames), dict(counters["frames"]), dict(counters["unimplemented"]), len(counters["graph_break"]))

@torch._dynamo.disable
def own(x):
    return x + 1
print(hasattr(own, "_torchdynamo_disable"))
"""
OWN_MARK = """
{imports}
import torch
@torch._dynamo.disable
def own(x):
    return x + 1
class Layer(torch.nn.Module):
    def forward(self, x):
        return own(x * 2)
explained = torch._dynamo.explain(Layer())(torch.ones(2))
print(explained.graph_break_count, explained.graph_count, explained.op_count)
"""


@pytest.mark.more
@pytest.mark.parametrize("code", [COMPILED_LATER, OWN_MARK])
def test_what_is_compiled_later_is_compiled_as_without_recount(code: str) -> None:
    with_recount, without = (
        subprocess.run([sys.executable, "-c", code.format(imports=imports)], capture_output=True, text=True, check=True)
        for imports in ("import recount.nn", "")
    )
    assert with_recount.stdout == without.stdout != ""
    if code is COMPILED_LATER:
        assert with_recount.stderr.splitlines()[0] == "False"  # the step itself read no compiler
