"""Every reason is the obstacle (invariant 28): its figures are worked out again, slowly, and what it names is taken away.

`../test_invariants.py` judges what the fleet says, of small fleets of every kind; here are trees, holds, windows, money.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from decimal import ROUND_UP, Decimal
from fractions import Fraction
from functools import cached_property
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from mainspring import scheduler
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import Node
from mainspring.core.resources import Resources
from mainspring.core.shares import path_of
from mainspring.core.snapshot import Decision, DecisionKind, Place, PlacedRun, Plan, Snapshot, WaitingRun

pytestmark = pytest.mark.property
often = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
NONE = Fraction(0)
NEARLY = Fraction(1001, 1000)  # the planner's fractions are floats, told as whole numbers
Free: TypeAlias = dict[str, dict[str, int]]
COLUMN = {ReasonCode.NO_FREE_CPU: "cpu", ReasonCode.NO_FREE_MEMORY: "memory"}


def _leaf(run: PlacedRun | WaitingRun) -> str:
    return run.share or run.owner


class Case:
    """One plan and the world after it, its evictions completed."""

    def __init__(self, snapshot: Snapshot, naive: Any, ledger_of: Callable[[Snapshot], Any]) -> None:
        self.snapshot, self.naive, self._ledger_of = snapshot, naive, ledger_of
        self.plan = scheduler.plan(snapshot)
        self.after = scheduler.apply_plan(snapshot, self.plan)

    def of(self, kind: DecisionKind) -> list[Decision]:
        """Return the decisions of a kind."""
        return [one for one in self.plan.decisions if one.kind is kind]

    @cached_property
    def runs(self) -> dict[str, WaitingRun]:
        """Return who waited before the plan."""
        return {run.id: run for run in self.snapshot.waiting}

    @cached_property
    def ledger(self) -> Any:
        """Return what shares hold when all is done: who was nominated is where it will be, who moves holds its old place."""
        moved = {one.run for one in self.of(DecisionKind.EVICT) if one.rule == "move"}
        coming = {one.run: one.places for one in self.of(DecisionKind.NOMINATE)}
        placed = [*self.after.placed, *(run for run in self.snapshot.placed if run.id in moved)]
        placed += [_as_placed(run, coming[run.id], self.snapshot) for run in self.after.waiting if run.id in coming]
        waiting = tuple(run for run in self.after.waiting if run.id not in coming and run.id not in moved)
        return self._ledger_of(replace(self.after, placed=tuple(placed), waiting=waiting))

    @cached_property
    def free(self) -> Free:
        """Return what is free after the plan: what is kept for somebody is free too."""
        found: Free = self.naive.free(self.after.nodes)
        return found

    def choices(self, run: WaitingRun) -> list[Resources]:
        """Return what would do of what the run asks for: what an empty fleet holds."""
        empty = self.naive.free(self.after.nodes, is_empty=True)
        return [one for one in (run.resources, *run.alternatives) if self.ledger.most(run, one, empty) >= run.least]

    def allowed(self, run: WaitingRun) -> list[Resources]:
        """Return those choices of which its shares let it take the fewest replicas that would do."""
        return [one for one in self.choices(run) if not self.ledger.refusals(run, one, run.least)]

    def starts(self, run: WaitingRun, *, world: Snapshot | None = None, **changes: Any) -> bool:
        """Say whether the run starts, as one that may be preempted, in the world after the plan, changed, nobody beside it."""
        changed = {"waiting": (replace(run, is_preemptible=True),), "reservations": (), "sites": ()} | changes
        made = scheduler.plan(replace(world or self.after, **changed))
        return any(one.run == run.id and one.kind is DecisionKind.START for one in made.decisions)


def _as_placed(run: WaitingRun, places: tuple[Place, ...], snapshot: Snapshot) -> PlacedRun:
    """Return a run that is placed now."""
    same = {name: getattr(run, name) for name in ("id", "owner", "project", "priority", "seq", "is_preemptible", "share")}
    return PlacedRun(**same, resources=run.resources, estimate_s=run.estimate_s, places=places, since=snapshot.now)


def _is_paused(case: Case, run: WaitingRun, reason: Reason) -> None:
    """The share named is the highest on the path that an admin holds."""
    assert reason.facts["share"] == case.ledger.held_at(_leaf(run))[0]


def _is_refused(case: Case, run: WaitingRun, reason: Reason) -> None:
    """The figures are those of the tree, and no choice and no size of the run is let through."""
    ledger, name, unit = case.ledger, str(reason.facts["share"]), str(reason.facts["unit"])
    need = Fraction(str(reason.facts["need"]))
    choices = case.choices(run)
    if reason.code is ReasonCode.OVER_GUARANTEE:
        assert not run.is_preemptible
        assert reason.facts["pinned"] == ledger.pinned[name][unit]
        assert abs(ledger.entitled(name, unit) - int(str(reason.facts["entitled"]))) < NEARLY
        assert ledger.pinned[name][unit] + need > ledger.entitled(name, unit)
    else:
        assert (reason.facts["used"], reason.facts["limit"]) == (ledger.used[name][unit], ledger.limit(name, unit))
        assert ledger.used[name][unit] + need > ledger.limit(name, unit)
    if case.allowed(run):
        _is_closed(case, run, unit)
        return
    assert need == ledger.need(choices[0], run.least)[unit]
    assert (reason.code, name, unit) in ledger.refusals(run, choices[0], run.least)
    refused = [code for one in choices for code, *_ in ledger.refusals(run, one, run.replicas)]
    models = any(ledger.closed(run, one, run.replicas) for one in choices)
    if reason.code is ReasonCode.OVER_GUARANTEE and ReasonCode.SHARE_LIMIT not in refused and not models:
        assert case.starts(run) == any(case.ledger.most(run, one, case.free) >= run.least for one in choices)


def _is_closed(case: Case, run: WaitingRun, unit: str) -> None:
    """Its shares may hold no more of this model: without those closed no choice ever fits, or none does now and with them one."""
    empty = case.naive.free(case.after.nodes, is_empty=True)
    for asked in case.allowed(run):
        left = case.ledger.open(run, asked)
        ever = left is not None and case.ledger.most(run, left, empty) >= run.least
        now = left is not None and case.ledger.most(run, left, case.free) >= run.least
        assert not ever or not now
        if unit.removeprefix("gpu:") in case.ledger.closed(run, asked, run.least) and (
            not ever or case.ledger.most(run, asked, case.free) >= run.least
        ):
            return
    pytest.fail(f"{unit} is not what stands in the way of {run.id}")


def _is_scarce(case: Case, run: WaitingRun, reason: Reason) -> None:
    """No choice that its shares allow has room, though nothing were kept for anybody; were nobody there, it would start."""
    choices = [left for one in case.allowed(run) if (left := case.ledger.open(run, one)) is not None]
    fits = [case.ledger.most(run, asked, case.free) for asked in choices]
    assert fits
    assert max(fits) < run.least
    first = choices[0]
    if reason.code is ReasonCode.TOPOLOGY:
        assert case.ledger.most(run, first, case.free, enough=9999) == reason.facts["fit"]
        assert case.ledger.most(run, first, case.free, enough=9999, is_apart=True) == reason.facts["apart"]
        assert int(str(reason.facts["apart"])) >= run.least
        assert case.starts(replace(run, same=""))
        return
    assert (reason.code is ReasonCode.GANG_INCOMPLETE) == (fits[0] > 0)
    if reason.code is ReasonCode.GANG_INCOMPLETE:
        assert (reason.facts["fit"], reason.facts["replicas"]) == (fits[0], run.least)
    if reason.code in COLUMN:
        empty = case.naive.free(case.after.nodes, is_empty=True)
        able = [node for node in case.after.nodes if case.naive.grant(node, empty[node.id], first)]
        assert reason.facts["free"] == sum(max(0, case.free[node.id][COLUMN[reason.code]]) for node in able)
    nobody = tuple(replace(node, used_cpu_milli=0, used_memory_bytes=0, used_devices=()) for node in case.after.nodes)
    assert case.starts(run, nodes=nobody, placed=())


def _is_unfair(case: Case, run: WaitingRun, reason: Reason) -> None:
    """Its share has its fair part, who is named misses more of its own; and what is called scarce is."""
    ledger, name, unit = case.ledger, str(reason.facts["share"]), str(reason.facts["unit"])
    used, fair = ledger.used[name][unit], {one: amounts[unit] for one, amounts in ledger.fair.items()}
    assert name in path_of(_leaf(run))
    assert reason.facts["used"] == used
    assert abs(fair[name] - int(str(reason.facts["fair"]))) < NEARLY
    assert any(used + ledger.need(one, run.least)[unit] > fair[name] - NEARLY for one in case.allowed(run))
    missing = {one: fair[one] - ledger.used[one][unit] for one in ledger.children(path_of(name)[-2])}
    more = {
        one: amount
        for one, amount in missing.items()
        if amount > max(NONE, missing[name]) - NEARLY and amount > 0 and one != name
    }
    owed: dict[str, int] = dict(reason.facts["owed"])  # type: ignore[call-overload]
    assert owed.keys() <= more.keys()
    assert all(abs(more[one] - amount) < NEARLY for one, amount in owed.items())
    _is_scarce(case, run, replace(reason, code=ReasonCode(str(reason.facts["scarce"]))))


def _is_kept(case: Case, run: WaitingRun, reason: Reason) -> None:
    """Were nothing kept it would start; with all that is kept it has no room, without what is kept for those named it has."""
    named = {str(one) for one in reason.facts.get("runs", ())}  # type: ignore[attr-defined]
    assert str(run.id) not in named
    assert case.starts(run)
    if reason.code is ReasonCode.ADVANCE_RESERVATION:
        (window,) = case.snapshot.reservations
        assert (reason.facts["reservation"], reason.facts["share"]) == (window.id, window.share)
        until_s = (window.begins_at - case.snapshot.now).total_seconds()
        assert until_s > 0 or window.share not in path_of(_leaf(run))  # it is not its own
        assert not 0 < run.estimate_s <= until_s  # nor is it gone before
        assert window.ends_at > case.snapshot.now
    kept = _kept(case)
    if kept is None:
        return
    others = {one for one in kept if one != run.id and not _is_gone_in_time(case, run, one)}
    assert named <= others
    assert not _has_room(case, run, [kept[one] for one in others])
    assert _has_room(case, run, [kept[one] for one in others - named])
    for one in named if not run.alternatives else ():
        assert not _has_room(case, run, [kept[other] for other in (others - named) | {one}]), "it need not be named"


def _is_behind(case: Case, run: WaitingRun, reason: Reason) -> None:
    """It has room that is not kept, and was not tried: too many came first, or those who leave have not left yet."""
    starts = len(case.of(DecisionKind.START))
    if "stopping" in reason.facts:
        victims = {one.run for one in case.of(DecisionKind.EVICT)}
        assert set(reason.facts["stopping"]) <= victims  # type: ignore[call-overload]
    else:
        policy = case.snapshot.policy
        assert reason.facts["started"] == starts
        assert starts >= policy.max_starts or len(case.runs) - starts > policy.backfill.depth
    assert _has_room(case, run, [])
    assert case.starts(run)


def _has_room(case: Case, run: WaitingRun, kept: Sequence[Free]) -> bool:
    """Say whether some choice that its shares allow fits what is free beside what must stay free."""
    free = {name: dict(one) for name, one in case.free.items()}
    for held in kept:
        for node, amounts in held.items():
            for what, amount in amounts.items():
                free[node][what] -= amount
    choices = (case.ledger.open(run, one) for one in case.allowed(run))
    return any(one is not None and case.ledger.most(run, one, free) >= run.least for one in choices)


def _is_gone_in_time(case: Case, run: WaitingRun, other: str) -> bool:
    """Say whether a run is believed to be gone when what is kept for the other is needed."""
    at = next((one.expected_at for one in case.of(DecisionKind.WAIT) if one.run == other), None)
    return at is not None and 0 < run.estimate_s <= (at - case.snapshot.now).total_seconds()


def _kept(case: Case) -> dict[str, Free] | None:
    """Return what must stay free now for each run with places, by node; None where a plan does not tell all that is kept."""
    evicted = case.of(DecisionKind.EVICT)
    waits = [one for one in case.of(DecisionKind.WAIT) if one.places]
    untold = any(one.rule == "move" for one in evicted) or (evicted and case.snapshot.policy.backfill.reserved > 1)
    if untold or case.of(DecisionKind.BURST) or case.snapshot.reservations or any(one.expected_at is None for one in waits):
        return None
    placed = list(({one.id: one for one in case.after.placed} | {one.id: one for one in case.snapshot.placed}).values())
    old = _sum(run for run in placed if run.is_stopping)  # who is stopped by this plan is gone from the world after it
    found = {
        str(one.run): _beyond(one.places, old if one.rule == "nominated" else {}, {})[0] for one in case.of(DecisionKind.NOMINATE)
    }
    later: Free = {}
    for one in waits:
        until = one.expected_at or case.snapshot.now
        ends = [run for run in placed if _left_s(run, case.snapshot) <= (until - case.snapshot.now).total_seconds() + 1e-6]
        found[str(one.run)], later = _beyond(one.places, _sum(ends), later)
    return found


def _beyond(places: Sequence[Place], coming: Free, later: Free) -> tuple[Free, Free]:
    """Return what places take beyond what comes free in time and is not counted on `later`; and what is counted on then."""
    held: Free = {}
    counted = {node: dict(amounts) for node, amounts in later.items()}
    for node, amounts in _sum_places(places).items():
        for what, amount in amounts.items():
            more = max(0, coming.get(node, {}).get(what, 0) - later.get(node, {}).get(what, 0))
            held.setdefault(node, {})[what] = max(0, amount - more)
            counted.setdefault(node, {})[what] = later.get(node, {}).get(what, 0) + min(amount, more)
    return held, counted


def _sum(runs: Iterable[PlacedRun]) -> Free:
    return _sum_places([place for run in runs for place in run.places])


def _sum_places(places: Iterable[Place]) -> Free:
    found: Free = {}
    for place in places:
        on, granted = found.setdefault(place.node, {}), place.granted
        amounts = [("cpu", granted.cpu_milli), ("memory", granted.memory_bytes)]
        for what, amount in (*amounts, *((f"gpu{share.index}", share.milli) for share in granted.devices)):
            on[what] = on.get(what, 0) + amount
    return found


def _left_s(run: PlacedRun, snapshot: Snapshot) -> float:
    """Return in how many seconds a run is believed to end; never, if nobody knows."""
    age_s = (snapshot.now - run.since).total_seconds()
    left_s = run.estimate_s * snapshot.policy.backfill.safety - age_s
    if run.is_stopping:
        return 30.0
    return float("inf") if not run.estimate_s else left_s if left_s > 0 else max(60.0, age_s / 10)


def _is_unpaid(case: Case, run: WaitingRun, reason: Reason) -> None:
    """A machine is worth so much more than the budget named has left; were no budget short, one would be asked for."""
    asked = case.of(DecisionKind.BURST)
    steps, name = path_of(_leaf(run)), str(reason.facts["share"])
    left, states = _left(case.snapshot), {one.share.name: one for one in case.snapshot.shares}
    assert name in steps
    reserved = sum((Decimal(one.cost_usd) for one in asked if name in path_of(_leaf(case.runs[one.run]))), Decimal(0))
    told, cost = Decimal(str(reason.facts["left_usd"])), Decimal(str(reason.facts["cost_usd"]))
    assert max(Decimal(0), left[name] - reserved) <= told <= max(Decimal(0), left[name])
    assert cost == _cost(case.snapshot, run)
    assert told < cost
    bursting = {one.run for one in asked}
    rich = tuple(replace(one, share=replace(one.share, budget_usd="")) for one in states.values())
    others = tuple(one if one.id in bursting | {run.id} else replace(one, sites=()) for one in case.snapshot.waiting)
    made = scheduler.plan(replace(case.snapshot, waiting=others, shares=rich, budget_usd=""))
    assert any(one.run == run.id and one.kind is DecisionKind.BURST for one in made.decisions)


def _left(snapshot: Snapshot) -> dict[str, Decimal]:
    """Return what is left of each budget, by share; of all by the empty name."""
    left = {
        one.share.name: Decimal(one.share.budget_usd) - Decimal(one.spent_usd) - Decimal(one.reserved_usd)
        for one in snapshot.shares
        if one.share.budget_usd
    }
    if snapshot.budget_usd:
        top = [one for one in snapshot.shares if "/" not in one.share.name]
        left[""] = Decimal(snapshot.budget_usd) - sum(
            (Decimal(one.spent_usd) + Decimal(one.reserved_usd) for one in top), Decimal(0)
        )
    return left


def _cost(snapshot: Snapshot, run: WaitingRun) -> Decimal:
    """Return what machines for a run may cost at the only site: twice its estimate, until it is there and while it idles."""
    (site,), policy = snapshot.sites, snapshot.policy.burst
    each = min(
        [len(site.machine.devices) * 1000 // run.resources.gpu_milli, *([site.machine.cpu_milli // run.resources.cpu_milli])]
    )
    machines = -(-run.replicas // each)
    seconds = Decimal(str((run.estimate_s or policy.max_estimate_s) * policy.safety + site.ready_s + policy.idle_s))
    price = Decimal(site.machine.price_usd_per_hour) * machines * seconds / 3600
    return price.quantize(Decimal("0.01"), rounding=ROUND_UP)


def _is_bought(case: Case, decision: Decision, run: WaitingRun, reason: Reason) -> None:
    """What is asked for costs what is told, and is what it takes: on it the run starts."""
    (site,) = case.snapshot.sites
    assert (reason.facts["site"], reason.facts["machines"]) == (site.name, decision.machines)
    assert Decimal(str(reason.facts["cost_usd"])) == _cost(case.snapshot, run)
    came = tuple(replace(site.machine, id=f"came{number}") for number in range(decision.machines))
    assert case.starts(replace(run, is_bursting=False), nodes=(*case.after.nodes, *came), sites=case.snapshot.sites)


def _is_nominated(case: Case, decision: Decision, run: WaitingRun, reason: Reason) -> None:
    """When those are gone who were asked to stop it starts at these nodes; before, it has no room, if none is kept for others."""
    assert reason.facts["nodes"] == sorted({place.node for place in decision.places})
    meanwhile = stopping(case.snapshot, case.plan)
    if not case.snapshot.reservations and not any(one.places for one in case.of(DecisionKind.WAIT)):  # else it is for theirs too
        assert not case.starts(replace(run, nominated=decision.places), world=meanwhile)
    gone = {one.id for one in meanwhile.placed if one.is_stopping}
    assert case.starts(replace(run, nominated=decision.places), world=ended(meanwhile, gone))


def _never_fits(case: Case, run: WaitingRun, reason: Reason) -> None:
    """No choice fits the empty fleet; of the first at most so many replicas do."""
    empty = case.naive.free(case.after.nodes, is_empty=True)
    assert not case.choices(run)
    assert reason.facts["replicas_at_most"] == case.ledger.most(run, run.resources, empty, enough=9999)


def stopping(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """Return the world while those who were asked to stop still run: they hold their places, the others' are kept."""
    victims = {one.run for one in plan.decisions if one.kind is DecisionKind.EVICT}
    rest = replace(plan, decisions=tuple(one for one in plan.decisions if one.kind is not DecisionKind.EVICT))
    world = scheduler.apply_plan(snapshot, rest)
    return replace(world, placed=tuple(replace(run, is_stopping=run.id in victims or run.is_stopping) for run in world.placed))


