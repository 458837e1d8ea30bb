"""Reasons that were wrong once: each scene is the smallest in which the sentence named what did not stand in the way."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mainspring import scheduler
from mainspring.core.policy import BackfillPolicy, BurstMode, BurstPolicy, Policy
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.resources import Device
from mainspring.core.shares import Share
from mainspring.core.snapshot import DecisionKind, ShareState, Site, Snapshot


def _told(snapshot: Snapshot) -> dict[str, Reason]:
    return {str(one.run): one.reason for one in scheduler.plan(snapshot).decisions if one.reason is not None}


def _limit(name: str, **amounts: int) -> tuple[ShareState, ...]:
    return (ShareState(share=Share(name=name, limit={unit.replace("_", ":"): amount for unit, amount in amounts.items()})),)


@pytest.fixture
def half(scene: Any, make_node: Any, make_waiting: Any) -> Snapshot:
    """Give two GPUs, both held by bob for two hours yet, one of them by a run that ends in an hour."""
    runs = [
        make_waiting(seq, owner="bob", gpu_milli=1000, cpu_milli=10, estimate_s=length_s)
        for seq, length_s in ((1, 3600.0), (2, 7200.0))
    ]
    first = scene([make_node("n", gpus=2)], runs)
    made: Snapshot = scheduler.apply_plan(first, scheduler.plan(first))
    return made


def test_a_limit_is_told_only_if_the_smallest_size_and_every_choice_is_over_it(half: Snapshot, make_waiting: Any) -> None:
    gang = make_waiting(5, gpu_milli=1000, cpu_milli=10, replicas=3, min_replicas=1)
    one = make_waiting(5, gpu_milli=2000, cpu_milli=10)
    or_less = replace(one, alternatives=(replace(one.resources, gpu_milli=1000),))
    for run in (gang, or_less):
        assert _told(replace(half, waiting=(run,), shares=_limit("alice", gpu=1000)))[run.id].code is ReasonCode.NO_FREE_GPU
        said = _told(replace(half, waiting=(run,), shares=_limit("alice", gpu=500)))[run.id]
        assert said.code is ReasonCode.SHARE_LIMIT
    assert _told(replace(half, waiting=(one,), shares=_limit("alice", gpu=1000)))[one.id].code is ReasonCode.SHARE_LIMIT


def test_a_gang_starts_as_small_as_the_limit_of_a_model_lets_it(scene: Any, make_node: Any, make_waiting: Any) -> None:
    gang = make_waiting(5, gpu_milli=1000, cpu_milli=10, replicas=3, min_replicas=1)
    snapshot = scene([make_node("n", gpus=4)], [gang], shares=_limit("alice", gpu_a100=2000))
    (decision,) = scheduler.plan(snapshot).decisions
    assert (decision.kind, len(decision.places)) == (DecisionKind.START, 2)


@pytest.mark.parametrize("is_free", [False, True])
def test_a_model_that_a_share_may_not_have_enough_of_is_the_reason_though_it_is_taken(
    is_free: bool, half: Snapshot, scene: Any, make_node: Any, make_waiting: Any
) -> None:
    """Two GPUs of a model of which it may hold one: when they come free it does not start. An idle T4 too few helps nobody."""
    run = make_waiting(5, gpu_milli=2000, cpu_milli=10)
    world = scene([make_node("n", gpus=2)], []) if is_free else half
    world = replace(world, waiting=(run,), shares=_limit("alice", gpu_a100=1000, gpu_t4=0))
    other = make_node("t", devices=(Device(index=0, model="T4"),))
    said = _told(replace(world, nodes=(*world.nodes, other)))[run.id]
    assert (said.code, said.facts["unit"]) == (ReasonCode.SHARE_LIMIT, "gpu:a100")


def test_what_is_kept_is_kept_for_others_whom_it_would_delay(half: Snapshot, make_waiting: Any) -> None:
    """Two keep places: the first both GPUs in two hours, the second CPUs. Who needs just a GPU delays the first alone."""
    rest = scheduler.apply_plan(half, scheduler.plan(half))
    nodes = tuple(replace(node, used_devices=node.used_devices[:1], used_cpu_milli=10) for node in rest.nodes)
    world = replace(rest, nodes=nodes, placed=tuple(run for run in rest.placed if run.places[0].granted.devices[0].index == 0))
    runs = (
        make_waiting(3, owner="bob", gpu_milli=2000, cpu_milli=10, priority=9),
        make_waiting(4, owner="bob", gpu_milli=0, cpu_milli=7995, priority=8),
        make_waiting(5, owner="bob", gpu_milli=1000, cpu_milli=10, estimate_s=99_000.0),
    )
    policy = Policy(backfill=BackfillPolicy(reserved=2))
    told = _told(replace(world, waiting=runs, policy=policy))
    assert told["run_005"].code is ReasonCode.RESERVED
    assert told["run_005"].facts == {"runs": ["run_003"]}
    assert told["run_003"].code is ReasonCode.NO_FREE_GPU
    assert all(name not in reason.facts.get("runs", ()) for name, reason in told.items())  # type: ignore[operator]


def test_who_is_gone_in_time_is_not_told_that_it_would_delay(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """A GPU is kept from now to two hours on, CPUs to one hour: who takes 90 minutes of both would delay only the second."""
    now = [
        make_waiting(1, owner="bob", gpu_milli=1000, cpu_milli=10, estimate_s=7200.0),
        make_waiting(2, owner="bob", cpu_milli=4000, estimate_s=3600.0),
    ]
    first = scene([make_node("n", gpus=2)], now)
    runs = (
        make_waiting(3, owner="bob", gpu_milli=2000, cpu_milli=10, priority=9),
        make_waiting(4, owner="bob", cpu_milli=7000, priority=8),
        make_waiting(5, owner="bob", gpu_milli=1000, cpu_milli=1500, estimate_s=5400.0),
    )
    policy = Policy(backfill=BackfillPolicy(reserved=2))
    told = _told(replace(scheduler.apply_plan(first, scheduler.plan(first)), waiting=runs, policy=policy))
    assert (told["run_005"].code, told["run_005"].facts) == (ReasonCode.RESERVED, {"runs": ["run_004"]})


def test_what_is_left_of_room_made_for_others_is_kept_for_nobody(half: Snapshot, make_waiting: Any) -> None:
    """Alice takes back two GPUs by stopping one run of two, and needs but one: the other is left for bob's next."""
    full = replace(half, placed=(), nodes=tuple(replace(node, used_devices=(), used_cpu_milli=0) for node in half.nodes))
    both = replace(full, waiting=(make_waiting(1, owner="bob", gpu_milli=2000, cpu_milli=10),))
    held = scheduler.apply_plan(both, scheduler.plan(both))
    runs = (
        make_waiting(3, gpu_milli=1000, cpu_milli=10),
        make_waiting(4, owner="bob", gpu_milli=1000, cpu_milli=10, priority=5),
    )
    shares = (ShareState(share=Share(name="alice", guarantee={"gpu": 1000})),)
    later = replace(held, now=held.now + timedelta(hours=1), waiting=runs, shares=shares)
    told = _told(later)
    assert told["run_003"].code is ReasonCode.NOMINATED
    assert (told["run_004"].code, told["run_004"].facts) == (ReasonCode.BEHIND, {"stopping": ["run_001"]})
    after = scheduler.apply_plan(later, scheduler.plan(later))
    started = {one.run for one in scheduler.plan(after).decisions if one.kind is DecisionKind.START}
    assert {"run_003", "run_004"} <= started


@pytest.mark.parametrize(
    ("same", "labels", "is_rented"), [("rack", {}, False), ("rack", {"rack": "r"}, True), ("node", {}, False)]
)
def test_no_machines_are_rented_on_which_a_gang_would_not_be_together(
    same: str, labels: dict[str, str], is_rented: bool, half: Snapshot, make_node: Any, make_waiting: Any
) -> None:
    """Two machines of one GPU each: of one rack only if the site says so, and never one machine."""
    nodes = tuple(replace(node, labels={"rack": "here"}) for node in half.nodes)
    gang = make_waiting(
        5, gpu_milli=1000, cpu_milli=10, replicas=2, same=same, estimate_s=600.0, submitted_at=half.now - timedelta(hours=3)
    )
    machine = make_node("machine", gpus=1, pool="cloud", cluster="cloud", price_usd_per_hour="2", labels=labels)
    site = Site(name="cloud", machine=machine, max_machines=4, ready_s=60.0)
    policy = Policy(burst=BurstPolicy(mode=BurstMode.ALL_ALLOCATED))
    (decision,) = scheduler.plan(replace(half, nodes=nodes, waiting=(gang,), sites=(site,), policy=policy)).decisions
    assert (decision.kind is DecisionKind.BURST) == is_rented
