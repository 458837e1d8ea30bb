"""What shares held before: averages over equal stretches, exact in their sum."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mainspring.core.actors import Actor
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec
from mainspring.services import projects, runs, shares, standings
from mainspring.services.shares import ShareChange

ALICE = Actor(name="alice", is_admin=True)


def _run(house: Any, gpus: float) -> Any:
    asked = Resources(cpu_milli=1000, gpu_milli=int(gpus * 1000))
    run, _ = runs.submit(house.ctx, ALICE, RunSpec(command=("x",), resources=asked))
    house.plan()
    house.begin(house.attempt_of(run))
    return run


def test_the_past_is_averaged_over_stretches_and_its_sum_is_exact(house: Any) -> None:
    first = _run(house, 1)
    house.clock.advance(1800)
    _run(house, 0.5)
    house.clock.advance(900)
    house.end(first)
    house.clock.advance(900)
    found = standings.history(house.ctx, ALICE, hours=2, stretches=4)
    assert (found.unit, found.stretch_s) == ("gpu", 1800.0)
    assert found.held["alice"] == pytest.approx((0, 0, 1000, 1000))  # half an hour of 1; then of 0.5 all and of 1 half
    assert found.begin + timedelta(hours=2) == house.ctx.clock.now()


def test_the_past_counts_to_the_share_of_the_project_at_the_time(house: Any) -> None:
    before = _run(house, 1)
    house.clock.advance(1800)
    shares.change(house.ctx, ALICE, "lab", ShareChange())
    projects.edit(house.ctx, ALICE, "default", share="lab")
    house.end(before)
    _run(house, 1)
    house.clock.advance(1800)
    found = standings.history(house.ctx, ALICE, hours=1, stretches=2)
    assert found.held == {"alice": pytest.approx((1000, 0)), "lab/alice": pytest.approx((0, 1000))}


def test_who_held_nothing_in_the_time_is_not_there(house: Any) -> None:
    house.end(_run(house, 1))
    house.clock.advance(7200)
    assert standings.history(house.ctx, ALICE, hours=1).held == {}


def test_the_tree_of_a_fresh_installation_is_its_root(house: Any) -> None:
    assert [one.name for one in standings.standings(house.ctx, ALICE)] == [""]
