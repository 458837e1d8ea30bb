"""Statements that skip SQLAlchemy's way: the same rows, types, errors and transactions as on it, on both databases."""

from __future__ import annotations

import importlib
import pkgutil
from datetime import UTC, datetime

import pytest
from sqlalchemy import bindparam, select, update
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.sql.visitors import iterate

import mainspring.store
from mainspring.core.errors import ConflictError
from mainspring.core.records import Project, Role
from mainspring.store.columns import values_of
from mainspring.store.share_tables import durations
from mainspring.store.statements import Listed, Statement
from mainspring.store.tables import projects

AT = datetime(2026, 1, 5, 12, 0, 0, 123456, tzinfo=UTC)
NEW = Statement(projects.insert())
BY_NAME = Statement(select(projects).where(projects.c.name == bindparam("of")))
CHANGE = Statement(update(projects).where(projects.c.name == bindparam("of")))
MOVE = Statement(
    update(projects).where(projects.c.created_at <= bindparam("before")).values(share="moved").returning(projects.c.name)
)
ALL = Statement(select(projects).order_by(projects.c.name))


def row(name: str, **more: object) -> dict[str, object]:
    return values_of(Project(name=name, created_at=AT, description="d\x00", priority_role=Role.EDITOR), projects) | more


def on_the_way(store, asked: Statement, given: dict[str, object]) -> list[dict[str, object]]:
    return store._db.read(lambda conn: [dict(one) for one in conn.execute(asked.asked, given).mappings()])


def test_what_is_written_and_read_is_what_sqlalchemy_writes_and_reads(store):
    store._db.write(lambda tx: NEW.run(tx.conn, row("a")))
    store._db.write(lambda tx: tx.conn.execute(projects.insert(), row("b")))
    store._db.write(lambda tx: NEW.many(tx.conn, [row("c"), row("d")]))
    read = store._db.read(ALL.rows)
    assert read == on_the_way(store, ALL, {})
    assert [one["name"] for one in read] == ["a", "b", "c", "d"]
    assert {(one["created_at"], one["description"], one["priority_role"]) for one in read} == {(AT, "d\ufffd", Role.EDITOR)}
    assert store._db.read(lambda conn: BY_NAME.row(conn, {"of": "c"})) == read[2]
    assert store._db.read(lambda conn: BY_NAME.row(conn, {"of": "x"})) is None


def test_an_update_sets_the_columns_that_it_is_given_and_tells_how_many_rows(store):
    store._db.write(lambda tx: NEW.many(tx.conn, [row("a"), row("b")]))
    assert store._db.write(lambda tx: CHANGE.run(tx.conn, {"of": "a", "share": "s"})) == 1
    assert store._db.write(lambda tx: CHANGE.run(tx.conn, {"of": "b", "description": "e", "share": "t"})) == 1
    assert store._db.write(lambda tx: CHANGE.run(tx.conn, {"of": "x", "share": "s"})) == 0
    found = [(one["name"], one["share"], one["description"]) for one in store._db.read(ALL.rows)]
    assert found == [("a", "s", "d\ufffd"), ("b", "t", "e")]
    assert store._db.write(lambda tx: MOVE.rows(tx.conn, {"before": AT})) == [{"name": "a"}, {"name": "b"}]
    assert store._db.write(lambda tx: MOVE.rows(tx.conn, {"before": AT.replace(year=2000)})) == []


AWKWARD = ["", "'; --", '"\\u0000\\n"', "\U0001f680\u2028", "d\x00", "a\tb\\", "\udcff"]


def test_many_rows_are_written_as_each_alone_is(store):
    alone = [row(f"alone{n}", description=text) for n, text in enumerate(AWKWARD)]
    store._db.write(lambda tx: [NEW.run(tx.conn, one) for one in alone])
    store._db.write(lambda tx: NEW.many(tx.conn, [one | {"name": f"many{n}"} for n, one in enumerate(alone)]))
    found = {one["name"]: one for one in store._db.read(ALL.rows)}
    assert [found[f"many{n}"] | {"name": f"alone{n}"} for n in range(len(alone))] == [found[one["name"]] for one in alone]


