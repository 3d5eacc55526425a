"""``recount export``: the results of a suite as an RO-Crate, in a folder or a zip file.

What goes in: the workflow, the settings, the papers' numbers, run.json and history of every run, predictions, scores,
the tables as CSV and Parquet, what is known of the data (licence, addresses, digests), and the report. What stays out:
weights, density maps and checkpoints (run.json has the weights' checksums), data sets, and the report where a data
set's licence does not let its photographs be published, because its gallery shows them.

No path of this machine goes out (``private``). One unfit file costs what was made from it, and is named; only
damaged scores stop an export, for they are what it is of. Scores that are stale go out as missing cells.
"""

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import yaml

from recount import datasets
from recount.chain import MADE, TABLES, Unfit
from recount.data.dataset import MANIFEST, DataError
from recount.errors import UserError
from recount.exchange.metadata import write_metadata
from recount.exchange.private import clean_file, cleaned, without_paths
from recount.exchange.reproduction import Reproduction
from recount.report.export import as_csv
from recount.report.sources import Sources
from recount.report.tables import paper_tables
from recount.results.files import ResultsError, csv_text, file_digest, from_text, with_checksum, write_text
from recount.results.hands import APART, HANDS, Hand, Hands, read_hands
from recount.results.predictions import PREDICTIONS, timing_path
from recount.results.run_record import HISTORY, RUN, RunRecord
from recount.results.scores import INFLUENCE, SCORES, STRATA
from recount.results.submissions import SUBMITTED, submissions
from recount.settings.project import Project
from recount.verify import Verification

SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")  # shape of a licence's name at spdx.org/licenses
SHARED = {".csv", ".json"}  # of the results; weights and maps have other suffixes
STAY = ("checkpoints", "unfit", "attempts", APART, HANDS)  # hands.json is written anew
TEXT_COLUMNS = ("seed", "seeds", "id", "image", "prompt")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the folder or zip file, and how much is in it."""

    path: Path
    files: int
    bytes: int
    notes: tuple[str, ...]  # what was left out and why


def export(project: Project, target: Path, *, licence: str | None = None, by: str = "") -> Exported:
    """Write the results of the project's suite to ``target``, a folder, or a zip file if its name ends so.

    ``by``: who made the runs that nobody else handed in, for `recount merge` and its report.
    """
    if licence is not None and not SPDX.fullmatch(licence):
        raise UserError(f"--licence {licence}: expected the SPDX name of a licence, such as CC-BY-4.0 or CC0-1.0")
    if by and (len(by) > 80 or not by.isprintable() or not by.strip()):
        raise UserError(f"--by {by!r}: expected a name of at most 80 printable characters")
    scores, snakefile = project.root / project.results / "scores.csv", project.root / "Snakefile"
    if not scores.is_file():
        raise UserError(f"{scores}: no such file: nothing is scored yet; `recount score` does it")
    if target.exists():
        raise UserError(f"{target}: exists already; name another place, or delete it")
    if not snakefile.is_file():
        raise UserError(f"{snakefile}: no such file: an export holds its workflow")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
        building, packed = Path(place, "export"), Path(place, "export.zip")
        building.mkdir()
        notes = _fill(project, building, licence, by)
        files = sorted(path for path in building.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        if target.suffix == ".zip":
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in files:
                    archive.write(path, path.relative_to(building).as_posix())
            packed.replace(target)
        else:
            building.rename(target)
    return Exported(target, len(files), size, tuple(notes))


def _fill(project: Project, folder: Path, licence: str | None, by: str) -> list[str]:
    unfit = [finding for finding in Verification(project).findings() if finding.unfit]
    scores = [finding for finding in unfit if finding.path.endswith((MADE["score"], *TABLES["score"]))]
    if damaged := [each for each in scores if each.kind != "stale"]:
        raise UserError("\n".join(f"{each.path}: {each.kind}: {each.why}; {each.again}" for each in damaged))
    unfit = [each for each in unfit if each not in scores]
    left_out = {project.root / name: f"{each.kind}: {each.path}: {each.why}" for each in unfit for name in each.files}
    left_out |= _others_that_do_not_fit(project, left_out)
    sources = Sources(project)
    for origin, place in _shared_files(project):
        if origin not in left_out:
            _copy(origin, folder / place, project.root)
    if scores:
        _write_fitting(sources, folder / "results")
    config = cleaned(project.config.model_dump(mode="json"), partial(without_paths, root=project.root))
    said = "# What was run: config.yaml with the values given on the command line."
    _write(folder / "config.yaml", f"{said}\n{yaml.safe_dump(config)}", project.root)
    _write_tables(sources, folder / "tables")
    notes = [
        "Weights, density maps and data sets are not included; run.json and data/ have their digests.",
        *_report(project, folder, left_out),
        *(f"Cells that are missing because their scores are stale: {each.why}." for each in scores),
        *(f"Left out, {why}." for why in dict.fromkeys(left_out.values())),
    ]
    if licence is None:
        notes.append("No licence was given to the results (--licence, for instance CC-BY-4.0).")
    _link_anew(folder / "results", folder / "report")
    _note_hands(project, folder / "results", by)
    paths = sorted((folder / "results" / "runs").glob(f"*/*/seed*/{RUN}"))
    records = {"/".join(path.parts[-4:-1]): RunRecord.read(path) for path in paths}
    suite = project.suite
    told = "" if suite.comparable else f"\nNot comparable with the published numbers: {suite.why_not_comparable}.\n"
    readme = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    lines = "\n".join(f"* {note}" for note in notes)
    text = readme.format(suite=suite.name, runs=len(records), summary=suite.summary, comparable=told, notes=lines)
    _write(folder / "README.md", text, project.root)
    clean_file(write_metadata(folder, project, records, licence, notes), project.root)
    return notes


def _write_fitting(sources: Sources, results: Path) -> None:
    """Write the tables of scores without what is stale in them."""
    chain = sources.chain
    SCORES.write(results / "scores.csv", sources.score_rows)
    STRATA.write(results / "strata.csv", chain.fitting(STRATA, "strata.csv"))
    INFLUENCE.write(results / "influence.csv", chain.fitting(INFLUENCE, "influence.csv"))
    for name in TABLES["score"]:
        clean_file(results / name, sources.project.root)


def _others_that_do_not_fit(project: Project, known: Collection[Path]) -> dict[Path, str]:
    """Return the results, of no run that is planned now, that do not fit their records, with what goes with them."""
    results = project.root / project.results
    names = [path.relative_to(results).as_posix() for path in _below(results) if path not in known]
    there = Reproduction(results, tuple(names), lambda name: (results / name).read_bytes())
    found: dict[Path, str] = {}
    for name, why in there.unfit.items():
        path = results / name
        with_it = path.parent.glob("*") if path.name == RUN else (path, timing_path(path))
        found |= dict.fromkeys(with_it, f"{project.results}/{why}")
    for name in names:
        if name.endswith(".json") and results / name not in found:
            try:
                json.loads((results / name).read_bytes())
            except (OSError, ValueError, RecursionError) as error:
                found[results / name] = f"{project.results}/{name}: damaged: {error}"
    return found


def _shared_files(project: Project) -> Iterator[tuple[Path, str]]:
    root, results = project.root, project.root / project.results
    folders = ["workflow", "profiles", "experiments", *(f"papers/{name}" for name in project.papers)]
    files = [root / "Snakefile", root / "suites" / f"{project.suite.name}.yaml", *root.glob("benchmarks.yaml")]
    for path in (*files, *(path for folder in folders for path in _below(root / folder))):
        yield path, path.relative_to(root).as_posix()
    for path in _below(results):
        place = path.relative_to(results)
        if path.suffix in SHARED and place.parts[0] not in STAY:
            yield path, f"results/{place.as_posix()}"
    for name in _datasets(project):
        manifest = root / project.raw / name / MANIFEST
        if manifest.is_file():
            yield manifest, f"data/{name}/{MANIFEST}"
        for path in sorted((root / project.data / name).glob("*/summary.json")):
            yield path, f"data/{name}/{path.parent.name}/summary.json"


def _below(folder: Path) -> list[Path]:
    """Return the files below a folder without hidden ones and bytecode; a link is not followed."""
    found = {path: path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file()}
    hidden = {path for path, parts in found.items() if any(part[0] == "." or part == "__pycache__" for part in parts)}
    return sorted(path for path in found if path not in hidden and not path.is_symlink())


def _datasets(project: Project) -> list[str]:
    """Return the data sets of the suite's runs and results, sorted."""
    named = {split.dataset for run in project.runs for split in run.splits}
    predicted = (project.root / project.results / "predictions").glob("*")
    return sorted(named | {path.name for path in predicted if path.is_dir()})


