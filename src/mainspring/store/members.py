"""Attempts as they stand in their rows: one row for each replica, with the attempt's own columns beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select, update

from mainspring.core.errors import NotFoundError
from mainspring.core.records import Attempt, Replica
from mainspring.store.columns import record_of
from mainspring.store.statements import Listed, Row, Statement
from mainspring.store.tables import attempts, replicas

OF_MEMBER = "member_"  # the columns of the replica begin so
_WITH_MEMBERS: Select[Any] = select(*attempts.c, *(one.label(OF_MEMBER + one.name) for one in replicas.c)).join(
    replicas, replicas.c.attempt == attempts.c.id
)
WHOLE = Statement(_WITH_MEMBERS.where(attempts.c.id == bindparam("of")).order_by(replicas.c.index))
_LOCKED = Listed(
    lambda ids: _WITH_MEMBERS.where(attempts.c.id.in_(ids)).order_by(attempts.c.id, replicas.c.index).with_for_update(of=attempts)
)


IS_MEMBER = update(replicas).where(replicas.c.attempt == bindparam("of"), replicas.c.index == bindparam("at"))
MEMBER = Statement(IS_MEMBER)
SAME = update(attempts).where(attempts.c.id == bindparam("of"), attempts.c.version == bindparam("seen"))
WHERE_SAME = Statement(SAME)


def whole(rows: Sequence[Row]) -> Attempt | None:
    """Return the attempt that stands in these rows; None where there are none."""
    return attempt_of(rows) if rows else None


def attempt_of(rows: Sequence[Row]) -> Attempt:
    """Return the attempt that stands in these rows, one for each of its replicas."""
    cut = len(OF_MEMBER)
    members = ({key[cut:]: value for key, value in row.items() if key.startswith(OF_MEMBER)} for row in rows)
    return record_of(Attempt, attempts, rows[0], replicas=tuple(record_of(Replica, replicas, one) for one in members))


def load_attempt(conn: Connection, id: str) -> Attempt | None:
    """Return the attempt with this id."""
    return whole(WHOLE.rows(conn, {"of": id}))


def need_attempt(conn: Connection, id: str) -> Attempt:
    """Return the attempt with this id. Raises NotFoundError."""
    attempt = load_attempt(conn, id)
    if attempt is None:
        raise NotFoundError(f"There is no attempt {id}.", details={"attempt": id})
    return attempt


def lock_attempts(conn: Connection, ids: Sequence[str]) -> dict[str, list[Row]]:
    """Return the rows of those of the attempts `ids` that are there, and let nobody else write them until the commit."""
    found: dict[str, list[Row]] = {}
    for row in _LOCKED.rows(conn, sorted(set(ids))):
        found.setdefault(row["id"], []).append(row)
    return found


def member_of(attempt: Attempt, index: int) -> Replica:
    """Return a replica. Raises NotFoundError."""
    for one in attempt.replicas:
        if one.index == index:
            return one
    raise NotFoundError(f"Attempt {attempt.id} has no replica {index}.")
