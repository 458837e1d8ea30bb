"""Shares and advance reservations: what people configured. What nobody configured is not here, and needs not be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, Table, bindparam, delete, or_, select, update
from sqlalchemy.sql import ColumnElement

from mainspring.core.errors import ConflictError, NotFoundError, StaleWriteError
from mainspring.core.shares import Share
from mainspring.core.snapshot import Reservation
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.share_tables import past_use, reservations, shares
from mainspring.store.statements import Statement
from mainspring.store.tables import projects

_SHARE_OF = Statement(select(projects.c.name, projects.c.share).where(projects.c.share != ""))
_IN_TIME = select(reservations).order_by(reservations.c.begins_at, reservations.c.id)
_RESERVATIONS = Statement(_IN_TIME)
_LATER = Statement(_IN_TIME.where(reservations.c.ends_at > bindparam("after")))

TOPIC = "nodes"  # a changed share may let somebody start: plan again


class Shares:
    """Reads and writes of shares."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def all(self) -> list[Share]:
        """Return the configured shares by name."""
        return self._db.read(all_shares)

    def put(self, share: Share, *, event: NewEvent | None = None) -> Share:
        """Write a share if it still has the version that it was read with (0: it is new). Raises StaleWriteError."""

        def work(tx: Transaction) -> Share:
            new = replace(share, version=share.version + 1)
            if share.version == 0:
                if tx.conn.execute(select(shares.c.name).where(shares.c.name == share.name)).first() is not None:
                    raise StaleWriteError(f"Somebody else has just made the share {share.name!r}.", hint="Try again.")
                tx.conn.execute(shares.insert(), values_of(new, shares))
            else:
                same = (shares.c.name == share.name) & (shares.c.version == share.version)
                if tx.conn.execute(update(shares).where(same).values(**values_of(new, shares))).rowcount == 0:
                    raise StaleWriteError(f"Somebody else has just changed the share {share.name!r}.", hint="Try again.")
            tx.tell(event, TOPIC)
            return new

        return self._db.write(work)

    def remove(self, name: str, *, event: NewEvent | None = None) -> None:
        """Forget what was configured for a share. Raises NotFoundError, ConflictError while something belongs to it."""

        def work(tx: Transaction) -> None:
            if tx.conn.execute(delete(shares).where(shares.c.name == name)).rowcount == 0:
                raise NotFoundError(f"There is no share {name!r}.", hint="mainspring share")
            below = tx.conn.execute(select(shares.c.name).where(_below(shares, name)).limit(1)).scalar()
            used = tx.conn.execute(select(projects.c.name).where(projects.c.share == name).limit(1)).scalar()
            if below or used:
                what = f"The share {below!r} is below it" if below else f"Project {used!r} belongs to it"
                raise ConflictError(f"{what}: {name!r} cannot be removed.", hint="Move or remove that first.")
            tx.conn.execute(delete(reservations).where(reservations.c.share == name))
            tx.tell(event, TOPIC)

        self._db.write(work)

    def move(self, old: str, new: str, *, event: NewEvent | None = None) -> None:
        """Give a share and all below it another path. Projects, reservations and past use go with it. Raises ConflictError."""

        def work(tx: Transaction) -> None:
            if tx.conn.execute(select(shares.c.name).where(_at_or_below(shares, "name", new)).limit(1)).first() is not None:
                raise ConflictError(f"There is a share {new!r} already.", hint="Remove it, or choose another name.")
            for table, column in ((shares, "name"), (projects, "share"), (reservations, "share"), (past_use, "leaf")):
                found = select(table.c[column]).where(_at_or_below(table, column, old)).distinct()
                for name in tx.conn.execute(found).scalars().all():
                    here = update(table).where(table.c[column] == name)
                    tx.conn.execute(here.values({column: new + str(name)[len(old) :]}))
            tx.tell(event, TOPIC)

        self._db.write(work)

    # --- advance reservations -------------------------------------------------------------------------------------------

    def reservations(self) -> list[Reservation]:
        """Return the advance reservations, the first to begin first."""
        return self._db.read(all_reservations)

    def reserve(self, reservation: Reservation, created_by: str, *, event: NewEvent | None = None) -> Reservation:
        """Write an advance reservation."""

        def work(tx: Transaction) -> Reservation:
            tx.conn.execute(reservations.insert(), values_of(reservation, reservations) | {"created_by": created_by})
            tx.tell(event, TOPIC)
            return reservation

        return self._db.write(work)

    def release(self, id: str, *, event: NewEvent | None = None) -> bool:
        """Give an advance reservation up; say whether there was one."""

        def work(tx: Transaction) -> bool:
            is_gone = tx.conn.execute(delete(reservations).where(reservations.c.id == id)).rowcount == 1
            if is_gone:
                tx.tell(event, TOPIC)
            return is_gone

        return self._db.write(work)


# --- within a transaction -----------------------------------------------------------------------------------------------


def all_shares(conn: Connection) -> list[Share]:
    """Return the configured shares by name."""
    return [record_of(Share, shares, row) for row in conn.execute(select(shares).order_by(shares.c.name)).mappings()]


def ask_reservations_ahead(conn: Connection, after: datetime) -> None:
    """Ask ahead for `all_reservations`."""
    _LATER.ahead(conn, {"after": after})


def all_reservations(conn: Connection, after: datetime | None = None) -> list[Reservation]:
    """Return the advance reservations that have not ended at `after`."""
    rows = _RESERVATIONS.rows(conn) if after is None else _LATER.rows(conn, {"after": after})
    return [record_of(Reservation, reservations, row) for row in rows]


def ask_shares_ahead(conn: Connection) -> None:
    """Ask ahead for `shares_of_projects`."""
    _SHARE_OF.ahead(conn)


def shares_of_projects(conn: Connection, names: Sequence[str] = ()) -> dict[str, str]:
    """Return the share that each project belongs to, where it belongs to one; all projects without `names`."""
    found = dict(_SHARE_OF.stored(conn))
    return {name: found[name] for name in names if name in found} if names else found


def _below(table: Table, name: str, column: str = "name") -> ColumnElement[bool]:
    return table.c[column].startswith(name + "/", autoescape=True)


def _at_or_below(table: Table, column: str, name: str) -> ColumnElement[bool]:
    return or_(table.c[column] == name, _below(table, name, column))
