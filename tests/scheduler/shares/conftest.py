"""A tree of shares in plain fractions, and the rules of starting by it, slowly: it shares nothing with the room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mainspring.core.ids import RunId
from mainspring.core.records import NodeState
from mainspring.core.resources import Resources
from mainspring.core.shares import Share, path_of
from mainspring.core.snapshot import Place, PlacedRun, ShareState, Snapshot, WaitingRun

UNBOUNDED = 2**62
Amounts = dict[str, Fraction]


class Slow:
    """The tree of a snapshot, name by name and unit by unit in fractions, with none of the planner's arithmetic.

    `used`, `asked`, `promised` (scaled where it is more than there is), `fair` and `entitled` are amounts by share and unit.
    `history` is not looked at.
    """

    def __init__(self, naive: Any, snapshot: Snapshot) -> None:
        self.snapshot, self.naive = snapshot, naive
        ready = [node for node in snapshot.nodes if node.state is NodeState.READY]
        models = sorted({f"gpu:{device.model.lower()}" for node in snapshot.nodes for device in node.devices})
        self.units = ("cpu", "memory", "gpu", *models)
        self.capacity = dict.fromkeys(self.units, Fraction(0))
        for node in ready:
            self.capacity["cpu"] += node.cpu_milli
            self.capacity["memory"] += node.memory_bytes
            for device in node.devices:
                self.capacity["gpu"] += 1000
                self.capacity[f"gpu:{device.model.lower()}"] += 1000
        runs = (*snapshot.placed, *snapshot.waiting)
        self.shares = {one.share.name: one.share for one in snapshot.shares}
        named = {run.share for run in runs} | set(self.shares) | {one.share for one in snapshot.reservations}
        self.names = sorted({step for name in named for step in path_of(name)}, key=lambda name: (len(path_of(name)), name))
        zero = {name: dict.fromkeys(self.units, Fraction(0)) for name in self.names}
        self.used, self.asked, self.pinned, self.demand = (
            {name: dict(amounts) for name, amounts in zero.items()} for _ in range(4)
        )
        most = {name: dict(amounts) for name, amounts in zero.items()}  # asked for, and what placed runs could hold elsewhere
        self.all_of, self.alone = ({name: dict(amounts) for name, amounts in zero.items()} for _ in range(2))
        for run in snapshot.placed:
            held = self.held(run)
            could = self.need(run.resources, len(run.places))
            for name, unit in product(path_of(run.share), self.units):
                self.used[name][unit] += held[unit]
                self.alone[name][unit] += held[unit] if self._is_only(run.resources, unit) else 0
                self.pinned[name][unit] += 0 if run.is_preemptible else held[unit]
                most[name][unit] += max(Fraction(0), could[unit] - held[unit]) if unit == "gpu" and self._differs(run) else 0
        for waits in snapshot.waiting:
            if not self.is_held(waits.share) and not self.is_aside(waits):
                for name, unit in product(path_of(waits.share), self.units):
                    amount = self.need(waits.resources, waits.replicas)[unit]
                    self.asked[name][unit] += amount
                    self.alone[name][unit] += amount if self._is_only(waits.resources, unit) else 0
                    most[name][unit] += amount
        for name, unit in product(reversed(self.names), self.units):
            own = self.all_of[name][unit] = self.used[name][unit] + most[name][unit]
            below = sum(
                (self.used[one][unit] + most[one][unit] - self.demand[one][unit] for one in self.children(name)), Fraction(0)
            )
            self.demand[name][unit] = min(self.limit(name, unit), own - below)
        self.promised, self.fair, self.entitled = zero, {}, {}
        self._divide()

    def children(self, name: str) -> list[str]:
        """Return the shares right below one."""
        return [one for one in self.names if one != name and len(path_of(one)) == len(path_of(name)) + 1 and name in path_of(one)]

    def limit(self, name: str, unit: str) -> Fraction:
        """Return how much a share may hold."""
        return Fraction(self.shares[name].limit.get(unit, UNBOUNDED)) if name in self.shares else Fraction(UNBOUNDED)

    def is_held(self, name: str) -> bool:
        """Say whether a share or one above it is held."""
        return any(one in self.shares and self.shares[one].is_held for one in path_of(name))

    def held(self, run: PlacedRun) -> Amounts:
        """Return what a placed run holds."""
        amounts = dict.fromkeys(self.units, Fraction(0))
        models = {(node.id, device.index): device.model.lower() for node in self.snapshot.nodes for device in node.devices}
        for place in run.places:
            amounts["cpu"] += place.granted.cpu_milli
            amounts["memory"] += place.granted.memory_bytes
            for share in place.granted.devices:
                amounts["gpu"] += share.milli
                amounts[f"gpu:{models[place.node, share.index]}"] += share.milli
        return amounts

    def need(self, asked: Resources, replicas: int) -> Amounts:
        """Return what so many replicas take at most; of a model if it may be no other."""
        amounts = dict.fromkeys(self.units, Fraction(0))
        amounts["cpu"], amounts["memory"] = Fraction(asked.cpu_milli * replicas), Fraction(asked.memory_bytes * replicas)
        if asked.is_gpu():
            may = [milli for device in self._devices() if (milli := self.naive.share(asked, device)) is not None]
            amounts["gpu"] = Fraction(max(may, default=1000) * max(1, asked.gpu_milli // 1000) * replicas)
            only = {model.lower() for model in asked.gpu_models}
            if len(only) == 1 and (unit := f"gpu:{only.pop()}") in amounts:
                amounts[unit] = amounts["gpu"]
        return amounts

    def scarce(self, name: str) -> set[str]:
        """Return what those below a share want more of than it may fairly have."""
        return {
            unit
            for unit in self.units
            if sum((self.demand[one][unit] for one in self.children(name)), Fraction(0)) > self.fair[name][unit]
        }

    def is_promised(self, name: str, need: Amounts) -> bool:
        """Say whether a share stays within all that it has guaranteed and that is asked for; GPUs must be among it."""
        named = [unit for unit, amount in need.items() if amount and self.promised[name][unit]]
        if any(self.used[name][unit] + need[unit] > self.promised[name][unit] for unit in named):
            return False
        return any(unit.startswith("gpu") for unit in named) if need["gpu"] else bool(named)

    def is_owed(self, below: list[str], need: Amounts) -> bool:
        """Say whether the promise of each share that has one, and of the highest, covers what is asked for; lowest first."""
        return all(self.is_promised(name, need) for name in below if name == below[-1] or self._own(name))

    def _own(self, name: str) -> dict[str, int]:
        """Return what is guaranteed to a share itself; so many of each model are so many GPUs, an open window is promised too."""
        own = {unit: amount for unit, amount in self.shares[name].guarantee.items()} if name in self.shares else {}
        own = {unit: amount for unit, amount in own.items() if unit in self.units and amount}
        if not own.get("gpu") and (sums := sum(amount for unit, amount in own.items() if unit.startswith("gpu:"))):
            own["gpu"] = sums
        for one in self.snapshot.reservations:
            if one.share == name and one.begins_at <= self.snapshot.now < one.ends_at:
                for unit, amount in (("cpu", one.resources.cpu_milli), ("gpu", one.resources.gpu_milli)):
                    own |= {unit: own.get(unit, 0) + amount * one.replicas} if amount else {}
        return own

    def _divide(self) -> None:
        """Scale the promises, fill the shares from the root down, and split what nobody has guaranteed."""
        for name, unit in product(reversed(self.names), self.units):
            below = sum((self.promised[one][unit] for one in self.children(name)), Fraction(0))
            self.promised[name][unit] = max(Fraction(self._own(name).get(unit, 0)), below)
        root = self.names[0]
        self.promised[root] = {unit: min(self.promised[root][unit], self.capacity[unit]) for unit in self.units}
        self.fair[root] = {unit: min(self.capacity[unit], self.demand[root][unit]) for unit in self.units}
        self._leave_what_waits_for_a_model(root)
        self.fair[root]["gpu"] = min(self.fair[root]["gpu"], self.demand[root]["gpu"])
        self.entitled[root] = dict(self.capacity)
        for name in self.names:
            children = self.children(name)
            for unit in sorted(self.units, key=lambda one: one == "gpu"):
                for one in children if unit == "gpu" else ():
                    self._leave_what_waits_for_a_model(one)
                total = sum((self.promised[one][unit] for one in children), Fraction(0))
                if total > self.promised[name][unit]:
                    for one in children:
                        self.promised[one][unit] = Fraction(int(self.promised[one][unit] * self.promised[name][unit] / total))
                self._fill(name, children, unit)
                self._entitle(name, children, unit)

    def _leave_what_waits_for_a_model(self, name: str) -> None:
        """Count no demand for GPUs that only one model would do for, beyond what the share may fairly have of that."""
        units = [unit for unit in self.units if unit.startswith("gpu:")]
        stuck = (max(Fraction(0), min(self.alone[name][one], self.all_of[name][one] - self.fair[name][one])) for one in units)
        self.demand[name]["gpu"] = min(self.demand[name]["gpu"], self.all_of[name]["gpu"] - sum(stuck, Fraction(0)))

    def _is_only(self, asked: Resources, unit: str) -> bool:
        return {f"gpu:{model.lower()}" for model in asked.gpu_models} == {unit}

    def _fill(self, name: str, children: list[str], unit: str) -> None:
        wanted = {one: self.demand[one][unit] for one in children}
        given = {one: min(self.promised[one][unit], wanted[one]) for one in children}
        rest = self.fair[name][unit] - sum(given.values(), Fraction(0))
        if rest < 0:
            given = {one: amount * self.fair[name][unit] / (self.fair[name][unit] - rest) for one, amount in given.items()}
        while rest > 0 and (hungry := {one: self._weight(one) for one in children if given[one] < wanted[one]}):
            step = min(rest, *((wanted[one] - given[one]) * sum(hungry.values()) / hungry[one] for one in hungry))
            for one, weight in hungry.items():
                given[one] += step * weight / sum(hungry.values())
            rest -= step
        for one in children:
            self.fair.setdefault(one, {})[unit] = given[one]

    def _entitle(self, name: str, children: list[str], unit: str) -> None:
        rest = max(Fraction(0), self.entitled[name][unit] - sum((self.promised[one][unit] for one in children), Fraction(0)))
        askers = [one for one in children if any(self.used[one].values()) or any(self.asked[one].values())]
        weights = sum((self._weight(one) for one in askers if "gpu" not in self._bound(one)), Fraction(0))
        for one in children:
            sure = self.promised[one][unit]
            if "gpu" not in self._bound(one):
                sure = max(sure, rest * self._weight(one) / weights if weights else rest)
            elif unit not in self._bound(one):
                sure = Fraction(UNBOUNDED)
            self.entitled.setdefault(one, {})[unit] = sure

    def _bound(self, name: str) -> set[str]:
        """Return of what a share may hold no more than it has guaranteed without being preemptible: GPUs, if it has anything."""
        known = name in self.shares and any(unit in self.units for unit in self.shares[name].guarantee)
        return set(self._own(name)) | ({"gpu"} if known else set())

    def _weight(self, name: str) -> Fraction:
        return Fraction(self.shares[name].weight) if name in self.shares else Fraction(1)

    def _devices(self) -> list[Any]:
        return [device for node in self.snapshot.nodes for device in node.devices]

    def _differs(self, run: PlacedRun) -> bool:
        asked = run.resources
        return asked.gpu_memory_bytes > 0 or (0 < asked.gpu_milli < 1000 and any(device.whole for device in self._devices()))

    def is_aside(self, run: WaitingRun) -> bool:
        """Say whether the run is not tried at all."""
        return run.is_held or run.is_unconfirmed or (run.not_before is not None and run.not_before > self.snapshot.now)

    @staticmethod
    def apart(mine: str, theirs: str) -> tuple[list[str], list[str]]:
        """Return the shares of both below the one that they have in common, the lowest first."""
        own, other = path_of(mine)[::-1], path_of(theirs)[::-1]
        return [one for one in own if one not in other], [one for one in other if one not in own]

    def over(self, leaf: str, need: Amounts) -> bool:
        """Say whether some share on the path would hold more than it may."""
        return any(
            self.used[name][unit] + amount > self.limit(name, unit)
            for name in path_of(leaf)
            for unit, amount in need.items()
            if amount
        )

    def unsure(self, run: WaitingRun, need: Amounts) -> bool:
        """Say whether a run that may not be stopped would go beyond what its shares can count on."""
        over = (
            self.pinned[name][unit] + amount > self.entitled[name][unit]
            for name in path_of(run.share)
            for unit, amount in need.items()
            if amount
        )
        return not run.is_preemptible and any(over)

    def closed(self, leaf: str, gpu: Fraction) -> set[str]:
        """Return the models of which some share on the path may not hold so many more GPUs."""
        models = [unit.partition(":")[2] for unit in self.units if ":" in unit]
        return {
            model
            for model in models
            for name in path_of(leaf)
            if gpu and self.used[name][f"gpu:{model}"] + gpu > self.limit(name, f"gpu:{model}")
        }

    def narrowed(self, asked: Resources, closed: set[str]) -> Resources | None:
        """Return the request without some models; None if none is left."""
        if not closed or not asked.is_gpu():
            return asked
        models = {model.lower() for model in asked.gpu_models} or {device.model.lower() for device in self._devices()}
        left = tuple(sorted(models - closed))
        return replace(asked, gpu_models=left) if left else None

    def fitting(self, free: dict[str, dict[str, int]], asked: Resources, run: WaitingRun) -> int:
        """Return how many replicas fit together where they have to be: on one machine, on one rack, in one cluster."""
        ready = [node for node in self.snapshot.nodes if node.state is NodeState.READY]
        if run.replicas == 1 or not run.same:
            return int(self.naive.most(ready, free, asked, run.least))
        places = {node.id if run.same == "node" else node.labels.get(run.same) for node in ready} - {None}
        parts = [[node for node in ready if place in (node.id, node.labels.get(run.same))] for place in places]
        return max((int(self.naive.most(part, free, asked, run.least)) for part in parts), default=0)


@pytest.fixture(scope="session")
def slow(naive: Any) -> Callable[[Snapshot], Slow]:
    """Give the slow tree of a snapshot."""
    return lambda snapshot: Slow(naive, snapshot)


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
