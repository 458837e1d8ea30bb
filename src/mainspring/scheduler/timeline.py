"""When is what believed to come free? The earliest moment at which a blocked run fits, and where.

A placed run is believed to end after its estimate (times `safety`). One that over-ran is believed to need a tenth of the
time that it has run so far, at least a minute: wrong by little soon, and corrected at each plan. One that is stopping
ends in `STOPPING_S`. Of a run without an estimate nobody knows the end: it comes after all others, and makes no promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np

from mainspring.core.resources import DeviceShare, Granted
from mainspring.core.snapshot import Place, PlacedRun
from mainspring.scheduler.cluster import Bools, Cluster, Floats, Ints
from mainspring.scheduler.holdings import Holdings, taken_by
from mainspring.scheduler.requests import NEVER, Request

STOPPING_S = 30.0
LEAST_LEFT_S = 60.0
OVERRUN = 0.1  # of the time it has run
UNKNOWN_S = np.inf


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Places for later: what they take of each row, and how much of that is free today and must stay so."""

    places: tuple[Place, ...]
    at_s: float  # from now; infinity when nobody knows
    taken: tuple[tuple[int, Ints, Ints], ...]  # row, (cpu, memory, disk), milli of each device column
    held: tuple[tuple[int, Ints, Ints], ...]


class _Free(NamedTuple):
    """What is free when so many lines have ended."""

    ends: int
    free: Ints
    gpu_free: Ints


def left_s(run: PlacedRun, now: datetime, safety: float) -> float:
    """Return in how many seconds a placed run is believed to end."""
    age = np.array([(now - run.since).total_seconds()])
    return float(_left(age, np.array([run.estimate_s]), np.array([run.is_stopping]), safety)[0])


def _left(age: Floats, estimate: Floats, is_stopping: Bools, safety: float) -> Floats:
    age = np.maximum(age, 0.0)
    left = estimate * safety - age
    left = np.where(left > 0, left, np.maximum(LEAST_LEFT_S, age * OVERRUN))
    left = np.where(estimate > 0, left, UNKNOWN_S)
    return np.asarray(np.where(is_stopping, STOPPING_S, left), dtype=np.float64)


