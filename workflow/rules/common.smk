"""What all rules share: the checked configuration, the runs that follow from it, resources, the recount command."""

import atexit
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from recount.settings import project as settings
from recount.settings.base import ConfigError
from recount import datasets, feeding, provenance
from recount.errors import UserError, in_words, working_folder
from recount.planning import COUNT_JOBS, check_data, priorities, within_budget
from recount.results.published import check_published
from recount.results.submissions import submissions
from snakemake.exceptions import WorkflowError


def checked_project():
    """Return the configuration and all that follows from it, or stop with one line per error."""
    try:
        checked = settings.load(working_folder(), config)
        check_folders(checked.config)
        check_published(checked)
        check_data(checked)
        for system in {run.system for run in checked.runs}:
            provenance.step_digest("train", system)
        return within_budget(checked)
    except (UserError, ModuleNotFoundError, OSError, RecursionError) as error:
        raise WorkflowError(in_words(error) or str(error)) from None


def check_folders(chosen):
    """Refuse folders whose names others than this workflow misread: Snakemake, and on clusters its plugins' shells."""
    places = [workflow.basedir, os.getcwd(), chosen.resources, chosen.results, chosen.reports, *chosen.papers]
    places += chosen.checkpoints.values()
    for characters, why in (
        ("{}", "a wildcard for Snakemake"),
        ('"$`\\', "a command for the plugin that submits jobs"),
    ):
        wrong = [place for place in places if set(characters) & set(str(place))]
        if wrong and (characters == "{}" or workflow.resource_settings.nodes is not None):
            raise ConfigError(f"{wrong[0]}: its name has one of {characters}, {why}; rename the folder")


def count_jobs():
    """Write how many jobs of each rule are to be done, for ``recount plan``; nothing where the workflow was refused."""
    if workflow.dag is None:
        return
    jobs = Counter(job.rule.name for job in workflow.dag.jobs if workflow.dag.needrun(job))
    Path(os.environ[COUNT_JOBS]).write_text(json.dumps(jobs))


def note_stop(signum, frame):
    """Note that the user stopped the workflow, and go on as Python does."""
    STOPPED.append(signum)
    signal.default_int_handler(signum, frame)


STARTED = time.time()
STOPPED = []
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, note_stop)
if COUNT_JOBS in os.environ:
    atexit.register(count_jobs)
PROJECT = checked_project()
config.update(PROJECT.config.model_dump(mode="json"))  # --config gives the numbers of a list as text
CLUSTER = workflow.resource_settings.nodes is not None
CARDS = 0 if PROJECT.config.device == "cpu" else 1 if CLUSTER else len(provenance.visible_gpus())
FEEDING = feeding.resolve(
    PROJECT.config,
    CARDS,
    (
        feeding.CLUSTER_CORES * PROJECT.config.jobs_per_gpu
        if CLUSTER
        else workflow.resource_settings.cores or feeding.cores()
    ),
    feeding.memory_mb(),
)
if not CLUSTER:  # a cluster's job sees for itself what it was given
    config.update(FEEDING.settings())
RUNS = {run.id: run for run in (*PROJECT.trainings, *PROJECT.evaluations)}
SEED = "{system}/{variant}/seed{seed}"
RUN_FOLDER = PROJECT.results / "runs" / SEED

# Jobs read config.yaml themselves; RECOUNT_CONFIG tells them what --config and --configfile have changed. A job runs the
# recount that this workflow was read with, under the Python of its own environment: without conda that is Snakemake's,
# activated or not; with conda Snakemake clears PYTHONPATH, so that the command has to set it itself.
SOURCE = Path(provenance.__file__).parents[1]
PYTHON_FIRST = [str(Path(sys.executable).parent), *os.get_exec_path()]
os.environ.update(RECOUNT_CONFIG=json.dumps(config), PATH=os.pathsep.join(PYTHON_FIRST))
QUOTED = shlex.quote(str(SOURCE)).replace("{", "{{").replace("}", "}}")  # for the shell, and for Snakemake's format()
shell.prefix(f'recount() {{{{ PYTHONPATH={QUOTED} python -m recount "$@"; }}}}; ')

# On this machine, no more jobs at once than its cards and memory hold; --resources says otherwise. A job that asks for
# more than there is gets what there is: without a card, none. A cluster's scheduler limits its jobs itself.
if not CLUSTER:
    for name, limit in (
        ("gpu", CARDS * PROJECT.config.jobs_per_gpu),
        ("mem_mb", feeding.memory_mb()),
    ):
        if name not in workflow.resource_settings.resources:
            workflow.register_resource(name, limit)


wildcard_constraints:
    dataset="[^/]+",
    preparation="[^/]+",
    split="[^/]+",
    system="[^/]+",
    variant="[^/]+",
    seed="[0-9]+",


