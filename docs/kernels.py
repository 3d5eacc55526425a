"""What another choice of processor kernels changes in a training: the table of docs/reproducing.md.

``python docs/kernels.py PROJECT RUN…``: trains each run (``mcnn/rgb/seed0``) of suite mini in a project's folder under
each of ``LIMITS``, with results of its own there (``results_<name>``; what is there is not made again), and compares
all with the first.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
LIMITS: Mapping[str, dict[str, str]] = {
    "base": {},
    "base2": {},
    "mkl_avx2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "dnn_avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "all_avx2": AVX2,
}
SAID = {"base": "as it is", "base2": "the same again"}


def main() -> None:
    """Train what is not there, and write the table."""
    project, runs = Path(sys.argv[1]).resolve(), sys.argv[2:]
    for name, variables in LIMITS.items():
        for run in runs:
            done = (project / f"results_{name}/mini/runs/{run}/run.json").is_file() and _predicted(project, name, run)
            for step in () if done else ("train", "predict"):
                command = [sys.executable, "-m", "recount", step, run, "--config", f"results=results_{name}"]
                subprocess.run(command, check=True, cwd=project, env=os.environ | variables)
    lines = [
        "| run | limited by | weights | first epoch's loss | predicted counts that change | largest change | MAE |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        lines += [_row(project, name, run) for name in LIMITS]
    path = ROOT / "docs/reproducing.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def _row(project: Path, name: str, run: str) -> str:
    record, first = (
        json.loads((project / f"results_{each}/mini/runs/{run}/run.json").read_text()) for each in (name, "base")
    )
    (true, here), (_, there) = (_counts(project, each, run) for each in (name, "base"))
    same = record["selections"]["last"]["sha256"] == first["selections"]["last"]["sha256"]
    losses = [_first_loss(project, each, run) for each in (name, "base")]
    apart = abs(here - there)
    said = SAID.get(name) or ", ".join(f"{key}={value}" for key, value in LIMITS[name].items())
    loss = "the same" if losses[0] == losses[1] else f"{abs(losses[0] / losses[1] - 1):.0e} off"
    return (
        f"| {run} | {said} | {'the same bytes' if same else 'others'} | {loss} | {(apart > 0).sum()} of {len(apart)} | "
        f"{100 * (apart / np.maximum(there, 1)).max():.1g} % | {abs(here - true).mean():.6g} |"
    )


def _first_loss(project: Path, name: str, run: str) -> float:
    with (project / f"results_{name}/mini/runs/{run}/history.csv").open(newline="") as file:
        return float(next(csv.DictReader(file))["loss"])


def _predicted(project: Path, name: str, run: str) -> list[Path]:
    return sorted((project / f"results_{name}/mini/predictions").glob(f"*/*/{run}.csv"))


def _counts(project: Path, name: str, run: str) -> tuple[np.ndarray, np.ndarray]:
    """Return true and predicted counts of the last epoch's weights, on the first benchmark."""
    with _predicted(project, name, run)[0].open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["selection"] == "last"]
    return tuple(np.array([float(row[key]) for row in rows]) for key in ("true_count", "predicted_count"))


if __name__ == "__main__":
    main()
