"""Idempotency keys of what is no run: the same (kind, project, key) means the same record."""

from __future__ import annotations

from sqlalchemy import select

from mainspring.store.database import Transaction
from mainspring.store.tables import keys


def known_by_key(tx: Transaction, kind: str, project: str, key: str) -> str | None:
    """Return the id that was made with this key."""
    if not key:
        return None
    asked = select(keys.c.id).where(keys.c.kind == kind, keys.c.project == project, keys.c.key == key)
    return tx.conn.execute(asked).scalar_one_or_none()


def remember_key(tx: Transaction, kind: str, project: str, key: str, id: str) -> None:
    """Keep that `key` made `id`."""
    if key:
        tx.conn.execute(keys.insert(), {"kind": kind, "project": project, "key": key, "id": id, "at": tx.clock.now()})
