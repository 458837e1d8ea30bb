"""Ways to a database: one engine whose connections read, one whose connections write.

Both are told when a transaction begins, in the database's own words: a connection that nobody tells so is in none, and one
statement alone needs none.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from mainspring.store.driver import put_off, tell_later

_READERS, _MORE_READERS = 16, 16  # connections to PostgreSQL, at most
_WRITERS = 6_203_117_041  # whoever writes to PostgreSQL holds this lock to its commit
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN_WRITE = ("BEGIN ISOLATION LEVEL READ COMMITTED", f"SELECT pg_advisory_xact_lock({_WRITERS})")
# a server that is gone, or a process that stopped within a transaction, must not hold up the others for long
_PATIENCE = {
    "connect_timeout": "10",
    "tcp_user_timeout": "20000",
    "keepalives_idle": "20",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
_IDLE_WRITER = "SET idle_in_transaction_session_timeout = '10s'"


def open_engines(url: URL) -> tuple[Engine, Engine]:
    """Return the engine for reads and the one for writes."""
    return _postgres_engines(url) if url.get_backend_name() == "postgresql" else _sqlite_engines(url)


def _sqlite_engines(url: URL) -> tuple[Engine, Engine]:
    readers = create_engine(url, poolclass=NullPool)
    writer = create_engine(url, poolclass=NullPool)
    event.listen(readers, "connect", _prepare_reader)
    event.listen(writer, "connect", _prepare_writer)
    _begin(readers, "BEGIN")
    _begin(writer, "BEGIN IMMEDIATE")
    return readers, writer


def _prepare_writer(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by hand: the driver would commit before a SAVEPOINT
    # foreign keys are enforced by the writer; a killed process loses nothing with FULL
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}").close()


def _prepare_reader(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in ("query_only=ON", "busy_timeout=10000", "temp_store=MEMORY", "cache_size=-1000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _postgres_engines(url: URL) -> tuple[Engine, Engine]:
    patience = {name: value for name, value in _PATIENCE.items() if name not in url.query}
    # values stand in a list, as for SQLite
    same: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "paramstyle": "format", "connect_args": patience}
    readers = create_engine(url, pool_size=_READERS, max_overflow=_MORE_READERS, pool_pre_ping=True, **same)
    writer = create_engine(url, poolclass=NullPool, **same)
    event.listen(writer, "connect", _prepare_postgres_writer)
    for engine in (readers, writer):
        event.listen(engine, "connect", _keep_prepared)
        put_off(engine)
    _begin(readers, _BEGIN_READ)
    _begin(writer, *_BEGIN_WRITE)
    return readers, writer


def _prepare_postgres_writer(connection: Any, _record: object) -> None:
    connection.execute(_IDLE_WRITER)
    # Tables grow from nothing: a way to many rows that was found while a table was small looks all of it through later.
    connection.execute("SET plan_cache_mode = force_custom_plan")


def _keep_prepared(connection: Any, _record: object) -> None:
    connection.prepared_max = 1_000  # each kind of statement, with each set of columns


def _begin(engine: Engine, *words: str) -> None:
    """Have each transaction of the engine begin with these words."""

    def begin(conn: Connection) -> None:
        for one in words:
            tell_later(conn, one)

    event.listen(engine, "begin", begin)
