"""Configuration: what runs follow from it, and one clear line per error."""

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from projects import ROOT, copy_settings, experiment, write_project, write_yaml
from recount.settings import project as settings
from recount.settings.base import ConfigError, parse_yaml
from recount.settings.project import Run, load
from recount.settings.recipe import Recipe, resolve_recipe

COUNTER: dict[str, Any] = experiment(
    "Counter",
    {
        "full": "full",
        "no_flip": {"label": "no flip", "settings": {"flip": False}},
        "clean": {"label": "clean", "protocol": "clean", "data": "clean", "recipe": {"optimiser": {"lr": 0.5}}},
        "released": {"label": "released", "checkpoint": "weights"},
    },
    trained_on="set/train",
    evaluated_on=["set/test"],
    selected_on_test="set/test",
)
COUNTER["data"]["clean"] = {"trained_on": "set/train_most", "held_out": "set/held_out", "evaluated_on": ["set/test"]}
PAPER: dict[str, Any] = {
    "tables": {
        "t1": {
            "title": "T1",
            "on": "set/test",
            "rows": [*(f"counter/{name}" for name in COUNTER["variants"]), {"id": "quoted", "quoted": "no code"}],
        }
    },
}
SUITE: dict[str, Any] = {
    "title": "Small",
    "comparable": False,
    "why_not_comparable": "other pictures",
    "benchmarks": {
        f"set/{split}": {"dataset": "crowd", "split": split} for split in ("train", "train_most", "held_out", "test")
    },
    "systems": {
        "counter": {
            "settings": {"width": 4, "flip": True},
            "recipe": {"epochs": 3, "optimiser": {"name": "sgd", "lr": 0.1}},
            "variants": {"no_flip": {"recipe": {"epochs": 2}}},
        }
    },
}


def write(root: Path, *, counter: Any = COUNTER, paper: Any = PAPER, suite: Any = SUITE, main: Any = None) -> Path:
    config = {"suite": "small"}
    write_project(root, experiments={"counter": counter}, papers={"p": paper}, suite=suite, config=config)
    write_yaml(root / "config.yaml", main or config)
    return root


def changed(content: Any, path: str, value: Any) -> Any:
    """Return a copy of nested dictionaries with one value replaced."""
    copy = yaml.safe_load(yaml.safe_dump(content, sort_keys=False))
    *parents, last = path.split(".")
    inner = copy
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return copy


def main(**over: Any) -> dict[str, Any]:
    return {"main": {"suite": "small", **over}}


def rows(*told: Any) -> dict[str, Any]:
    return {"paper": changed(PAPER, "tables.t1.rows", list(told))}


def metrics(*names: str) -> dict[str, Any]:
    return {"paper": changed(PAPER, "tables.t1.metrics", list(names))}


def suite(path: str, value: Any) -> dict[str, Any]:
    return {"suite": changed(SUITE, path, value)}


def variants(path: str, value: Any) -> dict[str, Any]:
    return {"counter": changed(COUNTER, f"variants.{path}", value)}


def test_every_variant_and_seed_is_a_run_and_released_weights_need_a_file(tmp_path: Path) -> None:
    project = load(write(tmp_path), {"seeds": [0, 1]})
    assert [run.id for run in project.runs] == [
        f"counter/{variant}/seed{seed}" for variant in ("full", "no_flip", "clean") for seed in (0, 1)
    ]
    given = load(tmp_path, {"checkpoints": {"weights": "w.pth"}})
    assert given.run("counter", "released", 0).checkpoint_path == "w.pth"


def test_the_papers_switch_goes_over_the_suites_size_and_the_suites_variant_over_both(tmp_path: Path) -> None:
    project = load(write(tmp_path))
    no_flip = project.run("counter", "no_flip", 0)
    assert no_flip.settings == {"width": 4, "flip": False}
    assert no_flip.recipe["epochs"] == 2
    assert project.run("counter", "clean", 0).recipe == {"epochs": 3, "optimiser": {"name": "sgd", "lr": 0.5}}


