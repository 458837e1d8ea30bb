"""A gang as one job of Slurm's: all members begin together or none does, each as a step of its own by srun. Pure.

It is one job where its members are alike and each node has as many of them; else each member is a job by itself.
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mainspring.backends.slurm.script import batch_script, gres_of, output_word, prefix_of, shape_of
from mainspring.core.backend import LaunchRequest

STEP = "step"  # the file in a member's folder that names its step and its process
_SCRIPT = """#!/bin/sh
pass_on() {{  # the end of the job's time is near: each runner is told, user code is not
    while read -r node folder; do
        read -r step pid <"$folder/step" && srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" --gres=none --mem=0 \\
            --quiet kill -USR1 "$pid" </dev/null &
    done < {place}/members
}}
trap pass_on USR1
while read -r node folder; do
    srun --nodes=1 --ntasks=1 --exact --nodelist="$node" {shape} --export=ALL --open-mode=append \\
        --output="$(printf %s "$folder" | sed s/%/%%/g)/slurm.out" sh {place}/member "$folder" </dev/null &
done < {place}/members
wait
while [ $? -gt 128 ]; do wait; done  # a signal came in between
"""
_FOLDER = '$1\necho "$SLURM_JOB_ID.$SLURM_STEP_ID $$" > "$1/step"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A member's step: its number and the process of its runner. None of them before it has begun."""

    job: str
    number: str
    pid: str

    @property
    def id(self) -> str:
        """Return what squeue and scancel call it."""
        return f"{self.job}.{self.number}"


def is_whole(members: Sequence[LaunchRequest]) -> bool:
    """Say whether these replicas are a gang that one job can hold: all of them, alike, as many on each node."""
    world = members[0].world_size
    if world < 2 or {member.replica for member in members} != set(range(world)) or len(members) != world:
        return False
    shapes = {shape_of(replace(member, world_size=1)) for member in members}
    return len(shapes) == 1 and len(set(Counter(member.node.name for member in members).values())) == 1


def gang_name(installation: str, attempt: str) -> str:
    """Return the name of a gang's job."""
    return f"{prefix_of(installation)}gang-{hashlib.sha256(attempt.encode()).hexdigest()[:16]}"


def is_gang(name: str, installation: str) -> bool:
    """Say whether a job's name is that of a gang of ours."""
    return name.startswith(f"{prefix_of(installation)}gang-")


def layout(members: Sequence[LaunchRequest]) -> tuple[int, int]:
    """Return how many nodes a gang has, and how many members are on each."""
    nodes = len({member.node.name for member in members})
    return nodes, len(members) // nodes


def words_of_gang(name: str, place: str, members: Sequence[LaunchRequest]) -> list[str]:
    """Return sbatch's words for the job of a gang: the nodes that the plan chose, all of them at once."""
    nodes = sorted({member.node.name for member in members})
    return [f"--job-name={name}", f"--nodelist={','.join(nodes)}", output_word(f"{place}/0.out"), f"--chdir={place}"]


def gang_script(members: Sequence[LaunchRequest], place: str, cpus: int, memory_mib: int) -> str:
    """Return the batch script, which begins a step for each line `node folder` of the file `members`."""
    gres = gres_of(members[0])
    shape = [f"--cpus-per-task={cpus}", f"--mem={memory_mib}M", f"--gres={gres or 'none'}"]
    return _SCRIPT.format(shape=shlex.join(shape), place=shlex.quote(place))


def member_script(member: LaunchRequest, runner: str, config: Mapping[str, object], known: Sequence[str] = ()) -> str:
    """Return what each step runs: it writes down which step and process it is, and the runner takes it over."""
    return batch_script(member, _FOLDER, runner, config, known)


def step_of(told: bytes | None, job: str) -> Step | None:
    """Return the step that a member's file names; None if it is not there, or of an earlier job."""
    words = (told or b"").decode("ascii", "replace").split()
    id, _, number = words[0].partition(".") if len(words) == 2 else ("", "", "")
    return Step(job=id, number=number, pid=words[1]) if id == job and number and words[1].isdecimal() else None


def gently(step: Step, node: str) -> list[str]:
    """Return the command that sends SIGTERM to the runner of a step alone: scancel would send it to user code too."""
    there = [f"--jobid={step.job}", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={node}", "--gres=none", "--mem=0"]
    return ["srun", *there, "--quiet", "kill", "-TERM", step.pid]
