"""Where a run goes: the best row for each replica, all replicas or none.

Scores are kept by request. After a put only the touched rows are scored again, so that ten thousand equal runs cost
ten thousand times one row and not ten thousand times all rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from mainspring.core.resources import DeviceShare, Granted, Resources
from mainspring.core.snapshot import Place, WaitingRun
from mainspring.scheduler.cluster import Bools, Cluster, Floats, Ints
from mainspring.scheduler.demand import Demand
from mainspring.scheduler.fit import empty_counts
from mainspring.scheduler.requests import Key, Request, key_of, make_request
from mainspring.scheduler.scorers import Scorer

EQUAL_BYTES = 10 * 2**30  # data that weighs as much as the way from the worst node to the best one
KEPT_REQUESTS = 1024  # 5,000 nodes are 85 kB for each
MOST_OBJECTS = 100_000


Failed: TypeAlias = dict[tuple[Request, str], int]  # so many replicas (of one label) found no place


@dataclass(slots=True)
class _Scored:
    points: Floats  # -inf where the request does not fit
    fits: Bools
    column: Ints  # the device that the scorer chose on each row; -1 where it leaves the choice
    demand: Demand  # by which it was scored
    mark: int  # of the cluster, when last brought up to date


@dataclass(frozen=True, slots=True)
class _Wish:
    """What one run wants beyond its request: only these rows, not these if others fit, rather those near its data.

    `exact`: rows that waste nothing of a device; others only if none of these fits.
    """

    rows: Bools | None = None
    exact: Bools | None = None
    avoided: Sequence[int] = ()
    near: Floats | None = None


@dataclass(slots=True)
class Placement:
    """The placing part of a plan: state, scorer, and what was found out on the way. May be kept for the next plan."""

    cluster: Cluster
    scorer: Scorer
    demand: Demand  # what scorers keep room for
    pool_of_site: Mapping[str, str] = field(default_factory=dict)
    _requests: dict[Key, Request] = field(default_factory=dict)
    _by_object: dict[int, tuple[Resources, tuple[str, ...] | None, Request]] = field(default_factory=dict)  # told by identity
    _scored: OrderedDict[Key, _Scored] = field(default_factory=OrderedDict)
    _domains: dict[str, Ints] = field(default_factory=dict)
    _empty: dict[Request, Ints] = field(default_factory=dict)
    _too_many: Failed = field(default_factory=dict)  # so many replicas did not fit; free amounts only shrink

    def request(self, asked: Resources, sites: tuple[str, ...] | None = None) -> Request:
        """Return the request of `asked`, the same object for equal ones. `sites`: the only paid ones allowed (None: any)."""
        known = self._by_object.get(id(asked))
        if known is not None and known[0] is asked and known[1] == sites:
            return known[2]
        closed = () if sites is None else tuple(sorted(pool for name, pool in self.pool_of_site.items() if name not in sites))
        key = (*key_of(asked), *closed)
        if key not in self._requests:
            self._requests[key] = make_request(self.cluster, asked, closed)
        if len(self._by_object) > MOST_OBJECTS:
            self._by_object.clear()
        self._by_object[id(asked)] = (asked, sites, self._requests[key])
        return self._requests[key]

    def empty_counts(self, request: Request) -> Ints:
        """Return how many replicas each node could hold were it empty; remembered, since it stays so. Not to be changed."""
        found = self._empty.get(request)
        if found is None:
            if len(self._empty) >= KEPT_REQUESTS:
                self._empty.clear()
            found = self._empty[request] = empty_counts(self.cluster, request)
        return found

    def place(self, run: WaitingRun, failed: Failed | None = None) -> tuple[Place, ...] | None:
        """Put every replica (of an elastic gang as many as fit) and return where, or put nothing and return None.

        `failed` remembers what did not fit where more is free than the plan's own state has (holds given back).
        """
        for asked in (run.resources, *run.alternatives):
            places = self._place(run, self.request(asked, run.sites), self._too_many if failed is None else failed)
            if places is not None:
                return places
        return None

    def forget(self) -> None:
        """Forget what did not fit: more is free now."""
        self._too_many.clear()

    def begin(self, demand: Demand) -> None:
        """Begin another plan: the same nodes, free by now may be more or less."""
        self.demand = demand
        self.forget()

    def _place(self, run: WaitingRun, request: Request, too_many: Failed) -> tuple[Place, ...] | None:
        key = (request, run.same)
        least = run.least
        if least >= too_many.get(key, least + 1):
            return None
        avoided = [self.cluster.row_of[name] for name in run.avoid if name in self.cluster.row_of]
        near = data_share(self.cluster, run) if run.data_on else None
        for rows, replicas in self._parts(run, request, least):
            places = self._gang(request, replicas, _Wish(rows=rows, exact=request.is_exact, avoided=avoided, near=near))
            if places is not None:
                return places
        too_many[key] = least
        return None

    def _parts(self, run: WaitingRun, request: Request, least: int) -> Iterator[tuple[Bools | None, int]]:
        """Give the rows that all replicas share, and how many go there: as many as fit, at least `least`.

        An attempt lives in one cluster, the first by name that holds most; of equal racks or nodes the best scored is taken.
        """
        cluster = self.cluster
        is_one = run.replicas == 1 or (len(cluster.clusters) == 1 and not run.same)
        if is_one and least == run.replicas:
            yield None, run.replicas
            return
        if run.same not in self._domains:
            self._domains[run.same] = cluster.domain_of(run.same)
        domain = self._domains[run.same]
        counts = np.where(cluster.is_ready & (domain >= 0), request.counts(cluster, cluster.free, cluster.gpu_free), 0)
        sums = np.bincount(np.maximum(domain, 0), weights=np.minimum(counts, run.replicas)).astype(np.int64)
        most = min(int(sums.max(initial=0)), run.replicas)
        if most < least:
            return
        able = (sums >= most)[np.maximum(domain, 0)] & (domain >= 0)
        if not run.same:
            yield domain == int(np.argmax(sums >= most)), most
            return
        row = self._best(self._points(request).points, _Wish(rows=able, exact=request.is_exact))
        if row is not None:
            yield domain == domain[row], most

    def _gang(self, request: Request, replicas: int, wish: _Wish) -> tuple[Place, ...] | None:
        self.cluster.begin()
        places: list[Place] = []
        for replica in range(replicas):
            scored = self._points(request)
            row = self._best(scored.points, wish)
            if row is None:
                self.cluster.rollback()
                return None
            places.append(self._put(request, replica, row, int(scored.column[row])))
        self.cluster.commit()
        return tuple(places)

    def _best(self, points: Floats, wish: _Wish) -> int | None:
        if wish.rows is not None:
            points = np.where(wish.rows, points, -np.inf)
        if wish.exact is not None:
            exact = np.where(wish.exact, points, -np.inf)
            if np.isfinite(exact.max(initial=-np.inf)):
                points = exact
        if wish.near is not None and len(points):
            fit = np.isfinite(points)
            worst, best = points.min(where=fit, initial=np.inf), points.max(initial=-np.inf)
            points = points + wish.near * (best - worst if best > worst else 1.0)
        if wish.avoided:
            others = points.copy()
            others[wish.avoided] = -np.inf
            if np.isfinite(others.max(initial=-np.inf)):
                points = others  # an avoided node is the last resort
        if not len(points):
            return None
        row = int(points.argmax())
        return row if np.isfinite(points[row]) else None

    def _points(self, request: Request) -> _Scored:
        cluster, kept = self.cluster, self._scored.get(request.key)
        rows = cluster.touched_since(kept.mark) if kept is not None else None
        if kept is None or rows is None:
            count = len(cluster.nodes)
            kept = self._scored[request.key] = _Scored(
                points=np.full(count, -np.inf),
                fits=request.fits(cluster),
                column=np.full(count, -1, dtype=np.int64),
                demand=self.demand,
                mark=cluster.mark(),
            )
            self._score(kept, request, kept.fits.nonzero()[0])
            if len(self._scored) > KEPT_REQUESTS:
                self._scored.popitem(last=False)
            return kept
        self._scored.move_to_end(request.key)
        if len(rows):
            fits = request.fits(cluster, rows)
            kept.fits[rows], kept.points[rows], kept.mark = fits, -np.inf, cluster.mark()
            if kept.demand is self.demand:
                self._score(kept, request, rows[fits])
        if kept.demand is not self.demand:
            kept.demand = self.demand
            self._score(kept, request, kept.fits.nonzero()[0])
        return kept

    def _score(self, kept: _Scored, request: Request, rows: Ints) -> None:
        """Score the rows, on which the request fits."""
        if not len(rows):
            return
        points = self.scorer(self.cluster, self.demand, request, rows)
        if points.ndim == 1:
            kept.points[rows] = points
            return
        able = self.cluster.gpu_free[rows] >= request.milli(self.cluster, rows)
        points = np.where(able, points, -np.inf)
        column = points.argmax(axis=1)
        kept.column[rows] = column
        kept.points[rows] = points[np.arange(len(rows)), column]

    def _put(self, request: Request, replica: int, row: int, column: int) -> Place:
        node = self.cluster.nodes[row]
        taken: list[tuple[int, int]] = []
        shares: tuple[DeviceShare, ...] = ()
        if request.devices:
            milli = request.milli_of_kind[self.cluster.kind_of[row]].tolist()
            if column >= 0:
                taken = [(column, milli[column])]
            else:
                free = self.cluster.gpu_free[row].tolist()
                able = [(free[one], one) for one in range(len(free)) if free[one] >= milli[one]]
                taken = sorted((one, milli[one]) for _, one in sorted(able)[: request.devices])
            indexes = sorted(device.index for device in node.devices)
            shares = tuple(DeviceShare(index=indexes[one], milli=share) for one, share in taken)
        self.cluster.put(row, request.need, taken)
        asked = request.asked
        granted = Granted(cpu_milli=asked.cpu_milli, memory_bytes=asked.memory_bytes, disk_bytes=asked.disk_bytes, devices=shares)
        return Place(replica=replica, node=node.id, granted=granted)


def data_share(cluster: Cluster, run: WaitingRun) -> Floats:
    """Return what a row gains from holding the run's inputs, as a part (0..2) of the range of its scores."""
    is_near = np.array([node.id in run.data_on or node.pool in run.data_on for node in cluster.nodes], dtype=np.bool_)
    return np.asarray(is_near * (2 * run.data_bytes / (run.data_bytes + EQUAL_BYTES)), dtype=np.float64)
