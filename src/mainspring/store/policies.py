"""The planner's policy: every one that was ever set. The newest that can be read is in force."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, Text, func, select, type_coerce

from mainspring.core.errors import MainspringError, StaleWriteError
from mainspring.core.policy import Policy, check_policy
from mainspring.store.columns import unpack
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.share_tables import policies

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy:
    """A policy as it was set: `number` 0 is the built-in one; `text` is what its author wrote."""

    number: int = 0
    at: datetime | None = None
    actor: str = ""
    text: str = ""
    policy: Policy = field(default_factory=Policy)


class Policies:
    """Reads and writes of the policy."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def current(self) -> SetPolicy:
        """Return the policy in force."""
        return self._db.read(current_policy)

    def history(self, limit: int = 50) -> list[SetPolicy]:
        """Return the policies that were set, newest first."""
        return self._db.read(lambda conn: _read(conn, limit))

    def set(self, policy: Policy, text: str, *, actor: str, after: int | None = None, event: NewEvent | None = None) -> SetPolicy:
        """Put a policy in force, if the one before is still number `after` (None: whatever it is). Raises StaleWriteError."""

        def work(tx: Transaction) -> SetPolicy:
            last = int(tx.conn.execute(select(func.coalesce(func.max(policies.c.number), 0))).scalar_one())
            if after is not None and after != last:
                raise StaleWriteError(f"Somebody else has just set policy {last}.", hint="mainspring policy show")
            made = SetPolicy(number=last + 1, at=tx.clock.now(), actor=actor, text=text, policy=policy)
            row = {"number": made.number, "at": made.at, "actor": actor, "text": text, "policy": policy}
            tx.conn.execute(policies.insert(), row)
            tx.tell(event, "nodes")
            return made

        return self._db.write(work)


def current_policy(conn: Connection) -> SetPolicy:
    """Return the newest policy that this program can read, else the built-in one: a wrong one never stops the queue."""
    found = _read(conn, 8)
    return found[0] if found else SetPolicy()


def _read(conn: Connection, limit: int) -> list[SetPolicy]:
    plain = type_coerce(policies.c.policy, Text).label("plain")
    asked = select(policies.c.number, policies.c.at, policies.c.actor, policies.c.text, plain)
    found = []
    for row in conn.execute(asked.order_by(policies.c.number.desc()).limit(limit)).mappings():
        try:
            policy = check_policy(unpack(row["plain"], Policy))
        except MainspringError as wrong:
            logger.warning("policy %d is passed over: %s", row["number"], wrong.message)
            continue
        found.append(SetPolicy(number=row["number"], at=row["at"], actor=row["actor"], text=row["text"], policy=policy))
    return found
