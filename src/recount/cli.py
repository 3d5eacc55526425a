"""The ``recount`` command: parse, call, print. Each step of the workflow is a command of the same name."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from recount.errors import UserError, in_words, printable, working_folder

if TYPE_CHECKING:
    from recount.data.dataset import Source
    from recount.exchange.submitting import Given
    from recount.settings.project import Project, Run


class _PlainErrors(TyperGroup):
    """Prints the errors that are meant for people without a traceback, and exits with 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take several ``KEY=VALUE`` after one ``--config``, as Snakemake does, which `run` hands its own."""
        if next((argument for argument in args if not argument.startswith("-")), "") == "run":
            return super().parse_args(ctx, args)
        spread: list[str] = []
        after = False
        for argument in args:
            another = after and spread[-1] != "--config" and re.match(r"[a-z_]+=", argument)
            spread += ["--config", argument] if another else [argument]
            after = argument == "--config" or bool(another) or spread[-2:-1] == ["--config"]
        return super().parse_args(ctx, spread)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (UserError, OSError, RuntimeError) as error:
            message = in_words(error)
            if message is None:
                raise
            logging.getLogger(__name__).debug("where it happened", exc_info=True)
            typer.secho(f"recount: {printable(message)}", fg=typer.colors.RED, err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_PlainErrors,
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
JsonWanted = Annotated[bool, typer.Option("--json", help="print JSON")]
Output = Annotated[Path | None, typer.Option(help="write it into a file: .txt, .json, .csv, .md or .html")]
TinyModel = StrEnum("TinyModel", ["mini_clip", "mini_towers", "mini_sd"])


def _given(overrides: list[str] | None) -> dict[str, Any]:
    """Return what Snakemake and the command line change in config.yaml."""
    from recount.settings.base import parse_yaml

    try:
        given: dict[str, Any] = json.loads(os.environ.get("RECOUNT_CONFIG", "{}"))
    except ValueError as error:
        raise UserError(f"RECOUNT_CONFIG: not valid JSON: {error}; unset it, only the workflow sets it") from None
    for item in overrides or []:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--config {item}: expected KEY=VALUE")
        given[key] = parse_yaml(value, f"--config {item}")
    return given


def _project(overrides: list[str] | None, **more: Any) -> Project:
    from recount.results.published import check_published
    from recount.settings.project import load

    project = load(working_folder(), _given(overrides) | more)
    check_published(project)
    if project.config.budget_gpu_hours is not None:
        from recount.planning import within_budget

        project = within_budget(project)
    return project


def _run(overrides: list[str] | None, run_id: str) -> tuple[Project, Run]:
    project, parts = _project(overrides), run_id.split("/")
    if len(parts) != 3 or not parts[2].removeprefix("seed").isdigit():
        raise UserError(f"{run_id}: expected SYSTEM/VARIANT/seedK, for instance gigacount/full/seed0")
    return project, project.run(parts[0], parts[1], int(parts[2].removeprefix("seed")))


def _fetch(step: str, source: Source, project: Project, below: Path) -> None:
    from recount.fetching.fetch import fetch as fetch_files
    from recount.jobs import attempt

    folder = project.root / below
    with attempt(project, step, source.name):
        files = fetch_files(source, folder)["files"]
    typer.echo(
        f"{folder / source.name}: {len(files)} files, {sum(file['bytes'] for file in files) / 1e6:.1f} MB, checked"
    )


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="also say what is done in detail")] = False,
) -> None:
    """Set up logging, and streams that can say everything, whatever the locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    for noisy in ("urllib3", "filelock", "matplotlib", "PIL", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that differ; each is named")] = False,
) -> None:
    """Make a project in a folder: settings, papers, suites and the workflow. What is there and differs is kept."""
    from recount.init import init as make_project

    for line in make_project(folder, overwrite=overwrite):
        typer.echo(line)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Run the workflow: `recount run ARGS` is `snakemake --cores all ARGS`, for instance -n, --config suite=open."""
    from recount.init import run as run_workflow

    run_workflow(context.args)


@app.command()
def plan(
    as_json: JsonWanted = False,
    output: Output = None,
    budget: Annotated[float | None, typer.Option("--budget-gpu-hours", help="name what fits into so many")] = None,
    next_only: Annotated[bool, typer.Option("--next", help="only what to train next, given what is there")] = False,
    card: Annotated[
        str | None, typer.Option(help="whose hours: T4, 4090, A100, H100 or H200; else of the card that is here")
    ] = None,
    share: Annotated[
        str, typer.Option(metavar="K/N", help="the K-th of N people's part, for instance 2/5, and how to run just that")
    ] = "",
    config: Overrides = None,
) -> None:
    """Say what would run, be fetched and cost, before anything starts (papers, tables, claims: see config.yaml)."""
    from recount import planning
    from recount.documents import check_suffix, tell

    check_suffix(output)
    more = {} if budget is None else {"budget_gpu_hours": budget}
    if share:
        from recount.exchange import shares

        mine, people = shares.parse_share(share)
        if budget is not None or next_only:
            raise UserError("--share: give it without --budget-gpu-hours and --next, which depend on what is here")
        project = _project(config)
        planning.check_data(project)
        dealt = shares.deal(project, people, card)
        tell(shares.document(project, dealt, mine), output, json_wanted=as_json)
        return
    project = _project(config, **more)
    found = planning.plan(project, project.overrides, card=card, jobs=not next_only)
    shown = planning.document(found, planning.show_next if next_only else planning.show)
    tell(shown, output, json_wanted=as_json)


@app.command()
def doctor(config: Overrides = None) -> None:
    """Look whether this machine has what the chosen suite needs; each line says what to do. 1 if something stops it."""
    from rich.console import Console

    from recount import doctor as examination
    from recount.planning import check_data

    project = _project(config)
    check_data(project)
    findings = examination.examine(project)
    examination.show(findings, Console())
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def rehearse(
    systems: Annotated[
        list[str] | None, typer.Option(metavar="SYSTEM[/VARIANT]", help="only these; may be given several times")
    ] = None,
    random_weights: Annotated[bool, typer.Option(help="random base weights, even where real ones are there")] = False,
    steps: Annotated[int, typer.Option(min=2, help="training steps of each stage")] = 4,
    minutes: Annotated[
        float, typer.Option(min=0, max=1440, help="of each training at most; then what was measured counts")
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    config: Overrides = None,
) -> None:
    """Try each system on this machine: real steps, a save, a resume, a prediction; what is absent is drawn or random.

    Seconds, memory and disk are noted below the resources, where plan reads them. 1 if a system failed.
    """
    from rich.console import Console

    from recount.planning import check_data
    from recount.rehearsal.rehearse import chosen
    from recount.rehearsal.rehearse import rehearse as rehearsed
    from recount.rehearsal.view import show

    project = _project(config)
    check_data(project)
    found, log, runs = [], logging.getLogger(__name__), chosen(project, systems or [])
    names = ", ".join(f"{run.system}/{run.variant}" for run in runs)
    log.info(
        "%d steps of each stage of %s: %g minutes each at most, %g in all", steps, names, minutes, minutes * len(runs)
    )
    for row in rehearsed(project, runs, random_weights=random_weights, steps=steps, minutes=minutes):
        log.info("%s: %s", row.run, row.error or "rehearsed")
        found.append(row)
    if as_json:
        typer.echo(json.dumps([row.model_dump(mode="json") for row in found], indent=1))
    else:
        show(found, Console())
    if any(row.error for row in found):
        raise typer.Exit(1)


@app.command()
def fetch(dataset: str, config: Overrides = None) -> None:
    """Fetch a data set's files, check them, and write its manifest."""
    from recount import datasets
    from recount.planning import check_pairings

    project = _project(config)
    check_pairings(project, dataset)
    _fetch("fetch", datasets.load(dataset), project, project.raw)


