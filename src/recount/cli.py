"""The ``recount`` command: parse, call, print. Each step of the workflow is a command of the same name."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from recount.settings.project import Project, Run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Count again: train, evaluate and judge the systems of visual-counting papers.",
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="KEY=VALUE", help="replace a key of config.yaml, for instance suite=open"),
]
RunId = Annotated[str, typer.Argument(metavar="SYSTEM/VARIANT/seedK")]


class TinyModel(StrEnum):
    """The base models that recount trains itself."""

    mini_clip = "mini_clip"
    mini_towers = "mini_towers"
    mini_sd = "mini_sd"


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Print the errors that are meant for people without a traceback, and exit with 1."""
    from recount.errors import UserError

    try:
        yield
    except UserError as error:
        typer.secho(f"recount: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None


def _given(overrides: list[str] | None) -> dict[str, Any]:
    """Return what Snakemake and the command line change in config.yaml."""
    import json

    import yaml

    from recount.settings.base import ConfigError

    given: dict[str, Any] = json.loads(os.environ.get("RECOUNT_CONFIG", "{}"))
    for item in overrides or []:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--config {item}: expected KEY=VALUE")
        given[key] = yaml.safe_load(value)
    return given


def _project(overrides: list[str] | None) -> Project:
    from recount.settings.project import load

    project = load(Path.cwd(), _given(overrides))
    if "RECOUNT_CONFIG" not in os.environ:  # else Snakemake has checked it
        from recount.planning import check_data

        check_data(project)
    return project


def _run(project: Project, run_id: str) -> Run:
    from recount.settings.base import ConfigError

    parts = run_id.split("/")
    if len(parts) != 3 or not parts[2].removeprefix("seed").isdigit():
        raise ConfigError(f"{run_id}: expected SYSTEM/VARIANT/seedK, for instance gigacount/full/seed0")
    return project.run(parts[0], parts[1], int(parts[2].removeprefix("seed")))


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="also say what is done in detail")] = False,
) -> None:
    """Set up logging."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    for noisy in ("urllib3", "filelock", "matplotlib", "PIL", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.command()
def plan(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    budget: Annotated[float | None, typer.Option("--budget-gpu-hours", help="name what fits into so many")] = None,
    config: Overrides = None,
) -> None:
    """Say what would run, be fetched and cost, before anything starts (papers, tables, claims: see config.yaml)."""
    with _plain_errors():
        from rich.console import Console

        from recount import planning
        from recount.settings.project import load

        given = _given(config) | ({} if budget is None else {"budget_gpu_hours": budget})
        found = planning.plan(load(Path.cwd(), given), given)
        if as_json:
            typer.echo(found.as_json())
        else:
            planning.show(found, Console())


@app.command()
def doctor(config: Overrides = None) -> None:
    """Look whether this machine has what the chosen suite needs; each line says what to do. 1 if something stops it."""
    with _plain_errors():
        from rich.console import Console

        from recount import doctor as examination

        findings = examination.examine(_project(config))
        examination.show(findings, Console())
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def fetch(dataset: str, config: Overrides = None) -> None:
    """Fetch a data set's files, check them, and write its manifest."""
    with _plain_errors():
        from recount import datasets
        from recount.fetching.fetch import fetch as fetch_dataset

        project = _project(config)
        manifest = fetch_dataset(datasets.load(dataset), project.root / project.raw)
        size = sum(file["bytes"] for file in manifest["files"]) / 1e6
        typer.echo(f"{project.root / project.raw / dataset}: {len(manifest['files'])} files, {size:.1f} MB, checked")


@app.command()
def fetch_weights(name: str, config: Overrides = None) -> None:
    """Fetch weights that systems start from, or a released checkpoint; check them, and write their manifest."""
    with _plain_errors():
        from recount.errors import UserError
        from recount.fetching.fetch import fetch as fetch_files
        from recount.fetching.weights import WEIGHTS

        project = _project(config)
        if name not in WEIGHTS:
            raise UserError(f"{name}: no such weights; there are {', '.join(WEIGHTS)}")
        manifest = fetch_files(WEIGHTS[name], project.root / project.weights)
        size = sum(file["bytes"] for file in manifest["files"]) / 1e6
        typer.echo(f"{project.root / project.weights / name}: {size:.1f} MB, checked")


@app.command()
def prepare(dataset: str, preparation: Annotated[str, typer.Argument()] = "original", config: Overrides = None) -> None:
    """Check a data set's pictures and annotations and bring them to the size that systems need."""
    with _plain_errors():
        from recount import datasets
        from recount.data.prepare import prepare as prepare_dataset

        project = _project(config)
        typer.echo(
            prepare_dataset(
                datasets.load(dataset), preparation, project.root / project.raw, project.root / project.data
            )
        )


@app.command()
def train(run: RunId, config: Overrides = None) -> None:
    """Train one run (or import its released checkpoint); resumes where a killed job stopped."""
    with _plain_errors():
        project = _project(config)
        chosen = _run(project, run)
        from recount.training.run import train as train_run

        typer.echo(train_run(project, chosen))


@app.command()
def predict(
    run: RunId, benchmarks: Annotated[list[str] | None, typer.Argument()] = None, config: Overrides = None
) -> None:
    """Predict benchmarks, for instance ucf_qnrf/test (none given: all), with every selected model of a trained run."""
    with _plain_errors():
        project = _project(config)
        chosen = _run(project, run)
        from recount.prediction.predict import predict_benchmark

        for benchmark in benchmarks or chosen.benchmark_of_split.values():
            typer.echo(predict_benchmark(project, chosen, benchmark))


