"""Users: people and services."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update

from mainspring.core.errors import ConflictError, NotFoundError
from mainspring.core.records import User
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.runs import UNSET
from mainspring.store.tables import users


class Users:
    """Reads and writes of users."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, user: User, *, event: NewEvent | None = None) -> User:
        """Write a new user. Raises ConflictError when the name is taken."""

        def work(tx: Transaction) -> User:
            if tx.conn.execute(select(users.c.name).where(users.c.name == user.name)).first() is not None:
                raise ConflictError(f"There is a user {user.name!r} already.")
            tx.conn.execute(users.insert(), values_of(user, users))
            tx.tell(event)
            return user

        return self._db.write(work)

    def get(self, name: str) -> User | None:
        """Return the user of this name."""
        asked = select(users).where(users.c.name == name)
        row = self._db.read(lambda conn: conn.execute(asked).mappings().one_or_none())
        return None if row is None else record_of(User, users, row)

    def all(self) -> list[User]:
        """Return the users by name."""
        asked = select(users).order_by(users.c.name)
        return self._db.read(lambda conn: [record_of(User, users, row) for row in conn.execute(asked).mappings()])

    def edit(
        self,
        name: str,
        *,
        is_admin: bool | None = None,
        disabled_at: datetime | object | None = UNSET,
        event: NewEvent | None = None,
    ) -> User:
        """Change a user's standing. Raises NotFoundError."""
        changed: dict[str, object] = {} if is_admin is None else {"is_admin": is_admin}
        if disabled_at is not UNSET:
            changed["disabled_at"] = disabled_at

        def work(tx: Transaction) -> User:
            if changed:
                tx.conn.execute(update(users).where(users.c.name == name).values(**changed))
            row = tx.conn.execute(select(users).where(users.c.name == name)).mappings().one_or_none()
            if row is None:
                raise NotFoundError(f"There is no user {name!r}.")
            tx.tell(event)
            return record_of(User, users, row)

        return self._db.write(work)
