"""``ro-crate-metadata.json``: an export described as a Workflow Run Crate.

RO-Crate 1.1 with the profiles Workflow RO-Crate 1.0, Process Run Crate 0.5 and Workflow Run Crate 0.5. Written as plain
JSON-LD: the package ``rocrate`` (0.16 was looked at) calls itself alpha and brings five dependencies for what is a list
of dictionaries here. An export of suite mini was checked with
``roc-validator`` 0.13: nothing required is missing but the two JSON-LD contexts, which could not be fetched there (a
stand-in with the terms used here was given in their place).

One action describes the whole workflow run, and one each training run, with what it was made with and from. They have
no times and no agent: run.json holds durations, not dates, the dates of files do not survive a copy, and who ran it is
not recount's to say. (Both are recommended, not required.)
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from recount.provenance import commit
from recount.results.files import file_digest
from recount.settings.project import Project

METADATA = "ro-crate-metadata.json"
WORKFLOW = "Snakefile"
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
SNAKEMAKE = "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
MIT = "https://spdx.org/licenses/MIT"
FORMATS = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}
DESCRIPTIONS = {
    "README.md": "What is in this crate",
    "config.yaml": "The configuration that the suite was run with, overrides included",
    "results/scores.csv": "A row for each row, column, seed and selection of the papers' tables, with 95 % intervals",
    "results/verdicts.csv": "What the evidence says of each of the papers' claims",
    "report/index.html": "The report: each measured number beside the published one",
    "tables/scores.parquet": "results/scores.csv as Parquet",
    "tables/predictions.parquet": "Every prediction of every run, as Parquet",
    "tables/predictions.csv": "Every prediction of every run",
}

Entity = dict[str, Any]


def _ref(name: str) -> dict[str, str]:
    return {"@id": name}


def _refs(names: Sequence[str]) -> list[dict[str, str]]:
    return [_ref(name) for name in names]


def identifier(path: str) -> str:
    """Return the @id of a file of the crate: its relative path as a URI."""
    return quote(path, safe="/+")


def write_metadata(
    folder: Path, project: Project, records: Mapping[str, Mapping[str, Any]], licence: str | None, notes: Sequence[str]
) -> None:
    """Describe every file of a finished export, and write the description into it.

    Args:
        folder: the export; everything in it is described.
        project: the configuration.
        records: content of run.json by run id.
        licence: SPDX name of the licence that the results are given, or None.
        notes: what was left out and why.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    graph = [
        {
            "@id": METADATA,
            "@type": "CreativeWork",
            "about": _ref("./"),
            "conformsTo": _refs(
                ["https://w3id.org/ro/crate/1.1", "https://w3id.org/workflowhub/workflow-ro-crate/1.0"]
            ),
        },
        _root(project, files, records, licence, notes),
        *(
            {"@id": name, "@type": "CreativeWork", "name": title, "version": version}
            for name, (title, version) in PROFILES.items()
        ),
        *_licences(licence),
        *_languages(),
        *(_file(folder, path) for path in files if path != WORKFLOW),
        _workflow(folder),
        *_parameters(project, files),
        *_actions(project, files, records),
    ]
    text = json.dumps({"@context": CONTEXT, "@graph": graph}, indent=1, ensure_ascii=False)
    (folder / METADATA).write_text(text + "\n", encoding="utf-8")


def _root(
    project: Project,
    files: Sequence[str],
    records: Mapping[str, Mapping[str, Any]],
    licence: str | None,
    notes: Sequence[str],
) -> Entity:
    suite = project.suite
    papers = "; ".join(f"{paper.title} ({paper.year})" for paper in project.papers.values())
    told = [] if suite.comparable else [f"Not comparable with the published numbers: {suite.why_not_comparable}."]
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"recount, suite {suite.name}: {', '.join(paper.short_title for paper in project.papers.values())}",
        "description": " ".join([f"Results of {len(records)} runs of the systems of: {papers}.", *told, *notes]),
        "datePublished": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "license": _ref(_licence_id(licence)),
        "conformsTo": _refs(list(PROFILES)),
        "mainEntity": _ref(WORKFLOW),
        "hasPart": _refs([identifier(path) for path in files]),
        "mentions": _refs(["#workflow-run", *(f"#run-{identifier(run)}" for run in records)]),
    }


def _licence_id(licence: str | None) -> str:
    return "#no-licence" if licence is None else f"https://spdx.org/licenses/{quote(licence)}"


def _licences(licence: str | None) -> list[Entity]:
    mit = {"@id": MIT, "@type": "CreativeWork", "name": "MIT"}
    if licence == "MIT":
        return [mit]
    if licence is not None:
        return [mit, {"@id": _licence_id(licence), "@type": "CreativeWork", "name": licence}]
    text = (
        "Who exported these results gave them no licence (recount export --licence). The workflow is under MIT; data "
        "sets and weights have licences of their own."
    )
    return [mit, {"@id": "#no-licence", "@type": "CreativeWork", "name": "No licence given", "description": text}]


def _languages() -> list[Entity]:
    return [
        {
            "@id": SNAKEMAKE,
            "@type": "ComputerLanguage",
            "name": "Snakemake",
            "alternateName": "Snakefile",
            "identifier": _ref("https://snakemake.readthedocs.io"),
            "url": _ref("https://snakemake.readthedocs.io"),
        }
    ]


