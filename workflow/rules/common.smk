"""What all rules share: the checked configuration, the runs that follow from it, resources, the recount command."""

import asyncio
import atexit
import functools
import itertools
import json
import logging
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
from tempfile import TemporaryDirectory

import snakemake.io
import snakemake.workflow

from recount.settings import project as settings
from recount.settings.base import ConfigError
from recount import datasets, feeding, provenance
from recount.errors import UserError, in_words, working_folder
from recount.planning import COUNT_JOBS, UNREAD, check_data, priorities, to_get_by_hand, within_budget
from recount.rehearsal.disk import standing
from recount.results.attempts import times_killed
from recount.results.published import check_published
from recount.results.submissions import submissions
from snakemake.exceptions import WorkflowError
from snakemake.logging import get_event, logger
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
from snakemake_interface_logger_plugins.common import LogEvent


def checked_project():
    """Return the configuration and all that follows from it, or stop with one line per error."""
    try:
        checked = settings.load(HOME, config)
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
    made = {name: getattr(chosen, name) for name in ("resources", "results", "reports")}
    for name, place in made.items():
        if HOME != working_folder() and Path(place).parts[:1] == ("..",):
            raise ConfigError(f"{name} = {place}: a module's prefix cannot be left by ..; write the whole path")
    places = [workflow.current_basedir.get_path_or_uri(secret_free=True), HOME, *made.values(), *chosen.papers]
    places += chosen.checkpoints.values()
    for characters, why in (
        ("{}", "a wildcard for Snakemake"),
        ('"$`\\', "a command for the plugin that submits jobs"),
    ):
        wrong = [place for place in places if set(characters) & set(str(place))]
        if wrong and (characters == "{}" or workflow.resource_settings.nodes is not None):
            raise ConfigError(f"{wrong[0]}: its name has one of {characters}, {why}; rename the folder")


def first_runs():
    """Return what a first page is made from: one run a system, of the first seed; none where no others come later."""
    kind, seed = PROJECT.suite.first_page, PROJECT.config.seeds[0]
    kinds = lambda run: {PROJECT.benchmarks[name].kind for name in run.benchmarks}
    first = {run.system: run for run in PROJECT.evaluations[::-1] if run.seed == seed and kinds(run) == {kind}}
    return list(first.values()) if len(first) < len(PROJECT.evaluations) else []


def count_jobs():
    """Write how many jobs of each kind are to be done, for ``recount plan``; nothing where the workflow was refused."""
    if workflow.dag is None:
        return
    jobs = Counter(job.rule.name.partition("_of_")[0] for job in workflow.dag.jobs if workflow.dag.needrun(job))
    Path(os.environ[COUNT_JOBS]).write_text(json.dumps(jobs))


def show_jobs():
    """Print how many jobs of each step a dry run found, of each paper's runs and in all; what is shared is in several."""
    if workflow.dag is None or not workflow.dryrun:
        return
    readers = {}
    for run, (name, paper) in itertools.product(RUNS.values(), PROJECT.papers.items()):
        if f"{run.system}/{run.variant}" in paper.runs:
            for read in (run.id, run.training_id):
                readers.setdefault(read, set()).add(name)
    steps = {}
    for job in filter(workflow.dag.needrun, workflow.dag.jobs):
        if job.rule.name != "all":
            of_run = {"system", "variant", "seed"} <= set(job.wildcards.keys())  # not another workflow's
            run = SEED.format(**job.wildcards) if of_run else None
            of = steps.setdefault(job.rule.name.partition("_of_")[0], Counter())
            of.update([*readers.get(run, ()), "in all"])
    columns = [*PROJECT.papers, "in all"]
    if steps:
        print(
            "Jobs by step, and by the papers whose runs they are (each job by itself: --quiet host):", file=sys.stderr
        )
    for step, found in {"": dict(zip(columns, columns)), **steps}.items() if steps else ():
        cells = (str(found.get(column) or "").rjust(len(column) + 2) for column in columns)
        print(f"  {step:<14}", *cells, sep="", file=sys.stderr)


class Failures(logging.Handler):
    """Tells of each failed job, with its log, where ``quiet: rules`` would silence it like any job's start."""

    def emit(self, record):
        if get_event(record) in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR):
            for handler in logger.handlers:
                if not handler.filter(record):
                    with handler.lock:  # as each handler's own call has it: without, two threads wait for each other
                        handler.emit(record)


