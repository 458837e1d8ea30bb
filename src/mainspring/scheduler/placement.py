"""Where a run goes: the best row for each replica, all replicas or none.

Scores are kept by request. After a put only the touched rows are scored again, so that ten thousand equal runs cost
ten thousand times one row and not ten thousand times all rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mainspring.core.resources import DeviceShare, Granted, Resources
from mainspring.core.snapshot import Place, WaitingRun
from mainspring.scheduler.cluster import ALL, Cluster, Floats, Ints, Rows
from mainspring.scheduler.demand import Demand, make_demand
from mainspring.scheduler.requests import Key, Request, key_of, make_request
from mainspring.scheduler.scorers import Scorer

KEPT_REQUESTS = 1024  # 5,000 nodes are 80 kB for each


@dataclass(slots=True)
class _Scored:
    points: Floats  # -inf where the request does not fit
    column: Ints | None  # the device that the scorer chose on each row, where it chooses
    seen: int  # length of `cluster.touched` when last brought up to date


@dataclass(slots=True)
class Placement:
    """The placing part of one plan: state, scorer, and what was found out on the way."""

    cluster: Cluster
    scorer: Scorer
    typical: Iterable[tuple[Resources, float]] = ()  # what scorers keep room for, with how often it is asked for
    pool_of_site: Mapping[str, str] = field(default_factory=dict)
    demand: Demand = field(init=False)
    _requests: dict[Key, Request] = field(default_factory=dict)
    _scored: OrderedDict[Key, _Scored] = field(default_factory=OrderedDict)
    _too_many: dict[Key, int] = field(default_factory=dict)  # so many replicas did not fit; free amounts only shrink

    def __post_init__(self) -> None:
        self.demand = make_demand(self.cluster, self.typical)

    def request(self, asked: Resources, sites: tuple[str, ...] | None = None) -> Request:
        """Return the request of `asked`, the same object for equal ones. `sites`: the only paid ones allowed (None: any)."""
        closed = () if sites is None else tuple(sorted(pool for name, pool in self.pool_of_site.items() if name not in sites))
        key = (*key_of(asked), *closed)
        if key not in self._requests:
            self._requests[key] = make_request(self.cluster, asked, closed)
        return self._requests[key]

    def place(self, run: WaitingRun, failed: dict[Key, int] | None = None) -> tuple[Place, ...] | None:
        """Put every replica and return where, or put nothing and return None.

        `failed` remembers what did not fit where more is free than the plan's own state has (holds given back).
        """
        request = self.request(run.resources, run.sites)
        too_many = self._too_many if failed is None else failed
        if run.replicas >= too_many.get(request.key, run.replicas + 1):
            return None
        avoided = [self.cluster.row_of[name] for name in run.avoid if name in self.cluster.row_of]
        # An attempt lives in one cluster, so a gang is tried in each by turns; a single replica takes the best of all.
        parts: list[int | None] = [None]
        if run.replicas > 1 and len(self.cluster.clusters) > 1:
            parts = list(range(len(self.cluster.clusters)))
        for part in parts:
            places = self._gang(request, run.replicas, avoided, part)
            if places is not None:
                return places
        too_many[request.key] = run.replicas
        return None

    def _gang(self, request: Request, replicas: int, avoided: list[int], part: int | None) -> tuple[Place, ...] | None:
        self.cluster.begin()
        places: list[Place] = []
        for replica in range(replicas):
            scored = self._points(request)
            row = self._best(scored.points, avoided, part)
            if row is None:
                self.cluster.rollback()
                return None
            places.append(self._put(request, replica, row, None if scored.column is None else int(scored.column[row])))
        self.cluster.commit()
        return tuple(places)

    def _best(self, points: Floats, avoided: list[int], part: int | None) -> int | None:
        if part is not None:
            points = np.where(self.cluster.member == part, points, -np.inf)
        if avoided:
            others = points.copy()
            others[avoided] = -np.inf
            if np.isfinite(others.max(initial=-np.inf)):
                points = others  # an avoided node is the last resort
        if not len(points):
            return None
        row = int(points.argmax())
        return row if np.isfinite(points[row]) else None

    def _points(self, request: Request) -> _Scored:
        kept = self._scored.get(request.key)
        touched = self.cluster.touched
        if kept is None:
            points, column = self._score(request, ALL)
            kept = _Scored(points=points, column=column, seen=len(touched))
            self._scored[request.key] = kept
            if len(self._scored) > KEPT_REQUESTS:
                self._scored.popitem(last=False)
            return kept
        self._scored.move_to_end(request.key)
        if kept.seen < len(touched):
            rows = np.array(sorted(set(touched[kept.seen :])), dtype=np.int64)
            points, column = self._score(request, rows)
            kept.points[rows] = points
            if kept.column is not None and column is not None:
                kept.column[rows] = column
            kept.seen = len(touched)
        return kept

    def _score(self, request: Request, rows: Rows) -> tuple[Floats, Ints | None]:
        fits = request.fits(self.cluster, rows)
        points = self.scorer(self.cluster, self.demand, request, rows)
        if points.ndim == 1 or not points.size:
            return np.where(fits, points if points.ndim == 1 else 0.0, -np.inf), None
        able = self.cluster.gpu_free[rows] >= request.milli(self.cluster, rows)
        points = np.where(able, points, -np.inf)
        column = points.argmax(axis=1)
        best = points[np.arange(len(points)), column]
        return np.where(fits, best, -np.inf), column

    def _put(self, request: Request, replica: int, row: int, column: int | None) -> Place:
        node = self.cluster.nodes[row]
        taken: list[tuple[int, int]] = []
        shares: tuple[DeviceShare, ...] = ()
        if request.devices:
            milli = request.milli_of_kind[self.cluster.kind_of[row]].tolist()
            if column is not None:
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
