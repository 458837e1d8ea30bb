"""What each share holds, asks for, is promised and may fairly have: the arithmetic of the tree, slowly and in exact fractions.

It shares nothing with `scheduler/shares.py`; the promises about shares and the figures in reasons are judged by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mainspring.core.ids import RunId
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import Resources
from mainspring.core.shares import Share, path_of
from mainspring.core.snapshot import Place, PlacedRun, ShareState, Snapshot, WaitingRun

NONE, UNBOUNDED = Fraction(0), Fraction(2**62)
Amounts: TypeAlias = dict[str, Fraction]
Free: TypeAlias = dict[str, dict[str, int]]


class Ledger:
    """What each share holds, asks for, is promised and may fairly have, in exact fractions: amounts by share and unit."""

    def __init__(self, snapshot: Snapshot, naive: Any) -> None:
        self.snapshot, self.naive = snapshot, naive
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
            if not self.held_at(_leaf(asking)) and not self.is_aside(asking):
                need = self.need(asking.resources, asking.replicas)
                self._count(self._asked, asking, need)
                self._count(self._bound, asking, {unit: need[unit] for unit in self._only(asking.resources)})
        self.promised = self._promised()
        self.fair: dict[str, Amounts] = {}
        for unit in sorted(self.units, key=lambda one: one == "gpu"):
            for name, amount in self._filled(unit).items():
                self.fair.setdefault(name, {})[unit] = amount

    def held_at(self, name: str) -> list[str]:
        """Return which shares on the path an admin holds, the highest first."""
        return [one for one in path_of(name) if one in self.states and self.states[one].share.is_held]

    def is_aside(self, run: WaitingRun) -> bool:
        """Say whether a run is not tried at all."""
        return run.is_held or run.is_unconfirmed or (run.not_before is not None and run.not_before > self.snapshot.now)

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
        found = dict.fromkeys(self.units, NONE)
        found |= {"cpu": Fraction(asked.cpu_milli * replicas), "memory": Fraction(asked.memory_bytes * replicas)}
        if asked.is_gpu():
            allowed = [node for node in self.snapshot.nodes if asked.pool in ("", node.pool)]
            takes = {self.naive.share(asked, device) for node in allowed for device in node.devices} - {None}
            most = max(takes, default=1000)
            found["gpu"] = Fraction(most * max(1, asked.gpu_milli // 1000) * replicas)
            found |= {unit: found["gpu"] for unit in self._only(asked)}
        return found

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
        """Return what is held and asked for, each share no more than its limit."""
        own = self.used[name][unit] + self._asked[name][unit]
        over = (self.used[one][unit] + self._asked[one][unit] - self.demand(one, unit) for one in self.children(name))
        return min(own - sum(over, NONE), self.limit(name, unit))

    def wants(self, name: str, unit: str) -> Fraction:
        """Return the demand; of GPUs without that of a model alone which the share may not fairly have: it is for no others."""
        demand = self.demand(name, unit)
        if unit != "gpu":
            return demand
        all_of = {one: self.used[name][one] + self._asked[name][one] for one in self.units}
        models = [one for one in self.units if one.startswith("gpu:")]
        stuck = sum((max(NONE, min(self._bound[name][one], all_of[one] - self.fair[name][one])) for one in models), NONE)
        return min(demand, all_of[unit] - stuck)

    def _has(self, unit: str) -> Fraction:
        nodes, model = [node for node in self.snapshot.nodes if node.state is NodeState.READY], unit.partition(":")[2]
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

    def scarce(self, name: str) -> set[str]:
        """Return what those below a share want more of than it may fairly have."""
        below = self.children(name)
        return {unit for unit in self.units if sum((self.wants(one, unit) for one in below), NONE) > self.fair[name][unit]}

    def is_promised(self, name: str, need: Amounts) -> bool:
        """Say whether a share stays within all that it has guaranteed and that is asked for; GPUs must be among it."""
        named = [unit for unit, amount in need.items() if amount and self.promised[name][unit]]
        if any(self.used[name][unit] + need[unit] > self.promised[name][unit] for unit in named):
            return False
        return any(unit.startswith("gpu") for unit in named) if need["gpu"] else bool(named)

    def is_owed(self, below: list[str], need: Amounts) -> bool:
        """Say whether the promise of each share that has one, and of the highest, covers what is asked for; lowest first."""
        return all(self.is_promised(name, need) for name in below if name == below[-1] or self.pledged(name))

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
            for unit, amount in ((unit, amount) for unit, amount in need.items() if amount):
                if self.used[name][unit] + amount > self.limit(name, unit):
                    found.append((ReasonCode.SHARE_LIMIT, name, unit))
                if not run.is_preemptible and self.pinned[name][unit] + amount > self.entitled(name, unit):
                    found.append((ReasonCode.OVER_GUARANTEE, name, unit))
        return found

    def closed(self, run: WaitingRun, asked: Resources, replicas: int) -> set[str]:
        """Return the GPU models of which some share may not hold so much more."""
        amount = self.need(asked, replicas)["gpu"]
        models = (unit for unit in self.units if unit.startswith("gpu:"))
        path = path_of(_leaf(run))
        return {
            unit[4:] for unit in models if amount and any(self.used[one][unit] + amount > self.limit(one, unit) for one in path)
        }

    def open(self, run: WaitingRun, asked: Resources) -> Resources | None:
        """Return a choice of a run without the GPU models that are closed to it, None if none is left."""
        closed = self.closed(run, asked, run.least)
        known = {unit[4:] for unit in self.units if unit.startswith("gpu:")}
        left = tuple(sorted(({model.lower() for model in asked.gpu_models} or known) - closed))
        return asked if not closed else replace(asked, gpu_models=left) if left else None

    def most(self, run: WaitingRun, asked: Resources, free: Free, *, is_apart: bool = False, enough: int = 0) -> int:
        """Return how many replicas have room, apart or on what they have to share; as many as would do are enough."""
        same = "" if is_apart else run.together
        parts: dict[str, list[Node]] = {}
        for node in self.snapshot.nodes:
            label = node.id if same == "node" else node.labels.get(same, "") if same else "any"
            if label and node.state is NodeState.READY:
                parts.setdefault(label, []).append(node)
        return max((int(self.naive.most(nodes, free, asked, enough or run.least)) for nodes in parts.values()), default=0)

    @staticmethod
    def apart(mine: str, theirs: str) -> tuple[list[str], list[str]]:
        """Return the shares of both below the one that they have in common, the lowest first."""
        own, other = path_of(mine)[::-1], path_of(theirs)[::-1]
        return [one for one in own if one not in other], [one for one in other if one not in own]


def _leaf(run: PlacedRun | WaitingRun) -> str:
    return run.share or run.owner


@pytest.fixture(scope="session")
def ledger_of(naive: Any) -> Callable[[Snapshot], Ledger]:
    """Give the accounts of a world."""
    return lambda snapshot: Ledger(snapshot, naive)


@pytest.fixture(scope="session")
def layered_worlds(naive: Any, make_node: Any, make_waiting: Any, scene: Any) -> SearchStrategy[Snapshot]:
    """Give a strategy of worlds in which GPUs are scarce inside one share and CPUs between it and another.

    `a/x` holds all GPUs and some CPUs with them, `a/y` wants GPUs; `b/z` holds and wants CPUs. So who takes GPUs within `a`
    takes CPUs from its victim that are scarce at the root alone. Some of it is guaranteed to somebody.
    """

    def made(seed: int) -> Snapshot:
        pick = Random(seed).choice
        nodes = [make_node("n0", cpus=8, gpus=4), make_node("n1", cpus=pick([2, 4, 8]))]
        free = naive.free(tuple(nodes))
        beside = Resources(cpu_milli=pick([500, 1000, 2000]), gpu_milli=1000)
        small = [Resources(cpu_milli=pick([500, 1000, 2000])) for _ in range(9)]
        wants = [("a/x", beside)] * 4 + [(pick(["b/z", "b/z", "a/x"]), one) for one in small]
        placed: list[PlacedRun] = []
        for number, (leaf, asked) in enumerate(wants):
            found = [(node.id, granted) for node in nodes if (granted := naive.grant(node, free[node.id], asked))]
            if not found:
                continue
            naive.take(free[found[0][0]], found[0][1])
            place = Place(replica=0, node=found[0][0], granted=found[0][1])
            placed.append(
                PlacedRun(
                    id=RunId(f"run_p{number}"),
                    owner=leaf,
                    project="p",
                    priority=0,
                    seq=number - 100,
                    since=scene([], []).now - timedelta(seconds=pick([700, 9000])),
                    is_preemptible=True,
                    places=(place,),
                    resources=asked,
                    share=leaf,
                )
            )
        waiting = [
            make_waiting(number, owner=leaf, share=leaf, gpu_milli=gpu, cpu_milli=pick(cpus))
            for number, (leaf, gpu, cpus) in enumerate(
                [("a/y", 1000, [10, 500, 1000])] * pick([1, 2])
                + [("b/z", 0, [500, 1000, 2000, 4000])] * pick([1, 2, 3])
                + [("a/x", 0, [500, 1000])] * pick([0, 0, 1])
            )
        ]
        shares = tuple(
            ShareState(share=Share(name=name, weight=pick([1.0, 2.0]), guarantee=pick([{}, {}, {"gpu": 2000}, {"cpu": 2000}])))
            for name in ("a", "a/x", "a/y", "b")
        )
        held = {
            node.id: replace(
                node,
                used_cpu_milli=node.cpu_milli - free[node.id]["cpu"],
                used_devices=tuple(
                    share for run in placed for one in run.places if one.node == node.id for share in one.granted.devices
                ),
            )
            for node in nodes
        }
        return scene(list(held.values()), waiting, placed=tuple(placed), shares=shares)  # type: ignore[no-any-return]

    return st.integers(0, 2**32).map(made)