def keep_in_sight(executor):
    """Return a cluster's executor that asks again for jobs of which it learnt nothing, instead of waiting for ever.

    The plugin for SLURM (2.8.0) gives up a round's jobs when the scheduler does not answer, and never asks for them again.
    """

    class Watchful(executor):
        untold = {}  # of this round, by identity

        async def check_active_jobs(self, active_jobs):
            self.untold = {id(job): job for job in active_jobs}
            async for job in super().check_active_jobs(active_jobs):
                self.untold.pop(id(job), None)
                yield job
            if self.untold:
                print(f"The scheduler does not answer and is asked again (jobs: {len(self.untold)}).", file=sys.stderr)
            for job in self.untold.values():
                yield job

        def report_job_success(self, job_info):
            self.untold.pop(id(job_info), None)
            super().report_job_success(job_info)

        def report_job_error(self, job_info, msg=None, **kwargs):
            self.untold.pop(id(job_info), None)
            super().report_job_error(job_info, msg, **kwargs)

    return Watchful


def read_here():
    """Let who may not write here make dry runs, with Snakemake's own notes in a temporary folder; refuse other runs."""
    kept, real = Path(".snakemake").absolute(), snakemake.workflow.FilePersistence
    made = (kept, *(HOME / place for place in (PROJECT.results, PROJECT.report, "logs", "benchmarks")))
    closed = [place for place in made if not os.access(standing(place), os.W_OK)]

    def records(**given):
        if workflow.executor_plugin is not None and not workflow.dryrun:
            only = "cannot be written to, so only a dry run (-n) works here"
            raise WorkflowError(f"{closed[0]}: {only}; copy the project, or ask the folder's owner")
        snakemake.io._IOFile.protected = lambda file: asyncio.sleep(0, False)  # nothing is to be written now
        if kept not in closed:
            return real(**given)
        READERS.append(TemporaryDirectory(prefix="recount-"))
        given["path"] = Path(READERS[-1].name)
        if kept.exists() and not all(os.access(path, os.R_OK) for path in (kept, *kept.rglob("*"))):
            print(f"{kept}: {UNREAD}: jobs are told by the times of files alone", file=sys.stderr)
            return real(**given)
        for name in ("locks", "incomplete", "metadata"):
            if (kept / name).is_dir():
                (given["path"] / name).symlink_to(kept / name)
        return real(**given)

    if closed:
        snakemake.workflow.FilePersistence = records


def note_stop(signum, frame):
    """Note that the user stopped the workflow, and go on as Python does."""
    STOPPED.append(signum)
    signal.default_int_handler(signum, frame)


def end_gracefully(scheduler, *_, real=JobScheduler.exit_gracefully):
    """End at SIGTERM, also while jobs are selected: Snakemake's own handler waits for a lock that its thread may hold."""
    threading.Thread(target=real, args=(scheduler,)).start()


def look_again(scheduler, delay, real=JobScheduler._schedule_reevalutation):
    """Select jobs again after a delay only where their number per second held some back.

    Snakemake (9.27) does it after each selection and each job that ended, which is a selection more per second for each
    job that was done: a whole core where hundreds wait.
    """
    limit = scheduler.job_rate_limiter
    if limit is None or delay != limit.timespan or not limit.get_free_jobs():
        real(scheduler, delay)


def own_shell():
    """Return what Snakemake is to put before each shell command: what it puts there already, and the recount command.

    A job runs in the project's folder; its log was opened in Snakemake's. The commands of a workflow that uses this one
    as a module keep what stands before them, Snakemake's own ``set -euo pipefail`` too.
    """
    before = shell._get_process_prefix().partition("recount() ")[0].replace("{", "{{").replace("}", "}}")
    return f'{before}recount() {{{{ cd {quoted(HOME)} && {VARIABLES} python -m recount "$@"; }}}}; '


def quoted(path):
    """Return a path for the shell, and for Snakemake's format()."""
    return shlex.quote(str(path)).replace("{", "{{").replace("}", "}}")


