"""What the planner decided and on what: kept for seven days, so that any decision can be replayed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, select

from mainspring.core.codec import encode
from mainspring.core.snapshot import DecisionKind, Plan
from mainspring.store.columns import unpack
from mainspring.store.database import Database, Transaction
from mainspring.store.tables import decisions

KEPT = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One plan as recorded. `snapshot` is the JSON of the snapshot that it was made from."""

    at: datetime
    plan: Plan
    snapshot: bytes


class Decisions:
    """Reads and writes of plans."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def record(self, plan: Plan, snapshot: bytes, *, now: datetime | None = None) -> bool:
        """Keep the plan if it starts something or gives another reason than the last one kept; say whether it was."""
        last = self.latest()
        if last is not None and not _starts(plan) and _reasons(last.plan) == _reasons(plan):
            return False
        packed_plan, packed_snapshot = zlib.compress(encode(plan), 1), zlib.compress(snapshot, 1)

        def work(tx: Transaction) -> bool:
            at = now or tx.clock.now()
            number = int(tx.conn.execute(select(func.coalesce(func.max(decisions.c.id), 0))).scalar_one()) + 1
            row = {"id": number, "at": at, "fingerprint": plan.fingerprint, "plan": packed_plan, "snapshot": packed_snapshot}
            tx.conn.execute(decisions.insert(), row)
            tx.conn.execute(delete(decisions).where(decisions.c.at < at - KEPT))
            return True

        return self._db.write(work)

    def latest(self) -> Recorded | None:
        """Return the last plan kept."""

        def ask(conn: Connection) -> Recorded | None:
            row = conn.execute(select(decisions).order_by(decisions.c.id.desc()).limit(1)).one_or_none()
            if row is None:
                return None
            return Recorded(at=row.at, plan=unpack(zlib.decompress(row.plan), Plan), snapshot=zlib.decompress(row.snapshot))

        return self._db.read(ask)


def _starts(plan: Plan) -> bool:
    return any(decision.kind is DecisionKind.START for decision in plan.decisions)


def _reasons(plan: Plan) -> dict[str, str]:
    return {d.run: d.reason.code for d in plan.decisions if d.kind is DecisionKind.WAIT and d.reason is not None}
