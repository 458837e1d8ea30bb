"""Planning again after an event equals planning cold, whatever came before: over random histories of busy worlds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mainspring.core.errors import PlannerError
from mainspring.core.ids import RunId
from mainspring.core.records import Node, NodeState
from mainspring.core.resources import DeviceShare, Granted, Resources
from mainspring.core.snapshot import DecisionKind, Snapshot, Typical
from mainspring.scheduler import Planner, apply_plan, cluster, fingerprint, plan
from mainspring.scheduler.reading import Reading, read

STEPS = 12
WAITS = frozenset({DecisionKind.WAIT})


@pytest.mark.property
@pytest.mark.parametrize("most_touched", [cluster.MOST_TOUCHED, 2])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_planning_again_is_planning_cold(
    worlds: SearchStrategy[Snapshot], data: st.DataObject, most_touched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same decisions, reasons and fingerprint; without explanations the same decisions but for who waits.

    So also when the memory of what was touched is given up from time to time, as after weeks of a busy server.
    """
    monkeypatch.setattr(cluster, "MOST_TOUCHED", most_touched)
    world, other, dice = data.draw(worlds), data.draw(worlds), Random(data.draw(st.integers(0, 2**32)))
    if dice.random() < 0.5:
        world = replace(world, policy=replace(world.policy, scorer="fill"))  # it looks at what is typical
    planner, silent = Planner(), Planner(explains=False)
    for step in range(STEPS):
        cold, again, untold = plan(world), planner.plan(world), silent.plan(world)
        assert again == cold
        assert untold.decisions == tuple(one for one in cold.decisions if one.kind not in WAITS)
        assert untold.release == cold.release
        if dice.random() < 0.6:
            world = apply_plan(world, cold)
        for _ in range(dice.choice([0, 1, 1, 2])):
            world = dice.choice(EVENTS)(world, other, dice, step)


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_order_of_rows_does_not_matter(worlds: SearchStrategy[Snapshot], data: st.DataObject) -> None:
    """A snapshot's rows are sets: a store may list them as it likes."""
    world, dice = data.draw(worlds), Random(data.draw(st.integers(0, 2**32)))
    mixed = replace(
        world,
        nodes=tuple(dice.sample(world.nodes, len(world.nodes))),
        waiting=tuple(dice.sample(world.waiting, len(world.waiting))),
        placed=tuple(dice.sample(world.placed, len(world.placed))),
    )
    assert plan(mixed) == plan(world)


def test_a_fingerprint_sees_every_row(worlds_by_seed: Callable[[int], Snapshot]) -> None:
    """A row more, a row less, another figure of a row or another clock: another name."""
    world = next(one for seed in range(100) if (one := worlds_by_seed(seed)).placed and len(one.waiting) > 1)
    changed = [
        replace(world, waiting=world.waiting[1:]),
        replace(world, waiting=(replace(world.waiting[0], version=9), *world.waiting[1:])),
        replace(world, placed=world.placed[1:]),
        replace(world, nodes=(replace(world.nodes[0], version=9), *world.nodes[1:])),
        replace(world, now=world.now + timedelta(seconds=1)),
        replace(world, budget_usd="77"),
    ]
    assert len({fingerprint(one) for one in (world, *changed)}) == 1 + len(changed)
    planner = Planner()
    for one in (world, *changed):
        assert planner.plan(one).fingerprint == fingerprint(one) == plan(one).fingerprint


def test_after_an_error_all_is_read_anew(worlds_by_seed: Callable[[int], Snapshot]) -> None:
    """A snapshot that contradicts itself is refused, and leaves nothing behind."""
    world = next(one for seed in range(100) if (one := worlds_by_seed(seed)).placed)
    twice = replace(world, waiting=(*world.waiting, replace(world.waiting[0], id=world.placed[0].id)))
    planner = Planner()
    planner.plan(world)
    with pytest.raises(PlannerError, match="waits and is placed at once"):
        planner.plan(twice)
    with pytest.raises(PlannerError, match="lists a waiting run twice"):
        planner.plan(replace(world, waiting=(*world.waiting, replace(world.waiting[0], version=7))))
    assert planner.plan(world) == plan(world)


def test_what_is_typical_is_counted_down(worlds_by_seed: Callable[[int], Snapshot]) -> None:
    """Runs that are gone are typical no more."""
    for world in (one for seed in range(60) if (one := worlds_by_seed(seed)).placed):
        fewer = replace(world, placed=world.placed[1:], waiting=world.waiting[1:])
        reading = Reading()
        reading.read(world)
        kept, cold = reading.read(fewer).placement.demand, read(fewer).placement.demand
        assert ([one.key for one in kept.requests], kept.parts.tolist()) == (
            [one.key for one in cold.requests],
            cold.parts.tolist(),
        )


