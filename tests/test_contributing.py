"""The examples of CONTRIBUTING.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from recount.data.dataset import DataError
from recount.data.sample import Sample
from recount.settings.paper import Claim, Paper
from recount.systems.base import Batch

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(language: str, number: int) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)[number]


def module(number: int) -> ModuleType:
    made = ModuleType(f"example{number}")
    exec(
        compile(example("python", number), f"CONTRIBUTING.md, example {number}", "exec", dont_inherit=True), vars(made)
    )
    return made


class OnePicture:
    samples = (Sample("a", "train", None, np.zeros((0, 2), np.float32), 4, "", 64, 48),)

    def image(self, index: int) -> torch.Tensor:
        return torch.arange(3 * 48 * 64).view(3, 48, 64).remainder(251).to(torch.uint8)


def test_system_trains_towards_the_count() -> None:
    system_class = module(0).SYSTEM
    system = system_class(system_class.Settings(**system_class.mini_settings()))
    pool: Any = OnePicture()
    batch = Batch.of(system.example_maker()(0, pool, np.random.default_rng(0)))
    optimiser = torch.optim.Adam(system.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = system.losses(batch)["relative_error"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_paper_of_the_example_is_valid() -> None:
    content = yaml.safe_load(example("yaml", 0))
    content["tables"]["table1"]["title"] = "Table 1"
    described = {"title": "t", "short_title": "t", "authors": "a", "year": 2026, "venue": "v"}
    assert Paper.model_validate(described | content).systems["edges"].variants["coarse"].settings == {"cell": 64}


def test_claim_of_the_example_is_valid() -> None:
    (claim,) = (Claim.model_validate(entry) for entry in yaml.safe_load(example("yaml", 2))["claims"])
    assert claim.pairs == (("edges/default", "edges/coarse"),)


def put_beans(raw: Path) -> Path:
    folder = raw / "beans" / "test"
    folder.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(folder / "one.jpg")
    return folder


def test_data_set_reads_its_points(tmp_path: Path) -> None:
    (put_beans(tmp_path) / "one.csv").write_text("3,4\n5.5,6\n", encoding="utf-8")
    (sample,) = module(1).DATASET.read(tmp_path)
    assert (sample.id, sample.split, sample.count) == ("one", "test", 2)
    assert sample.points.tolist() == [[3, 4], [5.5, 6]]


def test_missing_points_are_a_defect_of_the_data_set(tmp_path: Path) -> None:
    put_beans(tmp_path)
    with pytest.raises(DataError, match=r"one\.csv"):
        list(module(1).DATASET.read(tmp_path))
