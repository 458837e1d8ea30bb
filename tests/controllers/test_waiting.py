"""What is told of a run that was placed and that its engine has not begun, by rows and a clock that is moved by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mainspring.core.actors import SYSTEM
from mainspring.core.errors import StateError
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec
from mainspring.core.waiting import MOST, kept_waiting
from mainspring.services import forecasts, runs


@pytest.fixture
def placed(house):
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",), resources=Resources(gpu_milli=2000)))
    house.plan()
    return run


def test_the_engines_words_and_its_own_start_are_told(house, placed) -> None:
    at = house.clock.now() + timedelta(hours=2)
    house.ctx.store.attempts.set_waiting(house.attempt_of(placed).id, kept_waiting("hpc", "Slurm says Priority.", at))
    told = runs.why(house.ctx, SYSTEM, placed.id)
    assert told["sentence"].startswith("hpc has not begun it yet: Slurm says Priority. It expects to begin it at ")
    assert told["expected_at"] == at
    found = forecasts.of_run(house.ctx, SYSTEM, placed.id)
    assert (found.earliest, found.median, found.latest) == (house.clock.now(), at, at)


def test_who_waits_behind_it_waits_that_much_longer(house, placed) -> None:
    behind, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("b",), resources=Resources(gpu_milli=2000)))
    house.clock.advance(60)
    sooner = forecasts.of_run(house.ctx, SYSTEM, behind.id).earliest
    at = house.clock.now() + timedelta(days=3)
    house.ctx.store.attempts.set_waiting(house.attempt_of(placed).id, kept_waiting("hpc", "Slurm says Priority", at))
    assert sooner < at < forecasts.of_run(house.ctx, SYSTEM, behind.id).earliest


def test_a_first_beat_ends_it_and_what_comes_late_is_not_told(house, placed) -> None:
    attempt = house.attempt_of(placed)
    words = kept_waiting("hpc", "exceeded quota", None)
    house.ctx.store.attempts.set_waiting(attempt.id, words)
    assert house.ctx.store.runs.get(placed.id).reason == words
    with pytest.raises(StateError, match="does not wait"):
        forecasts.of_run(house.ctx, SYSTEM, placed.id)
    house.begin(attempt)
    assert house.ctx.store.runs.get(placed.id).reason is None
    house.ctx.store.attempts.set_waiting(attempt.id, words)
    assert house.ctx.store.runs.get(placed.id).reason is None
    assert runs.why(house.ctx, SYSTEM, placed.id)["sentence"].startswith("It is running")


def test_long_words_are_cut() -> None:
    assert len(kept_waiting("k", "0/5000 nodes: " * 200, None).sentence) < MOST + 50
