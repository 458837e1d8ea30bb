"""The numbered promises that one plan alone cannot keep: plans come to rest, every run starts in the end, machines are kept for
their least life."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from mainspring import scheduler
from mainspring.core.ids import RunId
from mainspring.core.policy import BurstPolicy, OrderPolicy
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.resources import Resources
from mainspring.core.snapshot import Decision, DecisionKind, Plan, Rented, Snapshot

pytestmark = pytest.mark.property
often = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
ACTS = (DecisionKind.START, DecisionKind.EVICT, DecisionKind.BURST)


def _acts(plan: Plan) -> bool:
    return any(one.kind in ACTS for one in plan.decisions)


def _after(snapshot: Snapshot, over: set[RunId], now: datetime) -> Snapshot:
    """Return the world in which some placed runs have ended, at that moment."""
    stops = tuple(Decision(run=run.id, kind=DecisionKind.EVICT, version=run.version) for run in snapshot.placed if run.id in over)
    ended = scheduler.apply_plan(snapshot, Plan(fingerprint="", decisions=stops))
    return replace(ended, now=now, waiting=tuple(run for run in ended.waiting if run.id not in over))


def _is_for_good(reason: Reason) -> bool:
    """Say whether no end of another run can change it: it never fits, is held, or asks for more than it may ever have."""
    facts = reason.facts
    if reason.code is ReasonCode.SHARE_LIMIT:
        return int(str(facts["need"])) > int(str(facts["limit"]))
    if reason.code is ReasonCode.OVER_GUARANTEE:
        return int(str(facts["need"])) > int(str(facts["entitled"]))
    return reason.code in (ReasonCode.CANNOT_FIT, ReasonCode.SHARE_HELD)


@often
@given(data=st.data(), seed=st.integers(0, 2**16), aging_s=st.sampled_from([60.0, 21_600.0]))
def test_invariant_15_every_run_starts_in_the_end(data: DataObject, seed: int, aging_s: float, worlds: Any) -> None:
    """Finitely many runs of lengths that nobody told rightly, from end to end, with evictions in between."""
    drawn = data.draw(worlds)
    order, backfill = replace(drawn.policy.order, aging_s=aging_s), replace(drawn.policy.backfill, patience_s=aging_s)
    policy = replace(drawn.policy, order=order, backfill=backfill)
    world: Snapshot = replace(drawn, policy=policy, reservations=(), sites=())
    ends: dict[tuple[RunId, datetime], datetime] = {}
    most = 20 * (len(world.waiting) + len(world.placed)) + 20
    for _ in range(most):
        plan = scheduler.plan(world)
        world = scheduler.apply_plan(world, plan)
        if _acts(plan):
            continue
        if not world.placed:
            assert all(_is_for_good(one.reason) for one in plan.decisions if one.reason is not None), plan.decisions
            assert len(plan.decisions) == len(world.waiting)
            return
        for run in world.placed:
            lasts = Random(f"{seed} {run.id} {run.since}").choice([5, 600, 5000, 40_000])
            ends.setdefault((run.id, run.since), max(run.since + timedelta(seconds=lasts), world.now))
        now = min(ends[run.id, run.since] for run in world.placed)
        world = _after(world, {run.id for run in world.placed if ends[run.id, run.since] <= now}, now)
    raise AssertionError("Some run never starts, or runs are stopped for each other without end.")


@often
@given(data=st.data(), seed=st.integers(0, 2**16), least_s=st.sampled_from([0.0, 600.0, 5000.0]))
def test_invariant_25_no_machine_goes_home_before_its_least_life(
    data: DataObject, seed: int, least_s: float, worlds: Any, make_node: Any
) -> None:
    """From plan to plan, runs coming and going: who goes home was old and idle for long enough, and nobody is left behind."""
    drawn = data.draw(worlds)
    pick = Random(seed)
    burst = BurstPolicy(min_life_s=least_s, idle_s=pick.choice([60.0, 900.0]))
    machines = [
        make_node(f"m{number}", cpus=16, gpus=2, pool="cloud", cluster="cloud") for number in range(pick.choice([1, 2, 3]))
    ]
    rented = tuple(
        Rented(node=one.id, site="cloud", born_at=drawn.now - timedelta(seconds=age), idle_since=None)
        for one in machines
        for age in [pick.choice([0, 30, 700, 9000])]
    )
    world: Snapshot = replace(
        drawn,
        nodes=(*drawn.nodes, *machines),
        rented=rented,
        policy=replace(drawn.policy, burst=burst, order=OrderPolicy()),
    )
    gone: set[str] = set()
    for _ in range(12):
        world = replace(world, rented=tuple(_looked_at(world)))
        plan = scheduler.plan(world)
        used = {place.node for one in plan.decisions for place in one.places}
        held = {place.node for run in world.placed for place in run.places}
        for one in world.rented:
            age_s = (world.now - one.born_at).total_seconds()
            idle_s = -1.0 if one.idle_since is None else (world.now - one.idle_since).total_seconds()
            is_due = one.node not in used | held and age_s >= burst.min_life_s and idle_s >= burst.idle_s
            assert (one.node in plan.release) == is_due
        gone |= set(plan.release)
        assert not gone & used
        world = scheduler.apply_plan(world, plan)
        over = {run.id for run in world.placed if pick.random() < 0.4}
        world = _after(world, over, world.now + timedelta(seconds=pick.choice([1, 100, 1000])))
        assert not gone & {node.id for node in world.nodes}


@settings(often, max_examples=500)
@given(data=st.data(), is_mixed=st.booleans(), are_choosy=st.booleans())
def test_invariant_12_plans_come_to_rest_and_undo_nothing(
    data: DataObject, is_mixed: bool, are_choosy: bool, worlds: Any, mixed_worlds: Any
) -> None:
    """At one instant: after a plan that stops nobody the next one does nothing; and no plan undoes what one before it did.

    What a plan frees and does not give to those it was freed for goes to whoever comes next, and who was stopped waits again:
    the next plan stops somebody only for one who was stopped, or where it gave or keeps that rest for another.
    Left out are windows (each plan lays them anew, around what runs by then) and who is believed to end within a minute (nobody
    is stopped for a run that starts so soon, and that may change when others are stopped), and plans that try `max_tried` runs.
    """
    world = _lasting(data.draw(mixed_worlds if is_mixed else worlds), are_choosy=are_choosy)
    given_a_place: set[str] = set()
    before: Plan | None = None
    for number in range(len(world.waiting) + len(world.placed) + 2):
        plan = scheduler.plan(world)
        assert not given_a_place & {one.run for one in plan.decisions if one.kind is DecisionKind.EVICT}
        if before is not None:
            _assert_follows(before, plan)
        if not _does_something(plan):
            event(f"at rest after {number} plans")
            return
        given_a_place |= {one.run for one in plan.decisions if one.kind in (DecisionKind.START, DecisionKind.NOMINATE)}
        world, before = scheduler.apply_plan(world, plan), plan
    raise AssertionError("The plans never come to rest.")


def test_after_a_window_is_laid_anew_those_blocked_are_tried_again(pinned: Any) -> None:
    """A run starts in the open window of its share, and the window takes less than before."""
    drawn = pinned("window-laid-anew")
    world = replace(_lasting(drawn, are_choosy=False), reservations=drawn.reservations)
    plan = scheduler.plan(world)
    assert _does_something(plan)
    assert not _does_something(scheduler.plan(scheduler.apply_plan(world, plan)))


@settings(often, max_examples=1)
@given(once=st.none())
def test_worlds_in_which_the_next_plan_once_stopped_somebody_for_no_new_cause(pinned: Any, once: None) -> None:
    """Room was made for somebody after another was tried; a victim's share is held, so that it asks for nothing any more."""
    for name in ("room-after-a-try", "victim-in-held-share"):
        world = _lasting(pinned(name), are_choosy=False)
        before = scheduler.plan(world)
        _assert_follows(before, scheduler.plan(scheduler.apply_plan(world, before)))


