"""A real SLURM on this machine: munged, slurmctld and two slurmd with one stand-in card each, all below one folder.

Nothing of the machine's own configuration is read or changed: SLURM_CONF says where this cluster's is, and every port,
key, socket and log is its own.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

NODES = ("n0", "n1")
SILENT = 30  # seconds
HANGS = 540.0  # seconds: a run on a quiet machine takes a quarter of it
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")

PLUGINS = [f"snakemake_executor_plugin_{name}" for name in ("slurm", "slurm_jobstep", "cluster_generic")]
PROFILES = {  # with what makes the tests quick
    "slurm": [
        *("--default-resources", "slurm_partition=gpu", "--slurm-no-account"),
        *("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"),
    ],
    "cluster-generic": ["--max-status-checks-per-second", "5"],
}

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ReturnToService=2
MinJobAge=300
KillWait=1
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=16000 Gres=gpu:1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=16000 Gres=gpu:1
PartitionName=gpu Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return why no cluster can be started here, or None."""
    absent = [program for program in PROGRAMS if _find(program) is None]
    if absent:
        return f"SLURM is not installed (Debian: apt install slurm-wlm munge): no {', '.join(absent)}"
    if os.geteuid() != 0:
        return "only root can start slurmctld and slurmd"
    return None


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/sbin"]))


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def running_cluster() -> Iterator[dict[str, str]]:
    """Yield the variables by which a cluster that takes jobs is reached; afterwards all its daemons are gone."""
    folder = Path(tempfile.mkdtemp(prefix="recount-slurm-"))
    folder.chmod(0o755)  # munge refuses a socket that not everybody can reach
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        variables = _write_configuration(folder)
        environment = {**os.environ, **variables}
        _start_munge(folder, stack)
        _start(stack, folder, environment, "slurmctld", "-D")
        for node in NODES:
            _start(stack, folder, environment, "slurmd", "-D", "-N", node)
        stack.callback(subprocess.run, ["scancel", "--user=root"], env=environment, check=False, capture_output=True)
        _wait_until_idle(environment, folder)
        yield variables


def resume_nodes(variables: dict[str, str]) -> None:
    """Let all nodes take jobs again, also the drained ones."""
    environment = {**os.environ, **variables}
    states = ["sinfo", "--noheader", "--Node", "--format=%N %T"]
    for line in subprocess.run(states, env=environment, check=True, capture_output=True, text=True).stdout.splitlines():
        node, state = line.split()
        if state.startswith("drain"):
            subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], env=environment, check=True)


def _write_configuration(folder: Path) -> dict[str, str]:
    for name in ("state", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir()
    cards = ""
    for node in NODES:
        card = folder / f"card{node}"  # SLURM wants a device file, and takes the card's number from the name's end
        card.symlink_to("/dev/null")
        cards += f"NodeName={node} Name=gpu File={card}\n"
    (folder / "gres.conf").write_text(cards, encoding="utf-8")
    config = folder / "slurm.conf"
    text = CONFIG.format(folder=folder, host=socket.gethostname().split(".")[0], ports=free_ports(3))
    config.write_text(text, encoding="utf-8")
    # Snakemake's plugin takes SLURM_CONF from a job before it calls srun: this srun gives it back.
    programs = folder / "bin"
    programs.mkdir()
    (programs / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={config} exec {_find("srun")} "$@"\n', encoding="utf-8")
    # This squeue finds no controller for a while, where somebody has touched a file beside it.
    silent = f'[ -n "$(find {programs}/silent -newermt "-{SILENT} seconds" 2>&-)" ]'
    (programs / "squeue").write_text(f'#!/bin/sh\nif {silent}; then exit 1; fi\nexec {_find("squeue")} "$@"\n')
    for name in ("srun", "squeue"):
        (programs / name).chmod(0o755)
    return {"SLURM_CONF": str(config), "PATH": os.pathsep.join([str(programs), *os.get_exec_path()])}


def _start_munge(folder: Path, stack: ExitStack) -> None:
    home = folder / "munge"
    home.mkdir()
    (home / "key").write_bytes(secrets.token_bytes(128))
    (home / "key").chmod(0o600)
    for path in (home, home / "key"):
        shutil.chown(path, "munge", "munge")
    home.chmod(0o755)
    paths = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={home / file}" for name, file in paths.items()]
    _start(stack, folder, dict(os.environ), "runuser", "-u", "munge", "--", str(_find("munged")), "-F", *options)
    _wait_for((home / "socket").exists, "munged does not start", folder)


def _start(stack: ExitStack, folder: Path, environment: dict[str, str], program: str, *arguments: str) -> None:
    """Start a daemon in the foreground of a process group of its own; it is ended with its children.

    It is called by its bare name: SLURM drops all cards of a daemon that is called anything but slurmctld or slurmd.
    """
    path = _find(program)
    assert path is not None
    with (folder / "daemons.log").open("ab") as log:
        process = subprocess.Popen(
            [program, *arguments],
            executable=path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=10)
    except ProcessLookupError:
        pass
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    def idle() -> bool:
        answer = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%T"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return answer.stdout.split() == ["idle"] * len(NODES)

    _wait_for(idle, "the nodes do not come up", folder)


def _wait_for(condition: Callable[[], bool], complaint: str, folder: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(folder.rglob("*log")))
            raise RuntimeError(f"{complaint} after {seconds:g} s:\n{logs}")
        time.sleep(0.2)


def environment_with(source: Path, variables: dict[str, str]) -> dict[str, str]:
    """Return this process's environment and path, with ``source`` before it."""
    path = os.pathsep.join([str(source), *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": path, **variables}


def snakemake(folder: Path, work: Path, variables: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow of ``folder`` in a process of its own, with the plugins of this process's path.

    What hangs is ended before the test's own time is over, with the stacks of its threads and the cluster's view of it.
    """
    command = [sys.executable, "-X", "faulthandler", "-m", "snakemake", "--snakefile", str(folder / "Snakefile")]
    environment = environment_with(folder / "src", variables)
    with (
        (work / "snakemake.txt").open("w+", encoding="utf-8") as said,
        subprocess.Popen([*command, *options], cwd=work, env=environment, stdout=said, stderr=said) as process,
    ):
        try:
            process.wait(HANGS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
            process.wait()
            views = (["squeue", "--long"], ["sinfo", "--Node", "--long"], ["scontrol", "show", "jobs"])
            views += (["tail", "-n", "100", str(Path(variables["SLURM_CONF"]).with_name("slurmctld.log"))],)
            for view in views:
                said.flush()
                subprocess.run(view, env=environment, stdout=said, stderr=said, check=False)
        said.seek(0)
        return subprocess.CompletedProcess(process.args, process.returncode, said.read(), "")


ABSENT = missing() or (
    "the cluster plugins are not installed (make test-cluster does it)"
    if any(importlib.util.find_spec(name) is None for name in PLUGINS)
    else None
)
MARKS = [pytest.mark.cluster, pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))]
