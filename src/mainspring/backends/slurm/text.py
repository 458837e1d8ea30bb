"""What Slurm's commands print, as values. Pure.

The text form is read on purpose: the JSON form of versions before 23 gives raw wait statuses, and success for failed jobs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mainspring.core.records import Cluster, Node, NodeState, Symptom, SymptomKind
from mainspring.core.resources import Device, Foreign

JOB_FORMAT = "%i|%T|%n|%N|%C|%m|%b|%S|%k|%r|%j"  # the name last: it may hold anything; times in seconds (SLURM_TIME_FORMAT)
MAX_CHARS = 300
_ENDED = frozenset(
    ["BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"]
)
_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DOWN = ("DOWN", "NOT_RESPONDING", "FAIL", "POWER", "UNKNOWN", "REBOOT", "FUTURE")
_CLOSED = ("DRAIN", "MAINT", "RESERVED", "PLANNED_DOWN", "INVAL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One line of squeue. `node` is where it runs, else the one it asked for; `gpus` counts those of each node."""

    id: str
    name: str
    state: str
    node: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    starts_at: datetime | None = None
    comment: str = ""
    reason: str = ""

    def element(self) -> int:
        """Return which element of an array it is: 4 of `17_4`, 0 for a job by itself."""
        _, _, index = self.id.partition("_")
        return int(index) if index.isdecimal() else 0

    def number(self) -> int:
        """Return the number of the whole job: 17 of `17_4`, and of `17+1`, which is a part of one of unlike parts."""
        found = re.match(r"\d+", self.id)
        return int(found[0]) if found else 0

    def lives(self) -> bool:
        """Say whether something of it runs, or will."""
        return self.state not in _ENDED

    def runs(self) -> bool:
        """Say whether it holds a node."""
        return self.lives() and self.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")


def parse_jobs(told: str) -> list[Job]:
    """Return the jobs of squeue's lines in JOB_FORMAT; a line that says something else is none."""
    found = []
    for line in told.splitlines():
        parts = [part.strip() for part in line.split("|", 10)]
        if len(parts) == 11:
            found.append(
                Job(
                    id=parts[0],
                    state=parts[1],
                    node=_known(parts[3]) or _known(parts[2]),
                    cpus=int(parts[4]) if parts[4].isdecimal() else 0,
                    memory_bytes=size_of(parts[5]),
                    gpus=gpus_of(parts[6]),
                    starts_at=_moment(parts[7]),
                    comment=_known(parts[8]),
                    reason=_known(parts[9]),
                    name=parts[10],
                )
            )
    return found


def last_word(*told: str) -> str:
    """Return the state that the first of sacct's answers tells which tells any: `CANCELLED by 0` is CANCELLED."""
    return next((line.split()[0] for text in told for line in text.splitlines() if line.strip()), "")


def has_features(node: Mapping[str, str], constraint: str) -> bool:
    """Say whether a node may serve a constraint: `a&b`, `a|b`. Of one with counts or brackets Slurm alone knows: it may."""
    there = set(node.get("ActiveFeatures", "").split(","))
    if not constraint or re.fullmatch(r"[\w.:&|,-]+", constraint) is None:
        return True
    return any(all(word in there for word in re.split("[&,]", part)) for part in constraint.split("|"))


def parse_nodes(told: str) -> list[dict[str, str]]:
    """Return the fields of each line of `scontrol --oneliner --details show node`."""
    found = []
    for line in told.splitlines():
        if line.startswith("NodeName="):
            reason = re.search(r"\bReason=(.*?)(?:\s+\w+=.*)?$", line)  # the only field of several words
            found.append({**dict(re.findall(r"(\w+)=(\S*)", line)), **({"Reason": reason[1].strip()} if reason else {})})
    return found


def size_of(word: str) -> int:
    """Return the bytes of Slurm's `4G`, `500M` or `8192` (MiB)."""
    match = re.fullmatch(r"([\d.]+)([KMGT]?)[cn]?", word)
    return int(float(match[1]) * _UNITS[match[2]]) if match else 0


def gpus_of(word: str) -> int:
    """Return how many GPUs `gres:gpu:h100:2`, `gpu:2(S:0-1)` or `gpu:h100:2(IDX:0-1)` are."""
    return sum(count for _, count in gpu_models(word))


