"""What went wrong in a database, in our own errors."""

from __future__ import annotations

import sqlite3

from sqlalchemy import Connection, exc

from mainspring.core.errors import ConflictError, DiskFullError, MainspringError, StoreError, UsageError

_DISK_FULL_STATES = frozenset({"53100"})


def translate(wrong: Exception) -> Exception:
    """Return the error of ours that tells a database error; any other comes back as it is."""
    if isinstance(wrong, OverflowError | exc.DataError):
        refused = UsageError("A value is larger than the database can hold.", hint="Numbers have 64 bits.")
        refused.__cause__ = wrong
        return refused
    if not isinstance(wrong, exc.SQLAlchemyError):
        return wrong
    cause = wrong.orig if isinstance(wrong, exc.DBAPIError) else None
    text = str(cause or wrong).strip().splitlines()[0] if str(cause or wrong).strip() else type(wrong).__name__
    made: MainspringError
    if _is_disk_full(wrong):
        made = DiskFullError("No space is left on the disk of the database.", hint="Free some space; nothing was written.")
    elif isinstance(wrong, exc.IntegrityError):
        made = ConflictError(f"The database refused the write: {text}.", hint="The record exists, or what it names does not.")
    elif isinstance(wrong, exc.OperationalError | exc.DatabaseError) and ("malformed" in text or "not a database" in text):
        made = StoreError(f"The database is damaged: {text}.", hint="Restore a backup: mainspring restore PATH")
    else:
        made = StoreError(f"The database failed: {text}.", hint="Look at the server's log.")
    made.__cause__ = wrong
    return made


def _is_disk_full(wrong: exc.SQLAlchemyError) -> bool:
    if not isinstance(wrong, exc.DBAPIError):
        return False
    code = getattr(wrong.orig, "sqlite_errorcode", None)
    if code is not None:
        return bool(code & 0xFF == sqlite3.SQLITE_FULL)
    return _sqlstate(wrong) in _DISK_FULL_STATES


def _sqlstate(wrong: exc.DBAPIError) -> str:
    return str(getattr(wrong.orig, "sqlstate", "") or "")


def is_lost(wrong: BaseException) -> bool:
    """Say whether it is the connection that failed: nothing of its transaction was written."""
    return isinstance(wrong, exc.DBAPIError) and wrong.connection_invalidated


def is_undone(conn: Connection, wrong: Exception) -> bool:
    """Say whether the whole transaction is undone (disk full, I/O error, no connection), not only the statement."""
    if not isinstance(wrong, exc.DBAPIError):
        return False
    if is_lost(wrong) or _is_disk_full(wrong):
        return True
    return not getattr(conn.connection.driver_connection, "in_transaction", True)
