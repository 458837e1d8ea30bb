"""The numbered promises about shares, judged by a tree of its own over worlds in which several resources run short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from itertools import combinations_with_replacement
from math import inf, isfinite
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from mainspring import scheduler
from mainspring.core.policy import BackfillPolicy, OrderPolicy
from mainspring.core.reasons import ReasonCode
from mainspring.core.resources import Resources
from mainspring.core.shares import Share, path_of
from mainspring.core.snapshot import Decision, DecisionKind, Place, PlacedRun, Plan, ShareState, Snapshot, WaitingRun
from mainspring.scheduler.cycle import as_placed

pytestmark = pytest.mark.property
often = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
mostly = st.sampled_from([True] * 4 + [False])
UNBOUNDED = 2**62
Amounts = dict[str, Fraction]
Free = dict[str, dict[str, int]]


def _of(plan: Plan, kind: DecisionKind) -> list[Decision]:
    return [one for one in plan.decisions if one.kind is kind]


def _busy(drawn: Snapshot, *, mode: str = "reclaim", reserved: int = 0) -> Snapshot:
    """Return a world in which past use weighs nothing, nobody is about to end, and everybody blocked is looked at."""
    preemption = replace(drawn.policy.preemption, mode=mode, max_tried=100)
    policy = replace(
        drawn.policy, order=OrderPolicy(history=0.0), preemption=preemption, backfill=BackfillPolicy(reserved=reserved)
    )
    placed = tuple(replace(run, estimate_s=0.0) if run.estimate_s < 1000 else run for run in drawn.placed)
    waiting = tuple(replace(run, estimate_s=run.estimate_s * 2) for run in drawn.waiting)
    return replace(drawn, policy=policy, placed=placed, waiting=waiting, sites=())


def _turns(world: Snapshot, plan: Plan) -> Iterator[tuple[Snapshot, Snapshot, list[Decision], Decision]]:
    """Give of each beneficiary in turn the state before it, the state with its victims gone and itself there, and both.

    Who is moved is there as before: it goes on elsewhere.
    """
    state = scheduler.apply_plan(world, replace(plan, decisions=tuple(_of(plan, DecisionKind.START))))
    for nominated in _of(plan, DecisionKind.NOMINATE):
        stopped = [one for one in _of(plan, DecisionKind.EVICT) if one.beneficiary == nominated.run]
        gone = [one for one in stopped if one.rule != "move"]
        after = scheduler.apply_plan(state, replace(plan, decisions=(*gone, replace(nominated, kind=DecisionKind.START))))
        yield state, after, stopped, nominated
        state = after


@settings(often, max_examples=250)
@given(data=st.data(), is_mixed=mostly)
def test_invariant_09_both_sides_keep_what_is_theirs(
    data: DataObject, is_mixed: bool, worlds: Any, mixed_worlds: Any, naive: Any, ledger_of: Any
) -> None:
    """Of every resource and model, of each beneficiary in turn, with limits and windows, below what both have in common."""
    world = _busy(data.draw(mixed_worlds if is_mixed else worlds))
    plan = scheduler.plan(world)
    for before, after, stopped, nominated in _turns(world, plan):
        waits = next(run for run in before.waiting if run.id == nominated.run)
        victims = [run for run in before.placed if run.id in {one.run for one in stopped}]
        was, now = ledger_of(before), ledger_of(after)
        rule = stopped[0].rule
        need = next(now.held(run.places) for run in after.placed if run.id == nominated.run)
        for victim in victims if rule in ("reclaim", "guarantee") else ():
            below, theirs = was.apart(waits.share, victim.share)
            assert below
            assert theirs
            common = path_of(theirs[-1])[-2]
            held = {unit for unit, amount in was.held(victim.places).items() if amount}
            event(f"{rule}: {', '.join(sorted(unit for unit in held if ':' not in unit))}")
            for name in theirs:
                for unit in held:
                    if rule == "guarantee":
                        assert now.used[name][unit] >= min(was.promised[name][unit], was.fair[name][unit]) - 1
                    elif unit in was.scarce(path_of(name)[-2]):
                        assert now.used[name][unit] >= was.fair[name][unit] - 1
            asks = [unit for unit in now.units if was.need(waits.resources, 1)[unit] and need[unit]]
            if rule == "reclaim":
                assert all(now.used[name][unit] <= was.fair[name][unit] + 1 for name in below for unit in asks)
                assert was.scarce(common) & held
            else:
                named = [unit for unit in asks if was.promised[below[-1]][unit]]
                assert [unit for unit in named if unit.startswith("gpu") or not need["gpu"]]
                assert all(now.used[below[-1]][unit] <= was.promised[below[-1]][unit] for unit in named)


@settings(often, max_examples=250)
@given(data=st.data(), is_mixed=mostly)
def test_invariant_09_nobody_is_owed_what_one_run_holds_that_may_be_stopped(
    data: DataObject, is_mixed: bool, worlds: Any, mixed_worlds: Any, naive: Any, ledger_of: Any
) -> None:
    """At rest: of who is within its guarantee or its fair part, no single run that may be stopped for it stands in the way.

    Of gangs that must start with several replicas that is not promised: places are made for one replica after the other, and the
    cheapest victim of the first may use up what may be taken of a share.
    """
    drawn = _busy(data.draw(mixed_worlds if is_mixed else worlds))
    world = replace(drawn, reservations=())
    for _ in range(12):
        plan = scheduler.plan(world)
        if not _of(plan, DecisionKind.EVICT) and not _of(plan, DecisionKind.START):
            break
        world = scheduler.apply_plan(world, plan)
    tree = ledger_of(world)
    free = naive.free(world.nodes)
    for run in world.waiting:
        need = tree.need(run.resources, run.least)
        if run.least > 1 or run.is_bursting or tree.held_at(run.share) or tree.refusals(run, run.resources, run.least):
            continue
        asked = tree.open(run, run.resources)
        for victim in _stoppable(world):
            rules = _rules(tree, run, need, victim)
            if not rules:
                continue
            event(f"{sorted(rules)} of {sorted(unit for unit, amount in need.items() if amount)}")
            left = {name: dict(one) for name, one in free.items()}
            for place in victim.places:
                naive.take(left[place.node], place.granted, sign=1)
            assert asked is None or tree.most(run, asked, left) < run.least, (run.id, victim.id, rules)


@settings(often, max_examples=400)
@given(data=st.data(), kind=st.sampled_from(["worlds", "mixed", "layered", "layered"]))
def test_invariant_13_a_reclaim_raises_what_ends_them(
    data: DataObject, kind: str, worlds: Any, mixed_worlds: Any, layered_worlds: Any, ledger_of: Any
) -> None:
    """What shares hold of the fair part of what is scarce among siblings, the deepest level first: a reclaim raises the first
    level that it changes, also where its victim loses what is scarce higher up only. So no state comes back.
    """
    world = _busy(data.draw({"worlds": worlds, "mixed": mixed_worlds, "layered": layered_worlds}[kind]))
    for before, after, stopped, _ in _turns(world, scheduler.plan(world)):
        if stopped[0].rule != "reclaim":
            continue
        was, now = ledger_of(before), ledger_of(after)
        for victim in (run for run in before.placed if run.id in {one.run for one in stopped}):
            above = {unit for name in path_of(victim.share)[:-2] for unit in was.scarce(name)} - was.scarce(
                path_of(victim.share)[-2]
            )
            lost = [
                unit
                for unit in above
                if now.used[victim.share][unit] < min(was.used[victim.share][unit], was.fair[victim.share][unit])
            ]
            event(f"a victim loses of what is scarce higher up only: {bool(lost)}")
        changes = [new - old for new, old in zip(_measure(was, now.used), _measure(was, was.used), strict=True)]
        assert next(change for change in changes if abs(change) > 1) > 0, changes


@settings(often, max_examples=300)
@given(data=st.data(), kind=st.sampled_from(["worlds", "mixed", "mixed", "layered", "layered"]))
def test_invariant_13_evictions_end_though_time_goes_on(
    data: DataObject, kind: str, worlds: Any, mixed_worlds: Any, layered_worlds: Any
) -> None:
    """Without any minimum run time, a second after each plan, so that who was started or moved just now may be stopped again."""
    world = _busy(data.draw({"worlds": worlds, "mixed": mixed_worlds, "layered": layered_worlds}[kind]))
    free = replace(world.policy.preemption, min_run_s=0.0, min_checkpointed_run_s=0.0)
    world = replace(world, policy=replace(world.policy, preemption=free), reservations=())
    world = replace(world, placed=tuple(replace(run, estimate_s=0.0) for run in world.placed))
    late = [replace(run, id=type(run.id)(f"{run.id}_late"), seq=run.seq + 500) for run in world.waiting[:2]]
    stopped = 0
    for _ in range(10 + 4 * (len(world.waiting) + len(world.placed))):
        plan = scheduler.plan(world)
        stopped += len(_of(plan, DecisionKind.EVICT))
        world = scheduler.apply_plan(world, plan)
        world = replace(world, now=world.now + timedelta(seconds=1))
        if not _of(plan, DecisionKind.EVICT) and not _of(plan, DecisionKind.START):
            if not late:
                event(f"runs stopped: {min(stopped, 4)}")
                return
            world = replace(world, waiting=(*world.waiting, late.pop()))
    raise AssertionError("Runs are stopped for each other without end.")


def _measure(tree: Any, used: dict[str, Amounts]) -> list[Fraction]:
    """Return of each level, the deepest first, what its shares hold of their fair parts of what is scarce among them."""
    levels: dict[int, Fraction] = {}
    for name in tree.names[1:]:
        depth = len(path_of(name))
        mine = (min(used[name][unit], tree.fair[name][unit]) for unit in tree.scarce(path_of(name)[-2]))
        levels[depth] = levels.get(depth, Fraction(0)) + sum(mine, Fraction(0))
    return [levels[depth] for depth in sorted(levels, reverse=True)]


@settings(often, max_examples=400)
@given(data=st.data(), is_mixed=mostly, reserved=st.sampled_from([0, 1, 2]), mode=st.sampled_from(["never", "reclaim"]))
def test_invariant_11_who_waits_would_break_something_by_starting(
    data: DataObject, is_mixed: bool, reserved: int, mode: str, worlds: Any, mixed_worlds: Any, naive: Any, ledger_of: Any
) -> None:
    """With trees, limits, promises, reservations and windows, on the state that the starts leave: nobody could be added to it.

    Each number of replicas of each choice that would do either does not fit, or breaks a limit or what the share can count
    on, or takes what is kept for a run ahead or for a window.
    """
    drawn = data.draw(mixed_worlds if is_mixed else worlds)
    world = _busy(drawn, mode=mode, reserved=reserved)
    plan = scheduler.plan(world)
    while _of(plan, DecisionKind.EVICT):  # what a reservation kept is free again where room was made for it
        world = scheduler.apply_plan(world, plan)
        plan = scheduler.plan(world)
    after = scheduler.apply_plan(world, replace(plan, decisions=tuple(_of(plan, DecisionKind.START))))
    tree = ledger_of(after)
    free = naive.free(after.nodes)
    kept = _kept(plan, after, free, naive)
    for run in after.waiting:
        if tree.is_aside(run):
            continue
        why = {
            _obstacle(tree, replace(run, resources=asked, alternatives=()), free, kept)
            for asked in (run.resources, *run.alternatives)
        }
        event(", ".join(sorted(why)))
        assert "nothing" not in why, run


def _obstacle(tree: Any, run: WaitingRun, free: Free, kept: list[tuple[str, float, Free]]) -> str:
    """Return what the run would break by starting with as few replicas as would do, `nothing` if nothing."""
    if tree.held_at(run.share):
        return "a held share"
    if tree.most(run, run.resources, free) < run.least:
        return "no room"
    refused = {code for code, *_ in tree.refusals(run, run.resources, run.least)}
    if refused:
        return "a limit" if ReasonCode.SHARE_LIMIT in refused else "what its share can count on"
    asked = tree.open(run, run.resources)
    if asked is None or tree.most(run, asked, free) < run.least:
        return "a limit of a model"
    left = {name: dict(one) for name, one in free.items()}
    for _, until_s, amounts in kept:
        is_gone = 0 < run.estimate_s <= until_s
        for name, one in amounts.items() if not is_gone else ():
            for key, amount in one.items():
                left[name][key] -= amount
    if tree.most(run, asked, left) < run.least:
        return "a reservation"
    if any(tree.most(run, asked, one) < run.least for one in _windows(tree, run, left)):
        return "a window"
    return "nothing"


def _kept(plan: Plan, after: Snapshot, free: Free, naive: Any) -> list[tuple[str, float, Free]]:
    """Return of each reservation whose it is, until when, and what of today's room has to stay for it.

    That is what its places take beyond what comes free there until then, and the reservations before it leave of that. Where
    nobody knows when, as many end as have to, those that began first before the others.
    """
    found: list[tuple[str, float, Free]] = []
    later: Free = {}
    spare = {name: dict(amounts) for name, amounts in free.items()}
    for one in _of(plan, DecisionKind.WAIT):
        if not one.places:
            continue
        at_s = (one.expected_at - after.now).total_seconds() if one.expected_at is not None else inf
        nothing = {place.node: dict.fromkeys(free[place.node], 0) for place in one.places}
        taken = {name: dict(amounts) for name, amounts in nothing.items()}
        for place in one.places:
            naive.take(taken[place.node], place.granted, sign=1)
        coming = {name: {key: -later.get(name, amounts)[key] for key in amounts} for name, amounts in nothing.items()}
        for run in sorted(after.placed, key=lambda run: (_left_s(run, after), run.since, run.id)):
            lacks = (
                amount > spare[name][key] + coming[name][key]
                for name, amounts in taken.items()
                for key, amount in amounts.items()
                if amount
            )
            if _left_s(run, after) > at_s or (_left_s(run, after) == inf and not any(lacks)):
                break
            for place in run.places:
                if place.node in coming:
                    naive.take(coming[place.node], place.granted, sign=1)
        held = {
            name: {key: max(0, amount - max(0, coming[name][key])) for key, amount in amounts.items()}
            for name, amounts in taken.items()
        }
        for name, amounts in taken.items():
            before = later.get(name, nothing[name])
            later[name] = {key: before[key] + amount - held[name][key] for key, amount in amounts.items()}
            spare[name] = {key: amount - held[name].get(key, 0) for key, amount in spare[name].items()}
        found.append((str(one.run), at_s if isfinite(at_s) else 0.0, held))
    return found


def _left_s(run: PlacedRun, world: Snapshot) -> float:
    """Return in how many seconds a placed run is believed to end."""
    age = (world.now - run.since).total_seconds()
    if run.is_stopping or not run.estimate_s:
        return 30.0 if run.is_stopping else inf
    return run.estimate_s - age if run.estimate_s > age else max(60.0, age / 10)


def _windows(tree: Any, run: WaitingRun, free: Free) -> Iterator[Free]:
    """Give what each way of laying the windows that the run may not use leaves."""
    world = tree.snapshot
    for one in world.reservations:
        until_s = (one.begins_at - world.now).total_seconds()
        if one.ends_at <= world.now or (until_s <= 0 and one.share in path_of(run.share)):
            continue
        is_short = until_s >= world.policy.preemption.min_run_s and run.is_preemptible  # it could be sent away by then
        if until_s > 0 and (run.estimate_s <= until_s if run.estimate_s else is_short):
            continue
        for nodes in combinations_with_replacement(world.nodes, one.replicas):
            left = {name: dict(amounts) for name, amounts in free.items()}
            for node in nodes:
                devices = sorted((device for device in node.devices), key=lambda device: left[node.id][f"gpu{device.index}"])
                able = [device for device in devices if left[node.id][f"gpu{device.index}"] > 0]
                left[node.id]["cpu"] -= one.resources.cpu_milli
                for device in able[-(one.resources.gpu_milli // 1000) :] if one.resources.gpu_milli else ():
                    left[node.id][f"gpu{device.index}"] = 0
            yield left


def _stoppable(world: Snapshot) -> Iterator[PlacedRun]:
    """Give the runs that may be stopped if a rule says so."""
    return (run for run in world.placed if run.is_preemptible and run.since < world.now)


def _rules(tree: Any, run: WaitingRun, need: Amounts, victim: PlacedRun) -> set[str]:
    """Return by which rules between shares the victim may be stopped for the run."""
    below, theirs = tree.apart(run.share, victim.share)
    if not below or not theirs:
        return set()
    held = {unit: amount for unit, amount in tree.held(victim.places).items() if amount}
    asked = {unit: amount for unit, amount in need.items() if amount}
    left = {name: {unit: tree.used[name][unit] - amount for unit, amount in held.items()} for name in theirs}
    common = path_of(theirs[-1])[-2]
    found = set()
    lent = all(left[name][unit] >= min(tree.promised[name][unit], tree.fair[name][unit]) for name in theirs for unit in held)
    if lent and tree.is_owed(below, need):
        found.add("guarantee")
    policy, age = tree.snapshot.policy.preemption, (tree.snapshot.now - victim.since).total_seconds()
    least = policy.min_run_s if victim.checkpointed_at is None else min(policy.min_run_s, policy.min_checkpointed_run_s)
    is_poor = all(tree.used[name][unit] + amount <= tree.fair[name][unit] for name in below for unit, amount in asked.items())
    if age >= least and is_poor and tree.scarce(common) & set(held) & set(asked):
        scarce = [(name, unit) for name in theirs for unit in tree.scarce(path_of(name)[-2]) & set(held)]
        if all(left[name][unit] >= tree.fair[name][unit] for name, unit in scarce) and not _is_covered(tree, theirs, victim):
            found.add("reclaim")
    return found


def _is_covered(tree: Any, theirs: list[str], victim: PlacedRun) -> bool:
    """Say whether the victim, stopped, would be owed its place at once by what its shares have guaranteed."""
    rest = type(tree)(scheduler.apply_plan(tree.snapshot, _stop(victim)), tree.naive)
    rest.promised = tree.promised
    return rest.is_owed(theirs, rest.need(victim.resources, len(victim.places)))


def _stop(run: PlacedRun) -> Plan:
    return Plan(fingerprint="", decisions=(Decision(run=run.id, kind=DecisionKind.EVICT, version=run.version),))


class _Drawn:
    """Gives one world for whatever is drawn."""

    def __init__(self, world: Snapshot) -> None:
        self._world = world

    def draw(self, _: object) -> Snapshot:
        return self._world


@settings(often, max_examples=1)
@given(once=st.none())
def test_worlds_in_which_a_rule_was_broken_once(pinned: Any, naive: Any, ledger_of: Any, once: None) -> None:
    """Rare ones, kept as they were drawn; what was wrong is told in `docs/internals/scheduling.md`."""
    both = test_invariant_09_both_sides_keep_what_is_theirs.hypothesis.inner_test  # type: ignore[attr-defined]
    for name in ("unneeded-victim-1", "unneeded-victim-2", "unneeded-victim-3"):  # it let the run take from others
        both(_Drawn(pinned(name)), True, None, None, naive, ledger_of)
    ends = test_invariant_13_evictions_end_though_time_goes_on.hypothesis.inner_test  # type: ignore[attr-defined]
    ends(_Drawn(pinned("stopped-in-vain")), "worlds", None, None, None)  # stopped for a run that then might not start
    works = test_invariant_11_who_waits_would_break_something_by_starting.hypothesis.inner_test  # type: ignore[attr-defined]
    works(
        _Drawn(pinned("window-of-cpus")), True, 2, "never", None, None, naive, ledger_of
    )  # a window of CPUs, and GPUs without bound


def test_a_guarantee_of_gpus_and_a_fair_part_of_cpus_do_not_stop_each_other_for_ever(
    scene: Any, make_node: Any, make_waiting: Any, naive: Any
) -> None:
    """Two runs of 1 GPU and 4 CPUs within a guarantee of 2 GPUs, and one of 4 CPUs that is within its fair part."""
    node, began = make_node("n", cpus=8, gpus=4), scene([], []).now - timedelta(hours=1)
    asked, free = Resources(cpu_milli=4000, gpu_milli=1000), naive.free((node,))["n"]
    placed = []
    for number in range(2):
        granted = naive.grant(node, free, asked)
        naive.take(free, granted)
        made = make_waiting(number, owner="v", share="v", resources=asked)
        placed.append(replace(as_placed(made, (Place(replica=0, node="n", granted=granted),), scene([], [])), since=began))
    used = tuple(share for run in placed for share in run.places[0].granted.devices)
    world = scene(
        [replace(node, used_cpu_milli=8000, used_devices=used)],
        [make_waiting(5, owner="b", share="b", cpu_milli=4000)],
        placed=tuple(placed),
        shares=(ShareState(share=Share(name="v", guarantee={"gpu": 2000})),),
    )
    assert not _of(scheduler.plan(world), DecisionKind.EVICT)
    lent = replace(world, shares=())
    assert [one.rule for one in _of(scheduler.plan(lent), DecisionKind.EVICT)] == ["reclaim"]


def test_a_good_part_of_the_worlds_is_judged(mixed_by_seed: Any) -> None:
    """Of the worlds of several resources one in eight stops somebody at once: that is what the tests of 9 and 13 look at."""
    plans = [scheduler.plan(_busy(mixed_by_seed(seed))) for seed in range(200)]
    rules = [{one.rule for one in _of(plan, DecisionKind.EVICT)} for plan in plans]
    assert sum(bool(found) for found in rules) >= 25
    assert all(sum(rule in found for found in rules) >= 8 for rule in ("reclaim", "guarantee"))
