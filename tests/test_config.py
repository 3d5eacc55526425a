"""Configuration: what runs follow from it, and one clear line per error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from recount.schemas import all_schemas
from recount.settings import paper
from recount.settings import project as config
from recount.settings.base import ConfigError
from recount.settings.project import load
from recount.settings.recipe import Recipe, resolve_recipe

ROOT = Path(__file__).resolve().parents[1]

PAPER: dict[str, Any] = {
    "title": "A paper",
    "short_title": "Paper",
    "authors": "A. Author",
    "year": 2025,
    "venue": "V",
    "systems": {
        "counter": {
            "label": "Counter",
            "trained_on": "set/train",
            "evaluated_on": ["set/test"],
            "selected_on_test": "set/test",
            "clean_trained_on": "set/train_most",
            "clean_held_out": "set/held_out",
            "variants": {
                "full": {"label": "full"},
                "no_flip": {"label": "no flip", "settings": {"flip": False}},
                "clean": {"label": "clean", "protocol": "clean", "recipe": {"optimiser": {"lr": 0.5}}},
                "released": {"label": "released", "checkpoint": "weights"},
            },
        },
        "quoted": {"label": "Quoted", "quoted_because": "no code"},
    },
    "tables": {
        "t1": {
            "title": "T1",
            "benchmarks": ["set/test"],
            "rows": [
                {"label": "Counter", "system": "counter", "variant": "full"},
                {"label": "Q", "system": "quoted"},
            ],
        }
    },
}
SUITE: dict[str, Any] = {
    "title": "Small",
    "comparable": False,
    "why_not_comparable": "other pictures",
    "benchmarks": {
        "set/train": {"dataset": "crowd", "split": "train"},
        "set/train_most": {"dataset": "crowd", "split": "train_most"},
        "set/held_out": {"dataset": "crowd", "split": "held_out"},
        "set/test": {"dataset": "crowd", "split": "test"},
    },
    "systems": {
        "counter": {
            "settings": {"width": 4, "flip": True},
            "recipe": {"epochs": 3, "optimiser": {"name": "sgd", "lr": 0.1}},
            "variants": {"no_flip": {"recipe": {"epochs": 2}}},
        }
    },
}


def write(root: Path, *, paper: Any = PAPER, suite: Any = SUITE, main: Any = None) -> Path:
    (root / "papers" / "p").mkdir(parents=True, exist_ok=True)
    (root / "suites").mkdir(exist_ok=True)
    (root / "papers" / "p" / "paper.yaml").write_text(yaml.safe_dump(paper, sort_keys=False))
    (root / "suites" / "small.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    (root / "config.yaml").write_text(yaml.safe_dump(main or {"suite": "small"}, sort_keys=False))
    return root


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copy = yaml.safe_load(yaml.safe_dump(content, sort_keys=False))
    *parents, last = path.split(".")
    inner = copy
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return copy


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
    paper = changed(PAPER, "systems.counter.prompt_tests", tested)
    run = load(write(tmp_path, paper=paper, suite={**SUITE, "prompt_test_pictures": 5})).run("counter", "full", 0)
    assert list(run.prompt_tests) == ["set/test"]
    entry = run.prompt_tests["set/test"]
    assert (entry.tests, entry.pictures) == (("negative_prompts", "mosaics"), 5)
    assert entry.split == run.benchmarks["set/test"]


def test_an_unknown_test_of_the_prompt_is_refused(tmp_path: Path) -> None:
    paper = changed(PAPER, "systems.counter.prompt_tests", {"set/test": ["mosaic"]})
    with pytest.raises(ConfigError, match="negative_prompts"):
        load(write(tmp_path, paper=paper))


def test_a_clean_run_trains_on_less_and_never_looks_at_the_test_split(tmp_path: Path) -> None:
    project = load(write(tmp_path))
    full, clean = project.run("counter", "full", 0), project.run("counter", "clean", 0)
    assert (full.training and full.training.split, full.held_out) == ("train", None)
    assert full.selected_on_test is not None
    assert (clean.training and clean.training.split, clean.held_out and clean.held_out.split) == (
        "train_most",
        "held_out",
    )
    assert clean.selected_on_test is None


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"main": {"suite": "small", "sedes": [1]}}, "config.yaml: sedes = [1]: no such key"),
        ({"main": {"suite": "huge"}}, "config.yaml: suite = 'huge': allowed are small"),
        ({"main": {"suite": "small", "device": "tpu"}}, "config.yaml: device = \"tpu\": Input should be 'auto', "),
        ({"main": {"suite": "small", "seeds": [-1]}}, "config.yaml: seeds.0 = -1: Input should be greater than"),
        ({"main": {"suite": "small", "papers": ["q"]}}, "config.yaml: papers = ['q']: allowed are p"),
        ({"main": {"suite": "small", "systems": ["q"]}}, "config.yaml: systems = ['q']: allowed are counter, quoted"),
        ({"suite": changed(SUITE, "systems.counter.recipe.epoch", 1)}, "recipe: epoch = 1: no such key"),
        ({"suite": changed(SUITE, "comparable", None)}, "suites/small.yaml: comparable = null: Input should be"),
        ({"paper": changed(PAPER, "tables.t1.rows", [{"label": "x", "system": "y"}])}, "no system is called 'y'"),
        (
            {"paper": changed(PAPER, "tables.t1.rows", [{"label": "x", "system": "counter", "variant": "z"}])},
            "counter has no variant 'z'; it has: full, no_flip, clean, released",
        ),
        ({"paper": changed(PAPER, "systems.quoted.quoted_because", "")}, "systems.quoted: give either variants"),
    ],
)
def test_an_error_is_one_line_with_file_key_value_and_what_is_allowed(
    tmp_path: Path, files: dict[str, Any], line: str
) -> None:
    write(tmp_path, **files)
    with pytest.raises(ConfigError) as caught:
        _ = load(tmp_path).runs
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_the_schemas_in_the_repository_are_those_of_the_code() -> None:
    for path, schema in all_schemas(ROOT).items():
        assert json.loads(path.read_text("utf-8")) == schema, f"{path.name}: `make schemas` writes it anew"


def test_settings_are_checked_against_the_systems_own_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counter.json").write_text(
        '{"type": "object", "properties": {"width": {"type": "integer"}}, "additionalProperties": false}'
    )
    monkeypatch.setattr(config, "SYSTEM_SCHEMAS", tmp_path)
    with pytest.raises(ConfigError, match=r"systems\.counter\.variants\.full: settings: .*'flip' was unexpected"):
        _ = load(write(tmp_path)).runs


def test_a_folder_that_is_no_clone_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no config.yaml in {re.escape(str(tmp_path))}: run recount in the folder"):
        load(tmp_path)


def test_yaml_tags_are_refused_and_not_executed(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "config.yaml").write_text("suite: !!python/object/apply:os.system ['touch /tmp/executed']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(tmp_path)


def test_a_variant_belongs_to_one_paper(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "papers" / "q").mkdir()
    (tmp_path / "papers" / "q" / "paper.yaml").write_text(yaml.safe_dump(PAPER, sort_keys=False))
    with pytest.raises(ConfigError, match="papers/p has it already"):
        load(tmp_path)


def test_an_unknown_run_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no run counter/fool/seed0; it has.*counter/full"):
        load(write(tmp_path)).run("counter", "fool", 0)


def test_recipes_merge_key_by_key() -> None:
    base = Recipe.model_validate({"epochs": 9, "optimiser": {"name": "sgd", "lr": 0.1, "momentum": 0.9}})
    over = resolve_recipe(base, {"optimiser": {"lr": 0.2}})
    assert (over.epochs, over.optimiser.lr, over.optimiser.momentum) == (9, 0.2, 0.9)


@pytest.mark.parametrize("suite", sorted(path.stem for path in (ROOT / "suites").glob("*.yaml")))
def test_the_suites_of_the_repository_resolve(suite: str) -> None:
    assert load(ROOT, {"suite": suite}).runs


def test_reading_the_configuration_imports_no_torch() -> None:
    code = f"import sys, recount.settings.project as c; c.load({str(ROOT)!r}).runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_system_whose_training_set_has_no_stand_in_is_not_run_and_says_why(tmp_path: Path) -> None:
    project = load(write(tmp_path, paper=changed(PAPER, "systems.counter.trained_on", "other/train")))
    assert project.runs == []
    counter = project.papers["p"].systems["counter"]
    assert project.not_run("counter", "full", counter) == "suite small has nothing that stands for other/train"


# ------------------------------------------------------------------------------------------------------------- claims


def with_claim(**claim: Any) -> dict[str, Any]:
    complete = {
        "id": "C1",
        "statement": "s",
        "better": ["counter/full"],
        "worse": ["counter/no_flip"],
        "benchmarks": ["set/test"],
    }
    return {**PAPER, "claims": [complete | claim]}


def test_claim_with_known_arms_and_benchmarks_is_read(tmp_path: Path) -> None:
    claim = (
        load(write(tmp_path, paper=with_claim(worse=["counter/no_flip", "quoted", "best_constant"]))).papers["p"].claims
    )
    assert claim[0].pairs == (
        ("counter/full", "counter/no_flip"),
        ("counter/full", "quoted"),
        ("counter/full", "best_constant"),
    )


def test_arms_of_equal_number_are_paired_in_order(tmp_path: Path) -> None:
    paper = with_claim(better=["counter/full", "counter/clean"], worse=["counter/no_flip", "quoted"])
    claim = load(write(tmp_path, paper=paper)).papers["p"].claims[0]
    assert claim.pairs == (("counter/full", "counter/no_flip"), ("counter/clean", "quoted"))


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"worse": ["nobody/full"]}, ["C1", "no system is called 'nobody'"]),
        ({"worse": ["counter/nothing"]}, ["C1", "no variant 'nothing'", "no_flip"]),
        ({"worse": ["counter"]}, ["C1", "say which variant"]),
        ({"benchmarks": ["other/test"]}, ["C1", "other/test", "set/test"]),
        ({"metric": "beauty"}, ["claims.0.metric", "beauty", "'mae'"]),
        ({"test": "guess"}, ["claims.0.test", "guess", "'difference'"]),
        ({"better": ["counter/full"] * 2, "worse": ["quoted"] * 3}, ["claims.0", "pairs better (2) and worse (3)"]),
        ({"worse": []}, ["claims.0", "pairs better (1) and worse (0)"]),
        ({"benchmarks": []}, ["claims.0", "needs benchmarks"]),
        ({"test": "ratio"}, ["claims.0", "needs at_least or at_most"]),
        ({"test": "value"}, ["claims.0", "needs published"]),
        ({"test": "quantity"}, ["claims.0", "needs bounds"]),
        ({"test": "relative_drop"}, ["claims.0", "needs two benchmarks"]),
        ({"test": "quantity", "bounds": [{"metric": "pccn"}]}, ["claims.0.bounds.0", "at_least, at_most or both"]),
        ({"colour": "red"}, ["claims.0.colour", "no such key"]),
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


def test_released_weights_stand_for_a_variant_that_exists(tmp_path: Path) -> None:
    counter = PAPER["systems"]["counter"]
    variants = counter["variants"] | {"released": {"label": "r", "checkpoint": "w", "stands_for": "nothing"}}
    paper = {**PAPER, "systems": {**PAPER["systems"], "counter": {**counter, "variants": variants}}}
    with pytest.raises(ConfigError, match="stands_for = 'nothing'"):
        load(write(tmp_path, paper=paper))


def test_metrics_of_claims_are_those_that_are_computed() -> None:
    from recount.judging import prompt_evidence
    from recount.metrics import COSTS, METRICS, QUANTITIES, RECALL

    assert set(get_args(paper.PredictionMetric)) == {*METRICS, RECALL.name}
    assert set(get_args(paper.CostMetric)) == set(COSTS)
    assert set(get_args(paper.QuantityMetric)) == set(QUANTITIES) == {*prompt_evidence.QUANTITIES, "nearer_to_majority"}


def _runs(suite: str) -> dict[str, config.Run]:
    """Return the runs of the repository's T2ICount paper in one of its suites."""
    runs = load(ROOT, {"suite": suite, "papers": ["t2icount"]}).runs
    return {f"{run.system}/{run.variant}": run for run in runs}


