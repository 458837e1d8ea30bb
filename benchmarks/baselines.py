"""Published scheduling policies, as planners of the simulator: what ours is compared with. Not part of the product.

All place as Helios does (SC'21): up to a machine's GPUs on the fullest machine that fits, gangs machine by machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mainspring.core.resources import GPU_MILLI, DeviceShare, Granted
from mainspring.core.snapshot import Decision, DecisionKind, Place, PlacedRun, Plan, Snapshot, WaitingRun
from mainspring.simulator import Planner

Key: TypeAlias = Callable[[WaitingRun], tuple[float, ...]]


def fifo(run: WaitingRun) -> tuple[float, ...]:
    """First in, first out."""
    return (run.seq,)


def shortest(run: WaitingRun) -> tuple[float, ...]:
    """The shortest estimate first: SJF where it is the truth, QSSF as published where it is not."""
    return (run.estimate_s, run.seq)


def smallest(run: WaitingRun) -> tuple[float, ...]:
    """The fewest estimated GPU-seconds first."""
    return (run.estimate_s * gpus_of(run), run.seq)


def gpus_of(run: WaitingRun) -> int:
    """Return the GPUs of all replicas."""
    return run.resources.gpu_milli // GPU_MILLI * run.replicas


def ordered(key: Key) -> Planner:
    """Return the policy that serves by `key` and stops at the first that does not fit."""

    def plan(snapshot: Snapshot) -> Plan:
        room = _Room(snapshot)
        starts = []
        for run in sorted(snapshot.waiting, key=key):
            places = room.take(run)
            if places is None:
                break
            starts.append(_start(run, places))
        return Plan(fingerprint="", decisions=tuple(starts))

    return plan


def easy(key: Key) -> Planner:
    """Return the policy that serves by `key`; who comes later may pass the first blocked one if it does not delay it (EASY)."""

    def plan(snapshot: Snapshot) -> Plan:
        room = _Room(snapshot)
        starts: list[Decision] = []
        line = sorted(snapshot.waiting, key=key)
        at = 0
        while at < len(line) and (places := room.take(line[at])) is not None:
            starts.append(_start(line[at], places))
            at += 1
        if at < len(line):
            shadow_s, spare = room.shadow(line[at])
            for run in line[at + 1 :]:
                if not room.is_any_free():
                    break
                is_gone = run.estimate_s <= shadow_s
                if is_gone or gpus_of(run) <= spare:
                    places = room.take(run)
                    if places is not None:
                        starts.append(_start(run, places))
                        spare -= 0 if is_gone else gpus_of(run)
        return Plan(fingerprint="", decisions=tuple(starts))

    return plan


def tiresias(thresholds: Sequence[float] = (3600.0 * 10,)) -> Planner:
    """Return Tiresias-2D-LAS (NSDI'19): least attained GPU-seconds first in two queues, by stopping who has had more."""

    def plan(snapshot: Snapshot) -> Plan:
        had = {run.id: (snapshot.now - run.since).total_seconds() * _held(run) for run in snapshot.placed}
        line: list[tuple[tuple[float, float], WaitingRun | PlacedRun]] = [
            ((_level(had[run.id], thresholds), run.seq), run) for run in snapshot.placed if not run.is_stopping
        ]
        line += [((0.0, run.seq), run) for run in snapshot.waiting]
        line.sort(key=lambda one: one[0])
        left = sum(len(node.devices) for node in snapshot.nodes)
        keep: set[str] = set()
        for _, run in line:
            size = gpus_of(run) if isinstance(run, WaitingRun) else _held(run)
            if size <= left:
                left -= size
                keep.add(run.id)
        starts = []
        room = _Room(snapshot)
        needed = 0
        for _, run in line:
            if isinstance(run, WaitingRun) and run.id in keep:
                places = room.take(run)
                if places is not None:
                    starts.append(_start(run, places))
                else:
                    needed += gpus_of(run)
        evictions = []
        coming = sum(_held(run) for run in snapshot.placed if run.is_stopping)
        for _, run in reversed(line):
            if needed <= coming:
                break
            if isinstance(run, PlacedRun) and run.id not in keep:
                coming += _held(run)
                evictions.append(Decision(run=run.id, kind=DecisionKind.EVICT, version=run.version))
        return Plan(fingerprint="", decisions=(*starts, *evictions))

    return plan


@dataclass(slots=True)
class _Room:
    free: dict[str, list[int]]
    snapshot: Snapshot

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.free = {}
        for node in snapshot.nodes:
            used = {share.index for share in node.used_devices}
            self.free[node.id] = [device.index for device in node.devices if device.index not in used]

    def is_any_free(self) -> bool:
        return any(self.free.values())

    def take(self, run: WaitingRun) -> tuple[Place, ...] | None:
        each = run.resources.gpu_milli // GPU_MILLI
        places: list[Place] = []
        for replica in range(run.replicas):
            able = [(len(free), name) for name, free in self.free.items() if len(free) >= each]
            if not able:
                for place in places:
                    self.free[place.node] += [share.index for share in place.granted.devices]
                return None
            name = min(able)[1]
            free = self.free[name]
            devices = tuple(DeviceShare(index=free.pop(), milli=GPU_MILLI) for _ in range(each))
            asked = run.resources
            granted = Granted(cpu_milli=asked.cpu_milli, memory_bytes=asked.memory_bytes, devices=devices)
            places.append(Place(replica=replica, node=name, granted=granted))
        return tuple(places)

    def shadow(self, run: WaitingRun) -> tuple[float, int]:
        """Return when the run is believed to fit (seconds from now), and how many GPUs are spare then."""
        free = {name: len(indexes) for name, indexes in self.free.items()}
        each = run.resources.gpu_milli // GPU_MILLI
        ends = sorted((_left(one, self.snapshot), one.seq, one) for one in self.snapshot.placed)
        for left_s, _, one in ends:
            for place in one.places:
                free[place.node] += len(place.granted.devices)
            if sum(count // each for count in free.values()) >= run.replicas:
                return left_s, sum(free.values()) - gpus_of(run)
        return 0.0, 0


def _left(run: PlacedRun, snapshot: Snapshot) -> float:
    return max(1.0, run.estimate_s - (snapshot.now - run.since).total_seconds())


def _held(run: PlacedRun) -> int:
    return sum(len(place.granted.devices) for place in run.places)


def _level(had: float, thresholds: Iterable[float]) -> float:
    return float(sum(had > most for most in thresholds))


def _start(run: WaitingRun, places: tuple[Place, ...]) -> Decision:
    return Decision(run=run.id, kind=DecisionKind.START, version=run.version, places=places)
