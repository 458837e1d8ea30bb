"""What `mainspring cluster add slurm` tells of a cluster that cannot be used, each with the command that mends it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mainspring.backends.again import add_again
from mainspring.backends.openssh import NO_PYTHON
from mainspring.backends.slurm.door import Said
from mainspring.backends.slurm.options import OPTIONS
from mainspring.core.backend import Notice
from mainspring.core.records import Cause, Cluster, Outcome
from mainspring.core.units import show_bytes

MIN_PYTHON = (3, 9)
_NOT_THERE = 127
_OPTIONS = ("account", "qos", "reservation", "constraint", "partition")
_OURS = ("invalid", "not permitted", "permission", "unknown", "unrecognized")  # it will never be taken as it is
_NO_PYTHON = f"ExitCode={NO_PYTHON}:0"
_NO_OUTPUT = "ExitCode=0:53"  # Slurm's sign of a job whose --output could not be opened
_GUARD = ("munge", "Munge", "authentication", "Authentication")


def missing_commands(said: Mapping[str, Said], where: str) -> tuple[Notice, ...]:
    """Return the notice of Slurm's commands that are not there, else of one that cannot even tell its version."""
    missing = [name for name, one in said.items() if one.code == _NOT_THERE]
    if missing:
        text = f"Slurm's commands are not {where}: {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed."
        command = "mainspring cluster add slurm LOGIN_HOST" if where == "on this machine" else "sudo apt-get install slurm-client"
        return (Notice(text=text, command=command),)
    version = said["sinfo"]
    if version.code == 0:
        return ()
    return (Notice(text=f"Slurm's commands do not work {where}: {_line(version)}", command="sinfo --version"),)


def unreachable(ping: Said, queue: Said) -> tuple[Notice, ...]:
    """Return the notice of a controller that does not answer, or that does not believe who we are."""
    told = f"{ping.out} {ping.err} {queue.out if queue.code else ''} {queue.err}"
    if any(word in told for word in _GUARD):
        text = f"Slurm does not believe who asks: {_line(queue) or _line(ping)}"
        return (Notice(text=text, command="sudo systemctl restart munge"),)
    if "UP" not in ping.out:
        return (Notice(text=f"Slurm's controller does not answer: {_line(ping)}", command="scontrol ping"),)
    if queue.code != 0:
        return (Notice(text=f"Slurm does not show its queue: {_line(queue)}", command="squeue --me"),)
    return ()


def unknown_partition(cluster: Cluster, there: Sequence[str]) -> tuple[Notice, ...]:
    """Return the notice of partitions that were asked for and that Slurm does not have; several are joined by commas."""
    asked = str(cluster.config.get("partition") or "")
    unknown = [name for name in asked.split(",") if name and name not in there]
    if not unknown or not there:
        return ()
    text = f"Slurm has no partition {', '.join(map(repr, unknown))}; it has {', '.join(there)}."
    return (Notice(text=text, command=add_again(cluster, OPTIONS, partition=there[0])),)


def old_python(version: str, where: str) -> tuple[Notice, ...]:
    """Return the notice of a Python that is too old for what is sent there."""
    if tuple(int(part) for part in version.split(".")[:2]) >= MIN_PYTHON:
        return ()
    return (Notice(text=f"Python {version} is {where}; 3.9 is needed.", command="module load python"),)


def unusable_folder(cluster: Cluster, said: Sequence[Said], folder: str, where: str) -> tuple[Notice, ...]:
    """Return the notice of a folder for runs that cannot be made there, or not be written into: `said` of the two tries."""
    made, written = said
    if made.code == written.code == 0:
        return ()
    what = f"cannot be made {where}: {_line(made)}" if made.code else f"cannot be written into {where}."
    text = f"The folder {folder}, which login host and nodes are to share, {what}"
    return (Notice(text=text, command=add_again(cluster, OPTIONS, folder="FOLDER")),)


def free_disk(said: Said) -> str:
    """Return what is free where runs have their folders, in whole GiB, by `df -Pk`; empty where that told nothing."""
    words = said.out.splitlines()[-1].split() if said.code == 0 and said.out.strip() else []
    return show_bytes(int(words[3]) >> 20 << 30) if len(words) > 4 and words[3].isdecimal() else ""


def refused_job(cluster: Cluster, tried: Said) -> tuple[bool, tuple[Notice, ...]]:
    """Return whether jobs like ours can ever be taken, by what `sbatch --test-only` said, and the notice of what it refused."""
    if tried.code == 0:
        return True, ()
    told = next((line.removeprefix("sbatch: ").strip() for line in tried.err.splitlines() if line.strip()), _line(tried))[:300]
    is_ours = any(word in told.lower() for word in _OURS)
    option = next(
        (word for word in ("account", "qos", "reservation", "constraint", "partition") if word in told.lower()), "sbatch"
    )
    command = add_again(cluster, OPTIONS, **{option: option.upper()}) if is_ours else "sinfo --list-reasons"
    return not is_ours, (Notice(text=f"Slurm would not take a job of ours: {told}", command=command),)


def unseen_folder(details: str, node: str, folder: str) -> Outcome | None:
    """Return how a job ended whose output could not be opened, by `scontrol show job`: its node does not see the folder."""
    if _NO_OUTPUT not in details:
        return None
    return Outcome(
        cause=Cause.LAUNCH_FAILED,
        message=f"Node {node} cannot write into {folder}: nodes and login host must share it. Name one: --folder",
    )


def without_python(details: str, node: str, printed: bytes) -> Outcome | None:
    """Return how a job ended that found no Python on its node for the runner, by `scontrol show job` and what it printed."""
    if _NO_PYTHON not in details or b"[mainspring] No Python" not in printed:
        return None
    text = f"There is no Python 3.9 or newer on node {node}. Name one, or load a module:"
    mends = "--python PATH, --prolog 'module load python'"
    return Outcome(cause=Cause.LAUNCH_FAILED, exit_code=NO_PYTHON, message=f"{text} {mends}")


def unlimited() -> Notice:
    """Return the notice of a Slurm that lets runs use what memory they like."""
    text = "This Slurm does not keep runs within their memory: it has no control groups for tasks."
    command = "TaskPlugin=task/cgroup in slurm.conf, ConstrainRAMSpace=yes in cgroup.conf; then: sudo systemctl restart slurmd"
    return Notice(text=text, command=command)


def limits_of(config: str) -> str:
    """Return whether Slurm keeps jobs within their memory, from `scontrol show config`."""
    told = dict(re.findall(r"^(\w+)\s*= (\S*)", config, re.MULTILINE))
    if "cgroup" in told.get("TaskPlugin", "") and told.get("ConstrainRAMSpace", "yes") == "yes":
        return "kept by control groups"
    if "OverMemoryKill" in told.get("JobAcctGatherParams", ""):
        return "kept by looking now and then"
    return "not kept"


def _line(said: Said) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in f"{said.out}\n{said.err}".splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"it ended with {said.code}"
