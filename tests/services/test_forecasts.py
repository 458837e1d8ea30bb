"""When runs will start, as users may ask."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mainspring.core.actors import Actor
from mainspring.core.errors import AccessDeniedError, CannotFitError, NotFoundError, StateError, UsageError
from mainspring.core.forecasts import Choice
from mainspring.core.records import Role
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec
from mainspring.services import forecasts, runs

EDITOR = Actor(name="ed", roles={"default": Role.EDITOR})
STRANGER = Actor(name="sam", roles={})


def spec(gpus: int) -> RunSpec:
    return RunSpec(command=("a",), resources=Resources(gpu_milli=gpus * 1000))


def test_a_waiting_run_has_a_forecast_and_others_have_none(house) -> None:
    first, _ = runs.submit(house.ctx, EDITOR, spec(2))
    house.plan()
    second, _ = runs.submit(house.ctx, EDITOR, spec(1))
    found = forecasts.of_run(house.ctx, EDITOR, second.id)
    assert house.clock.now() < found.median
    assert found.earliest <= found.median <= found.latest
    assert forecasts.of_queue(house.ctx, EDITOR) == {second.id: found}
    assert forecasts.of_queue(house.ctx, STRANGER) == {}
    with pytest.raises(StateError, match="does not wait"):
        forecasts.of_run(house.ctx, EDITOR, first.id)
    with pytest.raises(NotFoundError):
        forecasts.of_run(house.ctx, STRANGER, second.id)


def test_nothing_is_foretold_of_a_run_that_waits_for_its_owners_word(house) -> None:
    runs.submit(house.ctx, EDITOR, spec(2))
    house.plan()
    held, _ = runs.submit(house.ctx, EDITOR, spec(1))
    waits, _ = runs.submit(house.ctx, EDITOR, spec(1))
    runs.pause(house.ctx, EDITOR, held.id)
    house.plan()
    with pytest.raises(StateError, match=r"Nobody can say .* Paused by its owner"):
        forecasts.of_run(house.ctx, EDITOR, held.id)
    assert set(forecasts.of_queue(house.ctx, EDITOR)) == {waits.id}
    assert forecasts.tell(house.ctx) == 1
    runs.resume(house.ctx, EDITOR, held.id)
    house.plan()
    assert forecasts.of_run(house.ctx, EDITOR, held.id).median > house.clock.now()


def test_nothing_is_foretold_of_a_run_that_no_machine_fits_any_more(house) -> None:
    runs.submit(house.ctx, EDITOR, spec(1))
    waits, _ = runs.submit(house.ctx, EDITOR, spec(2))
    (node,) = house.ctx.store.nodes.all()
    house.ctx.store.nodes.upsert("local", [replace(node, devices=node.devices[:1])], now=house.clock.now())
    house.plan()
    with pytest.raises(StateError, match="Nobody can say when"):
        forecasts.of_run(house.ctx, EDITOR, waits.id)


def test_less_starts_sooner_and_what_never_fits_is_refused(house) -> None:
    runs.submit(house.ctx, EDITOR, spec(1))
    house.plan()
    asked = [Choice(label=str(gpus), spec=spec(gpus)) for gpus in (1, 2, 3)]
    one, two, three = forecasts.prospects(house.ctx, EDITOR, asked)
    assert one.forecast is not None
    assert one.forecast.latest == house.clock.now()
    assert two.forecast is not None
    assert two.forecast.median > house.clock.now()
    assert three.forecast is None
    assert "2 GPUs" in three.refusal
    wrong = forecasts.prospects(house.ctx, EDITOR, [Choice(label="wrong", spec=RunSpec(command=()))])
    assert wrong[0].refusal
    assert runs.get(house.ctx, EDITOR, "a")  # asking submitted nothing more
    assert len(house.ctx.store.runs.find("a")) == 1


@pytest.mark.parametrize(
    ("asked", "starts_now"),
    [
        ({"alternatives": (Resources(gpu_milli=1000),), "resources": Resources(gpu_milli=9000)}, True),
        ({"replicas": 8, "min_replicas": 2}, True),
        ({"replicas": 2, "same": "node"}, True),
        ({"replicas": 8, "min_replicas": 3}, False),
        ({"replicas": 2, "same": "rack"}, False),
        ({"priority": 1}, False),
    ],
)
def test_what_is_foretold_is_what_would_be_accepted(house, asked, starts_now) -> None:
    """A choice is refused exactly where its submission is: alternatives, sizes of a gang, a rack, the right to a priority."""
    wanted = replace(spec(1), **asked)
    (told,) = forecasts.prospects(house.ctx, EDITOR, [Choice(label="", spec=wanted)])
    if not starts_now:
        with pytest.raises((AccessDeniedError, CannotFitError)) as refused:
            runs.submit(house.ctx, EDITOR, wanted)
        assert told.refusal == refused.value.message
        return
    assert told.forecast is not None
    assert told.forecast.latest == house.clock.now()
    made, _ = runs.submit(house.ctx, EDITOR, wanted)
    assert house.plan() == [made.id]


def test_asking_takes_the_rights_of_submitting(house) -> None:
    with pytest.raises(AccessDeniedError):
        forecasts.prospects(house.ctx, STRANGER, [Choice(label="", spec=spec(1))])
    with pytest.raises(UsageError, match="choices"):
        forecasts.prospects(house.ctx, EDITOR, [])


def test_what_was_told_is_held_against_what_happened(house) -> None:
    first, _ = runs.submit(house.ctx, EDITOR, spec(2))
    house.plan()
    house.begin(house.attempt_of(first))
    soon, _ = runs.submit(house.ctx, EDITOR, spec(2))
    assert forecasts.tell(house.ctx) == 1
    assert forecasts.tell(house.ctx) == 0  # once is enough
    assert forecasts.calibration(house.ctx).told == 0
    told = forecasts.of_run(house.ctx, EDITOR, soon.id)
    house.clock.advance((told.median - house.clock.now()).total_seconds())
    house.end(first)
    assert house.plan() == [soon.id]
    late, _ = runs.submit(house.ctx, EDITOR, spec(2))
    forecasts.tell(house.ctx)
    house.clock.advance(90 * 86400)
    house.end(soon)
    assert house.plan() == [late.id]
    found = forecasts.calibration(house.ctx)
    assert (found.told, found.inside) == (2, 1)
    assert found.median_error > 0.3
    runs.remove(house.ctx, EDITOR, house.end(late).id)
    assert forecasts.calibration(house.ctx).told == 1  # what is removed is not remembered


def test_past_runs_of_a_task_make_the_estimate(house) -> None:
    for _ in range(3):
        done, _ = runs.submit(house.ctx, EDITOR, spec(2))
        house.plan()
        house.begin(house.attempt_of(done))
        house.clock.advance(100)
        house.end(done)
    house.ctx.store.usage.book(house.clock.now(), 604_800.0)
    running, _ = runs.submit(house.ctx, EDITOR, spec(2))
    house.plan()
    house.begin(house.attempt_of(running))
    (prospect,) = forecasts.prospects(house.ctx, EDITOR, [Choice(label="", spec=spec(1))])
    assert prospect.forecast is not None
    wait_s = (prospect.forecast.median - house.clock.now()).total_seconds()
    assert 20 < wait_s < 400  # a hundred seconds each, not the half hour of the unknown