def test_a_run_is_prompt_tested_where_its_paper_says_and_the_suite_has_data(tmp_path: Path) -> None:
    tested = {"set/test": ["negative_prompts", "mosaics"], "elsewhere/test": ["maps"]}
    asked = write(tmp_path, counter={**COUNTER, "prompt_tests": tested}, suite={**SUITE, "prompt_test_pictures": 5})
    run = load(asked).run("counter", "full", 0)
    assert list(run.prompt_tests) == ["set/test"]
    entry = run.prompt_tests["set/test"]
    assert (entry.tests, entry.pictures) == (("negative_prompts", "mosaics"), 5)
    assert entry.split == run.benchmarks["set/test"]


def test_some_variants_alone_are_prompt_tested(tmp_path: Path) -> None:
    counter = {**COUNTER, "prompt_tests": {"set/test": ["counterfactuals"]}, "prompt_tested": ["clean"]}
    project = load(write(tmp_path, counter=counter))
    assert {run.variant for run in project.runs if run.prompt_tests} == {"clean"}
    with pytest.raises(ConfigError, match=r"prompt_tested = cleam: there is no such variant; the nearest is clean"):
        load(write(tmp_path / "wrong", counter={**counter, "prompt_tested": ["cleam"]}))


def test_an_unknown_test_of_the_prompt_is_refused(tmp_path: Path) -> None:
    counter = {**COUNTER, "prompt_tests": {"set/test": ["mosaic"]}}
    with pytest.raises(ConfigError, match="negative_prompts"):
        load(write(tmp_path, counter=counter))


def test_a_clean_run_trains_on_less_and_never_looks_at_the_test_split(tmp_path: Path) -> None:
    project = load(write(tmp_path))
    full, clean = project.run("counter", "full", 0), project.run("counter", "clean", 0)
    assert (full.training and full.training.split, full.held_out) == ("train", None)
    assert full.selected_on_test is not None
    assert clean.training and clean.held_out
    assert (clean.training.split, clean.held_out.split) == ("train_most", "held_out")
    assert clean.selected_on_test is None


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (main(sedes=[1]), "config.yaml: sedes = [1]: no such key"),
        (main(suite="huge"), "config.yaml: suite = huge: there is no such suite; there are small"),
        (main(device="tpu"), "config.yaml: device = \"tpu\": Input should be 'auto', "),
        (main(seeds=[-1]), "config.yaml: seeds.0 = -1: Input should be greater than"),
        (main(papers=["q"]), "config.yaml: papers = q: there is no such paper; there are p"),
        (main(systems=["q"]), "config.yaml: systems = q: there is no such system; there are counter"),
        (main(seeds=[1, 1]), "config.yaml: seeds: 1 is there twice"),
        (main(tables=["t2"]), "config.yaml: tables = t2: there is no such table; the nearest"),
        (main(checkpoints={"wights": "w"}), "checkpoints = wights: there is no such checkpoint"),
        (rows("conter/full"), "rows: conter/full: system = conter: there is no such system; the nearest is counter"),
        (rows("counter/fulll"), "rows: counter/fulll: variant = fulll: there is no such variant of counter; the n"),
        (rows("counter/full", "counter/full"), "tables.t1.rows: counter/full is there twice"),
        (rows({"quoted": "why"}), "give run (system/variant), or quoted"),
        (metrics("rmsee"), "metrics = rmsee: there is no such metric; the nearest"),
        (metrics("accuracy"), "metrics = accuracy: it makes no sense of set/test"),
        (variants("clean.data", "claen"), "experiments/counter.yaml: variants.clean.data = "),
        (variants("clean.data", "as_published"), "a clean protocol chooses nothing on test"),
        (variants("no_flip.reads", "fool"), "reads = fool: there is no such variant; the ne"),
        (variants("released.stands_for", "nothing"), "stands_for = nothing: there is no such variant"),
        (suite("systems.counter.recipe.epoch", 1), "recipe: epoch = 1: no such key"),
        (suite("comparable", None), "suites/small.yaml: comparable = null: Input should be"),
        (
            suite("systems.counter.skip", {"too long": ["no_flp"]}),
            "systems.counter.skip.too long = no_flp: there is no such variant; the nearest is no_flip",
        ),
        (suite("systems.countr", {}), "systems = countr: there is no such experiment; the nearest is co"),
        (suite("benchmarks", {"set/test": {"dataset": "crowd"}}), "give dataset and split, or stand"),
    ],
)
def test_an_error_is_one_line_with_file_key_value_and_what_is_allowed(
    tmp_path: Path, files: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _ = load(write(tmp_path, **files)).runs
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_benchmark_that_does_not_exist_is_told_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path)
    write_yaml(tmp_path / "experiments" / "counter.yaml", changed(COUNTER, "data.clean.trained_on", "set/trian_most"))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    where = "experiments/counter.yaml: data.clean.trained_on = set/trian_most: "
    assert str(caught.value) == f"{where}there is no such benchmark; the nearest is set/train_most"


