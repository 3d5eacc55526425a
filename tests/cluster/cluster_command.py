"""What ``python -m recount`` is on the test's cluster: troubles at the first attempt, then the stand-in command.

``jobs.txt`` gets a line for each start: the command, its attempt, the node, the card, SLURM's limit on memory.
"""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

command = " ".join(sys.argv[1:])
HUNGRY_MB = 900  # more than the first attempt may use, less than the second


def memory() -> str:
    """Return what SLURM lets this job use, as squeue says it: few SLURM_ variables reach a job of Snakemake's."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "-"
    squeue = [found for place in os.get_exec_path() if (found := shutil.which("squeue", path=place))][-1]
    asked = [squeue, "--noheader", f"--jobs={job}", "--format=%m"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def note() -> int:
    """Append this start to the notes and return which attempt it is."""
    notes = Path("jobs.txt")
    earlier = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
    attempt = 1 + sum(line.startswith(f"{command};") for line in earlier)
    node = os.environ.get("SLURMD_NODENAME", "-")
    line = ";".join([command, str(attempt), node, os.environ.get("CUDA_VISIBLE_DEVICES", "-"), memory()])
    with notes.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    return attempt


attempt = note()
if command == "train alpha/full/seed0" and attempt == 1:
    subprocess.run(["scancel", os.environ["SLURM_JOB_ID"]], check=True)
    signal.pause()
elif command == "train alpha/small/seed0":
    hungry = bytearray(b"1") * (HUNGRY_MB * 1_000_000)
    time.sleep(5)  # SLURM measures each second
elif command == "train beta/full/seed0":
    node = os.environ["SLURMD_NODENAME"]
    subprocess.run(["scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test"], check=True)
elif command == "score":
    Path(str(shutil.which("squeue"))).with_name("silent").touch()  # for half a minute no state is to be had
runpy.run_module("recount.stand_in_command", run_name="__main__")
