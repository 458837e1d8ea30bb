"""What a run asks for, made ready for the arrays: one `Request` for all runs that ask for the same."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from mainspring.core.resources import GPU_MILLI, Resources
from mainspring.scheduler.cluster import ALL, Bools, Cluster, DeviceKind, Ints, Rows

Key: TypeAlias = tuple[object, ...]
NEVER = 2**40  # milli-GPU that no device has
NAMES = ("node", "cluster")  # labels that every node has
MANY = 2**40  # replicas on one node when nothing bounds them


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One replica's needs. `milli_of_kind[k]` is what it takes of a device of kind k, NEVER where it may not."""

    key: Key
    asked: Resources
    need: Ints  # (3,) cpu, memory, disk
    devices: int  # how many devices, 0 for none
    milli_of_kind: Ints
    is_allowed_group: Bools
    is_named: Bools | None = None  # (nodes,) which rows are the node or of the cluster asked for by name; None: any
    is_exact: Bools | None = None  # (nodes,) which rows give the share asked for and no whole device; None: all alike

    @property
    def is_share(self) -> bool:
        """Say whether it may take a part of a device."""
        return self.devices == 1 and self.asked.gpu_milli < GPU_MILLI

    def allowed(self, cluster: Cluster, rows: Rows = ALL) -> Bools:
        """Return which rows have the pool and the labels asked for, ready or not."""
        found: Bools = self.is_allowed_group[cluster.group_of[rows]]
        return found if self.is_named is None else found & self.is_named[rows]

    def milli(self, cluster: Cluster, rows: Rows = ALL) -> Ints:
        """Return what is taken of each device if it is chosen, (rows, devices)."""
        found: Ints = self.milli_of_kind[cluster.kind_of[rows]]
        return found

    def fits(self, cluster: Cluster, rows: Rows = ALL) -> Bools:
        """Return which rows can hold one replica now."""
        fit: Bools = self.allowed(cluster, rows) & cluster.is_ready[rows]
        free = cluster.free[rows]
        for column in range(3):
            if self.need[column]:
                fit &= free[:, column] >= self.need[column]
        if self.devices:
            fit &= (cluster.gpu_free[rows] >= self.milli(cluster, rows)).sum(axis=1) >= self.devices
        return fit

    def counts(self, cluster: Cluster, free: Ints, gpu_free: Ints) -> Ints:
        """Return how many replicas each row could hold with so much free, ready or not; exact, as replicas are alike."""
        most = np.where(self.allowed(cluster), MANY, 0)
        for column in range(3):
            if self.need[column]:
                most = np.minimum(most, np.maximum(free[:, column], 0) // self.need[column])
        if self.devices:
            each = np.maximum(gpu_free, 0) // self.milli(cluster)  # replicas on each device; 0 or 1 for whole ones
            most = np.minimum(most, each.sum(axis=1) // self.devices)
        counted: Ints = most
        return counted


def key_of(asked: Resources) -> Key:
    """Return what makes two requests the same."""
    return (
        asked.cpu_milli,
        asked.memory_bytes,
        asked.gpu_milli,
        asked.gpu_memory_bytes,
        asked.gpu_models,
        asked.disk_bytes,
        asked.pool,
        tuple(sorted(asked.labels.items())) if asked.labels else (),
    )


def make_request(cluster: Cluster, asked: Resources, closed: Collection[str] = ()) -> Request:
    """Return `asked` made ready for the arrays of `cluster`; nodes of the `closed` pools are not allowed."""
    devices = 0
    if asked.is_gpu():
        devices = max(1, asked.gpu_milli // GPU_MILLI)
    milli = np.array([_milli(asked, kind) for kind in cluster.kinds], dtype=np.int64)
    groups = [group.pool not in closed and _is_allowed(asked, group.pool, dict(group.labels)) for group in cluster.groups]
    return Request(
        key=(*key_of(asked), *closed),
        asked=asked,
        need=np.array([asked.cpu_milli, asked.memory_bytes, asked.disk_bytes], dtype=np.int64),
        devices=devices,
        milli_of_kind=milli,
        is_allowed_group=np.array(groups, dtype=np.bool_),
        is_named=_named(cluster, asked),
        is_exact=_exact(cluster, milli) if devices and asked.gpu_milli < GPU_MILLI else None,
    )


def without_models(cluster: Cluster, asked: Resources, closed: Collection[str]) -> Resources | None:
    """Return `asked` without these GPU models; None if none is left."""
    models = {kind.model for kind in cluster.kinds if kind is not None}
    wanted = {model.casefold() for model in asked.gpu_models} or models
    left = tuple(sorted(wanted - set(closed)))
    return replace(asked, gpu_models=left) if left else None


def _is_allowed(asked: Resources, pool: str, labels: dict[str, str]) -> bool:
    if asked.pool and asked.pool != pool:
        return False
    return all(labels.get(name) == value for name, value in asked.labels.items() if name not in NAMES)


def _named(cluster: Cluster, asked: Resources) -> Bools | None:
    """Return which rows have the names asked for: every node has the labels `node` (its id or name) and `cluster`."""
    node, member = asked.labels.get("node"), asked.labels.get("cluster")
    if node is None and member is None:
        return None
    return np.array(
        [(node is None or node in (one.id, one.name)) and member in (None, one.cluster) for one in cluster.nodes], dtype=np.bool_
    )


def _exact(cluster: Cluster, milli_of_kind: Ints) -> Bools | None:
    """Return the rows with a device of which a part will do, where others would give a whole one for it."""
    is_whole = np.array([kind is not None and kind.is_whole for kind in cluster.kinds], dtype=np.bool_)
    is_able = milli_of_kind <= GPU_MILLI
    if not (is_able & is_whole).any() or not (is_able & ~is_whole).any():
        return None
    return np.asarray((is_able & ~is_whole)[cluster.kind_of].any(axis=1), dtype=np.bool_)


def _milli(asked: Resources, kind: DeviceKind | None) -> int:
    """Return the thousandths of a device of `kind` that one replica takes; memory is rounded up to the device's milli.

    Of a kind that is given only whole it is all of them, so that just an idle device serves.
    """
    if kind is None:
        return NEVER
    if asked.gpu_models and kind.model not in {model.casefold() for model in asked.gpu_models}:
        return NEVER
    share = min(asked.gpu_milli, GPU_MILLI)
    if asked.gpu_memory_bytes and kind.memory_bytes < asked.gpu_memory_bytes:
        return NEVER  # too small, or nobody knows its memory
    if kind.is_whole:
        return GPU_MILLI
    if asked.gpu_memory_bytes:
        share = max(share, -(-asked.gpu_memory_bytes * GPU_MILLI // kind.memory_bytes))
    return share
