"""What a database's driver is told, past SQLAlchemy: types, errors and transactions are as with `Connection.execute`.

On PostgreSQL several statements travel as one text. Each answer that is waited for costs the interpreter's lock, which other
threads take meanwhile. So a statement whose answer nobody needs, or not yet, is put off: it travels with the next one that is
asked, or with the commit. The driver lays the values into such a text, each by its own rules of quotation. (Its pipeline would
do as well, but ends with a word that has PostgreSQL forget to end a transaction whose process stopped.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, event, exc

Told = tuple[str, tuple[Any, ...]]
Rows = list[tuple[Any, ...]]
_LATER = "mainspring.later"
_COMMIT = "COMMIT"


@dataclass(slots=True)
class _Later:
    """What was put off on a connection, in the order in which it was told, and answers that nobody has asked for yet."""

    told: list[Told] = field(default_factory=list)
    ahead: set[Told] = field(default_factory=set)  # of `told`: their answers are wanted
    answers: dict[Told, Rows] = field(default_factory=dict)

    def forget(self) -> None:
        """Leave all of it out."""
        self.told.clear()
        self.ahead.clear()
        self.answers.clear()


def put_off(engine: Engine) -> None:
    """Let statements of this engine's connections wait for the next one. What SQLAlchemy executes itself sends them before."""

    def connect(_driver: Any, record: Any) -> None:
        record.info[_LATER] = _Later()

    def execute(conn: Connection, *_: object) -> None:
        settle(conn)

    def commit(conn: Connection) -> None:
        later: _Later = conn.info[_LATER]
        find_alive(conn)
        if later.told:
            tell_driver(conn, _COMMIT)
        later.forget()

    def rollback(conn: Connection) -> None:
        if not conn.invalidated:
            forget(conn)

    event.listen(engine, "connect", connect)
    event.listen(engine, "before_cursor_execute", execute)
    event.listen(engine, "commit", commit)
    event.listen(engine, "rollback", rollback)


def tell_later(conn: Connection, text: str, values: Sequence[Any] = ()) -> None:
    """Give the driver a text whose answer nobody needs: with the next one where the connection can, now where it cannot.

    What goes wrong with it is raised by the next one, `settle` or the commit.
    """
    later: _Later | None = conn.info.get(_LATER)
    if later is None:
        tell_driver(conn, text, values)
    else:
        later.told.append((text, tuple(values)))


def ask_ahead(conn: Connection, text: str, values: Sequence[Any]) -> None:
    """Have `rows` find the answer to a question already there, with those of all that are asked ahead: in one text.

    Nothing where the connection cannot. The answer is of this moment: not for what the transaction writes before it reads it.
    """
    later: _Later | None = conn.info.get(_LATER)
    if later is not None:
        told = (text, tuple(values))
        later.told.append(told)
        later.ahead.add(told)


def rows(conn: Connection, text: str, values: Sequence[Any]) -> Rows:
    """Return the rows of a text, asked ahead or now. Raises what `tell_driver` does."""
    later: _Later | None = conn.info.get(_LATER)
    if later is not None and (later.ahead or later.answers):
        told = (text, tuple(values))
        if told in later.ahead:
            settle(conn)
        if told in later.answers:
            return later.answers.pop(told)
    return _all(tell_driver(conn, text, values))


def forget(conn: Connection) -> None:
    """Leave out what was put off, and what was asked ahead."""
    later: _Later | None = conn.info.get(_LATER)
    if later is not None:
        later.forget()


def settle(conn: Connection) -> None:
    """Send what was put off; returns when all of it is done. Raises what `tell_driver` does."""
    later: _Later | None = conn.info.get(_LATER)
    if later is not None and later.told:
        last = later.told.pop()
        found = tell_driver(conn, *last)
        if last in later.ahead:
            later.ahead.discard(last)
            later.answers[last] = _all(found)


def find_alive(conn: Connection) -> None:
    """Send what was put off where even the begin of the transaction is.

    A connection that had died before has then committed nothing. That cannot be known once it is asked to commit.
    """
    later: _Later | None = conn.info.get(_LATER)
    if later is not None and later.told and later.told[0][0].startswith("BEGIN"):
        settle(conn)


def tell_driver(conn: Connection, text: str, values: Sequence[Any] = (), *, is_many: bool = False) -> Any:
    """Give the driver a text, after what was put off; return its cursor with the answer.

    Raises what SQLAlchemy would; a dead connection is let go.
    """
    if is_many:
        settle(conn)
    later: _Later | None = conn.info.get(_LATER)
    before = later.told if later is not None else ()
    driver: Any = conn.connection.driver_connection
    errors = conn.dialect.loaded_dbapi.Error
    try:
        if later is not None and later.told:
            return _together(conn, driver, later, (text, values))
        cursor = driver.cursor()
        (cursor.executemany if is_many else cursor.execute)(text, values)
        return cursor
    except errors as wrong:
        is_lost = conn.dialect.is_disconnect(wrong, driver, None)
        if is_lost:
            conn.invalidate(wrong)
        told = "; ".join((*(one for one, _ in before), text))
        raise exc.DBAPIError.instance(
            told, values, wrong, errors, dialect=conn.dialect, ismulti=is_many, connection_invalidated=is_lost
        ) from wrong


def _together(conn: Connection, driver: Any, later: _Later, last: tuple[str, Sequence[Any]]) -> Any:
    """Give the driver what was put off and a last one, as one text; keep the answers that are wanted."""
    before = tuple(later.told)
    cursor = conn.dialect.loaded_dbapi.ClientCursor(driver)
    cursor.execute("; ".join([cursor.mogrify(*one) for one in (*before, last)]))
    later.told.clear()
    for one in before:
        if one in later.ahead:
            later.ahead.discard(one)
            later.answers[one] = _all(cursor)
        cursor.nextset()
    return cursor


def _all(cursor: Any) -> Rows:
    found: Rows = [] if cursor.description is None else cursor.fetchall()
    return found
