"""Plans: where a waiting run stands in the one that would be made now, that one, and those that were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mainspring import scheduler
from mainspring.core.actors import Actor
from mainspring.core.codec import decode, encode
from mainspring.core.errors import NotFoundError, SpecError
from mainspring.core.ids import RunId
from mainspring.core.replays import PlanRecord
from mainspring.core.snapshot import Plan, Snapshot, WaitingRun
from mainspring.core.whys import Why
from mainspring.services.context import Context

EACH = 256  # runs of each person that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A recorded plan made again. `plan` is None where the snapshot is not the one that the record names."""

    number: int
    same_snapshot: bool
    same_plan: bool
    plan: Plan | None = None


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
        raise NotFoundError(
            "No plan is recorded from that time.",
            hint="Recorded are plans that start, stop, rent or give back; what waits now: mainspring plan show --now",
        )
    snapshot = decode(found.snapshot, Snapshot) if has_snapshot else None
    return PlanRecord(number=found.number, at=found.at, plan=found.plan, snapshot=snapshot)


def fresh(ctx: Context, actor: Actor, *, has_snapshot: bool = False) -> PlanRecord:
    """Return the plan that would be made now, as number 0 (administrators). Nothing is carried out or recorded."""
    actor.need_admin()
    snapshot = ctx.store.snapshot(ctx.clock.now())
    made = scheduler.plan(snapshot)
    return PlanRecord(number=0, at=snapshot.now, plan=made, snapshot=snapshot if has_snapshot else None)


def replay(actor: Actor, record: PlanRecord) -> Replayed:
    """Make a recorded plan again and compare it to the byte (administrators: it costs what a plan costs).

    Raises SpecError for a record without its snapshot. What was changed since is not planned.
    """
    actor.need_admin()
    if record.snapshot is None:
        raise SpecError("The record has no snapshot.", hint="GET /plan?snapshot=true has it.", details={"path": "snapshot"})
    if scheduler.fingerprint(record.snapshot) != record.plan.fingerprint:
        return Replayed(number=record.number, same_snapshot=False, same_plan=False)
    again = scheduler.plan(record.snapshot)
    is_same = encode(again) == encode(record.plan)
    return Replayed(number=record.number, same_snapshot=True, same_plan=is_same, plan=again)