def timing(step, *parts):
    """Return where Snakemake notes wall time, processor time and memory of a job: like its log, below benchmarks/."""
    return Path("benchmarks", *PROJECT.log(step, *parts).parts[1:]).with_suffix(".tsv")


def run_of(wildcards):
    """Return the run of a job."""
    run = RUNS.get(SEED.format(**wildcards))
    if run is None:
        raise WorkflowError(f"suite {PROJECT.suite.name} has no run {SEED.format(**wildcards)}")
    return run


def predicted_splits():
    """Return, for each set of splits that runs are evaluated on, the start of these runs' ids, as patterns."""
    found = {}
    for run in PROJECT.evaluations:
        splits = tuple("/".join(split) for split in run.benchmark_of_split)
        if splits:
            found.setdefault(splits, {})[re.escape(f"{run.system}/{run.variant}/")] = None
    return found


def fetched(wildcards):
    """Return the manifests of a data set and of the one whose pictures it uses."""
    names = (wildcards.dataset, datasets.load(wildcards.dataset).pictures_of)
    return [PROJECT.raw / name / "manifest.json" for name in names if name]


def training_record(wildcards):
    """Return the record of the training that a job reads: small, with the checksums of the models beside it."""
    return PROJECT.run_folder(run_of(wildcards)) / "run.json"


def reading_settings(wildcards):
    """Return the settings that a run lays over the trained ones, where it reads another variant's training."""
    return json.dumps(run_of(wildcards).reading, sort_keys=True)


def benchmark_indexes(wildcards):
    """Return the indexes of the prepared data that a prediction job reads."""
    return list(dict.fromkeys(PROJECT.index(split) for split in run_of(wildcards).benchmarks.values()))


def prompt_test_indexes(wildcards):
    """Return the indexes of the prepared data of a run's prompt tests."""
    return list(dict.fromkeys(PROJECT.index(entry.split) for entry in run_of(wildcards).prompt_tests.values()))


def prompt_test_settings(wildcards):
    """Return a run's prompt tests, and on how many pictures."""
    return json.dumps({name: entry.model_dump(mode="json") for name, entry in run_of(wildcards).prompt_tests.items()})


def training_inputs(wildcards):
    """Return what a run is trained from: prepared data, fetched weights, and a released checkpoint that was given.

    What an import costs is measured on what it is evaluated on, as it learns from nothing.
    """
    run = run_of(wildcards)
    found = dict.fromkeys(PROJECT.index(split) for split in run.learnt_from or run.benchmarks.values())
    given = [run.checkpoint_path] if run.checkpoint_path else []
    manifests = [PROJECT.weights / name / "manifest.json" for name in run.weights]
    below = tuple(f"{manifest.parent}/" for manifest in manifests)
    return [*found, *manifests, *(path for path in given if not path.startswith(below))]


def training_settings(wildcards):
    """Return the settings that a run depends on, and no others, so that a changed key reruns only what it concerns."""
    return provenance.run_settings(run_of(wildcards), PROJECT.arithmetic)


def code_of(step, plugin=None):
    """Return a function of wildcards: the digest of the code that a step of this data set or system runs."""
    return lambda wildcards: provenance.step_digest(step, plugin and wildcards[plugin])


def gpus(wildcards):
    """Return how many cards a job asks for."""
    return 0 if PROJECT.config.device == "cpu" else 1


def training_processes(wildcards):
    """Return how many processes train a run together, each on a card of its own."""
    return PROJECT.config.gpus_per_job if run_of(wildcards).checkpoint is None else 1


def training_gpus(wildcards):
    """Return how many cards a training run asks for."""
    return gpus(wildcards) * training_processes(wildcards)


def training_memory(wildcards, attempt):
    """Return the memory of all processes of a training run, more with each attempt."""
    return PROJECT.suite.training_mem_mb * training_processes(wildcards) * attempt


def training_threads(wildcards):
    """Return the cores of all processes of a training run, with those that load for them."""
    return FEEDING.cores * training_processes(wildcards)


def evaluation_threads(wildcards):
    """Return the cores of an evaluation: on a card, pictures are read while others are computed."""
    return PROJECT.config.threads + min(CARDS, 1)


@functools.cache
def path_to_verdicts():
    """Return the place of each training on the cheapest path; only the main process of a long suite needs it."""
    long = PROJECT.suite.comparable and workflow.is_main_process
    return priorities(PROJECT) if long else {}


def training_priority(wildcards):
    """Return how early a training is to start: in the order in which trainings decide most claims an hour."""
    return path_to_verdicts().get(run_of(wildcards).training_id.rpartition("/")[0], 0)


def more_memory(megabytes):
    """Return a resource function: more memory with each attempt."""
    return lambda wildcards, attempt: megabytes * attempt


def more_time(minutes):
    """Return a resource function: more minutes with each attempt."""
    return lambda wildcards, attempt: minutes * attempt


def all_runs():
    """Return the record of every run of this suite."""
    return [PROJECT.run_folder(run) / "run.json" for run in PROJECT.trainings]


