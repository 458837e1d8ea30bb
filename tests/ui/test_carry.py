"""What a run's page says of what it carried: the work that a loss cost, the run whose outputs it took."""

from __future__ import annotations

from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.records import Cause, Role
from mainspring.core.resources import Resources
from mainspring.core.specs import Entry, Environment, RunKind, RunSpec
from mainspring.services import runs
from mainspring.ui import run_facts
from mainspring.ui.runs import state_cell
from mainspring.ui.view import View


def test_a_preempted_try_says_what_was_lost(house) -> None:
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",), resources=Resources(gpu_milli=2000)))
    house.plan()
    house.begin(house.attempt_of(run))
    house.clock.advance(90)
    house.end(run, Cause.PREEMPTED)
    shown = run_facts.attempts(View(ctx=house.ctx, who=lambda: SYSTEM, path="/runs"), run.id)
    assert "lost the work of 1 m 30 s (180 GPU-seconds) since its newest checkpoint" in shown, shown


def test_a_run_from_the_cache_names_its_source(house) -> None:
    packages = Environment(packages="f" * 64)
    spec = RunSpec(kind=RunKind.TASK, entry=Entry(module="m", function="f"), environment=packages, cache=True)
    first, _ = runs.submit(house.ctx, SYSTEM, spec)
    house.plan()
    house.end(first)
    second, _ = runs.submit(house.ctx, SYSTEM, spec)
    view = View(ctx=house.ctx, who=lambda: SYSTEM, path="/runs")
    assert f"Taken from run {first.id}" in state_cell(second)
    assert f"It took the outputs of run {first.id}" in run_facts.top(view, second.id)
    assert f"Taken from run {first.id}" in run_facts.code(view, second.id)
    assert "nothing like it was in the cache" in run_facts.code(view, first.id)


def test_while_a_run_runs_its_page_tells_how_to_go_inside(house) -> None:
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    viewer = Actor(name="vera", roles={"default": Role.VIEWER})
    mine, theirs = (View(ctx=house.ctx, who=lambda who=who: who, path="/runs") for who in (SYSTEM, viewer))
    assert "Once it runs" in run_facts.inside(mine, run.id)
    house.plan()
    house.begin(house.attempt_of(run))
    shown = run_facts.inside(mine, run.id)
    assert f'data-copy="mainspring shell {run.id}"' in shown
    assert f'data-copy="mainspring port {run.id} 6006"' in shown
    assert "data-copy" not in run_facts.inside(theirs, run.id)
    house.end(run)
    assert "ended" in run_facts.inside(mine, run.id)