def _file(folder: Path, path: str) -> Entity:
    entity: Entity = {
        "@id": identifier(path),
        "@type": "File",
        "name": path,
        "contentSize": str((folder / path).stat().st_size),
        "encodingFormat": FORMATS.get(Path(path).suffix, "text/plain"),
        "sha256": file_digest(folder / path),
    }
    if path in DESCRIPTIONS:
        entity["description"] = DESCRIPTIONS[path]
    if path == "README.md":
        entity["about"] = _ref("./")
    example = {"config.yaml": "#parameter-config", "results/scores.csv": "#parameter-scores"}.get(path)
    return entity | ({"exampleOfWork": _ref(example)} if example else {})


def _workflow(folder: Path) -> Entity:
    return {
        **_file(folder, WORKFLOW),
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "name": "recount",
        "description": "Fetch, prepare, train, predict, score and report the systems of visual-counting papers",
        "conformsTo": _ref("https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"),
        "programmingLanguage": _ref(SNAKEMAKE),
        "license": _ref(MIT),
        "version": commit()["commit"] or "unknown",
        "input": _refs(["#parameter-suite", "#parameter-config"]),
        "output": _ref("#parameter-scores"),
    }


def _parameters(project: Project, files: Sequence[str]) -> list[Entity]:
    def parameter(name: str, kind: str, description: str, example: str) -> Entity:
        return {
            "@id": f"#parameter-{name}",
            "@type": "FormalParameter",
            "conformsTo": _ref("https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"),
            "name": name,
            "additionalType": kind,
            "description": description,
            "workExample": _ref(example),
        }

    return [
        parameter("suite", "Text", "how big: which data sets stand for the papers', sizes, budgets", "#suite"),
        parameter("config", "File", "what to run, where things lie", "config.yaml"),
        parameter("scores", "File", "the scores of the papers' tables", "results/scores.csv"),
        {
            "@id": "#suite",
            "@type": "PropertyValue",
            "name": "suite",
            "value": project.suite.name,
            "exampleOfWork": _ref("#parameter-suite"),
        },
    ]


# ------------------------------------------------------------------------------------------------------------- actions


def _actions(project: Project, files: Sequence[str], records: Mapping[str, Mapping[str, Any]]) -> list[Entity]:
    """Return the action of the whole run, and of each training run with its data and the recount it was made with."""
    settings = [path for path in files if path.startswith(("config.yaml", "suites/", "papers/"))]
    data: dict[str, Entity] = {}
    software: dict[str, Entity] = {}
    actions: list[Entity] = []
    for run, record in records.items():
        made_with = record.get("provenance", {})
        for name, digest in made_with.get("data", {}).items():
            entity = _data(name, digest)
            data[entity["@id"]] = entity
        tool = _software(made_with)
        software[tool["@id"]] = tool
        results = [path for path in files if path.startswith(f"results/runs/{run}/") or path.endswith(f"/{run}.csv")]
        inputs = [_data(name, digest)["@id"] for name, digest in made_with.get("data", {}).items()]
        actions.append(
            {
                "@id": f"#run-{identifier(run)}",
                "@type": "CreateAction",
                "name": f"recount train {run}",
                "description": _told(record),
                "instrument": _ref(tool["@id"]),
                "object": _refs([*inputs, "config.yaml"]),
                "result": _refs([identifier(path) for path in results]),
                "actionStatus": "http://schema.org/CompletedActionStatus",
            }
        )
    whole: Entity = {
        "@id": "#workflow-run",
        "@type": "CreateAction",
        "name": f"recount, suite {project.suite.name}",
        "description": f"Run of the workflow; {len(records)} training runs are actions of their own",
        "instrument": _ref(WORKFLOW),
        "object": _refs([*(identifier(path) for path in settings), "#suite", *data]),
        "result": _refs(
            [identifier(path) for path in files if path.startswith(("results/", "report/index", "tables/"))]
        ),
    }
    return [whole, *actions, *data.values(), *software.values()]


def _data(name: str, digest: str) -> Entity:
    return {
        "@id": f"#data-{quote(name)}-{digest[:12]}",
        "@type": "CreativeWork",
        "name": f"prepared data set {name}",
        "description": "Not in this crate: `recount fetch` and `recount prepare` make it; sha256 is of its index.csv",
        "sha256": digest,
    }


def _software(made_with: Mapping[str, Any]) -> Entity:
    version = str(made_with.get("commit") or made_with.get("recount") or "unknown")
    changed = " with uncommitted changes" if made_with.get("dirty") else ""
    return {
        "@id": f"#recount-{version}{'-dirty' if changed else ''}",
        "@type": "SoftwareApplication",
        "name": "recount",
        "version": f"{version}{changed}",
    }


def _told(record: Mapping[str, Any]) -> str:
    made_with = record.get("provenance", {})
    hardware, packages = made_with.get("hardware", {}), made_with.get("packages", {})
    cards = ", ".join(card["name"] for card in hardware.get("gpus") or ()) or "no GPU"
    seconds = record.get("cost", {}).get("wall_seconds")
    took = "" if seconds is None else f", {seconds:.0f} s"
    place = f"{made_with.get('device', 'an unknown device')} ({hardware.get('cpu', 'unknown processor')}; {cards})"
    tools = f"Python {made_with.get('python', 'unknown')}, torch {packages.get('torch', 'unknown')}"
    return f"On {place}, {tools}{took}; all packages are in run.json"