class Timeline:
    """The believed ends of all that is placed, soonest first; those that nobody knows last, in order of their start."""

    def __init__(
        self, *, cluster: Cluster, holdings: Holdings, started: Sequence[PlacedRun], now: datetime, safety: float
    ) -> None:
        self._cluster = cluster
        lines, age, estimate, is_stopping = holdings.ages(now)
        rows, needs, milli = holdings.of_lines(lines)
        moments = _left(age, estimate, is_stopping, safety)
        taken = [(run, *one) for run in started for one in taken_by(cluster, run.places)]
        if taken:
            rows = np.concatenate([rows, np.array([row for _, row, _, _ in taken], dtype=np.int64)])
            needs = np.concatenate([needs, np.array([need for _, _, need, _ in taken])])
            milli = np.concatenate([milli, np.array([each for _, _, _, each in taken])])
            moments = np.concatenate([moments, np.array([left_s(run, now, safety) for run, *_ in taken])])
        order = np.argsort(moments, kind="stable")
        known = int(np.isfinite(moments).sum())
        runs: list[PlacedRun] = []  # of the lines whose end nobody knows
        if known < len(order):
            alive, fresh = lines.tolist(), [run for run, *_ in taken]
            unknown = order[known:].tolist()
            whose = {one: holdings.run_of(alive[one]) if one < len(alive) else fresh[one - len(alive)] for one in unknown}
            unknown.sort(key=lambda one: (whose[one].since, whose[one].id))
            order[known:] = unknown
            runs = [whose[one] for one in unknown]
        self._rows, self._needs, self._milli, self._moments = rows[order], needs[order], milli[order], moments[order]
        changes = [known + place for place in range(1, len(runs) + 1) if place == len(runs) or runs[place] is not runs[place - 1]]
        self._known, self._cuts_unknown = known, changes  # a run ends as a whole
        self._later: list[tuple[int, Ints, Ints]] = []  # taken later by what was kept before, beyond what it holds today

    def keep(self, kept: Kept) -> None:
        """Count on `kept` from now on: its places are taken at all later moments."""
        for (row, taken, milli), (_, held, held_milli) in zip(kept.taken, kept.held, strict=True):
            self._later.append((row, taken - held, milli - held_milli))

    def earliest(self, request: Request, replicas: int, *, is_patient: bool, same: str = "") -> Kept | None:
        """Return the first moment at which all replicas fit one cluster, and their places; None if nobody knows one.

        Without patience ends that nobody knows count too: then the places are kept without a promise.
        O(log ends · (nodes + ends)).
        """
        domain = self._cluster.domain_of(same)
        known = self._known
        cuts = (np.flatnonzero(np.diff(self._moments[:known], append=UNKNOWN_S)) + 1).tolist()
        cuts = [0, *cuts] if is_patient else [0, *cuts, *self._cuts_unknown]
        low, high = 0, len(cuts) - 1
        before = self._today()
        part = self._part(request, replicas, self._after(before, cuts[high]), domain)
        if part is None:
            return None
        while low < high:  # ends only free, so what fits at one moment fits at all later ones
            middle = (low + high) // 2
            then = self._after(before, cuts[middle])
            found = self._part(request, replicas, then, domain)
            if found is None:
                low, before = middle + 1, then
            else:
                high, part = middle, found
        count = cuts[low]
        at = 0.0 if not count else float(self._moments[count - 1])
        return self._choose(request, replicas, self._after(before, count), domain == part, at)

    def ends(self, rows: Bools) -> list[tuple[float, int]]:
        """Return (seconds from now, milli-GPU) of what comes free on these rows and when is known, soonest first."""
        known = slice(0, self._known)
        here = rows[self._rows[known]]
        return list(zip(self._moments[known][here].tolist(), self._milli[known][here].sum(axis=1).tolist(), strict=True))

    def at(self, request: Request, replicas: int, moment_s: float) -> Kept:
        """Return the places of as many of the replicas as fit at that moment, in any cluster."""
        count = int(np.searchsorted(self._moments, moment_s, side="right"))
        return self._choose(request, replicas, self._after(self._today(), count), self._cluster.is_ready, moment_s)

    def _today(self) -> _Free:
        free, gpu_free = self._cluster.free.copy(), self._cluster.gpu_free.copy()
        for row, need, milli in self._later:
            free[row] -= need
            gpu_free[row] -= milli
        return _Free(0, free, gpu_free)

    def _after(self, before: _Free, count: int) -> _Free:
        """Return what is free after so many ends, counted from a moment `before`."""
        free, gpu_free, since = before.free.copy(), before.gpu_free.copy(), slice(before.ends, count)
        np.add.at(free, self._rows[since], self._needs[since])
        np.add.at(gpu_free, self._rows[since], self._milli[since])
        return _Free(count, free, gpu_free)

    def _counts(self, request: Request, free: Ints, gpu_free: Ints) -> Ints:
        return np.where(self._cluster.is_ready, request.counts(self._cluster, free, gpu_free), 0)

    def _part(self, request: Request, replicas: int, then: _Free, domain: Ints) -> int | None:
        """Return the first domain that holds all replicas then."""
        counts = np.minimum(self._counts(request, then.free, then.gpu_free), replicas)
        sums = np.bincount(np.maximum(domain, 0), weights=np.where(domain >= 0, counts, 0), minlength=1)
        able = np.flatnonzero(sums >= replicas)
        return int(able[0]) if len(able) else None

    def _choose(self, request: Request, replicas: int, then: _Free, inside: Bools, at: float) -> Kept:
        """Take the rows that are fullest today, so that what is free today stays free for others."""
        cluster = self._cluster
        free, gpu_free = then.free, then.gpu_free
        counts = self._counts(request, free, gpu_free)
        counts = np.where(inside, counts, 0)
        today = self._counts(request, cluster.free, cluster.gpu_free)
        rows = sorted(np.flatnonzero(counts).tolist(), key=lambda row: (int(today[row]), row))
        places: list[Place] = []
        taken: list[tuple[int, Ints, Ints]] = []
        held: list[tuple[int, Ints, Ints]] = []
        for row in rows:
            number = min(int(counts[row]), replicas - len(places))
            if not number:
                break
            milli = np.zeros(gpu_free.shape[1], dtype=np.int64)
            for _ in range(number):
                places.append(self._place(request, len(places), row, gpu_free[row] - milli, milli))
            need = request.need * number
            taken.append((row, need, milli))
            more, more_milli = np.maximum(free[row] - cluster.free[row], 0), np.maximum(gpu_free[row] - cluster.gpu_free[row], 0)
            held.append((row, np.maximum(need - more, 0), np.maximum(milli - more_milli, 0)))
        return Kept(tuple(places), at, tuple(taken), tuple(held))

    def _place(self, request: Request, replica: int, row: int, left: Ints, milli: Ints) -> Place:
        """Choose the devices of one replica, those that are fullest today first; `milli` is added to."""
        cluster, asked = self._cluster, request.asked
        shares: tuple[DeviceShare, ...] = ()
        if request.devices:
            takes = request.milli_of_kind[cluster.kind_of[row]]
            able = [column for column in range(len(left)) if takes[column] < NEVER and left[column] >= takes[column]]
            able.sort(key=lambda column: (int(cluster.gpu_free[row, column]), column))
            chosen = sorted(able[: request.devices])
            indexes = sorted(device.index for device in cluster.nodes[row].devices)
            shares = tuple(DeviceShare(index=indexes[column], milli=int(takes[column])) for column in chosen)
            for column in chosen:
                milli[column] += takes[column]
        granted = Granted(cpu_milli=asked.cpu_milli, memory_bytes=asked.memory_bytes, disk_bytes=asked.disk_bytes, devices=shares)
        return Place(replica=replica, node=cluster.nodes[row].id, granted=granted)
