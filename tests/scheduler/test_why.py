"""The long answer for one run: position, who is ahead by which rule, and what would change it, tried for truth."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from mainspring import scheduler
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import Node
from mainspring.core.resources import Device, DeviceShare, Foreign
from mainspring.core.shares import Share
from mainspring.core.snapshot import DecisionKind, PlacedRun, Plan, Reservation, ShareState, Snapshot, WaitingRun
from mainspring.core.whys import Change


def _busy(scene: Any, make_node: Any, make_waiting: Any) -> Any:
    """Four GPUs, one held by a run that is believed to end in an hour."""
    first = scene([make_node("n", gpus=4)], [make_waiting(1, gpu_milli=1000, cpu_milli=10, estimate_s=3600.0)])
    return scheduler.apply_plan(first, scheduler.plan(first))


def test_less_now_or_all_of_it_later(scene: Any, make_node: Any, make_waiting: Any) -> None:
    snapshot = replace(_busy(scene, make_node, make_waiting), waiting=(make_waiting(2, gpu_milli=4000, cpu_milli=10),))
    said = scheduler.why(snapshot, "run_002")
    assert said is not None
    assert (said.position, said.waiting, said.reason.code) == (1, 1, ReasonCode.NO_FREE_GPU)
    assert said.expected_at == snapshot.now + timedelta(hours=1)
    assert [one.sentence for one in said.changes] == ["starts now with 1 GPU less", "when run_001 ends, about 13:00 UTC"]
    assert said.changes[0].facts == {"gpu_milli": 3000}
    less = replace(snapshot.waiting[0], resources=replace(snapshot.waiting[0].resources, gpu_milli=3000))
    assert scheduler.plan(replace(snapshot, waiting=(less,))).decisions[0].kind is DecisionKind.START


def test_the_places_kept_for_others_are_not_promised(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """The first run keeps all four devices in an hour; the second may not be told that two are free now."""
    runs = (
        make_waiting(2, gpu_milli=4000, cpu_milli=10, priority=9, estimate_s=600.0),
        make_waiting(3, gpu_milli=3000, cpu_milli=10, estimate_s=9000.0),
    )
    said = scheduler.why(replace(_busy(scene, make_node, make_waiting), waiting=runs), "run_003")
    assert said is not None
    assert said.reason.code is ReasonCode.RESERVED
    assert not said.changes, "nor may it be told that it starts when the other ends: those ahead of it come first"


def test_an_end_that_would_not_help_is_not_told(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """What a share may not hold, and what an admin holds back, stays so when others end; what is kept by then is not free."""
    first = make_waiting(1, gpu_milli=1000, cpu_milli=10, estimate_s=3600.0)
    held = scene([make_node("n", gpus=2)], [first, make_waiting(2, gpu_milli=1000, cpu_milli=10, estimate_s=7200.0)])
    world = replace(scheduler.apply_plan(held, scheduler.plan(held)), waiting=(make_waiting(3, gpu_milli=1000, owner="bob"),))

    def told(**changes: Any) -> list[str]:
        said = scheduler.why(replace(world, **changes), "run_003")
        assert said is not None
        return [one.sentence for one in said.changes if one.at is not None]

    begins = world.now + timedelta(hours=1, minutes=30)
    window = Reservation(
        id="w", share="eve", begins_at=begins, ends_at=begins + timedelta(hours=9), resources=first.resources, replicas=2
    )
    assert told() == ["when run_001 ends, about 13:00 UTC"]
    assert told(shares=(ShareState(share=Share(name="bob", is_held=True)),)) == []
    assert told(shares=(ShareState(share=Share(name="bob", limit={"gpu": 0})),)) == []
    assert told(reservations=(replace(window, begins_at=world.now + timedelta(minutes=30)),)) == []
    assert told(waiting=(*world.waiting, make_waiting(4, gpu_milli=1000, owner="bob", priority=5, estimate_s=9000.0))) == []


def test_who_is_ahead_and_by_which_rule(scene: Any, make_node: Any, make_waiting: Any) -> None:
    full = [make_node("n", gpus=1, used_devices=(DeviceShare(index=0, milli=1000),))]
    runs = [
        make_waiting(1, gpu_milli=1000, owner="bob"),
        make_waiting(2, gpu_milli=1000, priority=5),
        make_waiting(3, gpu_milli=1000, cpu_milli=2000),
        make_waiting(4, gpu_milli=1000, cpu_milli=3000),
    ]
    said = scheduler.why(scene(full, runs), "run_004")
    assert said is not None
    assert said.position == 4
    assert {one.run: one.rule for one in said.ahead} == {"run_001": "share", "run_002": "priority", "run_003": "earlier"}
    assert scheduler.why(scene(full, runs), "run_nobody") is None


def test_work_that_came_past_the_queue_is_waited_for(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """It is no reason to refuse a run: the node is as large as before once that work has ended."""
    theirs = Foreign(cpu_milli=3000, devices=(Device(index=1),))
    shared = make_node("n", gpus=1, cpu_milli=1000, foreign=theirs)
    runs = [make_waiting(1, cpu_milli=2000), make_waiting(2, gpu_milli=2000, cpu_milli=10), make_waiting(3, cpu_milli=5000)]
    plan = scheduler.plan(scene([shared], runs))
    said = {one.run: one.reason for one in plan.decisions}
    assert [said[one.id].code for one in runs] == [ReasonCode.FOREIGN_WORK, ReasonCode.FOREIGN_WORK, ReasonCode.CANNOT_FIT]
    assert said["run_001"].sentence == "Waits for 2 CPUs: work that came past this queue holds 1 GPU and 3 CPUs of n."
    assert said["run_001"].facts == {"nodes": {"n": {"cpu_milli": 3000, "gpus": 1}}}
    assert "has 2 GPUs, 4 CPUs" in said["run_003"].sentence
    assert [scheduler.would_fit([shared], one.resources) is None for one in runs] == [True, True, False]
    alone = scheduler.plan(scene([shared.emptied()], runs[:2]))
    assert [one.kind for one in alone.decisions] == [DecisionKind.START, DecisionKind.START]


def test_a_run_that_starts_needs_no_answer(scene: Any, make_node: Any, make_waiting: Any) -> None:
    assert scheduler.why(scene([make_node("n")], [make_waiting(1)]), "run_001") is None


@pytest.mark.property
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_said_to_let_a_run_start_does(data: DataObject, worlds: Any, mixed_worlds: Any) -> None:
    """Asking for so much less it is started by the next plan, for any less it is not; after that end it is, without it not."""
    snapshot = data.draw(st.one_of(worlds, mixed_worlds))
    made = scheduler.plan(snapshot)
    world = _meanwhile(snapshot, made)
    # what is kept is laid anew by each plan, and may be elsewhere: windows to come, reservations once it is known who stops
    is_laid_anew = any(window.begins_at > snapshot.now for window in snapshot.reservations)
    is_laid_anew |= any(one.kind is DecisionKind.EVICT for one in made.decisions)
    for decision in [one for one in made.decisions if one.kind is DecisionKind.WAIT][:4]:
        said = scheduler.why(snapshot, decision.run, made)
        assert said is not None
        run = next(one for one in world.waiting if one.id == decision.run)
        for change in said.changes:
            if change.at is None:
                assert _starts_as(world, _with_less(run, change))
                assert said.reason.code is ReasonCode.BEHIND or is_laid_anew or not _starts_as(world, run)
                for gpu_milli in range(int(str(change.facts.get("gpu_milli", 10**9))) + 1000, run.resources.gpu_milli, 1000):
                    assert not _starts_as(world, replace(run, resources=replace(run.resources, gpu_milli=gpu_milli)))
                continue
            ended = {one.id for one in world.placed if one.since + timedelta(seconds=_length_s(one, world)) <= change.at}
            assert change.facts["run"] in ended
            assert _starts_as(replace(_without(world, ended), now=change.at), run)
            assert not _starts_as(replace(_without(world, ended - {change.facts["run"]}), now=change.at), run)


def _meanwhile(snapshot: Snapshot, made: Plan) -> Snapshot:
    """Return the world after a plan in which those who were asked to stop still run."""
    victims = {one.run for one in made.decisions if one.kind is DecisionKind.EVICT}
    rest = tuple(one for one in made.decisions if one.run not in victims)
    world = scheduler.apply_plan(snapshot, replace(made, decisions=rest))
    return replace(world, placed=tuple(replace(one, is_stopping=one.id in victims or one.is_stopping) for one in world.placed))


def _starts_as(world: Snapshot, run: WaitingRun) -> bool:
    """Say whether the next plan starts the run as it is asked for now, beside all others who wait."""
    others = (one for one in world.waiting if one.id != run.id)
    made = scheduler.plan(replace(world, waiting=(*others, run)))
    return any(one.run == run.id and one.kind is DecisionKind.START for one in made.decisions)


def _with_less(run: WaitingRun, change: Change) -> WaitingRun:
    """Return the run as the change has it."""
    facts: dict[str, Any] = dict(change.facts)
    if "replicas" in facts:
        return replace(run, min_replicas=0, **facts)
    if "is_preemptible" in facts:
        return replace(run, **facts)
    return replace(run, resources=replace(run.resources, **{name: value or () for name, value in facts.items()}))


def _length_s(run: PlacedRun, world: Snapshot) -> float:
    """Return how long a run is believed to take in all: who over-ran a tenth longer, at least a minute; who stops 30 s."""
    age_s = (world.now - run.since).total_seconds()
    if run.is_stopping:
        return age_s + 30.0
    if not run.estimate_s:
        return 10.0**9
    return run.estimate_s if run.estimate_s > age_s else age_s + max(60.0, age_s / 10)


def _without(world: Snapshot, gone: Container[str]) -> Snapshot:
    """Return the world after these runs, counted anew from what the others hold."""
    placed = tuple(run for run in world.placed if run.id not in gone)
    return replace(world, placed=placed, nodes=tuple(_holding(node, placed) for node in world.nodes))


def _holding(node: Node, placed: tuple[PlacedRun, ...]) -> Node:
    granted = [place.granted for run in placed for place in run.places if place.node == node.id]
    devices: dict[int, int] = {}
    for share in (share for one in granted for share in one.devices):
        devices[share.index] = devices.get(share.index, 0) + share.milli
    return replace(
        node,
        used_cpu_milli=sum(one.cpu_milli for one in granted),
        used_memory_bytes=sum(one.memory_bytes for one in granted),
        used_devices=tuple(DeviceShare(index=index, milli=milli) for index, milli in sorted(devices.items())),
    )
