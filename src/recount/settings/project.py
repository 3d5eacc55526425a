"""What to run here: config.yaml, the runs that follow from it, and where their files lie. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from recount.settings.base import BenchmarkId, ConfigError, Name, Strict, checked, error_lines, merged, read_yaml
from recount.settings.experiment import PaperSystem, PromptTestKind, Variant
from recount.settings.paper import Paper, read_paper
from recount.settings.recipe import Precision, Recipe, resolve_recipe
from recount.settings.suite import Suite, SuiteSystem, SuiteVariant

SYSTEM_SCHEMAS = Path(__file__).parents[1] / "systems" / "schemas"
WEIGHTS = "weights:"  # begins the name of a file that is fetched into resources/weights


class Config(Strict):
    """config.yaml: what to run here, and where things lie."""

    suite: Name = "mini"
    papers: tuple[Name, ...] = Field((), description="empty: all")
    systems: tuple[Name, ...] = Field((), description="empty: all of the papers")
    tables: tuple[Name, ...] = Field((), description="only runs that a row of these tables shows; empty: all")
    claims: tuple[Name, ...] = Field((), description="only runs that these claims compare; empty: all")
    budget_gpu_hours: float | None = Field(None, ge=0, description="runs beyond it are left out; null: no limit")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision | None = Field(None, description="null: as each recipe says")
    checkpoints: dict[Name, str] = Field({}, description="released checkpoint -> path of its file")
    checkpoint_minutes: float = Field(10, ge=0)
    loader_processes: int = Field(0, ge=0)
    image_cache_mb: int = Field(2000, ge=0)
    jobs_per_gpu: int = Field(1, gt=0)
    gpus_per_job: int = Field(1, gt=0, description="that train one run; on processors, as many processes")
    training_threads: int = Field(1, gt=0)
    resources: str = "resources"
    results: str = "results"
    reports: str = "reports"


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


class Run(Strict):
    """One training run, resolved: everything its jobs need to know, and nothing else."""

    suite: Name
    system: Name
    variant: Name
    seed: int
    size: Literal["paper", "mini"]
    settings: dict[str, Any]
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
    def benchmark_of_split(self) -> dict[tuple[str, str], BenchmarkId]:
        """Return the first benchmark that each split (data set, split) stands for: several may share one."""
        found: dict[tuple[str, str], BenchmarkId] = {}
        for benchmark, split in self.benchmarks.items():
            found.setdefault((split.dataset, split.split), benchmark)
        return found


def read_config(root: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read ``<root>/config.yaml`` with ``overrides`` (top-level keys) laid over it.

    Raises:
        ConfigError: one line per error.
    """
    path = root / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"there is no config.yaml in {root.absolute()}: run recount in the folder that has it, its clone"
        )
    return checked(Config, merged(read_yaml(path), overrides or {}), "config.yaml")


def _chosen(kind: str, wanted: tuple[str, ...], known: list[str]) -> list[str]:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"config.yaml: {kind} = {unknown}: allowed are {', '.join(known)}")
    return [name for name in known if not wanted or name in wanted]


def _check_settings(system: str, settings: Mapping[str, Any], where: str) -> None:
    """Check settings against the schema generated from the system's own Settings, without importing the system."""
    path = SYSTEM_SCHEMAS / f"{system}.json"
    if not path.is_file():  # an outside package's system: checked when it is built
        return
    from jsonschema import Draft202012Validator

    problems = []
    for error in Draft202012Validator(json.loads(path.read_text(encoding="utf-8"))).iter_errors(dict(settings)):
        key = ".".join(["settings", *(str(part) for part in error.absolute_path)])
        problems.append(f"{where}: {key}: {error.message[:300]}")
    if problems:
        raise ConfigError("\n".join(problems))


def default_recipe(system: str) -> dict[str, Any] | None:
    """Return a system's recipe as it stands in its generated schema, without importing it; None: it does not train."""
    path = SYSTEM_SCHEMAS / f"{system}.json"
    if not path.is_file():  # an outside package's system
        return Recipe().model_dump()
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content.get("recipe", Recipe().model_dump(mode="json"))


