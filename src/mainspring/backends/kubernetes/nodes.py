"""What a cluster has for us: its nodes less what others' pods hold there, or a quota where nodes may not be read. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

import msgspec

from mainspring.backends.kubernetes.manifests import GPUS, HOSTNAME, INSTALLATION
from mainspring.backends.kubernetes.options import GPU, is_tolerated, selected, tolerations
from mainspring.backends.kubernetes.pods import Condition
from mainspring.core.records import Cluster, Node, NodeState, Symptom, SymptomKind
from mainspring.core.resources import Device, Foreign

_UNITS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_LASTING = ("DaemonSet", "Node")  # whose pods are part of a node
_SILENT = frozenset({"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"})
_DRIVERS = ("nvidia.com/cuda.driver-version.full", "amd.com/gpu.driver-version")
_CORDONED = "node.kubernetes.io/unschedulable"
SHARED = ".shared"  # how NVIDIA's device plug-in renames devices that it gives out several times
MAX_CHARS = 300
Amounts = Mapping[str, Decimal]


class Requests(msgspec.Struct, frozen=True):
    """What a container asks for."""

    requests: dict[str, str] = {}


class Container(msgspec.Struct, frozen=True):
    """A container, as far as it takes something."""

    resources: Requests = Requests()
    restartPolicy: str = ""


class HolderSpec(msgspec.Struct, frozen=True):
    """A pod's containers and where they are."""

    nodeName: str = ""
    containers: list[Container] = []
    initContainers: list[Container] = []
    overhead: dict[str, str] = {}


class Owner(msgspec.Struct, frozen=True):
    """What keeps an object there."""

    kind: str = ""


class Marks(msgspec.Struct, frozen=True):
    """Names and marks."""

    name: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    ownerReferences: list[Owner] = []


class Phase(msgspec.Struct, frozen=True):
    """How a pod is."""

    phase: str = ""


class Holder(msgspec.Struct, frozen=True):
    """Any pod, as far as it holds something."""

    metadata: Marks = Marks()
    spec: HolderSpec = HolderSpec()
    status: Phase = Phase()


class NodeSpec(msgspec.Struct, frozen=True):
    """What keeps pods away."""

    unschedulable: bool = False
    taints: list[dict[str, str]] = []


class NodeStatus(msgspec.Struct, frozen=True):
    """What there is."""

    allocatable: dict[str, str] = {}
    capacity: dict[str, str] = {}
    conditions: list[Condition] = []


class Machine(msgspec.Struct, frozen=True):
    """A node as Kubernetes tells of it."""

    metadata: Marks = Marks()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


def quantity(word: str) -> Decimal:
    """Return the number that Kubernetes writes as `500m`, `2`, `1.5Gi`, `128M` or `1e3`. Raises ArithmeticError."""
    for unit, bits in _BINARY.items():
        if word.endswith(unit):
            return Decimal(word.removesuffix(unit)) * (1 << bits)
    if word and word[-1] in _UNITS and not word[-1].isdigit():
        return Decimal(word[:-1]).scaleb(_UNITS[word[-1]])
    return Decimal(word)


def from_machines(
    cluster: Cluster, machines: Iterable[Machine], holders: Iterable[Holder], installation: str
) -> tuple[Node, ...]:
    """Return the nodes that take our pods; those with a taint that is not tolerated, or without a wanted label, are left out."""
    tolerated, wanted = tolerations(cluster.config), selected(cluster.config)
    lasting, foreign, held = _held(holders, installation)
    found = []
    for machine in sorted(machines, key=lambda one: one.metadata.name):
        labels = {HOSTNAME: machine.metadata.name, **machine.metadata.labels}
        if any(labels.get(key) != value for key, value in wanted.items()):
            continue
        hard = [one for one in machine.spec.taints if one.get("key") not in (*_SILENT, _CORDONED)]
        if all(is_tolerated(taint, tolerated) for taint in hard):
            name = machine.metadata.name
            has = _less({key: quantity(value) for key, value in machine.status.allocatable.items()}, lasting[name])
            node = _node(cluster, name, has, foreign[name], held[name], labels, state_of(machine))
            found.append(replace(node, symptoms=symptoms_of(machine, _gpu(cluster))))
    return tuple(found)


def from_quota(
    cluster: Cluster, namespace: str, quotas: Sequence[Mapping[str, str]], holders: Iterable[Holder], installation: str
) -> tuple[Node, ...]:
    """Return one node that stands for what the name space may use: the least of its quotas, or what the operator declared.

    None, when neither says how many CPUs and how much memory there are.
    """
    declared = {"cpu": "cpus", "memory": "memory", _gpu(cluster): "gpus"}
    has: dict[str, Decimal] = {}
    for name, option in declared.items():
        names = (name, f"requests.{name}", f"limits.{name}")
        limits = [quantity(hard[one]) for hard in quotas for one in names if one in hard]
        if cluster.config.get(option):
            limits.append(Decimal(str(cluster.config[option])) * (2**30 if name == "memory" else 1))
        if limits:
            has[name] = min(limits)
    if not has.get("cpu") or not has.get("memory"):
        return ()
    lasting, foreign, held = _held(holders, installation)
    has = _less(has, _sum(lasting.values()))
    others, ours = _sum(foreign.values()), frozenset(index for one in held.values() for index in one)
    return (_node(cluster, namespace, has, others, ours, {}, NodeState.READY),)


def state_of(machine: Machine) -> NodeState:
    """Return whether a node takes pods."""
    ready = next((one.status for one in machine.status.conditions if one.type == "Ready"), "Unknown")
    if ready != "True":
        return NodeState.UNREACHABLE
    return NodeState.DRAINING if machine.spec.unschedulable else NodeState.READY


