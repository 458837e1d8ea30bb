"""Plans: where a waiting run stands in the one that would be made now, and those that were recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.codec import decode
from mainspring.core.errors import NotFoundError
from mainspring.core.replays import PlanRecord
from mainspring.core.snapshot import Decision, DecisionKind, Snapshot, WaitingRun
from mainspring.services.context import Context

EACH = 256  # runs of each person that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Where a run stands: `ahead` are the runs that a plan would try before it, first come first; `decision` is its own."""

    ahead: tuple[WaitingRun, ...]
    waiting: int
    decision: Decision


def line_of(ctx: Context, run_id: str) -> Line | None:
    """Return where a waiting run stands by a plan made now; None when it stands behind too many of its own owner."""
    snapshot = ctx.store.snapshot(ctx.clock.now(), each=EACH)
    plan = scheduler.plan(snapshot)
    waiting = {run.id: run for run in snapshot.waiting}
    tried = [one for one in plan.decisions if one.kind is not DecisionKind.EVICT]
    for place, decision in enumerate(tried):
        if decision.run == run_id:
            return Line(ahead=tuple(waiting[one.run] for one in tried[:place]), waiting=len(tried), decision=decision)
    return None


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
