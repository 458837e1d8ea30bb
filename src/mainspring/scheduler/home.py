"""Which runs come home from rented machines: those that lose little by it, once own nodes have room that nobody waits for.

A run comes home from its newest checkpoint, never without one, and only if what is left of it is worth twice what it loses: the
work since that checkpoint, and a restart. Its places at home are named; what it leaves goes home when it is idle (`burst.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mainspring.core.snapshot import Decision, DecisionKind, PlacedRun, Snapshot
from mainspring.scheduler.backfill import Backfill
from mainspring.scheduler.evict import waits_again
from mainspring.scheduler.timeline import left_s

WORTH = 2.0  # what is left of a run, in times of what it loses


def come_home(snapshot: Snapshot, room: Backfill) -> Iterator[Decision]:
    """Give an EVICT for each run that comes home, the one with most left to do first; its places are taken in `room`."""
    if not snapshot.rented or not snapshot.policy.burst.come_home:
        return
    rented = {one.node for one in snapshot.rented}
    able = [run for run in snapshot.placed if all(place.node in rented for place in run.places) and _is_worth_it(run, snapshot)]
    for run in sorted(able, key=lambda one: (-left_s(one, snapshot.now, 1.0), one.seq, one.id)):
        places = room.placement.place(replace(waits_again(run), sites=()), {})
        if places is not None:
            yield Decision(
                run=run.id, kind=DecisionKind.EVICT, version=run.version, places=places, beneficiary=run.id, rule="home"
            )


def _is_worth_it(run: PlacedRun, snapshot: Snapshot) -> bool:
    if not run.places or not run.is_preemptible or run.is_stopping or run.checkpointed_at is None or not run.estimate_s:
        return False
    least_s = snapshot.policy.preemption.min_checkpointed_run_s
    if (snapshot.now - run.since).total_seconds() < least_s:
        return False
    lost_s = max(0.0, (snapshot.now - run.checkpointed_at).total_seconds())
    return left_s(run, snapshot.now, 1.0) >= WORTH * (lost_s + least_s)
