"""Named leases with fencing numbers: one planner at a time."""

from __future__ import annotations

from sqlalchemy import case, insert, select, update

from mainspring.store.database import Database, Transaction
from mainspring.store.tables import leases


class Leases:
    """Takes and gives up named leases."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def take(self, name: str, owner: str, ttl_s: float) -> int | None:
        """Take or prolong a lease; return its fencing number, None while another holds it.

        The number grows with each change of holder and after each time it ran out. Time is the database's clock, on SQLite
        the monotonic one of this process, which is the only one there.
        """

        def work(tx: Transaction) -> int | None:
            if tx.conn.execute(select(leases.c.name).where(leases.c.name == name)).first() is None:
                tx.conn.execute(insert(leases).values(name=name, owner="", until_s=0.0, fence=0))
            is_over = leases.c.until_s <= tx.lease_now
            is_mine = leases.c.owner == owner
            taken = update(leases).where(leases.c.name == name, is_over | is_mine)
            taken = taken.values(
                owner=owner, until_s=tx.lease_now + ttl_s, fence=leases.c.fence + case((is_over | ~is_mine, 1), else_=0)
            )
            fence = tx.conn.execute(taken.returning(leases.c.fence)).scalar_one_or_none()
            return None if fence is None else int(fence)

        return self._db.write(work)

    def release(self, name: str, owner: str) -> None:
        """Give a lease up, if `owner` has it."""
        mine = (leases.c.name == name) & (leases.c.owner == owner)
        self._db.write(lambda tx: tx.conn.execute(update(leases).where(mine).values(until_s=0.0, owner="")).rowcount)
