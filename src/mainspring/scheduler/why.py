"""Everything about one waiting run, worked out when somebody asks: who is ahead and by which rule, what would change it.

A plan's own reasons are the same for all runs of a kind; this is the long answer for one. What would change it is tried, not
guessed: the world after the plan is planned again with the run asking for less, or at the moment when another has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import numpy as np

from mainspring.core.resources import GPU_MILLI
from mainspring.core.snapshot import Decision, DecisionKind, Plan, Snapshot, WaitingRun
from mainspring.core.units import show_milli
from mainspring.core.whys import Ahead, Change, Why
from mainspring.scheduler.apply import apply_plan, ended
from mainspring.scheduler.backfill import Backfill
from mainspring.scheduler.cycle import Cycle
from mainspring.scheduler.plan import decide, plan
from mainspring.scheduler.reading import read
from mainspring.scheduler.timeline import left_s

SHOWN = 5
SAME_S = 1e-6  # ends that are not further apart are at one moment


def why(snapshot: Snapshot, run: str, made: Plan | None = None) -> Why | None:
    """Return the long answer for a run; None if it does not wait after the plan (`made`: the plan, where it is at hand)."""
    made = made if made is not None else plan(snapshot)
    waits = [one for one in made.decisions if one.kind not in (DecisionKind.START, DecisionKind.EVICT)]
    position = next((place for place, one in enumerate(waits) if one.run == run), None)
    if position is None:
        return None
    decision = waits[position]
    if decision.reason is None:
        return None
    runs = {one.id: one for one in snapshot.waiting}
    mine = runs[decision.run]
    ahead = [runs[one.run] for one in reversed(waits[max(0, position - SHOWN) : position])]
    return Why(
        run=decision.run,
        reason=decision.reason,
        position=position + 1,
        waiting=len(waits),
        ahead=tuple(Ahead(run=one.id, share=one.share or one.owner, rule=_rule(one, mine)) for one in ahead),
        expected_at=decision.expected_at,
        changes=tuple(_changes(snapshot, made, mine, decision)),
    )


def _rule(first: WaitingRun, second: WaitingRun) -> str:
    if (first.share or first.owner) != (second.share or second.owner):
        return "share"
    if first.priority != second.priority:
        return "priority"
    return "earlier" if first.seq < second.seq else "shorter"


def _changes(snapshot: Snapshot, made: Plan, run: WaitingRun, decision: Decision) -> Iterator[Change]:
    """Give what lets the run start: less of something now, or the end of another run."""
    if decision.kind is not DecisionKind.WAIT or run.is_held or run.is_unconfirmed:
        return
    world = _meanwhile(snapshot, made)
    kept = {one.run for one in made.decisions if one.kind in (DecisionKind.NOMINATE, DecisionKind.WAIT) and one.places}
    others = tuple(one for one in world.waiting if one.id != run.id)
    few = tuple(one for one in others if one.id in kept)  # a first look at those who keep places is cheap
    for sentence, facts, variant in _smaller(run):
        if all(_starts(replace(world, waiting=(*beside, variant)), variant) for beside in (few, others)):
            yield Change(sentence=sentence, facts=facts)
            break
    yield from _ends(world, run)


def _meanwhile(snapshot: Snapshot, made: Plan) -> Snapshot:
    """Return the world after a plan, where those who were asked to stop have not ended yet."""
    stopping = {one.run for one in made.decisions if one.kind is DecisionKind.EVICT}
    others = tuple(one for one in made.decisions if one.kind is not DecisionKind.EVICT)
    world = apply_plan(snapshot, replace(made, decisions=others))
    return replace(world, placed=tuple(replace(one, is_stopping=True) if one.id in stopping else one for one in world.placed))


def _starts(world: Snapshot, run: WaitingRun) -> bool:
    decisions, _ = decide(world, read(world), explains=False)
    return any(one.run == run.id and one.kind is DecisionKind.START for one in decisions)


def _smaller(run: WaitingRun) -> Iterator[tuple[str, dict[str, object], WaitingRun]]:
    """Give the run with less, the least change first."""
    asked = run.resources
    whole = asked.gpu_milli // GPU_MILLI
    for gpus in range(whole - 1, 0, -1):
        less = whole - gpus
        yield (
            f"starts now with {less} GPU{'s' * (less > 1)} less",
            {"gpu_milli": gpus * GPU_MILLI},
            replace(run, resources=replace(asked, gpu_milli=gpus * GPU_MILLI)),
        )
    for milli in (500, 250):
        if asked.gpu_milli > milli and whole <= 1:
            yield (
                f"starts now with a share of {show_milli(milli)} GPU",
                {"gpu_milli": milli},
                replace(run, resources=replace(asked, gpu_milli=milli)),
            )
    for replicas in range(run.replicas - 1, 0, -1):
        words = f"starts now with {replicas} replica{'s' * (replicas > 1)}"
        yield words, {"replicas": replicas}, replace(run, replicas=replicas, min_replicas=0)
    if asked.gpu_models:
        yield (
            "starts now on any GPU model",
            {"gpu_models": []},
            replace(run, resources=replace(asked, gpu_models=())),
        )
    if not run.is_preemptible:
        yield "starts now if it may be preempted", {"is_preemptible": True}, replace(run, is_preemptible=True)


def _ends(world: Snapshot, run: WaitingRun) -> Iterator[Change]:
    """Give the end of the run whose places it would take, where that is believed to be known.

    Tried too: once all have ended who are believed to by then the run starts, whoever else waits; without this end it does not.
    """
    alone = replace(world, waiting=(run,))
    room: Backfill = Cycle.begin(alone, read(alone)).room
    request = room.placement.request(run.resources, run.sites)
    kept = room.timeline().earliest(request, run.least, is_patient=True, same=run.together)
    if kept is None or kept.at_s <= 0 or not np.isfinite(kept.at_s):
        return
    at = world.now + timedelta(seconds=kept.at_s)
    nodes, safety = {place.node for place in kept.places}, world.policy.backfill.safety
    left = {one.id: left_s(one, world.now, safety) - kept.at_s for one in world.placed}
    over = {name for name, after_s in left.items() if after_s < SAME_S}
    if not _starts(replace(ended(world, over), now=at), run):
        return
    for one in sorted(world.placed, key=lambda placed: placed.id):
        if abs(left[one.id]) >= SAME_S or not nodes & {place.node for place in one.places}:
            continue
        if not _starts(replace(ended(world, over - {one.id}), now=at), run):
            yield Change(sentence=f"when {one.id} ends, about {at:%H:%M} UTC", at=at, facts={"run": one.id})
            return