@app.command()
def fetch_weights(name: str, config: Overrides = None) -> None:
    """Fetch weights that systems start from, or a released checkpoint; check them, and write their manifest."""
    from recount.fetching.weights import WEIGHTS
    from recount.settings.base import unknown

    project = _project(config)
    if name not in WEIGHTS:
        raise UserError(f"{name}: {unknown('file of weights', name, WEIGHTS)}")
    _fetch("fetch-weights", WEIGHTS[name], project, project.weights)
    for line in WEIGHTS[name].told():
        typer.echo(f"  {line}")


@app.command()
def prepare(dataset: str, preparation: Annotated[str, typer.Argument()] = "original", config: Overrides = None) -> None:
    """Check a data set's pictures and annotations and bring them to the size that systems need."""
    from recount import datasets
    from recount.data.checks import told
    from recount.data.prepare import prepare as prepare_dataset
    from recount.jobs import attempt
    from recount.results.prepared import SUMMARY, Summary

    project = _project(config)
    raw, data, accept = project.root / project.raw, project.root / project.data, project.config.accept.get(dataset, "")
    source = datasets.load(dataset)
    source.check_preparation(preparation)
    with attempt(project, "prepare", f"{dataset}/{preparation}"):
        index = prepare_dataset(source, preparation, raw, data, accept)
    for line in (*told(Summary.read(index.with_name(SUMMARY))), index):
        typer.echo(line)