def _switched(runs: dict[str, config.Run], name: str, base: str) -> dict[str, Any]:
    """Return the settings and recipe keys in which a run differs from another."""
    one, other = ({**run.settings, "recipe": run.recipe} for run in (runs[name], runs[base]))
    return {key: value for key, value in one.items() if other.get(key) != value}


@pytest.mark.parametrize("suite", ["mini", "open", "paper"])
def test_switch_rows_of_text_guided_systems_switch_what_they_name_and_nothing_else(suite: str) -> None:
    runs = _runs(suite)
    toggles = {name: runs[f"t2icount/{name}"].settings for name in ("b", "b_rrc", "b_hscm")}
    assert {name: (made["rrc"], made["hscm"]) for name, made in toggles.items()} == {
        "b": (False, False),
        "b_rrc": (True, False),
        "b_hscm": (False, True),
    }
    assert _switched(runs, "clip_count/end_of_text", "clip_count/as_released") == {"eot_index": "fixed"}
    assert _switched(runs, "clip_count/loss_mask", "clip_count/as_released") == {"count_mask": "spatial"}
    assert _switched(runs, "vlcounter/no_cell_rule", "vlcounter/as_released") == {"carpk_cell_rule": False}
    assert _switched(runs, "vlcounter/no_rank_loss", "vlcounter/as_released") == {"rank_weight": 0.0}
    assert _switched(runs, "countx/class_names", "countx/descriptions") == {"text": "class_name"}