# Where the project is: Snakemake's folder, or, where another workflow uses this one as a module, the module's prefix in it.
MODIFIER = workflow.modifier.path_modifier
HOME = Path(working_folder(), MODIFIER.replace_prefix("config.yaml")).parent
MOST = 3  # times the memory and time of a first attempt
STARTED = time.time()
STOPPED = []
READERS = []  # a temporary folder that lasts as long as this process
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, note_stop)
    JobScheduler.exit_gracefully = end_gracefully
    JobScheduler._schedule_reevalutation = look_again
atexit.register(count_jobs if COUNT_JOBS in os.environ else show_jobs)
if workflow.is_main_process and "all" not in {str(kind) for kind in workflow.output_settings.quiet or ()}:
    logger.addHandler(Failures())
if MODIFIER.modifies_prefixes:
    raise WorkflowError("recount writes where its config.yaml says: instead of replace_prefix give the module a prefix")
PROJECT = checked_project()
if workflow.is_main_process:
    read_here()
    for plugin in ExecutorPluginRegistry().plugins.values():
        if not plugin.common_settings.local_exec:
            plugin.executor = keep_in_sight(plugin.executor)
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
FIRST = first_runs()
PUT_FIRST = {name for run in FIRST for name in (run.id, run.training_id, *(split.dataset for split in run.splits))}
SEED = "{system}/{variant}/seed{seed}"
RUN_FOLDER = PROJECT.results / "runs" / SEED

# Jobs read config.yaml themselves; RECOUNT_CONFIG tells them what --config and --configfile have changed. A job runs the
# recount that this workflow was read with, under the Python of its own environment: without conda that is Snakemake's,
# activated or not; with conda Snakemake clears PYTHONPATH, so that the command has to set it itself.
SOURCE = Path(provenance.__file__).parents[1]
PYTHON_FIRST = [str(Path(sys.executable).parent), *os.get_exec_path()]
if vars(workflow).setdefault("recount_project", (HOME, config)) != (HOME, config):
    raise WorkflowError(
        "one workflow can use recount as a module once: run the other project or suite by another workflow"
    )
os.environ.update(RECOUNT_CONFIG=json.dumps(config), PATH=os.pathsep.join(PYTHON_FIRST))
# Rules say for how many minutes their job was submitted (recount.jobs), which counts on clusters alone.
VARIABLES = f"PYTHONPATH={quoted(SOURCE)}" if workflow.remote_exec else f"RECOUNT_MINUTES= PYTHONPATH={quoted(SOURCE)}"
shell.prefix(own_shell())

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


EVALUATED = {  # step of an evaluation: its files, by output's name: folder below the results, suffix
    "predict": {
        "found": ("predictions", ".csv"),
        "times": ("predictions", ".timing.json"),
        "maps": ("maps", ".npz"),
    },
    "test_prompts": {"found": ("prompt_tests", ".json"), "maps": ("prompt_tests", ".npz")},
}


def evaluation_files(step, places):
    """Return the files of an evaluation job by kind, of each of its folders."""
    kinds = EVALUATED[step].items()
    return {
        kind: [PROJECT.results / top / place / f"{SEED}{suffix}" for place in places] for kind, (top, suffix) in kinds
    }


def evaluated(run, step):
    """Return what a run is evaluated on in a step: by the folder of its files below the step's, (benchmark, split)."""
    if step == "predict":
        return {"/".join(place): (name, run.benchmarks[name]) for place, name in run.benchmark_of_split.items()}
    return {name: (name, entry.split) for name, entry in run.prompt_tests.items()}


def evaluation_jobs(step):
    """Yield the rules of a step: name, folders of their files, what folders and ids of runs must look like.

    What is fetched may be missing, so each benchmark is a job of its own. Of what recount draws itself one job reads
    all, because starting costs a tiny network more than predicting: a rule for each set of places, named by them.
    """
    fetched_places, drawn_sets = set(), {}
    for run in PROJECT.evaluations:
        places = evaluated(run, step)
        drawn = tuple(place for place, (_, split) in places.items() if datasets.load(split.dataset).embedded)
        fetched_places.update(places.keys() - set(drawn))
        if drawn:
            drawn_sets.setdefault(drawn, {})[re.escape(f"{run.system}/{run.variant}/")] = None
    yield step, ("{place}",), "|".join(map(re.escape, sorted(fetched_places))) or "(?!)", "[^/]+"
    for places, runs in drawn_sets.items():
        yield f"{step}_of_{re.sub(r'[^a-z0-9]+', '_', '_'.join(places))}", places, "(?!)", f"(?={'|'.join(runs)})[^/]+"