def test_many_changes_concern_the_rows_that_they_name_and_keep_what_the_statement_says_itself(store):
    store._db.write(lambda tx: NEW.many(tx.conn, [row(name) for name in "abcd"]))
    moved = Statement(update(projects).where(projects.c.name == bindparam("of")).values(share="moved"))
    changes = [{"of": "a", "description": "1"}, {"of": "b", "description": "2"}, {"of": "x", "description": "3"}]
    store._db.write(lambda tx: moved.many(tx.conn, [*changes, {"of": "c", "priority_role": Role.VIEWER}]))
    found = [(one["name"], one["share"], one["description"], one["priority_role"]) for one in store._db.read(ALL.rows)]
    assert found == [
        ("a", "moved", "1", Role.EDITOR),
        ("b", "moved", "2", Role.EDITOR),
        ("c", "moved", "d\ufffd", Role.VIEWER),
        ("d", "", "d\ufffd", Role.EDITOR),
    ]


@pytest.mark.parametrize("odd", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf")])
def test_many_numbers_are_exact_also_those_that_json_has_no_word_for(store, odd):
    new = Statement(durations.insert())
    rows = [{"key": key, "at": AT, "median_s": value, "samples": (1.5,)} for key, value in (("a", odd), ("b", 2.0))]
    store._db.write(lambda tx: new.many(tx.conn, rows))
    asked = select(durations.c.median_s).order_by(durations.c.key)
    assert store._db.read(lambda conn: conn.execute(asked).scalars().all()) == [odd, 2.0]


def test_ids_are_asked_for_in_any_number(store):
    names = [f"p{n:04}" for n in range(600)]
    store._db.write(lambda tx: NEW.many(tx.conn, [row(name) for name in names]))
    some = Listed(lambda ids: select(projects.c.name).where(projects.c.name.in_(ids)).order_by(projects.c.name))
    for count in (0, 1, 2, 3, 5, 255, 256, 257, 600):
        assert [one["name"] for one in store._db.read(lambda conn, n=count: some.rows(conn, [*names[:n], "none"]))] == names[
            :count
        ]


def test_rows_that_are_stored_alike_are_equal_and_can_be_read_later(store):
    store._db.write(lambda tx: NEW.run(tx.conn, row("a")))
    before, after = store._db.read(ALL.stored), store._db.read(ALL.stored)
    assert before == after
    assert store._db.read(lambda conn: ALL.read(conn, before[0])) == store._db.read(ALL.rows)[0]
    store._db.write(lambda tx: CHANGE.run(tx.conn, {"of": "a", "share": "s"}))
    assert store._db.read(ALL.stored) != before


def test_errors_are_told_as_everywhere_and_undo_the_callers_work_alone(store):
    store._db.write(lambda tx: NEW.run(tx.conn, row("a")))

    def twice(tx):
        NEW.run(tx.conn, row("b"))
        NEW.run(tx.conn, row("a"))

    with pytest.raises(ConflictError):
        store._db.write(twice)
    assert [one["name"] for one in store._db.read(ALL.rows)] == ["a"]


def test_all_that_one_read_sees_is_of_one_instant(store):
    store._db.write(lambda tx: NEW.run(tx.conn, row("a")))

    def look(conn):
        before = ALL.rows(conn)
        store._db.write(lambda tx: NEW.run(tx.conn, row("b")))
        return before, ALL.rows(conn)

    before, after = store._db.read(look)
    assert before == after
    assert len(store._db.read(ALL.rows)) == 2


def test_none_has_a_list_of_unknown_length_in_it():
    """Such a list is laid out anew for each length, by SQLAlchemy."""
    found = 0
    for module in pkgutil.iter_modules(mainspring.store.__path__):
        if module.ispkg:
            continue
        for name, one in vars(importlib.import_module(f"mainspring.store.{module.name}")).items():
            if isinstance(one, Statement):
                lists = [bind for bind in iterate(one.asked) if isinstance(bind, BindParameter) and bind.expanding]
                assert not lists, f"{module.name}.{name}"
                found += 1
    assert found > 40


def test_a_row_is_read_by_any_statement_that_has_its_columns(store):
    """What one statement found, another one reads, though it never asked itself."""
    store._db.write(lambda tx: NEW.run(tx.conn, row("a")))
    other = Statement(select(projects).where(projects.c.name != ""))
    assert store._db.read(lambda conn: [other.read(conn, one) for one in ALL.stored(conn)]) == store._db.read(ALL.rows)