def gpu_models(word: str) -> list[tuple[str, int]]:
    """Return (model, count) of each kind of GPU in a GRES list; a model that is not named is `gpu`."""
    found = []
    for part in re.split(r",(?![^(]*\))", word):
        names = re.sub(r"\(.*?\)", "", part).removeprefix("gres:").removeprefix("gres/").replace("=", ":").split(":")
        if names[0] == "gpu":
            count = int(names[-1]) if names[-1].isdecimal() else 1
            model = names[1] if len(names) > 1 and not names[1].isdecimal() else "gpu"
            found.append((model, count))
    return found


def node_of(cluster: Cluster, fields: dict[str, str], ours: Sequence[Job]) -> Node:
    """Return a node with the capacity that is left to us: what others' jobs hold there is told apart.

    `ours` are our own jobs on it; the devices that they hold are named in their comments and are not taken off.
    """
    name = fields["NodeName"]
    cpus, memory = int(fields.get("CPUTot", "0")), int(fields.get("RealMemory", "0")) << 20
    foreign_cpus = max(0, int(fields.get("CPUAlloc", "0")) - sum(job.cpus for job in ours))
    foreign_memory = max(0, (int(fields.get("AllocMem", "0")) << 20) - sum(job.memory_bytes for job in ours))
    foreign_gpus = max(0, gpus_of(fields.get("GresUsed", "")) - sum(job.gpus for job in ours))
    devices = devices_of(fields.get("Gres", ""))
    held = {index for job in ours for index in held_by(job)}
    free = [device for device in devices if device.index not in held]
    taken = {device.index for device in free[len(free) - min(foreign_gpus, len(free)) :]}
    features = [word for word in fields.get("ActiveFeatures", "").split(",") if word and word != "(null)"]
    return Node(
        id=f"{cluster.id}.{name}",
        cluster=cluster.id,
        name=name,
        cpu_milli=(cpus - foreign_cpus) * 1000,
        memory_bytes=memory - foreign_memory,
        disk_bytes=0,
        devices=tuple(device for device in devices if device.index not in taken),
        pool=str(cluster.config.get("pool") or cluster.name),
        labels={"slurm.partition": fields.get("Partitions", ""), **{f"slurm.feature.{word}": "true" for word in features}},
        state=state_of(fields.get("State", "")),
        symptoms=_symptoms(fields),
        foreign=Foreign(
            cpu_milli=foreign_cpus * 1000,
            memory_bytes=foreign_memory,
            devices=tuple(device for device in devices if device.index in taken),
        ),
    )


def _symptoms(fields: dict[str, str]) -> tuple[Symptom, ...]:
    """Return what Slurm says of a node that takes no jobs, with the reason that it was given."""
    word = fields.get("State", "")
    if state_of(word) is NodeState.READY:
        return ()
    reason = _known(fields.get("Reason", ""))
    return (Symptom(kind=SymptomKind.ENGINE, detail=f"Slurm says {word}{': ' + reason if reason else ''}"[:MAX_CHARS]),)


def devices_of(gres: str) -> tuple[Device, ...]:
    """Return the GPUs of a node's GRES list, numbered from 0."""
    models = [model for model, count in gpu_models(gres) for _ in range(count)]
    return tuple(Device(index=index, model=model) for index, model in enumerate(models))


def state_of(word: str) -> NodeState:
    """Return whether a node takes jobs: `IDLE`, `MIXED+DRAIN`, `DOWN*+NOT_RESPONDING`."""
    if word.endswith("*") or any(part in word for part in _DOWN):
        return NodeState.UNREACHABLE
    return NodeState.DRAINING if any(part in word for part in _CLOSED) else NodeState.READY


def held_by(job: Job) -> list[int]:
    """Return the devices that the comment of one of our jobs names."""
    words = job.comment.removeprefix("gpus=")
    return [int(word) for word in words.split(".") if word.isdecimal()] if job.comment.startswith("gpus=") else []


def _moment(word: str) -> datetime | None:
    """Return the moment that seconds of the epoch are; None for `N/A`."""
    return datetime.fromtimestamp(int(word), UTC) if word.isdecimal() and int(word) > 0 else None


def _known(word: str) -> str:
    return "" if word in ("(null)", "N/A", "None", "n/a") else word
