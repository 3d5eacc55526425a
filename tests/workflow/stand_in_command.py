"""What ``python -m recount`` is in these tests: it notes its call and writes the files that the real command would.

A job whose name is in the environment variable FAIL fails after some lines of log.
"""

import itertools
import json
import os
import sys
from pathlib import Path

step, *arguments = sys.argv[1:]
name = "/".join(arguments)
if step == "schemas":
    for system in ("alpha", "beta"):
        (Path(name) / f"{system}.json").write_text("{}")
    sys.exit()
with Path("calls.txt").open("a") as notes:
    notes.write(" ".join([step, *arguments]) + "\n")

if os.environ.get("FAIL", "nothing at all") in f"{step} {name}":
    print("loss is not finite at step 7")
    sys.exit(1)

settings = json.loads(os.environ["RECOUNT_CONFIG"])
results = Path(settings["results"], settings["suite"])


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if step == "fetch":
    write(Path(settings["resources"], "raw") / name / "manifest.json", "{}")
elif step == "prepare":
    write(Path(settings["resources"], "data") / name / "index.csv", "id,split\n")
elif step == "train":
    for file in ("history.csv", "model.safetensors", "run.json"):
        write(results / "runs" / name / file, f"{file} of {name}")
elif step == "predict":
    run, *benchmarks = arguments
    for split in ({"ucf_qnrf/test": "test", "sha_a/test": "val"}[benchmark] for benchmark in benchmarks):
        for folder, ending in (("predictions", "csv"), ("predictions", "timing.json"), ("maps", "npz")):
            write(results / folder / "dots" / split / f"{run}.{ending}", f"{ending} of {run} on {split}")
elif step == "test-prompts":
    run, *benchmarks = arguments
    for benchmark, ending in itertools.product(benchmarks, ("json", "npz")):
        write(results / "prompt_tests" / benchmark / f"{run}.{ending}", f"{ending} of {run}")
elif step == "score":
    predictions = sorted(str(path) for path in results.glob("predictions/**/*.csv"))
    for file in ("scores.csv", "strata.csv", "influence.csv"):
        write(results / file, "\n".join(predictions))
elif step == "judge":
    write(results / "verdicts.csv", "")
elif step == "report":
    text = "so far" if name else (results / "scores.csv").read_text()
    write(Path(settings["reports"], settings["suite"] + name.removeprefix("-")) / "index.html", text)
