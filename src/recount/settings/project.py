"""What to run here: config.yaml, the runs that follow from it, and where their files lie. Imports nothing heavy."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from recount.errors import expanded
from recount.settings.base import (
    BenchmarkId,
    ConfigError,
    Name,
    Strict,
    absent,
    checked,
    error_lines,
    merged,
    read_yaml,
    unknown,
)
from recount.settings.experiment import Experiment, PromptTestKind, Variant
from recount.settings.official import Official
from recount.settings.paper import CLAIMED, TRIVIAL_ARMS, Paper, Table, read_paper
from recount.settings.recipe import Arithmetic, Determinism, Precision, Recipe, resolve_recipe
from recount.settings.schemas import system_schema
from recount.settings.suite import Benchmark, StandIn, Suite

WEIGHTS = "weights:"  # begins the name of a file that is fetched into resources/weights
NO_TRAINING = "no training: evaluated as it is"
METRICS_OF = {"crowd": "counts", "text": "counts", "captions": "captions"}  # kind of benchmark -> family of metrics
Place = Annotated[str, Field(pattern=r"^[^{}\x00]+$")]  # a path; Snakemake takes braces for wildcards


class Config(Strict):
    """config.yaml: what to run here, and where things lie."""

    suite: Name = "mini"
    papers: tuple[str, ...] = Field((), description="names, or folders outside (~/my_paper); empty: all of recount's")
    systems: tuple[Name, ...] = Field((), description="empty: all of the papers")
    tables: tuple[Name, ...] = Field((), description="only runs that a row of these tables shows; empty: all")
    claims: tuple[Name, ...] = Field((), description="only runs that these claims compare; empty: all")
    runs: Literal["all", "released", "trained"] = Field(
        "all", description="released: the authors' released weights alone, nothing is trained; trained: all but these"
    )
    only: tuple[Annotated[str, Field(pattern=r"^[^/]+/[^/]+(/seed(0|[1-9]\d*))?$")], ...] = Field(
        (), description="only these (system/variant, or system/variant/seedK); empty: all; budget_gpu_hours fills it"
    )
    budget_gpu_hours: float | None = Field(
        None, ge=0, description="runs beyond it are left out, those first that decide least an hour; null: no limit"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    looks: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (3, 5, 8), min_length=1, description="seeds at which claims are planned to be judged: they share the 5 %"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision | None = Field(None, description="of training; null: as suite and recipe say")
    evaluation_precision: Precision | None = Field(None, description="null: as each recipe says")
    determinism: Determinism = "seeded"
    checkpoints: dict[Name, Place] = Field({}, description="released checkpoint -> path of its file")
    checkpoint_minutes: float = Field(10, ge=0)
    walltime: int | None = Field(None, gt=0, description="minutes of one training job on a cluster; null: the suite's")
    loader_processes: int | None = Field(None, ge=0, description="null: as cores and cards allow")
    image_cache_mb: int | None = Field(None, ge=0, description="null: as memory and cards allow")
    jobs_per_gpu: int = Field(1, gt=0)
    gpus_per_job: int = Field(1, gt=0, description="that train one run; on processors, as many processes")
    training_threads: int | None = Field(None, gt=0, description="null: one")
    accept: dict[Name, Annotated[str, Field(min_length=10)]] = Field(
        {}, description="data set -> why more than a fifth of its points may lie outside their pictures"
    )
    resources: Place = "resources"
    results: Place = "results"
    reports: Place = "reports"

    @property
    def threads(self) -> int:
        """Return the threads that a process computes with: more would add up floats in another order."""
        return self.training_threads or 1

    def chosen_seeds(self, chosen: str) -> set[int]:
        """Return the seeds that an entry of ``only`` names: its own, else all."""
        seed = chosen.split("/")[2:]
        return {int(seed[0].removeprefix("seed"))} if seed else {*self.seeds}


class Split(Strict):
    """Prepared samples: a data set, a split of it (several joined by ``+``), and how it is prepared."""

    dataset: Name
    split: Name
    preparation: Name


class PromptTest(Strict):
    """What a text-guided run is tested for on one benchmark, beyond its errors."""

    split: Split
    tests: tuple[PromptTestKind, ...]
    pictures: int | None
    without_listed: bool = False


class Run(Strict):
    """A variant of a system with a seed, resolved: everything its jobs need to know, and nothing else.

    Two things are told apart. A *training* changes weights; ``trained_as`` is the variant whose training a run reads:
    its own, that of the variant it ``reads`` (then ``reading`` are the settings that it lays over the trained ones), or
    that of an earlier variant which this suite trains in exactly the same way. An *evaluation* reads them;
    ``evaluated_as`` is the first variant that reads the same training in the same way.
    """

    suite: Name
    system: Name
    variant: Name
    seed: int
    trained_as: Name
    evaluated_as: Name
    size: Literal["paper", "mini"]
    settings: dict[str, Any]
    reading: dict[str, Any] = {}
    recipe: dict[str, Any]
    protocol: str
    checkpoint: str | None
    checkpoint_path: str | None
    weights: tuple[Name, ...] = ()
    training: Split | None
    held_out: Split | None
    selected_on_test: Split | None
    benchmarks: dict[BenchmarkId, Split]
    prompt_tests: dict[BenchmarkId, PromptTest] = {}

    @property
    def id(self) -> str:
        """Return ``<system>/<variant>/seed<k>``."""
        return f"{self.system}/{self.variant}/seed{self.seed}"

    @property
    def training_id(self) -> str:
        """Return the id of the run whose training this one reads (mostly its own)."""
        return f"{self.system}/{self.trained_as}/seed{self.seed}"

    @property
    def evaluation_id(self) -> str:
        """Return the id of the run whose predictions are this one's (mostly its own)."""
        return f"{self.system}/{self.evaluated_as}/seed{self.seed}"

    @property
    def benchmark_of_split(self) -> dict[tuple[str, str], BenchmarkId]:
        """Return the first benchmark that each split (data set, split) stands for: several may share one."""
        found: dict[tuple[str, str], BenchmarkId] = {}
        for benchmark, split in self.benchmarks.items():
            found.setdefault((split.dataset, split.split), benchmark)
        return found

    @property
    def learnt_from(self) -> list[Split]:
        """Return the splits that its training reads, to learn and to choose: none for released weights."""
        every = (self.training, self.held_out, self.selected_on_test) if self.checkpoint is None else ()
        return [split for split in every if split is not None]

    @property
    def splits(self) -> list[Split]:
        """Return all splits that it is trained, chosen, evaluated and prompt-tested on, each once."""
        tested = (entry.split for entry in self.prompt_tests.values())
        every = (*self.learnt_from, *self.benchmarks.values(), *tested)
        return list({split.model_dump_json(): split for split in every}.values())


