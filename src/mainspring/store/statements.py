"""Statements that are run all the time: laid out once, then given to the database's driver as they are.

To have SQLAlchemy find what it compiled, lay out the values and wrap the answer costs several times what SQLite takes to answer
(75 against 10 µs for a counter, 130 against 25 for a run), and more than PostgreSQL takes. Types, errors and transactions are as
with `Connection.execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    BindParameter,
    Connection,
    Delete,
    Dialect,
    Float,
    Insert,
    LargeBinary,
    Select,
    Text,
    TextualSelect,
    Update,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
)
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlalchemy.sql.visitors import iterate, replacement_traverse
from sqlalchemy.types import TypeEngine

from mainspring.store.driver import ask_ahead, rows, tell_driver, tell_later

Asked = Select[Any] | TextualSelect | Insert | Update | Delete | ReturningInsert[Any] | ReturningUpdate[Any]
Turn = Callable[[Any], Any] | None
Row = dict[str, Any]
_NOTHING: Mapping[str, Any] = {}
_LISTED = 256  # ids in one question
_ROWS, _COUNT = "rows of all", "number of rows"
_ENCODE = msgspec.json.Encoder().encode
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


@dataclass(frozen=True, slots=True)
class _Crowd:
    """A statement that PostgreSQL runs for any number of rows at once: they come as one JSON text.

    Its driver sends each row by itself otherwise, and gives the interpreter's lock away and takes it again for each.
    """

    text: str
    bound: Mapping[str, Any]  # what it binds, in order; the rows and their number are yet to come
    floats: tuple[str, ...]  # JSON has no word for infinity

    def run(self, conn: Connection, names: Sequence[str], values: Sequence[Sequence[Any]]) -> bool:
        """Run it; False, and nothing is done, where a value has no word in JSON."""
        rows = [dict(zip(names, row, strict=True)) for row in values]
        if any(row[name] is not None and not isfinite(row[name]) for name in self.floats for row in rows):
            return False
        given = {**self.bound, _ROWS: _ENCODE(rows).decode(), _COUNT: len(rows)}
        _execute_later(conn, self.text, list(given.values()))
        return True


@dataclass(slots=True, eq=False)
class Statement:
    """A statement made once, with named values. Columns of inserts and updates are those that are given, as in SQLAlchemy."""

    asked: Asked
    _laid: dict[tuple[str, ...], _Laid] = field(default_factory=dict)  # by dialect, then names
    _readers: dict[str, tuple[tuple[str, Turn], ...]] = field(default_factory=dict)  # by dialect
    _crowds: dict[tuple[str, ...], _Crowd | None] = field(default_factory=dict)  # by names

    def run(self, conn: Connection, given: Mapping[str, Any]) -> int:
        """Run it once; return how many rows an update or a delete changed."""
        laid = self._for(conn.dialect, given)
        return int(_execute(conn, laid.text, laid.values(given)).rowcount)

    def many(self, conn: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Run it for each of `rows`, which concern different rows of the table; those that name the same columns go together.

        On PostgreSQL it may travel with the next statement: what goes wrong is raised there, or at the commit.
        """
        alike: dict[int, tuple[_Laid, list[Mapping[str, Any]]]] = {}
        for row in rows:
            laid = self._for(conn.dialect, row)
            alike.setdefault(id(laid), (laid, []))[1].append(row)
        for laid, mine in alike.values():
            values = [laid.values(row) for row in mine]
            if len(values) == 1:
                _execute_later(conn, laid.text, values[0])
            elif conn.dialect.name != "postgresql" or not self._crowd(conn, laid, mine[0], values):
                _execute(conn, laid.text, values, is_many=True)

    def _crowd(self, conn: Connection, laid: _Laid, given: Mapping[str, Any], values: Sequence[Sequence[Any]]) -> bool:
        """Run it for all rows as one statement; False where a value cannot travel so."""
        names = tuple(given)
        if names not in self._crowds:
            self._crowds[names] = _lay_crowd(self.asked, conn.dialect, names)
        crowd = self._crowds[names]
        return crowd is not None and crowd.run(conn, [name for name, _, _ in laid.marks], values)

    def stored(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> list[tuple[Any, ...]]:
        """Run it and return its rows as they are stored: equal ones tell, without being read, that nothing changed."""
        laid = self._for(conn.dialect, given)
        _begin(conn)
        return rows(conn, laid.text, laid.values(given))

    def ahead(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> None:
        """Ask it together with all that are asked ahead; `stored` and what builds on it find the answer, of this moment, there.

        Only makes what follows faster. Not for rows that the transaction writes before it reads them.
        """
        laid = self._for(conn.dialect, given)
        _begin(conn)
        ask_ahead(conn, laid.text, laid.values(given))

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
        return [self.read(conn, row) for row in rows(conn, laid.text, laid.values(given))]

    def row(self, conn: Connection, given: Mapping[str, Any] = _NOTHING) -> Row | None:
        """Run it and return the one row that it has at most."""
        found = self.rows(conn, given)
        return found[0] if found else None

    def _for(self, dialect: Dialect, given: Mapping[str, Any]) -> _Laid:
        names = (dialect.name, *given)
        if names not in self._laid:
            self._laid[names] = _lay(self.asked, dialect, names[1:])
        return self._laid[names]


@dataclass(slots=True, eq=False)
class Listed:
    """A question about some ids, laid out once for one, two, four, eight ... of them: the last one is asked again to fill up."""

    ask: Callable[[Sequence[BindParameter[Any]]], Select[Any]]
    _sized: dict[int, Statement] = field(default_factory=dict)

    def rows(self, conn: Connection, ids: Sequence[str]) -> list[Row]:
        """Return the rows of all `ids`, in the order of the question if it has one and the ids are not too many for one."""
        return [row for statement, given in self._asked(ids) for row in statement.rows(conn, given)]

    def ahead(self, conn: Connection, ids: Sequence[str]) -> None:
        """Ask it ahead, as `Statement.ahead`."""
        for statement, given in self._asked(ids):
            statement.ahead(conn, given)

    def _asked(self, ids: Sequence[str]) -> Iterator[tuple[Statement, dict[str, str]]]:
        for start in range(0, len(ids), _LISTED):
            some = ids[start : start + _LISTED]
            size = 1 << (len(some) - 1).bit_length()
            yield self._of(size), {f"id{n}": some[min(n, len(some) - 1)] for n in range(size)}

    def _of(self, size: int) -> Statement:
        if size not in self._sized:
            self._sized[size] = Statement(self.ask([bindparam(f"id{n}") for n in range(size)]))
        return self._sized[size]


def _lay(asked: Asked, dialect: Dialect, names: Sequence[str]) -> _Laid:
    compiled: Any = asked.compile(dialect=dialect, column_keys=list(names) if isinstance(asked, Insert | Update) else None)
    if compiled.insert_prefetch or compiled.update_prefetch or any(one.expanding for one in compiled.binds.values()):
        raise TypeError(f"not for a statement with values of its own making: {compiled}")
    marks = ((name, compiled.binds[name]) for name in compiled.positiontup)
    return _Laid(str(compiled), tuple((name, _binding(one.type, dialect), one.effective_value) for name, one in marks))


def _lay_crowd(asked: Asked, dialect: Dialect, names: Sequence[str]) -> _Crowd | None:
    """Return the statement with the rows of a JSON text in place of the named values; None where a type has no word there."""
    if not isinstance(asked, Insert | Update):
        return None
    compiled: Any = asked.compile(dialect=dialect, column_keys=list(names))
    types = {name: compiled.binds[name].type for name in compiled.positiontup if name in names}
    if any(isinstance(one.dialect_impl(dialect), LargeBinary) for one in types.values()):
        return None
    text: Any = cast(bindparam(_ROWS, type_=Text), JSON)
    rows = func.json_to_recordset(text).table_valued(*(column(name, type) for name, type in types.items()))
    told = select(*rows.render_derived(with_types=True).c)
    new = told.limit(bindparam(_COUNT)).subquery("new").c  # else it expects a hundred, and rather looks the whole table through
    values = {one.key: new[one.key] for one in asked.table.c if one.key in types}
    laid: Any
    if isinstance(asked, Insert):
        given: Mapping[Any, Any] = asked._values or {}  # there is no other way to them
        values |= {str(getattr(one, "key", one)): new[value.key] for one, value in given.items()}
        laid = insert(asked.table).from_select(list(values), select(*values.values()), include_defaults=False)
    else:
        named = {one.key for one in iterate(asked) if isinstance(one, BindParameter)}

        def of_row(element: Any, **_: Any) -> Any:
            return new[element.key] if isinstance(element, BindParameter) and element.key in types else None

        changed = {key: one for key, one in values.items() if key not in named}
        laid = replacement_traverse(asked.values(changed) if changed else asked, {}, of_row)
    done: Any = laid.compile(dialect=dialect)
    bound = {name: done.binds[name].effective_value for name in done.positiontup}
    return _Crowd(str(done), bound, tuple(name for name, type in types.items() if isinstance(type.dialect_impl(dialect), Float)))


def _binding(type: TypeEngine[Any], dialect: Dialect) -> Turn:
    return type.dialect_impl(dialect).bind_processor(dialect)


def _execute(conn: Connection, text: str, values: Sequence[Any], *, is_many: bool = False) -> Any:
    _begin(conn)
    return tell_driver(conn, text, values, is_many=is_many)


def _execute_later(conn: Connection, text: str, values: Sequence[Any]) -> None:
    _begin(conn)
    tell_later(conn, text, values)


def _begin(conn: Connection) -> None:
    if not conn.in_transaction():
        conn.begin()  # as SQLAlchemy does by itself: all that one transaction reads is of one instant
