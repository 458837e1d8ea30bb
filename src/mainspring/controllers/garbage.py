"""The garbage loop: what nobody names any more, what is older than its rule, what runs without a row."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from mainspring.controllers.attempts import sweep
from mainspring.controllers.fleet import Fleet
from mainspring.services.context import Context
from mainspring.store.retention import Rules

log = logging.getLogger(__name__)
SWEEP_S = 60.0
COLLECT_S = 3600.0


@dataclass(slots=True)
class Garbage:
    """Sweeps processes every minute, rows and blobs every hour."""

    ctx: Context
    fleet: Fleet
    _first_seen: dict[tuple[str, int], float] = field(default_factory=dict)
    _collected_at: float | None = None

    def tick(self) -> float | None:
        """Sweep once."""
        sweep(self.ctx, self.fleet, self._first_seen)
        now = self.ctx.clock.monotonic()
        if self._collected_at is None:
            self._collected_at = now  # not at start: a restart loop must not scan the store each time
        elif now - self._collected_at >= COLLECT_S:
            self._collected_at = now
            self._collect()
        return SWEEP_S

    def _collect(self) -> None:
        settings = self.ctx.settings
        rules = Rules(logs_days=settings.logs_days, events_days=settings.events_days, archived_days=settings.archived_days)
        removed = self.ctx.store.retention.apply(self.ctx.clock.now(), rules)
        blobs = self.ctx.blobs.collect(self.ctx.store.blobs.named, grace_s=settings.blob_grace_s, now=self.ctx.clock.now())
        log.info("garbage collected", extra={"rows": removed, "blobs": str(blobs)})