def ended(world: Snapshot, gone: Container[str]) -> Snapshot:
    """Return the world without these runs: what they held is free."""
    held = _sum([run for run in world.placed if run.id in gone])
    nodes = tuple(_freed(node, held.get(node.id, {})) for node in world.nodes)
    return replace(world, nodes=nodes, placed=tuple(run for run in world.placed if run.id not in gone))


def _freed(node: Node, amounts: dict[str, int]) -> Node:
    return replace(
        node,
        used_cpu_milli=node.used_cpu_milli - amounts.get("cpu", 0),
        used_memory_bytes=node.used_memory_bytes - amounts.get("memory", 0),
        used_devices=tuple(replace(one, milli=one.milli - amounts.get(f"gpu{one.index}", 0)) for one in node.used_devices),
    )


JUDGES: dict[ReasonCode, Callable[[Case, WaitingRun, Reason], None]] = {
    ReasonCode.SHARE_HELD: _is_paused,
    ReasonCode.SHARE_LIMIT: _is_refused,
    ReasonCode.OVER_GUARANTEE: _is_refused,
    ReasonCode.FAIR_SHARE: _is_unfair,
    ReasonCode.RESERVED: _is_kept,
    ReasonCode.ADVANCE_RESERVATION: _is_kept,
    ReasonCode.BEHIND: _is_behind,
    ReasonCode.BUDGET: _is_unpaid,
    ReasonCode.CANNOT_FIT: _never_fits,
    **dict.fromkeys(
        (
            ReasonCode.NO_FREE_GPU,
            ReasonCode.NO_FREE_CPU,
            ReasonCode.NO_FREE_MEMORY,
            ReasonCode.FRAGMENTED,
            ReasonCode.GANG_INCOMPLETE,
            ReasonCode.TOPOLOGY,
        ),
        _is_scarce,
    ),
}


