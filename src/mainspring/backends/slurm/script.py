"""What is submitted: sbatch's words and the batch script of one replica. Pure."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence

from mainspring.core.backend import LaunchRequest
from mainspring.core.records import Cause

# What a job has of the environment that sbatch is called in, beside what its user's login gives.
PASSED_ON = (
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TZ",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "MODULEPATH",
)
WORDS = ("partition", "account", "qos", "constraint", "reservation", "time")  # options that sbatch takes as they are
_SCRIPT = """#!/bin/sh
trap '' USR1  # the end of the job's time is near: the runner takes it as that, once it is there
folder={folder}
name=${{folder##*/}}
export MAINSPRING_INSTALLATION={installation} MAINSPRING_ATTEMPT="${{name%.*}}" MAINSPRING_REPLICA="${{name##*.}}"
[ ! -h "$folder/cgroup" ] || rm -f "$folder/cgroup"
echo "$SLURM_JOB_ID" >"$folder/{job}"
if [ ! -e "$folder/started" ]; then  # where the kernel counts what it ends for want of memory
    group=
    while IFS=: read -r number kind path; do
        case "$kind" in memory) group="/memory$path"; break ;; "") group=$path ;; esac
    done </proc/self/cgroup
    case "$group" in */job_*) ln -s "/sys/fs/cgroup$group" "$folder/cgroup" ;; esac
fi
{devices}{prolog}
{known}for python in {pythons}; do
    found=$("$python" -S -E -c 'import sys; sys.version_info >= (3, 9) and print(sys.executable)' 2>/dev/null)
    [ -n "$found" ] && exec "$found" -S -E {runner} "$folder"  # itself: what leads to it (a shim) may take as long again
done
echo "[mainspring] No Python 3.9 or newer on $(hostname): name one with the option python, or load a module in prolog." >&2
exit 69
"""
# What leads to a Python (a shim of pyenv or asdf) may take longer than all the rest: where it led on the login host is taken if
# this node is of that kind, and has both the same word and the Python that it leads to there.
_KNOWN = """if [ "$(command -v {word})" = {found} ] && [ -x {real} ] && [ -x {python} ] && [ "$(uname -m)" = {machine} ]; then
    exec {python} -S -E {runner} "$folder"
fi
"""
_VERSIONED = re.compile(r"python3\.(\d+)\Z")
ELSEWHERE = frozenset({"partition", "constraint", "reservation"})  # a run that asks for another is where Slurm has that
JOB = "job"  # the file in a replica's folder that names its job
SIGNALS = {"SIGUSR1": str(Cause.TIMEOUT)}  # what the runner concludes from a signal that Slurm sends on our behalf
OLDEST = 9  # the minor version of Python 3 that the runner needs
_PYTHONS = ("python3", "python3.13", "python3.12", "python3.11", "python3.10", "python3.9", "/usr/bin/python3")


def job_name(installation: str, attempt: str, replica: int) -> str:
    """Return the name by which a replica is found again."""
    return f"{prefix_of(installation)}{attempt}.{replica}"


def prefix_of(installation: str) -> str:
    """Return how the names of an installation's jobs begin."""
    return f"ms-{installation}-"


def owner_of(name: str, installation: str) -> tuple[str, int] | None:
    """Return (attempt, replica) of a job's name; None for anybody else's."""
    prefix = prefix_of(installation)
    attempt, dot, replica = name.removeprefix(prefix).rpartition(".")
    return (attempt, int(replica)) if name.startswith(prefix) and dot and replica.isdecimal() else None


def array_name(installation: str, keys: Sequence[str]) -> str:
    """Return the name of an array of replicas: the same replicas, the same name."""
    return f"{prefix_of(installation)}array-{hashlib.sha256(' '.join(keys).encode()).hexdigest()[:16]}"


def is_array(name: str, installation: str) -> bool:
    """Say whether a job's name is that of an array of ours."""
    return name.startswith(f"{prefix_of(installation)}array-")


