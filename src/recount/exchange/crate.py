"""``recount export``: the results of a suite as an RO-Crate, in a folder or a zip file.

What goes in: the workflow, the settings, the papers' numbers, run.json and history of every run, predictions, scores,
the tables as CSV and Parquet, what is known of the data (licence, addresses, digests), and the report.

What stays out, and why:

* weights, density maps and checkpoints, for their size (run.json has the weights' checksums);
* data sets (their digests and addresses are there);
* the report, where any data set's licence does not let its photographs be published: its gallery shows them. The tables
  and all numbers are in the export all the same.

No path of this machine goes out: paths below the project become relative, others keep their last part only.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recount import datasets
from recount.data.dataset import MANIFEST
from recount.errors import UserError
from recount.exchange.metadata import write_metadata
from recount.report.export import as_csv
from recount.report.sources import Sources
from recount.report.tables import paper_tables
from recount.settings.project import Project

SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")  # shape of a licence's name at spdx.org/licenses
SHARED = {".csv", ".json"}  # of the results; weights and maps have other suffixes
TEXT = {".csv", ".json", ".yaml", ".md", ".html", ".svg", ".tex"}
# An absolute path in a line of text: no part of an address (https://a/b), of a relative path or of a benchmark's name.
ABSOLUTE = re.compile(r"(?<![\w.:/~\\+=<-])(?:/[\w.+@-]+){2,}|\b[A-Za-z]:\\[\w.+@\\-]+")


class ExportError(UserError):
    """Results cannot be exported; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the folder or zip file, its number of files and bytes, and what was left out and why."""

    path: Path
    files: int
    bytes: int
    notes: tuple[str, ...]


def export(project: Project, target: Path, *, licence: str | None = None) -> Exported:
    """Write the results of the project's suite to ``target``.

    Args:
        project: the configuration.
        target: a folder, or a zip file if its name ends so. It must not exist yet.
        licence: SPDX name of the licence that the results are given.

    Raises:
        ExportError: nothing is scored yet, the target exists, or the licence is no name of one.
    """
    if licence is not None and not SPDX.fullmatch(licence):
        raise ExportError(
            f"--licence {licence}: expected the SPDX name of a licence, for instance CC-BY-4.0 or CC0-1.0"
        )
    scores = project.root / project.results / "scores.csv"
    if not scores.is_file():
        raise ExportError(f"{scores}: no such file: nothing is scored yet; `recount score` does it")
    if target.exists():
        raise ExportError(f"{target}: exists already; name another place, or delete it")
    if not (project.root / "Snakefile").is_file():
        raise ExportError(f"{project.root / 'Snakefile'}: no such file: an export holds its workflow")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        notes = _fill(project, building, licence)
        files = [path for path in building.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        if target.suffix == ".zip":
            packed = building.with_name(f"{building.name}.zip")
            _zip(building, packed)
            packed.replace(target)
        else:
            building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Exported(target, len(files), size, tuple(notes))


def _zip(folder: Path, packed: Path) -> None:
    try:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(folder).as_posix())
    except BaseException:
        packed.unlink(missing_ok=True)
        raise


def _fill(project: Project, folder: Path, licence: str | None) -> list[str]:
    sources = Sources(project)
    for origin, place in _shared_files(project):
        _copy(origin, folder / place, project.root)
    _write_config(project, folder / "config.yaml")
    _write_tables(sources, folder / "tables")
    notes = [
        "Weights, density maps and data sets are not included; run.json and data/ have their digests.",
        *_report(project, folder),
    ]
    if licence is None:
        notes.append("No licence was given to the results (--licence, for instance CC-BY-4.0).")
    records = {f"{run.key}/seed{run.seed}": run.record for run in sources.runs}
    (folder / "README.md").write_text(_readme(project, len(records), notes), encoding="utf-8")
    write_metadata(folder, project, records, licence, notes)
    return notes


def _shared_files(project: Project) -> Iterator[tuple[Path, str]]:
    """Yield (file, its place in the export) of everything that is copied."""
    root = project.root
    for path in (root / "Snakefile", *_below(root / "workflow"), *_below(root / "profiles")):
        yield path, path.relative_to(root).as_posix()
    yield root / "suites" / f"{project.suite.name}.yaml", f"suites/{project.suite.name}.yaml"
    for name in project.papers:
        for path in _below(root / "papers" / name):
            yield path, path.relative_to(root).as_posix()
    results = root / project.results
    for path in _below(results):
        place = path.relative_to(results)
        if path.suffix in SHARED and place.parts[0] != "checkpoints":
            yield path, f"results/{place.as_posix()}"
    for name in _datasets(project):
        manifest = root / project.raw / name / MANIFEST
        if manifest.is_file():
            yield manifest, f"data/{name}/{MANIFEST}"
        for path in sorted((root / project.data / name).glob("*/summary.json")):
            yield path, f"data/{name}/{path.parent.name}/summary.json"


def _below(folder: Path) -> list[Path]:
    """Return the files below a folder without hidden ones and bytecode; a link is not followed."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(p for p in found if not any(part[0] == "." or part == "__pycache__" for part in _parts(p, folder)))


