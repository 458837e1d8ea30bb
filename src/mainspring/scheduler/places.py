"""The surrogate's machines: for each node the moments at which its GPUs (or CPU slots) come free, in all samples at once.

`when[sample, node, k]` is the moment at which the node has k + 1 of them free, so that the earliest start of a run that
needs g on one node is `when[:, :, g - 1].min()`. A share of a GPU takes one for the same part of its time, for all of it
where GPUs are given only whole; memory and disk are left out. Gaps in front of a run that waits for several nodes are lost
(no backfill).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mainspring.core.records import Node, NodeState
from mainspring.core.resources import GPU_MILLI, Resources
from mainspring.core.snapshot import Place, Snapshot, WaitingRun
from mainspring.scheduler.cluster import Bools, Cluster, Floats, Ints, build
from mainspring.scheduler.requests import Key, Request, key_of, make_request

SLOTS = 16  # parts of a node's CPUs
NEVER = np.inf


@dataclass(frozen=True, slots=True)
class _Way:
    """How a run may start: of `rows` (samples, nodes) of `when` the first `taken` moments are taken from `starts` on."""

    when: Floats
    rows: Ints
    taken: int | Ints  # of each row, or (samples, nodes)
    starts: Floats  # (samples,)
    parts: Floats  # (samples, nodes) of the time for which each is taken


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
        """Return when the run starts in each sample, and take its places for `lengths`; infinity where it never can.

        Of several choices, numbers of replicas and racks it is the one that is met first on average; of equals the first.
        """
        ways = list(self._ways(run, not_before))
        if not ways:
            return np.full(self.samples, NEVER)
        way = ways[0] if len(ways) == 1 else min(ways, key=lambda one: float(one.starts.mean()))
        sample = np.arange(self.samples)[:, None]
        ends = way.starts[:, None] + np.broadcast_to(lengths, way.starts.shape)[:, None] * way.parts  # (samples, nodes)
        lines = way.when[sample, way.rows]  # (samples, nodes, devices)
        if isinstance(way.taken, int):
            lines[:, :, : way.taken] = ends[:, :, None]
        else:
            lines = np.where(np.arange(lines.shape[2]) < way.taken[:, :, None], ends[:, :, None], lines)
        lines.sort(axis=2)
        way.when[sample, way.rows] = lines
        return way.starts

    def _ways(self, run: WaitingRun, not_before: float) -> Iterator[_Way]:
        for asked in (run.resources, *run.alternatives):
            request, allowed, devices = self._request(asked)
            when = self.gpu_when if devices else self.cpu_when
            if devices:
                part = asked.gpu_milli / GPU_MILLI if 0 < asked.gpu_milli < GPU_MILLI else 1.0
                parts = np.where(self.has_whole, 1.0, part)
                needs = np.full(len(allowed), devices)
            else:
                parts = np.ones(len(allowed))
                needs = np.clip(-(-int(request.need[0]) // np.maximum(1, self.slot_milli)), 1, SLOTS)
            able = allowed & (needs <= when.shape[2])
            for replicas in dict.fromkeys((run.replicas, run.least)):
                for rows in self._domains(able, run.together, replicas):
                    need = int(needs[rows].max())
                    if replicas > 1 and run.same != "node":
                        way = _gang(when, rows, need, replicas, not_before, parts)
                    else:
                        way = _single(when, rows, need * replicas, not_before, parts)
                    if way is not None:
                        yield way

    def _domains(self, able: Bools, same: str, replicas: int) -> list[Ints]:
        """Return the rows among which all replicas have to find their places, for each choice of them."""
        domain = np.where(able, self.cluster.domain_of(same), -1)
        if replicas == 1 or same == "node" or (not same and len(self.cluster.clusters) == 1):
            rows = np.flatnonzero(domain >= 0)
            return [rows] if len(rows) else []
        return [np.flatnonzero(domain == one) for one in np.unique(domain[domain >= 0]).tolist()]

    def _request(self, asked: Resources) -> tuple[Request, Bools, int]:
        key = key_of(asked)
        if key not in self._requests:
            request = make_request(self.cluster, asked)
            usable = request.counts(self.cluster, self.cluster.capacity, self.cluster.gpu_capacity()) > 0
            self._requests[key] = (request, usable & self.cluster.is_ready, request.devices)
        return self._requests[key]


def _single(when: Floats, rows: Ints, need: int, not_before: float, parts: Floats) -> _Way | None:
    """Return where `need` moments of one row come first; None where no row has so many."""
    if need > when.shape[2]:
        return None
    ready = np.maximum(when[:, rows, need - 1], not_before)  # (samples, rows)
    # of nodes that are ready at the same moment, the one whose next device is busy longest: fill what is begun
    after = when[:, rows, min(need, when.shape[2] - 1)]
    chosen = (ready - 1e-6 * np.minimum(after, 1e9)).argmin(axis=1)[:, None]
    starts = np.take_along_axis(ready, chosen, axis=1)[:, 0]
    return _possible(_Way(when, rows[chosen], need, starts, parts[rows[chosen]]))


def _gang(when: Floats, rows: Ints, need: int, replicas: int, not_before: float, parts: Floats) -> _Way | None:
    """Return where `replicas` that take `need` moments each find theirs first, on as many of the rows as that takes."""
    each = when[:, rows, need - 1 :: need]  # (samples, rows, replicas on a row): when a row has room for one, two, ...
    ready = np.maximum(each.reshape(len(each), -1), not_before)
    if replicas > ready.shape[1]:
        return None
    chosen = np.argpartition(ready, replicas - 1, axis=1)[:, :replicas]
    taken = np.zeros(ready.shape, dtype=np.int64)
    np.put_along_axis(taken, chosen, need, axis=1)
    starts = np.take_along_axis(ready, chosen, axis=1).max(axis=1)
    on = np.broadcast_to(rows, (len(each), len(rows)))
    return _possible(_Way(when, on, taken.reshape(each.shape).sum(axis=2), starts, parts[on]))


def _possible(way: _Way) -> _Way | None:
    return way if np.isfinite(way.starts).any() else None


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
