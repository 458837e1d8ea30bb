"""Processes that share a PostgreSQL write in turns, and a connection that dies takes no write and no read with it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import text

from mainspring.core.errors import StoreError
from mainspring.store import engines
from mainspring.store.database import NewEvent

pytestmark = pytest.mark.engine


def hang_up_on(home, *, but=()):
    """End every connection to the database from outside; return how many those were."""
    with psycopg.connect(home.url.replace("+psycopg", ""), autocommit=True) as outside:
        asked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        pids = [pid for (pid,) in outside.execute(asked).fetchall() if pid not in but]
        for pid in pids:
            outside.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        return len(pids)


def test_two_processes_that_lock_in_opposite_orders_meet_no_deadlock(postgres_home, world_of):
    here, there = world_of(postgres_home.open()), world_of(postgres_home.open())
    together, tries = threading.Barrier(2, timeout=20), []

    def work(tx, first, second):
        tries.append(tx.count(first))
        tx.conn.execute(text("SELECT pg_sleep(0.02)"))  # time enough for the other one to begin
        tries.append(tx.count(second))

    def write(world, first, second):
        for _ in range(5):
            together.wait()
            world.store._db.write(lambda tx: work(tx, first, second))

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(write, here, "runs", "events"), pool.submit(write, there, "events", "runs")]
        for end in ends:
            end.result()
    assert len(tries) == 20  # none was undone and done again


def test_connections_that_died_at_rest_are_replaced(postgres_home, world_of):
    world = world_of(postgres_home.open())
    run = world.run()
    for _ in range(2):
        assert world.store.runs.get(run.id) == run
        assert hang_up_on(postgres_home) >= 2  # the writer's, a reader's
        assert world.store.runs.get(run.id) == run
        assert hang_up_on(postgres_home) >= 1
        run = world.run()
    assert len(world.store.runs.waiting()) == 3


def test_a_connection_that_dies_within_a_transaction_loses_and_doubles_nothing(postgres_home, world_of):
    world = world_of(postgres_home.open())
    tries = []

    def work(tx):
        seq = tx.count("runs")
        tx.tell(NewEvent("ada", "run.tagged", f"run-{seq}"))
        tries.append(seq)
        if len(tries) == 1:
            hang_up_on(postgres_home)
        tx.conn.execute(text("SELECT 1"))
        return seq

    assert world.store._db.write(work) == 1
    assert tries == [1, 1]
    assert [one.subject for one in world.store.events.since(0)] == ["run-1"]


def test_a_write_whose_connection_dies_again_and_again_is_told(postgres_home, world_of):
    world = world_of(postgres_home.open())

    def work(tx):
        tx.count("runs")
        hang_up_on(postgres_home)
        tx.count("runs")

    with pytest.raises(StoreError, match="The database failed"):
        world.store._db.write(work)
    assert world.run().seq == 1


def test_a_process_that_stops_within_a_transaction_holds_nobody_up_for_long(postgres_home, world_of, monkeypatch):
    monkeypatch.setattr(engines, "_IDLE_WRITER", "SET idle_in_transaction_session_timeout = '300ms'")
    stopped, other = world_of(postgres_home.open()), world_of(postgres_home.open())
    goes_on, waits, tries = threading.Event(), threading.Event(), []

    def work(tx):
        tries.append(tx.count("runs"))
        waits.set()
        assert goes_on.wait(60)
        return tx.count("runs")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(stopped.store._db.write, work)
        assert waits.wait(60)
        began = time.monotonic()
        assert other.run().seq == 1  # the other one's turn, though the first never gave it back
        assert time.monotonic() - began < 25
        goes_on.set()
        assert first.result() == 3
    assert tries == [1, 2]
