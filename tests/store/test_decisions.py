"""Recorded plans: whole snapshots now and then, deltas between them, and every one of them made again to the byte."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from mainspring import scheduler
from mainspring.core.codec import decode, encode
from mainspring.core.errors import StoreError
from mainspring.core.snapshot import Snapshot
from mainspring.store.decisions import WHOLE_EACH
from mainspring.store.deltas import Base, patched
from mainspring.store.tables import decisions


def keep(world, plan, snapshot):
    """Record a plan, whether it does something or not."""
    entry = world.store.decisions.entry(plan, snapshot, now=world.clock.now())
    world.store._db.write(entry.write)
    world.store.decisions.remember(entry)


def live(world):
    """Plan, apply and record once, as the schedule loop does; return (snapshot as JSON, plan)."""
    snapshot = world.store.snapshot(world.clock.now())
    plan = scheduler.plan(snapshot)
    world.store.apply(plan, now=world.clock.now())
    keep(world, plan, snapshot)
    return encode(snapshot), plan


def test_every_recorded_plan_is_made_again_to_the_byte(world):
    world.node(cpu_milli=3000)
    recorded = []
    for number in range(8):
        world.run(f"run{number}", owner=f"user{number % 3}")
        world.clock.move(5)
        recorded.append(live(world))
        if number % 2:
            world.end(world.store.attempts.open()[0])
    for number, (snapshot, plan) in enumerate(recorded, 1):
        found = world.store.decisions.get(number)
        assert (found.snapshot, found.plan) == (snapshot, plan)
        again = scheduler.plan(decode(found.snapshot, Snapshot))
        assert encode(again) == encode(found.plan)
    at = world.clock.now() - timedelta(seconds=12)
    assert world.store.decisions.latest(at).number == 5
    assert world.store.decisions.latest(at - timedelta(hours=1)) is None
    bases = world.store._db.read(lambda conn: conn.execute(select(decisions.c.base)).scalars().all())
    assert bases.count(None) == 1


def test_deltas_are_small_and_exact(world):
    for number in range(50):
        world.run(f"run{number}")
    before = world.store.snapshot(world.clock.now())
    world.run("one more")
    world.store.runs.edit(world.store.runs.waiting()[7].run, priority=3)
    after = world.store.snapshot(world.clock.now() + timedelta(seconds=1))
    told = Base(before).delta(after)
    assert patched(encode(before), told) == encode(after)
    assert len(told) < len(encode(after)) / 5
    with pytest.raises(StoreError):
        patched(b'{"waiting":[]}', told)


def test_a_whole_snapshot_is_kept_now_and_then_and_old_ones_go(world):
    snapshot = world.store.snapshot(world.clock.now())
    world.run()
    node = world.node(cpu_milli=1_000_000)
    for _ in range(WHOLE_EACH + 2):
        world.start(world.run(), node, cpu_milli=1)
        plan = scheduler.plan(world.store.snapshot(world.clock.now()))
        keep(world, plan, snapshot)
    count = select(func.count()).where(decisions.c.base.is_(None)).select_from(decisions)
    assert world.store._db.read(lambda conn: conn.execute(count).scalar_one()) == 2
    world.clock.move(8 * 86400)
    live(world)
    assert world.store._db.read(lambda conn: conn.execute(select(func.count()).select_from(decisions)).scalar_one()) == 1