def asked(wildcards, step, places):
    """Return benchmarks and splits of a job of a step, whose files lie in the folders ``places``."""
    run = run_of(wildcards)
    known, wanted = evaluated(run, step), [place.format(**wildcards) for place in places]
    if not known.keys() >= set(wanted):
        raise WorkflowError(f"{run.id} is not evaluated on {', '.join(wanted)} in suite {PROJECT.suite.name}")
    return [known[place] for place in wanted]


def evaluation_indexes(step, places):
    """Return a function of wildcards: the indexes of the prepared data that a job of a step reads."""
    return lambda wildcards: list(dict.fromkeys(PROJECT.index(split) for _, split in asked(wildcards, step, places)))


def asked_benchmarks(step, places):
    """Return a function of wildcards: the benchmarks of a job of a step."""
    return lambda wildcards: [name for name, _ in asked(wildcards, step, places)]


def log_parts(places):
    """Return the parts of the name of an evaluation job's log: of the run, and of the benchmark where it has but one."""
    return ("{system}", "{variant}", "seed{seed}", *(places if places == ("{place}",) else ()))


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


def prompt_test_settings(step, places):
    """Return a function of wildcards: the prompt tests of a job, and on how many pictures; of other steps nothing."""

    def settings(wildcards):
        if step != "test_prompts":
            return ""
        tests = run_of(wildcards).prompt_tests
        names = asked_benchmarks("test_prompts", places)(wildcards)
        return json.dumps({name: tests[name].model_dump(mode="json") for name in names})

    return settings


def training_inputs(wildcards):
    """Return what a run is trained from: prepared data, fetched weights, and a released checkpoint that was given."""
    run = run_of(wildcards)
    found = dict.fromkeys(PROJECT.index(split) for split in run.learnt_from)
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


def walltime():
    """Return the minutes of one job that trains: however often it is started, it goes on from its saved state."""
    return PROJECT.config.walltime or PROJECT.suite.training_minutes


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
    """Return the memory of all processes of a training run: more for each attempt that was killed without a word.

    One that saved its state when its time was over needs no more than before.
    """
    killed = times_killed(PROJECT, "train", run_of(wildcards).id, attempt - 1)
    return PROJECT.suite.training_mem_mb * training_processes(wildcards) * (1 + killed)


def training_threads(wildcards):
    """Return the cores of all processes of a training run, with those that load for them."""
    return FEEDING.cores * training_processes(wildcards)


def evaluation_threads(wildcards):
    """Return the cores of an evaluation: on a card, pictures are read while others are computed."""
    return PROJECT.config.threads + min(CARDS, 1)


@functools.cache
def path_to_verdicts():
    """Return the place of each training on the cheapest path; only the main process of a long suite needs it, to run."""
    needed = PROJECT.suite.comparable and workflow.is_main_process and not workflow.dryrun
    return priorities(PROJECT) if needed else {}


def training_priority(wildcards):
    """Return how early a training is to start: in the order in which trainings decide most claims an hour."""
    on_path = path_to_verdicts().get(run_of(wildcards).training_id.rpartition("/")[0], 0)
    return on_path or first_priority(wildcards)


def first_priority(wildcards):
    """Return 1 for a job that the first page waits for, of a run or of a data set, else 0."""
    name = wildcards.get("dataset") or SEED.format(**wildcards)
    return int(name in PUT_FIRST)


def attempt_number(wildcards, attempt):
    """Return which attempt a job is, for the job itself."""
    return attempt


def more_memory(megabytes):
    """Return a resource function: more memory with each of the first attempts."""
    return lambda wildcards, attempt: megabytes * min(attempt, MOST)


def more_time(minutes):
    """Return a resource function: more minutes with each of the first attempts, for what begins anew each time."""
    return lambda wildcards, attempt: minutes * min(attempt, MOST)


def all_runs():
    """Return the record of every run of this suite."""
    return [PROJECT.run_folder(run) / "run.json" for run in PROJECT.trainings]


