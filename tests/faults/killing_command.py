"""What ``python -m recount`` is where Snakemake is killed: one job kills it and itself, as a power cut does.

With INTERRUPT set, judging presses Ctrl-C instead.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

import psutil

if os.environ.get("INTERRUPT"):
    if sys.argv[1:] == ["judge"]:
        os.kill(int(os.environ["SNAKEMAKE_PID"]), signal.SIGINT)
        sys.exit(1)
elif sys.argv[1:] == ["train", "beta/full/seed0"] and not Path("power_cut").exists():
    Path("power_cut").touch()
    above = psutil.Process().parents()  # with the shell's process between this one and Snakemake, or without
    snakemake = [process.pid for process in above].index(int(os.environ["SNAKEMAKE_PID"]))
    for process in reversed(above[: snakemake + 1]):
        process.kill()
    os.abort()
runpy.run_module("recount.stand_in_command", run_name="__main__")
