"""The numbered promises of the full policy, over busy worlds: trees of shares, gangs, windows, evictions, rented machines."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from mainspring import scheduler
from mainspring.core.policy import BackfillPolicy, BurstMode, OrderPolicy, Policy, PreemptionPolicy
from mainspring.core.shares import path_of
from mainspring.core.snapshot import Decision, DecisionKind, PlacedRun, Plan, ShareState, Snapshot

pytestmark = pytest.mark.property
often = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
UNITS = ("cpu", "gpu")
GPU_PARTS = st.sampled_from([0, 0, 125, 250])


def _of(plan: Plan, kind: DecisionKind) -> list[Decision]:
    return [one for one in plan.decisions if one.kind is kind]


def _held(run: PlacedRun) -> dict[str, int]:
    granted = [place.granted for place in run.places]
    return {
        "cpu": sum(one.cpu_milli for one in granted),
        "gpu": sum(share.milli for one in granted for share in one.devices),
    }


def _use(snapshot: Snapshot, *, only_pinned: bool = False) -> dict[str, dict[str, int]]:
    """Return what each share and all above it hold."""
    use: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(UNITS, 0))
    for run in snapshot.placed:
        if only_pinned and run.is_preemptible:
            continue
        for name in path_of(run.share):
            for unit, amount in _held(run).items():
                use[name][unit] += amount
    return use


def _configured(snapshot: Snapshot) -> dict[str, ShareState]:
    return {one.share.name: one for one in snapshot.shares}


@often
@given(data=st.data())
def test_invariant_05_no_share_above_its_limit(data: DataObject, worlds: Any) -> None:
    snapshot = data.draw(worlds)
    plan = scheduler.plan(snapshot)
    runs = {run.id: run for run in snapshot.waiting}
    use = _use(scheduler.apply_plan(snapshot, replace(plan, decisions=tuple(_of(plan, DecisionKind.START)))))
    for one in _of(plan, DecisionKind.START):
        run = runs[one.run]
        for name in path_of(run.share):
            limit = _configured(snapshot)[name].share.limit if name in _configured(snapshot) else {}
            assert use[name]["cpu"] <= limit.get("cpu", 2**62)
            assert not any(place.granted.devices for place in one.places) or use[name]["gpu"] <= limit.get("gpu", 2**62)


@often
@given(data=st.data())
def test_invariant_06_who_may_not_be_stopped_is_not_and_stays_within_the_guarantee(data: DataObject, worlds: Any) -> None:
    snapshot = data.draw(worlds)
    plan = scheduler.plan(snapshot)
    placed = {run.id: run for run in snapshot.placed}
    assert all(placed[one.run].is_preemptible for one in _of(plan, DecisionKind.EVICT))
    waiting = {run.id: run for run in snapshot.waiting}
    pinned = _use(scheduler.apply_plan(snapshot, replace(plan, decisions=tuple(_of(plan, DecisionKind.START)))), only_pinned=True)
    windows = {one.share for one in snapshot.reservations}
    for one in _of(plan, DecisionKind.START):
        run = waiting[one.run]
        for name in path_of(run.share) if not run.is_preemptible else ():
            state = _configured(snapshot).get(name)
            if state is None or not state.share.guarantee or windows:
                continue
            below = [other.share for key, other in _configured(snapshot).items() if key.startswith(name + "/")]
            guarantee = state.share.guarantee.get("gpu", state.share.guarantee.get("gpu:a100", 0))
            promised = sum(other.guarantee.get("gpu", other.guarantee.get("gpu:a100", 0)) for other in below)
            assert not any(place.granted.devices for place in one.places) or pinned[name]["gpu"] <= max(guarantee, promised)


@often
@given(data=st.data())
def test_invariant_07_nobody_is_stopped_before_the_minimum_run_time(data: DataObject, worlds: Any) -> None:
    snapshot = data.draw(worlds)
    placed = {run.id: run for run in snapshot.placed}
    policy = snapshot.policy.preemption
    for one in _of(scheduler.plan(snapshot), DecisionKind.EVICT):
        run = placed[one.run]
        least = policy.min_run_s if run.checkpointed_at is None else min(policy.min_run_s, policy.min_checkpointed_run_s)
        assert (snapshot.now - run.since).total_seconds() >= (least if one.rule != "guarantee" else 0)
        assert policy.mode != "never"
        assert one.rule != "preempt" or policy.mode == "priority"


@often
@given(data=st.data())
def test_invariant_08_nobody_is_stopped_but_for_a_nominated_run_that_then_starts(data: DataObject, worlds: Any) -> None:
    snapshot = data.draw(worlds)
    plan = scheduler.plan(snapshot)
    nominated = {one.run: one for one in _of(plan, DecisionKind.NOMINATE)}
    evicted = _of(plan, DecisionKind.EVICT)
    assert {one.beneficiary for one in evicted} == set(nominated)
    assert len({one.run for one in evicted}) == len(evicted)
    after = scheduler.plan(scheduler.apply_plan(snapshot, plan))
    starts = {one.run: one for one in _of(after, DecisionKind.START)}
    assert all(name in starts and starts[name].places == one.places for name, one in nominated.items())


@settings(often, max_examples=200)
@given(data=st.data())
def test_invariant_10_every_victim_is_needed(data: DataObject, worlds: Any, naive: Any) -> None:
    """Without limits and reservations, which a placement would have to respect as well."""
    drawn = data.draw(worlds)
    policy = replace(drawn.policy, preemption=replace(drawn.policy.preemption, max_tried=1), backfill=BackfillPolicy(reserved=0))
    snapshot = replace(drawn, policy=policy, reservations=(), shares=_unlimited(drawn))
    plan = scheduler.plan(snapshot)
    for spared in _of(plan, DecisionKind.EVICT):
        if spared.rule == "move":
            continue
        kept = replace(plan, decisions=tuple(one for one in plan.decisions if one.run != spared.run))
        after = scheduler.apply_plan(snapshot, kept)
        run = next(run for run in snapshot.waiting if run.id == spared.beneficiary)
        assert naive.most(list(after.nodes), naive.free(after.nodes), run.resources, run.replicas) < run.replicas


def _unlimited(snapshot: Snapshot) -> tuple[ShareState, ...]:
    return tuple(replace(one, share=replace(one.share, limit={})) for one in snapshot.shares)


@settings(often, max_examples=100)
@given(data=st.data())
def test_invariant_14_backfill_does_not_delay_the_first_reservation(data: DataObject, worlds: Any) -> None:
    """Exact estimates, strict order, nobody stopped: from event to event until the run starts."""
    drawn = data.draw(worlds)
    policy = Policy(order=OrderPolicy(is_fair=False), preemption=PreemptionPolicy(mode="never"))
    waiting = tuple(replace(run, is_preemptible=True, estimate_s=run.estimate_s or 900.0) for run in drawn.waiting)
    placed = tuple(replace(run, estimate_s=20_000.0) for run in drawn.placed)
    snapshot = replace(drawn, policy=policy, waiting=waiting, placed=placed, shares=(), reservations=(), sites=())
    plan = scheduler.plan(snapshot)
    promised = [one for one in _of(plan, DecisionKind.WAIT) if one.expected_at is not None]
    if not promised:
        return
    name, at = promised[0].run, promised[0].expected_at
    while True:
        snapshot = scheduler.apply_plan(snapshot, plan)
        if any(run.id == name for run in snapshot.placed):
            assert at is not None
            assert snapshot.now <= at
            return
        ends = {run.id: run.since + timedelta(seconds=run.estimate_s) for run in snapshot.placed}
        now = min(ends.values())
        over = {run for run, end in ends.items() if end <= now}
        stops = tuple(
            Decision(run=run.id, kind=DecisionKind.EVICT, version=run.version) for run in snapshot.placed if run.id in over
        )
        ended = scheduler.apply_plan(snapshot, replace(plan, decisions=stops, release=()))
        snapshot = replace(ended, now=now, waiting=tuple(run for run in ended.waiting if run.id not in over))
        plan = scheduler.plan(snapshot)


@settings(often, max_examples=60)
@given(size=st.sampled_from([2, 3, 4]), gap=st.sampled_from([300, 900, 1700]))
def test_invariant_15_a_large_run_starts_though_small_ones_keep_coming(
    size: int, gap: int, scene: Any, make_node: Any, make_waiting: Any
) -> None:
    """Nobody knows any length; small runs of another share come before the last has ended."""
    policy = Policy(backfill=BackfillPolicy(patience_s=3600.0), preemption=PreemptionPolicy(mode="never"))
    snapshot = scene([make_node("n", gpus=4)], [], policy=policy)
    began = snapshot.now
    small, large = 0, make_waiting(1, gpu_milli=1000 * size, cpu_milli=10, submitted_at=began)
    while snapshot.now < began + timedelta(hours=6):
        arrivals = [
            make_waiting(10 + small + one, owner="bob", gpu_milli=1000, cpu_milli=10, submitted_at=snapshot.now)
            for one in range(3)
        ]
        small += 3
        waiting = (*snapshot.waiting, *arrivals, *((large,) if small == 6 else ()))
        over = tuple(run for run in snapshot.placed if (snapshot.now - run.since).total_seconds() >= 1800)
        plan = scheduler.plan(snapshot)
        stops = tuple(Decision(run=run.id, kind=DecisionKind.EVICT, version=1) for run in over)
        ended = scheduler.apply_plan(snapshot, replace(plan, decisions=stops))
        gone = {run.id for run in over}
        snapshot = replace(ended, waiting=tuple(run for run in (*ended.waiting, *waiting) if run.id not in gone))
        snapshot = replace(snapshot, waiting=tuple({run.id: run for run in snapshot.waiting}.values()))
        snapshot = scheduler.apply_plan(snapshot, scheduler.plan(snapshot))
        if any(run.id == large.id for run in snapshot.placed):
            return
        snapshot = replace(snapshot, now=snapshot.now + timedelta(seconds=gap))
    pytest.fail("the large run never started")


@often
@given(data=st.data())
def test_invariant_16_who_asks_for_its_guarantee_has_it(
    data: DataObject, scene: Any, make_node: Any, make_waiting: Any, worlds: Any
) -> None:
    """Whole devices, from an empty cluster: every share gets at least what it asks for of what it can count on."""
    drawn = data.draw(worlds)
    shares = tuple(one for one in _unlimited(drawn) if not one.share.is_held)
    shares = tuple(
        replace(one, share=replace(one.share, guarantee={k: v for k, v in one.share.guarantee.items() if k == "gpu"}))
        for one in shares
    )
    wanted = data.draw(st.lists(st.sampled_from(sorted({run.share for run in drawn.waiting})), min_size=1, max_size=30))
    runs = [make_waiting(seq, share=leaf, gpu_milli=1000, cpu_milli=1) for seq, leaf in enumerate(wanted)]
    snapshot = scene([make_node("n", gpus=8)], runs, shares=shares)
    promised = {one.name: one.guarantee.get("gpu", 0) for one in scheduler.standings(snapshot)}
    use = _use(scheduler.apply_plan(snapshot, scheduler.plan(snapshot)))
    for name in {step for leaf in wanted for step in path_of(leaf)}:
        demand = 1000 * sum(name in path_of(leaf) for leaf in wanted)
        assert use[name]["gpu"] >= min(demand, promised.get(name, 0) // 1000 * 1000)


@settings(often, max_examples=200)
@given(
    asks=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8), GPU_PARTS, st.integers(1, 60)), min_size=3, max_size=4),
    more=st.tuples(st.integers(0, 8), st.integers(0, 8), GPU_PARTS),
    sizes=st.lists(st.sampled_from([8, 16]), min_size=1, max_size=3),
    leaves=st.sampled_from([("u0", "u1", "u2", "u3"), ("a/u0", "a/u1", "b/u2", "b/u3"), ("o/a/u0", "o/a/u1", "o/b/u2", "q/u3")]),
)
def test_invariant_17_asking_for_more_than_one_needs_helps_nobody(
    asks: list[tuple[int, int, int, int]],
    more: tuple[int, int, int],
    sizes: list[int],
    leaves: tuple[str, ...],
    scene: Any,
    make_node: Any,
    make_waiting: Any,
) -> None:
    """Small requests of CPUs, memory and shares of GPUs, a tree, several machines. Amounts are whole runs: one more may fit.

    Each machine has a grain of its own: what others take there is other by one run where this one takes more.
    """
    nodes = [make_node(f"n{number}", cpus=size, memory_gib=size // 2, gpus=2) for number, size in enumerate(sizes)]

    def started(extra: tuple[int, int, int]) -> int:
        runs = [
            make_waiting(
                100 * user + one,
                owner=leaf,
                share=leaf,
                cpu_milli=100 * (cpu + (extra[0] if user == 0 else 0)),
                memory_bytes=2**26 * (memory + (extra[1] if user == 0 else 0)),
                gpu_milli=gpu + (extra[2] if user == 0 else 0),
            )
            for user, ((cpu, memory, gpu, count), leaf) in enumerate(zip(asks, leaves, strict=False))
            for one in range(count)
        ]
        plan = scheduler.plan(scene(nodes, runs))
        return sum(one.run < "run_100" for one in _of(plan, DecisionKind.START))

    assert started(more) <= started((0, 0, 0)) + len(nodes)


@often
@given(data=st.data())
def test_invariant_18_an_idle_node_more_makes_no_reservation_later(data: DataObject, worlds: Any, make_node: Any) -> None:
    drawn = data.draw(worlds)
    run = replace(drawn.waiting[0], is_preemptible=True)
    policy = Policy(preemption=PreemptionPolicy(mode="never"))
    snapshot = replace(drawn, waiting=(run,), policy=policy, shares=(), reservations=(), sites=())
    more = replace(snapshot, nodes=(*snapshot.nodes, make_node("z", cpus=16, gpus=data.draw(st.sampled_from([0, 1, 4])))))
    (before,), (after,) = scheduler.plan(snapshot).decisions, scheduler.plan(more).decisions
    if before.kind is DecisionKind.START:
        assert after.kind is DecisionKind.START
    elif before.expected_at is not None:
        assert after.kind is DecisionKind.START or (after.expected_at is not None and after.expected_at <= before.expected_at)


@often
@given(data=st.data())
def test_invariants_19_20_21_hold_for_the_full_policy(data: DataObject, worlds: Any) -> None:
    snapshot = data.draw(worlds)
    plan = scheduler.plan(snapshot)
    mixed = replace(
        snapshot,
        nodes=tuple(reversed(snapshot.nodes)),
        waiting=tuple(data.draw(st.permutations(snapshot.waiting))),
        placed=tuple(data.draw(st.permutations(snapshot.placed))),
        shares=tuple(reversed(snapshot.shares)),
    )
    assert scheduler.plan(mixed).decisions == plan.decisions
    assert scheduler.plan(snapshot) == plan
    assert sorted(one.run for one in plan.decisions if one.kind is not DecisionKind.EVICT) == sorted(
        run.id for run in snapshot.waiting
    )


@settings(often, max_examples=250)
@given(data=st.data())
def test_invariants_22_to_27_machines_are_rented_by_the_rules(data: DataObject, worlds: Any, naive: Any) -> None:
    drawn = data.draw(worlds)
    nobodys = data.draw(st.sampled_from([0, 1, 2]))  # runs that nobody answers for
    snapshot = replace(
        drawn,
        waiting=tuple(
            replace(run, id=type(run.id)(f"{run.id}_{run.seq}"), owner="" if place < nobodys else run.owner)
            for place, run in enumerate(drawn.waiting)
        ),
    )
    plan = scheduler.plan(snapshot)
    after = scheduler.apply_plan(snapshot, plan)
    free = naive.free(after.nodes)
    for one in _of(plan, DecisionKind.NOMINATE):
        for place in one.places:
            naive.take(free[place.node], place.granted)
    runs = {run.id: run for run in snapshot.waiting}
    asked = _of(plan, DecisionKind.BURST)
    sites = {site.name: site for site in snapshot.sites}
    moved = any(one.rule == "move" for one in _of(plan, DecisionKind.EVICT))
    for one in asked:
        run, site = runs[one.run], sites[one.site]
        idle = sum(
            max(0, free[node.id][f"gpu{device.index}"])
            for node in snapshot.nodes
            for device in node.devices
            if node.pool in ("", run.resources.pool or node.pool)
        )
        assert snapshot.policy.burst.mode is not BurstMode.NEVER
        assert moved or snapshot.policy.burst.mode is BurstMode.NO_FIT or idle == 0  # 22
        assert run.sites is None or one.site in run.sites  # 27
        assert run.owner  # 26: somebody answers for it, and what is reserved has an end
        assert Decimal(one.cost_usd) > 0
        assert not run.is_bursting  # 24
        assert site.running + sum(other.machines for other in asked if other.site == one.site) <= site.max_machines
    assert len({one.run for one in asked}) == len(asked)  # 24
    assert sum(one.machines * 2 for one in asked) <= snapshot.policy.burst.max_gpus
    for name in {step for run in snapshot.waiting for step in path_of(run.share)}:  # 23
        state = _configured(snapshot).get(name)
        reserved = sum((Decimal(one.cost_usd) for one in asked if name in path_of(runs[one.run].share)), Decimal(0))
        if state is not None and state.share.budget_usd:
            assert not reserved or Decimal(state.spent_usd) + reserved <= Decimal(state.share.budget_usd)
        if name == "" and snapshot.budget_usd:
            assert reserved <= Decimal(snapshot.budget_usd)
    again = scheduler.plan(after)
    assert not {one.run for one in _of(again, DecisionKind.BURST)} & {one.run for one in asked}  # 24
    assert not plan.release  # 25: nothing was rented before