def read_config(root: Path, overrides: Mapping[str, Any] | None = None) -> tuple[Config, list[str]]:
    """Return ``<root>/config.yaml`` with ``overrides`` (top-level keys) laid over it, and a line for each wrong value.

    Keys with wrong values have their defaults, so that names can be checked, too, before anything is refused.
    """
    path = root / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"there is no config.yaml in {root.absolute()}: run recount in the folder that has it, or make a project: "
            "`recount init DIR`"
        )
    content, problems = merged(read_yaml(path, "config.yaml"), overrides or {}), list[str]()
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        problems += error_lines(error, "config.yaml", Config, content)
        wrong = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
        if not wrong:
            raise ConfigError("\n".join(problems)) from None
        config = checked(Config, {key: value for key, value in content.items() if key not in wrong}, "config.yaml")
    twice = [seed for seed in dict.fromkeys(config.seeds) if config.seeds.count(seed) > 1]
    problems += [f"config.yaml: seeds: {seed} is there twice" for seed in twice]
    for name in config.only:
        if not config.chosen_seeds(name) & {*config.seeds}:
            problems.append(f"config.yaml: only: {name}: config.yaml has seeds {list(config.seeds)}")
    return config, problems


def _absent(kind: str, wanted: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    names = list(known)
    for name in wanted:
        yield from absent(f"config.yaml: {kind}", "run" if kind == "only" else kind.removesuffix("s"), name, names)


def _raise(problems: Iterable[str]) -> None:
    found = list(problems)
    if found:
        raise ConfigError("\n".join(found))


def default_recipe(system: str) -> dict[str, Any] | None:
    """Return a system's own recipe, without importing it; None: it does not train."""
    return system_schema(system).get("recipe", Recipe().model_dump(mode="json"))


class Project:
    """Everything that is configured: config.yaml, suite, experiments, benchmarks, papers, and the runs they make."""

    def __init__(self, root: Path, overrides: Mapping[str, Any] | None = None) -> None:
        self.root, self.overrides = root, dict(overrides or {})
        self.config, wrong = read_config(root, overrides)
        try:
            self._read()
        except ConfigError as error:
            _raise([*wrong, str(error)])
        _raise(wrong)

    def _read(self) -> None:
        root = self.root
        outside = [expanded(name) for name in self.config.papers if "/" in name or name.startswith("~")]
        homes = [root, *(folder if folder.is_absolute() else root / folder for folder in outside)]
        homes += [
            folder for folder in _papers_of_packages() if folder.name in self.config.papers or not self.config.papers
        ]
        self.benchmarks = self._read_benchmarks(homes)
        self.experiments = self._read_experiments(homes)
        self.papers = self._read_papers(homes[1:])
        path = root / "suites" / f"{self.config.suite}.yaml"
        self._suite_file = f"suites/{path.name}"
        self.suite = checked(Suite, {**read_yaml(path, self._suite_file), "name": path.stem}, self._suite_file)
        resources, name = Path(self.config.resources), self.suite.name
        self.raw, self.data, self.weights = (resources / kind for kind in ("raw", "data", "weights"))
        self.results, self.report = Path(self.config.results) / name, Path(self.config.reports) / name
        self.tables = self.results  # where scores and verdicts lie; elsewhere for a report of what there is so far
        self.so_far = self.report.with_name(f"{name}-so-far")
        _raise(self._problems())

    @property
    def arithmetic(self) -> Arithmetic:
        """Return what config.yaml and the suite say about precision and determinism."""
        chosen = {name: getattr(self.config, name) for name in ("precision", "evaluation_precision", "determinism")}
        return Arithmetic(fp32_as=self.suite.fp32_as, **chosen)

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def _read_benchmarks(self, homes: Iterable[Path]) -> dict[str, Benchmark]:
        found: dict[str, Benchmark] = {}
        for path in (home / "benchmarks.yaml" for home in homes):
            if not path.is_file():
                continue
            for name, content in read_yaml(path, self._shown(path)).items():
                where = f"{self._shown(path)}: {name}"
                benchmark = checked(Benchmark, content if isinstance(content, dict) else {"title": content}, where)
                if found.setdefault(name, benchmark) != benchmark:
                    raise ConfigError(f"{where}: another benchmark has this id already; give it another one")
        return found

    def _read_experiments(self, homes: Iterable[Path]) -> dict[str, Experiment]:
        found: dict[str, Experiment] = {}
        for path in (path for home in homes for path in sorted((home / "experiments").glob("*.yaml"))):
            where = self._shown(path)
            if path.stem in found:
                raise ConfigError(
                    f"{where}: there is an experiment of this system already; give its variants another file"
                )
            experiment = checked(Experiment, {**read_yaml(path, where), "name": path.stem}, where)
            _raise(f"{where}: {problem}" for problem in experiment.problems())
            ids = experiment.ids()
            _raise(line for k, name in ids for line in absent(f"{where}: {k}", "benchmark", name, self.benchmarks))
            found[path.stem] = experiment
        return found

    @cached_property
    def official(self) -> dict[str, Official]:
        """Return the official recipes by system (``official.yaml``; none where there is no such file)."""
        path = self.root / "official.yaml"
        entries = read_yaml(path, path.name) if path.is_file() else {}
        found = {name: checked(Official, entry, f"{path.name}: {name}") for name, entry in entries.items()}
        for name, entry in found.items():
            _raise(absent(f"{path.name}: {name}", "experiment", name, self.experiments))
            known = self.experiments[name].variants
            _raise(
                line for v in entry.variants for line in absent(f"{path.name}: {name}.variants", "variant", v, known)
            )
        return found

    def _read_papers(self, outside: Iterable[Path]) -> dict[str, Paper]:
        inside = sorted(path.parent for path in (self.root / "papers").glob("*/paper.yaml"))
        folders = {folder.name: folder for folder in inside} | {folder.name: folder for folder in outside}
        wanted = [Path(name).name if "/" in name or name.startswith("~") else name for name in self.config.papers]
        suites = sorted(path.stem for path in (self.root / "suites").glob("*.yaml"))
        chosen = [name for name in folders if name in wanted] or list(folders)
        found = {name: read_paper(folders[name], self._shown(folders[name] / "paper.yaml")) for name in chosen}
        runs = {run.partition("/")[0] for paper in found.values() for run in paper.runs}
        checkpoints = {v.checkpoint for e in self.experiments.values() for v in e.variants.values() if v.checkpoint}
        names: Mapping[str, tuple[Iterable[str], Iterable[str]]] = {
            "suite": ([self.config.suite], suites),
            "papers": (wanted, folders),
            "systems": (self.config.systems, runs),
            "tables": (self.config.tables, {name for paper in found.values() for name in paper.tables}),
            "claims": (self.config.claims, [claim.id for paper in found.values() for claim in paper.claims]),
            "only": (
                ["/".join(name.split("/")[:2]) for name in self.config.only],
                {run for paper in found.values() for run in paper.runs},
            ),
            "checkpoints": (self.config.checkpoints, checkpoints),
        }
        _raise(line for kind, (named, known) in names.items() for line in _absent(kind, named, known))
        return found

    def _problems(self) -> Iterator[str]:
        for paper in self.papers.values():
            where = self._shown(paper.folder / "paper.yaml")
            yield from (f"{where}: {problem}" for problem in self._paper_problems(paper))
        where = self._suite_file
        for name in self.suite.benchmarks:
            yield from absent(f"{where}: benchmarks", "benchmark", name, self.benchmarks)
        for name, system in self.suite.systems.items():
            yield from absent(f"{where}: systems", "experiment", name, self.experiments)
            variants = self.experiments[name].variants if name in self.experiments else {}
            named = [("variants", key) for key in system.variants]
            named += [(f"skip.{why}", key) for why, names in system.skip.items() for key in names]
            for key, variant in named if variants else ():
                yield from absent(f"{where}: systems.{name}.{key}", "variant", variant, variants)

    def _paper_problems(self, paper: Paper) -> Iterator[str]:
        of_tables = list(self._table_problems(paper))
        yield from of_tables
        arms = {**paper.runs, **paper.quoted, **TRIVIAL_ARMS}
        for claim in paper.claims:
            for benchmark in claim.on:
                yield from absent(f"claims.{claim.id}.on", "benchmark", benchmark, self.benchmarks)
            for key in () if of_tables else ("arm", "against"):  # an arm is right where it is a row that is wrong
                for arm in dict.fromkeys(getattr(claim, key)):
                    yield from absent(f"claims.{claim.id}.{key}", "arm in a row of its tables", arm, arms)

    def _table_problems(self, paper: Paper) -> Iterator[str]:
        for name, table in paper.tables.items():
            for benchmark in table.on:
                yield from absent(f"tables.{name}.on", "benchmark", benchmark, self.benchmarks)
                yield from self._metric_problems(name, table, benchmark)
            for row in table.rows:
                where = f"tables.{name}.rows: {row.run}: "
                if row.run:
                    yield from absent(f"{where}system", "system", row.system, self.experiments)
                if row.run and row.system in self.experiments:
                    known = self.experiments[row.system].variants
                    yield from absent(f"{where}variant", f"variant of {row.system}", row.variant, known)

    def _metric_problems(self, name: str, table: Table, benchmark: str) -> Iterator[str]:
        kind = self.benchmarks[benchmark].kind if benchmark in self.benchmarks else "crowd"
        for metric in table.metrics:
            yield from absent(f"tables.{name}.metrics", "metric", metric, CLAIMED)
            if metric in CLAIMED and CLAIMED[metric].family not in ("cost", METRICS_OF[kind]):
                yield f"tables.{name}.metrics = {metric}: it makes no sense of {benchmark}, which is of kind {kind}"

    @cached_property
    def stand_ins(self) -> dict[str, StandIn]:
        """Return what stands for each benchmark in this suite; what nothing stands for is not in it."""
        found = {name: self.suite.stand_in(name, benchmark) for name, benchmark in self.benchmarks.items()}
        return {name: entry for name, entry in found.items() if entry is not None and entry.dataset is not None}

    def why_no_data(self, benchmark: str) -> str:
        """Return why this suite has nothing that stands for a benchmark ("" if it has)."""
        if benchmark in self.stand_ins:
            return ""
        entry = self.suite.stand_in(benchmark, self.benchmarks[benchmark])
        why = (entry.note if entry else "") or self.benchmarks[benchmark].by_hand
        return f"suite {self.suite.name} has nothing that stands for {benchmark}{f': {why}' if why else ''}"

    def place(self, benchmark: str) -> str:
        """Return ``<data set>/<split>`` of what stands for a benchmark (two may share one: one measurement), or ""."""
        entry = self.stand_ins.get(benchmark)
        return f"{entry.dataset}/{entry.split}" if entry else ""

    def _split(self, benchmark: str | None, system: str) -> Split | None:
        entry = self.stand_ins.get(benchmark or "")
        if entry is None:
            return None
        preparation = self.suite.systems[system].preparation or entry.preparation
        return Split(dataset=str(entry.dataset), split=str(entry.split), preparation=preparation)

    @cached_property
    def runs(self) -> list[Run]:
        """Return every run that config.yaml chooses in this suite, with each seed, in a fixed order."""
        return [
            self._variants[key].model_copy(update={"seed": seed})
            for key in self._named
            if not self.not_run(*key)
            for seed in self.config.seeds
            if not self._only or seed in self._only["/".join(key)]
        ]

    @cached_property
    def _only(self) -> dict[str, set[int]]:
        """Return the seeds of each variant (``system/variant``) that ``only`` chooses; empty: all of them."""
        found: dict[str, set[int]] = {}
        for name in self.config.only:
            found.setdefault("/".join(name.split("/")[:2]), set()).update(self.config.chosen_seeds(name))
        return found

    @cached_property
    def trainings(self) -> list[Run]:
        """Return the runs that are trained (or imported): one for each training that some run reads."""
        return self._first_of("trained_as", "training_id")

    @cached_property
    def evaluations(self) -> list[Run]:
        """Return the runs that are predicted: one for each evaluation."""
        return self._first_of("evaluated_as", "evaluation_id")

    def training_of(self, run: Run) -> Run:
        """Return the run whose training a run reads: mostly itself."""
        return self._variants[run.system, run.trained_as].model_copy(update={"seed": run.seed})

    def _first_of(self, variant: str, run_id: str) -> list[Run]:
        found = {
            getattr(run, run_id): self._variants[run.system, getattr(run, variant)].model_copy(
                update={"seed": run.seed}
            )
            for run in self.runs
        }
        return list(found.values())

    @cached_property
    def _named(self) -> list[tuple[str, str]]:
        """Return the (system, variant) of the chosen papers' tables and the chosen systems, each once."""
        found: dict[tuple[str, str], None] = {}
        for paper in self.papers.values():
            for run in paper.runs:
                system, _, variant = run.partition("/")
                if not self.config.systems or system in self.config.systems:
                    found[system, variant] = None
        return list(found)

    @cached_property
    def _variants(self) -> dict[tuple[str, str], Run]:
        """Return every variant that this suite can run, with seed 0, resolved and with what it shares with others."""
        found: dict[tuple[str, str], Run] = {}
        first: dict[str, str] = {}
        for system in self.suite.systems:
            for variant in self.experiments[system].variants:
                if self._not_in_suite(system, variant):
                    continue
                run = self.resolved(system, variant)
                reads = self.experiments[system].variants[variant].reads
                if reads is not None and (system, reads) in found:
                    trained_as = found[system, reads].trained_as
                else:
                    trained_as = first.setdefault(f"train {_training_key(run)}", variant)
                splits = sorted({split.model_dump_json() for split in run.benchmarks.values()})
                tests = {name: test.model_dump(mode="json") for name, test in run.prompt_tests.items()}
                evaluation = json.dumps(
                    [system, trained_as, run.settings, [splits, tests]], sort_keys=True, default=str
                )
                evaluated_as = first.setdefault(f"evaluate {evaluation}", variant)
                update = {"trained_as": trained_as, "evaluated_as": evaluated_as}
                found[system, variant] = run.model_copy(update=update)
        return found

    def resolved(self, system: str, variant_name: str) -> Run:
        """Return a variant as this suite's sizes and budgets make it, with seed 0, whether or not the suite runs it."""
        experiment, suite = self.experiments[system], self.suite.systems[system]
        variant, data = experiment.variants[variant_name], experiment.data_of(variant_name)
        where = f"experiments/{system}.yaml + {self._suite_file}: variants.{variant_name}"
        layers: list[Any] = [suite, variant, suite.variant(variant_name)]
        if variant.reads is not None:
            self._check_reading(system, variant, where)
            layers[1:1] = [experiment.variants[variant.reads], suite.variant(variant.reads)]
        settings: dict[str, Any] = {}
        recipe: dict[str, Any] = {}
        for layer in layers:
            settings, recipe = merged(settings, layer.settings), merged(recipe, layer.recipe)
        _check_settings(system, settings, where)
        try:
            resolve_recipe(Recipe(), recipe)
        except ValidationError as error:
            raise ConfigError("\n".join(error_lines(error, f"{where}: recipe", Recipe, {}))) from None
        named: list[str] = []
        settings = self._located(settings, named)
        benchmarks = {entry: self._split(entry, system) for entry in data.evaluated_on}
        asked = experiment.prompt_tests if variant_name in (experiment.prompt_tested or [variant_name]) else ()
        tested = {entry: self._split(entry, system) for entry in asked}
        return Run(
            suite=self.suite.name,
            system=system,
            variant=variant_name,
            seed=0,
            trained_as=variant_name,
            evaluated_as=variant_name,
            size=suite.size,
            settings=settings,
            reading=merged(variant.settings, suite.variant(variant_name).settings) if variant.reads else {},
            recipe=recipe,
            protocol=variant.protocol,
            checkpoint=variant.checkpoint,
            checkpoint_path=self._located(self._released(variant), named),
            weights=tuple(dict.fromkeys(named)),
            training=self._split(data.trained_on, system),
            held_out=self._split(data.held_out, system),
            selected_on_test=self._split(data.selected_on_test, system),
            benchmarks={entry: split for entry, split in benchmarks.items() if split is not None},
            prompt_tests={
                entry: PromptTest(
                    split=split,
                    tests=experiment.prompt_tests[entry],
                    pictures=self.suite.prompt_test_pictures,
                    without_listed=self.suite.prompt_tests_without_listed,
                )
                for entry, split in tested.items()
                if split is not None
            },
        )

    def _check_reading(self, system: str, variant: Variant, where: str) -> None:
        """Refuse a variant that would change more than how a trained model is read."""
        described = system_schema(system).get("properties", {})
        reading = [key for key, entry in described.items() if entry.get("reading")]
        _raise(
            f"{where}.settings.{key}: reads: {variant.reads} shares that variant's training, and this setting changes "
            f"the training; settings of the reading are {', '.join(reading) or 'none'}"
            for key in variant.settings
            if described and key not in reading
        )

    def _released(self, variant: Variant) -> str | None:
        """Return the file of a variant's released checkpoint: config.yaml's, or else the one that the suite fetches."""
        if variant.checkpoint is None:
            return None
        return {**self.suite.checkpoints, **self.config.checkpoints}.get(variant.checkpoint)

    def _located(self, value: Any, named: list[str]) -> Any:
        """Return settings with every ``weights:<name>/<file>`` as the file's path, and add the names to ``named``."""
        if isinstance(value, Mapping):
            return {key: self._located(item, named) for key, item in value.items()}
        if not isinstance(value, str) or not value.startswith(WEIGHTS):
            return value
        place = value.removeprefix(WEIGHTS)
        named.append(place.partition("/")[0])
        return str(self.weights / place)

    def not_run(self, system: str, variant: str) -> str:
        """Return why this suite and config.yaml do not run a variant ("" if they do)."""
        return self._not_in_suite(system, variant) or self._left_out.get((system, variant), "")

    def _not_in_suite(self, system: str, variant_name: str) -> str:
        experiment, entry = self.experiments[system], self.suite.systems.get(system)
        variant = experiment.variants[variant_name]
        if entry is None:
            return f"suite {self.suite.name} does not run {system}"
        if entry.skipped(variant_name):
            return entry.skipped(variant_name)
        if variant.checkpoint:
            given = self._released(variant) is not None
            return (
                ""
                if given
                else f"no file is given for the released checkpoint {variant.checkpoint} (config.yaml: checkpoints)"
            )
        return self.why_no_data(experiment.data_of(variant_name).trained_on)

    @cached_property
    def _left_out(self) -> dict[tuple[str, str], str]:
        """Return the variants that config.yaml's choices and its budget leave out, with the reason."""
        result: dict[tuple[str, str], str] = {}
        budget, chosen = self.config.budget_gpu_hours, self._in_tables_and_claims()
        for key in self._named:
            if self._not_in_suite(*key):
                continue
            if chosen is not None and key not in chosen:
                result[key] = "not in the tables or claims that config.yaml chooses"
            elif self.config.runs == ("trained" if self.training_of(self._variants[key]).checkpoint else "released"):
                result[key] = f"config.yaml leaves it out (runs: {self.config.runs})"
            elif self._only and "/".join(key) not in self._only:
                why = "config.yaml leaves it out (only)"
                result[key] = why if budget is None else f"beyond the budget of {budget:g} GPU hours"
        if self.config.systems:
            for system, variant in (
                (run.partition("/")[0], run.partition("/")[2]) for p in self.papers.values() for run in p.runs
            ):
                if system not in self.config.systems:
                    result.setdefault((system, variant), "config.yaml leaves this system out (systems)")
        return result

    def _in_tables_and_claims(self) -> set[tuple[str, str]] | None:
        """Return what the chosen tables and claims need; None where all are chosen."""
        if not self.config.tables and not self.config.claims:
            return None
        papers = self.papers.values()
        rows = [
            row
            for paper in papers
            for name in self.config.tables
            for row in paper.tables[name].rows
            if name in paper.tables
        ]
        claims = [claim for paper in papers for claim in paper.claims if claim.id in self.config.claims]
        arms = {arm for claim in claims for arm in (*claim.arm, *claim.against)}
        return {(row.system, row.variant) for row in rows} | {
            (arm.partition("/")[0], arm.partition("/")[2]) for arm in arms
        }

    def gpu_hours(self, system: str, variant_name: str) -> tuple[float | None, str]:
        """Return the GPU hours of training a variant once, and on what that is based; None: not known beforehand."""
        entry, variant = self.suite.systems[system], self.experiments[system].variants[variant_name]
        if variant.reads is not None:
            return self.gpu_hours(system, variant.reads)
        recipe = default_recipe(system)
        if variant.checkpoint or recipe is None or variant.settings.get("train") is False:
            return 0.0, NO_TRAINING
        own = entry.variant(variant_name)
        cost = own.cost or entry.cost
        if cost is None:
            return None, "not known before a run of it has ended"
        for over in (entry.recipe, variant.recipe, own.recipe):
            recipe = merged(recipe, over)
        return cost.gpu_hours_per_100_epochs * recipe["epochs"] / 100, cost.source

    def run(self, system: str, variant: str, seed: int) -> Run:
        """Return one run: of those that are asked for, or of those whose training or predictions they read."""
        every = [*self.runs, *self.trainings, *self.evaluations]
        for run in every:
            if (run.system, run.variant, run.seed) == (system, variant, seed):
                return run
        name, known = f"{system}/{variant}", {f"{run.system}/{run.variant}" for run in every}
        seeds = f"config.yaml has seeds {list(self.config.seeds)}"
        why = seeds if name in known else unknown("run", name, known)
        if self.suite.systems.get(system) and variant in self.experiments[system].variants and name not in known:
            why = self.not_run(system, variant) or "no row of a chosen table names it"
        raise ConfigError(f"suite {self.suite.name} has no run {name}/seed{seed}: {why}")

    # Paths, all relative to ``root``; the Snakefile and the commands use the same functions.

    def index(self, split: Split) -> Path:
        """Return the index.csv of a prepared data set."""
        return self.data / split.dataset / split.preparation / "index.csv"

    def run_folder(self, run: Run) -> Path:
        """Return the folder of the model, history and run.json of the training that a run reads."""
        return self.results / "runs" / run.training_id

    def checkpoint_folder(self, run: Run) -> Path:
        """Return the folder where an unfinished training run keeps what it needs to resume."""
        return self.results / "checkpoints" / run.training_id

    def predictions(self, run: Run, benchmark: str) -> Path:
        """Return the CSV of a run's predictions on a benchmark."""
        split = run.benchmarks[benchmark]
        return self.results / "predictions" / split.dataset / split.split / f"{run.evaluation_id}.csv"

    def prompt_test_file(self, run: Run, benchmark: str) -> Path:
        """Return the JSON file of a run's prompt tests on a benchmark; its maps are beside it in an .npz."""
        return self.results / "prompt_tests" / benchmark / f"{run.evaluation_id}.json"

    def log(self, step: str, *parts: str) -> Path:
        """Return the log file of a job."""
        return Path("logs") / self.suite.name / step / Path(*parts[:-1]) / f"{parts[-1]}.log"


def load(root: Path | str = ".", overrides: Mapping[str, Any] | None = None) -> Project:
    """Read and check the whole configuration below ``root``."""
    return Project(Path(root), overrides)


def _papers_of_packages() -> list[Path]:
    """Return the folders of papers that outside packages bring by the entry point ``recount.papers``."""
    specs = [find_spec(point.value) for point in entry_points(group="recount.papers")]
    return [Path(spec.submodule_search_locations[0]) for spec in specs if spec and spec.submodule_search_locations]


def _check_settings(system: str, settings: Mapping[str, Any], where: str) -> None:
    """Check settings against the schema generated from the system's own Settings, without importing the system."""
    from jsonschema import Draft202012Validator

    _raise(
        f"{where}: {'.'.join(['settings', *(str(part) for part in error.absolute_path)])}: {error.message[:300]}"
        for error in Draft202012Validator(system_schema(system)).iter_errors(dict(settings))
    )


def _training_key(run: Run) -> str:
    """Return all that a training depends on, as text: equal for two variants that train in exactly the same way."""
    which = {"system", "size", "settings", "recipe", "checkpoint_path", "training", "held_out", "selected_on_test"}
    return json.dumps(run.model_dump(mode="json", include=which), sort_keys=True)