def _link_anew(results: Path, report: Path) -> None:
    """Give records the digests of the files as they go out, without this machine's paths; all fitted before."""
    # tables last: their records have the digests of other records, and the report's those of tables
    records = sorted(results.rglob("*.json"), key=lambda path: (path.name.endswith(".made.json"), path))
    for path in (*records, *report.glob(MADE["report"])):
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            continue
        made = record.get("made", {})
        beside = {name: path.parent / name for name in made.get("content", {})}
        behind = {name: results / name for name in made.get("results", {})}
        for digests, files in ((made.get("content", {}), beside), (made.get("results", {}), behind)):
            digests |= {name: file_digest(file) for name, file in files.items() if file.is_file()}
        if "history_sha256" in record and path.with_name(HISTORY).is_file():
            record["history_sha256"] = file_digest(path.with_name(HISTORY))
        if "checksum" in record:
            write_text(path, with_checksum(json.dumps(record, indent=1, ensure_ascii=False) + "\n"))


def _note_hands(project: Project, results: Path, by: str) -> None:
    """Write whose the exported runs are, by the digests of the records that go out."""
    known = read_hands(project.root / project.results)
    paths = {"/".join(path.parts[-4:-1]): path for path in sorted(results.glob(f"runs/*/*/seed*/{RUN}"))}
    whose = {run: known.runs[run].who if run in known.runs else by for run in paths}
    noted = {run: Hand(who=who, run_sha256=file_digest(paths[run])) for run, who in whose.items() if who}
    if noted:
        Hands(runs=noted, apart=known.apart, twice=known.twice).write(results / HANDS)


def _copy(origin: Path, target: Path, root: Path) -> None:
    """Copy a file without this machine's paths; captions in predictions are compared letter by letter."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin, target)
    clean_file(target, root, everywhere="predictions" not in target.parts)


def _write(path: Path, text: str, root: Path, *, everywhere: bool = True) -> None:
    path.write_text(text, encoding="utf-8")
    clean_file(path, root, everywhere=everywhere)


def _write_tables(sources: Sources, folder: Path) -> None:
    """Write the papers' tables, the scores and all predictions as CSV and as Parquet."""
    folder.mkdir()
    project = sources.project
    texts = {table.file: as_csv(table) for name in project.papers for table in paper_tables(sources, name)}
    predictions = pd.concat([sources.predictions, *_submitted(sources)], ignore_index=True)
    for name, frame in {"scores": sources.scores, "predictions": predictions}.items():
        texts[name] = csv_text([*frame], frame.itertuples(index=False))
    for name, text in texts.items():
        path = folder / f"{name}.csv"
        _write(path, text, project.root, everywhere=name != "predictions")
        # Only an empty field is a missing one ("NA" is a text), and Parquet has no column without a type.
        frame = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])
        frame = frame.map(lambda value: from_text(value) if isinstance(value, str) else value)
        untyped = frame.columns[frame.isna().all()]
        frame.astype(dict.fromkeys(untyped, "string")).to_parquet(path.with_suffix(".parquet"))
    (folder / "scores.csv").unlink()  # results/scores.csv is the same


def _submitted(sources: Sources) -> Iterator[pd.DataFrame]:
    """Yield the counts of each submitted counter that fit, with the columns of predictions; it has no seed."""
    for path in submissions(sources.project):
        with suppress(Unfit, DataError, ResultsError):
            place = sources.chain.submission(path)[0].place
            which = {
                "dataset": place.dataset,
                "split": place.split,
                "system": SUBMITTED,
                "variant": path.parents[1].name,
            }
            yield PREDICTIONS.frame(path.with_suffix(".csv")).assign(**which, seed="")


def _report(project: Project, folder: Path, left_out: Collection[Path]) -> list[str]:
    """Copy the report, if it may be shown; return what has to be said about it."""
    page = project.root / project.report / "index.html"
    if not page.is_file():
        return ["There was no report to include; `recount report` writes it."]
    if page.parent in left_out:
        return []  # said with all that is left out
    private = [name for name in _datasets(project) if not _may_be_shown(name)]
    if private:
        return [
            f"The report is left out: it shows photographs of {', '.join(private)}, whose licence does not let "
            "them be published. `recount report` writes it from these results for those who have the data."
        ]
    for path in _below(page.parent):
        _copy(path, folder / "report" / path.relative_to(page.parent), project.root)
    if page.stat().st_mtime < (project.root / project.results / "scores.csv").stat().st_mtime:
        return ["The report is older than the scores; `recount report` renews it."]
    return []


def _may_be_shown(name: str) -> bool:
    known = datasets.load(name) if name in datasets.names() else None  # whose licence this recount does not know
    return known is not None and known.may_be_shown
