"""Events: audit trail, feed of the page, outbox. Numbered in commit order, so that nobody who reads on misses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import bindparam, select

from mainspring.core.records import Event
from mainspring.store.columns import record_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.statements import Statement
from mainspring.store.tables import counters, events

_AFTER = select(events).where(events.c.seq > bindparam("after")).order_by(events.c.seq).limit(bindparam("most"))
_SINCE = {
    (by_project, by_subject): Statement(
        _AFTER.where(*[events.c.project == bindparam("of")] * by_project, *[events.c.subject == bindparam("on")] * by_subject)
    )
    for by_project in (False, True)
    for by_subject in (False, True)
}
_LAST = Statement(select(counters.c.value).where(counters.c.name == "events"))

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
        asked = _SINCE[bool(project), bool(subject)]
        given = {"after": seq, "most": limit, "of": project, "on": subject}
        return [_event(row) for row in self._db.ask(asked, given)]

    def last_seq(self) -> int:
        """Return the number of the newest event, 0 before the first."""
        found = self._db.ask(_LAST)
        return int(found[0]["value"]) if found else 0


def _event(row: Mapping[Any, Any]) -> Event:
    return record_of(Event, events, row)
