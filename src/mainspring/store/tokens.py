"""API tokens, known by the hash of their secret part."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import or_, select, update

from mainspring.core.records import Token
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.tables import tokens

_TOUCHED_EVERY = timedelta(minutes=1)


class Tokens:
    """Reads and writes of tokens."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, token: Token, *, event: NewEvent | None = None) -> Token:
        """Write a new token."""

        def work(tx: Transaction) -> Token:
            tx.conn.execute(tokens.insert(), values_of(token, tokens))
            tx.tell(event)
            return token

        return self._db.write(work)

    def by_hash(self, hash: str) -> Token | None:
        """Return the token whose secret part has this hash, also when it has expired or was revoked."""
        asked = select(tokens).where(tokens.c.hash == hash)
        row = self._db.read(lambda conn: conn.execute(asked).mappings().one_or_none())
        return None if row is None else record_of(Token, tokens, row)

    def all(self, user: str = "") -> list[Token]:
        """Return the tokens of a user (of all without one), oldest first."""
        asked = select(tokens).order_by(tokens.c.created_at, tokens.c.id)
        if user:
            asked = asked.where(tokens.c.user == user)
        return self._db.read(lambda conn: [record_of(Token, tokens, row) for row in conn.execute(asked).mappings()])

    def revoke(self, id: str, *, now: datetime | None = None, event: NewEvent | None = None) -> bool:
        """Make a token useless from now on; say whether it was of use, so that of two who use it up one wins."""

        def work(tx: Transaction) -> bool:
            living = update(tokens).where(tokens.c.id == id, tokens.c.revoked_at.is_(None))
            is_done = tx.conn.execute(living.values(revoked_at=now or tx.clock.now())).rowcount == 1
            if is_done:
                tx.tell(event)
            return is_done

        return self._db.write(work)

    def touch(self, id: str, now: datetime) -> None:
        """Record that a token is used, at most once a minute."""
        is_due = (tokens.c.id == id) & or_(tokens.c.used_at.is_(None), tokens.c.used_at <= now - _TOUCHED_EVERY)
        if self._db.read(lambda conn: conn.execute(select(tokens.c.id).where(is_due)).first()) is not None:
            self._db.write(lambda tx: tx.conn.execute(update(tokens).where(is_due).values(used_at=now)).rowcount)
