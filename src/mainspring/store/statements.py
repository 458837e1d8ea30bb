"""Statements that are run all the time: laid out once, then given to the database's driver as they are.

To have SQLAlchemy find what it compiled, lay out the values and wrap the answer costs several times what SQLite takes to answer
(75 against 10 µs for a counter, 130 against 25 for a run), and more than PostgreSQL takes. Types, errors and transactions are as
with `Connection.execute`.
"""

from __future__ import annotations

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
_FLOAT8 = 701  # PostgreSQL's number for the only kind of numbers whose way depends on what it says of them


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
    _laid: dict[tuple[str, ...], _Laid] = field(default_factory=dict)  # by dialect, then names
    _readers: dict[str, tuple[tuple[str, Turn], ...]] = field(default_factory=dict)  # by dialect

    def run(self, conn: Connection, given: Mapping[str, Any]) -> int:
        """Run it once; return how many rows an update or a delete changed."""
        laid = self._for(conn.dialect, given)
        return int(_execute(conn, laid.text, laid.values(given)).rowcount)

    def many(self, conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it for each of `rows`, which name the same columns. No rows: nothing."""
        if rows:
            laid = self._for(conn.dialect, rows[0])
            _execute(conn, laid.text, [laid.values(row) for row in rows], is_many=True)

    def stored(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> list[tuple[Any, ...]]:
        """Run it and return its rows as they are stored: equal ones tell, without being read, that nothing changed."""
        laid = self._for(conn.dialect, given)
        return _all(_execute(conn, laid.text, laid.values(given)))

    def read(self, conn: Connection, row: Sequence[Any]) -> Row:
        """Return what a row that is stored so means, by name of column."""
        dialect = conn.dialect
        readers = self._readers.get(dialect.name)
        if readers is None:
            columns = self.asked.exported_columns
            readers = tuple((str(one.key), one.type.result_processor(dialect, _FLOAT8)) for one in columns)
            self._readers[dialect.name] = readers
        return {key: value if turn is None else turn(value) for (key, turn), value in zip(readers, row, strict=True)}

    def rows(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> list[Row]:
        """Run it and return its rows, by name of column."""
        return [self.read(conn, row) for row in self.stored(conn, given)]

    def alone(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> list[Row]:
        """As `rows`, on a connection that is in no transaction, without beginning one."""
        laid = self._for(conn.dialect, given)
        return [self.read(conn, row) for row in _all(tell_driver(conn, laid.text, laid.values(given)))]

    def row(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> Row | None:
        """Run it and return the one row that it has at most."""
        found = self.rows(conn, given)
        return found[0] if found else None

    def _for(self, dialect: Dialect, given: Mapping[str, Any]) -> _Laid:
        names = (dialect.name, *given)
        if names not in self._laid:
            self._laid[names] = _lay(self.asked, dialect, names[1:])
        return self._laid[names]


def _lay(asked: Asked, dialect: Dialect, names: Sequence[str]) -> _Laid:
    compiled: Any = asked.compile(dialect=dialect, column_keys=list(names) if isinstance(asked, Insert | Update) else None)
    if compiled.insert_prefetch or compiled.update_prefetch or any(one.expanding for one in compiled.binds.values()):
        raise TypeError(f"not for a statement with values of its own making: {compiled}")
    marks = ((name, compiled.binds[name]) for name in compiled.positiontup)
    return _Laid(str(compiled), tuple((name, _binding(one.type, dialect), one.effective_value) for name, one in marks))


def _binding(type: TypeEngine[Any], dialect: Dialect) -> Turn:
    return type.dialect_impl(dialect).bind_processor(dialect)


def _all(cursor: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [] if cursor.description is None else cursor.fetchall()
    return found


def _execute(conn: Connection, text: str, values: Sequence[Any], *, is_many: bool = False) -> Any:
    if not conn.in_transaction():
        conn.begin()  # as SQLAlchemy does by itself: all that one transaction reads is of one instant
    return tell_driver(conn, text, values, is_many=is_many)


def tell_driver(conn: Connection, text: str, values: Sequence[Any] = (), *, is_many: bool = False) -> Any:
    """Give the database's driver a text; return its cursor. Raises what SQLAlchemy would; a dead connection is let go."""
    driver: Any = conn.connection.driver_connection
    errors = conn.dialect.loaded_dbapi.Error
    cursor: Any = None
    try:
        cursor = driver.cursor()
        (cursor.executemany if is_many else cursor.execute)(text, values)
    except errors as wrong:
        is_lost = conn.dialect.is_disconnect(wrong, driver, cursor)
        if is_lost:
            conn.invalidate(wrong)
        raise exc.DBAPIError.instance(
            text, values, wrong, errors, dialect=conn.dialect, ismulti=is_many, connection_invalidated=is_lost
        ) from wrong
    return cursor
