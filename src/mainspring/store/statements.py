"""Statements that are run all the time: laid out once, then given to SQLite's driver as they are.

To have SQLAlchemy find what it compiled, lay out the values and wrap the answer costs several times what SQLite takes to answer
(75 against 10 µs for a counter, 130 against 25 for a run). Types, errors and transactions are as with `Connection.execute`, which
other databases are asked through: there the way to the server is most of the time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Delete, Dialect, Insert, Select, TextualSelect, Update, exc
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlalchemy.types import TypeEngine

Asked = Select[Any] | TextualSelect | Insert | Update | Delete | ReturningInsert[Any] | ReturningUpdate[Any]
Turn = Callable[[Any], Any] | None
Row = dict[str, Any]
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class _Laid:
    """A statement for one set of named values: its text, and in the order of its marks each name, its type's way, its default."""

    text: str
    marks: tuple[tuple[str, Turn, Any], ...]

    def values(self, given: Mapping[str, Any]) -> list[Any]:
        """Return what the driver binds. What is not given has the value that it has in the statement."""
        found = []
        for name, turn, otherwise in self.marks:
            value = given.get(name, otherwise)
            found.append(value if turn is None else turn(value))
        return found


@dataclass(slots=True, eq=False)
class Statement:
    """A statement made once, with named values. Columns of inserts and updates are those that are given, as in SQLAlchemy."""

    asked: Asked
    _laid: dict[tuple[str, ...], _Laid] = field(default_factory=dict)
    _readers: tuple[tuple[str, Turn], ...] | None = None

    def run(self, conn: Connection, given: Mapping[str, Any]) -> int:
        """Run it once; return how many rows an update or a delete changed."""
        if conn.dialect.name != "sqlite":
            return conn.execute(self.asked, dict(given)).rowcount
        laid = self._for(conn.dialect, given)
        return int(_execute(conn, laid.text, laid.values(given)).rowcount)

    def many(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it for each of `rows`, which name the same columns. No rows: nothing."""
        if not rows:
            return
        if conn.dialect.name != "sqlite":
            conn.execute(self.asked, [dict(row) for row in rows])
            return
        laid = self._for(conn.dialect, rows[0])
        _execute(conn, laid.text, [laid.values(row) for row in rows], is_many=True)

    def stored(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> list[tuple[Any, ...]]:
        """Run it and return its rows as they are stored: equal ones tell, without being read, that nothing changed."""
        if conn.dialect.name != "sqlite":
            with conn.execute(self.asked, dict(given)) as result:
                return [] if result.cursor is None else list(result.cursor.fetchall())
        laid = self._for(conn.dialect, given)
        return _execute(conn, laid.text, laid.values(given)).fetchall()

    def read(self, conn: Connection, row: Sequence[Any]) -> Row:
        """Return what a row that is stored so means, by name of column."""
        if self._readers is None:
            columns = self.asked.exported_columns
            self._readers = tuple((str(one.key), _reading(one.type, conn.dialect)) for one in columns)
        return {key: value if turn is None else turn(value) for (key, turn), value in zip(self._readers, row, strict=True)}

    def rows(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> list[Row]:
        """Run it and return its rows, by name of column."""
        if conn.dialect.name != "sqlite":
            return [dict(row) for row in conn.execute(self.asked, dict(given)).mappings()]
        return [self.read(conn, row) for row in self.stored(conn, given)]

    def alone(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> list[Row]:
        """As `rows`, on a connection that is in no transaction, and on SQLite without beginning one."""
        if conn.dialect.name != "sqlite":
            return self.rows(conn, given)
        laid = self._for(conn.dialect, given)
        return [self.read(conn, row) for row in tell_driver(conn, laid.text, laid.values(given)).fetchall()]

    def row(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> Row | None:
        """Run it and return the one row that it has at most."""
        found = self.rows(conn, given)
        return found[0] if found else None

    def _for(self, dialect: Dialect, given: Mapping[str, Any]) -> _Laid:
        names = tuple(given)
        if names not in self._laid:
            self._laid[names] = _lay(self.asked, dialect, names)
        return self._laid[names]


def _lay(asked: Asked, dialect: Dialect, names: Sequence[str]) -> _Laid:
    compiled: Any = asked.compile(dialect=dialect, column_keys=list(names) if isinstance(asked, Insert | Update) else None)
    if compiled.insert_prefetch or compiled.update_prefetch or any(one.expanding for one in compiled.binds.values()):
        raise TypeError(f"not for a statement with values of its own making: {compiled}")
    marks = ((name, compiled.binds[name]) for name in compiled.positiontup)
    return _Laid(str(compiled), tuple((name, _binding(one.type, dialect), one.effective_value) for name, one in marks))


def _binding(type: TypeEngine[Any], dialect: Dialect) -> Turn:
    return type.dialect_impl(dialect).bind_processor(dialect)


def _reading(type: TypeEngine[Any], dialect: Dialect) -> Turn:
    return type.result_processor(dialect, None)


def _execute(conn: Connection, text: str, values: Sequence[Any], *, is_many: bool = False) -> sqlite3.Cursor:
    if not conn.in_transaction():
        conn.begin()  # as SQLAlchemy does by itself: all that one transaction reads is of one instant
    return tell_driver(conn, text, values, is_many=is_many)


def tell_driver(conn: Connection, text: str, values: Sequence[Any] = (), *, is_many: bool = False) -> sqlite3.Cursor:
    """Give SQLite's driver a text. Raises what SQLAlchemy would."""
    driver: Any = conn.connection.driver_connection
    try:
        cursor: sqlite3.Cursor = driver.executemany(text, values) if is_many else driver.execute(text, values)
    except sqlite3.Error as wrong:
        raise exc.DBAPIError.instance(text, values, wrong, sqlite3.Error, dialect=conn.dialect, ismulti=is_many) from wrong
    return cursor