@app.command()
def train(run: RunId, config: Overrides = None) -> None:
    """Train one run (or import its released checkpoint); resumes where a killed job stopped."""
    project, chosen = _run(config, run)
    from recount.training.run import train as train_run

    typer.echo(train_run(project, chosen))


def _each(benchmarks: Iterable[str], work: Callable[[str], Path]) -> None:
    """Do the work on each benchmark, and print what was written; one that fails costs the others nothing."""
    wrong = []
    for benchmark in benchmarks:
        try:
            typer.echo(work(benchmark))
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError("\n".join(wrong))


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="SYSTEM/VARIANT/seedK")] = "",
    benchmarks: Annotated[list[str] | None, typer.Argument()] = None,
    function: Annotated[
        str, typer.Option("--with", metavar="MODULE:FUNCTION", help="ask your own count(image, prompt) instead")
    ] = "",
    benchmark: Annotated[str, typer.Option(help="with --with: on which benchmark")] = "",
    name: Annotated[str, typer.Option(help="with --with: what the tables are to call it")] = "",
    paper: Annotated[str, typer.Option(help="with --with: an address")] = "",
    prompts: Annotated[bool, typer.Option("--prompts", help="with --with: the prompt tests, too")] = False,
    output: Output = None,
    config: Overrides = None,
) -> None:
    """Predict benchmarks (none given: all) with every selected model of a trained run; or with a function of yours."""
    if function or not run:
        if run or not (function and benchmark and name):
            raise UserError("predict: give a run (SYSTEM/VARIANT/seedK), or --with, --benchmark and --name")
        from recount.exchange.own_counter import counted

        project = _project(config)
        _submitted(project, benchmark, name, counted(project, benchmark, function, prompts=prompts), paper, output)
        return
    project, chosen = _run(config, run)
    from recount.prediction.predict import check_benchmark, predict_benchmark

    wanted = benchmarks or [*chosen.benchmark_of_split.values()]
    for each in wanted:
        check_benchmark(chosen, each)
    _each(wanted, partial(predict_benchmark, project, chosen))


def _submitted(project: Project, benchmark: str, name: str, given: Given, paper: str, output: Path | None) -> None:
    """Write a counter's predictions and show how it does beside the others."""
    from recount.documents import check_suffix, tell
    from recount.exchange.submitting import comparison, submit

    check_suffix(output)
    path, replaced = submit(project, benchmark, name, given, paper)
    tell(comparison(project, path), output)
    done = "replaced what was submitted before; " if replaced else ""
    typer.echo(f"{path}: {done}`recount score`, `judge` and `report` put it into the tables (--remove: out again)")


