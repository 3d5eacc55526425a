"""The authors' own evaluations during training, from a paper's evidence files, to be drawn behind ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from recount.judging.countclip_evidence import read_epochs
from recount.judging.published_log import logged_runs, read_log
from recount.papers.gigacount import LogEvidence
from recount.report.sections import Curves
from recount.report.sources import Sources

LONGEST = 2  # of GigaCount's logged runs are drawn


def published_curves(sources: Sources, paper: str, log: LogEvidence | None, curves: Curves) -> dict[str, pd.DataFrame]:
    """Return published runs of the same metric: name -> columns epoch, value; empty where there is no log of them.

    Args:
        log: what was found in GigaCount's log, for the names of its runs.
        curves: ours; only evaluations of the same metric are returned.
    """
    files = sources.evidence(paper)
    readers: dict[str, tuple[str, Callable[[Path], dict[str, pd.DataFrame]]]] = {
        "evallog": ("mae", lambda path: _logged(path, log) if log else {}),
        "trainlog": ("mae", _train_log),
        "epochs": ("accuracy", _recovered_epochs),
    }
    for name, (metric, read) in readers.items():
        if name in files and metric == curves.metric:
            return read(files[name])
    return {}


def _logged(path: Path, log: LogEvidence) -> dict[str, pd.DataFrame]:
    """Return the longest named runs of GigaCount's evaluation log (on test images)."""
    names = {run.run.number: run.name for run in log.runs}
    runs = [run for run in logged_runs(read_log(path)) if run.number in names]
    longest = sorted(runs, key=lambda run: -run.epochs)[:LONGEST]
    return {
        f"authors' run {names[run.number]}, {run.epochs} epochs": run.evaluations.rename(columns={"mae": "value"})
        for run in longest
    }


def _train_log(path: Path) -> dict[str, pd.DataFrame]:
    """Return the validation errors of T2ICount's training log; its epochs are counted from 0."""
    table = pd.read_csv(path).dropna(subset="val_mae")
    return {"authors' run, on val": pd.DataFrame({"epoch": table["epoch"] + 1, "value": table["val_mae"]})}


def _recovered_epochs(path: Path) -> dict[str, pd.DataFrame]:
    """Return the accuracies after each epoch of CountCLIP's recovered runs that printed them."""
    return {
        f"authors' run of {run.variant}": pd.DataFrame(
            {"epoch": range(1, len(run.accuracies) + 1), "value": run.accuracies}
        )
        for run in read_epochs(path)
        if run.accuracies
    }