def cpus_of(request: LaunchRequest) -> int:
    """Return how many CPUs a replica is submitted with: Slurm's are whole."""
    return max(1, -(-request.granted.cpu_milli // 1000))


def memory_mib(request: LaunchRequest) -> int:
    """Return a replica's memory. One that names none gets its CPUs' part of the node's: Slurm would give it all of it."""
    granted, node = request.granted, request.node
    return max(1, (granted.memory_bytes or node.memory_bytes * granted.cpu_milli // max(1, node.cpu_milli)) >> 20)


def gres_of(request: LaunchRequest, times: int = 1) -> str:
    """Return the GRES of a replica's GPUs, `gpu:h100:2`; empty when it has none."""
    granted = request.granted
    if not granted.devices:
        return ""
    model = {device.index: device.model for device in request.node.devices}.get(granted.devices[0].index, "gpu")
    return f"{'gpu' if model == 'gpu' else f'gpu:{model}'}:{len(granted.devices) * times}"


def sbatch_words(request: LaunchRequest, config: Mapping[str, object], *, nodes: int = 1, each: int = 1) -> list[str]:
    """Return sbatch's words for the shape of a replica, or of a gang of its like, `each` on so many `nodes`.

    The script goes to its standard input.
    """
    words = [
        "sbatch",
        "--parsable",
        f"--nodes={nodes}",
        f"--ntasks={nodes * each}",
        f"--cpus-per-task={cpus_of(request)}",
        f"--mem={memory_mib(request) * each}M",
        "--no-requeue",
        "--open-mode=append",
        "--export=ALL",  # of what is passed on: a list would let Slurm log the user in on the node, which takes seconds
        "--signal=B:USR1@60",
    ]
    if nodes * each > 1:
        words.append(f"--ntasks-per-node={each}")
    gres = gres_of(request, each)
    if gres:
        words.append(f"--gres={gres}")
    if request.timeout_s > 0 and not config.get("time"):  # Slurm may plan with it; a margin lets the runner end it itself
        words.append(f"--time={int(request.timeout_s) // 60 + 3}")
    return words + option_words(config)


def option_words(config: Mapping[str, object]) -> list[str]:
    """Return sbatch's words for the options that it takes as they are."""
    words = [f"--{name}={config[name]}" for name in WORDS if config.get(name)]
    extra = config.get("sbatch")
    return words + ([str(word) for word in extra] if isinstance(extra, list) else shlex.split(str(extra or "")))


def words_of_one(request: LaunchRequest, folder: str) -> list[str]:
    """Return sbatch's words for one replica by itself: its name, the node that the plan chose, its devices."""
    return [
        f"--job-name={job_name(request.installation, request.attempt, request.replica)}",
        *([] if ELSEWHERE & set(request.overrides) else [f"--nodelist={request.node.name}"]),
        f"--comment={comment_of(request)}",
        output_word(f"{folder}/slurm.out"),
        f"--chdir={folder}",
    ]


def output_word(path: str, pattern: str = "") -> str:
    """Return sbatch's word for the file of what a job prints. A `%` of the path is one; in the pattern it is Slurm's."""
    return f"--output={path.replace('%', '%%')}{pattern}"


def words_of_array(name: str, place: str, count: int) -> list[str]:
    """Return sbatch's words for an array; Slurm chooses the nodes among those that serve the shape."""
    return [f"--job-name={name}", f"--array=0-{count - 1}", output_word(f"{place}/", "%a.out"), f"--chdir={place}"]


def batch_script(
    request: LaunchRequest, folder: str, runner: str, config: Mapping[str, object], known: Sequence[str] = ()
) -> str:
    """Return the batch script: the runner takes its process over, so that Slurm's signals reach it.

    `folder` is the replica's, or a line of shell that finds it for an array's element. `known` is where the first of `pythons_of`
    leads after a login, as `Door.python` tells.
    """
    prolog = config.get("prolog")
    return _SCRIPT.format(
        folder=folder,
        job=JOB,
        installation=shlex.quote(request.installation),
        devices="" if request.granted.devices else "export CUDA_VISIBLE_DEVICES= NVIDIA_VISIBLE_DEVICES=void\n",
        prolog="\n".join(str(line) for line in prolog) if isinstance(prolog, list) else str(prolog or ""),
        known=_shortcut(pythons_of(config)[0], known, runner),
        pythons=" ".join(shlex.quote(one) for one in pythons_of(config)),
        runner=shlex.quote(runner),
    )


def pythons_of(config: Mapping[str, object]) -> Sequence[str]:
    """Return the words by which a Python is looked for, the likeliest first."""
    return [str(config["python"])] if config.get("python") else _PYTHONS


def _shortcut(word: str, known: Sequence[str], runner: str) -> str:
    """Return the lines that take a Python without asking it for its version: only one whose file is named by that."""
    version = _VERSIONED.search(known[2]) if len(known) == 4 else None
    if version is None or int(version[1]) < OLDEST:
        return ""
    found, python, real, machine = map(shlex.quote, known)
    return _KNOWN.format(
        word=shlex.quote(word), found=found, python=python, real=real, machine=machine, runner=shlex.quote(runner)
    )


def shape_of(request: LaunchRequest) -> tuple[object, ...]:
    """Return what the replicas of one array must agree in. Members of a gang go by themselves, each to its own node."""
    granted = request.granted
    models = {device.index: device.model for device in request.node.devices}
    return (
        granted.cpu_milli,
        memory_mib(request),
        tuple(sorted(models.get(share.index, "gpu") for share in granted.devices)),
        json.dumps(request.overrides, sort_keys=True, default=str),
        request.timeout_s,
        (request.attempt, request.replica) if request.world_size > 1 else (),
    )


def folder_of_element(place: str) -> str:
    """Return the shell words that read an array element's folder from the list beside it."""
    return f'$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(place + "/folders")})'


def comment_of(request: LaunchRequest) -> str:
    """Return the comment that names the devices of the ledger that a job holds: `gpus=0.3`."""
    return "gpus=" + ".".join(str(share.index) for share in request.granted.devices)
