"""Ends that wait for one commit are written together, and leave what they leave one after the other: on both databases."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import select

from mainspring.core.errors import NotFoundError
from mainspring.core.ids import AttemptId
from mainspring.core.lifecycle import Ending
from mainspring.core.queries import RunFilter
from mainspring.core.records import Cause, Outcome, RunState
from mainspring.core.resources import DeviceShare
from mainspring.core.snapshot import Plan
from mainspring.core.specs import Value, ValueKind
from mainspring.store import tables
from mainspring.store.ends import End, end_all

CAUSES = [Cause.SUCCEEDED, Cause.SUCCEEDED, Cause.USER_ERROR, Cause.OUT_OF_MEMORY, Cause.NODE_LOST, Cause.LAUNCH_FAILED]


def one(world, attempt, cause=Cause.SUCCEEDED, replica=0, **more):
    outputs = {f"r{replica}": Value(kind=ValueKind.JSON, json=replica)}
    ending = Ending(outcome=Outcome(cause=cause, message=f"{cause} {replica}"), at=world.clock.now(), **more)
    return End(AttemptId(attempt), replica, ending, outputs, "runner")


def scene(world, random_):
    """Start single runs, gangs and runs with devices; return the ends that are told of them, some more than once."""
    nodes = [world.node(cpu_milli=64_000, gpus=8) for _ in range(3)]
    ends = []
    for number in range(8):
        size = random_.choice([1, 1, 2, 3])
        run = world.run(f"run{number}", replicas=size, retries=random_.choice([0, 2]))
        devices = (DeviceShare(index=number, milli=500),) if size == 1 else ()
        places = [(random_.choice(nodes), 1000, devices) for _ in range(size)]
        world.store.apply(Plan(fingerprint="", decisions=(world.decision(run, *places),)), now=world.clock.now())
        (attempt,) = world.store.attempts.of_run(run.id)
        if random_.random() < 0.3:
            world.store.attempts.ask_stop(attempt.id, Cause.PREEMPTED, stop_by=world.clock.now())
        for replica in range(size):
            late = {"late_s": random_.choice([0.0, 3.0]), "backoff_s": 2.0}
            ends += [one(world, attempt.id, random_.choice(CAUSES), replica, **late)] * random_.choice([1, 1, 2])
    world.clock.move(10)
    random_.shuffle(ends)
    return ends[: len(ends) - 2]


def state(world):
    """Return all that ends write, as it reads."""
    runs = sorted(world.store.runs.page(RunFilter()).items, key=lambda run: run.id)
    avoided = world.store._db.read(lambda conn: conn.execute(select(tables.runs.c.id, tables.runs.c.avoid)).tuples().all())
    nodes = [replace(node, version=0) for node in world.store.nodes.all(world.cluster.id)]  # one write of it, or several
    attempts = [attempt for run in runs for attempt in world.store.attempts.of_run(run.id)]
    freed = sorted(
        (one.attempt, one.replica, one.freed_at) for one in world.store.nodes.allocations_since(runs[0].created_at, limit=1000)
    )
    events = sorted((one.kind, one.subject, str(one.data)) for one in world.store.events.since(0))
    return runs, attempts, freed, events, nodes, sorted(avoided), world.store.health.failures()


@pytest.mark.parametrize("seed", range(6))
def test_together_they_leave_what_they_leave_one_by_one(world, sqlite_source, world_of, seed):
    alone = world_of(sqlite_source.open())
    apart, together = scene(alone, random.Random(seed)), scene(world, random.Random(seed))
    assert apart == together, "the same ids in both worlds"
    one_by_one = [alone.store._db.write(lambda tx, end=end: end_all(tx, [end]))[0] for end in apart]
    at_once = world.store._db.write(lambda tx: end_all(tx, together))
    assert at_once == one_by_one
    assert state(world) == state(alone)


def test_one_that_is_not_there_fails_alone(world):
    """The others wait for the same commit."""
    node = world.node()
    attempts = [world.start(world.run(f"run{number}"), node) for number in range(3)]
    ids = [*(one.id for one in attempts), "att-none"]
    held = threading.Event()

    def block(tx):
        held.wait(30)
        tx.topics.add("runs")

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(world.store._db.write, block)
        ends = [pool.submit(world.store._db.join, end_all, one(world, id)) for id in ids]
        held.set()
        first.result()
        with pytest.raises(NotFoundError, match="att-none"):
            ends.pop().result()
        assert [end.result()[1].state for end in ends] == [RunState.SUCCEEDED] * 3
    assert world.store.nodes.get(node.id).used_cpu_milli == 0
    assert [one.kind for one in world.store.events.since(0)].count("run.succeeded") == 3
