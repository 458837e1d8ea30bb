"""Sweeps: suggestions are in the space and repeatable, a grid is complete, TPE beats chance, the best is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.core.ids import RunId
from mainspring.core.records import Dimension, RunState, SweepSpec, Trial
from mainspring.core.spaces import choice, integers, loguniform, named, uniform
from mainspring.core.specs import RunSpec
from mainspring.workflows import samplers, sweeps

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPACE = (
    named("lr", loguniform(1e-4, 1.0)),
    named("drop", uniform(0.0, 0.5)),
    named("layers", integers(1, 8)),
    named("kind", choice("adam", "sgd", 1, True, None)),
)


def sweep(*space: Dimension, **others: Any) -> SweepSpec:
    made = SweepSpec(template=RunSpec(command=("train",)), space=space or SPACE, metric="score", trials=20)
    return replace(made, **others)


def ask(spec: SweepSpec, history: Sequence[Trial], number: int) -> dict[str, object]:
    """Ask the sampler that the spec names."""
    return sweeps.ask(spec, history, number, getattr(samplers, spec.sampler))


def trial(number: int, params: dict[str, object], value: float | None = None, *, told: bool = True, **others: Any) -> Trial:
    made = Trial(sweep="s", number=number, params=params, run=RunId(f"run_{number}"), value=value, told_at=NOW if told else None)
    return replace(made, **others)


def in_space(spec: SweepSpec, params: dict[str, object]) -> bool:
    return set(params) == {one.name for one in spec.space} and all(_is_of(one, params[one.name]) for one in spec.space)


def _is_of(one: Dimension, value: object) -> bool:
    if one.kind == "choice":
        return any(value == option and type(value) is type(option) for option in one.choices)
    if isinstance(value, bool) or not isinstance(value, int if one.kind == "int" else float):
        return False
    return one.low <= value <= one.high


@pytest.mark.parametrize("name", ["tpe", "random", "grid"])
def test_suggestions_are_in_the_space_and_repeatable(name: str) -> None:
    spec = sweep(sampler=name, seed=7)
    history: list[Trial] = []
    for number in range(1, 31):
        params = ask(spec, history, number)
        assert in_space(spec, params)
        assert ask(spec, tuple(reversed(history)), number) == params
        value = None if number % 5 == 0 else float("nan") if number % 7 == 0 else number * 0.1
        history.append(trial(number, params, value, told=number % 4 != 0))


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_the_seed_and_the_number_change_the_suggestion(name: str) -> None:
    spec = sweep(sampler=name, seed=1)
    asked = [ask(spec, [], 1), ask(spec, [], 2), ask(replace(spec, seed=2), [], 1)]
    asked.append(ask(replace(spec, seed=-1), [], 1))
    assert len({repr(one) for one in asked}) == 4


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(
    listed=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    whole=st.integers(0, 6),
    ranges=st.integers(0, 2),
    trials=st.integers(1, 40),
)
def test_a_grid_meets_every_point_once_before_it_ends(listed: list[int], whole: int, ranges: int, trials: int) -> None:
    space = [named(f"c{place}", choice(*range(count))) for place, count in enumerate(listed)]
    space.append(named("n", integers(3, 3 + whole)))
    space += [named(f"r{place}", uniform(0.0, 1.0)) for place in range(ranges)]
    spec = sweep(*space, sampler="grid", trials=trials)
    points = [repr(ask(spec, [], number)) for number in range(1, sweeps.limit(spec) + 1)]
    assert len(set(points)) == len(points) <= trials
    assert all(in_space(spec, ask(spec, [], number)) for number in range(1, len(points) + 1))


def test_a_grid_of_choices_is_complete_and_ends_early() -> None:
    spec = sweep(named("a", choice(1, 2, 3)), named("b", choice("x", "y")), sampler="grid", trials=50)
    assert sweeps.limit(spec) == 6
    points = [ask(spec, [], number) for number in range(1, 7)]
    assert {(one["a"], one["b"]) for one in points} == {(a, b) for a in (1, 2, 3) for b in ("x", "y")}
    done = [trial(number, point, 1.0) for number, point in enumerate(points, 1)]
    assert sweeps.how_many_more(spec, done) == 0
    assert sweeps.is_over(spec, done)
    assert not sweeps.is_over(spec, done[:5])


def test_too_few_trials_spread_over_the_grid() -> None:
    spec = sweep(named("a", choice(*range(10))), named("b", choice(*range(10))), sampler="grid", trials=10)
    points = [ask(spec, [], number) for number in range(1, 11)]
    assert len({one["a"] for one in points}) >= 8


def _score(params: dict[str, object]) -> float:
    drop, layers = float(str(params["drop"])), int(str(params["layers"]))
    return -((drop - 0.1) ** 2) * 20 - (layers - 6) ** 2 * 0.1 - (params["kind"] != "sgd")


def _run(spec: SweepSpec, count: int) -> float:
    history: list[Trial] = []
    for number in range(1, count + 1):
        params = ask(spec, history, number)
        sign = 1 if spec.is_maximized else -1
        history.append(trial(number, params, sign * _score(params)))
    found = sweeps.best(spec, history)
    assert found is not None
    return _score(dict(found.params))


@pytest.mark.parametrize("is_maximized", [True, False])
def test_tpe_beats_chance(is_maximized: bool) -> None:
    seeds = range(5)
    learned = sum(_run(sweep(seed=seed, is_maximized=is_maximized), 40) for seed in seeds)
    guessed = sum(_run(sweep(seed=seed, is_maximized=is_maximized, sampler="random"), 40) for seed in seeds)
    assert learned > guessed


def test_parallel_suggestions_over_choices_differ() -> None:
    spec = sweep(named("a", choice(*range(5))), named("b", choice(*range(5))), trials=200)
    history = [trial(n, {"a": n % 5, "b": n // 5 % 5}, float(n % 5 == 3)) for n in range(1, 26)]
    for number in range(26, 56):
        history.append(trial(number, ask(spec, history, number), told=False))
    asked = {(one.params["a"], one.params["b"]) for one in history[25:]}
    assert len(asked) >= 10


def test_rows_outside_the_space_are_passed_over() -> None:
    spec = sweep(named("a", integers(1, 3)))
    history = [trial(1, {"a": 9}, 1.0), trial(2, {}, 1.0), trial(3, {"a": True}, 1.0), trial(4, {"a": 2}, 1.0)]
    assert in_space(spec, ask(spec, history, 5))


def test_how_many_more_respects_parallel_and_trials() -> None:
    spec = sweep(trials=10, parallel=3)
    running = [trial(number, {}, told=False) for number in (1, 2)]
    assert sweeps.how_many_more(spec, []) == 3
    assert sweeps.how_many_more(spec, running) == 1
    assert sweeps.how_many_more(spec, [*running, *(trial(n, {}, 0.0) for n in range(3, 11))]) == 0
    assert sweeps.how_many_more(spec, [trial(n, {}, 0.0) for n in range(1, 10)]) == 1
    assert sweeps.how_many_more(replace(spec, parallel=1), running) == 0


def test_without_parallel_tpe_stays_a_little_ahead_of_the_queue() -> None:
    spec = sweep(trials=100, parallel=0)
    queued = [trial(n, {}, told=False) for n in range(1, 11)]
    assert sweeps.how_many_more(spec, []) == 10
    assert sweeps.how_many_more(spec, queued) == 0
    assert sweeps.how_many_more(spec, [replace(one, state=RunState.RUNNING) for one in queued]) == 10


def test_without_parallel_few_random_trials_wait_however_many_run() -> None:
    spec = sweep(trials=500, parallel=0, sampler="random")
    queued = [trial(n, {}, told=False) for n in range(1, sweeps.WAITING_AT_MOST + 1)]
    assert sweeps.how_many_more(spec, queued[:10]) == sweeps.WAITING_AT_MOST - 10
    assert sweeps.how_many_more(spec, queued) == 0
    assert sweeps.how_many_more(spec, [replace(one, state=RunState.RUNNING) for one in queued]) == sweeps.WAITING_AT_MOST


def test_best_is_the_earliest_of_the_best_finite_values() -> None:
    told = [
        trial(1, {}, 1.0),
        trial(2, {}, None),
        trial(3, {}, float("inf")),
        trial(4, {}, 3.0),
        trial(5, {}, 3.0),
        trial(6, {}, -1.0),
    ]
    most, least = sweeps.best(sweep(), told), sweeps.best(sweep(is_maximized=False), told)
    assert most is not None
    assert least is not None
    assert (most.number, least.number) == (4, 6)
    assert sweeps.best(sweep(), told[1:3]) is None
