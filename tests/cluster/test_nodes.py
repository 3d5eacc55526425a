"""A training on two nodes of SLURM: srun starts torchrun on each, and its processes train as one does (gloo)."""

import shutil
import subprocess
import sys
from pathlib import Path

import slurm
import torch
from safetensors.torch import load_file
from small_training import RUN, small_training

from recount.results.run_record import RunRecord

pytestmark = slurm.MARKS
TRAIN = ["-m", "recount", "train", "mcnn/rgb/seed0"]


def test_two_nodes_train_a_run_as_one_process_does(cluster: dict[str, str], tmp_path: Path) -> None:
    work = small_training(tmp_path, steps=20)  # over 180 of Adam's, roundings grow to 2e-4
    whole = work.with_name("whole")
    shutil.copytree(work, whole)
    environment = slurm.environment_with(work.parent / "src", cluster)
    subprocess.run([sys.executable, *TRAIN], cwd=whole, env=environment, check=True, capture_output=True)

    slurm.resume_nodes(cluster)
    (port,) = slurm.free_ports(1)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "recount"]
    command = ["srun", "--nodes=2", "--ntasks-per-node=1", "--mem=3000", *torchrun, *TRAIN]
    answer = subprocess.run(command, cwd=work, env=environment, check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr

    one, two = (RunRecord.read(folder / RUN / "run.json") for folder in (whole, work))
    assert (one.processes, two.processes) == (1, 2)
    weights, shared = (load_file(folder / RUN / "model.safetensors") for folder in (whole, work))
    for name, value in weights.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-4)
    assert not list((work / "results/mini/attempts").rglob("*.json"))
