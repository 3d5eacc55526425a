"""Results that a test wrote by hand, made whole: what runs, predictions and prompt tests are made from."""

import json
from pathlib import Path
from typing import Any

from projects import csv_rows
from records import with_digests
from recount import provenance
from recount.results.files import Made, file_digest
from recount.results.predictions import Timing, timing_path
from recount.results.prompt_tests import PromptTests
from recount.results.run_record import HISTORY, RUN, RunRecord
from recount.settings.project import Project, Run, Split


def complete(project: Project) -> None:
    """Write whole records of all results of a project that are there; what a record says already is kept."""
    for run in project.evaluations:
        complete_run(project, run)


def complete_run(project: Project, run: Run) -> None:
    """Write whole records of a run, its predictions and its prompt tests, as far as they are there."""
    predicted = {b: project.root / project.predictions(run, b) for b in run.benchmarks}
    predicted = {benchmark: path for benchmark, path in predicted.items() if path.is_file()}
    asked = project.root / project.prompt_test_file(run)
    folder = project.root / project.run_folder(run)
    selections = dict.fromkeys(row["selection"] for path in predicted.values() for row in csv_rows(path))
    tests = _known(asked) if asked.is_file() else {}
    if not (selections or tests or (folder / RUN).is_file()):
        return
    models = _run(project, run, [*selections, *filter(None, [tests.get("selection")])])
    made = Made(run=run.training_id, models=models, settings=provenance.reading_of(project, run))
    for benchmark, path in predicted.items():
        times = {
            name: {"images": 0, "seconds": 0.0} for name in dict.fromkeys(row["selection"] for row in csv_rows(path))
        }
        known = {"device": "cpu", "precision": "fp32", "selections": times} | _known(timing_path(path))
        maps = project.root / project.results / _maps(project, path)
        content = {path.name: path, **({_maps(project, path): maps} if maps.is_file() else {})}
        written = {name: file_digest(file) for name, file in content.items()}
        models_here = {name: models[name] for name in times}
        data = _data(project, [run.benchmarks[benchmark]])
        own = made.model_copy(update={"content": written, "models": models_here, "data": data})
        Timing.model_validate(known | {"made": own}).write(timing_path(path))
    if tests:
        kept = asked.with_suffix(".npz")
        below = kept.relative_to(project.root / project.results).as_posix()
        content = {below: file_digest(kept)} if kept.is_file() else {}
        chosen = {tests["selection"]: models[tests["selection"]]}
        data = _data(project, [entry.split for entry in run.prompt_tests.values()])
        own = made.model_copy(update={"content": content, "models": chosen, "data": data})
        PromptTests.model_validate(tests | {"made": own}).write(asked)


def _run(project: Project, run: Run, selections: list[str]) -> dict[str, str]:
    """Write the record of a run with these selections, at least; a model that is not there is a file of a few bytes."""
    run = project.training_of(run)
    folder = project.root / project.run_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / HISTORY).is_file():
        (folder / HISTORY).write_text("stage,epoch,step,seconds\n", encoding="utf-8")
    known = _known(folder / RUN)
    chosen = known.get("selections") or {}
    for name in selections:
        chosen.setdefault(name, {"epoch": 1, "model": f"model.{name}.safetensors"})
    for name, selection in chosen.items():
        model = folder / selection["model"]
        if not model.is_file():
            model.write_text(f"{run.id} {name}", encoding="utf-8")
    origin = {**(known.get("provenance") or {}), "data": _data(project, run.learnt_from)}
    whose = {"system": run.system, "variant": run.variant, "seed": run.seed}
    fixed = {
        "run": (known.get("run") or {}) | whose,
        "selections": with_digests(folder, run.id, chosen),
        "provenance": origin,
        "planned": provenance.planned(project, run),
        "history_sha256": file_digest(folder / HISTORY),
    }
    record = RunRecord.model_validate(known | fixed)
    record.write(folder / RUN)
    return {name: selection.sha256 for name, selection in record.selections.items()}


def _known(path: Path) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known


def _maps(project: Project, predictions: Path) -> str:
    below = predictions.relative_to(project.root / project.results / "predictions")
    return (Path("maps") / below.with_suffix(".npz")).as_posix()


def _data(project: Project, splits: list[Split]) -> dict[str, str]:
    indexes = sorted({project.root / project.index(split) for split in splits})
    return provenance.data_digests([index for index in indexes if index.is_file()])