@pytest.mark.parametrize(
    "file", ["config.yaml", "suites/small.yaml", "experiments/counter.yaml", "papers/p/paper.yaml"]
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path, file: str) -> None:
    write(tmp_path)
    with (tmp_path / file).open("a") as stream:
        stream.write("spare: 1\nspare: 2\n")
    with pytest.raises(ConfigError, match=rf"{file}: line \d+: spare: the key is there twice, first in line \d+"):
        load(tmp_path)


def test_on_is_a_word_and_not_true(tmp_path: Path) -> None:
    assert load(write(tmp_path)).papers["p"].tables["t1"].on == ("set/test",)


def test_settings_are_checked_against_the_systems_own_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object", "properties": {"width": {"type": "integer"}}, "additionalProperties": False}
    monkeypatch.setattr(settings, "system_schema", lambda system: schema)
    with pytest.raises(ConfigError, match=r"counter\.yaml .*: variants\.full: settings: .*'flip' was unexpected"):
        _ = load(write(tmp_path)).runs


def test_a_real_system_is_checked_without_importing_it_here() -> None:
    with pytest.raises(ConfigError, match=r"mcnn\.yaml .*settings: .*'colours' was unexpected"):
        settings._check_settings("mcnn", {"colours": "red"}, "experiments/mcnn.yaml + suites/mini.yaml: variants.rgb")


# ----------------------------------------------------------------------------------------------- trainings, evaluations


def reading(root: Path, schema: bool, monkeypatch: pytest.MonkeyPatch) -> settings.Project:
    """Return a project with a variant that reads another's training (``schema``: whether its setting may)."""
    known = {"properties": {"flip": {"reading": schema}, "width": {}}}
    monkeypatch.setattr(settings, "system_schema", lambda system: known)
    two = {"full": {"label": "full"}, "unflipped": {"label": "u", "reads": "full", "settings": {"flip": False}}}
    counter, plain = {**COUNTER, "variants": two}, suite("systems.counter.variants", {})
    return load(write(root, counter=counter, **rows("counter/full", "counter/unflipped"), **plain))


def test_a_variant_that_changes_only_the_reading_shares_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = reading(tmp_path, True, monkeypatch)
    full, unflipped = project.runs
    assert [run.id for run in project.trainings] == ["counter/full/seed0"]
    assert [run.id for run in project.evaluations] == ["counter/full/seed0", "counter/unflipped/seed0"]
    assert (unflipped.settings, unflipped.reading) == ({"width": 4, "flip": False}, {"flip": False})
    assert project.run_folder(unflipped) == project.run_folder(full)
    assert project.predictions(unflipped, "set/test") != project.predictions(full, "set/test")
    assert project.training_of(unflipped) == full


def test_a_setting_that_changes_the_training_cannot_be_another_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"variants\.unflipped\.settings\.flip: reads: full shares"):
        _ = reading(tmp_path, False, monkeypatch).runs


