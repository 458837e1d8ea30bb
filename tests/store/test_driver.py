"""Statements that are put off or asked ahead: they leave and find what they would have at once, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam, select, text, update

from mainspring.core.errors import ConflictError
from mainspring.core.records import Project
from mainspring.store import driver
from mainspring.store.columns import values_of
from mainspring.store.share_tables import durations
from mainspring.store.statements import Statement
from mainspring.store.tables import decisions, projects

AT = datetime(2026, 1, 5, 12, 0, 0, 123456, tzinfo=UTC)
NEW = Statement(projects.insert())
NAMES = Statement(select(projects.c.name).order_by(projects.c.name))
ALL = Statement(select(projects).order_by(projects.c.name))
CHANGE = Statement(update(projects).where(projects.c.name == bindparam("of")))
MEDIANS = Statement(durations.insert())
PLANS = Statement(decisions.insert())


def row(name: str, **more: object) -> dict[str, object]:
    return values_of(Project(name=name, created_at=AT), projects) | more


def names(store) -> list[str]:
    return [one["name"] for one in store._db.read(NAMES.rows)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    words=st.text(max_size=30),
    number=st.floats(allow_nan=False),
    data=st.binary(max_size=30),
    whole=st.integers(1 - 2**63, 2**63 - 1),  # the least of all is written as minus a number that has no room
    at=st.integers(-30_000_000_000, 220_000_000_000).map(lambda seconds: AT + timedelta(microseconds=seconds * 999_983)),
)
def test_what_is_put_off_is_written_as_what_is_told_now(store, words, number, data, whole, at):
    project, median = row("p", description=words, created_at=at), {"key": "k", "at": at, "median_s": number, "samples": (1.5,)}
    plan = {"id": whole, "at": at, "fingerprint": words, "plan": data, "base": whole, "snapshot": data}

    def write(tx, is_put_off):
        for statement, values in ((NEW, project), (MEDIANS, median), (PLANS, plan)):
            if is_put_off:
                statement.many(tx.conn, [values])
            else:
                statement.run(tx.conn, values)
        found = [tx.conn.execute(select(table)).all() for table in (projects, durations, decisions)]
        for table in (projects, durations, decisions):
            tx.conn.execute(table.delete())
        return found

    assert store._db.write(lambda tx: write(tx, True)) == store._db.write(lambda tx: write(tx, False))


def test_what_is_put_off_is_there_for_the_next_question_whoever_asks_it(store):
    def work(tx):
        NEW.many(tx.conn, [row("a")])
        first = NAMES.rows(tx.conn)
        NEW.many(tx.conn, [row("b")])
        second = tx.conn.execute(select(projects.c.name).order_by(projects.c.name)).scalars().all()
        NEW.many(tx.conn, [row("c")])
        return first, second, CHANGE.run(tx.conn, {"of": "c", "share": "s"})

    assert store._db.write(work) == ([{"name": "a"}], ["a", "b"], 1)
    assert names(store) == ["a", "b", "c"]


def test_what_an_error_leaves_put_off_is_not_written(store):
    def fails(tx):
        NEW.many(tx.conn, [row("a")])
        raise ConflictError("no")

    with pytest.raises(ConflictError, match="no"):
        store._db.write(fails)
    store._db.write(lambda tx: NEW.many(tx.conn, [row("b")]))
    assert names(store) == ["b"]


def test_what_goes_wrong_with_a_statement_that_was_put_off_is_its_own_callers(store):
    store._db.write(lambda tx: NEW.many(tx.conn, [row("there")]))
    works = [lambda tx, name=name: NEW.many(tx.conn, [row(name)]) for name in ("a", "there", "b", "there", "c")]
    found = store._db.write_all(works)
    assert [type(one) for one in found] == [type(None), ConflictError, type(None), ConflictError, type(None)]
    assert names(store) == ["a", "b", "c", "there"]
    with pytest.raises(ConflictError):  # alone: it is found at the commit
        store._db.write(works[1])
    assert names(store) == ["a", "b", "c", "there"]


def test_a_question_that_follows_gets_the_error_of_nobody_else(store):
    store._db.write(lambda tx: NEW.many(tx.conn, [row("there")]))
    found = store._db.write_all([lambda tx: NEW.many(tx.conn, [row("there")]), lambda tx: NAMES.rows(tx.conn)])
    assert isinstance(found[0], ConflictError)
    assert found[1] == [{"name": "there"}]


def test_an_answer_that_was_asked_ahead_is_of_its_moment_and_found_once(store):
    store._db.write(lambda tx: NEW.many(tx.conn, [row("a")]))

    def work(tx):
        for one in (NAMES, ALL):
            one.ahead(tx.conn)
        whole, first = ALL.rows(tx.conn), NAMES.rows(tx.conn)
        NEW.many(tx.conn, [row("b")])
        return whole, first, NAMES.rows(tx.conn)

    whole, first, second = store._db.write(work)
    assert [one["created_at"] for one in whole] == [AT]
    assert (first, second) == ([{"name": "a"}], [{"name": "a"}, {"name": "b"}])
    assert store._db.write(lambda tx: NAMES.ahead(tx.conn)) is None  # nobody asks for it
    store._db.write(lambda tx: NEW.many(tx.conn, [row("c")]))
    assert store._db.write(lambda tx: NAMES.rows(tx.conn)) == [{"name": one} for one in "abc"]


def test_readers_that_ask_ahead_see_one_instant(store):
    def ask(conn):
        NAMES.ahead(conn)
        first = ALL.rows(conn)
        done.wait()
        done.wait()
        return len(first), len(NAMES.rows(conn)), len(NAMES.rows(conn))

    def write():
        done.wait()
        store._db.write(lambda tx: NEW.many(tx.conn, [row("a")]))
        done.wait()

    done = Barrier(2, timeout=30)
    writer = Thread(target=write)
    writer.start()
    assert store._db.read(ask) == (0, 0, 0)
    writer.join()
    assert names(store) == ["a"]


def test_a_connection_that_died_before_loses_nothing_that_is_put_off(postgres_home, world_of):
    store = world_of(postgres_home.open()).store
    store._db.write(lambda tx: NEW.many(tx.conn, [row("a")]))
    ended = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid = :of")
    pid = store._db._writing.connection.driver_connection.info.backend_pid
    store._db.read(lambda conn: conn.execute(ended, {"of": pid}).all())
    store._db.write(lambda tx: NEW.many(tx.conn, [row("b")]))
    assert names(store) == ["a", "b"]


def test_a_crowd_costs_postgres_two_answers(postgres_home, world_of, monkeypatch):
    """One for what is read, with the begin, one for what is written, with the commit: not one for each statement."""
    store, told = world_of(postgres_home.open()).store, []
    tell = driver.tell_driver
    monkeypatch.setattr(driver, "tell_driver", lambda *args, **more: told.append(args[1]) or tell(*args, **more))

    def work(tx):
        NAMES.ahead(tx.conn)
        ALL.rows(tx.conn)
        for name in [one["name"] for one in NAMES.rows(tx.conn)] + ["x"]:
            NEW.many(tx.conn, [row(name + "b")])
            CHANGE.many(tx.conn, [{"of": name + "b", "share": "s"}])
        NEW.many(tx.conn, [row(f"c{n}") for n in range(5)])

    store._db.write(work)
    assert [one.split()[0] for one in told] == ["SELECT", "COMMIT"]
    monkeypatch.undo()
    assert len(names(store)) == 6