@pytest.mark.parametrize("suite", ["mini", "open", "paper"])
def test_every_benchmark_of_t2icount_has_a_stand_in(suite: str) -> None:
    project = load(ROOT, {"suite": suite, "papers": ["t2icount"]})
    wanted = {name for table in project.papers["t2icount"].tables.values() for name in table.benchmarks}
    assert wanted <= set(project.suite.benchmarks)


def test_mini_predicts_the_shared_stand_in_of_the_minority_benchmarks_once() -> None:
    run = _runs("mini")["t2icount/full"]
    assert len(run.benchmarks) == 7
    assert run.benchmark_of_split == {
        ("shapes", "val"): "fsc147/val",
        ("shapes", "test"): "fsc147/test",
        ("shapes_minority", "test"): "fsc147s/v1",
        ("parking", "test"): "carpk/test",
    }


def test_mini_leaves_out_protocol_variants_of_t2icount_with_a_reason() -> None:
    project = load(ROOT, {"suite": "mini", "papers": ["t2icount"]})
    described = project.papers["t2icount"].systems["t2icount"]
    for variant in ("as_paper", "noise", "latent_scale", "threshold_mean", "weight_decay"):
        assert "suites open and paper run them" in project.not_run("t2icount", variant, described)
        assert f"t2icount/{variant}" in _runs("open")
