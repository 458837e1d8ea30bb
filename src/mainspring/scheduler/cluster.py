"""The nodes as numpy arrays (struct of arrays), with transactions: what is put may be rolled back.

Rows are nodes in the order of ties: pool, then node id. Columns of `free` and `capacity` are CPU (milli), memory and
disk (bytes). Devices of a row are in the order of their index; a column without a device has kind 0 and nothing free, and
so has a device that was taken out: to a plan it is not there, and what still runs on it holds nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mainspring.core.errors import PlannerError
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import GPU_MILLI

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Rows: TypeAlias = Any  # what may index the rows: a slice, an array of row numbers
ALL = slice(None)
MOST_TOUCHED = 100_000  # rows that changed, remembered from plan to plan


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """Devices that are alike to the planner: same model, same memory, given in parts or only whole."""

    model: str
    memory_bytes: int
    is_whole: bool = False


@dataclass(slots=True)
class Cluster:
    """The state that one plan works on. Whoever keeps something by row asks which rows `touched_since` its `mark`."""

    nodes: list[Node]
    row_of: dict[str, int]
    is_ready: Bools  # (nodes,)
    member: Ints  # (nodes,) number of the node's cluster in `clusters`
    clusters: tuple[str, ...]
    capacity: Ints  # (nodes, 3)
    free: Ints  # (nodes, 3), below 0 where a node shrank under its allocations
    gpu_free: Ints  # (nodes, most devices) milli
    kind_of: Ints  # (nodes, most devices) number in `kinds`
    kinds: tuple[DeviceKind | None, ...]
    group_of: Ints  # (nodes,) number in `groups`
    groups: tuple[Node, ...]  # one node for each pool and set of labels
    tenants: Ints  # (nodes,) bits of what holds devices: 1 shares, 2 single GPUs, 2**k k whole ones at once
    _journal: list[tuple[int, Ints, Ints, int]] | None = None
    _listed: tuple[Ints, Ints, Ints] | None = None  # free, gpu_free and tenants as the snapshot has them, once `keep` was called
    _kept_at: int = 0  # the mark when that was so: what was put since differs from the snapshot
    _touched: list[int] = field(default_factory=list)  # rows whose free amounts changed, in order; older ones are forgotten
    _forgotten: int = 0  # how many those are

    def begin(self) -> None:
        """Open a transaction; they do not nest."""
        if self._journal is not None:
            raise PlannerError("A transaction of the planner is open already.")
        self._journal = []

    def commit(self) -> None:
        """Keep what was put since `begin`."""
        self._journal = None

    def rollback(self) -> None:
        """Undo what was put since `begin`."""
        for row, free, gpu_free, tenants in reversed(self._journal or []):
            self.free[row] = free
            self.gpu_free[row] = gpu_free
            self.tenants[row] = tenants
            self._touched.append(row)
        self._journal = None

    def put(self, row: int, need: Ints, columns: Sequence[tuple[int, int]]) -> None:
        """Take `need` (cpu, memory, disk) and the (column, milli) of devices from a row."""
        if self._journal is not None:
            self._journal.append((row, self.free[row].copy(), self.gpu_free[row].copy(), int(self.tenants[row])))
        self.free[row] -= need
        if columns and columns[0][1] > 0:
            self.tenants[row] |= 1 if columns[0][1] < GPU_MILLI else 1 << len(columns)
        for column, milli in columns:
            self.gpu_free[row, column] -= milli
        self._touched.append(row)

    def keep(self) -> None:
        """Remember what is free as what `restore` goes back to."""
        self._listed = (self.free.copy(), self.gpu_free.copy(), self.tenants.copy())
        self._kept_at = self.mark()

    def restore(self) -> None:
        """Undo all that was put since `keep`, whether committed or not."""
        if self._listed is None:
            return
        rows = self._since(self._kept_at)
        for now, listed in zip((self.free, self.gpu_free, self.tenants), self._listed, strict=True):
            now[rows] = listed[rows]
        self._touched.extend(rows.tolist())
        self._kept_at, self._journal = self.mark(), None
        if len(self._touched) > MOST_TOUCHED:  # to look at all rows again is as cheap
            self._forgotten += len(self._touched)
            self._touched.clear()

    def mark(self) -> int:
        """Return the moment by which `touched_since` tells what has changed after it."""
        return self._forgotten + len(self._touched)

    def touched_since(self, mark: int) -> Ints | None:
        """Return the rows whose free amounts changed since `mark`, ascending; None where that is forgotten: it may be all."""
        return self._since(mark) if mark >= self._forgotten else None

    def _since(self, mark: int) -> Ints:
        return np.array(sorted(set(self._touched[mark - self._forgotten :])), dtype=np.int64)

    def renew(self, row: int, node: Node) -> None:
        """Take over what the allocations of a node hold by now; nothing else of it may have changed."""
        self.nodes[row] = node
        self.free[row] = self.capacity[row] - (node.used_cpu_milli, node.used_memory_bytes, node.used_disk_bytes)
        self.gpu_free[row, : len(node.devices)] = _free_devices(node)
        self.tenants[row] = _tenants(self.kind_of[row : row + 1], self.gpu_free[row : row + 1])[0]
        self._touched.append(row)
        if self._listed is not None:
            for now, listed in zip((self.free, self.gpu_free, self.tenants), self._listed, strict=True):
                listed[row] = now[row]

    def domain_of(self, same: str) -> Ints:
        """Return which rows replicas may share: of one cluster (""), of one machine ("node"), or of one value of a label.

        Domains are numbered by name; -1 for rows without the label. A domain never spans clusters.
        """
        if not same:
            return self.member
        if same == "node":
            return np.arange(len(self.nodes), dtype=np.int64)
        named = [(node.cluster, node.labels[same]) if same in node.labels else None for node in self.nodes]
        number = {name: place for place, name in enumerate(sorted({name for name in named if name is not None}))}
        return np.array([-1 if name is None else number[name] for name in named], dtype=np.int64)

    def gpu_capacity(self) -> Ints:
        """Return the milli-GPU of each device were the nodes empty, (nodes, most devices)."""
        return np.where(self.kind_of > 0, GPU_MILLI, 0).astype(np.int64)


def build(nodes: Sequence[Node]) -> Cluster:
    """Return the state of `nodes`; nothing of a dead node is in it. Raises PlannerError for two nodes of one id."""
    listed = sorted((node for node in nodes if node.state is not NodeState.DEAD), key=lambda node: (node.pool, node.id))
    row_of = {node.id: row for row, node in enumerate(listed)}
    if len(row_of) < len(listed):
        twice = [name for name, count in Counter(node.id for node in listed).items() if count > 1]
        raise PlannerError(f"The snapshot has node {twice[0]!r} twice.")
    clusters = tuple(sorted({node.cluster for node in listed}))
    number = {name: place for place, name in enumerate(clusters)}
    capacity = [(node.cpu_milli, node.memory_bytes, node.disk_bytes) for node in listed]
    used = [(node.used_cpu_milli, node.used_memory_bytes, node.used_disk_bytes) for node in listed]
    total = np.array(capacity, dtype=np.int64).reshape(len(listed), 3)
    kinds, kind_of, gpu_free = _devices(listed)
    groups, group_of = _groups(listed)
    return Cluster(
        nodes=listed,
        row_of=row_of,
        is_ready=np.array([node.state is NodeState.READY for node in listed], dtype=np.bool_),
        member=np.array([number[node.cluster] for node in listed], dtype=np.int64),
        clusters=clusters,
        capacity=total,
        free=total - np.array(used, dtype=np.int64).reshape(len(listed), 3),
        gpu_free=gpu_free,
        kind_of=kind_of,
        kinds=kinds,
        group_of=group_of,
        groups=groups,
        tenants=_tenants(kind_of, gpu_free),
    )


def _tenants(kind_of: Ints, gpu_free: Ints) -> Ints:
    """Guess from what is free what holds the devices of each row: shares, or single GPUs."""
    found = np.where(gpu_free == 0, 2 * (kind_of > 0), (kind_of > 0) & (gpu_free < GPU_MILLI))
    return np.asarray(found.max(axis=1, initial=0), dtype=np.int64)


def _free_devices(node: Node) -> list[int]:
    """Return the milli that are free of each device, by index."""
    used = dict.fromkeys(node.out(), GPU_MILLI)
    for share in node.used_devices:
        if share.index not in node.out():
            used[share.index] = used.get(share.index, 0) + share.milli
    return [GPU_MILLI - used.get(index, 0) for index in sorted(device.index for device in node.devices)]


def _devices(nodes: Sequence[Node]) -> tuple[tuple[DeviceKind | None, ...], Ints, Ints]:
    width = max((len(node.devices) for node in nodes), default=0)
    kind_of = np.zeros((len(nodes), width), dtype=np.int64)
    gpu_free = np.zeros((len(nodes), width), dtype=np.int64)
    numbers: dict[tuple[str, int, bool], int] = {}
    for row, node in enumerate(nodes):
        if not node.devices:
            continue
        ordered = sorted(node.devices, key=lambda device: device.index)
        if len({device.index for device in ordered}) < len(ordered):
            raise PlannerError(f"Node {node.id!r} has two devices of one index.")
        told = ((one.model.casefold(), one.memory_bytes, one.whole) for one in ordered)
        kinds = [numbers.setdefault(kind, len(numbers) + 1) for kind in told]
        out = node.out()
        kind_of[row, : len(ordered)] = [0 if one.index in out else kind for one, kind in zip(ordered, kinds, strict=True)]
        gpu_free[row, : len(ordered)] = _free_devices(node)
    return (None, *(DeviceKind(*kind) for kind in numbers)), kind_of, gpu_free


def _groups(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], Ints]:
    numbers: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
    groups: list[Node] = []
    group_of = np.zeros(len(nodes), dtype=np.int64)
    for row, node in enumerate(nodes):
        key = (node.pool, tuple(sorted(node.labels.items())))
        if key not in numbers:
            numbers[key] = len(groups)
            groups.append(node)
        group_of[row] = numbers[key]
    return tuple(groups), group_of