@app.command("submit")
def submit_counts(
    predictions: Annotated[Path | None, typer.Argument(help="counts by id or picture, CSV or JSON")] = None,
    name: Annotated[str, typer.Option(help="what the tables are to call the counter")] = "",
    benchmark: Annotated[str, typer.Option(help="for instance fsc147s/v1")] = "",
    paper: Annotated[str, typer.Option(help="an address")] = "",
    prompts: Annotated[Path | None, typer.Option(help="answers to `recount questions --prompts`")] = None,
    column: Annotated[str | None, typer.Option(help="which column (or JSON key) of the predictions counts")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="take the counter out again (of one --benchmark)")] = False,
    output: Output = None,
    config: Overrides = None,
) -> None:
    """Put counts that somebody else made into the tables, and compare them with all others on the same images."""
    from recount.exchange import submitting

    project = _project(config)
    if remove and name and predictions is None:
        for path in submitting.remove(project, name, benchmark or None):
            typer.echo(f"{path}: removed; `recount score`, `judge` and `report` take it out of the tables")
        return
    if remove or predictions is None or not (name and benchmark):
        raise UserError("submit: give a file, --benchmark and --name; or --remove and --name")
    given = submitting.read_given(project, benchmark, predictions, prompts, column)
    _submitted(project, benchmark, name, given, paper, output)


@app.command()
def questions(
    benchmark: str,
    prompts: Annotated[bool, typer.Option("--prompts", help="those of the prompt tests instead")] = False,
    config: Overrides = None,
) -> None:
    """Print what a counter of your own is to be asked on a benchmark: id, picture, prompt, and room for the count."""
    from recount.exchange.submitting import questions as asked

    typer.echo(asked(_project(config), benchmark, prompts=prompts), nl=False)


@app.command()
def test_prompts(
    run: RunId, benchmarks: Annotated[list[str] | None, typer.Argument()] = None, config: Overrides = None
) -> None:
    """Test whether a text-guided run reads its prompt: wrong prompts, mosaics, pairs of classes, where its maps lie."""
    project, chosen = _run(config, run)
    from recount.prediction.run_prompt_tests import run_prompt_tests

    _each(benchmarks or chosen.prompt_tests, partial(run_prompt_tests, project, chosen))


@app.command()
def score(
    predictions: Annotated[
        list[Path] | None, typer.Option(help="anyone's predictions, CSV or JSON lines; one or two files")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="the true counts or points to hold them against")] = None,
    only_predicted: Annotated[bool, typer.Option(help="leave out images without a prediction")] = False,
    column: Annotated[str | None, typer.Option(help="which column (or JSON key) of the predictions counts")] = None,
    truth_column: Annotated[str | None, typer.Option(help="which one of the truth")] = None,
    selection: Annotated[str | None, typer.Option(help="which selection of recount's own predictions")] = None,
    sigma: Annotated[
        list[float] | None, typer.Option(help="pixels within which a point is found; 4 and 8 if not given")
    ] = None,
    as_json: JsonWanted = False,
    output: Output = None,
    config: Overrides = None,
) -> None:
    """Score all predictions of the suite that exist; or, with --predictions and --truth, anyone's files."""
    if predictions and truth:
        from recount.documents import check_suffix, tell
        from recount.exchange.user_predictions import score_files

        check_suffix(output)
        scores = score_files(
            predictions, truth, only_predicted=only_predicted, column=column, truth_column=truth_column,
            selection=selection, sigmas=sigma or (),
        )  # fmt: skip
        tell(scores.document(), output, json_wanted=as_json)
    elif predictions or truth:
        raise UserError("--predictions and --truth belong together: give both")
    elif only_predicted or column or truth_column or selection or sigma or as_json or output:
        raise UserError("this option is for anyone's files: give --predictions and --truth, too")
    else:
        from recount.jobs import attempt
        from recount.scoring.score import score as score_suite

        project = _project(config)
        with attempt(project, "score", project.suite.name):
            typer.echo(score_suite(project))


@app.command()
def judge(
    explain: Annotated[
        str, typer.Option(metavar="CLAIM", help="print the computation of one claim, and write nothing")
    ] = "",
    config: Overrides = None,
) -> None:
    """Judge every claim of the papers from the predictions and published numbers that exist."""
    if explain:
        from recount.judging.explain import explain as explain_claim

        typer.echo(explain_claim(_project(config), explain), nl=False)
        return
    from recount.jobs import attempt
    from recount.judging.judge import judge as judge_suite

    project = _project(config)
    with attempt(project, "judge", project.suite.name):
        typer.echo(judge_suite(project))


