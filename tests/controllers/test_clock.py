"""A wall clock that jumps by a day, forward or back, changes no lease, no order and no waiting time."""

from __future__ import annotations

from typing import cast

import pytest

from mainspring.controllers.attempts import Attempts
from mainspring.controllers.fleet import Reach
from mainspring.controllers.schedule import Schedule
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Backend, Handle, LaunchRequest, Observation, ObservedState
from mainspring.core.queries import RunFilter
from mainspring.core.records import Cause
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec
from mainspring.services import runs
from mainspring.testing.clock import FakeClock
from mainspring.testing.engine import Fleet

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


def test_plans_are_made_whatever_the_clock_says(house, jump_s: float) -> None:
    schedule = Schedule(house.ctx)
    schedule.tick()
    house.clock.jump(jump_s)
    runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    schedule.tick()
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


class Graces:
    """An engine that notes when, and with which grace, it is told to stop."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.told: list[tuple[float, float]] = []

    def observe(self, handles):
        return [Observation(handle=handle, state=ObservedState.RUNNING) for handle in handles]

    def launch(self, request: LaunchRequest) -> Handle:
        return Handle(attempt=request.attempt, replica=request.replica)

    def stop(self, handle: Handle, grace_s: float) -> None:
        self.told.append((self.clock.monotonic(), grace_s))


def test_a_grace_is_neither_cut_nor_stretched(house, jump_s: float) -> None:
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    house.plan()
    house.begin(house.attempt_of(run))
    runs.cancel(house.ctx, SYSTEM, run.id, grace_s=60)
    engine = Graces(house.clock)
    fleet = Fleet(cast(Backend, engine))
    loop = Attempts(house.ctx, fleet, fleet, "me", Reach(url="http://127.0.0.1:1"))
    began = house.clock.monotonic()
    loop.tick()
    house.clock.jump(jump_s)
    for _ in range(8):
        house.clock.advance(10)
        loop.tick()
    assert len(engine.told) > 2
    assert engine.told[-1][1] == 0, "it is killed when the grace is over, whatever the wall clock says"
    for at, grace_s in engine.told:
        assert grace_s == max(0.0, 60 - (at - began))
