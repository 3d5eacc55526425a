"""``ro-crate-metadata.json``: an export described as a Workflow Run Crate.

RO-Crate 1.1 with the profiles Workflow RO-Crate 1.0, Process Run Crate 0.5 and Workflow Run Crate 0.5. Written as plain
JSON-LD: the package ``rocrate`` (0.16) calls itself alpha and brings five dependencies for what is a list of
dictionaries here; ``metadata.yaml`` has those that never change. ``roc-validator`` 0.13 missed nothing required in an
export of suite mini (with a stand-in for the two JSON-LD contexts, which could not be fetched there).

One action describes the whole workflow run, and one each training run. They lack the recommended times and agent:
run.json holds durations, not dates, the dates of files do not survive a copy, and who ran it is not recount's to say.
"""

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from recount.provenance import commit
from recount.results.files import file_digest
from recount.results.run_record import Provenance, RunRecord
from recount.settings.project import Project

WORKFLOW = "Snakefile"
SETTINGS = ("config.yaml", "benchmarks.yaml", "experiments/", "suites/", "papers/")

Entity = dict[str, Any]

_FIXED: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def _refs(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"@id": name} for name in names]


def _identifier(path: str) -> str:
    return quote(path, safe="/+")


def write_metadata(
    folder: Path, project: Project, records: Mapping[str, RunRecord], licence: str | None, notes: Sequence[str]
) -> Path:
    """Describe every file of a finished export, with its records by run id; return the description, which is in it."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    given: Entity = _FIXED["no_licence"]
    if licence is not None:
        given = {"@id": f"https://spdx.org/licenses/{quote(licence)}", "@type": "CreativeWork", "name": licence}
    graph = [
        _FIXED["descriptor"],
        _root(project, files, records, given, notes),
        *_FIXED["profiles"],
        _FIXED["mit"],
        *([given] if given != _FIXED["mit"] else []),
        _FIXED["snakemake"],
        *(_file(folder, path) for path in files if path != WORKFLOW),
        _file(folder, WORKFLOW) | {"version": commit()["commit"] or "unknown"},
        *_FIXED["parameters"],
        _FIXED["suite"] | {"value": project.suite.name},
        *_actions(project, files, records),
    ]
    text = json.dumps({"@context": _FIXED["context"], "@graph": graph}, indent=1, ensure_ascii=False)
    path = folder / "ro-crate-metadata.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _root(
    project: Project, files: Sequence[str], records: Mapping[str, RunRecord], licence: Entity, notes: Sequence[str]
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
        "license": {"@id": licence["@id"]},
        "conformsTo": _refs(profile["@id"] for profile in _FIXED["profiles"]),
        "mainEntity": {"@id": WORKFLOW},
        "hasPart": _refs(map(_identifier, files)),
        "mentions": _refs(["#workflow-run", *(f"#run-{_identifier(run)}" for run in records)]),
    }


def _file(folder: Path, path: str) -> Entity:
    return {
        "@id": _identifier(path),
        "@type": "File",
        "name": path,
        "contentSize": str((folder / path).stat().st_size),
        "encodingFormat": _FIXED["formats"].get(Path(path).suffix, "text/plain"),
        "sha256": file_digest(folder / path),
    } | _FIXED["files"].get(path, {})


def _actions(project: Project, files: Sequence[str], records: Mapping[str, RunRecord]) -> list[Entity]:
    """Return the action of the whole run, and of each training run with its data and the recount it was made with."""
    settings = [path for path in files if path.startswith(SETTINGS)]
    data: dict[str, Entity] = {}
    software: dict[str, Entity] = {}
    actions: list[Entity] = []
    for run, record in records.items():
        inputs = {entity["@id"]: entity for entity in map(_data, record.provenance.data.items())}
        data |= inputs
        tool = _software(record.provenance)
        software[tool["@id"]] = tool
        results = [path for path in files if path.startswith(f"results/runs/{run}/") or path.endswith(f"/{run}.csv")]
        actions.append(
            {
                "@id": f"#run-{_identifier(run)}",
                "@type": "CreateAction",
                "name": f"recount train {run}",
                "description": _told(record),
                "instrument": {"@id": tool["@id"]},
                "object": _refs([*inputs, "config.yaml"]),
                "result": _refs(_identifier(path) for path in results),
                "actionStatus": "http://schema.org/CompletedActionStatus",
            }
        )
    results = [path for path in files if path.startswith(("results/", "report/index", "tables/"))]
    whole: Entity = {
        "@id": "#workflow-run",
        "@type": "CreateAction",
        "name": f"recount, suite {project.suite.name}",
        "description": f"Run of the workflow; {len(records)} training runs are actions of their own",
        "instrument": {"@id": WORKFLOW},
        "object": _refs([*(_identifier(path) for path in settings), "#suite", *data]),
        "result": _refs(_identifier(path) for path in results),
    }
    return [whole, *actions, *data.values(), *software.values()]


def _data(prepared: tuple[str, str]) -> Entity:
    name, digest = prepared
    own = {"@id": f"#data-{quote(name)}-{digest[:12]}", "name": f"prepared data set {name}", "sha256": digest}
    return _FIXED["data"] | own


def _software(made_with: Provenance) -> Entity:
    version = made_with.commit or made_with.recount or "unknown"
    changed, suffix = (" with uncommitted changes", "-dirty") if made_with.dirty else ("", "")
    own = {"@id": f"#recount-{version}{suffix}", "@type": "SoftwareApplication", "name": "recount"}
    return own | {"version": f"{version}{changed}"}


def _told(record: RunRecord) -> str:
    made_with, seconds = record.provenance, record.cost.wall_seconds
    cards = ", ".join(card["name"] for card in made_with.hardware.get("gpus") or ()) or "no GPU"
    processor = made_with.hardware.get("cpu", "unknown processor")
    tools = f"Python {made_with.python or 'unknown'}, torch {made_with.packages.get('torch', 'unknown')}"
    took = "" if seconds is None else f", {seconds:.0f} s"
    place = f"{made_with.device or 'an unknown device'} ({processor}; {cards})"
    return f"On {place}, {tools}{took}; all packages are in run.json"