def test_two_variants_that_a_suite_runs_alike_are_one_training_and_one_evaluation(tmp_path: Path) -> None:
    project = load(write(tmp_path, **suite("systems.counter.variants", {"no_flip": {"settings": {"flip": True}}})))
    same = project.run("counter", "no_flip", 0)
    assert (same.trained_as, same.evaluated_as) == ("full", "full")
    assert [run.variant for run in project.evaluations] == ["full", "clean"]
    other = load(tmp_path, {"tables": ["t1"], "seeds": [3]}).run("counter", "no_flip", 3)
    assert other.evaluation_id == "counter/full/seed3"


def test_two_papers_that_name_the_same_run_share_it(tmp_path: Path) -> None:
    write(tmp_path)
    write_yaml(tmp_path / "papers" / "q" / "paper.yaml", yaml.safe_load((tmp_path / "papers/p/paper.yaml").read_text()))
    ids = [run.id for run in load(tmp_path).runs]
    assert ids == [run.id for run in load(tmp_path, {"papers": ["q"]}).runs]
    assert len(ids) == len(set(ids))


def test_a_paper_and_its_experiment_may_lie_outside(tmp_path: Path) -> None:
    write(tmp_path / "project")
    outside = tmp_path / "elsewhere" / "mine"
    paper = {**PAPER, "tables": {"mine": {"title": "M", "on": "mine/test", "rows": ["other/full", "counter/full"]}}}
    write_yaml(
        outside / "paper.yaml", {**yaml.safe_load((tmp_path / "project/papers/p/paper.yaml").read_text()), **paper}
    )
    write_yaml(outside / "benchmarks.yaml", {"mine/test": {"title": "Mine", "kind": "crowd", "role": "test"}})
    other = experiment("Other", {"full": "full"}, trained_on="set/train", evaluated_on=["mine/test"])
    write_yaml(outside / "experiments" / "other.yaml", other)
    by_kind = changed(SUITE, "stand_in_by_kind", {"crowd": {"test": {"dataset": "crowd", "split": "test"}}})
    write_yaml(tmp_path / "project" / "suites" / "small.yaml", changed(by_kind, "systems.other", {}))
    project = load(tmp_path / "project", {"papers": [str(outside)]})
    assert list(project.papers) == ["mine"]
    assert {run.id for run in project.runs} == {"other/full/seed0", "counter/full/seed0"}
    assert project.place("mine/test") == project.place("set/test") == "crowd/test"


def test_an_installed_package_may_bring_a_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "project")
    package = tmp_path / "site" / "brought"
    write_yaml(package / "paper.yaml", yaml.safe_load((tmp_path / "project/papers/p/paper.yaml").read_text()))
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    point = EntryPoint("brought", "brought", "recount.papers")
    monkeypatch.setattr(settings, "entry_points", lambda group: [point] if group == point.group else [])
    assert list(load(tmp_path / "project").papers) == ["p", "brought"]
    assert [run.id for run in load(tmp_path / "project", {"papers": ["brought"]}).runs]


def test_a_named_missing_stand_in_says_why(tmp_path: Path) -> None:
    project = load(write(tmp_path, **suite("benchmarks.set/train", {"stand_in": "none", "note": "nobody drew it"})))
    assert project.not_run("counter", "full") == "suite small has nothing that stands for set/train: nobody drew it"


def test_a_folder_that_is_no_clone_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no config.yaml in {re.escape(str(tmp_path))}: run recount in the folder"):
        load(tmp_path)


def test_yaml_tags_are_refused_and_not_executed(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "config.yaml").write_text("suite: !!python/object/apply:os.system ['touch /tmp/executed']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "line 6: with its aliases written out it has more than 100,000 values"),
        ("suite: " + "[" * 100_000, "line 1: nested more than 100 levels deep"),
        ("- " * 100_000 + "x", "line 1: nested more than 100 levels deep"),
        ("suite: &a\n  x: [*a]", r"line 2: \*a stands inside of &a, which would never end"),
        (f"seeds: {'1' * 5000}", "not valid YAML: Exceeds the limit"),
        ("suite: 2024-99-99", "not valid YAML: month must be in"),
        ("suite: !!int ''", "not valid YAML"),
    ],
    ids=range(7),
)
def test_yaml_that_grows_without_end_or_has_values_that_are_none_is_one_line(
    tmp_path: Path, text: str, said: str
) -> None:
    write(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"^config\.yaml: {said}[^\n]*$"):
        load(tmp_path)


