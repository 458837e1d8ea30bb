"""Where a run goes: the best row for each replica, all replicas or none.

Scores are kept by request. After a put only the touched rows are scored again, so that ten thousand equal runs cost
ten thousand times one row and not ten thousand times all rows.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from mainspring.core.resources import DeviceShare, Granted, Resources
from mainspring.core.snapshot import Place, WaitingRun
from mainspring.scheduler.cluster import ALL, Cluster, Floats
from mainspring.scheduler.requests import Key, Request, key_of, make_request
from mainspring.scheduler.scorers import Scorer

KEPT_REQUESTS = 256  # 5,000 nodes are 40 kB for each


@dataclass(slots=True)
class _Scored:
    points: Floats  # -inf where the request does not fit
    seen: int  # length of `cluster.touched` when last brought up to date


@dataclass(slots=True)
class Placement:
    """The placing part of one plan: state, scorer, and what was found out on the way."""

    cluster: Cluster
    scorer: Scorer
    _requests: dict[Key, Request] = field(default_factory=dict)
    _scored: OrderedDict[Key, _Scored] = field(default_factory=OrderedDict)
    _too_many: dict[Key, int] = field(default_factory=dict)  # so many replicas did not fit; free amounts only shrink

    def request(self, asked: Resources) -> Request:
        """Return the request of `asked`, the same object for equal ones."""
        key = key_of(asked)
        if key not in self._requests:
            self._requests[key] = make_request(self.cluster, asked)
        return self._requests[key]

    def place(self, run: WaitingRun, failed: dict[Key, int] | None = None) -> tuple[Place, ...] | None:
        """Put every replica and return where, or put nothing and return None.

        `failed` remembers what did not fit where more is free than the plan's own state has (holds given back).
        """
        request = self.request(run.resources)
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
            row = self._best(request, avoided, part)
            if row is None:
                self.cluster.rollback()
                return None
            places.append(self._put(request, replica, row))
        self.cluster.commit()
        return tuple(places)

    def _best(self, request: Request, avoided: list[int], part: int | None) -> int | None:
        points = self._points(request)
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

    def _points(self, request: Request) -> Floats:
        kept = self._scored.get(request.key)
        touched = self.cluster.touched
        if kept is None:
            kept = _Scored(points=self._score(request, ALL), seen=len(touched))
            self._scored[request.key] = kept
            if len(self._scored) > KEPT_REQUESTS:
                self._scored.popitem(last=False)
            return kept.points
        self._scored.move_to_end(request.key)
        if kept.seen < len(touched):
            rows = np.array(sorted(set(touched[kept.seen :])), dtype=np.int64)
            kept.points[rows] = self._score(request, rows)
            kept.seen = len(touched)
        return kept.points

    def _score(self, request: Request, rows: object) -> Floats:
        return np.where(request.fits(self.cluster, rows), self.scorer.score(self.cluster, request, rows), -np.inf)

    def _put(self, request: Request, replica: int, row: int) -> Place:
        node = self.cluster.nodes[row]
        taken: list[tuple[int, int]] = []
        shares: tuple[DeviceShare, ...] = ()
        if request.devices:
            free = self.cluster.gpu_free[row].tolist()
            milli = request.milli_of_kind[self.cluster.kind_of[row]].tolist()
            able = [column for column in range(len(free)) if free[column] >= milli[column]]
            able.sort(key=lambda column: (self.scorer.prefer(free[column]), column))
            taken = sorted((column, milli[column]) for column in able[: request.devices])
            indexes = sorted(device.index for device in node.devices)
            shares = tuple(DeviceShare(index=indexes[column], milli=share) for column, share in taken)
        self.cluster.put(row, request.need, taken)
        asked = request.asked
        granted = Granted(cpu_milli=asked.cpu_milli, memory_bytes=asked.memory_bytes, disk_bytes=asked.disk_bytes, devices=shares)
        return Place(replica=replica, node=node.id, granted=granted)