def _parts(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts


def _datasets(project: Project) -> list[str]:
    """Return the data sets of the suite's runs and results, sorted."""
    named = {
        split.dataset
        for run in project.runs
        for split in (run.training, run.held_out, run.selected_on_test, *run.benchmarks.values())
        if split is not None
    }
    predicted = (project.root / project.results / "predictions").glob("*")
    return sorted(named | {path.name for path in predicted if path.is_dir()})


def _copy(origin: Path, target: Path, root: Path) -> None:
    """Copy a file; of text that was made here, without this machine's paths."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if origin.suffix in TEXT and not origin.is_relative_to(root / "workflow"):
        whole_lines = origin.suffix in {".csv", ".json", ".yaml"} and "predictions" not in target.parts  # captions
        target.write_text(without_paths(origin.read_text("utf-8"), root, everywhere=whole_lines), encoding="utf-8")
    else:
        shutil.copyfile(origin, target)


def without_paths(text: str, root: Path, *, everywhere: bool) -> str:
    """Return text without absolute paths.

    Args:
        text: of a file.
        root: the project's folder; paths below it become relative to it.
        everywhere: whether any other absolute path is shortened to its last part, too. Not of HTML and SVG, where
            closing tags and embedded pictures look like paths; there only the user's home is.
    """
    for known, short in ((root.resolve(), ""), (root.absolute(), ""), (Path.home(), "~")):
        if known != Path(known.anchor):
            text = text.replace(f"{known}/", f"{short}/" if short else "").replace(str(known), short or ".")
    return ABSOLUTE.sub(lambda hit: re.split(r"[/\\]", hit[0])[-1], text) if everywhere else text


def _write_config(project: Project, path: Path) -> None:
    """Write the configuration as it was resolved, with overrides, without this machine's places."""
    content: dict[str, Any] = project.config.model_dump(mode="json")
    text = "# What was run: config.yaml with the values given on the command line.\n" + yaml.safe_dump(content)
    path.write_text(without_paths(text, project.root, everywhere=True), encoding="utf-8")


def _write_tables(sources: Sources, folder: Path) -> None:
    """Write the papers' tables, the scores and all predictions as CSV and as Parquet."""
    folder.mkdir()
    for name in sources.project.papers:
        for table in paper_tables(sources, name):
            path = folder / f"{table.file}.csv"
            path.write_text(without_paths(as_csv(table), sources.project.root, everywhere=True), encoding="utf-8")
            _parquet(_reread(path), path)
    frames = {"scores": sources.scores, "predictions": sources.predictions}
    for name, frame in frames.items():
        path = folder / f"{name}.csv"
        text = frame.to_csv(index=False, lineterminator="\n")
        path.write_text(without_paths(text, sources.project.root, everywhere=name == "scores"), encoding="utf-8")
        _parquet(_reread(path), path)
    (folder / "scores.csv").unlink()  # results/scores.csv is the same


def _reread(path: Path) -> pd.DataFrame:
    """Read a table with the types that Parquet is to have; only an empty field is a missing one ("NA" is a text)."""
    text = dict.fromkeys(("seed", "seeds", "id", "image", "prompt"), str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])


def _parquet(frame: pd.DataFrame, table: Path) -> None:
    """Write a table as Parquet; a column without any number or text becomes one of empty text."""
    empty = [name for name in frame.columns if frame[name].isna().all()]
    frame.assign(**{name: frame[name].astype("string") for name in empty}).to_parquet(table.with_suffix(".parquet"))


def _report(project: Project, folder: Path) -> list[str]:
    """Copy the report, if it may be shown; return what has to be said about it."""
    page = project.root / project.report / "index.html"
    if not page.is_file():
        return ["There was no report to include; `recount report` writes it."]
    private = [name for name in _datasets(project) if not _publishable(name)]
    if private:
        return [
            f"The report is left out: it shows photographs of {', '.join(private)}, whose licence does not let them be "
            "published. `recount report` writes it from these results for those who have the data."
        ]
    for path in _below(page.parent):
        _copy(path, folder / "report" / path.relative_to(page.parent), project.root)
    if page.stat().st_mtime < (project.root / project.results / "scores.csv").stat().st_mtime:
        return ["The report is older than the scores; `recount report` renews it."]
    return []


def _publishable(name: str) -> bool:
    """Return whether a data set's pictures may be shown; one that this recount does not know may not."""
    if name not in datasets.names():
        return False
    entry = datasets.load(name)
    return entry.publishable or entry.embedded


def _readme(project: Project, runs: int, notes: list[str]) -> str:
    suite = project.suite
    comparable = (
        "" if suite.comparable else f"\nNot comparable with the published numbers: {suite.why_not_comparable}.\n"
    )
    lines = "\n".join(f"* {note}" for note in notes)
    return f"""# Results of recount, suite {suite.name}

{runs} runs. {suite.summary}
{comparable}
| where | what |
|---|---|
| `ro-crate-metadata.json` | everything here, described as a Workflow Run RO-Crate |
| `config.yaml`, `suites/`, `papers/` | the settings, and what the papers claim and print |
| `Snakefile`, `workflow/`, `profiles/` | the Snakemake workflow |
| `results/scores.csv` | a row for each cell of the papers' tables, with intervals |
| `results/runs/*/*/*/run.json` | settings, packages, hardware, data digests, cost, checksums of weights |
| `results/predictions/` | a row for each image |
| `tables/` | the papers' tables and all predictions, as CSV and Parquet |
| `data/` | licence, addresses and digests of the data sets |
| `report/` | the report |

{lines}

`recount compare THIS OTHER` puts two such exports side by side.
"""