@app.command()
def test_prompts(run: RunId, config: Overrides = None) -> None:
    """Test whether a text-guided run reads its prompt: wrong prompts, mosaics, pairs of classes, where its maps lie."""
    with _plain_errors():
        project = _project(config)
        chosen = _run(project, run)
        from recount.prediction.run_prompt_tests import run_prompt_tests

        typer.echo(run_prompt_tests(project, chosen))


@app.command()
def score(
    predictions: Annotated[
        list[Path] | None, typer.Option(help="anyone's predictions, CSV or JSON lines; one or two files")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="the true counts or points to hold them against")] = None,
    only_predicted: Annotated[bool, typer.Option(help="leave out images without a prediction")] = False,
    config: Overrides = None,
) -> None:
    """Score all predictions of the suite that exist; or, with --predictions and --truth, anyone's files."""
    with _plain_errors():
        if predictions or truth:
            from recount.errors import UserError
            from recount.exchange.user_predictions import score_files

            if not predictions or not truth:
                raise UserError("--predictions and --truth belong together: give both")
            typer.echo(score_files(predictions, truth, only_predicted=only_predicted).text())
        else:
            from recount.scoring.score import score as score_suite

            typer.echo(score_suite(_project(config)))


@app.command()
def judge(config: Overrides = None) -> None:
    """Judge every claim of the papers from the predictions and published numbers that exist."""
    with _plain_errors():
        from recount.judging.judge import judge as judge_suite

        typer.echo(judge_suite(_project(config)))


@app.command()
def evidence(paper: str, config: Overrides = None) -> None:
    """Compute the evidence of a paper that recount makes itself, from fetched annotations."""
    with _plain_errors():
        from recount.papers import make_evidence

        for path in make_evidence(_project(config), paper):
            typer.echo(path)


@app.command()
def report(config: Overrides = None) -> None:
    """Write the report of the suite from what exists."""
    with _plain_errors():
        from recount.report.write import write_report

        typer.echo(write_report(_project(config)))


@app.command()
def count(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="pictures to count on")],
    run: Annotated[str, typer.Option(metavar="SYSTEM/VARIANT/seedK", help="a trained run of the suite")],
    prompt: Annotated[str, typer.Option(help='what to count, for text-guided systems: "red stars"')] = "",
    output: Annotated[Path | None, typer.Option(help="folder of overlays and CSV")] = None,
    selection: Annotated[str | None, typer.Option(help="last, best_on_held_out or best_on_test weights")] = None,
    config: Overrides = None,
) -> None:
    """Count on your own pictures with a trained run: numbers, overlays, and a CSV of several pictures."""
    with _plain_errors():
        from recount.exchange.counting import CountError
        from recount.exchange.counting import count as count_pictures

        counts = count_pictures(_project(config), run, images, prompt=prompt, output=output, selection=selection)
        for entry in counts.counted:
            if entry.overlay is not None:
                typer.echo(f"{entry.image}: {entry.count:.1f}  ({counts.selection} weights; {entry.overlay})")
        if counts.csv is not None:
            typer.echo(counts.csv)
        if counts.problems:
            raise CountError("\n".join(counts.problems))


@app.command("export")
def export_results(
    target: Annotated[Path, typer.Argument(metavar="FOLDER|FILE.zip")],
    licence: Annotated[
        str | None, typer.Option(help="SPDX name of the licence you give the results, for instance CC-BY-4.0")
    ] = None,
    config: Overrides = None,
) -> None:
    """Write the suite's results as an RO-Crate, tables as CSV and Parquet, to be shared."""
    with _plain_errors():
        from recount.exchange.crate import export

        exported = export(_project(config), target, licence=licence)
        typer.echo(f"{exported.path}: {exported.files} files, {exported.bytes / 1e6:.1f} MB")
        for note in exported.notes:
            typer.echo(note)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="an export (folder or zip), or results/<suite>")],
    b: Annotated[Path, typer.Argument(metavar="B", help="another one")],
    output: Annotated[Path | None, typer.Option(help="write it here: .csv (cells), .json, .md or .html")] = None,
) -> None:
    """Put two reproductions side by side: each cell's difference, and what differed in how they were made."""
    with _plain_errors():
        from rich.console import Console

        from recount.exchange.compare import compare as compared
        from recount.exchange.compare_view import check_suffix, print_comparison, write_comparison
        from recount.exchange.reproduction import open_reproduction

        if output is not None:
            check_suffix(output)
        comparison = compared(open_reproduction(a), open_reproduction(b))
        if output is None:
            print_comparison(comparison, Console())
        else:
            write_comparison(comparison, output)
            typer.echo(output)


@app.command()
def pretrain(model: TinyModel, config: Overrides = None) -> None:
    """Make a tiny base model of recount anew, from its own drawings: weights, and a card of how good they are."""
    with _plain_errors():
        from recount.devices import keep_freed_memory

        keep_freed_memory()
        if model is TinyModel.mini_clip:
            from recount.pretraining import mini_clip

            mini_clip.pretrain()
            typer.echo(mini_clip.WEIGHTS / "mini_clip.md")
        elif model is TinyModel.mini_towers:
            from recount.pretraining import mini_towers

            mini_towers.pretrain()
            typer.echo(mini_towers.WEIGHTS / "mini_towers.md")
        else:
            import shutil

            from recount.pretraining import mini_sd

            project = _project(config)
            unfinished = project.root / project.config.resources / "pretraining" / model
            mini_sd.pretrain(unfinished)
            shutil.rmtree(unfinished)
            typer.echo(mini_sd.WEIGHTS / "mini_sd.md")


@app.command()
def schemas(folder: Annotated[Path, typer.Argument()] = Path("workflow/schemas")) -> None:
    """Write the JSON schemas of the YAML files and of each system's settings, for editors."""
    with _plain_errors():
        from recount.schemas import write_schemas

        for path in write_schemas(folder):
            typer.echo(path)
