"""A recorded plan as it travels: with the snapshot that it was made from, so that anybody can make it again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mainspring.core.snapshot import Plan, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """One plan: when, what was decided, on what. `snapshot` is None where it was not asked for."""

    number: int
    at: datetime
    plan: Plan
    snapshot: Snapshot | None = None