@app.command()
def status(
    watch: Annotated[
        bool, typer.Option("--watch", help="again every few seconds, while anything runs or waits")
    ] = False,
    serve: Annotated[bool, typer.Option("--serve", help="as a page that keeps itself up to date, here alone")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of that page; 0: any that is free")] = 8017,
    as_json: JsonWanted = False,
    output: Output = None,
    config: Overrides = None,
) -> None:
    """Say what each run of each paper is doing: waiting, running (how far), done, failed (why), skipped (why)."""
    from recount.documents import check_suffix, tell, terminal
    from recount.status import WATCH_SECONDS, document, is_over

    check_suffix(output)
    project = _project(config)
    if serve:
        if watch or as_json or output:
            raise UserError("--serve: give it without --watch, --json and --output")
        from recount.live.server import serve as serve_page

        serve_page(project.root, partial(_project, config), port)
        return
    tell(found := document(project), output, json_wanted=as_json)
    while watch and not is_over(found):
        time.sleep(WATCH_SECONDS)
        terminal().clear()  # nothing in a pipe
        tell(found := document(project), output, json_wanted=as_json)


@app.command()
def verify(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    full: Annotated[bool, typer.Option("--full", help="read all bytes again, of unchanged files, too")] = False,
    mend: Annotated[bool, typer.Option("--mend", help="move what is unfit to results/<suite>/unfit")] = False,
    config: Overrides = None,
) -> None:
    """Check all files against what they were made from: stale, damaged, missing, untracked. 1 if something is."""
    from rich.console import Console

    from recount import verify as verification

    project = _project(config)
    findings = verification.Verification(project, full=full).findings()
    unfit = sum(finding.unfit for finding in findings)
    if as_json:
        typer.echo(verification.as_json(findings))
    else:
        verification.show(findings, Console())
        failed = sum(finding.kind == "failed" for finding in findings)
        said = (f"{unfit} unfit" if unfit else "everything fits") + (f", {failed} failed" if failed else "")
        typer.echo(f"{project.results}: {said}")
    if mend:
        moved = verification.mend(project, findings)
        typer.echo(f"{len(moved)} files moved to {project.results}/unfit; run the workflow again", err=as_json)
    elif unfit:
        raise typer.Exit(1)


@app.command()
def evidence(paper: str, config: Overrides = None) -> None:
    """Compute the evidence of a paper that recount makes itself, from fetched annotations."""
    from recount.papers import make_evidence

    for path in make_evidence(_project(config), paper):
        typer.echo(path)


@app.command()
def reference(
    write: Annotated[bool, typer.Option("--write", help="make the results of this suite the reference")] = False,
    as_json: JsonWanted = False,
    output: Output = None,
    config: Overrides = None,
) -> None:
    """Say in how many cells the suite's results agree with the reference run that recount comes with."""
    from recount import reference as referred
    from recount.documents import check_suffix, tell
    from recount.exchange.reference_view import document
    from recount.results.reference import folder_of

    check_suffix(output)
    project = _project(config)
    if write:
        typer.echo(referred.write(project))
        return
    found = referred.agreement(project)
    if found is None:
        raise UserError(f"{folder_of(project)}: there is no reference run of suite {project.suite.name}")
    tell(document(found), output, json_wanted=as_json)


@app.command()
def report(
    so_far: Annotated[bool, typer.Option("--so-far", help="as reports/<suite>-so-far, with scores of its own")] = False,
    config: Overrides = None,
) -> None:
    """Write the report of the suite from what exists."""
    if so_far:
        from recount.so_far import write_so_far

        typer.echo(write_so_far(_project(config)))
        return
    from recount.jobs import attempt
    from recount.papers import part
    from recount.report.write import write_report

    project = _project(config)
    with attempt(project, "report", project.suite.name):
        typer.echo(write_report(project, part))


@app.command()
def count(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="pictures to count on")],
    run: Annotated[str, typer.Option(metavar="SYSTEM/VARIANT/seedK", help="a trained run of the suite")],
    prompt: Annotated[str, typer.Option(help='what to count, for text-guided systems: "red stars"')] = "",
    output: Annotated[Path | None, typer.Option(help="folder of overlays and CSV")] = None,
    selection: Annotated[str | None, typer.Option(help="last, best_on_held_out or best_on_test weights")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="also what the run was not trained for")] = False,
    config: Overrides = None,
) -> None:
    """Count on your own pictures with a trained run: numbers, overlays, and a CSV of several pictures."""
    from recount.exchange.counting import count as count_pictures

    counts = count_pictures(
        _project(config), run, images, prompt=prompt, output=output, selection=selection, anyway=anyway
    )
    for entry in counts.counted:
        if entry.overlay is not None:
            typer.echo(f"{entry.image}: {entry.count:.1f}  ({counts.selection} weights; {entry.overlay})")
    if counts.csv is not None:
        typer.echo(counts.csv)
    typer.echo(f"{run} was {counts.trained_on}", err=True)
    if counts.problems:
        raise UserError("\n".join(counts.problems))


