"""The schedule loop: snapshot, plan, apply. The decision is a value; these lines carry it out."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from mainspring import scheduler
from mainspring.core.codec import encode
from mainspring.plugins import reach
from mainspring.services.context import Context

log = logging.getLogger(__name__)
LEASE_S = 30.0
WINDOW = 256  # queued runs that an ordinary plan looks at
WHOLE_S = 1.0  # how often the whole queue is planned while it is longer than the window
NAME = "planner"


@dataclass(slots=True)
class Schedule:
    """Plans when runs or nodes move. One planner at a time: a lease with a fencing number decides which process.

    A long queue is not planned whole each time a run ends: an ordinary plan sees its first `WINDOW` runs, and every
    `WHOLE_S` one sees all of it, so that a run far behind that would fit now waits that long at most.
    """

    ctx: Context
    owner: str
    _leased_until: float = -math.inf
    _whole_at: float = -math.inf

    def tick(self) -> float | None:
        """Plan once; return the seconds until the next run may be tried again, None when nothing is held back."""
        ctx = self.ctx
        if not self._holds_lease():
            return LEASE_S / 2
        now = ctx.clock.now()
        ticks = ctx.clock.monotonic()
        is_whole = ticks - self._whole_at >= WHOLE_S
        snapshot = ctx.store.snapshot(now, limit=None if is_whole else WINDOW)
        if not snapshot.waiting:
            return None
        if is_whole:
            self._whole_at = ticks
        plan = scheduler.plan(snapshot)
        reach("before-W2")
        applied = ctx.store.apply(plan, now=now)
        reach("after-W2")
        if applied.started:
            ctx.store.decisions.record(plan, encode(snapshot), now=now)
            log.info("plan applied", extra={"started": len(applied.started), "waiting": len(snapshot.waiting)})
        if applied.refused:
            return 0.01
        pauses = [(run.not_before - now).total_seconds() for run in snapshot.waiting if run.not_before and run.not_before > now]
        if not is_whole and len(snapshot.waiting) == WINDOW:
            pauses.append(WHOLE_S - (ticks - self._whole_at))
        return max(0.01, min(pauses)) if pauses else None

    def _holds_lease(self) -> bool:
        """Say whether this process may plan; the lease is renewed when half of it is over, not at each plan."""
        ticks = self.ctx.clock.monotonic()
        if ticks < self._leased_until - LEASE_S / 2:
            return True
        if self.ctx.store.leases.take(NAME, self.owner, LEASE_S) is None:
            return False
        self._leased_until = ticks + LEASE_S
        return True