def _assert_follows(before: Plan, plan: Plan) -> None:
    """Judge what a plan does in the world that the plan before it made."""
    stopped = {one.run for one in before.decisions if one.kind is DecisionKind.EVICT}
    assert stopped or not _does_something(plan)
    given = [one.run for one in plan.decisions if one.kind is DecisionKind.START and one.rule != "nominated"]
    given += [one.run for one in plan.decisions if one.kind is DecisionKind.WAIT and one.places]  # or it is kept for somebody
    others = {one.beneficiary for one in plan.decisions if one.kind is DecisionKind.EVICT} - stopped
    event(f"the rest went to somebody: {bool(given)}; runs were stopped for others than those stopped: {bool(others)}")
    assert given or not others


def _lasting(drawn: Snapshot, *, are_choosy: bool) -> Snapshot:
    """Return a world whose runs do not end within a minute; of those who are choosy each would take something else as well."""
    other = (Resources(cpu_milli=4000), Resources(cpu_milli=10, gpu_milli=500))
    preemption = replace(drawn.policy.preemption, max_tried=100)
    return replace(
        drawn,
        policy=replace(drawn.policy, preemption=preemption),
        budget_usd="",  # `apply_plan` books no cost
        shares=tuple(replace(one, share=replace(one.share, budget_usd="")) for one in drawn.shares),
        reservations=(),
        waiting=tuple(
            replace(run, estimate_s=run.estimate_s * 2, alternatives=other[run.seq % 2 :] if are_choosy else run.alternatives)
            for run in drawn.waiting
        ),
        placed=tuple(replace(run, estimate_s=0.0) if run.estimate_s < 1000 else run for run in drawn.placed),
    )


def _does_something(plan: Plan) -> bool:
    """Say whether the plan does anything but wait, and keep what an earlier one nominated."""
    served = {one.beneficiary for one in plan.decisions if one.kind is DecisionKind.EVICT}
    kept = [one for one in plan.decisions if one.kind is DecisionKind.NOMINATE and one.run not in served]
    return any(one.kind is not DecisionKind.WAIT and one not in kept for one in plan.decisions)


def _looked_at(world: Snapshot) -> Iterator[Rented]:
    """Give the rented machines, idle since the moment at which the last run on them was seen to be gone."""
    busy = {place.node for run in world.placed for place in run.places}
    for one in world.rented:
        yield replace(one, idle_since=None if one.node in busy else one.idle_since or world.now)
