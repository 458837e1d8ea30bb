"""Launches that failed on nodes, counted with the ends and the starts that they belong to, so that no crash loses one."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, select, update

from mainspring.core.health import kind_of
from mainspring.core.ids import RunId
from mainspring.core.records import Attempt, LaunchFailure, Replica, Run
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, Transaction
from mainspring.store.fleet_tables import launch_failures
from mainspring.store.runs import need_run
from mainspring.store.statements import Statement

KEPT = timedelta(days=1)  # an older failure says nothing about a node of today
MESSAGE_CHARS = 500


class Health:
    """Reads what was counted."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def failures(self) -> list[LaunchFailure]:
        """Return the launches that failed where none has begun since, oldest first."""
        asked = select(launch_failures).order_by(launch_failures.c.at, launch_failures.c.attempt)
        rows = self._db.read(lambda conn: conn.execute(asked).mappings().all())
        return [record_of(LaunchFailure, launch_failures, row) for row in rows]


# --- within a transaction -----------------------------------------------------------------------------------------------

_ANY = Statement(select(launch_failures.c.attempt).limit(1))
_HERE = delete(launch_failures).where(launch_failures.c.node == bindparam("of"))
_OLD = delete(launch_failures).where(launch_failures.c.at < bindparam("before"))
_ELSEWHERE = (
    update(launch_failures)
    .where(launch_failures.c.kind == bindparam("alike"), launch_failures.c.node != bindparam("of"))
    .where(launch_failures.c.begun_at.is_(None))
    .values(begun_at=bindparam("now"))
)


def note_failure(tx: Transaction, attempt: Attempt, replica: Replica, run: Run, message: str, at: datetime) -> None:
    """Count a launch that failed."""
    failure = LaunchFailure(
        attempt=attempt.id,
        replica=replica.index,
        node=replica.node,
        run=run.id,
        kind=kind_of(run.spec),
        at=at,
        message=message[:MESSAGE_CHARS],
    )
    tx.conn.execute(_OLD, {"before": at - KEPT})
    tx.conn.execute(launch_failures.insert(), values_of(failure, launch_failures))
    tx.topics.add("health")


def ask_failures_ahead(conn: Connection) -> None:
    """Ask ahead what `has_failures` is to say."""
    _ANY.ahead(conn)


def has_failures(conn: Connection) -> bool:
    """Say whether any launch that failed is counted: if not there is nothing to note of one that began."""
    return _ANY.row(conn) is not None


def note_begin(tx: Transaction, run: RunId, node: str, at: datetime) -> None:
    """Forget what failed on a node where a launch has begun, and tell those of its kind elsewhere that it did."""
    kind = kind_of(need_run(tx.conn, run, has_metrics=False).spec)
    forget_failures(tx, node)
    if tx.conn.execute(_ELSEWHERE, {"alike": kind, "of": node, "now": at}).rowcount:
        tx.topics.add("health")


def forget_failures(tx: Transaction, node: str) -> None:
    """Begin to count anew."""
    tx.conn.execute(_HERE, {"of": node})
