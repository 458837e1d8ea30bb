"""What the planner decided and on what: kept for some days, so that any decision can be replayed.

A snapshot is kept whole now and then, those after it are told against it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, Select, bindparam, delete, func, select

from mainspring.core.codec import encode
from mainspring.core.snapshot import Plan, Snapshot
from mainspring.store.columns import unpack
from mainspring.store.database import Database, Transaction
from mainspring.store.deltas import Base, patched
from mainspring.store.statements import Statement
from mainspring.store.tables import decisions

KEPT = timedelta(days=7)
WHOLE_EACH = 64  # so many decisions are told against one whole snapshot
WHOLE_AFTER = timedelta(minutes=10)
_LAST = Statement(select(func.coalesce(func.max(decisions.c.id), 0)))
_NEW = Statement(decisions.insert())
_IS_THERE = Statement(select(decisions.c.id).where(decisions.c.id == bindparam("of")))
_FORGET = Statement(
    delete(decisions).where(
        (decisions.c.at < bindparam("long_before")) | ((decisions.c.at < bindparam("before")) & decisions.c.base.is_not(None))
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One plan as recorded. `snapshot` is the JSON of the snapshot that it was made from."""

    number: int
    at: datetime
    plan: Plan
    snapshot: bytes


@dataclass(frozen=True, slots=True)
class _Base:
    number: int
    at: datetime
    rows: Base


@dataclass(slots=True)
class Entry:
    """A plan that is to be written; `whole`: its number, once it was written with all of its snapshot."""

    fingerprint: str
    plan: bytes
    snapshot: Snapshot
    at: datetime
    kept: timedelta
    base: _Base | None
    told: bytes | None  # the snapshot told against the base
    whole: int | None = None

    def write(self, tx: Transaction) -> None:
        """Write it, and forget those that are too old."""
        base, told = self.base, self.told
        if base is not None:
            _IS_THERE.ahead(tx.conn, {"of": base.number})
        last = int(_LAST.stored(tx.conn)[0][0])
        is_whole = base is None or told is None or last + 1 - base.number > WHOLE_EACH or not _is_there(tx.conn, base)
        row = {
            "id": last + 1,
            "at": self.at,
            "fingerprint": self.fingerprint,
            "plan": self.plan,
            "base": None if is_whole or base is None else base.number,
            "snapshot": zlib.compress(encode(self.snapshot), 1) if is_whole or told is None else told,
        }
        _NEW.many(tx.conn, [row])
        before = {"long_before": self.at - self.kept - WHOLE_AFTER, "before": self.at - self.kept}
        _FORGET.many(tx.conn, [before])
        self.whole = last + 1 if is_whole else None


class Decisions:
    """Reads and writes of plans. One process records: the one that plans."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._base: _Base | None = None

    def entry(self, plan: Plan, snapshot: Snapshot, *, now: datetime, kept: timedelta = KEPT) -> Entry:
        """Return what is to be written of a plan that is kept for `kept`."""
        base = self._base
        is_fresh = base is not None and base.at <= now <= base.at + WHOLE_AFTER
        told = zlib.compress(base.rows.delta(snapshot), 1) if base is not None and is_fresh else None
        return Entry(plan.fingerprint, zlib.compress(encode(plan), 1), snapshot, now, kept, base, told)

    def remember(self, entry: Entry) -> None:
        """Tell the next ones against this one, if it was written whole."""
        if entry.whole is not None:
            self._base = _Base(entry.whole, entry.at, Base(entry.snapshot))

    def latest(self, at: datetime | None = None) -> Recorded | None:
        """Return the last plan kept, or the last one made at `at` or before."""
        asked = select(decisions).order_by(decisions.c.id.desc()).limit(1)
        return self._one(asked if at is None else asked.where(decisions.c.at <= at))

    def get(self, number: int) -> Recorded | None:
        """Return a plan by its number."""
        return self._one(select(decisions).where(decisions.c.id == number))

    def _one(self, asked: Select[tuple[object, ...]]) -> Recorded | None:
        def ask(conn: Connection) -> Recorded | None:
            row = conn.execute(asked).one_or_none()
            return None if row is None else _recorded(conn, row)

        return self._db.read(ask)


def _recorded(conn: Connection, row: Row[tuple[object, ...]]) -> Recorded:
    snapshot = zlib.decompress(row.snapshot)
    if row.base is not None:
        whole = conn.execute(select(decisions.c.snapshot).where(decisions.c.id == row.base)).scalar_one()
        snapshot = patched(zlib.decompress(whole), snapshot)
    return Recorded(number=row.id, at=row.at, plan=unpack(zlib.decompress(row.plan), Plan), snapshot=snapshot)


def _is_there(conn: Connection, base: _Base) -> bool:
    return bool(_IS_THERE.stored(conn, {"of": base.number}))
