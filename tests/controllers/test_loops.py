"""Sweeps, pipelines and endpoints are driven from rows alone: the loop is asked, the rows are looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mainspring.controllers import loop
from mainspring.controllers.endpoints import Endpoints
from mainspring.controllers.loop import Loop, Loops
from mainspring.controllers.pipelines import Pipelines
from mainspring.controllers.schedule import NARROW, WHOLE_S, WINDOW, Schedule, window
from mainspring.controllers.sweeps import Sweeps
from mainspring.core.actors import SYSTEM
from mainspring.core.graphs import Graph, PipelineState, Step, StepKind, StepState
from mainspring.core.objectives import Objective
from mainspring.core.records import Cause, EndpointState, RunState, SweepSpec, SweepState
from mainspring.core.resources import Resources
from mainspring.core.spaces import parse_dimension
from mainspring.core.specs import Entry, RunKind, RunSpec, Value, ValueKind
from mainspring.services import endpoints, models, pipelines, runs, sweeps
from mainspring.services.signals import Signals

TASK = RunSpec(kind=RunKind.TASK, entry=Entry(module="m", function="train"))


def make_sweep(trials: int = 4, parallel: int = 2) -> SweepSpec:
    space = (parse_dimension("log:1e-3:0.3", "lr"),)
    return SweepSpec(template=TASK, space=space, metric="auc", trials=trials, parallel=parallel, seed=3)


def test_a_sweep_keeps_to_its_width_and_ends_with_the_best(house) -> None:
    sweep = sweeps.start(house.ctx, SYSTEM, make_sweep())
    loop = Sweeps(house.ctx)
    told = 0.1
    for _ in range(10):
        loop.tick()
        waiting = [one for one in sweeps.trials(house.ctx, SYSTEM, sweep.id) if one.told_at is None]
        assert len(waiting) <= 2
        house.plan()
        for trial in waiting:
            told += 0.1
            house.end(trial.run, auc=told)
    done = sweeps.get(house.ctx, SYSTEM, sweep.id)
    trials = sweeps.trials(house.ctx, SYSTEM, sweep.id)
    assert (done.state, len(trials), done.best_trial) == (SweepState.DONE, 4, 4)
    assert done.best_value == pytest.approx(0.5)
    assert all(0.001 <= float(trial.params["lr"]) <= 0.3 for trial in trials)


def test_two_controllers_never_submit_a_trial_twice(house) -> None:
    sweeps.start(house.ctx, SYSTEM, make_sweep(trials=6, parallel=3))
    one, two = Sweeps(house.ctx), Sweeps(house.ctx)
    threads = [threading.Thread(target=loop.tick) for loop in (one, two, one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert house.ctx.store.runs.counts("default").get("queued") == 3


def test_two_controllers_that_take_turns_tell_trials_that_end_in_any_order(house) -> None:
    sweep = sweeps.start(house.ctx, SYSTEM, make_sweep(trials=6, parallel=3))
    loops = (Sweeps(house.ctx), Sweeps(house.ctx))
    for turn in range(12):
        loops[turn % 2].tick()
        house.plan()
        waiting = [one for one in sweeps.trials(house.ctx, SYSTEM, sweep.id) if one.told_at is None]
        if waiting:
            house.end(waiting[-1].run, auc=waiting[-1].number / 10)  # the newest first
    loops[0].tick()
    done, trials = sweeps.get(house.ctx, SYSTEM, sweep.id), sweeps.trials(house.ctx, SYSTEM, sweep.id)
    assert (done.state, done.best_trial) == (SweepState.DONE, 6)
    assert [(one.number, one.value) for one in trials] == [(n, n / 10) for n in range(1, 7)]
    assert [one.number for one in house.ctx.store.sweeps.trials(sweep.id, after=4)] == [5, 6]


def test_a_failed_trial_does_not_end_the_sweep(house) -> None:
    sweep = sweeps.start(house.ctx, SYSTEM, make_sweep(trials=2, parallel=1))
    loop = Sweeps(house.ctx)
    loop.tick()
    house.plan()
    house.end(sweeps.trials(house.ctx, SYSTEM, sweep.id)[0].run, Cause.USER_ERROR)
    loop.tick()
    house.plan()
    house.end(sweeps.trials(house.ctx, SYSTEM, sweep.id)[1].run, auc=0.4)
    loop.tick()
    done = sweeps.get(house.ctx, SYSTEM, sweep.id)
    assert (done.state, done.best_trial) == (SweepState.DONE, 2)


def test_stopping_a_sweep_cancels_what_waits_and_keeps_results(house) -> None:
    sweep = sweeps.start(house.ctx, SYSTEM, make_sweep())
    Sweeps(house.ctx).tick()
    assert sweeps.stop(house.ctx, SYSTEM, sweep.id).state is SweepState.STOPPED
    Sweeps(house.ctx).tick()
    states = {house.ctx.store.runs.get(trial.run).state for trial in sweeps.trials(house.ctx, SYSTEM, sweep.id)}
    assert states == {RunState.CANCELLED}


def make_graph(at_least: float) -> Graph:
    return Graph(
        steps=(
            Step(key="train", kind=StepKind.TASK, template=TASK),
            Step(key="evaluate", kind=StepKind.TASK, template=TASK, refs={"model": "train"}),
            Step(
                key="gate",
                kind=StepKind.GATE,
                refs={"figures": "evaluate", "model": "train"},
                objective=Objective(name="goal", kpi="value_usd", at_least=at_least),
            ),
            Step(key="deploy", kind=StepKind.DEPLOY, refs={"model": "train"}, after=("gate",), endpoint="live"),
        )
    )


def drive(house, loop: Pipelines, value_usd: float) -> None:
    """Carry a pipeline through its two tasks."""
    for outputs in ({"result": house.model_value()}, {"result": Value(kind=ValueKind.JSON, json={"value_usd": value_usd})}):
        loop.tick()
        (started,) = house.plan()
        house.end(started, outputs=outputs)
    loop.tick()


def test_a_pipeline_passes_its_gate_and_deploys(house) -> None:
    pipeline = pipelines.start(house.ctx, SYSTEM, "build", make_graph(at_least=10))
    loop = Pipelines(house.ctx)
    drive(house, loop, 50.0)
    loop.tick()
    endpoint = endpoints.get(house.ctx, SYSTEM, "live")
    assert (endpoint.revision, models.resolve(house.ctx, SYSTEM, "live").number) == (1, 1)
    Endpoints(house.ctx).tick()
    (serving,) = house.plan()
    house.begin(house.attempt_of(serving), address="127.0.0.1:9")
    Endpoints(house.ctx).tick()
    loop.tick()
    done = pipelines.get(house.ctx, SYSTEM, pipeline.id)
    assert done.state is PipelineState.SUCCEEDED
    assert "passed" in {step.key: step for step in done.steps}["gate"].message


def test_a_refused_gate_ends_the_pipeline_with_its_sentence(house) -> None:
    pipeline = pipelines.start(house.ctx, SYSTEM, "build", make_graph(at_least=100))
    drive(house, Pipelines(house.ctx), 50.0)
    done = pipelines.get(house.ctx, SYSTEM, pipeline.id)
    steps = {step.key: step for step in done.steps}
    assert done.state is PipelineState.FAILED
    assert "must be at least 100" in steps["gate"].message
    assert steps["deploy"].state is StepState.SKIPPED
    assert house.ctx.store.endpoints.all("default") == []


def test_an_endpoint_replaces_a_dead_replica_and_swaps_revisions(house) -> None:
    models.add_version(house.ctx, SYSTEM, "m", house.folder(m="1"))
    endpoints.deploy(house.ctx, SYSTEM, "live", "m@1")
    loop = Endpoints(house.ctx)
    loop.tick()
    (first,) = house.plan()
    house.begin(house.attempt_of(first), address="127.0.0.1:1001")
    loop.tick()
    assert endpoints.get(house.ctx, SYSTEM, "live").state is EndpointState.READY
    assert endpoints.answering(house.ctx, "live", "default").addresses == ("127.0.0.1:1001",)
    house.end(first, Cause.USER_ERROR)
    house.clock.advance(5)
    loop.tick()
    (second,) = house.plan()
    house.begin(house.attempt_of(second), address="127.0.0.1:1002")
    assert endpoints.answering(house.ctx, "live", "default").addresses == ("127.0.0.1:1002",)
    models.add_version(house.ctx, SYSTEM, "m", house.folder(m="2"))
    endpoints.deploy(house.ctx, SYSTEM, "live", "m@2")
    house.clock.advance(5)
    loop.tick()
    (third,) = house.plan()
    assert endpoints.answering(house.ctx, "live", "default").addresses == ("127.0.0.1:1002",), (
        "the old one serves until the new one answers"
    )
    house.begin(house.attempt_of(third), address="127.0.0.1:1003")
    assert endpoints.answering(house.ctx, "live", "default").addresses == ("127.0.0.1:1003",)
    loop.tick()
    assert house.ctx.store.runs.get(second).desired == "cancelled"


def test_an_endpoint_whose_replicas_die_says_so(house) -> None:
    models.add_version(house.ctx, SYSTEM, "m", house.folder(m="1"))
    endpoints.deploy(house.ctx, SYSTEM, "live", "m@1")
    loop = Endpoints(house.ctx)
    for _ in range(3):
        house.clock.advance(100)
        loop.tick()
        (replica,) = house.plan()
        house.end(replica, Cause.USER_ERROR)
    loop.tick()
    assert endpoints.get(house.ctx, SYSTEM, "live").state is EndpointState.FAILING


def test_two_planners_at_once_start_nothing_twice(house) -> None:
    for _ in range(6):
        runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    two = [Schedule(house.ctx), Schedule(house.ctx)]  # the leader, and one that has not noticed that its term is over
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: one.tick(), two * 4))
    assert [len(house.ctx.store.attempts.of_run(run.id)) for run in house.ctx.store.runs.by_link("", "")] == [1] * 6


def test_nobody_plans_again_while_nothing_changes(house) -> None:
    """Runs wait behind one that nobody may stop: the loop is woken by what happens next, by no clock."""
    schedule = Schedule(house.ctx)
    assert schedule.tick() is None  # nobody waits
    asked = RunSpec(command=("x",), resources=Resources(gpu_milli=2000))
    holds, _ = runs.submit(house.ctx, SYSTEM, replace(asked, is_preemptible=False))
    waits = [runs.submit(house.ctx, SYSTEM, asked)[0] for _ in range(3)]
    schedule.tick()
    house.begin(house.attempt_of(holds))
    told = house.ctx.store.runs.get(waits[0].id)
    assert schedule.tick() is None
    house.clock.advance(3600)
    assert schedule.tick() is None
    again = house.ctx.store.runs.get(waits[0].id)
    assert (again.version, again.reason) == (told.version, told.reason)


def test_a_run_far_behind_that_fits_waits_a_second_at_most(house) -> None:
    blocked = RunSpec(command=("a",), resources=Resources(gpu_milli=2000))
    for _ in range(WINDOW + 2):
        runs.submit(house.ctx, SYSTEM, blocked)
    schedule = Schedule(house.ctx)
    schedule.tick()
    small, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    pause = schedule.tick()
    assert pause is not None
    assert 0 < pause <= WHOLE_S
    house.clock.advance(pause)
    schedule.tick()
    assert house.ctx.store.runs.get(small.id).state is RunState.RUNNING


def test_a_plan_looks_at_more_where_much_starts_and_at_less_where_little_does(house) -> None:
    ids = [runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))[0].id for _ in range(2 * WINDOW)]
    seen = house.ctx.store.snapshot(house.clock.now())
    assert window(NARROW, ids[:NARROW], seen) == 2 * NARROW, "all that was looked at started: there may be room for more"
    assert window(WINDOW, ids[:WINDOW], seen) == WINDOW
    assert window(WINDOW, ids[:3], seen) == WINDOW // 2
    assert window(NARROW, [], seen) == NARROW


def test_a_loop_survives_a_tick_that_raises_and_wakes_on_its_topic() -> None:
    signals, seen = Signals(), []
    woken = threading.Event()

    def tick() -> None:
        seen.append(1)
        if len(seen) == 1:
            raise RuntimeError("once")
        woken.set()

    loops = Loops(signals)
    loops.start([Loop(name="t", topics=("runs",), tick=tick, idle_s=60)])
    assert woken.wait(60), "it was not tried again after it raised"
    woken.clear()
    signals.hint("runs")
    assert woken.wait(60), "its topic did not wake it"
    loops.stop()


def storm(signals: Signals, loop: Loop, is_over: threading.Event, others_s: Callable[[], float] = time.monotonic) -> None:
    """Let a loop run while its topic moves all the time, until it is over; for a minute at most."""
    loops = Loops(signals, others_s=others_s)
    loops.start([loop])
    deadline = time.monotonic() + 60
    while not is_over.wait(0.001) and time.monotonic() < deadline:
        signals.hint("runs")
    loops.stop()


def test_a_loop_rests_between_the_ticks_of_a_storm() -> None:
    signals, ticks = Signals(), []
    is_over = threading.Event()

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 5:
            is_over.set()

    storm(signals, Loop(name="t", topics=("runs",), tick=tick, gap_s=0.05), is_over)
    assert ticks[4] - ticks[0] >= 3 * 0.05, "each rest is counted from the beginning of the tick before"


@pytest.mark.parametrize(("others_s", "is_resting"), [(time.monotonic, True), (lambda: 0.0, False)], ids=["busy", "idle"])
def test_a_loop_that_rests_leaves_time_in_proportion_to_what_a_tick_took_to_who_wants_it(
    others_s: Callable[[], float], is_resting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MOST_REST_S", 2.0)
    signals, ticks = Signals(), []
    is_over, never = threading.Event(), threading.Event()

    def tick() -> None:
        ticks.append(time.monotonic())
        never.wait(0.03)
        if len(ticks) == 4:
            is_over.set()

    storm(signals, Loop(name="t", topics=("runs",), tick=tick, rest=100.0), is_over, others_s)
    took_s = ticks[3] - ticks[0]
    assert took_s >= 3 * (0.03 + 2.0) if is_resting else took_s < 3 * 2.0, took_s
