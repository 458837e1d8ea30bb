"""The cache of runs: taken only where everything agrees and is there, told which part did not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mainspring.controllers.pipelines import Pipelines
from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.errors import StateError
from mainspring.core.graphs import Graph, PipelineState, Step, StepKind
from mainspring.core.ids import RunId
from mainspring.core.records import Cause, Role, RunState, Secret
from mainspring.core.resources import Resources
from mainspring.core.specs import Code, Entry, Environment, RunKind, RunSpec, Value, ValueKind
from mainspring.services import lineage, pipelines, projects, runs

EDITOR = Actor(name="ed", roles={"default": Role.EDITOR, "other": Role.EDITOR})


@pytest.fixture
def spec(house) -> RunSpec:
    """A cached task with code, an argument, a default and an environment."""
    return RunSpec(
        kind=RunKind.TASK,
        name="train",
        entry=Entry(module="steps", function="train"),
        code=Code(manifest=house.folder(**{"steps.py": "1", "more.py": "1"})),
        args={"lr": Value(kind=ValueKind.JSON, json=0.1)},
        params={"lr": 0.1, "depth": 6},
        environment=Environment(interpreter="/usr/bin/python3", packages="f" * 64),
        cache=True,
    )


@pytest.fixture
def first(house, spec):
    """A run of it that succeeded."""
    run, _ = runs.submit(house.ctx, EDITOR, spec)
    house.plan()
    digest = house.ctx.blobs.put_bytes(b"weights")
    return house.end(run, outputs={"result": Value(kind=ValueKind.FILE, digest=digest, size_bytes=7)}, auc=0.9)


def again(house, spec, **more):
    return runs.submit(house.ctx, EDITOR, spec, **more)[0]


def test_the_same_call_takes_the_outputs_at_once(house, spec, first) -> None:
    run = again(house, replace(spec, name="later", tags=("a",), retries=3, priority=0, resources=Resources(cpu_milli=2000)))
    assert (run.state, run.cached_from, run.outputs) == (RunState.SUCCEEDED, first.id, first.outputs)
    assert house.ctx.store.runs.get(run.id) == run
    assert run.metrics == {"auc": 0.9}
    assert (run.ended_at, run.started_at, run.attempt) == (run.created_at, None, 0)
    told = runs.why(house.ctx, EDITOR, run.id)
    assert first.id in told["sentence"]
    assert told["cache"]["from"] == first.id
    assert [one.kind for one in house.ctx.store.events.since(0)][-2:] == ["run.submitted", "run.succeeded"]
    graph = lineage.of_run(house.ctx, EDITOR, run.id)
    assert [f"run:{run.id}", f"run:{first.id}"] in graph["edges"]


def changes(house, spec) -> dict[str, RunSpec]:
    def value(json: object) -> Value:
        return Value(kind=ValueKind.JSON, json=json)

    environment = spec.environment
    return {
        "argument lr": replace(spec, args={"lr": value(0.2)}, params={"lr": 0.2, "depth": 6}),
        "parameter depth": replace(spec, params={"lr": 0.1, "depth": 7}),
        "argument x": replace(spec, args={**spec.args, "x": value(1)}),
        "code": replace(spec, code=Code(manifest=house.folder(**{"steps.py": "2", "more.py": "1"}))),
        "working folder": replace(spec, code=replace(spec.code, folder="src")),
        "packages": replace(spec, environment=replace(environment, packages="e" * 64)),
        "interpreter": replace(spec, environment=replace(environment, interpreter="/opt/python")),
        "GPUs": replace(spec, resources=Resources(gpu_milli=1000)),
        "replicas": replace(spec, replicas=2),
        "variable SEED": replace(spec, env={"SEED": "1"}),
        "secret KEY": replace(spec, secrets=("KEY",)),
    }


@pytest.mark.parametrize(
    "part",
    [
        "argument lr", "parameter depth", "argument x", "code", "working folder", "packages", "interpreter", "GPUs", "replicas",
        "variable SEED", "secret KEY",
    ],
)  # fmt: skip
def test_whatever_travels_is_in_the_key_and_what_changed_is_told(house, spec, first, part: str) -> None:
    house.ctx.store.secrets.put(Secret(project="default", name="KEY", created_at=house.clock.now(), created_by="ed"), b"sealed")
    run = again(house, changes(house, spec)[part])
    assert (run.state, run.cached_from) == (RunState.QUEUED, "")
    told = runs.why(house.ctx, EDITOR, run.id)["cache"]
    assert (told["nearest"], told["changed"]) == (first.id, [part])
    shown = "code (steps.py)" if part == "code" else part
    assert told["sentence"] == f"Computed: not as in run {first.id} are {shown}."


def test_the_nearest_is_the_one_that_agrees_in_most(house, spec, first) -> None:
    far = again(house, replace(changes(house, spec)["code"], env={"A": "1"}))
    house.plan()
    house.end(far)
    near = again(house, replace(spec, env={"B": "1"}))
    assert runs.why(house.ctx, EDITOR, near.id)["cache"]["nearest"] == first.id


def test_a_run_is_computed_when_it_is_asked_to_be(house, spec, first) -> None:
    assert again(house, replace(spec, cache=False)).state is RunState.QUEUED
    fresh = runs.rerun(house.ctx, EDITOR, first.id, is_fresh=True)
    assert fresh.state is RunState.QUEUED
    house.plan()
    house.end(fresh)
    assert again(house, spec).cached_from == fresh.id  # the newest that was computed


def test_a_run_that_failed_or_goes_on_has_nothing_to_take(house, spec) -> None:
    run = again(house, spec)
    assert again(house, spec).state is RunState.QUEUED
    house.plan()
    house.end(run, Cause.USER_ERROR)
    assert again(house, spec).state is RunState.QUEUED


def test_outputs_that_are_gone_are_computed_again(house, spec, first) -> None:
    digest = first.outputs["result"].digest
    for path in (house.ctx.settings.home / "blobs").rglob("*"):
        if path.is_file() and digest in path.name:
            path.unlink()
    assert house.ctx.blobs.missing([digest]) == [digest]
    assert again(house, spec).state is RunState.QUEUED


def test_another_project_computes_its_own(house, spec, first) -> None:
    projects.add(house.ctx, SYSTEM, "other")
    assert again(house, replace(spec, project="other")).state is RunState.QUEUED


def test_a_run_that_met_other_packages_is_offered_to_nobody(house, spec) -> None:
    run = again(house, spec)
    house.plan()
    line = b'{"kind": "packages_changed", "expected": "a", "found": "b"}\n'
    house.ctx.store.attempts.append(house.attempt_of(run).id, 0, [("events", 0, line)], now=house.clock.now())
    house.end(run)
    assert again(house, spec).state is RunState.QUEUED


def test_what_does_not_say_what_is_installed_is_not_cached(house, spec) -> None:
    run = again(house, replace(spec, environment=Environment()))
    house.plan()
    house.end(run)
    second = again(house, replace(spec, environment=Environment()))
    assert second.state is RunState.QUEUED
    assert "Not cached" in runs.why(house.ctx, EDITOR, second.id)["cache"]["sentence"]


def test_a_source_that_is_removed_meanwhile_is_not_taken(house, spec, first) -> None:
    made = runs.make_run(house.ctx, "ed", spec)
    assert made.cached_from == first.id
    other, _ = house.ctx.store.runs.submit(replace(made, id=RunId("run-other"), cache_key="0" * 64))
    assert (other.state, other.cached_from) == (RunState.QUEUED, "")  # the store takes nobody's word for it
    runs.remove(house.ctx, SYSTEM, first.id)
    accepted, _ = house.ctx.store.runs.submit(made)
    assert (accepted.state, accepted.cached_from) == (RunState.QUEUED, "")


def test_a_retried_pipeline_goes_on_after_its_last_good_step(house, spec) -> None:
    second = replace(spec, name="second", cache=False, args={})
    plain = replace(spec, cache=False)
    graph = Graph(
        steps=(
            Step(key="one", kind=StepKind.TASK, template=plain),
            Step(key="two", kind=StepKind.TASK, template=second, refs={"x": "one"}),
            Step(key="three", kind=StepKind.TASK, template=second, refs={"x": "two"}),
        )
    )

    def tick_and_end(id: str, cause: Cause) -> dict[str, str]:
        Pipelines(house.ctx).tick()
        going = next(one for one in pipelines.get(house.ctx, EDITOR, id).steps if one.state == "running")
        house.plan()
        house.end(going.run, cause, outputs={"result": Value(kind=ValueKind.JSON, json=going.key)})
        Pipelines(house.ctx).tick()
        return {one.key: str(one.state) for one in pipelines.get(house.ctx, EDITOR, id).steps}

    failed = pipelines.start(house.ctx, EDITOR, "nightly", graph)
    with pytest.raises(StateError, match="is not over"):
        pipelines.retry(house.ctx, EDITOR, failed.id)
    tick_and_end(failed.id, Cause.SUCCEEDED)
    assert tick_and_end(failed.id, Cause.USER_ERROR) == {"one": "succeeded", "two": "failed", "three": "skipped"}
    again = pipelines.retry(house.ctx, EDITOR, failed.id, key="k")
    assert pipelines.retry(house.ctx, EDITOR, failed.id, key="k").id == again.id
    assert [str(one.state) for one in again.steps] == ["succeeded", "waiting", "waiting"]
    assert tick_and_end(again.id, Cause.SUCCEEDED) == {"one": "succeeded", "two": "succeeded", "three": "running"}
    two = house.ctx.store.runs.get(pipelines.get(house.ctx, EDITOR, again.id).steps[1].run)
    assert two.spec.args["x"].json == "one"
    tick_and_end(again.id, Cause.SUCCEEDED)
    with pytest.raises(StateError, match="succeeded"):
        pipelines.retry(house.ctx, EDITOR, again.id)


def test_a_step_of_a_pipeline_is_skipped(house, spec, first) -> None:
    graph = Graph(steps=(Step(key="train", kind=StepKind.TASK, template=spec),))
    started = pipelines.start(house.ctx, EDITOR, "nightly", graph)
    for _ in range(2):
        Pipelines(house.ctx).tick()
    ended = pipelines.get(house.ctx, EDITOR, started.id)
    assert ended.state is PipelineState.SUCCEEDED
    run = house.ctx.store.runs.get(ended.steps[0].run)
    assert run.cached_from == first.id
    assert first.id in ended.steps[0].message