def drivers_of(nodes: Iterable[Node]) -> str:
    """Return the versions of the GPUs' drivers that nodes are labelled with by the device plug-in's feature discovery."""
    found = set()
    for node in nodes:
        parts = [node.labels.get(f"nvidia.com/cuda.driver.{part}", "") for part in ("major", "minor", "rev")]
        found.add(next((node.labels[name] for name in _DRIVERS if node.labels.get(name)), ".".join(filter(None, parts))))
    return ", ".join(sorted(found - {""}))


def symptoms_of(machine: Machine, gpu: str) -> tuple[Symptom, ...]:
    """Return what the cluster tells of a node that is not well: its conditions, a cordon, devices that it does not give out.

    Only what is so for long: no moment and no count that grows by itself.
    """
    found = []
    for one in machine.status.conditions:
        if one.type == "Ready" and one.status != "True":
            found.append(f"Kubernetes says not ready: {one.reason or one.status}")
        elif one.type != "Ready" and one.status == "True":
            found.append(f"Kubernetes says {one.type}: {one.message or one.reason}".rstrip(": "))
    if machine.spec.unschedulable:
        found.append("It was cordoned in Kubernetes.")
    has, gives = (int(quantity(told.get(gpu) or "0")) for told in (machine.status.capacity, machine.status.allocatable))
    if gives < has:
        found.append(f"{has - gives} of its {has} {gpu} are unhealthy, says the device plug-in.")
    return tuple(Symptom(kind=SymptomKind.ENGINE, detail=one[:MAX_CHARS]) for one in found)


def _node(
    cluster: Cluster, name: str, has: Amounts, others: Amounts, ours: Iterable[int], labels: Mapping[str, str], state: NodeState
) -> Node:
    gpu = _gpu(cluster)
    left = _less(has, others)
    whole = gpu.removesuffix(SHARED)
    model = labels.get(f"{whole}.product") or labels.get("cloud.google.com/gke-accelerator") or gpu.rpartition("/")[2]
    memory, parts = labels.get(f"{whole}.memory", ""), labels.get(f"{whole}.replicas", "")
    bytes_each = int(memory) << 20 if memory.isdecimal() else 0
    if parts.isdecimal() and int(parts) > 1:
        bytes_each //= int(parts)
    devices = [Device(index=index, model=model, memory_bytes=bytes_each) for index in range(int(has.get(gpu, 0)))]
    free = [device.index for device in devices if device.index not in set(ours)]
    taken = set(free[max(0, len(free) - int(others.get(gpu, 0))) :])
    return Node(
        id=f"{cluster.id}.{name}",
        cluster=cluster.id,
        name=name,
        cpu_milli=int(left.get("cpu", 0) * 1000),
        memory_bytes=int(left.get("memory", 0)),
        disk_bytes=int(left.get("ephemeral-storage", 0)),
        devices=tuple(device for device in devices if device.index not in taken),
        pool=str(cluster.config.get("pool") or cluster.name),
        labels=dict(labels),
        state=state,
        foreign=Foreign(
            cpu_milli=int(has.get("cpu", 0) * 1000) - int(left.get("cpu", 0) * 1000),
            memory_bytes=int(has.get("memory", 0)) - int(left.get("memory", 0)),
            disk_bytes=int(has.get("ephemeral-storage", 0)) - int(left.get("ephemeral-storage", 0)),
            devices=tuple(device for device in devices if device.index in taken),
        ),
    )


def _held(
    holders: Iterable[Holder], installation: str
) -> tuple[dict[str, Amounts], dict[str, Amounts], dict[str, frozenset[int]]]:
    """Return what belongs to each node for good, what others' pods hold there until they end, and which devices ours do."""
    lasting: defaultdict[str, Amounts] = defaultdict(dict)
    foreign: defaultdict[str, Amounts] = defaultdict(dict)
    held: defaultdict[str, frozenset[int]] = defaultdict(frozenset)
    for holder in holders:
        node = holder.spec.nodeName
        if not node or holder.status.phase in ("Succeeded", "Failed"):
            continue
        if holder.metadata.labels.get(INSTALLATION) == installation:
            told = holder.metadata.annotations.get(GPUS, "")
            held[node] |= {int(word) for word in told.split(".") if word.isdecimal()}
            continue
        of = lasting if any(one.kind in _LASTING for one in holder.metadata.ownerReferences) else foreign
        of[node] = _sum([of[node], _asked(holder.spec)])
    return lasting, foreign, held


def _less(has: Amounts, taken: Amounts) -> dict[str, Decimal]:
    return {key: max(Decimal(0), amount - taken.get(key, Decimal(0))) for key, amount in has.items()}


def _asked(spec: HolderSpec) -> Amounts:
    """Return what the scheduler counts for a pod: what stays, or the largest of what runs before it where that is more."""
    lasting = [*spec.containers, *(one for one in spec.initContainers if one.restartPolicy == "Always")]
    total = dict(_sum(_amounts(one.resources.requests) for one in lasting))
    for one in spec.initContainers:
        for name, amount in _amounts(one.resources.requests).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    return _sum([total, _amounts(spec.overhead)])


def _amounts(told: Mapping[str, str]) -> Amounts:
    return {name: quantity(word) for name, word in told.items()}


def _sum(many: Iterable[Amounts]) -> Amounts:
    total: defaultdict[str, Decimal] = defaultdict(Decimal)
    for one in many:
        for name, amount in one.items():
            total[name] += amount
    return total


def _gpu(cluster: Cluster) -> str:
    return str(cluster.config.get("gpu_resource") or GPU)