def _judge(case: Case, decision: Decision) -> None:
    """Judge what one run is told by the world after the plan."""
    run, reason = case.runs[decision.run], decision.reason
    assert reason is not None
    assert reason.sentence.endswith(".")
    assert (reason.code is ReasonCode.NOMINATED) == (decision.kind is DecisionKind.NOMINATE)
    if case.ledger.held_at(_leaf(run)):
        assert reason.code in (ReasonCode.SHARE_HELD, ReasonCode.CANNOT_FIT) or run.is_bursting
    if decision.kind is DecisionKind.NOMINATE:
        _is_nominated(case, decision, run, reason)
    elif decision.kind is DecisionKind.BURST:
        assert reason.code is ReasonCode.BURSTING
        _is_bought(case, decision, run, reason)
    elif run.is_bursting:
        assert reason.code is ReasonCode.BURSTING
    else:
        JUDGES[reason.code](case, run, reason)


def _world(drawn: Snapshot, dice: Random) -> Snapshot:
    """Return the world as drawn, or a plan later, or while those stop whom that plan stops; at times few may start at once."""
    backfill = replace(drawn.policy.backfill, depth=dice.choice([1000] * 7 + [1]))
    world = replace(drawn, policy=replace(drawn.policy, max_starts=dice.choice([10_000] * 7 + [1]), backfill=backfill))
    stage = dice.choice(["first", "first", "later", "meanwhile"])
    if stage == "first":
        return world
    plan = scheduler.plan(world)
    return scheduler.apply_plan(world, plan) if stage == "later" else stopping(world, plan)


@often
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_invariant_28_what_a_reason_names_is_what_stands_in_the_way(
    data: DataObject, seed: int, worlds: Any, mixed_worlds: Any, naive: Any, ledger_of: Any
) -> None:
    case = Case(_world(data.draw(st.one_of(worlds, mixed_worlds)), Random(seed)), naive, ledger_of)
    for decision in case.plan.decisions:
        if decision.kind not in (DecisionKind.START, DecisionKind.EVICT):
            _judge(case, decision)
