"""The state of a simulation: nodes, who waits, who is placed; and what each decision does to it.

Kept as the planner's own records, so that a snapshot is made of them as they are; only what changed is made anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from mainspring.core.budgets import MICROS
from mainspring.core.durations import LEARNED, believed, class_of, instead
from mainspring.core.errors import PlannerError
from mainspring.core.ids import RunId
from mainspring.core.machines import paid_until
from mainspring.core.policy import Policy
from mainspring.core.records import Node
from mainspring.core.resources import GPU_MILLI, DeviceShare
from mainspring.core.snapshot import Place, PlacedRun, Rented, Site, Snapshot, Typical, WaitingRun
from mainspring.simulator.jobs import Job
from mainspring.simulator.past import Past

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Progress:
    """How far a job is. `number` counts its starts: what was foreseen for an earlier one is void."""

    job: Job
    seq: int
    number: int = 0
    done_s: float = 0.0  # kept by its last checkpoint
    begun_s: float = 0.0
    first_s: float = -1.0
    lost_s: float = 0.0
    cloud_s: float = 0.0
    stays_home: bool = False  # it was overdue on a rented machine
    evictions: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        """Return the work that is left."""
        return self.job.duration_s - self.done_s


@dataclass(slots=True)
class _Held:
    cpu: int = 0
    memory: int = 0
    disk: int = 0
    devices: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class World:
    """All of it. `drift_s` is how far the wall clock was set off; time itself only passes."""

    policy: Policy
    nodes: dict[str, Node]
    past: Past
    sites: dict[str, Site] = field(default_factory=dict)
    typical: tuple[Typical, ...] = ()
    budget_usd: str = ""
    drift_s: float = 0.0
    waiting: dict[RunId, WaitingRun] = field(default_factory=dict)
    placed: dict[RunId, PlacedRun] = field(default_factory=dict)
    rented: dict[str, Rented] = field(default_factory=dict)
    _held: dict[str, _Held] = field(default_factory=dict)
    _stale: set[str] = field(default_factory=set)
    _told: dict[RunId, tuple[float, float]] = field(default_factory=dict)  # of those that wait: estimate, and what was done of it
    _taken: dict[int, deque[float]] = field(default_factory=dict)
    _insteads: dict[int, float] = field(default_factory=dict)

    def wall(self, now_s: float) -> datetime:
        """Return what the clock on the wall shows."""
        return EPOCH + timedelta(seconds=now_s + self.drift_s)

    def snapshot(self, now_s: float) -> Snapshot:
        """Return what the planner sees."""
        for name in self._stale:
            if name in self.nodes:
                self.nodes[name] = self._fresh(self.nodes[name])
        self._stale.clear()
        return Snapshot(
            now=self.wall(now_s),
            nodes=tuple(self.nodes.values()),
            waiting=tuple(self.waiting.values()),
            placed=tuple(self.placed.values()),
            policy=self.policy,
            shares=self.past.states(now_s),
            sites=tuple(self.sites.values()),
            rented=tuple(self.rented.values()),
            typical=self.typical,
            budget_usd=self.budget_usd,
        )

    def paid_s(self, site: Site, usd: Decimal) -> float:
        """Return for how long a machine of `site` may be had for so much."""
        micros = int(usd * MICROS)
        return (paid_until(EPOCH, site.machine.price_usd_per_hour, micros) - EPOCH).total_seconds()

    def enqueue(self, progress: Progress) -> None:
        """Let a job wait: when it comes, and again when it was stopped. It keeps its place in the order."""
        job = progress.job
        self._told[RunId(job.id)] = (job.estimate_s, progress.done_s)
        self.waiting[RunId(job.id)] = WaitingRun(
            id=RunId(job.id),
            owner=job.owner or job.share,
            project="simulated",
            seq=progress.seq,
            priority=job.priority,
            submitted_at=self.wall(job.submit_s),
            resources=job.resources,
            replicas=job.replicas,
            version=progress.number + 1,
            share=job.share,
            estimate_s=self._believed(RunId(job.id)),
            alternatives=job.alternatives,
            same=job.same,
            data_bytes=job.data_bytes,
            is_preemptible=job.is_preemptible,
            sites=() if progress.stays_home else job.sites,
        )

    def learn(self, job: Job) -> None:
        """Note how long a job took that ended, and think again of those that wait with such an estimate."""
        if job.estimate_s <= 0 or not self.policy.order.learns:
            return
        label = class_of(job.estimate_s)
        taken = self._taken.setdefault(label, deque(maxlen=LEARNED))
        taken.append(job.duration_s)
        found = instead(label, taken)
        if found == self._insteads.get(label, 0.0):
            return
        self._insteads[label] = found
        for id, run in self.waiting.items():
            if class_of(self._told[id][0]) == label:
                self.waiting[id] = replace(run, estimate_s=self._believed(id))

    def _believed(self, run: RunId) -> float:
        estimate_s, done_s = self._told[run]
        return max(1.0, believed(estimate_s, self._insteads) - done_s) if estimate_s > 0 else 0.0

    def start(self, run: RunId, places: Sequence[Place], now_s: float) -> None:
        """Give a waiting run what it was granted. Raises PlannerError where that is more than there is."""
        one = self.waiting.pop(run)
        self._told.pop(run)
        if len(places) != one.replicas:
            raise PlannerError(f"{run} has {one.replicas} replicas and was given {len(places)} places.")
        self._change(places, 1)
        self.past.change(one.share or one.owner, _gpus(places), now_s)
        self.past.serve(one.share or one.owner, self.wall(now_s))
        self.placed[run] = PlacedRun(
            id=one.id,
            owner=one.owner,
            project=one.project,
            priority=one.priority,
            seq=one.seq,
            since=self.wall(now_s),
            is_preemptible=one.is_preemptible,
            places=tuple(places),
            version=one.version,
            resources=one.resources,
            same=one.same,
            submitted_at=one.submitted_at,
            share=one.share,
            estimate_s=one.estimate_s,
        )

    def end(self, run: RunId, now_s: float) -> PlacedRun:
        """Take back what a run holds, and notice rented machines that are idle now."""
        gone = self.placed.pop(run)
        self._change(gone.places, -1)
        self.past.change(gone.share or gone.owner, -_gpus(gone.places), now_s)
        for place in gone.places:
            machine = self.rented.get(place.node)
            if machine is not None and not self._held[place.node].devices:
                self.rented[place.node] = replace(machine, idle_since=self.wall(now_s))
        return gone

    def stop(self, run: RunId) -> None:
        """Note that the end of a run was asked for."""
        self.placed[run] = replace(self.placed[run], is_stopping=True)

    def checkpoint(self, run: RunId, now_s: float) -> None:
        """Note a complete checkpoint."""
        self.placed[run] = replace(self.placed[run], checkpointed_at=self.wall(now_s))

    def _change(self, places: Sequence[Place], sign: int) -> None:
        for place in places:
            held = self._held.setdefault(place.node, _Held())
            self._stale.add(place.node)
            granted = place.granted
            held.cpu += sign * granted.cpu_milli
            held.memory += sign * granted.memory_bytes
            held.disk += sign * granted.disk_bytes
            for share in granted.devices:
                left = held.devices.get(share.index, 0) + sign * share.milli
                if left:
                    held.devices[share.index] = left
                else:
                    held.devices.pop(share.index, None)
            if sign > 0:
                self._check(place.node, held)
                if place.node in self.rented:
                    self.rented[place.node] = replace(self.rented[place.node], idle_since=None)

    def _check(self, name: str, held: _Held) -> None:
        node = self.nodes.get(name)
        if node is None:
            raise PlannerError(f"A run was placed on {name}, which is not there.")
        is_over = held.cpu > node.cpu_milli or held.memory > node.memory_bytes or held.disk > node.disk_bytes
        if is_over or any(milli > GPU_MILLI for milli in held.devices.values()):
            raise PlannerError(f"Node {name} was given more than it has.")
        if not held.devices.keys() <= {device.index for device in node.devices}:
            raise PlannerError(f"A device was granted that node {name} does not have.")

    def _fresh(self, node: Node) -> Node:
        held = self._held[node.id]
        return replace(
            node,
            used_cpu_milli=held.cpu,
            used_memory_bytes=held.memory,
            used_disk_bytes=held.disk,
            used_devices=tuple(DeviceShare(index=index, milli=milli) for index, milli in sorted(held.devices.items())),
            version=node.version + 1,
        )


def _gpus(places: Sequence[Place]) -> float:
    return sum(share.milli for place in places for share in place.granted.devices) / GPU_MILLI
