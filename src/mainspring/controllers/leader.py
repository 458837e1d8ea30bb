"""One server at a time acts, however many share a database: a lease with a heartbeat says which.

Every server answers the API; only the one that leads plans, launches, looks and sweeps.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from mainspring.services.context import Context

log = logging.getLogger(__name__)
NAME = "leader"
LEASE_S = 15.0
HEART_S = LEASE_S / 3
FOLLOW_S = 1.0  # how often a loop that does not lead looks whether it does
Tick = Callable[[], float | None]


@dataclass(slots=True)
class Leader:
    """Whether this process leads. A term lasts until another process led, or nobody.

    One that is alone with its database (SQLite) leads for ever, and writes nothing for it.
    """

    ctx: Context
    owner: str
    is_alone: bool = False
    _fence: int = 0
    _until: float = -math.inf  # by this process's clock, counted from before the database was asked: never later than there

    def tick(self) -> float | None:
        """Take or prolong the lease."""
        if self.is_alone:
            self._until = math.inf
            return None
        began = self.ctx.clock.monotonic()
        fence = self.ctx.store.leases.take(NAME, self.owner, LEASE_S)
        if fence is None:
            self._until = -math.inf
            return FOLLOW_S
        if fence != self._fence:
            log.info("leads from now on", extra={"owner": self.owner, "term": fence})
        self._fence, self._until = fence, began + LEASE_S
        return HEART_S

    def term(self) -> int | None:
        """Return the number of the term, the lease's fencing number; None while this process does not lead."""
        return self._fence if self.ctx.clock.monotonic() < self._until else None

    def resign(self) -> None:
        """Let another server lead at once."""
        self._until = -math.inf
        if not self.is_alone:
            self.ctx.store.leases.release(NAME, self.owner)

    def led(self, make: Callable[[], Tick]) -> Tick:
        """Return a tick that acts only while this process leads, and begins each term with nothing remembered."""
        return partial(_step, _Led(self, make))


@dataclass(slots=True)
class _Led:
    leader: Leader
    make: Callable[[], Tick]
    term: int | None = None
    tick: Tick = field(default=lambda: None)


def _step(one: _Led) -> float | None:
    term = one.leader.term()
    if term is None:
        return FOLLOW_S
    if term != one.term:
        one.term, one.tick = term, one.make()  # what was known is as old as the last term
    return one.tick()
