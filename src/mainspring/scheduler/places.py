"""The surrogate's machines: for each node the moments at which its GPUs (or CPU slots) come free, in all samples at once.

`when[sample, node, k]` is the moment at which the node has k + 1 of them free, so that the earliest start of a run that
needs g on one node is `when[:, :, g - 1].min()`. A share of a GPU takes one for the same part of its time, for all of it
where GPUs are given only whole; memory and disk are left out. Gaps in front of a run that waits for several nodes are lost
(no backfill).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mainspring.core.records import Node, NodeState
from mainspring.core.resources import GPU_MILLI, Resources
from mainspring.core.snapshot import Place, Snapshot, WaitingRun
from mainspring.scheduler.cluster import Bools, Cluster, Floats, Ints, build
from mainspring.scheduler.requests import Key, Request, key_of, make_request

SLOTS = 16  # parts of a node's CPUs
NEVER = np.inf


@dataclass(slots=True)
class Places:
    """The state of all samples; `hold` what runs now, `seal`, then `take` for each run in order of service."""

    samples: int
    cluster: Cluster
    gpu_when: Floats  # (samples, nodes, most devices)
    cpu_when: Floats  # (samples, nodes, SLOTS)
    slot_milli: Ints  # (nodes,) CPU of one slot
    has_whole: Bools  # (nodes,) gives devices only whole
    _requests: dict[Key, tuple[Request, Bools, int]]

    def hold(self, places: Iterable[Place], left_s: Floats) -> None:
        """Take what a running run holds until `left_s` (one for each sample)."""
        for place in places:
            row = self.cluster.row_of.get(place.node)
            if row is None:
                continue
            whole = sum(1 for one in place.granted.devices if one.milli >= GPU_MILLI)
            part = sum(one.milli for one in place.granted.devices if one.milli < GPU_MILLI) / GPU_MILLI
            for _ in range(whole):
                _occupy(self.gpu_when[:, row, :], left_s)
            if part:
                _occupy(self.gpu_when[:, row, :], left_s * part)
            for _ in range(round(place.granted.cpu_milli / max(1, int(self.slot_milli[row])))):
                _occupy(self.cpu_when[:, row, :], left_s)

    def seal(self) -> None:
        """Bring the moments into order."""
        self.gpu_when.sort(axis=2)
        self.cpu_when.sort(axis=2)

    def take(self, run: WaitingRun, lengths: Floats, not_before: float) -> Floats:
        """Return when the run starts in each sample, and take its places for `lengths`; infinity where it never can."""
        request, allowed, devices = self._request(run.resources)
        when = self.gpu_when if devices else self.cpu_when
        if devices:
            part = run.resources.gpu_milli / GPU_MILLI if 0 < run.resources.gpu_milli < GPU_MILLI else 1.0
            parts = np.where(self.has_whole, 1.0, part)
            needs = np.full(len(allowed), devices)
        else:
            parts = np.ones(len(allowed))
            needs = np.clip(-(-int(request.need[0]) // np.maximum(1, self.slot_milli)), 1, SLOTS)
        rows = np.flatnonzero(allowed & (needs <= when.shape[2]))
        if not len(rows):
            return np.full(self.samples, NEVER)
        need = int(needs[rows].max())
        ready = np.maximum(when[:, rows, need - 1], not_before)  # (samples, rows)
        if run.replicas == 1:
            # of nodes that are ready at the same moment, the one whose next device is busy longest: fill what is begun
            after = when[:, rows, min(need, when.shape[2] - 1)]
            chosen = (ready - 1e-6 * np.minimum(after, 1e9)).argmin(axis=1)[:, None]
        else:
            fits_each = max(1, when.shape[2] // need)
            nodes = min(len(rows), -(-run.replicas // fits_each))
            if nodes * fits_each < run.replicas:
                return np.full(self.samples, NEVER)
            need = min(when.shape[2], need * -(-run.replicas // nodes))
            ready = np.maximum(when[:, rows, need - 1], not_before)
            chosen = np.argpartition(ready, nodes - 1, axis=1)[:, :nodes] if nodes < len(rows) else np.arange(len(rows))[None, :]
            chosen = np.broadcast_to(chosen, (self.samples, nodes))
        sample = np.arange(self.samples)[:, None]
        starts = ready[sample, chosen].max(axis=1)
        ends = starts[:, None] + np.broadcast_to(lengths, starts.shape)[:, None] * parts[rows[chosen]]  # (samples, nodes)
        lines = when[sample, rows[chosen]]  # (samples, nodes, devices)
        lines[:, :, :need] = ends[:, :, None]
        lines.sort(axis=2)
        when[sample, rows[chosen]] = lines
        return np.asarray(starts)

    def _request(self, asked: Resources) -> tuple[Request, Bools, int]:
        key = key_of(asked)
        if key not in self._requests:
            request = make_request(self.cluster, asked)
            usable = request.counts(self.cluster, self.cluster.capacity, self.cluster.gpu_capacity()) > 0
            self._requests[key] = (request, usable & self.cluster.is_ready, request.devices)
        return self._requests[key]


def build_places(snapshot: Snapshot, samples: int) -> Places:
    """Return the empty machines of `snapshot`."""
    nodes: Sequence[Node] = [node for node in snapshot.nodes if node.state is NodeState.READY]
    cluster = build(nodes)
    width = max(1, cluster.kind_of.shape[1])
    devices = np.zeros((len(cluster.nodes), width))
    devices[:, : cluster.kind_of.shape[1]] = np.where(cluster.kind_of > 0, 0.0, NEVER)
    if not cluster.kind_of.shape[1]:
        devices[:] = NEVER
    gpu_when = np.repeat(devices[None, :, :], samples, axis=0)
    slot = np.maximum(1, cluster.capacity[:, 0] // SLOTS)
    return Places(
        samples=samples,
        cluster=cluster,
        gpu_when=gpu_when,
        cpu_when=np.zeros((samples, len(cluster.nodes), SLOTS)),
        slot_milli=slot,
        has_whole=np.array([any(device.whole for device in node.devices) for node in cluster.nodes], dtype=np.bool_),
        _requests={},
    )


def _occupy(lines: Floats, until: Floats) -> None:
    """Put `until` in the place of each sample's earliest moment."""
    each = np.arange(lines.shape[0])
    lines[each, lines.argmin(axis=1)] = until