def _arrive(world: Snapshot, other: Snapshot, dice: Random, step: int) -> Snapshot:
    new = replace(dice.choice(other.waiting), id=RunId(f"run_new{step}_{dice.random()}"), seq=1000 + step)
    places = dice.choice(world.placed).places if world.placed and dice.random() < 0.2 else ()
    shapes: list[dict[str, Any]] = [
        {},
        {"alternatives": (Resources(cpu_milli=10, gpu_milli=500),)},
        {"replicas": 3, "min_replicas": 1},
        {"replicas": 2, "same": "node"},
        {"is_held": True},
        {"not_before": world.now + timedelta(seconds=30)},
        {"resources": Resources(cpu_milli=10, gpu_memory_bytes=4 * 2**30)},
        {"resources": Resources(cpu_milli=10, labels={"zone": "a"})},
        {"avoid": tuple(node.id for node in world.nodes[:1])},
        {"data_on": tuple(node.id for node in world.nodes[-1:]), "data_bytes": 2**34},
    ]
    return replace(world, waiting=(*world.waiting, replace(new, nominated=places, **dice.choice(shapes))))


def _cancel(world: Snapshot, _: Snapshot, dice: Random, __: int) -> Snapshot:
    gone = dice.choice(world.waiting) if world.waiting else None
    return replace(world, waiting=tuple(one for one in world.waiting if one is not gone))


def _end(world: Snapshot, _: Snapshot, dice: Random, __: int) -> Snapshot:
    if not world.placed:
        return world
    gone = dice.choice(world.placed)
    nodes = tuple(_without(node, [place.granted for place in gone.places if place.node == node.id]) for node in world.nodes)
    return replace(world, nodes=nodes, placed=tuple(one for one in world.placed if one is not gone))


def _change(world: Snapshot, _: Snapshot, dice: Random, __: int) -> Snapshot:
    if not world.placed:
        return world
    one = dice.choice(world.placed)
    new = dice.choice(
        [replace(one, is_stopping=True), replace(one, checkpointed_at=world.now), replace(one, is_preemptible=False)]
    )
    return replace(world, placed=tuple(new if run is one else run for run in world.placed))


def _pass(world: Snapshot, _: Snapshot, dice: Random, __: int) -> Snapshot:
    return replace(world, now=world.now + timedelta(seconds=dice.choice([-60, 1, 45, 700, 90_000])))


def _node(world: Snapshot, _: Snapshot, dice: Random, step: int) -> Snapshot:
    one = dice.choice(world.nodes)
    held = {place.node for run in world.placed for place in run.places}
    new: list[tuple[Node, ...]] = [
        (replace(one, seen_at=world.now, version=one.version + 1),),
        (replace(one, state=dice.choice(list(NodeState))),),
        (one, replace(one, id=f"new{step}", used_cpu_milli=0, used_memory_bytes=0, used_devices=())),
        (replace(one, labels={"zone": "a"}),),
        (one,) if one.id in held or len(world.nodes) == 1 else (),
    ]
    chosen = dice.choice(new)
    if any(node.id == f"new{step}" for node in world.nodes):
        chosen = (one,)
    return replace(world, nodes=tuple(made for node in world.nodes for made in (chosen if node is one else (node,))))


def _rule(world: Snapshot, other: Snapshot, dice: Random, _: int) -> Snapshot:
    typical = (Typical(resources=Resources(gpu_milli=500), count=3.0), Typical(resources=Resources(gpu_milli=1000), count=1.5))
    changes: list[dict[str, Any]] = [
        {"policy": other.policy},
        {"policy": replace(world.policy, scorer="fill")},
        {"shares": other.shares},
        {"reservations": other.reservations},
        {"sites": other.sites},
        {"typical": dice.choice([(), typical])},
    ]
    return replace(world, **dice.choice(changes))


def _copy(world: Snapshot, _: Snapshot, __: Random, ___: int) -> Snapshot:
    """Read every row anew, as a store that keeps nothing does."""
    return replace(
        world,
        nodes=tuple(replace(one) for one in world.nodes),
        waiting=tuple(replace(one) for one in reversed(world.waiting)),
        placed=tuple(replace(one) for one in world.placed),
    )


def _without(node: Node, grants: list[Granted]) -> Node:
    if not grants:
        return node
    devices = {share.index: share.milli for share in node.used_devices}
    for share in (share for one in grants for share in one.devices):
        devices[share.index] = devices.get(share.index, 0) - share.milli
    return replace(
        node,
        used_cpu_milli=node.used_cpu_milli - sum(one.cpu_milli for one in grants),
        used_devices=tuple(DeviceShare(index=index, milli=milli) for index, milli in sorted(devices.items()) if milli > 0),
        version=node.version + 1,
    )


EVENTS = [_arrive, _arrive, _arrive, _cancel, _end, _end, _change, _pass, _pass, _node, _rule, _copy]
