"""Runs, models, gates, endpoints, lineage: what a user may do, and what is refused with which words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.errors import (
    AccessDeniedError,
    CannotFitError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    SpecError,
    StateError,
    UsageError,
)
from mainspring.core.objectives import Objective
from mainspring.core.queries import RunFilter
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import Cause, Dimension, Endpoint, EndpointState, Node, Role, RunState, SweepSpec
from mainspring.core.resources import CONTAINERS, Resources
from mainspring.core.specs import Entry, Environment, RunKind, RunSpec, Value, ValueKind
from mainspring.services import clusters, datasets, endpoints, events, gates, lineage, models, projects, runs, sweeps
from mainspring.services.fitting import FRESH_S

VIEWER = Actor(name="vera", roles={"default": Role.VIEWER})
EDITOR = Actor(name="ed", roles={"default": Role.EDITOR})
STRANGER = Actor(name="sam", roles={})
SPEC = RunSpec(command=("python", "train.py", "--lr", "0.1"))


def test_the_same_key_gives_the_same_run(house) -> None:
    first, is_new = runs.submit(house.ctx, EDITOR, SPEC, key="k")
    again, is_new_again = runs.submit(house.ctx, EDITOR, SPEC, key="k")
    assert (first.id, is_new, is_new_again) == (again.id, True, False)
    assert runs.page(house.ctx, EDITOR, RunFilter(project="default")).total == 1


@pytest.mark.parametrize(
    ("actor", "spec", "error"),
    [
        (VIEWER, SPEC, AccessDeniedError),
        (STRANGER, SPEC, AccessDeniedError),
        (EDITOR, RunSpec(command=("a",), project="nowhere"), NotFoundError),
        (EDITOR, RunSpec(command=("a",), secrets=("MISSING",)), NotFoundError),
        (EDITOR, RunSpec(command=()), SpecError),
        (EDITOR, RunSpec(command=("a",), name="../x"), SpecError),
        (EDITOR, RunSpec(command=("a",), resources=Resources(gpu_milli=3000)), CannotFitError),
        (EDITOR, RunSpec(command=("a",), resources=Resources(gpu_milli=1000), replicas=3), CannotFitError),
        (EDITOR, RunSpec(command=("a",), resources=Resources(gpu_milli=1000, gpu_models=("H900",))), CannotFitError),
        (EDITOR, RunSpec(command=("a",), resources=Resources(memory_bytes=-1)), SpecError),
    ],
)
def test_what_cannot_be_is_refused_at_once(house, actor: Actor, spec: RunSpec, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        runs.submit(house.ctx, actor, spec)
    assert str(caught.value)
    assert runs.page(house.ctx, SYSTEM, RunFilter(project="default")).total == 0


def test_a_sweep_of_an_image_is_refused_where_no_container_runs_and_its_trials_are_kept_from_there(house) -> None:
    template = RunSpec(command=("python", "train.py"), environment=Environment(image="python:3.12-slim"))
    space = (Dimension(name="rate", kind="log", low=0.01, high=1.0),)
    with pytest.raises(CannotFitError):
        sweeps.start(house.ctx, EDITOR, SweepSpec(template=template, space=space, metric="auc", trials=2))
    trial = runs.make_run(house.ctx, "ed", template)
    assert dict(trial.spec.resources.labels) == CONTAINERS


def test_a_request_that_can_never_fit_says_what_would(house) -> None:
    with pytest.raises(CannotFitError, match="2 GPUs"):
        runs.submit(house.ctx, EDITOR, RunSpec(command=("a",), resources=Resources(gpu_milli=8000)))


def test_what_fitted_a_moment_ago_is_not_judged_again(house) -> None:
    """Until then a node that lost its devices lets a run wait, which says why; nothing is refused by what was."""
    spec = RunSpec(command=("a",), resources=Resources(gpu_milli=1000))
    runs.submit(house.ctx, EDITOR, spec)
    node = house.ctx.store.nodes.all()[0]
    house.ctx.store.nodes.upsert("local", [replace(node, devices=())], now=house.clock.now())
    runs.submit(house.ctx, EDITOR, spec)
    house.clock.advance(FRESH_S)
    with pytest.raises(CannotFitError):
        runs.submit(house.ctx, EDITOR, spec)
    house.ctx.store.nodes.upsert("local", [node], now=house.clock.now())
    runs.submit(house.ctx, EDITOR, spec)


def test_a_waiting_run_tells_why_and_who_is_ahead(house) -> None:
    gpus = Resources(gpu_milli=2000)
    first, _ = runs.submit(house.ctx, EDITOR, RunSpec(command=("a",), resources=gpus))
    second, _ = runs.submit(house.ctx, EDITOR, RunSpec(command=("a",), resources=gpus))
    third, _ = runs.submit(house.ctx, EDITOR, RunSpec(command=("a",), resources=gpus))
    assert runs.why(house.ctx, EDITOR, third.id)["reason"].code is ReasonCode.NOT_PLANNED_YET
    runs.pause(house.ctx, EDITOR, third.id)
    assert runs.why(house.ctx, EDITOR, third.id)["reason"].code is ReasonCode.PAUSED  # before any plan says so
    runs.resume(house.ctx, EDITOR, third.id)
    assert house.plan() == [first.id]
    told = runs.why(house.ctx, EDITOR, third.id)
    assert told["reason"].code is ReasonCode.NO_FREE_GPU
    assert "ed" in told["sentence"]
    assert [one["run"] for one in told["ahead"]] == [second.id]
    assert [one.run for one in clusters.queue(house.ctx, EDITOR)] == [second.id, third.id]


def test_whose_end_lets_a_run_start_is_named_to_those_who_may_see_it(house) -> None:
    projects.add(house.ctx, SYSTEM, "closed")
    asked = RunSpec(command=("a",), resources=Resources(gpu_milli=2000), timeout_s=600)
    first, _ = runs.submit(house.ctx, SYSTEM, replace(asked, project="closed"))
    house.plan()
    house.begin(house.attempt_of(first))
    waits, _ = runs.submit(house.ctx, EDITOR, asked)
    house.plan()
    (named,) = [one for one in runs.why(house.ctx, SYSTEM, waits.id)["changes"] if one.at]
    (hidden,) = [one for one in runs.why(house.ctx, EDITOR, waits.id)["changes"] if one.at]
    assert first.id in named.sentence
    assert (hidden.at, hidden.facts) == (named.at, {})
    assert hidden.sentence.startswith("when a run of a project you are not in ends")


def test_cancel_of_a_waiting_run_is_at_once_and_of_a_running_one_is_intent(house) -> None:
    run, _ = runs.submit(house.ctx, EDITOR, SPEC)
    assert runs.cancel(house.ctx, EDITOR, run.id).state is RunState.CANCELLED
    assert runs.cancel(house.ctx, EDITOR, run.id).state is RunState.CANCELLED
    other, _ = runs.submit(house.ctx, EDITOR, SPEC)
    house.plan()
    house.begin(house.attempt_of(other))
    asked = runs.cancel(house.ctx, EDITOR, other.id, grace_s=7)
    assert asked.state is RunState.RUNNING, "cancelled only after the end is confirmed"
    assert "7 s of grace" in str(runs.why(house.ctx, EDITOR, other.id)["sentence"])
    assert house.end(other, Cause.CANCELLED).state is RunState.CANCELLED


def test_a_result_that_races_a_cancel_wins_if_it_came_first(house) -> None:
    run, _ = runs.submit(house.ctx, EDITOR, SPEC)
    house.plan()
    house.begin(house.attempt_of(run))
    runs.cancel(house.ctx, EDITOR, run.id)
    assert house.end(run, Cause.SUCCEEDED).state is RunState.SUCCEEDED


def test_pause_and_resume(house) -> None:
    run, _ = runs.submit(house.ctx, EDITOR, SPEC)
    runs.pause(house.ctx, EDITOR, run.id)
    assert house.plan() == []
    assert runs.why(house.ctx, EDITOR, run.id)["reason"].code is ReasonCode.PAUSED
    runs.resume(house.ctx, EDITOR, run.id)
    assert house.plan() == [run.id]
    house.begin(house.attempt_of(run))
    runs.pause(house.ctx, EDITOR, run.id)
    assert house.end(run, Cause.PREEMPTED).state is RunState.QUEUED
    assert house.plan() == []


def test_rerun_changes_declared_parameters_only(house) -> None:
    script, _ = runs.submit(house.ctx, EDITOR, SPEC)
    assert runs.rerun(house.ctx, EDITOR, script.id, set_params={"lr": 0.5}).spec.command[-1] == "0.5"
    assert runs.rerun(house.ctx, EDITOR, script.id, args=["--fast"]).spec.command == ("python", "train.py", "--fast")
    with pytest.raises(UsageError, match="--epochs"):
        runs.rerun(house.ctx, EDITOR, script.id, set_params={"epochs": 3})
    task = RunSpec(kind=RunKind.TASK, entry=Entry(module="m", function="f"), args={"lr": Value(kind=ValueKind.JSON, json=1)})
    made, _ = runs.submit(house.ctx, EDITOR, task)
    again = runs.rerun(house.ctx, EDITOR, made.id, set_params={"lr": 2})
    assert (again.spec.args["lr"].json, again.spec.params["lr"]) == (2, 2)
    with pytest.raises(UsageError, match="it has: lr"):
        runs.rerun(house.ctx, EDITOR, made.id, set_params={"nope": 1})


def test_runs_are_found_by_id_beginning_end_and_name(house) -> None:
    run, _ = runs.submit(house.ctx, EDITOR, RunSpec(command=("a",), name="mine"))
    newer, _ = runs.submit(house.ctx, EDITOR, RunSpec(command=("a",), name="mine"))
    assert runs.get(house.ctx, EDITOR, run.id).id == run.id
    assert runs.get(house.ctx, EDITOR, "mine").id == newer.id
    assert runs.get(house.ctx, EDITOR, run.id[-5:]).id == run.id
    with pytest.raises(NotFoundError):
        runs.get(house.ctx, STRANGER, run.id)
    with pytest.raises(ConflictError):
        runs.get(house.ctx, EDITOR, run.id[:8])


def test_who_raises_a_priority_must_be_an_owner(house) -> None:
    run, _ = runs.submit(house.ctx, EDITOR, SPEC)
    assert runs.edit(house.ctx, EDITOR, run.id, priority=-5, add_tags=["a"]).tags == ("a",)
    with pytest.raises(AccessDeniedError):
        runs.edit(house.ctx, EDITOR, run.id, priority=10)
    owner = Actor(name="olga", roles={"default": Role.OWNER})
    assert runs.edit(house.ctx, owner, run.id, priority=10).priority == 10


def test_only_ended_runs_are_archived_and_removed(house) -> None:
    run, _ = runs.submit(house.ctx, EDITOR, SPEC)
    for act in (runs.archive, runs.remove):
        with pytest.raises(StateError):
            act(house.ctx, EDITOR, run.id)
    runs.cancel(house.ctx, EDITOR, run.id)
    runs.archive(house.ctx, EDITOR, run.id)
    assert runs.page(house.ctx, EDITOR, RunFilter(project="default")).items == ()
    runs.unarchive(house.ctx, EDITOR, run.id)
    runs.remove(house.ctx, EDITOR, run.id)
    with pytest.raises(NotFoundError):
        runs.get(house.ctx, EDITOR, run.id)


def test_a_data_set_version_names_only_what_is_stored(house) -> None:
    digest = house.folder(**{"a.csv": "1", "b.csv": "2"})
    version, is_new = datasets.add_version(house.ctx, EDITOR, "flights", digest)
    again, is_new_again = datasets.add_version(house.ctx, EDITOR, "flights", digest)
    assert (version.number, version.files, is_new, again.number, is_new_again) == (1, 2, True, 1, False)
    datasets.add_version(house.ctx, EDITOR, "flights", house.folder(**{"a.csv": "3"}))
    assert datasets.get(house.ctx, VIEWER, "flights").number == 2
    assert datasets.get(house.ctx, VIEWER, "flights", "v1").manifest == digest
    with pytest.raises(NotFoundError, match="newest is v2"):
        datasets.get(house.ctx, VIEWER, "flights", "v9")
    with pytest.raises(NotFoundError):
        datasets.add_version(house.ctx, EDITOR, "flights", "0" * 64)
    lying = house.ctx.blobs.put_bytes(b'{"files":[{"digest":"' + b"1" * 64 + b'","mode":420,"path":"a","size":1}]}')
    with pytest.raises(IntegrityError):
        datasets.add_version(house.ctx, EDITOR, "flights", lying)


def test_models_have_versions_and_aliases_that_move(house) -> None:
    first = models.add_version(house.ctx, EDITOR, "delays", house.folder(m="1"), aliases=["champion"])
    second = models.add_version(house.ctx, EDITOR, "delays", house.folder(m="2"))
    assert models.resolve(house.ctx, VIEWER, "delays", "champion").number == first.number
    models.set_alias(house.ctx, EDITOR, "delays", "champion", second.number)
    assert models.resolve(house.ctx, VIEWER, "delays", "champion").number == 2
    assert models.resolve(house.ctx, VIEWER, "delays", "v1").number == 1
    assert models.resolve(house.ctx, VIEWER, "delays").number == 2
    with pytest.raises(NotFoundError, match="aliases: champion"):
        models.resolve(house.ctx, VIEWER, "delays", "challenger")
    with pytest.raises(UsageError):
        models.set_alias(house.ctx, EDITOR, "delays", "latest", 1)
    with pytest.raises(AccessDeniedError):
        models.set_alias(house.ctx, VIEWER, "delays", "champion", 1)


def test_a_gate_refuses_with_a_sentence_and_remembers_the_champion(house) -> None:
    goal = Objective(name="delays", kpi="value_usd", at_least=100, beats_by=10)
    assert not gates.judge(house.ctx, EDITOR, goal, {"value_usd": 5.0}).is_passed
    assert gates.judge(house.ctx, EDITOR, goal, {"value_usd": 200.0}).is_passed
    refused = gates.judge(house.ctx, EDITOR, goal, {"value_usd": 205.0})
    assert "champion's 200" in refused.sentence
    assert [one.is_passed for one in gates.all(house.ctx, VIEWER)] == [False, True, False]
    version = models.add_version(house.ctx, EDITOR, "m", house.folder(m="1"), run="run-x")
    by_run = gates.judge(house.ctx, EDITOR, goal, {"value_usd": 5.0}, run="run-x")
    by_name = gates.judge(house.ctx, EDITOR, goal, {"value_usd": 5.0}, model="m", model_version=1)
    other = gates.judge(house.ctx, EDITOR, goal, {"value_usd": 5.0}, model="m", model_version=2)
    assert [gates.is_about(one, version) for one in (by_run, by_name, other)] == [True, True, False]
    assert gates.objectives(house.ctx, VIEWER) == [goal]


def test_rollback_goes_to_the_model_before(house) -> None:
    models.add_version(house.ctx, EDITOR, "delays", house.folder(m="1"))
    models.add_version(house.ctx, EDITOR, "delays", house.folder(m="2"))
    endpoints.deploy(house.ctx, EDITOR, "live", "delays@1")
    with pytest.raises(StateError, match="no earlier revision"):
        endpoints.rollback(house.ctx, EDITOR, "live")
    endpoints.deploy(house.ctx, EDITOR, "live", "delays@1")
    with pytest.raises(StateError, match="All 2 revisions of endpoint 'live' serve delays@1"):
        endpoints.rollback(house.ctx, EDITOR, "live")
    assert endpoints.deploy(house.ctx, EDITOR, "live", "delays@2").revision == 3
    back = endpoints.rollback(house.ctx, EDITOR, "live")
    assert back.revision == 4
    assert endpoints.revisions(house.ctx, EDITOR, "live")[-1].model_version == 1
    assert endpoints.stop(house.ctx, EDITOR, "live").stopped_at is not None
    assert back.state is EndpointState.STARTING


def test_a_native_model_is_served_where_it_was_made_and_a_converted_one_anywhere(house) -> None:
    made = Environment(interpreter="3.11", lock=house.ctx.blobs.put_bytes(b"numpy==2.0"), packages="p", image="our/train:3")
    run = runs.make_run(house.ctx, "eve", replace(SPEC, environment=made))
    house.ctx.store.runs.submit(run)
    specs = []
    for name in ("native", "onnx"):
        models.add_version(house.ctx, EDITOR, name, house.folder(m=name), format=name, run=run.id)
        endpoint = endpoints.deploy(house.ctx, EDITOR, name, f"{name}@1")
        (revision,) = endpoints.revisions(house.ctx, EDITOR, name)
        specs.append(endpoints.serving_spec(house.ctx, endpoint, revision))
    assert [one.command[0] for one in specs] == ["python3", "python3"], "the interpreter of the environment takes its place"
    grown = specs[0].environment.lock  # with what serving needs
    assert house.ctx.blobs.get(grown).startswith(b"numpy==2.0\nuvicorn==")
    assert specs[0].environment == replace(made, packages="", lock=grown)
    assert specs[1].environment == Environment(interpreter=house.ctx.settings.python)


def test_an_endpoint_stays_in_its_pool_until_it_is_told_otherwise(house) -> None:
    lab = Node(id="local.lab", cluster="local", name="lab", cpu_milli=2000, memory_bytes=1 << 30, pool="lab")
    house.ctx.store.nodes.upsert("local", [*house.ctx.store.nodes.all("local"), lab], now=house.clock.now())
    for number in "12":
        models.add_version(house.ctx, EDITOR, "delays", house.folder(m=number))

    def pool_of(made: Endpoint) -> str:
        revision = endpoints.revisions(house.ctx, EDITOR, "live")[-1]
        asked = endpoints.serving_spec(house.ctx, made, revision).resources.pool
        assert asked == revision.pool
        return asked

    assert pool_of(endpoints.deploy(house.ctx, EDITOR, "live", "delays@1", pool="lab")) == "lab"
    assert pool_of(endpoints.deploy(house.ctx, EDITOR, "live", "delays@2")) == "lab"
    assert pool_of(endpoints.deploy(house.ctx, EDITOR, "live", "delays@1", pool="")) == ""
    assert pool_of(endpoints.rollback(house.ctx, EDITOR, "live")) == "lab"
    with pytest.raises(CannotFitError, match="nowhere"):
        endpoints.deploy(house.ctx, EDITOR, "live", "delays@1", pool="nowhere")
    assert len(endpoints.revisions(house.ctx, EDITOR, "live")) == 4, "what is refused leaves no revision"


def test_events_of_others_do_not_hold_up_ones_own(house) -> None:
    for number in range(5):
        house.ctx.store.events.append(runs.said(SYSTEM, "node.ready", f"n{number}", ""))
    run, _ = runs.submit(house.ctx, EDITOR, SPEC)
    seen = events.since(house.ctx, VIEWER, 0, limit=2)
    assert [one.subject for one in seen if one.kind == "run.submitted"] == [run.id]
    assert events.since(house.ctx, STRANGER, 0, limit=2) == []


def test_lineage_leads_from_the_endpoint_to_digests_of_files(house) -> None:
    raw = house.folder(**{"jan.csv": "1"})
    datasets.add_version(house.ctx, EDITOR, "flights", raw)
    data = {"flights": Value(kind=ValueKind.DATASET, digest=raw)}
    entry = Entry(module="m", function="prepare")
    prepare, _ = runs.submit(house.ctx, EDITOR, RunSpec(kind=RunKind.TASK, entry=entry, args=data))
    house.plan()
    prepared = Value(kind=ValueKind.DATASET, digest=house.folder(**{"x.npz": "x"}))
    house.end(prepare, outputs={"result": prepared})
    train, _ = runs.submit(house.ctx, EDITOR, RunSpec(kind=RunKind.TASK, entry=entry, args={"data": prepared}))
    house.plan()
    done = house.end(train, outputs={"result": house.model_value()}, roc_auc=0.7)
    version = models.add_from_run(house.ctx, EDITOR, "delays", done)
    assert version.metrics == {"roc_auc": pytest.approx(0.7)}
    endpoints.deploy(house.ctx, EDITOR, "live", "delays@1")
    graph = lineage.of_endpoint(house.ctx, EDITOR, "live")
    kinds = [node.kind for node in graph["nodes"]]
    assert {"endpoint", "model", "run", "dataset", "file"} <= set(kinds)
    labels = {node.label for node in graph["nodes"]}
    assert {"live", "delays v1", "flights v1", "jan.csv", "x.npz"} <= labels
    known = {node.id for node in graph["nodes"]}
    assert all(one in known for edge in graph["edges"] for one in edge)
