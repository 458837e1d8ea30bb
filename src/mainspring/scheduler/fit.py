"""Could it ever run? Judged on empty, healthy nodes, so that a request that fits nowhere is refused when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mainspring.core.health import why_closed
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import GPU_MILLI, Resources
from mainspring.core.units import show_bytes, show_milli
from mainspring.scheduler.cluster import Bools, Cluster, Ints, build
from mainspring.scheduler.requests import Request, make_request

MAX_COUNT = 2**20  # replicas on one node
SHOWN = 6  # names listed in a sentence


def would_fit(nodes: Sequence[Node], resources: Resources, replicas: int = 1, same: str = "") -> Reason | None:
    """Return None if the empty nodes could hold it, else why not: CANNOT_FIT, or NO_CLUSTER when no node is known.

    `same` (a label, `node`) is of gangs, also of one that may start with a single replica: others may join it there.
    Nodes that drain, are in quarantine or out of reach count, devices that were taken out (they may come back), and what work
    that is not ours holds now; dead nodes do not. All replicas go to one cluster.
    """
    cluster = build([(replace(node, closures=()) if node.closures else node).emptied() for node in nodes])
    if not cluster.nodes:
        return no_cluster(cluster)
    request = make_request(cluster, resources)
    return misfit(cluster, request, empty_counts(cluster, request), replicas, same)


def would_one_fit(
    nodes: Sequence[Node], choices: Sequence[Resources], replicas: int, same: str, *, least: int = 0
) -> Reason | None:
    """Return None if the empty nodes could hold one of the `choices`, else why not the first of them. As `would_fit`.

    A gang may start with the `least` (0: all) of its `replicas`; one replica by itself is bound to nobody by `same`.
    """
    together = same if replicas > 1 else ""
    misfits = [would_fit(nodes, asked, least or replicas, together) for asked in choices]
    return None if None in misfits else misfits[0]


def no_cluster(cluster: Cluster) -> Reason:
    """Return the reason of a cluster without any ready node."""
    known = len(cluster.nodes)
    sentence = "Waits for a cluster: no node is registered. An admin adds one with `mainspring cluster add`."
    if known:
        sick = [node for node in cluster.nodes if node.state is NodeState.QUARANTINED]
        words = "draining, unreachable or in quarantine" if sick else "draining or unreachable"
        sentence = f"Waits for a node: none of the {known} registered is ready ({words})."
        sentence += "".join(f" {node.name} is {' '.join(why_closed(node))}." for node in sick[:1])
    return Reason(code=ReasonCode.NO_CLUSTER, sentence=sentence, facts={"nodes": known, "ready": 0})


def empty_counts(cluster: Cluster, request: Request) -> Ints:
    """Return how many replicas each node could hold were it empty."""
    return request.counts(cluster, cluster.capacity, cluster.gpu_capacity())


def most_in_one_cluster(cluster: Cluster, counts: Ints, same: str = "") -> int:
    """Return the largest sum of `counts` over the nodes of one cluster, or over those that are the `same` (a label, `node`)."""
    if same:
        domain = cluster.domain_of(same)
        inside = domain >= 0
        return int(np.bincount(domain[inside], weights=np.minimum(counts[inside], MAX_COUNT)).max(initial=0))
    return max((int(counts[cluster.member == part].sum()) for part in range(len(cluster.clusters))), default=0)


def misfit(cluster: Cluster, request: Request, counts: Ints, replicas: int, same: str = "") -> Reason | None:
    """Return why even the empty `cluster` cannot hold it, saying what it could; None if it can. `counts`: as `empty_counts`."""
    most = most_in_one_cluster(cluster, counts, same)
    if most >= replicas:
        return None
    facts: dict[str, object] = {"asked": request.asked.show(), "replicas": replicas, "replicas_at_most": most}
    if most:
        sentence = (
            f"{replicas} replicas of {request.asked.show()} do not fit into one {same or 'cluster'}: at most {most} do. "
            f"Ask for --replicas {most} or less."
        )
    else:
        sentence = _why_none(cluster, request, facts)
    return Reason(code=ReasonCode.CANNOT_FIT, sentence=sentence, facts=facts)


def _why_none(cluster: Cluster, request: Request, facts: dict[str, object]) -> str:
    asked = request.asked
    pools = sorted({node.pool for node in cluster.nodes})
    if asked.pool and asked.pool not in pools:
        facts["pools"] = pools
        return f"There is no pool {asked.pool!r}. Pools here: {_listed(pools)}."
    allowed = request.allowed(cluster)
    where = f" of pool {asked.pool}" if asked.pool else ""
    if not allowed.any():
        wanted = ", ".join(f"{name}={value}" for name, value in sorted(asked.labels.items()))
        return f"No node{where} has the labels {wanted}. Ask for labels that one node has."
    if asked.is_gpu():
        sentence = _device_trouble(cluster, request, allowed, where, facts)
        if sentence:
            return sentence
    return _too_large(cluster, request, allowed, where, facts)


def _device_trouble(cluster: Cluster, request: Request, allowed: Bools, where: str, facts: dict[str, object]) -> str:
    """Return what is wrong with the devices as such: none at all, none of the model, none with the memory."""
    asked = request.asked
    present = [cluster.kinds[kind] for kind in np.unique(cluster.kind_of[allowed]).tolist() if kind > 0]
    kinds = [kind for kind in present if kind is not None]
    models = sorted({device.model for row in np.flatnonzero(allowed).tolist() for device in cluster.nodes[row].devices})
    facts["models"] = models
    if not kinds:
        return f"No node{where} has a GPU. Ask without GPUs, or for another pool."
    wanted = {model.casefold() for model in asked.gpu_models}
    right = [kind for kind in kinds if not wanted or kind.model in wanted]
    if not right:
        return f"No node{where} has a GPU of model {' or '.join(asked.gpu_models)}. Models here: {_listed(models)}."
    largest = max(kind.memory_bytes for kind in right)
    facts["largest_gpu_memory_bytes"] = largest
    if asked.gpu_memory_bytes > largest:
        if not largest:
            return f"The memory of the GPUs{where} is not known, so none can serve --gpu-memory. Ask for --gpus instead."
        return f"The largest GPU{where} has {show_bytes(largest)} of memory; ask for --gpu-memory {_size(largest)} or less."
    return ""


def _too_large(cluster: Cluster, request: Request, allowed: Bools, where: str, facts: dict[str, object]) -> str:
    """Return the largest node in words, and the flag to lower."""
    asked = request.asked
    usable = (cluster.kind_of > 0) & (request.milli(cluster) <= GPU_MILLI) if request.devices else cluster.kind_of > 0
    gpus = usable.sum(axis=1)
    rows = np.flatnonzero(allowed).tolist()
    # the largest: by what was asked for first, then by the rest; ties go to the first row
    row = max(rows, key=lambda one: (int(gpus[one]) if request.devices else 0, *cluster.capacity[one].tolist(), -one))
    top = {"gpus": max(int(gpus[one]) for one in rows)}
    top |= {
        name: max(int(cluster.capacity[one, column]) for one in rows) for column, name in enumerate(("cpu", "memory", "disk"))
    }
    node = cluster.nodes[row]
    facts["largest_node"] = node.name
    facts["largest"] = {
        "gpus": int(gpus[row]),
        "cpu_milli": node.cpu_milli,
        "memory_bytes": node.memory_bytes,
        "disk_bytes": node.disk_bytes,
    }
    kind = f" {' or '.join(asked.gpu_models)}" if asked.gpu_models else ""
    has = f"{int(gpus[row])}{kind} GPU{'' if int(gpus[row]) == 1 else 's'}, {show_milli(node.cpu_milli)} CPUs"
    has += f" and {show_bytes(node.memory_bytes)}"
    if asked.disk_bytes:
        has += f" with {show_bytes(node.disk_bytes)} of disk"
    flags = []
    if request.devices > top["gpus"]:
        flags.append(f"--gpus {top['gpus']}")
    if asked.cpu_milli > top["cpu"]:
        flags.append(f"--cpus {show_milli(top['cpu'])}")
    if asked.memory_bytes > top["memory"]:
        flags.append(f"--memory {_size(top['memory'])}")
    if asked.disk_bytes > top["disk"]:
        flags.append(f"--disk {_size(top['disk'])}")
    advice = (
        f"ask for {', '.join(flags)} or less" if flags else f"no single node has {asked.show()} together; ask for less of one"
    )
    return f"The largest node{where} has {has}; {advice}."


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "") if names else "none"


def _size(count: int) -> str:
    """Return `count` rounded down as a flag takes it."""
    return f"{count // 2**30}GiB" if count % 2**30 == 0 else f"{count // 2**20}MiB"
