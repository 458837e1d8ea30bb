"""Plans over HTTP: those that were recorded, the one that would be made now, and one made again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mainspring.client.transport import Transport
from mainspring.core.moments import parse_moment
from mainspring.core.replays import PlanRecord


@dataclass(frozen=True, slots=True)
class Plans:
    """What was decided when, and on what (administrators)."""

    transport: Transport

    def recorded(self, at: datetime | str | None = None, *, has_snapshot: bool = False) -> PlanRecord:
        """Return the last recorded plan, or the last one at a time, also in words such as `2h ago` or `14:05`.

        Recorded are plans that start, stop, rent or give back something. Raises NotFoundError, UsageError.
        """
        moment = parse_moment(at, datetime.now(UTC), "at") if isinstance(at, str) else at
        query = {"at": moment.isoformat() if moment is not None else "", "snapshot": "true" if has_snapshot else "false"}
        return self.transport.get("/plan", query).record(PlanRecord)

    def fresh(self, *, has_snapshot: bool = False) -> PlanRecord:
        """Return the plan that would be made now, as number 0: why each run waits, and who would start. It changes nothing."""
        query = {"fresh": "true", "snapshot": "true" if has_snapshot else "false"}
        return self.transport.get("/plan", query).record(PlanRecord)

    def replay(self, record: PlanRecord) -> dict[str, Any]:
        """Return `{number, same_snapshot, same_plan, plan}`: the plan made again by the server from the record's snapshot.

        `plan` is None where the snapshot was changed. Raises SpecError for a record without its snapshot.
        """
        return dict(self.transport.post("/plan/replay", record, is_repeatable=True).plain())
