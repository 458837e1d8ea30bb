"""Devices that their engine gives only whole: a share is served by an idle one, and holds all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mainspring import scheduler
from mainspring.core.policy import Policy
from mainspring.core.reasons import ReasonCode
from mainspring.core.resources import Device, DeviceShare
from mainspring.core.shares import Share
from mainspring.core.snapshot import DecisionKind, ShareState
from mainspring.scheduler.places import build_places
from mainspring.scheduler.scorers import SCORERS

GIB = 2**30
WHOLE = DeviceShare(index=0, milli=1000)


@pytest.mark.parametrize("scorer", sorted(SCORERS))
def test_two_halves_do_not_share_one(scene: Any, make_node: Any, make_waiting: Any, scorer: str) -> None:
    halves = [make_waiting(1, gpu_milli=500), make_waiting(2, gpu_milli=500)]
    snapshot = scene([make_node("n", gpus=1, is_whole=True)], halves, policy=Policy(scorer=scorer))
    first, second = scheduler.plan(snapshot).decisions
    assert (first.run, first.kind, first.places[0].granted.devices) == ("run_001", DecisionKind.START, (WHOLE,))
    assert (second.kind, second.reason.code) == (DecisionKind.WAIT, ReasonCode.NO_FREE_GPU)
    assert second.reason.sentence == (
        "Waits for 1 GPU, which is given only whole here: all 1 of pool default are taken (alice holds 1)."
    )
    assert second.reason.facts["holders"] == {"alice": 1000}


def test_memory_is_had_of_one_that_has_so_much(scene: Any, make_node: Any, make_waiting: Any) -> None:
    devices = (Device(index=0, memory_bytes=8 * GIB, whole=True), Device(index=1, memory_bytes=16 * GIB, whole=True))
    runs = [make_waiting(1, gpu_memory_bytes=9 * GIB), make_waiting(2, gpu_memory_bytes=GIB), make_waiting(3, gpu_memory_bytes=1)]
    first, second, third = scheduler.plan(scene([make_node("n", devices=devices)], runs)).decisions
    assert first.places[0].granted.devices == (DeviceShare(index=1, milli=1000),)
    assert second.places[0].granted.devices == (WHOLE,)
    assert third.reason.code is ReasonCode.NO_FREE_GPU
    never = scheduler.would_fit([make_node("n", devices=devices)], make_waiting(4, gpu_memory_bytes=17 * GIB).resources)
    assert never is not None
    assert never.code is ReasonCode.CANNOT_FIT


def test_what_is_left_of_one_in_use_serves_nobody(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """Of one that a run holds in part, from before its engine was known to give none."""
    begun = make_node("a", gpus=1, is_whole=True, used_devices=(DeviceShare(index=0, milli=400),))
    shared = make_node("b", gpus=1, used_devices=(DeviceShare(index=0, milli=700),))
    (decision,) = scheduler.plan(scene([begun, shared], [make_waiting(1, gpu_milli=500)])).decisions
    assert decision.reason.code is ReasonCode.NO_FREE_GPU
    assert (decision.reason.facts["need"], decision.reason.facts["free"]) == (500, 300)


@pytest.mark.parametrize("scorer", sorted(SCORERS))
def test_a_share_goes_where_a_part_will_do(scene: Any, make_node: Any, make_waiting: Any, scorer: str) -> None:
    nodes = [make_node("a", gpus=1, is_whole=True), make_node("b", gpus=1)]
    halves = [make_waiting(seq, gpu_milli=500) for seq in (1, 2, 3)]
    decisions = scheduler.plan(scene(nodes, halves, policy=Policy(scorer=scorer))).decisions
    assert [one.places[0].node for one in decisions] == ["b", "b", "a"]


def test_limits_count_what_may_be_taken(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """A share counts as a whole GPU, unless it may go only where parts are given."""
    nodes = [make_node("a", gpus=4, is_whole=True, pool="hpc"), make_node("b", gpus=4, pool="own")]
    limit = (ShareState(share=Share(name="alice", limit={"gpu": 1000})),)
    for pool, starts in (("", 1), ("hpc", 1), ("own", 2)):
        runs = [make_waiting(seq, gpu_milli=500, pool=pool) for seq in (1, 2, 3)]
        decisions = scheduler.plan(scene(nodes, runs, shares=limit)).decisions
        assert [one.kind for one in decisions].count(DecisionKind.START) == starts
        assert decisions[-1].reason.code is ReasonCode.SHARE_LIMIT


def test_demand_stays_when_a_part_was_taken(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """What a placed share could have taken elsewhere is its share's demand still: starting it changes no fair amount."""
    nodes = [make_node("a", gpus=1, is_whole=True), make_node("b", gpus=1)]
    snapshot = scene(nodes, [make_waiting(1, gpu_milli=500), make_waiting(2, owner="bob", gpu_milli=500)])
    before = {one.name: one.fair for one in scheduler.standings(snapshot)}
    after = {one.name: one.fair for one in scheduler.standings(scheduler.apply_plan(snapshot, scheduler.plan(snapshot)))}
    assert {name: fair["gpu"] for name, fair in after.items()} == {name: fair["gpu"] for name, fair in before.items()}


def test_the_forecast_lets_a_share_hold_all_of_it(scene: Any, make_node: Any, make_waiting: Any) -> None:
    for is_whole, second_at in ((True, 100.0), (False, 50.0)):
        places = build_places(scene([make_node("n", gpus=1, is_whole=is_whole)], []), 2)
        places.seal()
        half = make_waiting(1, gpu_milli=500)
        assert places.take(half, np.full(2, 100.0), 0.0).tolist() == [0.0, 0.0]
        assert places.take(half, np.full(2, 100.0), 0.0).tolist() == [second_at] * 2


def test_a_planner_sees_that_a_node_begins_to_give_whole_ones(scene: Any, make_node: Any, make_waiting: Any) -> None:
    planner = scheduler.Planner()
    node, halves = make_node("n", gpus=1), [make_waiting(1, gpu_milli=500), make_waiting(2, gpu_milli=500)]
    for known, starts in ((node, 2), (replace(node, devices=make_node("n", gpus=1, is_whole=True).devices), 1)):
        decisions = planner.plan(scene([known], halves)).decisions
        assert [one.kind for one in decisions].count(DecisionKind.START) == starts
