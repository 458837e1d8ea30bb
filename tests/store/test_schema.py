"""Migrations with data in place, backups while writing, and what is forgotten when."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import engines.postgres
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, insert, select
from sqlalchemy.schema import CreateIndex

from mainspring.core.errors import ConflictError, NotFoundError, StoreError, UnsupportedError
from mainspring.core.health import Rules as HealthRules
from mainspring.core.health import judged, resumed
from mainspring.core.records import NodeState, Sweep, SweepSpec, Token, User
from mainspring.core.resources import DeviceShare
from mainspring.core.snapshot import Plan
from mainspring.core.specs import RunSpec, Value, ValueKind
from mainspring.store import NewEvent, tables
from mainspring.store.backup import restore
from mainspring.store.installation import parse_url
from mainspring.store.retention import Rules
from mainspring.store.schema import migrate, version_of, versions


def fill(world):
    """Write some of everything."""
    store, now = world.store, world.clock.now()
    store.users.add(User(name="ada", created_at=now, is_admin=True))
    store.tokens.add(Token(id="tok-1", user="ada", name="n", hash="h", created_at=now))
    node = world.node(gpus=1)
    run = world.run(tags=("a",), args={"x": Value(kind=ValueKind.NPY, digest="a" * 64)})
    decision = world.decision(run, (node, 100, (DeviceShare(index=0, milli=500),)))
    store.apply(Plan(fingerprint="f", decisions=(decision,)), now=now)
    attempt = store.attempts.of_run(run.id)[0]
    world.launch(attempt)
    store.attempts.append(attempt.id, 0, [("log", 0, b"hello" * 200), ("metrics", 0, b'["loss",1,0,1]\n')], now=now)
    queued = world.run("waits")
    store.events.append(NewEvent("ada", "k", queued.id, "default", {"deep": [1]}))
    store.datasets.add_version("p", "d", "b" * 64, size_bytes=1, files=1, created_by="ada")
    store.models.add_version("p", "m", "c" * 64, format="onnx", created_by="ada")
    store.models.set_alias("p", "m", "champion", 1)
    store.endpoints.deploy("p", "e", "m", 1, pool="lab", created_by="ada")
    spec = SweepSpec(template=RunSpec(command=("a",)), space=(), metric="m")
    store.sweeps.add(Sweep(id="sweep-1", project="p", name="s", owner="ada", spec=spec, created_at=now))
    store.key("secrets")
    return attempt, queued


def facts(store, attempt, queued, version="now"):
    """Return what a user would look at."""
    return (
        store.installation,
        store.key("secrets"),
        store.users.all(),
        store.tokens.all(),
        [replace(node, seen_at=None) for node in store.nodes.all()],
        [one if version >= "0005" else replace(one, share="") for one in store.nodes.open_allocations()],
        store.runs.get(queued.id),
        store.runs.get(attempt.run),
        store.attempts.get(attempt.id),
        store.logs.read(attempt.id, 0, "log"),
        store.metrics.summary(attempt.run),
        store.events.since(0),
        store.datasets.all("p"),
        store.models.versions("p", "m"),
        store.endpoints.all("p"),
        [
            one if version >= "0013" else replace(one, pool="")
            for each in store.endpoints.all("p")
            for one in store.endpoints.revisions(each.id)
        ],
        store.sweeps.all("p"),
    )


@pytest.mark.parametrize("version", versions()[:-1])
def test_every_version_is_migrated_up_with_its_data(empty_home, sqlite_source, world_of, version):
    source = world_of(sqlite_source.open())
    attempt, queued = fill(source)
    before = facts(source.store, attempt, queued, version)
    engine = create_engine(parse_url(empty_home.url))
    migrate(engine, to=version)
    copy_rows(sqlite_source.path, engine)
    engine.dispose()
    empty_home.ids = sqlite_source.ids  # fresh ones from here on
    store = empty_home.open()
    assert facts(store, attempt, queued, version) == before
    again = world_of(store)  # and it goes on from there
    assert again.run().seq == 3
    again.end(attempt)
    assert store.nodes.open_allocations() == []


def copy_rows(path: Path, engine) -> None:
    """Copy the rows of a database of today into one of an older version, as far as that knows their columns."""
    old = MetaData()
    old.reflect(engine)
    today = create_engine(f"sqlite:///{path}")
    now = MetaData()
    now.reflect(today)
    with today.connect() as reading, engine.begin() as writing:
        writing.execute(old.tables["counters"].delete())
        for table in old.sorted_tables:
            if table.name == "alembic_version":
                continue
            rows = reading.execute(select(*(now.tables[table.name].c[column.name] for column in table.c))).mappings().all()
            for row in rows:
                values = {name: bool(v) if str(table.c[name].type) == "BOOLEAN" else v for name, v in row.items()}
                writing.execute(insert(table).values(values))
    today.dispose()


def test_a_value_that_was_not_finite_keeps_its_meaning(empty_home):
    engine = create_engine(parse_url(empty_home.url))
    migrate(engine, to="0001")
    old = MetaData()
    old.reflect(engine)
    run = {"id": "run-1", "seq": 1, "project": "p", "name": "n", "owner": "o", "state": "queued", "desired": "run"}
    run |= {"created_at": 0, "tags": "[]", "avoid": "[]", "outputs": "{}", "spec": '{"command":["a"]}'}
    points = [
        {"run": "run-1", "name": "loss", "last": None, "count": 3},
        {"run": "run-1", "name": "acc", "last": 0.5, "count": 1},
    ]
    with engine.begin() as conn:
        conn.execute(insert(old.tables["runs"]).values(run))
        conn.execute(insert(old.tables["metrics"]).values(points))
    engine.dispose()
    summary = empty_home.open().metrics.summary("run-1")
    assert (summary["loss"]["last"], summary["acc"]["last"]) == ("nan", 0.5)


_SORTED = ("ix_runs_queued",)  # Alembic cannot compare the direction of a column


def _is_compared(_object, name, kind, _reflected, _other):
    return kind != "index" or name not in _SORTED


def test_the_migrations_make_what_the_tables_say(empty_home):
    empty_home.open().close()
    engine = create_engine(parse_url(empty_home.url))
    with engine.connect() as conn:
        assert version_of(conn) == versions()[-1]
        opts = {"compare_type": True, "compare_server_default": empty_home.is_postgres, "include_object": _is_compared}
        context = MigrationContext.configure(conn, opts=opts)
        assert compare_metadata(context, tables.metadata) == []
        asked = "SELECT indexdef FROM pg_indexes WHERE indexname = '{}'"
        if not empty_home.is_postgres:
            asked = "SELECT sql FROM sqlite_master WHERE name = '{}'"
        for name in _SORTED:
            made = conn.exec_driver_sql(asked.format(name)).scalar_one()
            assert "(project, owner, priority DESC, seq, id)" in made
            (said,) = (one for one in tables.runs.indexes if one.name == name)
            assert "(project, owner, priority DESC, seq, id)" in str(CreateIndex(said).compile(engine))
    engine.dispose()


def test_opening_again_changes_nothing(home, world_of):
    world = world_of(home.open())
    attempt, queued = fill(world)
    before = facts(world.store, attempt, queued)
    world.store.close()
    assert facts(home.open(), attempt, queued) == before


def test_processes_that_open_together_agree(empty_postgres_home):
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: empty_postgres_home.open(), range(4)))
    assert len({store.installation for store in stores}) == 1
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda store: store.key("secrets"), stores))) == 1


@contextmanager
def submitted_meanwhile(world):
    """Submit runs from two threads for as long as the block lasts; fails when one of them could not."""
    is_over, errors = threading.Event(), []

    def write():
        try:
            while not is_over.is_set():
                run = world.make(params={"x": "y" * 3000})
                world.store.runs.submit(run, event=NewEvent("a", "run.submitted", run.id))
        except Exception as wrong:
            errors.append(wrong)

    writers = [threading.Thread(target=write, daemon=True) for _ in range(2)]
    for writer in writers:
        writer.start()
    yield
    is_over.set()
    for writer in writers:
        writer.join(20)
    assert errors == []


def test_a_backup_while_writing_is_of_one_instant(sqlite_home, world_of, tmp_path):
    world = world_of(sqlite_home.open())
    fill(world)
    paths = [tmp_path / "backups" / f"{number}.db" for number in range(3)]
    paths[0].parent.mkdir()
    with submitted_meanwhile(world):
        sizes = [world.store.backup(path) for path in paths]
    assert sizes == [path.stat().st_size for path in paths]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["0.db", "1.db", "2.db"]
    for path in paths:
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (runs,) = connection.execute("SELECT max(seq) FROM runs").fetchone()
            (events,) = connection.execute("SELECT count(*) FROM events WHERE kind = 'run.submitted'").fetchone()
            (counted,) = connection.execute("SELECT value FROM counters WHERE name = 'runs'").fetchone()
            assert runs == counted == events + 2  # two runs of `fill` have no such event
    with pytest.raises(ConflictError):
        world.store.backup(paths[0])
    with pytest.raises(StoreError):
        world.store.backup(tmp_path / "nowhere" / "x.db")


def test_a_restored_backup_is_the_database_of_then(sqlite_home, world_of, tmp_path):
    world = world_of(sqlite_home.open())
    attempt, queued = fill(world)
    before = facts(world.store, attempt, queued)
    world.store.backup(tmp_path / "b.db")
    world.run("later")
    with pytest.raises(StoreError, match="owned"):
        restore(tmp_path / "b.db", sqlite_home.path)
    world.store.close()
    restore(tmp_path / "b.db", sqlite_home.path)
    store = sqlite_home.open()
    assert facts(store, attempt, queued) == before
    store.close()
    kept = sqlite_home.path.with_name(sqlite_home.path.name + ".before-restore")
    with sqlite3.connect(kept) as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE name = 'later'").fetchone() == (1,)


def test_a_bad_backup_replaces_nothing(sqlite_home, world_of, tmp_path):
    world = world_of(sqlite_home.open())
    run = world.run()
    world.store.close()
    (tmp_path / "bad.db").write_bytes(b"nonsense" * 1000)
    (tmp_path / "other.dump").write_bytes(b"PGDMP\x01\x0e")
    with pytest.raises(StoreError, match="PostgreSQL") as told:
        restore(tmp_path / "other.dump", sqlite_home.path)
    assert "pg_restore" in told.value.hint
    with pytest.raises(StoreError, match="damaged"):
        restore(tmp_path / "bad.db", sqlite_home.path)
    with pytest.raises(NotFoundError):
        restore(tmp_path / "none.db", sqlite_home.path)
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(StoreError, match="no backup"):
        restore(tmp_path / "other.db", sqlite_home.path)
    assert [r.run for r in sqlite_home.open().runs.waiting()] == [run.id]


def test_postgres_is_backed_up_by_its_own_tools(postgres_home, tmp_path):
    with pytest.raises(UnsupportedError, match="own tools"):
        postgres_home.open().backup(tmp_path / "x.db")


def test_what_those_tools_copied_while_writing_is_of_one_instant(postgres_home, empty_postgres_home, world_of, tmp_path):
    world = world_of(postgres_home.open())
    attempt, queued = fill(world)
    programs = engines.postgres.find()
    dump = tmp_path / "mainspring.dump"

    def call(program, *words):
        done = subprocess.run([programs / program, *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    with submitted_meanwhile(world):
        call("pg_dump", "--format=custom", f"--file={dump}", postgres_home.url.replace("+psycopg", ""))
    call("pg_restore", f"--dbname={empty_postgres_home.url.replace('+psycopg', '')}", "--no-owner", str(dump))
    empty_postgres_home.ids = postgres_home.ids  # fresh ones from here on
    store = empty_postgres_home.open()
    assert store.installation == world.store.installation
    assert (store.runs.get(queued.id), store.attempts.get(attempt.id)) == (queued, world.store.attempts.get(attempt.id))
    assert store.logs.read(attempt.id, 0, "log") == b"hello" * 200
    told = [one.subject for one in store.events.since(0, limit=100_000) if one.kind == "run.submitted"]
    assert {one.run for one in store.runs.waiting()} == {*told, queued.id}
    assert world_of(store).run().seq == len(told) + 3, "the next number follows the last one of then"
    assert world.run().seq > len(told) + 2, "more was written after that instant"


def test_rules_forget_what_is_old_and_nothing_else(world):
    store, day = world.store, timedelta(days=1)
    node = world.node()
    old = world.launch(world.start(world.run("old"), node))
    store.attempts.append(old.id, 0, [("log", 0, b"old"), ("metrics", 0, b'["a",1,0,1]\n')], now=world.clock.now())
    world.end(old)
    store.runs.edit(old.run, archived_at=world.clock.now())
    store.events.append(NewEvent("a", "old", "x"))
    open_still = world.start(world.run("open"), node)
    store.attempts.append(open_still.id, 0, [("log", 0, b"open")], now=world.clock.now())
    world.clock.move(10 * 86400)
    new = world.launch(world.start(world.run("new"), node))
    store.attempts.append(new.id, 0, [("log", 0, b"new")], now=world.clock.now())
    world.end(new)
    store.runs.edit(new.run, archived_at=world.clock.now())
    now = world.clock.now()
    assert store.retention.apply(now, Rules()) == {"logs": 0, "events": 0, "runs": 0}
    assert store.retention.apply(now, Rules(logs_days=5))["logs"] == 1
    assert [store.logs.read(a.id, 0, "log") for a in (old, open_still, new)] == [b"", b"open", b"new"]
    assert store.metrics.series(old.run, "a") == [(0, 1.0, 1.0)]
    assert (store.logs.size(old.id, 0, "log"), store.logs.size(new.id, 0, "log")) == (0, 3)
    assert store.retention.apply(now, Rules(events_days=5))["events"] > 0
    assert all(event.at > now - 5 * day for event in store.events.since(0))
    assert store.retention.apply(now, Rules(archived_days=5))["runs"] == 1
    assert store.runs.get(old.run) is None
    assert store.runs.get(new.run) is not None
    last = store.events.last_seq()
    assert store.events.append(NewEvent("a", "b", "c")).seq == last + 1
    assert store.retention.apply(now, Rules(logs_days=5, events_days=5, archived_days=5)) == {"logs": 0, "events": 0, "runs": 0}


def test_a_node_that_drained_before_reasons_were_kept_drains_on_and_is_resumed(empty_home):
    engine = create_engine(parse_url(empty_home.url))
    migrate(engine, to="0008")
    old = MetaData()
    old.reflect(engine)
    node = {"id": "n", "cluster": "c", "name": "n", "cpu_milli": 1000, "memory_bytes": 1, "state": "draining"}
    with engine.begin() as conn:
        conn.execute(insert(old.tables["clusters"]).values({"id": "c", "name": "c", "backend": "local", "config": "{}"}))
        conn.execute(insert(old.tables["nodes"]).values(node | {"devices": "[]", "labels": "{}", "used_devices": "[]"}))
    engine.dispose()
    store = empty_home.open()
    (found,) = store.nodes.all()
    assert (found.state, found.closures, found.symptoms, found.boot) == (NodeState.DRAINING, (), (), "")
    assert store.nodes.settle("n", lambda one: judged(one, [], HealthRules(), empty_home.clock.now())).state is NodeState.DRAINING
    assert store.nodes.settle("n", lambda one: resumed(one, now=empty_home.clock.now())).state is NodeState.READY
