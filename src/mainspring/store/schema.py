"""The schema's version: migrated up at opening, refused when it is newer than this program."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from mainspring.core.errors import StoreError

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x6D61696E  # "main": two processes that start together on one PostgreSQL migrate one after the other


def migrate(engine: Engine, *, to: str = "head") -> None:
    """Bring the schema up to version `to`, all or nothing. Raises StoreError when it is newer than this program."""
    with engine.begin() as conn:
        stand_in_line(conn)
        here = version_of(conn)
        known = versions()
        if here and here not in known:
            raise StoreError(
                f"The database has the schema version {here}, which is newer than this program knows ({known[-1]}).",
                hint="Update Mainspring, or restore an older backup.",
                details={"found": here, "known": known[-1]},
            )
        if here == (known[-1] if to == "head" else to):
            return
        config = _config()
        config.attributes["connection"] = conn
        command.upgrade(config, to)


def stand_in_line(conn: Connection) -> None:
    """Wait on PostgreSQL until no other process opens the same database; the place in line is left at the commit."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def version_of(conn: Connection) -> str:
    """Return the version of the schema that is there, or an empty string for none."""
    return MigrationContext.configure(conn).get_current_revision() or ""


@cache
def versions() -> tuple[str, ...]:
    """Return all versions that this program knows, oldest first."""
    scripts = ScriptDirectory.from_config(_config())
    return tuple(script.revision for script in scripts.walk_revisions())[::-1]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.set_main_option("path_separator", "os")
    return config