def test_an_alias_stands_for_what_it_names() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: {<<: {c: *a}, d: *a}", "x") == {"a": [1, 2], "b": {"c": [1, 2], "d": [1, 2]}}


def test_an_unknown_run_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="has no run counter/fool/seed0: there is no such run; the nearest is counter/full"
    ):
        load(write(tmp_path)).run("counter", "fool", 0)


def test_recipes_merge_key_by_key() -> None:
    base = Recipe.model_validate({"epochs": 9, "optimiser": {"name": "sgd", "lr": 0.1, "momentum": 0.9}})
    over = resolve_recipe(base, {"optimiser": {"lr": 0.2}})
    assert (over.epochs, over.optimiser.lr, over.optimiser.momentum) == (9, 0.2, 0.9)


@pytest.mark.parametrize("suite", sorted(path.stem for path in (ROOT / "suites").glob("*.yaml")))
def test_the_suites_of_the_repository_resolve(suite: str) -> None:
    assert load(ROOT, {"suite": suite}).runs


def test_reading_the_configuration_imports_no_torch() -> None:
    code = f"import sys, recount.settings.project as c; c.load({str(ROOT)!r}).runs"
    code += "; sys.exit({'torch', 'numpy'} & {*sys.modules} != set())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_system_whose_training_set_has_no_stand_in_is_not_run_and_says_why(tmp_path: Path) -> None:
    project = load(write(tmp_path, counter=changed(COUNTER, "data.as_published.trained_on", "other/train")))
    assert [run.variant for run in project.runs] == ["clean"]
    assert project.not_run("counter", "full") == "suite small has nothing that stands for other/train"


# ------------------------------------------------------------------------------------------------------------- claims


def with_claim(**claim: Any) -> dict[str, Any]:
    arms = {"arm": "counter/full", "against": "counter/no_flip"}
    complete = {"id": "C1", "says": "s", **arms, "on": "set/test", "expect": "lower mae"}
    return {**PAPER, "claims": [complete | claim]}


@pytest.mark.parametrize(
    ("arm", "against"),
    [
        (["counter/full"] * 3, ["counter/no_flip", "quoted", "best_constant"]),
        (["counter/full", "counter/clean"], ["counter/no_flip", "quoted"]),  # of equal number: paired in order
    ],
)
def test_claim_with_known_arms_and_benchmarks_is_read(tmp_path: Path, arm: list[str], against: list[str]) -> None:
    paper = with_claim(arm=list(dict.fromkeys(arm)), against=against)
    assert load(write(tmp_path, paper=paper)).papers["p"].claims[0].pairs == tuple(zip(arm, against, strict=True))


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"against": ["nobody/full"]}, ["claims.C1.against = nobody/full", "no such arm in a row of its tables"]),
        ({"against": ["counter/no_flp"]}, ["C1", "counter/no_flp", "the nearest is counter/no_flip"]),
        ({"on": ["sett/test"]}, ["claims.C1.on = sett/test", "the nearest is set/test"]),
        ({"expect": "lower beauty"}, ["claims.C1", "beauty", "no such metric"]),
        ({"expect": "higher mae"}, ["claims.C1", "a better mae is lower"]),
        ({"expect": "mae"}, ["claims.C1.expect"]),
        ({"test": "guess"}, ["claims.C1.test", "guess", "'difference'"]),
        ({"arm": ["counter/full"] * 2, "against": ["quoted"] * 3}, ["claims.C1", "pairs arm (2) and against (3)"]),
        ({"against": []}, ["claims.C1", "pairs arm (1) and against (0)"]),
        ({"on": []}, ["claims.C1", "needs on"]),
        ({"test": "ratio"}, ["claims.C1", "needs expect, and at_least or at_most"]),
        ({"test": "value"}, ["claims.C1", "needs expect and published"]),
        ({"test": "quantity"}, ["claims.C1", "needs bounds"]),
        ({"test": "relative_drop"}, ["claims.C1", "needs expect and two benchmarks"]),
        ({"test": "quantity", "bounds": [{"metric": "pcn", "at_most": 1}]}, ["claims.C1.bounds.0", "nearest is pccn"]),
        ({"test": "quantity", "bounds": [{"metric": "pccn"}]}, ["claims.C1.bounds.0", "at_least, at_most or both"]),
        ({"colour": "red"}, ["claims.C1.colour", "no such key"]),
        ({"were": "Table 1"}, ["claims.C1.were", "no such key; the nearest is where"]),
        ({"test": "ration"}, ["claims.C1.test", "the nearest is ratio"]),
        ({"margin": 2.0}, ["claims.C1: test difference does not read margin: margin belongs to test value"]),
    ],
)
def test_wrong_claim_is_one_line_that_says_what_is_allowed(
    tmp_path: Path, claim: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, paper=with_claim(**claim)))
    (line,) = str(error.value).splitlines()
    assert line.startswith("papers/p/paper.yaml: ")
    assert all(word in line for word in words), line


