"""The JSON schemas of the systems' settings, generated when they are needed and kept in the user's cache.

A system's settings stand in its own file, which imports PyTorch, and the front door must not. So a process of its own
writes the schemas of all systems once for each state of the code; ``recount schemas`` writes them for editors, too.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from recount.settings.base import PACKAGE, ConfigError


def cache_folder() -> Path:
    """Return where recount keeps what it can compute again: RECOUNT_CACHE, else the user's cache folder.

    Where a home can only be read (a container's), it is a folder of the user's own among the temporary files.
    """
    given = os.environ.get("RECOUNT_CACHE")
    if given:
        return Path(given)
    from platformdirs import user_cache_path

    if can_write(user_cache_path("recount")):
        return user_cache_path("recount")
    folder = Path(tempfile.gettempdir()) / f"recount-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder} is somebody else's, and the home cannot be written to: set RECOUNT_CACHE")
    return folder


def cache_of_snakemake() -> dict[str, str]:
    """Return what to set in the environment so that Snakemake, which keeps its sources in a cache, can write there."""
    from platformdirs import user_cache_path

    return {} if can_write(user_cache_path("snakemake")) else {"XDG_CACHE_HOME": str(cache_folder())}


def can_write(folder: Path) -> bool:
    """Return whether files can be written into a folder, which is made if it can be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


@cache
def system_schema(system: str) -> dict[str, Any]:
    """Return the schema of a system's settings with its recipe (null: it does not train); {} of an outside system."""
    if not (PACKAGE / "systems" / f"{system}.py").is_file():
        return {}
    path = _folder() / f"{system}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "recount", "schemas", str(path.parent)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        }
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode or not path.is_file():
            last = (done.stderr.strip() or "no file was written").splitlines()[-1]
            raise ConfigError(
                f"the settings of {system} cannot be checked, because its code cannot be imported: {last}"
            )
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@cache
def _folder() -> Path:
    """Return the folder of the schemas of this state of the code."""
    files = [path for kind in ("systems", "nn", "augmentation") for path in sorted((PACKAGE / kind).glob("*.py"))]
    files += [PACKAGE / "settings" / "recipe.py", PACKAGE / "schemas.py"]
    digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()
    return cache_folder() / "schemas" / digest[:16]
