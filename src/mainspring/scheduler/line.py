"""When those who wait would start on own nodes, one after the other: what a rented machine is worth is measured by that.

The GPUs that a run may use are taken for one bag. It starts once so many have come free as it and those before it take; what a
run before it takes comes free again after its estimate (list scheduling: Graham, 1966). To ask for each run alone when the next
GPU comes free is no measure: on a large cluster that is a minute, however many stand in line.

Left out: which GPUs lie on one node (a gang may wait longer), and runs that compete for a part of the nodes only. Both make the
wait shorter than it will be, and then less is rented.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from mainspring.core.ids import RunId
from mainspring.scheduler.backfill import Backfill
from mainspring.scheduler.cluster import Bools
from mainspring.scheduler.order import Entry
from mainspring.scheduler.requests import NEVER, Key, Request
from mainspring.scheduler.shares import GPU


class Bag:
    """GPUs that come free. `ends`: (seconds from now, milli), soonest first; `free`: milli that are free now."""

    def __init__(self, ends: Iterable[tuple[float, int]], free: int) -> None:
        self._ends = list(ends)
        self._free = free
        self._now_s = 0.0

    def start_s(self, milli: int, length_s: float) -> float | None:
        """Take so much for so long; return when there is so much, None if that is never known."""
        while self._free < milli:
            if not self._ends:
                return None
            self._now_s, freed = heapq.heappop(self._ends)
            self._free += freed
        self._free -= milli
        heapq.heappush(self._ends, (self._now_s + length_s, milli))
        return self._now_s


def starts(room: Backfill, own: Bools, waiting: Sequence[Entry], unknown_s: float) -> dict[RunId, float]:
    """Return in how many seconds each of `waiting` (in the order of the queue) would start on `own` rows; without those unknown.

    A run of unknown length counts as `unknown_s`. Who has a machine coming does not stand in line.
    O(ends + waiting · log ends).
    """
    bags = _Bags(room, own)
    found: dict[RunId, float] = {}
    for entry in waiting:
        run, milli = entry.run, entry.need.amounts[GPU]
        if not milli or run.is_bursting:
            continue
        start_s = bags.of(room.placement.request(run.resources, run.sites)).start_s(milli, run.estimate_s or unknown_s)
        if start_s is not None:
            found[run.id] = start_s
    return found


class _Bags:
    """A bag for each set of own nodes that some request may use."""

    def __init__(self, room: Backfill, own: Bools) -> None:
        self._room, self._own = room, own
        self._by_key: dict[Key, Bag] = {}
        self._by_rows: dict[bytes, Bag] = {}

    def of(self, request: Request) -> Bag:
        if request.key not in self._by_key:
            cluster = self._room.placement.cluster
            can = request.allowed(cluster) & (request.milli(cluster) < NEVER).any(axis=1)
            rows = self._own & cluster.is_ready & can
            bag = self._by_rows.get(rows.tobytes())
            if bag is None:
                free = int(cluster.gpu_free[rows].clip(min=0).sum())
                bag = self._by_rows[rows.tobytes()] = Bag(self._room.timeline().ends(rows), free)
            self._by_key[request.key] = bag
        return self._by_key[request.key]
