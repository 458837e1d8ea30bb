"""A hundred thousand waiting runs of one person: the others notice nothing, and a plan stays quick."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Text, cast, literal_column, select
from sqlalchemy import text as sql

from mainspring import scheduler
from mainspring.controllers.schedule import WINDOW
from mainspring.core.actors import Actor
from mainspring.core.records import Role
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec
from mainspring.services import runs
from mainspring.store.tables import runs as rows

CROWD = 100_000
SPEC = RunSpec(command=("python", "train.py"), resources=Resources(cpu_milli=1000, gpu_milli=1000))
ALICE, BOB, CAROL = (Actor(name=name, roles={"default": Role.EDITOR}) for name in ("alice", "bob", "carol"))


def _crowd(house: Any, run: Any) -> None:
    """Copy a waiting run in the database: submitting each would take minutes."""
    numbers = sql("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most) SELECT i FROM n")
    counted = numbers.bindparams(most=CROWD).columns(literal_column("i")).subquery("numbers")
    number = counted.c.i
    changed = {"id": cast(rows.c.id + cast(number, Text), Text), "seq": rows.c.seq - number, "key": literal_column("NULL")}
    copied = select(*(changed.get(column.name, column) for column in rows.columns)).where(rows.c.id == run.id)
    asked = rows.insert().from_select(
        [column.name for column in rows.columns], copied.select_from(rows.join(counted, sql("1 = 1")))
    )
    house.ctx.store._db.write(lambda tx: tx.conn.execute(asked))


def _plan(house: Any) -> list[str]:
    """Plan and apply as the loop does ordinarily, with the first runs of each person."""
    plan = scheduler.plan(house.ctx.store.snapshot(house.clock.now(), each=WINDOW))
    return [str(run) for run in house.ctx.store.apply(plan, now=house.clock.now()).started]


def test_the_crowd_of_one_person_delays_nobody_else(house: Any) -> None:
    ctx = house.ctx
    first, _ = runs.submit(ctx, ALICE, SPEC)
    _crowd(house, first)
    assert ctx.store.runs.counts()["queued"] == CROWD + 1
    bobs, _ = runs.submit(ctx, BOB, SPEC)
    began = time.process_time()
    started = _plan(house)
    took_s = time.process_time() - began
    assert bobs.id in started
    assert len(started) == 2
    assert took_s < 2.0  # a tenth of that by itself
    for id in started:
        house.begin(house.attempt_of(ctx.store.runs.get(id)))
    carols, _ = runs.submit(ctx, CAROL, SPEC)
    told = runs.why(ctx, CAROL, carols.id)
    house.clock.advance(60)
    house.end(bobs)
    assert _plan(house) == [carols.id]
    assert told["waiting_count"] < CROWD
