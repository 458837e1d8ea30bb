"""Recorded plans over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mainspring.client.transport import Transport
from mainspring.core.replays import PlanRecord


@dataclass(frozen=True, slots=True)
class Plans:
    """What was decided when, and on what."""

    transport: Transport

    def recorded(self, at: datetime | None = None, *, has_snapshot: bool = False) -> PlanRecord:
        """Return the last recorded plan, or the last one at a time. Raises NotFoundError."""
        query = {"at": at.isoformat() if at is not None else "", "snapshot": "true" if has_snapshot else "false"}
        return self.transport.get("/plan", query).record(PlanRecord)