def test_claims_have_names_of_their_own(tmp_path: Path) -> None:
    paper = with_claim()
    with pytest.raises(ConfigError, match="C1 is there twice"):
        load(write(tmp_path, paper=paper | {"claims": paper["claims"] * 2}))


@pytest.mark.parametrize(
    ("claim", "rule"),
    [
        ({}, "lower mae than the arm it is compared with, on the same images"),
        ({"at_least": 0.5}, "lower mae than the arm it is compared with, by more than 0.5"),
        ({"test": "ratio", "at_most": 0.15}, "mae over that of the arm it is compared with below 0.15"),
        ({"test": "value", "published": 11.76}, "mae as printed: 11.76, or worse by at most 10 %"),
        ({"test": "quantity", "bounds": [{"metric": "pccn", "at_least": 60}]}, "pccn above 60"),
    ],
)
def test_the_rule_of_a_claim_is_put_into_words(tmp_path: Path, claim: dict[str, Any], rule: str) -> None:
    assert load(write(tmp_path, paper=with_claim(**claim))).papers["p"].claims[0].rule == rule


def test_every_quantity_of_claims_is_one_that_prompt_tests_tell() -> None:
    from recount.judging import prompt_evidence
    from recount.judging.claims import OF_ANSWERS
    from recount.metrics import QUANTITIES

    assert set(QUANTITIES) == {*prompt_evidence.QUANTITIES, *OF_ANSWERS, "prompt_names_majority"}


def _runs(suite: str) -> dict[str, Run]:
    """Return the runs of the repository's T2ICount paper in one of its suites."""
    runs = load(ROOT, {"suite": suite, "papers": ["t2icount"]}).runs
    return {f"{run.system}/{run.variant}": run for run in runs}


def _switched(runs: dict[str, Run], name: str, base: str) -> dict[str, Any]:
    """Return the settings and recipe keys in which a run differs from another."""
    one, other = ({**run.settings, "recipe": run.recipe} for run in (runs[name], runs[base]))
    return {key: value for key, value in one.items() if other.get(key) != value}


