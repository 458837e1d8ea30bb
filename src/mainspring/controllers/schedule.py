"""The schedule loop: snapshot, plan, apply. The decision is a value; these lines carry it out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import perf_counter

from mainspring import scheduler
from mainspring.core.codec import encode
from mainspring.plugins import reach
from mainspring.services.context import Context

log = logging.getLogger(__name__)
LEASE_S = 30.0
NAME = "planner"


@dataclass(slots=True)
class Schedule:
    """Plans when runs or nodes move. One planner at a time: a lease with a fencing number decides which process."""

    ctx: Context
    owner: str
    last_plan_s: float = 0.0
    last_fingerprint: str = ""

    def tick(self) -> float | None:
        """Plan once; return the seconds until the next run may be tried again, None when nothing is held back."""
        ctx = self.ctx
        if ctx.store.leases.take(NAME, self.owner, LEASE_S) is None:
            return LEASE_S / 2
        began = perf_counter()
        now = ctx.clock.now()
        snapshot = ctx.store.snapshot(now)
        if not snapshot.waiting:
            return None
        plan = scheduler.plan(snapshot)
        reach("before-W2")
        applied = ctx.store.apply(plan, now=now)
        reach("after-W2")
        self.last_plan_s = perf_counter() - began
        self.last_fingerprint = plan.fingerprint
        if applied.started:
            ctx.store.decisions.record(plan, encode(snapshot), now=now)
            log.info("plan applied", extra={"started": len(applied.started), "waiting": len(snapshot.waiting)})
        if applied.refused:
            return 0.01
        later = [run.not_before for run in snapshot.waiting if run.not_before is not None and run.not_before > now]
        return max(0.01, (min(later) - now).total_seconds()) if later else None
