"""Backup of a SQLite database while it runs, and restoring one while it does not."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from mainspring.core.errors import ConflictError, DiskFullError, NotFoundError, StoreError, UnsupportedError
from mainspring.store.database import Database
from mainspring.store.ownership import own

_PAGES = 2000  # copied at a time: writers get in between


def back_up(db: Database, path: str | os.PathLike[str]) -> int:
    """Copy the database as of one instant to the new file `path`; return its size in bytes.

    Raises ConflictError when the file exists, UnsupportedError on PostgreSQL, DiskFullError.
    """
    if db.is_postgres:
        raise UnsupportedError("PostgreSQL is backed up by its own tools.", hint="pg_dump --format=custom")
    target = Path(path)
    if os.path.exists(target):
        raise ConflictError(f"{target} exists already.", hint="Name another file.")
    partial = target.with_name(target.name + ".partial")
    try:
        _copy(Path(str(db.url.database)), partial)
        os.replace(partial, target)
        _sync_folder(target.parent)
    except sqlite3.OperationalError as wrong:
        if wrong.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
            raise DiskFullError(f"No space is left for {target}.", hint="Name a folder on another disk.") from wrong
        raise StoreError(f"{target} cannot be written: {wrong}.", hint="Is the folder there, and may it be written?") from wrong
    finally:
        with suppress(OSError):  # of a name that no file can have there is nothing to remove
            partial.unlink(missing_ok=True)
    return target.stat().st_size


def restore(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Put the backup `path` in place of the database `target`, which nobody may own meanwhile; the old one is kept beside it.

    Raises NotFoundError, and StoreError when the backup is damaged or `target` is owned.
    """
    source, goal = Path(path), Path(target)
    if not source.is_file():
        raise NotFoundError(f"There is no backup {source}.")
    with source.open("rb") as file:
        if file.read(5) == b"PGDMP":
            raise StoreError(f"{source} is a copy of a PostgreSQL database.", hint=f"pg_restore --dbname=NAME {source}")
    check_healthy(source, is_whole=True)
    if not _is_ours(source):
        raise StoreError(f"{source} is no backup of Mainspring.", hint="Name a file that mainspring backup wrote.")
    goal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = own(goal)
    try:
        partial = goal.with_name(goal.name + ".restoring")
        partial.unlink(missing_ok=True)
        _copy(source, partial)
        if goal.exists():
            _fold_log(goal)
            os.replace(goal, goal.with_name(goal.name + ".before-restore"))
        for suffix in ("-wal", "-shm"):  # they belong to the old file
            goal.with_name(goal.name + suffix).unlink(missing_ok=True)
        os.replace(partial, goal)
        _sync_folder(goal.parent)
    finally:
        held.release()


def check_healthy(path: Path, *, is_whole: bool) -> None:
    """Raise StoreError when the file is no database or a damaged one; `is_whole` reads every page of it."""
    try:
        connection = sqlite3.connect(path, timeout=10)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0] if is_whole else "ok"
        finally:
            connection.close()
    except sqlite3.OperationalError as wrong:
        raise StoreError(f"The database {path} cannot be read: {wrong}.", hint="Look at its rights and its folder's.") from wrong
    except sqlite3.DatabaseError as wrong:
        raise _damaged(path, str(wrong)) from wrong
    if found != "ok":
        raise _damaged(path, str(found).splitlines()[0])


def _is_ours(path: Path) -> bool:
    connection = sqlite3.connect(path, timeout=10)
    try:
        asked = "SELECT count(*) FROM sqlite_master WHERE name IN ('meta', 'alembic_version', 'runs')"
        return bool(connection.execute(asked).fetchone()[0] == 3)
    finally:
        connection.close()


def _damaged(path: Path, said: str) -> StoreError:
    return StoreError(f"The database {path} is damaged: {said}.", hint="Restore a backup: mainspring restore PATH")


def _copy(source: Path, target: Path) -> None:
    reading = sqlite3.connect(source, timeout=30)
    try:
        writing = sqlite3.connect(target)
        try:
            os.chmod(target, 0o600)  # it holds everything that the database holds
            reading.execute("BEGIN")  # one instant: without it, each write meanwhile would begin the copy again
            reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
            reading.backup(writing, pages=_PAGES)
        finally:
            writing.close()
    finally:
        reading.close()


def _fold_log(database: Path) -> None:
    """Bring what is in the write-ahead log of an unowned database into its file; a damaged one is kept as it is."""
    try:
        connection = sqlite3.connect(database)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        return


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
