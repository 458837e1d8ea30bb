"""What each share holds, asks for, is promised and may fairly have: the arithmetic of the tree, slowly and in exact fractions.

It shares nothing with `scheduler/shares.py`; the tests of reasons judge their figures by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import pytest

from mainspring.core.reasons import ReasonCode
from mainspring.core.resources import Resources
from mainspring.core.shares import path_of
from mainspring.core.snapshot import Place, PlacedRun, Snapshot, WaitingRun

NONE, UNBOUNDED = Fraction(0), Fraction(2**62)
Amounts: TypeAlias = dict[str, Fraction]


class Ledger:
    """What each share holds, asks for, is promised and may fairly have, in exact fractions."""

    def __init__(self, snapshot: Snapshot, naive: Any) -> None:
        self.snapshot, self._naive = snapshot, naive
        self.states = {one.share.name: one for one in snapshot.shares}
        self._windows = [one for one in snapshot.reservations if one.begins_at <= snapshot.now < one.ends_at]
        named = {_leaf(run) for run in snapshot.placed} | {_leaf(run) for run in snapshot.waiting}
        named |= {*self.states, *(one.share for one in self._windows)}
        self.names = sorted({"", *(step for name in named for step in path_of(name))}, key=lambda one: len(path_of(one)))
        models = sorted({device.model.lower() for node in snapshot.nodes for device in node.devices})
        self.units = ("cpu", "memory", "gpu", *(f"gpu:{model}" for model in models))
        self.capacity = {unit: self._has(unit) for unit in self.units}
        self.used = {name: dict.fromkeys(self.units, NONE) for name in self.names}
        self.pinned = {name: dict.fromkeys(self.units, NONE) for name in self.names}
        self._asked = {name: dict.fromkeys(self.units, NONE) for name in self.names}
        self._bound = {name: dict.fromkeys(self.units, NONE) for name in self.names}  # of models, by runs that name one only
        for run in snapshot.placed:
            held = self.held(run.places)
            self._count(self.used, run, held)
            self._count(self._bound, run, {unit: held[unit] for unit in self._only(run.resources)})
            if not run.is_preemptible:
                self._count(self.pinned, run, held)
            if self._may_differ(run.resources):  # elsewhere it might have taken more
                most = self.need(run.resources, len(run.places))["gpu"]
                self._count(self._asked, run, {"gpu": max(NONE, most - held["gpu"])})
        for asking in snapshot.waiting:
            if not self.held_at(_leaf(asking)) and not _is_on_hold(asking, snapshot):
                need = self.need(asking.resources, asking.replicas)
                self._count(self._asked, asking, need)
                self._count(self._bound, asking, {unit: need[unit] for unit in self._only(asking.resources)})
        self.promised = self._promised()
        self.fair: dict[str, Amounts] = {}
        for unit in sorted(self.units, key=lambda one: one == "gpu"):
            self.fair[unit] = self._filled(unit)

    def held_at(self, name: str) -> list[str]:
        """Return which shares on the path an admin holds, the highest first."""
        return [one for one in path_of(name) if one in self.states and self.states[one].share.is_held]

    def _count(self, book: dict[str, Amounts], run: PlacedRun | WaitingRun, amounts: Amounts) -> None:
        for name in path_of(_leaf(run)):
            for unit, amount in amounts.items():
                book[name][unit] += amount

    def held(self, places: Iterable[Place]) -> Amounts:
        """Return what places take, by unit."""
        found = dict.fromkeys(self.units, NONE)
        model_of = {(node.id, one.index): one.model.lower() for node in self.snapshot.nodes for one in node.devices}
        for place in places:
            found["cpu"] += place.granted.cpu_milli
            found["memory"] += place.granted.memory_bytes
            for share in place.granted.devices:
                found["gpu"] += share.milli
                found[f"gpu:{model_of[place.node, share.index]}"] += share.milli
        return found

    def _may_differ(self, asked: Resources) -> bool:
        has_whole = any(device.whole for node in self.snapshot.nodes for device in node.devices)
        return asked.gpu_memory_bytes > 0 or (has_whole and 0 < asked.gpu_milli < 1000)

    def need(self, asked: Resources, replicas: int) -> Amounts:
        """Return what so many replicas take at most; of a model if it may be no other."""
        found = {"cpu": Fraction(asked.cpu_milli * replicas), "memory": Fraction(asked.memory_bytes * replicas)}
        if asked.is_gpu():
            allowed = [node for node in self.snapshot.nodes if asked.pool in ("", node.pool)]
            takes = {self._naive.share(asked, device) for node in allowed for device in node.devices} - {None}
            most = max(takes, default=1000)
            found["gpu"] = Fraction(most * max(1, asked.gpu_milli // 1000) * replicas)
            found |= {unit: found["gpu"] for unit in self._only(asked)}
        return {unit: amount for unit, amount in found.items() if amount}

    def _only(self, asked: Resources) -> list[str]:
        models = {f"gpu:{model.lower()}" for model in asked.gpu_models}
        return [unit for unit in models if len(models) == 1 and unit in self.units]

    def limit(self, name: str, unit: str) -> Fraction:
        """Return how much a share may hold."""
        return Fraction(self.states[name].share.limit.get(unit, UNBOUNDED)) if name in self.states else UNBOUNDED

    def children(self, name: str) -> list[str]:
        """Return the shares directly below one."""
        return [one for one in self.names if one and path_of(one)[-2] == name]

    def demand(self, name: str, unit: str) -> Fraction:
        """Return what is held and asked for, each share no more than its limit. Nobody runs beside the shares below one."""
        below = self.children(name)
        own = sum((self.demand(one, unit) for one in below), NONE) if below else self.used[name][unit] + self._asked[name][unit]
        return min(own, self.limit(name, unit))

    def wants(self, name: str, unit: str) -> Fraction:
        """Return the demand; of GPUs without that of a model alone which the share may not fairly have: it is for no others."""
        demand = self.demand(name, unit)
        if unit != "gpu":
            return demand
        all_of = {one: self.used[name][one] + self._asked[name][one] for one in self.units}
        models = [one for one in self.units if one.startswith("gpu:")]
        stuck = sum((max(NONE, min(self._bound[name][one], all_of[one] - self.fair[one][name])) for one in models), NONE)
        return min(demand, all_of[unit] - stuck)

    def _has(self, unit: str) -> Fraction:
        nodes, model = self.snapshot.nodes, unit.partition(":")[2]
        if unit in ("cpu", "memory"):
            return Fraction(sum(node.cpu_milli if unit == "cpu" else node.memory_bytes for node in nodes))
        return Fraction(1000 * sum(model in ("", device.model.lower()) for node in nodes for device in node.devices))

    def _own(self, name: str, unit: str) -> Fraction:
        """Return what is guaranteed to a share itself: as configured, and its windows that are open."""
        told = self.states[name].share.guarantee if name in self.states else {}
        amount = Fraction(told.get(unit, 0))
        if unit == "gpu" and not amount:
            amount = Fraction(sum(one for known, one in told.items() if known.startswith("gpu:") and known in self.units))
        for window in (one for one in self._windows if one.share == name):
            asked = window.resources
            kept = {"cpu": asked.cpu_milli, "memory": asked.memory_bytes, "gpu": asked.gpu_milli}
            amount += kept.get(unit, 0) * window.replicas
        return amount

    def pledged(self, name: str) -> set[str]:
        """Return the units that a share's own guarantee names; whoever has one of anything has one of GPUs, if of nothing."""
        named = {unit for unit in self.units if self._own(name, unit)}
        told = self.states[name].share.guarantee if name in self.states else {}
        return named | {"gpu"} if any(told.get(unit) for unit in self.units) else named

    def _promised(self) -> dict[str, Amounts]:
        """Return guarantees: a parent's is at least those below it together; what the one above does not have is scaled."""
        wanted: dict[str, Amounts] = {}
        for name in reversed(self.names):
            below = self.children(name)
            wanted[name] = {
                unit: max(self._own(name, unit), sum((wanted[one][unit] for one in below), NONE)) for unit in self.units
            }
        found = {"": {unit: min(wanted[""][unit], self.capacity[unit]) for unit in self.units}}
        for name in self.names:
            for unit in self.units:
                total = sum((wanted[one][unit] for one in self.children(name)), NONE)
                scale = min(Fraction(1), found[name][unit] / total) if total else Fraction(1)
                for one in self.children(name):
                    found.setdefault(one, {})[unit] = Fraction(int(wanted[one][unit] * scale))
        return found

    def _is_asking(self, name: str) -> bool:
        return any(self.used[name].values()) or any(self._asked[name].values())

    def weight(self, name: str) -> Fraction:
        """Return a share's weight as configured."""
        return Fraction(self.states[name].share.weight) if name in self.states else Fraction(1)

    def _weights(self, siblings: Sequence[str]) -> Amounts:
        """Return the weights that count: past use beyond a share's part lowers it, to a tenth at most."""
        found = {one: self.weight(one) for one in siblings}
        history = {one: Fraction(self.states[one].history) if one in self.states else NONE for one in siblings}
        asking = [one for one in siblings if self._is_asking(one)]
        total, past = sum((found[one] for one in asking), NONE), sum((history[one] for one in asking), NONE)
        strength = Fraction(self.snapshot.policy.order.history)
        if strength and past and total:
            for one in siblings:
                part = self.weight(one) / total
                found[one] *= max(Fraction(1, 10), 1 + strength * (part - history[one] / past) / part)
        return found

    def _filled(self, unit: str) -> Amounts:
        """Fill the shares from the root down: guarantees first, then all who want more rise together by weight."""
        fair = {"": min(self.capacity[unit], self.wants("", unit))}
        for name in self.names:
            below = self.children(name)
            weights, wants = self._weights(below), {one: self.wants(one, unit) for one in below}
            got = {one: min(self.promised[one][unit], wants[one]) for one in below}
            promised = sum(got.values(), NONE)
            if promised > fair[name]:
                got = {one: amount * fair[name] / promised for one, amount in got.items()}
            rest = fair[name] - sum(got.values(), NONE)
            while rest > 0 and (hungry := [one for one in below if got[one] < wants[one]]):
                heavy = sum((weights[one] for one in hungry), NONE)
                rise = min(rest / heavy, *((wants[one] - got[one]) / weights[one] for one in hungry))
                for one in hungry:
                    got[one] += rise * weights[one]
                rest -= rise * heavy
            fair |= got
        return fair

    def entitled(self, name: str, unit: str) -> Fraction:
        """Return how much may be held that cannot be preempted: the guarantee, else a part of what nobody has guaranteed."""
        if not name:
            return self.capacity[unit]
        if "gpu" in self.pledged(name):  # else it has no more than a window of CPUs
            return self.promised[name][unit] if unit in self.pledged(name) else UNBOUNDED
        above = path_of(name)[-2]
        siblings = self.children(above)
        rest = max(NONE, self.entitled(above, unit) - sum((self.promised[one][unit] for one in siblings), NONE))
        weights = sum((self.weight(one) for one in siblings if self._is_asking(one) and "gpu" not in self.pledged(one)), NONE)
        return max(rest * self.weight(name) / weights if weights else rest, self.promised[name][unit])

    def refusals(self, run: WaitingRun, asked: Resources, replicas: int) -> list[tuple[ReasonCode, str, str]]:
        """Return which shares do not let a run take so much, and of what."""
        need, found = self.need(asked, replicas), []
        for name in reversed(path_of(_leaf(run))):
            for unit, amount in need.items():
                if self.used[name][unit] + amount > self.limit(name, unit):
                    found.append((ReasonCode.SHARE_LIMIT, name, unit))
                if not run.is_preemptible and self.pinned[name][unit] + amount > self.entitled(name, unit):
                    found.append((ReasonCode.OVER_GUARANTEE, name, unit))
        return found

    def closed(self, run: WaitingRun, asked: Resources, replicas: int) -> set[str]:
        """Return the GPU models of which some share may not hold so much more."""
        amount = self.need(asked, replicas).get("gpu", NONE)
        models = (unit for unit in self.units if unit.startswith("gpu:"))
        path = path_of(_leaf(run))
        return {
            unit[4:] for unit in models if amount and any(self.used[one][unit] + amount > self.limit(one, unit) for one in path)
        }


def _leaf(run: PlacedRun | WaitingRun) -> str:
    return run.share or run.owner


def _is_on_hold(run: WaitingRun, snapshot: Snapshot) -> bool:
    return run.is_held or run.is_unconfirmed or (run.not_before is not None and run.not_before > snapshot.now)


@pytest.fixture(scope="session")
def ledger_of(naive: Any) -> Callable[[Snapshot], Ledger]:
    """Give the accounts of a world."""
    return lambda snapshot: Ledger(snapshot, naive)
