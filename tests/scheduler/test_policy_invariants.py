"""The numbered promises of the full policy, over busy worlds: trees of shares, gangs, windows, evictions, rented machines."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from mainspring import scheduler
from mainspring.core.policy import BackfillPolicy, BurstMode, OrderPolicy, Policy, PreemptionPolicy
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import NodeState
from mainspring.core.shares import path_of
from mainspring.core.snapshot import Decision, DecisionKind, PlacedRun, Plan, ShareState, Snapshot, WaitingRun

pytestmark = pytest.mark.property
often = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
UNITS = ("cpu", "gpu")


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
def test_invariant_09_reclaim_leaves_both_sides_their_fair_part(data: DataObject, worlds: Any) -> None:
    """Judged below the share that both have in common, in GPUs where they are scarce, by a water-fill of its own."""
    drawn = data.draw(worlds)
    # between shares only: a run stopped for one of its own share may free more than that one takes; and without limits, as
    # the fill below knows none that is smaller than what is promised under it
    between = replace(drawn.policy.preemption, mode="reclaim")
    policy = replace(drawn.policy, order=OrderPolicy(history=0.0), preemption=between)
    snapshot = replace(drawn, reservations=(), policy=policy, shares=_unlimited(drawn))
    plan = scheduler.plan(snapshot)
    fair = _fair(snapshot)
    placed = {run.id: run for run in snapshot.placed}
    waiting = {run.id: run for run in snapshot.waiting}
    after = scheduler.apply_plan(snapshot, plan)
    for one in _of(scheduler.plan(after), DecisionKind.START):
        if one.rule == "nominated":
            start = replace(plan, decisions=(one,))
            after = scheduler.apply_plan(after, start)
    use = _use(after)
    stopped = _of(plan, DecisionKind.EVICT)
    if len({one.beneficiary for one in stopped}) > 1:
        return  # whole devices: what one leaves over of a victim's may take another's share below its part
    for one in stopped:
        if one.rule != "reclaim" or one.beneficiary is None:
            continue
        mine, theirs = waiting[one.beneficiary], placed[one.run]
        own, other = set(path_of(mine.share)), set(path_of(theirs.share))
        assert own - other
        assert other - own
        common = max(own & other, key=len)
        if _is_scarce(snapshot, common, fair) and mine.resources.gpu_milli and theirs.resources.gpu_milli:
            assert all(use[name]["gpu"] >= fair[name] - 1 for name in other - own)
            assert all(use[name]["gpu"] <= fair[name] + 1 for name in own - other)


@settings(often, max_examples=200)
@given(data=st.data())
def test_invariant_09_a_guarantee_takes_only_what_others_borrowed(data: DataObject, worlds: Any) -> None:
    drawn = data.draw(worlds)
    policy = replace(drawn.policy, preemption=replace(drawn.policy.preemption, max_tried=1))
    snapshot = replace(drawn, reservations=(), policy=policy, shares=_unlimited(drawn))
    plan = scheduler.plan(snapshot)
    waiting, placed = {run.id: run for run in snapshot.waiting}, {run.id: run for run in snapshot.placed}
    stopped = [one for one in _of(plan, DecisionKind.EVICT) if one.rule == "guarantee"]
    use = _use(scheduler.apply_plan(snapshot, plan))
    before = _use(snapshot)
    promised = {one.share.name: one.share.guarantee for one in snapshot.shares}
    there = sum(len(node.devices) for node in snapshot.nodes if node.state is NodeState.READY)
    if sum(one.get("gpu", 0) for one in promised.values()) > 1000 * there:
        return  # more was promised than there is: promises are scaled
    for one in stopped:
        assert one.beneficiary is not None
        own, other = set(path_of(waiting[one.beneficiary].share)), set(path_of(placed[one.run].share))
        assert own - other
        for name in other - own:
            sure = promised.get(name, {}).get("gpu", 0)
            assert before[name]["gpu"] >= use[name]["gpu"]
            assert use[name]["gpu"] >= min(sure, before[name]["gpu"]) or not placed[one.run].resources.gpu_milli


def _demand(snapshot: Snapshot, name: str) -> Fraction:
    """Return the GPUs that a share holds and asks for, each share below no more than its limit."""
    below = {leaf for leaf in _leaves(snapshot) if name in path_of(leaf)}
    children = {path_of(leaf)[path_of(leaf).index(name) + 1] for leaf in below if leaf != name}
    if children:
        total = sum((_demand(snapshot, child) for child in children), Fraction(0))
    else:
        placed = [run for run in snapshot.placed if run.share == name]
        total = Fraction(sum(max(_held(run)["gpu"], _most(snapshot, run) * len(run.places)) for run in placed))
        held = {one.share.name for one in snapshot.shares if one.share.is_held}
        total += sum(
            _most(snapshot, run) * run.replicas for run in snapshot.waiting if run.share == name and not held & set(path_of(name))
        )
    state = _configured(snapshot).get(name)
    return min(total, Fraction(state.share.limit.get("gpu", 2**62))) if state else total


def _most(snapshot: Snapshot, run: PlacedRun | WaitingRun) -> int:
    """Return the milli-GPU that one replica takes at most: a whole GPU for a share, where some node gives no parts."""
    asked = run.resources.gpu_milli
    is_whole = any(device.whole for node in snapshot.nodes for device in node.devices)
    return 1000 if is_whole and 0 < asked < 1000 else asked


def _leaves(snapshot: Snapshot) -> set[str]:
    names = {run.share for run in (*snapshot.placed, *snapshot.waiting)} | set(_configured(snapshot))
    return {name for name in names if not any(other.startswith(name + "/") for other in names)}


def _children(snapshot: Snapshot, name: str) -> list[str]:
    found = {path_of(leaf)[path_of(leaf).index(name) + 1] for leaf in _leaves(snapshot) if name in path_of(leaf) and leaf != name}
    return sorted(found)


def _guarantee(snapshot: Snapshot, name: str) -> Fraction:
    state = _configured(snapshot).get(name)
    own = Fraction(state.share.guarantee.get("gpu", state.share.guarantee.get("gpu:a100", 0))) if state else Fraction(0)
    return max(own, sum((_guarantee(snapshot, child) for child in _children(snapshot, name)), Fraction(0)))


def _is_scarce(snapshot: Snapshot, name: str, fair: dict[str, Fraction]) -> bool:
    return sum((_demand(snapshot, child) for child in _children(snapshot, name)), Fraction(0)) > fair[name]


def _fair(snapshot: Snapshot) -> dict[str, Fraction]:
    """Fill the shares with GPUs in a thousand small steps at each level."""
    capacity = Fraction(sum(1000 * len(node.devices) for node in snapshot.nodes))
    fair = {"": min(capacity, _demand(snapshot, ""))}
    promised = {"": min(capacity, _guarantee(snapshot, ""))}
    level = [""]
    while level:
        name = level.pop()
        children = _children(snapshot, name)
        level += children
        total = sum((_guarantee(snapshot, child) for child in children), Fraction(0))
        scale = min(Fraction(1), promised[name] / total) if total else Fraction(1)
        for child in children:
            promised[child] = Fraction(int(_guarantee(snapshot, child) * scale))
            fair[child] = min(promised[child], _demand(snapshot, child))
        rest = fair[name] - sum((fair[child] for child in children), Fraction(0))
        while rest > 0:
            hungry = {one: _weight(snapshot, one) for one in children if fair[one] < _demand(snapshot, one)}
            if not hungry:
                break
            step = min(rest, *((_demand(snapshot, one) - fair[one]) * sum(hungry.values()) / hungry[one] for one in hungry))
            for one, weight in hungry.items():
                fair[one] += step * weight / sum(hungry.values())
            rest -= step
    return fair


def _weight(snapshot: Snapshot, name: str) -> Fraction:
    state = _configured(snapshot).get(name)
    return Fraction(state.share.weight) if state else Fraction(1)


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


@settings(often, max_examples=200)
@given(data=st.data())
def test_invariant_12_plans_come_to_rest_and_stop_nobody_whom_they_started(data: DataObject, worlds: Any) -> None:
    """At one instant, plan after plan carried out: soon nothing is left to do, and no plan undoes what one before it did.

    Nearly always the plan that follows only starts who was nominated. Where a victim of one plan may in turn stop another
    (mode `priority`), or what two victims held was shaped otherwise, one more plan stops somebody: the test below counts it.
    A window that is not open yet is laid anew by each plan, around what runs by then: it is left out. So is who is believed
    to end within a minute: nobody is stopped for a run that starts so soon, and that may change when others are stopped.
    """
    world = _lasting(data.draw(worlds))
    given_a_place: set[str] = set()
    for _ in range(len(world.waiting) + len(world.placed) + 2):
        plan = scheduler.plan(world)
        assert not given_a_place & {one.run for one in _of(plan, DecisionKind.EVICT)}
        if not _acts(plan):
            return
        given_a_place |= {one.run for kind in (DecisionKind.START, DecisionKind.NOMINATE) for one in _of(plan, kind)}
        world = scheduler.apply_plan(world, plan)
    raise AssertionError("The plans never come to rest.")


def test_invariant_12_nearly_all_worlds_are_at_rest_after_one_plan_and_its_starts(worlds_by_seed: Any) -> None:
    late = 0
    for seed in range(1000):
        world = _lasting(worlds_by_seed(seed))
        for _ in range(2):
            world = scheduler.apply_plan(world, scheduler.plan(world))
        late += _acts(scheduler.plan(world))
    assert late <= 5


def _lasting(drawn: Snapshot) -> Snapshot:
    return replace(
        drawn,
        reservations=tuple(one for one in drawn.reservations if one.begins_at <= drawn.now),
        waiting=tuple(replace(run, estimate_s=run.estimate_s * 2) for run in drawn.waiting),
        placed=tuple(replace(run, estimate_s=0.0) if run.estimate_s < 1000 else run for run in drawn.placed),
    )


def _acts(plan: Plan) -> bool:
    """Say whether the plan does anything but wait, and keep what an earlier one nominated."""
    does = [one for one in plan.decisions if one.kind is not DecisionKind.WAIT]
    return any(one.kind is not DecisionKind.NOMINATE or not _is_old(plan, one) for one in does)


def _is_old(plan: Plan, nominated: Decision) -> bool:
    """Say whether nobody is stopped for it by this plan: it keeps the place that an earlier one gave it."""
    return all(one.beneficiary != nominated.run for one in _of(plan, DecisionKind.EVICT))


@settings(often, max_examples=100)
@given(data=st.data())
def test_invariant_13_evictions_end_on_trees_too(data: DataObject, worlds: Any) -> None:
    """Without any minimum run time, at one instant, with three more runs arriving in between."""
    drawn = data.draw(worlds)
    free = PreemptionPolicy(min_run_s=0.0, min_checkpointed_run_s=0.0)
    snapshot = replace(drawn, policy=replace(drawn.policy, preemption=free), sites=())
    late = list(data.draw(worlds).waiting[:3])
    leaves = sorted({run.share for run in snapshot.waiting})
    steps = 0
    while True:
        plan = scheduler.plan(snapshot)
        if not _of(plan, DecisionKind.EVICT) and not _of(plan, DecisionKind.START):
            if not late:
                break
            run = late.pop()
            more = replace(
                run, id=type(run.id)(f"run_late{len(late)}"), seq=500 - len(late), share=leaves[len(late) % len(leaves)]
            )
            snapshot = replace(snapshot, waiting=(*snapshot.waiting, more))
            continue
        snapshot = scheduler.apply_plan(snapshot, plan)
        steps += 1
        assert steps <= 2 * (len(snapshot.waiting) + len(snapshot.placed)) + 4


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


@often
@given(
    asks=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8), st.integers(1, 60)), min_size=2, max_size=4),
    more=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
def test_invariant_17_asking_for_more_than_one_needs_helps_nobody(
    asks: list[tuple[int, int, int]], more: tuple[int, int], scene: Any, make_node: Any, make_waiting: Any
) -> None:
    """Small requests on one large machine; one run more or less is the grain of it."""

    def started(first: tuple[int, int]) -> int:
        runs = []
        for user, (cpu, memory, count) in enumerate(asks):
            extra = first if user == 0 else (0, 0)
            runs += [
                make_waiting(
                    100 * user + one,
                    owner=f"user{user}",
                    cpu_milli=100 * (cpu + extra[0]),
                    memory_bytes=2**26 * (memory + extra[1]),
                )
                for one in range(count)
            ]
        plan = scheduler.plan(scene([make_node("n", cpus=16, memory_gib=8)], runs))
        return sum(one.run < "run_100" for one in _of(plan, DecisionKind.START))

    assert started(more) <= started((0, 0)) + 1


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


@settings(often, max_examples=250)
@given(data=st.data())
def test_invariant_28_reasons_of_shares_and_holds_are_true(data: DataObject, worlds: Any) -> None:
    snapshot = data.draw(worlds)
    plan = scheduler.plan(snapshot)
    after = scheduler.apply_plan(snapshot, plan)
    use, states = _use(after), _configured(snapshot)
    runs = {run.id: run for run in snapshot.waiting}
    nominated = {run.id for run in after.waiting if run.nominated}
    reserved = {str(one.run) for one in _of(plan, DecisionKind.WAIT) if one.places}
    moved = {str(one.run) for one in _of(plan, DecisionKind.EVICT) if one.rule == "move"}
    bursting = {str(one.run) for one in _of(plan, DecisionKind.BURST)}  # keeps its reservation here until the machine is there
    for one in plan.decisions:
        if one.kind in (DecisionKind.START, DecisionKind.EVICT):
            continue
        reason, run = one.reason, runs[one.run]
        assert reason is not None
        held = [name for name in path_of(run.share) if name in states and states[name].share.is_held]
        if held:
            assert reason.code in (ReasonCode.SHARE_HELD, ReasonCode.CANNOT_FIT)
        if reason.code is ReasonCode.SHARE_HELD:
            assert reason.facts["share"] == held[0]
        if reason.code is ReasonCode.SHARE_LIMIT and not nominated and reason.facts["unit"] in UNITS:
            share, unit = str(reason.facts["share"]), str(reason.facts["unit"])
            assert share in path_of(run.share)
            need = (_most(snapshot, run) if unit == "gpu" else run.resources.cpu_milli) * run.replicas
            assert use[share][unit] + need > states[share].share.limit[unit]
        if reason.code is ReasonCode.OVER_GUARANTEE:
            assert not run.is_preemptible
        if reason.code is ReasonCode.RESERVED:
            assert set(reason.facts["runs"]) <= reserved | nominated | moved | bursting  # type: ignore[call-overload]
        assert (reason.code is ReasonCode.NOMINATED) == (one.kind is DecisionKind.NOMINATE)
        assert (reason.code is ReasonCode.BURSTING) == (one.kind is DecisionKind.BURST)
