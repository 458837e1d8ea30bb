"""Opening: own the file, look at its health, migrate it up, and what an installation keeps for ever."""

from __future__ import annotations

import errno
import os
import secrets as chance
import sqlite3
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mainspring.core.clock import Clock
from mainspring.core.errors import DiskFullError, StoreError, UsageError
from mainspring.core.ids import Ids
from mainspring.store.backup import check_healthy
from mainspring.store.database import Database, Transaction
from mainspring.store.failures import translate
from mainspring.store.ownership import Ownership, own, refuse_network_folder
from mainspring.store.schema import migrate, stand_in_line
from mainspring.store.tables import attempts, leases, meta

_CHECKED_WHOLE_BYTES = 32 << 20  # larger files are looked at where they are read: a server is ready in two seconds
_OLDEST_SQLITE = (3, 35, 0)  # RETURNING


def prepare(url: str, *, clock: Clock, ids: Ids, lock_wait_s: float) -> tuple[Database, Ownership | None]:
    """Return the database at `url`, owned, healthy, up to date and started."""
    parsed = parse_url(url)
    ownership = None if parsed.get_backend_name() == "postgresql" else _own_file(parsed, lock_wait_s)
    with ExitStack() as undo:
        if ownership is not None:
            undo.callback(ownership.release)
        try:
            db = Database(parsed, clock=clock, ids=ids)
            undo.callback(db.close)
            migrate(db.write_engine)
            db.start(_begin(db))
        except SQLAlchemyError as wrong:
            raise translate(wrong) from wrong
        undo.pop_all()
    return db, ownership


def parse_url(url: str) -> URL:
    """Return the address of a database: a path, `sqlite:///PATH` or `postgresql+psycopg://…`. Raises UsageError."""
    if "://" not in url:
        return URL.create("sqlite", database=str(Path(url).absolute()))
    try:
        parsed = make_url(url)
    except ArgumentError as wrong:
        raise UsageError("The database URL is malformed.", hint="postgresql+psycopg://USER@HOST/NAME") from wrong
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise UsageError(
            f"There is no store on {parsed.drivername}.", hint="Use sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME."
        )
    return parsed.set(database=str(Path(parsed.database).absolute()))


def read_installation(db: Database) -> str:
    """Return the id of the installation."""
    return db.read(lambda conn: str(conn.execute(select(meta.c.value).where(meta.c.name == "installation")).scalar_one()))


def keep_key(db: Database, name: str) -> bytes:
    """Return the 32 random bytes kept under `name`."""
    asked = select(meta.c.value).where(meta.c.name == f"key:{name}")
    found = db.read(lambda conn: conn.execute(asked).scalar_one_or_none())
    if found is not None:
        return bytes.fromhex(found)

    def work(tx: Transaction) -> str:
        known = tx.conn.execute(asked).scalar_one_or_none()  # somebody may have been first
        if known is not None:
            return str(known)
        fresh = chance.token_hex(32)
        tx.conn.execute(insert(meta).values(name=f"key:{name}", value=fresh))
        return fresh

    return bytes.fromhex(db.write(work))


def read_cursor(db: Database, name: str) -> int:
    """Return how far the reader `name` of the event log has come, 0 at first."""
    asked = select(meta.c.value).where(meta.c.name == f"cursor:{name}")
    return int(db.read(lambda conn: conn.execute(asked).scalar_one_or_none()) or 0)


def move_cursor(db: Database, name: str, to: int) -> None:
    """Record that the reader `name` has dealt with every event up to `to`."""

    def work(tx: Transaction) -> None:
        known = update(meta).where(meta.c.name == f"cursor:{name}").values(value=str(to))
        if tx.conn.execute(known).rowcount == 0:
            tx.conn.execute(insert(meta).values(name=f"cursor:{name}", value=str(to)))

    db.write(work)


def _own_file(url: URL, lock_wait_s: float) -> Ownership:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old; 3.35 is needed.", hint="Use a newer Python.")
    path = Path(str(url.database))
    with ExitStack() as undo:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            refuse_network_folder(path.parent)
            ownership = own(path, wait_s=lock_wait_s)
            undo.callback(ownership.release)
            if path.exists():
                check_healthy(path, is_whole=path.stat().st_size <= _CHECKED_WHOLE_BYTES)
            else:
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # it holds hashes of tokens
        except OSError as wrong:
            raise _unusable(path, wrong) from wrong
        undo.pop_all()
    return ownership


def _unusable(path: Path, wrong: OSError) -> StoreError:
    if wrong.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"No space is left for {path}.", hint="Free some space, or use another MAINSPRING_HOME.")
    return StoreError(f"{path} cannot be used: {wrong.strerror}.", hint="Look at its rights, or use another MAINSPRING_HOME.")


def _begin(db: Database) -> int:
    """Make what an installation has from its first day; on SQLite note the new owner and void the leases of the last one."""
    with db.write_engine.begin() as conn:
        stand_in_line(conn)
        _keep(conn, "installation", db.ids.new("inst"))
        _keep(conn, "fence", "0")
        if db.is_postgres:
            return 0
        fence = int(conn.execute(select(meta.c.value).where(meta.c.name == "fence")).scalar_one()) + 1
        conn.execute(update(meta).where(meta.c.name == "fence").values(value=str(fence)))
        # they were counted by a clock that ended with its process; fencing numbers stay
        conn.execute(update(leases).values(until_s=0.0))
        conn.execute(update(attempts).where(attempts.c.lease_until_s != 0).values(lease_until_s=0.0))
        return fence


def _keep(conn: Connection, name: str, value: str) -> None:
    known = conn.execute(select(meta.c.value).where(meta.c.name == name)).first()
    if known is None:
        conn.execute(insert(meta).values(name=name, value=value))
