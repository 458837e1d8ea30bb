"""The door itself: ownership, group commit, faults of the file, the disk and the caller."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mainspring.core.errors import DiskFullError, NotFoundError, StoreError, UsageError
from mainspring.core.records import Desired
from mainspring.store import NewEvent
from mainspring.store.installation import parse_url
from mainspring.store.ownership import kind_of, network_kind, refuse_network_folder

KILLED = """
import random, sys, time
from datetime import UTC, datetime
from mainspring.core.ids import make_id
from mainspring.core.records import Run
from mainspring.core.specs import RunSpec
from mainspring.store import NewEvent, Store

class Clock:
    def now(self): return datetime.now(UTC)
    def monotonic(self): return time.monotonic()

class Ids:
    def new(self, kind): return make_id(kind, int(time.time() * 1000), random.randrange(2**35))

clock, ids = Clock(), Ids()
store = Store.open(sys.argv[1], clock=clock, ids=ids)
while True:
    id = ids.new("run")
    run = Run(id=id, project="p", name="n", owner="o", spec=RunSpec(command=("a",)), seq=0, created_at=clock.now())
    store.runs.submit(run, event=NewEvent("o", "run.submitted", id))
    print(id, flush=True)
"""


def test_a_second_owner_is_refused_and_told_who_the_first_is(sqlite_home):
    store = sqlite_home.open()
    with pytest.raises(StoreError, match=f"pid {os.getpid()}") as refused:
        sqlite_home.open()
    assert refused.value.details["owner"]["pid"] == os.getpid()
    store.close()
    assert sqlite_home.open().runs.counts() == {}


def test_a_new_owner_may_wait_for_the_old_one(sqlite_home):
    store = sqlite_home.open()
    timer = threading.Timer(0.2, store.close)
    timer.start()
    again = sqlite_home.open(lock_wait_s=20)
    timer.join()
    assert again.installation


def test_an_owner_whose_lock_was_deleted_writes_nothing_more(sqlite_home, world_of):
    old = world_of(sqlite_home.open())
    Path(str(sqlite_home.path) + ".lock").unlink()
    new = world_of(sqlite_home.open())
    with pytest.raises(StoreError, match="took the database over"):
        old.run()
    run = new.run()
    assert [r.run for r in new.store.runs.waiting()] == [run.id]


def test_what_was_answered_survives_a_kill(sqlite_home):
    process = subprocess.Popen([sys.executable, "-c", KILLED, sqlite_home.url], stdout=subprocess.PIPE, text=True)
    told = [process.stdout.readline().strip() for _ in range(30)]
    with pytest.raises(StoreError, match=f"pid {process.pid}"):
        sqlite_home.open()
    process.send_signal(signal.SIGKILL)
    told += process.stdout.read().split("\n")[:-1]
    process.wait()
    store = sqlite_home.open()
    stored = {run.run for run in store.runs.waiting()}
    assert len(told) >= 30
    assert set(told) <= stored
    assert {event.subject for event in store.events.since(0, limit=100_000)} == stored


def test_writes_that_wait_together_share_one_commit_and_fail_alone(sqlite_home, world_of, wait_until):
    world = world_of(sqlite_home.open())
    keep, commits = threading.Event(), []

    def listen(topics):
        commits.append(topics)
        keep.wait(20)

    runs = [world.make() for _ in range(20)]
    end = world.store.on_commit(listen)
    with ThreadPoolExecutor(22) as pool:
        first = pool.submit(world.store.runs.submit, world.make())
        wait_until(lambda: len(commits) == 1)  # the writer is busy: what comes now waits
        waiting = [pool.submit(world.store.runs.submit, run, event=NewEvent("a", "b", run.id)) for run in runs]
        wrong = pool.submit(world.store.runs.set_desired, "run-0", Desired.RUN)
        wait_until(lambda: world.store._db._jobs.qsize() == 21)
        keep.set()
        assert len({future.result()[0].seq for future in [first, *waiting]}) == 21
        with pytest.raises(NotFoundError):
            wrong.result()
    wait_until(lambda: len(commits) == 2)
    assert commits[1] == {"runs", "events"}
    assert sorted(one.subject for one in world.store.events.since(0)) == sorted(run.id for run in runs)
    end()
    world.run()
    assert len(commits) == 2


def test_a_read_that_fails_leaves_nothing_to_the_next_one(world):
    def fail(conn):
        conn.execute(text("SELECT count(*) FROM runs"))  # from now on this transaction sees what is there now
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        world.store._db.read(fail)
    run = world.run()
    assert world.store.runs.get(run.id) == run


def test_readers_that_wait_are_few_however_many_read_at_once(sqlite_home, world_of):
    world = world_of(sqlite_home.open())
    run = world.run()
    together = threading.Barrier(40, timeout=20)

    def read(_):
        return world.store._db.read(lambda _conn: together.wait() is not None) and world.store.runs.get(run.id)

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(read, range(40))) == [run] * 40
    assert len(world.store._db._resting) == 16
    world.store.close()
    assert world.store._db._resting == []


def test_writer_and_who_stays_near_it_keep_to_one_processor_and_nobody_else(store):
    before, found = os.sched_getaffinity(0), []

    def near():
        store.stay_near_writer()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=near)
    thread.start()
    thread.join()
    assert found == [os.sched_getaffinity(store._db._writer.native_id)]
    assert len(found[0]) == (len(before) if store._db.is_postgres else 1)
    assert os.sched_getaffinity(0) == before


def test_a_failing_listener_does_not_fail_the_write(world):
    def fail(_topics):
        raise ValueError("mine")

    world.store.on_commit(fail)
    run = world.run()
    assert world.store.runs.get(run.id) == run


def test_listeners_hear_of_commits_only(world):
    heard = []
    world.store.on_commit(lambda topics: heard.append((topics, len(world.store.runs.waiting()))))
    run = world.run()
    with pytest.raises(NotFoundError):
        world.store.runs.edit("run-0", priority=1)
    world.store.runs.edit(run.id, priority=run.priority)
    assert heard == [({"runs"}, 1)]


@pytest.mark.engine
def test_processes_that_share_a_database_wake_each_other(postgres_home, world_of, wait_until):
    here, there = postgres_home.open(), postgres_home.open()
    heard_here, heard_there = [], []
    here.on_commit(heard_here.append)
    there.on_commit(heard_there.append)
    run = world_of(there).run()
    wait_until(lambda: {"runs"} in heard_here)
    here.runs.set_desired(run.id, Desired.CANCELLED, event=NewEvent("ada", "run.cancelled", run.id))
    wait_until(lambda: {"runs", "events"} in heard_there)
    assert heard_here.count({"runs", "events"}) == 1  # its own commits are heard once


def test_an_event_loop_is_refused(world):
    async def ask():
        world.store.runs.waiting()

    async def write():
        world.run()

    for call in (ask, write):
        with pytest.raises(RuntimeError, match="event loop"):
            asyncio.run(call())


def test_a_write_from_a_listener_is_refused_instead_of_hanging(sqlite_home, world_of):
    world, met = world_of(sqlite_home.open()), []

    def write(_topics):
        try:
            world.run()
        except RuntimeError as wrong:
            met.append(str(wrong))

    end = world.store.on_commit(write)
    world.run()
    world.store.runs.counts()
    end()
    world.run()
    assert len(met) == 1


def test_a_closed_store_refuses(world):
    world.store.close()
    world.store.close()
    with pytest.raises(StoreError, match="closed"):
        world.store.runs.waiting()
    with pytest.raises(StoreError, match="closed"):
        world.run()


def test_a_full_disk_is_said_and_nothing_half_written(sqlite_home, world_of):
    world = world_of(sqlite_home.open())
    before = world.run()
    pages = world.store._db.write(lambda tx: tx.conn.exec_driver_sql("PRAGMA page_count").scalar_one())
    world.store._db.write(lambda tx: tx.conn.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}").scalar_one())
    with pytest.raises(DiskFullError) as full:
        world.run(params={"x": "y" * 200_000})
    assert full.value.http_status == 507
    world.store._db.write(lambda tx: tx.conn.exec_driver_sql("PRAGMA max_page_count = 1000000").scalar_one())
    after = world.run()
    stored = world.store.runs.waiting()
    assert (stored[0].run, stored[-1].run) == (before.id, after.id)
    assert [world.store.runs.get(one.run).seq for one in stored] == list(range(1, len(stored) + 1))


@pytest.mark.parametrize("kind", ["garbage", "page", "truncated"])
def test_a_damaged_file_is_refused_and_left_alone(sqlite_home, world_of, kind):
    world = world_of(sqlite_home.open())
    for _ in range(50):
        world.run(params={"x": "y" * 5000})
    world.store.close()
    path = sqlite_home.path
    whole = path.read_bytes()
    broken = {
        "garbage": b"this is no database" * 500,
        "page": whole[:4096] + os.urandom(8192) + whole[12288:],
        "truncated": whole[: len(whole) // 2],
    }[kind]
    path.write_bytes(broken)
    with pytest.raises(StoreError, match="damaged"):
        sqlite_home.open()
    assert path.read_bytes() == broken
    path.write_bytes(whole)
    assert len(sqlite_home.open().runs.waiting()) == 50


def test_a_place_that_cannot_be_used_is_said(tmp_path, home_at):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="cannot be used"):
        home_at(tmp_path / "file" / "mainspring.db").open()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        home_at(tmp_path / "folder").open()


def test_a_server_that_is_not_there_is_said(home_at):
    with pytest.raises(StoreError):
        home_at("postgresql+psycopg://nobody@127.0.0.1:9/none?connect_timeout=5").open()


def test_a_newer_schema_is_refused(empty_home):
    empty_home.open().close()
    engine = create_engine(parse_url(empty_home.url))
    with engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match="newer"):
        empty_home.open()
    with pytest.raises(StoreError, match="newer"):
        empty_home.open()


def test_files_are_for_their_owner_alone(empty_sqlite_home):
    empty_sqlite_home.open()
    for suffix in ("", ".lock", "-wal"):
        assert Path(str(empty_sqlite_home.path) + suffix).stat().st_mode & 0o077 == 0
    assert json.loads(Path(str(empty_sqlite_home.path) + ".lock").read_text())["pid"] == os.getpid()


def test_every_commit_is_on_disk_before_it_is_answered(sqlite_home):
    store = sqlite_home.open()
    asked = store._db.write(lambda tx: tx.conn.exec_driver_sql("PRAGMA synchronous").scalar_one())
    assert asked == 2  # FULL
    with sqlite3.connect(sqlite_home.path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_network_file_systems_are_known():
    mounts = "/dev/sda1 / ext4 rw 0 0\nhost:/x /mnt/my\\040share fuse.sshfs rw 0 0\nx /mnt/fast fuse.mergerfs rw 0 0\n"
    assert kind_of(0x6969, Path("/x"), mounts) == "nfs"
    assert kind_of(0xFF534D42, Path("/x"), mounts) == "cifs"
    assert kind_of(0xEF53, Path("/mnt/my share"), mounts) == ""
    assert kind_of(0x65735546, Path("/mnt/my share/home"), mounts) == "fuse.sshfs"
    assert kind_of(0x65735546, Path("/mnt/fast/home"), mounts) == ""


def test_a_local_folder_is_accepted(tmp_path):
    assert network_kind(tmp_path) == ""
    refuse_network_folder(tmp_path)


@pytest.mark.parametrize(("magic", "kind"), [(0x6969, "nfs"), (0xEF53, "")])
def test_a_database_on_a_network_file_system_is_refused_before_it_is_touched(empty_sqlite_home, monkeypatch, magic, kind):
    monkeypatch.setattr("mainspring.store.ownership._statfs_type", lambda folder: magic)  # what the kernel says of the folder
    if not kind:
        assert empty_sqlite_home.open().runs.counts() == {}
        return
    with pytest.raises(StoreError, match=rf"network file system \({kind}\); SQLite loses data there") as refused:
        empty_sqlite_home.open()
    assert "local disk" in refused.value.hint
    assert "postgresql" in refused.value.hint
    assert refused.value.details["filesystem"] == kind
    assert list(empty_sqlite_home.path.parent.iterdir()) == []


def test_urls():
    assert parse_url("/a/b.db").database == "/a/b.db"
    assert parse_url("sqlite:////a/b.db").database == "/a/b.db"
    assert parse_url("postgresql://me@host/db").drivername == "postgresql+psycopg"
    for wrong in ("mysql://host/db", "sqlite://", "sqlite:///:memory:", "://"):
        with pytest.raises(UsageError):
            parse_url(wrong)


def test_events_are_read_on_from_a_number(world):
    for number in range(5):
        world.store.events.append(NewEvent("ada", "k", f"s{number % 2}", "p" if number else "q", {"n": number}))
    events = world.store.events
    assert [e.data["n"] for e in events.since(2)] == [2, 3, 4]
    assert [e.seq for e in events.since(0, limit=2)] == [1, 2]
    assert [e.seq for e in events.since(0, project="q")] == [1]
    assert [e.seq for e in events.since(0, subject="s0")] == [1, 3, 5]
    assert (events.last_seq(), events.since(5)) == (5, [])
    assert events.since(4)[0].at == world.clock.now()


def test_a_reader_that_follows_events_misses_none(world):
    seen, is_over = [], threading.Event()

    def follow():
        while not is_over.is_set() or len(seen) < 80:
            seen.extend(e.seq for e in world.store.events.since(seen[-1] if seen else 0))

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: world.store.runs.submit(world.make(), event=NewEvent("a", "k", str(n))), range(80)))
    is_over.set()
    reader.join(20)
    assert seen == list(range(1, 81))
