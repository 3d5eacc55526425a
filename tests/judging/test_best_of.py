"""Printed numbers that are the best of N epochs, through the real ``judge``."""

import math
from pathlib import Path

import numpy as np
from claims_project import IMAGES, better_than, headline, make_project, predict

from links import complete
from recount.judging.explain import explain


def test_epochs_of_a_share_scatter_on_the_logit_scale_and_so_does_the_best_of_them(tmp_path: Path) -> None:
    more = {"against": [], "test": "value", "published": 0.9, "best_of": 10}
    project = make_project(tmp_path, [better_than(expect="higher accuracy", **more)])
    predict(project, "new/full", lambda seed: (np.arange(IMAGES) < 20 + seed) * 1.0, seeds=(0, 1, 2))
    assert headline(project)["decided"] == "leans against"  # no run was evaluated after each epoch
    for seed in range(3):
        watched = [f"{epoch},{1 / (1 + 2.0 ** (-1) ** epoch)!r}" for epoch in range(10)]
        path = project.root / project.run_folder(project.run("new", "full", seed)) / "history.csv"
        path.write_text("\n".join(["epoch,test_accuracy", *watched]) + "\n")
    complete(project)
    assert headline(project)["decided"] == "undecided"
    told = explain(project, "C")
    assert "new/full: -logit of the metric" in told and "0.100083, 0.200671" in told
    assert f"- {math.sqrt(2) * math.log(2):.6g} * (largest of 10 normal draws)" in told
