"""The schedule loop: snapshot, plan, apply. The decision is a value; these lines carry it out."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from mainspring import scheduler
from mainspring.controllers.fleet import SHARED_S
from mainspring.core.ids import RunId
from mainspring.core.reasons import ReasonCode
from mainspring.core.snapshot import Snapshot
from mainspring.plugins import reach
from mainspring.services import adoption
from mainspring.services.context import Context

log = logging.getLogger(__name__)
WINDOW = 32  # queued runs of each person that an ordinary plan looks at, at most; fewer where that would be more than `SEEN`
NARROW = 8  # and where fewer start
SEEN = 1024
LEAST = 2
WHOLE_S = 1.0  # how often, at most, the whole queue is planned while somebody's is longer than the window
WHOLE_PART = 20  # and so many times as seldom as it takes long
REST = 2.0  # a third of a processor at most: where much ends and begins, more of it is seen by one plan
CALM_S = 1.0  # how old what moves slowly may be, unless plans take so long that it would be read for each: past use, durations


@dataclass(slots=True)
class Schedule:
    """Plans when runs, nodes, shares or the policy move. The leader plans, and a server that lost its term does no harm:

    whatever it decided is compared with the versions of the rows when it is carried out.

    A long queue is not planned whole each time a run ends: an ordinary plan sees the first few runs of each person (`window`),
    and now and then (`WHOLE_S`) one sees all of it, so that a run far behind that would fit now waits that long at most.
    """

    ctx: Context
    _planner: scheduler.Planner = field(default_factory=scheduler.Planner)
    _each: int = WINDOW
    _whole_at: float = -math.inf
    _booked_at: float = -math.inf
    _whole_s: float = WHOLE_S
    _calm_s: float = CALM_S

    def __post_init__(self) -> None:
        self.ctx.store.begin_planning()

    def tick(self) -> float | None:
        """Plan once; return the seconds until the next run may be tried again, None when nothing is held back."""
        ctx = self.ctx
        if adoption.is_pending(ctx):
            return 1.0
        now = ctx.clock.now()
        ticks = ctx.clock.monotonic()
        self._book()
        if not ctx.store.is_waiting():
            return None
        is_whole = ticks - self._whole_at >= self._whole_s
        each = self._each
        snapshot = ctx.store.snapshot(now, each=None if is_whole else each, age_s=self._calm_s)
        if is_whole:
            self._whole_at = ticks
        plan = self._planner.plan(snapshot)
        took_s = ctx.clock.monotonic() - ticks
        self._calm_s = max(CALM_S, WHOLE_PART * took_s)
        if is_whole:
            self._whole_s = max(WHOLE_S, WHOLE_PART * took_s)
        reach("before-W2")
        applied = ctx.store.apply(plan, now=now, seen=snapshot, kept=timedelta(days=ctx.settings.decisions_days))
        reach("after-W2")
        ctx.planned.count(took_s, len(plan.decisions))
        if applied.started or applied.evicted or applied.rented or plan.release:
            facts = {"started": len(applied.started), "evicted": len(applied.evicted), "waiting": len(snapshot.waiting)}
            log.info("plan applied", extra=facts)
        if applied.refused:
            return 0.01
        pauses = [_pause(snapshot)]
        lines = Counter((run.project, run.owner) for run in snapshot.waiting)
        self._each = window(each, applied.started, snapshot)
        if not is_whole and each in lines.values():
            pauses.append(self._whole_s - (ticks - self._whole_at))
        if applied.is_behind:
            pauses.append(WHOLE_S)
        if any(one.reason is not None and one.reason.code is ReasonCode.FOREIGN_WORK for one in plan.decisions):
            ctx.signals.hint("shared")  # nobody tells when others' work ends
            pauses.append(SHARED_S)
        soonest = min(pauses)
        return max(0.01, soonest) if soonest < math.inf else None

    def _book(self) -> None:
        """Book what ended since the last time, so that shares are judged by what they used."""
        ticks = self.ctx.clock.monotonic()
        if ticks - self._booked_at >= self._calm_s:
            self._booked_at = ticks
            self.ctx.store.usage.book(self.ctx.clock.now(), self.ctx.store.policies.current().policy.order.half_life_s)


def window(each: int, started: Sequence[RunId], snapshot: Snapshot) -> int:
    """Return how many runs of each person the next plan looks at, after one that looked at `each` and started some.

    Twice as many where all of one person's started; else it narrows to twice what started. A plan's cost is what it looks at.
    """
    gone = frozenset(started)
    most = max(Counter((run.project, run.owner) for run in snapshot.waiting if run.id in gone).values(), default=0)
    wanted = 2 * each if most >= each else max(NARROW, 2 * most, each // 2)
    persons = len({(run.project, run.owner) for run in snapshot.waiting})
    return max(LEAST, min(wanted, WINDOW, SEEN // max(1, persons)))


def _of_rented(snapshot: Snapshot) -> list[float]:
    """Give after how long a run may be worth a rented machine, has outlived one, and an idle machine may go home."""
    policy, now = snapshot.policy.burst, snapshot.now
    at = [
        run.submitted_at + timedelta(seconds=waited_s)
        for site in snapshot.sites
        for waited_s in {policy.min_wait_s, max(policy.min_wait_s, policy.min_gain_s + site.ready_s)}
        for run in snapshot.waiting
        if run.resources.is_gpu() and not run.is_bursting
    ]
    nodes = {one.node for one in snapshot.rented}
    at += [
        run.since + timedelta(seconds=run.estimate_s * policy.safety)
        for run in snapshot.placed
        if policy.come_home and run.estimate_s and any(place.node in nodes for place in run.places)
    ]
    at += [site.cooldown_until for site in snapshot.sites if site.cooldown_until is not None]
    for one in snapshot.rented:
        if one.idle_since is not None:
            at.append(max(one.born_at + timedelta(seconds=policy.min_life_s), one.idle_since + timedelta(seconds=policy.idle_s)))
    return [left + 0.01 for moment in at if (left := (moment - now).total_seconds()) > 0]


def _pause(snapshot: Snapshot) -> float:
    """Return after how long the world differs by time alone: a back-off, a window or a least run time is over."""
    at = [run.not_before for run in snapshot.waiting if run.not_before is not None]
    at += [moment for one in snapshot.reservations for moment in (one.begins_at, one.ends_at)]
    later = [(moment - snapshot.now).total_seconds() for moment in at if moment > snapshot.now]
    later += _of_rented(snapshot)
    preemption = snapshot.policy.preemption
    if preemption.mode != "never":
        for run in snapshot.placed:
            if run.is_preemptible and not run.is_stopping:
                least = preemption.min_run_s if run.checkpointed_at is None else preemption.min_checkpointed_run_s
                left = least - (snapshot.now - run.since).total_seconds()
                if left > 0:
                    later.append(left + 0.01)
    return min(later, default=math.inf)
