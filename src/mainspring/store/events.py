"""Events: audit trail, feed of the page, outbox. Numbered in commit order, so that nobody who reads on misses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select

from mainspring.core.records import Event
from mainspring.store.columns import record_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.tables import counters, events

__all__ = ["Events", "NewEvent"]


class Events:
    """Reads and appends events."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def append(self, event: NewEvent) -> Event:
        """Append an event that belongs to no other write."""

        def work(tx: Transaction) -> int:
            tx.tell(event, "events")
            return tx.flush_events()

        seq = self._db.write(work)
        return self._db.read(lambda conn: _event(conn.execute(select(events).where(events.c.seq == seq)).mappings().one()))

    def since(self, seq: int, *, limit: int = 500, project: str = "", subject: str = "") -> list[Event]:
        """Return events after number `seq`, oldest first, at most `limit`."""
        asked = select(events).where(events.c.seq > seq).order_by(events.c.seq).limit(limit)
        if project:
            asked = asked.where(events.c.project == project)
        if subject:
            asked = asked.where(events.c.subject == subject)
        return self._db.read(lambda conn: [_event(row) for row in conn.execute(asked).mappings()])

    def last_seq(self) -> int:
        """Return the number of the newest event, 0 before the first."""
        asked = select(func.coalesce(func.max(counters.c.value), 0)).where(counters.c.name == "events")
        return self._db.read(lambda conn: int(conn.execute(asked).scalar_one()))


def _event(row: Mapping[Any, Any]) -> Event:
    return record_of(Event, events, row)
