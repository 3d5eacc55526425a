"""recount: count again, and put every measured number beside the published one.

    snakemake --cores all                               what config.yaml says
    snakemake --cores all --config suite=open           another suite
    snakemake --cores all --use-conda                   each job in its own conda environment
    snakemake --cores all pretrain                      the tiny base models anew

What is to be done follows from config.yaml, suites/, experiments/ and papers/. Each rule calls the recount command of its name.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.10")

# The package lies beside this file, or is installed (recount init); the packages that it uses must be.
sys.path.insert(0, str(Path(workflow.current_basedir.get_path_or_uri(secret_free=True)) / "src"))
MISSING = [name for name in ("pydantic", "numpy", "PIL", "torch", "typer", "diffusers") if find_spec(name) is None]
if MISSING:
    INSTALL = "`make report`, or `conda env create -f environment.yml && conda activate recount`"
    raise WorkflowError(f"recount's packages are not installed here ({', '.join(MISSING)} missing): {INSTALL}")


configfile: workflow.modifier.path_modifier.replace_prefix("config.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


rule all:
    input:
        # Snakemake makes a missing file anew only if it is asked for: so all results are, not the report alone.
        first_page(),
        all_runs(),
        all_predictions(),
        all_prompt_tests(),
        PROJECT.results / "scores.csv",
        PROJECT.results / "verdicts.csv",
        PROJECT.report,
    localrule: True


onstart:
    say_what_is_by_hand()


# One failed job must not take the report along: score, judge and report what there is; the rest is marked as missing.
onerror:
    report_after_failure()