@app.command("export")
def export_results(
    target: Annotated[Path, typer.Argument(metavar="FOLDER|FILE.zip")],
    licence: Annotated[
        str | None, typer.Option(help="SPDX name of the licence you give the results, for instance CC-BY-4.0")
    ] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="who made the runs, for `recount merge`")] = "",
    config: Overrides = None,
) -> None:
    """Write the suite's results as an RO-Crate, tables as CSV and Parquet, to be shared."""
    from recount.exchange.crate import export

    exported = export(_project(config), target, licence=licence, by=by)
    typer.echo(f"{exported.path}: {exported.files} files, {exported.bytes / 1e6:.1f} MB")
    for note in exported.notes:
        typer.echo(note)


@app.command()
def merge(
    exports: Annotated[list[Path], typer.Argument(metavar="A B…", help="exports (folders or zip files)")],
    as_json: JsonWanted = False,
    output: Output = None,
    config: Overrides = None,
) -> None:
    """Join exports of several people into one results folder, results/<suite> of this project, which must be new."""
    from recount.documents import check_suffix, tell
    from recount.exchange.merge import document
    from recount.exchange.merge import merge as merged

    check_suffix(output)
    tell(document(merged(_project(config), exports)), output, json_wanted=as_json)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="an export (folder or zip), or results/<suite>")],
    b: Annotated[Path, typer.Argument(metavar="B", help="another one")],
    everything: Annotated[bool, typer.Option("--all", help="also what is identical or agrees")] = False,
    as_json: JsonWanted = False,
    output: Output = None,
) -> None:
    """Put two reproductions side by side: each cell's difference, and what differed in how they were made."""
    from recount.documents import check_suffix, tell
    from recount.exchange.compare import compare as compared
    from recount.exchange.compare_view import document
    from recount.exchange.reproduction import open_reproduction

    check_suffix(output)
    comparison = compared(open_reproduction(a), open_reproduction(b))
    tell(document(comparison, everything=everything), output, json_wanted=as_json)


@app.command()
def pretrain(model: TinyModel, config: Overrides = None) -> None:
    """Make a tiny base model of recount anew, from its own drawings: weights, and a card of how good they are."""
    from recount.devices import keep_freed_memory
    from recount.pretraining import mini_clip, mini_sd, mini_towers

    keep_freed_memory()

    if model is TinyModel.mini_sd:
        project = _project(config)
        unfinished = project.root / project.config.resources / "pretraining" / model
        mini_sd.pretrain(unfinished)
        shutil.rmtree(unfinished)
    else:
        {TinyModel.mini_clip: mini_clip, TinyModel.mini_towers: mini_towers}[model].pretrain()
    typer.echo(mini_sd.WEIGHTS / f"{model}.md")


@app.command()
def schemas(folder: Annotated[Path, typer.Argument()] = Path("workflow/schemas")) -> None:
    """Write the JSON schemas of the YAML files and of each system's settings, for editors."""
    from recount.schemas import write_schemas

    for path in write_schemas(folder):
        typer.echo(path)