def all_predictions():
    """Return the predictions of every run on every benchmark of this suite."""
    found = [PROJECT.predictions(run, name) for run in PROJECT.evaluations for name in run.benchmarks]
    return list(dict.fromkeys(found))


def all_prompt_tests():
    """Return the prompt tests of every text-guided run of this suite."""
    return [PROJECT.prompt_test_file(run) for run in PROJECT.evaluations if run.prompt_tests]


def paper_files():
    """Return what the chosen papers claim and published, what the suite makes of it, and what was submitted."""
    folders = [Path(os.path.relpath(paper.folder)) for paper in PROJECT.papers.values()]
    files = [path for folder in folders for path in sorted(folder.rglob("*.*")) if path.is_file()]
    experiments = [*sorted(Path("experiments").glob("*.yaml")), *Path().glob("official.yaml")]
    files += [path.relative_to(PROJECT.root) for path in submissions(PROJECT)]
    return [Path("suites") / f"{PROJECT.suite.name}.yaml", Path("benchmarks.yaml"), *experiments, *files]


def address_of_report():
    """Return the report's address, to be clicked on."""
    return (Path.cwd() / PROJECT.report / "index.html").as_uri()


def not_fetched():
    """Return what each job says that could not fetch its data set or weights in this workflow."""
    messages = []
    for step, folder in (("fetch", PROJECT.raw), ("fetch_weights", PROJECT.weights)):
        for log_file in sorted(PROJECT.log(step, "any").parent.glob("*.log")):
            fetched = (folder / log_file.stem / "manifest.json").exists()
            if not fetched and log_file.stat().st_mtime >= STARTED:
                said = re.split(r"(?m)^recount: ", log_file.read_text(encoding="utf-8"))[-1].strip()
                messages.append(said or f"{log_file.stem}: its job was ended before it could say why")
    from recount.data.dataset import Dataset
    from recount.planning import needed_sources

    messages += [
        f"{source.name} ({source.title}): its pictures were not fetched, only its annotation\nBy hand: {source.by_hand}"
        for source, folder in needed_sources(PROJECT)
        if isinstance(source, Dataset) and (folder / "manifest.json").exists() and source.lacks_pictures(folder)
    ]
    return messages


def list_what_is_missing():
    """Print one list of all that could not be fetched, with the reasons and what to do by hand, if there is any."""
    messages = not_fetched()
    if messages:
        print(f"\nCould not be fetched ({len(messages)} data sets and weights):\n", file=sys.stderr)
        print("\n\n".join(messages), file=sys.stderr)
        print("\nThen run the same command again: it goes on from what is there.", file=sys.stderr)


def report_after_failure():
    """Report what there is and list what could not be fetched; not after the user stopped the workflow."""
    if STOPPED:
        return
    try:
        if any((PROJECT.results / "runs").rglob("run.json")):
            report_what_exists()
        list_what_is_missing()
    except OSError as error:  # the disk, perhaps, that made the job fail
        print(f"After the failure above there is no report: {in_words(error) or error}", file=sys.stderr)


def name_what_is_unfit():
    """Name results that are stale or damaged, which Snakemake takes for current, and what mends them.

    At the end of the process: where nothing is to be done, Snakemake says neither success nor error.
    """
    if STOPPED or not workflow.is_main_process or workflow.dryrun:
        return
    from recount.verify import Verification

    try:
        unfit = [finding for finding in Verification(PROJECT).findings() if finding.unfit]
    except (UserError, OSError) as error:
        print(f"What is unfit could not be found out: {error}", file=sys.stderr)
        return
    if unfit:
        print(f"\nNot to be used, and not used ({len(unfit)}):", file=sys.stderr)
        for finding in unfit:
            print(f"  {finding.kind}: {finding.path}: {finding.why}", file=sys.stderr)
        print("`recount verify --mend` moves them aside; the next run makes them anew.", file=sys.stderr)


atexit.register(name_what_is_unfit)


def report_what_exists():
    """Score, judge and report what there is.

    Snakemake does not know of these files, so they are dated before everything they are made from: the next run makes
    them anew, whatever it is asked to do.
    """
    steps = {
        "score": PROJECT.results / "scores.csv",
        "judge": PROJECT.results / "verdicts.csv",
        "report": PROJECT.report,
    }
    for step, output in steps.items():
        log_file = PROJECT.log(step, f"{step}_after_failure")
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("w", encoding="utf-8") as stream:
            done = subprocess.run([sys.executable, "-m", "recount", step], stdout=stream, stderr=stream)
        if done.returncode:
            print(f"After the failure above, recount {step} failed too: see {log_file}", file=sys.stderr)
            if step == "report":
                return
        else:
            os.utime(output, (1, 1))  # seconds since 1970; Snakemake takes 0 for "does not exist"
    print(f"Some jobs failed. The report of what there is: {address_of_report()}", file=sys.stderr)