def first_page():
    """Return the first page, where the suite has one and there is no report yet, which it would only repeat."""
    return [PROJECT.so_far] if FIRST and not (HOME / PROJECT.report).exists() else []


def all_predictions(runs=PROJECT.evaluations):
    """Return the predictions of every run (or of some) on every benchmark of this suite."""
    found = [PROJECT.predictions(run, name) for run in runs for name in run.benchmarks]
    return list(dict.fromkeys(found))


def all_prompt_tests():
    """Return the prompt tests of every text-guided run of this suite."""
    return [PROJECT.prompt_test_file(run, name) for run in PROJECT.evaluations for name in run.prompt_tests]


def paper_files():
    """Return what the chosen papers claim and published, what the suite makes of it, and what was submitted."""
    files = [path for paper in PROJECT.papers.values() for path in sorted(paper.folder.rglob("*.*")) if path.is_file()]
    files += [*sorted((HOME / "experiments").glob("*.yaml")), *HOME.glob("official.yaml"), *submissions(PROJECT)]
    inside = [path.relative_to(HOME) if path.is_relative_to(HOME) else path for path in files]
    return [Path("suites") / f"{PROJECT.suite.name}.yaml", Path("benchmarks.yaml"), *inside]


def address_of_report():
    """Return the report's address, to be clicked on."""
    return (HOME / PROJECT.report / "index.html").as_uri()


def not_fetched():
    """Return what each job says that could not fetch its data set or weights in this workflow."""
    messages = []
    for step, folder in (("fetch", PROJECT.raw), ("fetch_weights", PROJECT.weights)):
        for log_file in sorted((HOME / PROJECT.log(step, "any")).parent.glob("*.log")):
            fetched = (HOME / folder / log_file.stem / "manifest.json").exists()
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


def say_what_is_by_hand():
    """Say at the start what no address is sure to deliver and is not here: what needs it may fail, after a day's work."""
    for entry in to_get_by_hand(PROJECT):
        print(
            f"Not here, and no address is sure to deliver all of it: {entry.name} ({entry.title}). What needs it fails "
            f"then, all else runs. By hand: {entry.by_hand}",
            file=sys.stderr,
        )


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
        page = HOME / PROJECT.report / "index.html"
        is_new = page.is_file() and page.stat().st_mtime >= STARTED  # only the first page has failed
        if not is_new and any((HOME / PROJECT.results / "runs").rglob("run.json")):
            report_what_exists()
        list_what_is_missing()
    except OSError as error:  # the disk, perhaps, that made the job fail
        print(f"After the failure above there is no report: {in_words(error) or error}", file=sys.stderr)


def name_what_is_unfit():
    """Name results that are stale or damaged, which Snakemake takes for current, and what mends them."""
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


def say_whether_it_agrees():
    """Print in how many cells the results agree with the reference run, where the suite has one."""
    from recount.results.reference import RECORD, folder_of

    if (folder_of(PROJECT) / RECORD).is_file() and (PROJECT.results / "scores.csv").is_file():
        from recount.reference import agreement

        try:
            print("", *agreement(PROJECT).lines, sep="\n", file=sys.stderr)
        except (UserError, OSError) as error:
            print(f"Nothing can be said of the reference run: {error}", file=sys.stderr)


def end():
    """Say what the results are worth; at the end of the process, for Snakemake may have had nothing to do."""
    if not STOPPED and workflow.is_main_process and not workflow.dryrun:
        name_what_is_unfit()
        say_whether_it_agrees()


atexit.register(end)


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
        log_file = HOME / PROJECT.log(step, f"{step}_after_failure")
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("w", encoding="utf-8") as stream:
            done = subprocess.run(
                [sys.executable, "-m", "recount", step],
                stdout=stream,
                stderr=stream,
                cwd=HOME,
                env={**os.environ, "PYTHONPATH": str(SOURCE)},  # the recount that this workflow was read with
            )
        if done.returncode:
            print(f"After the failure above, recount {step} failed too: see {log_file}", file=sys.stderr)
            if step == "report":
                return
        else:
            os.utime(HOME / output, (1, 1))  # seconds since 1970; Snakemake takes 0 for "does not exist"
    print(f"Some jobs failed. The report of what there is: {address_of_report()}", file=sys.stderr)