class Project:
    """Everything that is configured: config.yaml, the chosen suite and papers, and the runs that follow from them.

    Attributes:
        root: the folder of config.yaml; all relative paths start there.
        config, suite, papers: as read and checked.
    """

    def __init__(self, root: Path, overrides: Mapping[str, Any] | None = None) -> None:
        self.root = root
        self.config = read_config(root, overrides)
        suites = sorted(path.stem for path in (root / "suites").glob("*.yaml"))
        if self.config.suite not in suites:
            raise ConfigError(f"config.yaml: suite = {self.config.suite!r}: allowed are {', '.join(suites)}")
        path = root / "suites" / f"{self.config.suite}.yaml"
        self.suite = checked(Suite, {**read_yaml(path), "name": path.stem}, f"suites/{path.name}")
        folders = sorted(path.parent for path in (root / "papers").glob("*/paper.yaml"))
        known = [folder.name for folder in folders]
        chosen = _chosen("papers", self.config.papers, known)
        every_paper = {folder.name: read_paper(folder, root) for folder in folders}
        self.papers = {name: every_paper[name] for name in chosen}
        self._check_unique(every_paper)
        every = self.papers.values()
        if self.config.systems:
            _chosen("systems", self.config.systems, sorted({name for p in every for name in p.systems}))
        _chosen("tables", self.config.tables, sorted({name for p in every for name in p.tables}))
        _chosen("claims", self.config.claims, [claim.id for p in every for claim in p.claims])

    @staticmethod
    def _check_unique(papers: Mapping[str, Paper]) -> None:
        owner: dict[tuple[str, str], str] = {}
        for paper in papers.values():
            for system, entry in paper.systems.items():
                for variant in entry.variants:
                    other = owner.setdefault((system, variant), paper.name)
                    if other != paper.name:
                        raise ConfigError(
                            f"papers/{paper.name}/paper.yaml: systems.{system}.variants.{variant}: papers/{other} "
                            "has it already; give it another name"
                        )

    def _split(self, benchmark: str | None, system: SuiteSystem) -> Split | None:
        if benchmark is None:
            return None
        entry = self.suite.benchmarks.get(benchmark)
        if entry is None:
            return None
        return Split(dataset=entry.dataset, split=entry.split, preparation=system.preparation or entry.preparation)

    def _run(self, name: str, paper_system: PaperSystem, variant_name: str, seed: int, where: str) -> Run:
        variant = paper_system.variants[variant_name]
        system = self.suite.systems[name]
        own = system.variants.get(variant_name, SuiteVariant())
        settings = merged(merged(system.settings, variant.settings), own.settings)
        recipe = merged(merged(system.recipe, variant.recipe), own.recipe)
        _check_settings(name, settings, f"{where}: systems.{name}.variants.{variant_name}")
        try:
            resolve_recipe(Recipe(), recipe)
        except ValidationError as error:
            raise ConfigError("\n".join(error_lines(error, f"{where}: {name}/{variant_name}: recipe"))) from None
        named: list[str] = []
        settings = self._located(settings, named)
        checkpoint = self._released(variant)
        clean = variant.protocol == "clean"
        benchmarks = {entry: self._split(entry, system) for entry in paper_system.evaluated_on}
        return Run(
            suite=self.suite.name,
            system=name,
            variant=variant_name,
            seed=seed,
            size=system.size,
            settings=settings,
            recipe=recipe,
            protocol=variant.protocol,
            checkpoint=variant.checkpoint,
            checkpoint_path=self._located(checkpoint, named),
            weights=tuple(dict.fromkeys(named)),
            training=self._split((clean and paper_system.clean_trained_on) or paper_system.trained_on, system),
            held_out=self._split((clean and paper_system.clean_held_out) or paper_system.held_out, system),
            selected_on_test=None if clean else self._split(paper_system.selected_on_test, system),
            benchmarks={entry: split for entry, split in benchmarks.items() if split is not None},
            prompt_tests=self._prompt_tests(paper_system, system),
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

    def _prompt_tests(self, paper_system: PaperSystem, system: SuiteSystem) -> dict[str, PromptTest]:
        splits = {benchmark: self._split(benchmark, system) for benchmark in paper_system.prompt_tests}
        return {
            benchmark: PromptTest(
                split=split, tests=paper_system.prompt_tests[benchmark], pictures=self.suite.prompt_test_pictures
            )
            for benchmark, split in splits.items()
            if split is not None
        }

    @cached_property
    def runs(self) -> list[Run]:
        """Return every run of the chosen papers, systems, tables, claims and seeds in this suite, in a fixed order."""
        result: list[Run] = []
        for paper in self.papers.values():
            where = f"papers/{paper.name}/paper.yaml + suites/{self.suite.name}.yaml"
            for name, variant_name in self._wanted(paper):
                if not self.not_run(name, variant_name, paper.systems[name]):
                    system = paper.systems[name]
                    result.extend(self._run(name, system, variant_name, seed, where) for seed in self.config.seeds)
        return result

    def _wanted(self, paper: Paper) -> Iterator[tuple[str, str]]:
        """Yield the systems and variants of a paper that config.yaml chooses and this suite knows."""
        for name, system in paper.systems.items():
            if (not self.config.systems or name in self.config.systems) and name in self.suite.systems:
                yield from ((name, variant) for variant in system.variants)

    def not_run(self, system: str, variant_name: str, described: PaperSystem) -> str:
        """Return why this suite does not run a variant that its paper describes ("" if it does)."""
        return self._not_in_suite(system, variant_name, described) or self._left_out.get((system, variant_name), "")

    def _not_in_suite(self, system: str, variant_name: str, described: PaperSystem) -> str:
        variant, entry = described.variants[variant_name], self.suite.systems.get(system)
        if entry is None:
            return f"suite {self.suite.name} does not run {system}"
        if described.trained_on not in self.suite.benchmarks and not variant.checkpoint:
            return f"suite {self.suite.name} has nothing that stands for {described.trained_on}"
        if variant_name in entry.variants and entry.variants[variant_name].skip:
            return entry.variants[variant_name].skip
        if variant.checkpoint and self._released(variant) is None:
            return f"no file is given for the released checkpoint {variant.checkpoint} (config.yaml: checkpoints)"
        return ""

    @cached_property
    def _left_out(self) -> dict[tuple[str, str], str]:
        """Return the variants that config.yaml's tables, claims and budget leave out, with the reason."""
        result: dict[tuple[str, str], str] = {}
        budget, spent = self.config.budget_gpu_hours, 0.0
        for paper in self.papers.values():
            chosen = self._in_tables_and_claims(paper)
            for key in self._wanted(paper):
                if self._not_in_suite(*key, paper.systems[key[0]]):
                    continue
                hours, _ = self.gpu_hours(*key, paper.systems[key[0]])
                cost = None if hours is None else hours * len(self.config.seeds)
                if chosen is not None and key not in chosen:
                    result[key] = "not in the tables or claims that config.yaml chooses"
                elif budget is not None and cost is None:
                    result[key] = f"left out by the budget of {budget:g} GPU hours: its cost is not known"
                elif budget is not None and cost is not None and spent + cost > budget:
                    result[key] = f"left out by the budget of {budget:g} GPU hours: it takes {cost:.3g}"
                else:
                    spent += cost or 0.0
        return result

    def _in_tables_and_claims(self, paper: Paper) -> set[tuple[str, str]] | None:
        """Return what the chosen tables and claims of a paper need; None where all are chosen."""
        if not self.config.tables and not self.config.claims:
            return None
        tables = [table for name, table in paper.tables.items() if name in self.config.tables]
        rows = {(row.system, row.variant or "") for table in tables for row in table.rows}
        claims = [claim for claim in paper.claims if claim.id in self.config.claims]
        arms = {arm for claim in claims for arm in (*claim.better, *claim.worse)}
        return rows | {(arm.partition("/")[0], arm.partition("/")[2]) for arm in arms}

    def gpu_hours(self, system: str, variant_name: str, described: PaperSystem) -> tuple[float | None, str]:
        """Return the GPU hours of training a variant once, and on what that is based; None: not known beforehand."""
        entry, variant = self.suite.systems[system], described.variants[variant_name]
        recipe = default_recipe(system)
        if variant.checkpoint or recipe is None or variant.settings.get("train") is False:
            return 0.0, "no training"
        own = entry.variants.get(variant_name, SuiteVariant())
        cost = own.cost or entry.cost
        if cost is None:
            return None, "not known before a run of it has ended"
        for over in (entry.recipe, variant.recipe, own.recipe):
            recipe = merged(recipe, over)
        return cost.gpu_hours_per_100_epochs * recipe["epochs"] / 100, cost.source

    def run(self, system: str, variant: str, seed: int) -> Run:
        """Return one run.

        Raises:
            ConfigError: there is no such run in this suite.
        """
        for run in self.runs:
            if (run.system, run.variant, run.seed) == (system, variant, seed):
                return run
        known = ", ".join(sorted({f"{run.system}/{run.variant}" for run in self.runs}))
        raise ConfigError(
            f"suite {self.suite.name} has no run {system}/{variant}/seed{seed}; it has, with seeds "
            f"{list(self.config.seeds)}: {known}"
        )

    # Paths, all relative to ``root``; the Snakefile and the commands use the same functions.

    @property
    def raw(self) -> Path:
        """Return the folder of fetched data sets."""
        return Path(self.config.resources) / "raw"

    @property
    def data(self) -> Path:
        """Return the folder of prepared data sets."""
        return Path(self.config.resources) / "data"

    @property
    def weights(self) -> Path:
        """Return the folder of base weights."""
        return Path(self.config.resources) / "weights"

    @property
    def results(self) -> Path:
        """Return the suite's results folder."""
        return Path(self.config.results) / self.suite.name

    @property
    def report(self) -> Path:
        """Return the suite's report folder."""
        return Path(self.config.reports) / self.suite.name

    def index(self, split: Split) -> Path:
        """Return the index.csv of a prepared data set."""
        return self.data / split.dataset / split.preparation / "index.csv"

    def run_folder(self, run: Run) -> Path:
        """Return the folder of a run's model, history and run.json."""
        return self.results / "runs" / run.id

    def checkpoint_folder(self, run: Run) -> Path:
        """Return the folder where an unfinished training run keeps what it needs to resume."""
        return self.results / "checkpoints" / run.id

    def predictions(self, run: Run, benchmark: str) -> Path:
        """Return the CSV of a run's predictions on a benchmark."""
        split = run.benchmarks[benchmark]
        return (
            self.results
            / "predictions"
            / split.dataset
            / split.split
            / run.system
            / run.variant
            / f"seed{run.seed}.csv"
        )

    def prompt_test_file(self, run: Run) -> Path:
        """Return the JSON file of a run's prompt tests; its maps are beside it in an .npz."""
        return self.results / "prompt_tests" / run.system / run.variant / f"seed{run.seed}.json"

    def log(self, step: str, *parts: str) -> Path:
        """Return the log file of a job."""
        return Path("logs") / self.suite.name / step / Path(*parts[:-1]) / f"{parts[-1]}.log"


def load(root: Path | str = ".", overrides: Mapping[str, Any] | None = None) -> Project:
    """Read and check the whole configuration below ``root``.

    Args:
        root: the folder of config.yaml, papers/ and suites/.
        overrides: top-level keys of config.yaml to replace, as ``snakemake --config`` gives them.

    Raises:
        ConfigError: one line per error: file, key, value, what is allowed.
    """
    return Project(Path(root), overrides)
