"""Answers the calls that Snakemake makes of conda. Run as the program ``conda``, in the folder of conda's own layout.

An environment is built by uv from the packages that its file declares and nothing else but what these require, in the
versions of requirements.lock, so that the wheels of the tests' own environment are used again.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conda_files import conda_requirements

ROOT = Path(__file__).parents[2]

# Conda's activation puts the environment first on the path. This one also notes the file's first line: its jobs.
ACTIVATE = 'head -n 1 "$1.yaml" >> environments.txt\nexport CONDA_PREFIX="$1" PATH="$1/bin:$PATH"\n'


def uv() -> str | None:
    """Return the path of uv: make's or one on the PATH."""
    return shutil.which("uv", path=os.pathsep.join([str(ROOT / ".bin"), *os.get_exec_path()]))


def install(folder: Path) -> Path:
    """Lay out a base environment below ``folder`` and return the folder of its programs."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    conda = programs / "conda"
    call = f'PYTHONPATH="{ROOT / "tests"}" exec "{sys.executable}" "{__file__}" "{folder}" "$@"'
    conda.write_text(f"#!/bin/sh\n{call}\n", encoding="utf-8")
    conda.chmod(0o755)
    (programs / "activate").write_text(ACTIVATE, encoding="utf-8")
    return programs


def create(file: Path, prefix: Path) -> None:
    """Build an environment.

    The packages are hard links into uv's cache, so that environments of gigabytes take next to no room and time. Where
    the cache lies on another disk than the environments, uv copies.
    """
    program = uv()
    assert program is not None, "uv is not installed"
    packages = conda_requirements(file)
    python = packages.pop("python")
    running = ".".join(map(str, sys.version_info[:3]))
    assert python.specifier.contains(running), f"{file} asks for {python}; this is Python {running}"
    subprocess.run([program, "venv", "--quiet", f"--python={sys.executable}", str(prefix)], check=True)
    command = [program, "pip", "install", "--quiet", f"--python={prefix / 'bin' / 'python'}"]
    command += [f"--constraint={ROOT / 'requirements.lock'}", *map(str, packages.values())]
    subprocess.run(command, check=True)


def main(prefix: str, arguments: list[str]) -> None:
    """Answer a call to the conda below ``prefix``."""
    match arguments:
        case ["info", "--json"]:
            print(json.dumps({"conda_prefix": prefix, "platform": "linux-64"}))
        case ["--version"]:
            print("conda 26.1.0")
        case ["config", "--get", "channel_priority", "--json"]:
            print(json.dumps({"get": {"channel_priority": "strict"}}))
        case ["env", "create", "--quiet", "--no-default-packages", "--file", file, "--prefix", folder]:
            create(Path(file), Path(folder))
        case ["clean", *_]:
            pass  # nothing but environments is made here
        case _:
            sys.exit(f"the stand-in for conda does not know: conda {' '.join(arguments)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
