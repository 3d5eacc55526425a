"""What ``python -m recount`` is where Snakemake is killed: one job kills it and itself, as a power cut does."""

import os
import runpy
import sys
from pathlib import Path

import psutil

if sys.argv[1:] == ["train", "beta/full/seed0"] and not Path("power_cut").exists():
    Path("power_cut").touch()
    shell, snakemake = psutil.Process().parents()[:2]
    for process in (snakemake, shell):
        process.kill()
    os.abort()
runpy.run_module("recount.stand_in_command", run_name="__main__")