@pytest.mark.parametrize("suite", ["mini", "open", "paper"])
def test_switch_rows_of_text_guided_systems_switch_what_they_name_and_nothing_else(suite: str) -> None:
    runs = _runs(suite)
    toggles = [runs[f"t2icount/{name}"].settings for name in ("b", "b_rrc", "b_hscm")]
    assert [(made["rrc"], made["hscm"]) for made in toggles] == [(False, False), (True, False), (False, True)]
    assert _switched(runs, "clip_count/end_of_text", "clip_count/as_released") == {"eot_index": "fixed"}
    if suite != "mini":  # which leaves it out
        assert _switched(runs, "clip_count/loss_mask", "clip_count/as_released") == {"count_mask": "spatial"}
    assert _switched(runs, "vlcounter/no_cell_rule", "vlcounter/as_released") == {"carpk_cell_rule": False}
    assert _switched(runs, "vlcounter/no_rank_loss", "vlcounter/as_released") == {"rank_weight": 0.0}
    assert _switched(runs, "countx/class_names", "countx/descriptions") == {"test_text": "class_name"}


@pytest.mark.parametrize("suite", ["mini", "open", "paper"])
def test_every_benchmark_of_t2icount_has_a_stand_in(suite: str) -> None:
    project = load(ROOT, {"suite": suite, "papers": ["t2icount"]})
    wanted = {name for table in project.papers["t2icount"].tables.values() for name in table.on}
    assert wanted <= set(project.stand_ins)


def test_mini_predicts_the_shared_stand_in_of_the_minority_benchmarks_once() -> None:
    run = _runs("mini")["t2icount/full"]
    assert len(run.benchmarks) == 7
    assert run.benchmark_of_split == {
        ("shapes", "val"): "fsc147/val",
        ("shapes", "test"): "fsc147/test",
        ("shapes_minority", "test"): "fsc147s/v1",
        ("parking", "test"): "carpk/test",
    }


@pytest.mark.parametrize("suite", ["mini", "open", "paper"])
def test_text_counting_has_no_run_but_t2icounts(suite: str) -> None:
    both, one = (
        load(ROOT, {"suite": suite, "papers": names}) for names in (["t2icount", "text_counting"], ["t2icount"])
    )
    for runs in ("runs", "trainings", "evaluations"):
        assert {run.id for run in getattr(both, runs)} == {run.id for run in getattr(one, runs)}
    wanted = {name for table in both.papers["text_counting"].tables.values() for name in table.on}
    assert wanted <= set(both.stand_ins)


def test_mini_leaves_out_protocol_variants_of_t2icount_with_a_reason() -> None:
    project = load(ROOT, {"suite": "mini", "papers": ["t2icount"]})
    for variant in ("as_paper", "noise", "latent_scale", "threshold_mean", "weight_decay"):
        assert "suites open and paper run them" in project.not_run("t2icount", variant)
        assert f"t2icount/{variant}" in _runs("open")


def test_a_row_that_is_wrong_is_named_and_not_the_claims_about_it(tmp_path: Path) -> None:
    paper = changed(with_claim(), "tables.t1.rows", ["counter/fulll", {"id": "quoted", "quoted": "no code"}])
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, paper=paper))
    (line,) = str(error.value).splitlines()
    assert "tables.t1.rows: counter/fulll: variant = fulll: there is no such variant" in line


REAL = load(ROOT, {"suite": "paper"})
RELEASED = [
    f"{s}/{name}" for s, entry in REAL.experiments.items() for name, v in entry.variants.items() if v.checkpoint
]


@pytest.mark.parametrize("run", RELEASED)
def test_every_released_variant_resolves_once_its_file_is_given(run: str) -> None:
    system, _, variant = run.partition("/")
    checkpoint = REAL.experiments[system].variants[variant].checkpoint
    given = load(ROOT, {"suite": "paper", "checkpoints": {checkpoint: "released.pth"}})
    assert given.not_run(system, variant) == ""
    assert given.resolved(system, variant).checkpoint_path == "released.pth"


def test_wrong_values_and_wrong_names_are_told_in_one_round(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as wrong:
        load(copy_settings(tmp_path), {"device": "gpu", "seeds": [0, 0], "suite": "min", "only": ["gigacount/ful"]})
    said = str(wrong.value)
    for part in ("device = ", "seeds: 0 is there twice", "suite = min", "no such run; the nearest is gigacount/full"):
        assert part in said
