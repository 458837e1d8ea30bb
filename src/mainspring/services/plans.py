"""Plans: where a waiting run stands in the one that would be made now, and those that were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.codec import decode
from mainspring.core.errors import NotFoundError
from mainspring.core.ids import RunId
from mainspring.core.replays import PlanRecord
from mainspring.core.snapshot import Snapshot, WaitingRun
from mainspring.core.whys import Why
from mainspring.services.context import Context

EACH = 256  # runs of each person that are looked at


def why_of(ctx: Context, run_id: str) -> tuple[Why, Mapping[RunId, WaitingRun]] | None:
    """Return the long answer for a waiting run by a plan made now, and the runs that it speaks of.

    None when it stands behind too many of its own owner, or would be started now.
    """
    snapshot = ctx.store.snapshot(ctx.clock.now(), each=EACH)
    found = scheduler.why(snapshot, run_id)
    return None if found is None else (found, {run.id: run for run in snapshot.waiting})


def recorded(ctx: Context, actor: Actor, *, at: datetime | None = None, has_snapshot: bool = False) -> PlanRecord:
    """Return the last recorded plan, or the last one at a time (administrators: it names everybody's runs).

    Raises NotFoundError.
    """
    actor.need_admin()
    found = ctx.store.decisions.latest(at)
    if found is None:
        raise NotFoundError("No plan is recorded from that time.", hint="Plans that start or stop something are kept for a week.")
    snapshot = decode(found.snapshot, Snapshot) if has_snapshot else None
    return PlanRecord(number=found.number, at=found.at, plan=found.plan, snapshot=snapshot)
