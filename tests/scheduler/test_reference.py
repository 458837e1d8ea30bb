"""Tiny instances against a slow planner that tries every assignment of replicas to nodes and devices."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from mainspring import scheduler
from mainspring.core.ids import RunId
from mainspring.core.policy import OrderPolicy
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import DeviceShare, Granted, Resources
from mainspring.core.snapshot import DecisionKind, Snapshot, WaitingRun

pytestmark = pytest.mark.property


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_starts_are_those_of_trying_everything_in_turn(data: DataObject, tiny_snapshots: Any, naive: Any) -> None:
    """Each run starts exactly if, after the starts before it, some assignment of its replicas exists."""
    drawn = data.draw(tiny_snapshots)
    snapshot = replace(drawn, policy=replace(drawn.policy, order=OrderPolicy(is_fair=False)))
    plan = scheduler.plan(snapshot)
    starts = {one.run: one for one in naive.starts(plan)}
    assert list(starts) == [run for run in _in_turn(snapshot) if run in starts]
    free = naive.free(snapshot.nodes)
    runs = {run.id: run for run in snapshot.waiting}
    count = 0
    for name in _in_turn(snapshot):
        run = runs[name]
        may = not (run.is_held or run.is_unconfirmed or (run.not_before is not None and run.not_before > snapshot.now))
        possible = may and count < snapshot.policy.max_starts and _exists(run, snapshot.nodes, free, naive)
        assert (name in starts) == possible
        if possible:
            count += 1
            for place in starts[name].places:
                naive.take(free[place.node], place.granted)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_victims_are_those_of_trying_every_set(seed: int, tiny_crowds: Any, naive: Any) -> None:
    """Somebody is stopped for the urgent run exactly if some set of those who may be would do; and then a smallest such set."""
    snapshot = tiny_crowds(seed)
    (urgent,) = snapshot.waiting
    policy = snapshot.policy.preemption
    plan = scheduler.plan(snapshot)
    evicted = [one for one in plan.decisions if one.kind is DecisionKind.EVICT]
    if any(one.rule == "move" for one in evicted):
        return  # nobody need be stopped for good: who goes has another place in this very plan
    stopped = {one.run for one in evicted}
    may = [
        run
        for run in snapshot.placed
        if run.is_preemptible
        and run.priority < urgent.priority
        and (snapshot.now - run.since).total_seconds() >= policy.min_run_s
    ]
    enough = [
        set(some)
        for size in range(len(may) + 1)
        for some in combinations([run.id for run in may], size)
        if _fits(some, snapshot, naive)
    ]
    assert bool(stopped) == (bool(enough) and set() not in enough)
    if stopped:
        assert stopped in enough
        assert not any(some < stopped for some in enough)


def _fits(gone: tuple[RunId, ...], snapshot: Snapshot, naive: Any) -> bool:
    """Say whether the waiting run fits once these have gone."""
    free = naive.free(snapshot.nodes)
    for run in snapshot.placed:
        for place in run.places if run.id in gone else ():
            naive.take(free[place.node], place.granted, sign=1)
    return _exists(snapshot.waiting[0], snapshot.nodes, free, naive)


def _in_turn(snapshot: Snapshot) -> list[RunId]:
    """Return the runs by selection: the highest priority first, of those the one submitted first."""
    left = list(snapshot.waiting)
    ordered: list[RunId] = []
    while left:
        top = max(run.priority for run in left)
        first = min((run for run in left if run.priority == top), key=lambda run: run.seq)
        left.remove(first)
        ordered.append(first.id)
    return ordered


def _exists(run: WaitingRun, nodes: tuple[Node, ...], free: dict[str, dict[str, int]], naive: Any) -> bool:
    """Say whether some assignment of all replicas exists within one cluster."""
    for cluster in {node.cluster for node in nodes}:
        mine = [node for node in nodes if node.cluster == cluster and node.state is NodeState.READY]
        options = [one for node in mine for one in _grants(node, run.resources, naive)]
        if _fill(options, 0, run.replicas, {node.id: dict(free[node.id]) for node in mine}, naive, run.resources):
            return True
    return False


def _grants(node: Node, asked: Resources, naive: Any) -> list[tuple[str, Granted]]:
    """Return every grant that the node could give were it empty, whatever devices."""
    room = naive.free((node,), is_empty=True)[node.id]
    if naive.grant(node, room, asked) is None:
        return []
    count = max(1, asked.gpu_milli // 1000) if asked.is_gpu() else 0
    found = []
    for devices in combinations(node.devices, count):
        shares = [(device.index, naive.share(asked, device)) for device in devices]
        if all(milli is not None for _, milli in shares):
            held = tuple(DeviceShare(index=index, milli=milli) for index, milli in shares)
            granted = Granted(
                cpu_milli=asked.cpu_milli, memory_bytes=asked.memory_bytes, disk_bytes=asked.disk_bytes, devices=held
            )
            found.append((node.id, granted))
    return found


def _fill(
    options: list[tuple[str, Granted]], start: int, left: int, free: dict[str, dict[str, int]], naive: Any, asked: Resources
) -> bool:
    """Try all multisets of grants: replicas are alike, so the order of grants does not matter."""
    if left == 0:
        return True
    for position in range(start, len(options)):
        node, granted = options[position]
        if _has_room(free[node], granted):
            naive.take(free[node], granted)
            if _fill(options, position, left - 1, free, naive, asked):
                return True
            naive.take(free[node], granted, sign=1)
    return False


def _has_room(free: dict[str, int], granted: Granted) -> bool:
    needs = [("cpu", granted.cpu_milli), ("memory", granted.memory_bytes), ("disk", granted.disk_bytes)]
    needs += [(f"gpu{share.index}", share.milli) for share in granted.devices]
    return all(not need or free[name] >= need for name, need in needs)


def test_many_kinds_of_request_are_kept_apart(scene: Any, make_node: Any, make_waiting: Any, naive: Any) -> None:
    """More kinds than the planner keeps scores for, asked for in turns while nodes fill up."""
    nodes = [make_node(f"n{number:02}", cpus=16, gpus=number % 3) for number in range(40)]
    kinds = list(product(range(1, 151), (0, 500, 1000)))
    runs = [make_waiting(seq, cpu_milli=500 + kinds[seq % 450][0], gpu_milli=kinds[seq % 450][1]) for seq in range(1200)]
    snapshot = scene(nodes, runs)
    plan = scheduler.plan(snapshot)
    after = scheduler.apply_plan(snapshot, plan)
    free = naive.free(after.nodes)
    assert all(amount >= 0 for one in free.values() for amount in one.values())
    asked = {run.id: run.resources for run in runs}
    assert 300 < len(naive.starts(plan)) < 1200
    for decision in naive.waits(plan):
        assert all(naive.grant(node, free[node.id], asked[decision.run]) is None for node in after.nodes)
