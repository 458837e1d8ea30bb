"""A wall clock that jumps by a day, forward or back, changes no lease, no order and no waiting time."""

from __future__ import annotations

import pytest

from mainspring.controllers.schedule import Schedule
from mainspring.core.actors import SYSTEM
from mainspring.core.queries import RunFilter
from mainspring.core.records import Cause
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec
from mainspring.services import runs

DAY_S = 86400.0


@pytest.fixture(params=[DAY_S, -DAY_S], ids=["forward", "back"])
def jump_s(request) -> float:
    return request.param


def test_a_lease_lives_by_the_time_that_passes(house, jump_s: float) -> None:
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    house.plan()
    attempt = house.attempt_of(run)
    leases = house.ctx.store.attempts
    assert leases.lease(attempt.id, owner="first", ttl_s=30) is not None
    house.clock.jump(jump_s)
    assert leases.lease(attempt.id, owner="second", ttl_s=30) is None, "the jump ended a lease that is held"
    house.clock.advance(31)
    assert leases.lease(attempt.id, owner="second", ttl_s=30) is not None, "the jump kept a lease alive whose owner is gone"


def test_one_planner_at_a_time_whatever_the_clock_says(house, jump_s: float) -> None:
    runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    assert house.ctx.store.leases.take("planner", "another", 30.0) is not None
    house.clock.jump(jump_s)
    Schedule(house.ctx, "me").tick()
    assert house.ctx.store.runs.counts("default") == {"queued": 1}
    house.clock.advance(31)
    Schedule(house.ctx, "me").tick()
    assert house.ctx.store.runs.counts("default") == {"running": 1}


def test_a_failed_launch_is_tried_again_in_its_time(house, jump_s: float) -> None:
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    house.plan()
    house.end(run, Cause.LAUNCH_FAILED)
    assert house.plan() == [], "it is not tried again at once"
    house.clock.jump(jump_s)
    house.clock.advance(5)
    assert house.plan() == [run.id], "it waits for a moment that the clock will only reach in a day"


def test_who_came_first_goes_first(house, jump_s: float) -> None:
    wants_all = RunSpec(command=("a",), resources=Resources(gpu_milli=2000))
    first, _ = runs.submit(house.ctx, SYSTEM, wants_all)
    house.clock.jump(jump_s)
    second, _ = runs.submit(house.ctx, SYSTEM, wants_all)
    assert house.plan() == [first.id]
    house.end(first)
    assert house.plan() == [second.id]
    page = runs.page(house.ctx, SYSTEM, RunFilter(project="default"))
    assert [run.id for run in page.items] == [second.id, first.id], "the newest is the one that came last"
