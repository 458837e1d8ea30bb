"""Secrets of projects: the store keeps ciphertexts and knows no key."""

from __future__ import annotations

from sqlalchemy import delete, select

from mainspring.core.records import Secret
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.tables import secrets


class Secrets:
    """Reads and writes of encrypted secrets."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, secret: Secret, ciphertext: bytes, *, event: NewEvent | None = None) -> Secret:
        """Write a secret in place of any of that name."""

        def work(tx: Transaction) -> Secret:
            _delete(tx, secret.project, secret.name)
            tx.conn.execute(secrets.insert(), values_of(secret, secrets) | {"ciphertext": ciphertext})
            tx.tell(event)
            return secret

        return self._db.write(work)

    def get_ciphertext(self, project: str, name: str) -> bytes | None:
        """Return what `put` was given."""
        asked = select(secrets.c.ciphertext).where(secrets.c.project == project, secrets.c.name == name)
        found = self._db.read(lambda conn: conn.execute(asked).scalar_one_or_none())
        return None if found is None else bytes(found)

    def all(self, project: str) -> list[Secret]:
        """Return the secrets of a project by name."""
        asked = select(secrets).where(secrets.c.project == project).order_by(secrets.c.name)
        return self._db.read(lambda conn: [record_of(Secret, secrets, row) for row in conn.execute(asked).mappings()])

    def remove(self, project: str, name: str, *, event: NewEvent | None = None) -> bool:
        """Forget a secret; say whether it was there."""

        def work(tx: Transaction) -> bool:
            gone = _delete(tx, project, name)
            if gone:
                tx.tell(event)
            return gone

        return self._db.write(work)


def _delete(tx: Transaction, project: str, name: str) -> bool:
    return tx.conn.execute(delete(secrets).where(secrets.c.project == project, secrets.c.name == name)).rowcount == 1
