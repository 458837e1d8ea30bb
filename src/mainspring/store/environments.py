"""Environments on nodes, and what replicas were seen to run with: told by runners as lines of their events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite

from mainspring.core.codec import decoder
from mainspring.core.environments import NodeEnvironment
from mainspring.core.manifests import is_digest
from mainspring.core.records import AttemptState
from mainspring.store.columns import from_micros, record_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.fleet_tables import environments
from mainspring.store.statements import Statement
from mainspring.store.tables import attempts, nodes, replicas

MAX_TEXT = 200
_MARK = b'"environment_'
_IN_USE = exists().where(
    replicas.c.node == environments.c.node,
    replicas.c.environment_key == environments.c.key,
    replicas.c.ended_at.is_(None),
    replicas.c.attempt == attempts.c.id,
    attempts.c.state != AttemptState.ENDED,
)
_UNWANTED = Statement(
    select(environments.c.key).where(environments.c.node == bindparam("of"), environments.c.asked_to_go_at.is_not(None))
)


class Environments:
    """Reads and writes of environments on nodes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def all(self) -> list[NodeEnvironment]:
        """Return them by node, the last used first."""
        return self._db.read(_all)

    def unwanted(self, node: str) -> tuple[str, ...]:
        """Return the keys of those that are to go from a node."""
        return self._db.read(lambda conn: tuple(key for (key,) in _UNWANTED.stored(conn, {"of": node})))

    def ask_to_go(self, wanted: Sequence[NodeEnvironment], *, now: datetime, event: NewEvent | None = None) -> None:
        """Write that environments are to go; a use from now on takes it back."""

        def work(tx: Transaction) -> None:
            for one in wanted:
                mine = (environments.c.node == one.node) & (environments.c.key == one.key)
                tx.conn.execute(update(environments).where(mine).values(asked_to_go_at=now))
            tx.tell(event, "nodes")

        self._db.write(work)


def _all(conn: Connection) -> list[NodeEnvironment]:
    asked = select(environments, _IN_USE.label("is_in_use"))
    asked = asked.order_by(environments.c.node, environments.c.used_at.desc(), environments.c.key)
    rows = conn.execute(asked).mappings()
    return [record_of(NodeEnvironment, environments, row, is_in_use=bool(row["is_in_use"])) for row in rows]


# --- within a transaction -----------------------------------------------------------------------------------------------


def add_environments(tx: Transaction, attempt: str, replica: int, lines: bytes, *, now: datetime) -> None:
    """Take what `lines` of the events tell of environments; nonsense is passed over."""
    if _MARK not in lines:
        return
    told = [found for line in lines.splitlines() if (found := _read(line)) is not None]
    if not told:
        return
    asked = select(attempts.c.run, attempts.c.cluster, replicas.c.node).join(replicas, replicas.c.attempt == attempts.c.id)
    row = tx.conn.execute(asked.where(attempts.c.id == attempt, replicas.c.index == replica)).one_or_none()
    if row is None:
        return
    run, cluster, node = row
    mine = (replicas.c.attempt == attempt) & (replicas.c.index == replica)
    for one in told:
        if one.kind == "environment_seen" and is_digest(one.digest):
            tx.conn.execute(update(replicas).where(mine).values(environment=one.digest))
        elif one.kind == "environment_removed":
            tx.conn.execute(delete(environments).where(environments.c.node == node, environments.c.key == one.key))
        elif one.kind == "environment_used" and is_digest(one.lock) and 0 < len(one.key) <= MAX_TEXT:
            tx.conn.execute(update(replicas).where(mine).values(environment_key=one.key))
            if one.is_kept and tx.conn.execute(select(nodes.c.id).where(nodes.c.id == node)).first() is not None:
                _used(tx, {"node": node, "cluster": cluster, "run": run}, one, now)


def _used(tx: Transaction, where: Mapping[str, Any], told: _Line, now: datetime) -> None:
    row = {
        **where,
        "key": told.key,
        "lock": told.lock,
        "python": told.version[:MAX_TEXT],
        "platform": told.platform[:MAX_TEXT],
        "tool": told.tool[:MAX_TEXT],
        "size_bytes": max(0, min(told.size_bytes, 1 << 62)),
        "built_at": min(from_micros(int(max(0.0, told.built_at) * 1e6)), now),  # a node's clock may be wrong
        "used_at": now,
    }
    insert = postgresql.insert if tx.conn.dialect.name == "postgresql" else sqlite.insert
    known = {name: value for name, value in row.items() if name not in ("node", "key")}
    again = {**known, "uses": environments.c.uses + 1, "asked_to_go_at": None}
    tx.conn.execute(insert(environments).values(row).on_conflict_do_update(index_elements=["node", "key"], set_=again))
    tx.topics.add("nodes")


class _Line(msgspec.Struct):
    kind: str = ""
    key: str = ""
    lock: str = ""
    digest: str = ""
    version: str = ""
    platform: str = ""
    tool: str = ""
    size_bytes: int = 0
    built_at: float = 0.0
    is_kept: bool = True


def _read(line: bytes) -> _Line | None:
    if _MARK not in line:
        return None
    try:
        told = decoder(_Line).decode(line)
        from_micros(int(told.built_at * 1e6))
    except (msgspec.MsgspecError, OverflowError, ValueError):
        return None
    return told
