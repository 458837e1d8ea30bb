"""What hosts told, as nodes, facts and notices. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainspring.backends.ssh.options import Target, number, text
from mainspring.core.backend import Notice
from mainspring.core.records import Cluster, Node, NodeState, Symptom, SymptomKind
from mainspring.core.resources import Device
from mainspring.core.symptoms import MAX_CHARS, of_gpus

GIB = 1 << 30


def node_of(cluster: Cluster, target: Target, told: Mapping[str, Any], *, wrong: str | None = None) -> Node:
    """Return a host as a node; `wrong` is why it does not answer. Without room on its disk it takes nothing until it has some."""
    has_room = told["disk_free"] >= number(cluster.config, "min_free_gib") * GIB
    return Node(
        id=f"{cluster.id}.{target.name}",
        cluster=cluster.id,
        name=target.name,
        cpu_milli=int(told["cpus"]) * 1000,
        memory_bytes=int(told["memory_bytes"]),
        disk_bytes=int(told["disk_free"]) // GIB * GIB,  # whole ones: it changes with each look
        devices=_devices(cluster, target, told),
        pool=text(cluster.config, "pool") or "default",
        labels={"host": str(told["name"])},
        state=NodeState.READY if wrong is None and has_room else NodeState.UNREACHABLE,
        boot=str(told.get("boot_id") or ""),
        symptoms=_symptoms(cluster, target, told, has_room, wrong or ""),
    )


def notices_of(name: str, told: Mapping[str, Any], min_free_gib: float) -> list[Notice]:
    """Return what an operator should know of a host that answers."""
    found = []
    if told["disk_free"] < min_free_gib * GIB:
        text = f"{name} takes no runs: only {told['disk_free'] / GIB:.1f} GiB are free on its disk, less than {min_free_gib:g}."
        found.append(Notice(text=text, command=f"ssh {name} df -h"))
    if not told["has_limits"]:
        found.append(Notice(text=f"{name}: memory and CPU limits are not enforced, as this user may not make control groups."))
    if told["kills_leavers"]:
        text = f"{name} ends what people leave running when they log out (KillUserProcesses)."
        found.append(
            Notice(text=text, command="sudo sed -i s/^KillUserProcesses=.*/KillUserProcesses=no/ /etc/systemd/logind.conf")
        )
    return found


def summary_of(count: int, answers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the facts of a cluster for people."""
    facts = {"hosts": f"{len(answers)} of {count} answer" if len(answers) < count else str(count)}
    for key, label in (("system", "system"), ("python", "Python"), ("driver", "driver")):
        found = sorted({str(one[key]) for one in answers.values() if one[key]})
        if found:
            facts[label] = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
    return facts


def _symptoms(cluster: Cluster, target: Target, told: Mapping[str, Any], has_room: bool, wrong: str) -> tuple[Symptom, ...]:
    found = [Symptom(kind=SymptomKind.ENGINE, detail=wrong[:MAX_CHARS])] if wrong else []
    errors = told.get("gpu_errors")
    if target.gpus is None and isinstance(errors, dict):
        found += of_gpus(str(errors.get("table") or ""), str(errors.get("kernel") or ""))
    if not has_room:
        least = number(cluster.config, "min_free_gib")
        text = f"less than {least:g} GiB are free on its disk."
        found.append(Symptom(kind=SymptomKind.DISK, detail=text))
    return tuple(found)


def _devices(cluster: Cluster, target: Target, told: Mapping[str, Any]) -> tuple[Device, ...]:
    if target.gpus is not None:
        model = text(cluster.config, "gpu_model") or "gpu"
        memory = int(number(cluster.config, "gpu_memory_gib") * GIB)
        return tuple(Device(index=n, model=model, memory_bytes=memory, declared=True) for n in range(target.gpus))
    return tuple(
        Device(index=int(one["index"]), uuid=str(one["uuid"]), model=str(one["model"]), memory_bytes=int(one["memory_bytes"]))
        for one in told["devices"]
    )
