"""Which runs come home from rented machines, from their newest checkpoint, never without one; what they leave goes home when it
is idle (`burst.py`).

`home`: own nodes have room that nobody waits for, and what is left of the run is worth twice what it loses, the work since that
checkpoint and a restart. Its places at home are named.

`overdue`: it has run for longer than was reserved for it, estimate times `safety`. A run goes to a rented machine because it is
believed to be short; the few of which that is wrong would hold most of all rented time. It waits for own nodes, and goes to no
paid site again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mainspring.core.snapshot import OVERDUE, Decision, DecisionKind, PlacedRun, Snapshot
from mainspring.scheduler.backfill import Backfill
from mainspring.scheduler.evict import waits_again
from mainspring.scheduler.timeline import left_s

WORTH = 2.0  # what is left of a run, in times of what it loses


def come_home(snapshot: Snapshot, room: Backfill) -> Iterator[Decision]:
    """Give an EVICT for each run that comes home: those overdue, then the one with most left to do first.

    The places at home are taken in `room`.
    """
    if not snapshot.rented or not snapshot.policy.burst.come_home:
        return
    rented = {one.node for one in snapshot.rented}
    away = [run for run in snapshot.placed if _may_come(run, snapshot) and all(place.node in rented for place in run.places)]
    for run in away:
        if _is_overdue(run, snapshot):
            yield Decision(run=run.id, kind=DecisionKind.EVICT, version=run.version, beneficiary=run.id, rule=OVERDUE)
    able = [run for run in away if not _is_overdue(run, snapshot) and _is_worth_it(run, snapshot)]
    for run in sorted(able, key=lambda one: (-left_s(one, snapshot.now, 1.0), one.seq, one.id)):
        places = room.placement.place(replace(waits_again(run), sites=()), {})
        if places is not None:
            yield Decision(
                run=run.id, kind=DecisionKind.EVICT, version=run.version, places=places, beneficiary=run.id, rule="home"
            )


def _may_come(run: PlacedRun, snapshot: Snapshot) -> bool:
    if not run.places or not run.is_preemptible or run.is_stopping or run.checkpointed_at is None or not run.estimate_s:
        return False
    return (snapshot.now - run.since).total_seconds() >= snapshot.policy.preemption.min_checkpointed_run_s


def _is_overdue(run: PlacedRun, snapshot: Snapshot) -> bool:
    return (snapshot.now - run.since).total_seconds() > run.estimate_s * snapshot.policy.burst.safety


def _is_worth_it(run: PlacedRun, snapshot: Snapshot) -> bool:
    lost_s = max(0.0, (snapshot.now - (run.checkpointed_at or run.since)).total_seconds())
    least_s = snapshot.policy.preemption.min_checkpointed_run_s
    return left_s(run, snapshot.now, 1.0) >= WORTH * (lost_s + least_s)
