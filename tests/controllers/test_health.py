"""The health loop by rows and a clock that is moved by hand: quarantine, probes, drains with a time, and crashes in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mainspring.controllers.health import Health
from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.errors import AccessDeniedError, NotFoundError, UsageError
from mainspring.core.records import AttemptState, Cause, ClosureState, NodeState, RunState, Symptom, SymptomKind
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec
from mainspring.services import clusters, runs

ONE, TWO = "local.one", "local.two"


@pytest.fixture
def two(house) -> str:
    """A second node like the first one."""
    store = house.ctx.store
    one = store.nodes.get(ONE)
    store.nodes.upsert("local", [one, replace(one, id=TWO, name="two")], now=house.clock.now())
    return TWO


def submit(house, **spec):
    return runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",), **spec))[0]


def on(node: str) -> Resources:
    return Resources(labels={"node": node})


def state(house, node: str = ONE) -> NodeState:
    return house.ctx.store.nodes.get(node).state


def spoil(house, count: int = 3) -> None:
    """Let so many runs fail on the first node; the like of them begins on the second."""
    for _ in range(count):
        run = submit(house, resources=on(ONE))
        assert house.plan() == [run.id]
        house.end(run, Cause.LAUNCH_FAILED)
        runs.cancel(house.ctx, SYSTEM, run.id)
    run = submit(house, resources=on(TWO))
    house.plan()
    house.begin(house.attempt_of(run))
    house.end(run)


def kinds(house) -> list[str]:
    return [event.kind for event in house.ctx.store.events.since(0) if event.kind.startswith("node.")]


def probe_of(house, node: str = ONE):
    (closure,) = house.ctx.store.nodes.get(node).closures
    return house.ctx.store.runs.get(closure.probe) if closure.probe else None


def test_a_node_that_fails_every_launch_is_quarantined_and_why_says_so(house, two) -> None:
    spoil(house, 2)
    assert Health(house.ctx).tick() is None
    assert state(house) is NodeState.READY
    spoil(house)
    Health(house.ctx).tick()
    assert (state(house), state(house, TWO)) == (NodeState.QUARANTINED, NodeState.READY)
    assert kinds(house) == ["node.quarantined"]
    run = submit(house, resources=on(ONE))
    assert house.plan() == []
    told = runs.why(house.ctx, SYSTEM, run.id)
    assert told["reason"].code == "quarantined"
    assert "one (quarantined)" in told["sentence"]
    assert "could not be launched here" in told["sentence"]


def test_a_server_that_was_killed_before_the_row_judges_the_same(house, two, monkeypatch) -> None:
    spoil(house)
    monkeypatch.setattr("mainspring.controllers.health.reach", _die_at("before-quarantine"))
    with pytest.raises(KilledError):
        Health(house.ctx).tick()
    assert state(house) is NodeState.READY
    monkeypatch.undo()
    Health(house.ctx).tick()
    Health(house.ctx).tick()
    assert state(house) is NodeState.QUARANTINED
    assert kinds(house) == ["node.quarantined"]


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


def _die_at(point: str):
    def reach(name: str) -> None:
        if name == point:
            raise KilledError(name)

    return reach


def test_a_probe_opens_the_node_again(house, two) -> None:
    spoil(house)
    assert Health(house.ctx).tick() == pytest.approx(600.0)
    house.clock.advance(601)
    assert Health(house.ctx).tick() == 1.0
    probe = probe_of(house)
    assert (probe.state, probe.tags) == (RunState.RUNNING, ("cluster-check",))
    assert house.attempt_of(probe).replicas[0].node == ONE
    assert state(house) is NodeState.QUARANTINED
    Health(house.ctx).tick()
    assert probe_of(house).id == probe.id, "one at a time"
    other = submit(house, resources=on(ONE))
    assert house.plan() == [], "a node in quarantine gets no run but its probe"
    house.begin(house.attempt_of(probe))
    Health(house.ctx).tick()
    assert state(house) is NodeState.READY
    assert house.plan() == [other.id]
    house.end(probe)
    assert kinds(house) == ["node.quarantined", "node.ready"]


def test_a_probe_that_fails_is_taken_back_and_the_pause_doubles(house, two) -> None:
    spoil(house)
    Health(house.ctx).tick()
    house.clock.advance(601)
    Health(house.ctx).tick()
    probe = probe_of(house)
    house.end(probe, Cause.LAUNCH_FAILED)
    Health(house.ctx).tick()
    assert Health(house.ctx).tick() == pytest.approx(1200.0)
    assert state(house) is NodeState.QUARANTINED
    assert house.ctx.store.runs.get(probe.id).state is RunState.CANCELLED
    house.clock.advance(1201)
    Health(house.ctx).tick()
    assert probe_of(house).id != probe.id
    assert kinds(house) == ["node.quarantined", "node.probe_failed"]


def test_a_probe_that_never_begins_is_given_up(house, two) -> None:
    spoil(house)
    Health(house.ctx).tick()
    house.clock.advance(601)
    Health(house.ctx).tick()
    house.clock.advance(301)
    Health(house.ctx).tick()
    assert house.ctx.store.nodes.get(ONE).closures[0].state is ClosureState.CLOSED


def test_a_server_that_was_killed_between_two_steps_of_a_probe_goes_on(house, two, monkeypatch) -> None:
    spoil(house)
    Health(house.ctx).tick()
    house.clock.advance(601)

    for point in ("before-probe", "before-probe-start"):
        monkeypatch.setattr("mainspring.controllers.health.reach", _die_at(point))
        with pytest.raises(KilledError):
            Health(house.ctx).tick()
        monkeypatch.undo()
    Health(house.ctx).tick()
    probes = [one for one in house.ctx.store.runs.waiting() if "cluster-check" in house.ctx.store.runs.get(one.id).tags]
    assert probes == [], "the one that was submitted is the one that runs"
    assert probe_of(house).state is RunState.RUNNING


def test_an_operator_opens_it_at_once_and_what_was_counted_is_forgiven(house, two) -> None:
    spoil(house)
    Health(house.ctx).tick()
    assert clusters.resume(house.ctx, SYSTEM, "one").state is NodeState.READY
    Health(house.ctx).tick()
    assert state(house) is NodeState.READY
    assert house.ctx.store.health.failures() == []


def test_a_gpu_with_errors_is_taken_out_and_the_node_goes_on(house) -> None:
    store = house.ctx.store
    ill = replace(store.nodes.get(ONE), symptoms=(Symptom(kind=SymptomKind.ECC, device=1, mark=3),))
    running = submit(house, resources=Resources(gpu_milli=2000))
    assert house.plan() == [running.id]
    store.nodes.upsert("local", [ill], now=house.clock.now())
    Health(house.ctx).tick()
    assert store.nodes.get(ONE).out() == {1}
    assert store.runs.get(running.id).state is RunState.RUNNING, "what runs on it goes on"
    large = submit(house, resources=Resources(gpu_milli=2000))
    assert house.plan() == []
    told = runs.why(house.ctx, SYSTEM, large.id)
    assert told["reason"].code == "quarantined"
    assert "1 of one" in told["sentence"]
    house.end(running)
    small = submit(house, resources=Resources(gpu_milli=1000))
    assert house.plan() == [small.id]
    assert [share.index for share in house.attempt_of(small).replicas[0].granted.devices] == [0]
    house.end(small)
    clusters.resume(house.ctx, SYSTEM, "one", device=1)
    Health(house.ctx).tick()
    assert house.plan() == [large.id]


def test_a_drain_with_a_time_asks_for_a_checkpoint_and_then_moves_what_runs(house, two) -> None:
    run = submit(house, resources=Resources())
    house.plan()
    house.begin(house.attempt_of(run))
    node = house.attempt_of(run).replicas[0].node
    ends_at = house.clock.now() + timedelta(seconds=1000)
    assert clusters.drain(house.ctx, SYSTEM, node, by=ends_at, reason="disks").state is NodeState.DRAINING
    assert Health(house.ctx).tick() == pytest.approx(700.0)
    assert house.attempt_of(run).checkpoint_no == 0
    house.clock.advance(701)
    assert Health(house.ctx).tick() == pytest.approx(299.0)
    Health(house.ctx).tick()  # as a server that was started anew would
    assert house.attempt_of(run).checkpoint_no == 1
    assert house.attempt_of(run).stop_cause is None
    house.clock.advance(300)
    Health(house.ctx).tick()
    assert house.attempt_of(run).stop_cause is Cause.PREEMPTED
    house.end(run, Cause.PREEMPTED)
    waiting = house.ctx.store.runs.get(run.id)
    assert (waiting.state, waiting.retries_used) == (RunState.QUEUED, 0)
    assert house.plan() == [run.id]
    assert house.attempt_of(run).replicas[0].node != node
    assert state(house, node) is NodeState.DRAINING


def test_a_device_is_drained_alone_and_by_now_moves_what_runs_on_it(house) -> None:
    first, second = (submit(house, resources=Resources(gpu_milli=1000)) for _ in range(2))
    house.plan()
    for one in (first, second):
        house.begin(house.attempt_of(one))
    clusters.drain(house.ctx, SYSTEM, "one", device=1)
    Health(house.ctx).tick()
    assert {house.attempt_of(one).stop_cause for one in (first, second)} == {None}, "without a time what runs goes on"
    clusters.drain(house.ctx, SYSTEM, "one", device=1, by=house.clock.now())
    Health(house.ctx).tick()
    held = {one.id: house.attempt_of(one).replicas[0].granted.devices[0].index for one in (first, second)}
    stopped = {one.id: house.attempt_of(one).stop_cause for one in (first, second)}
    assert stopped == {run: Cause.PREEMPTED if index == 1 else None for run, index in held.items()}


def test_a_drain_that_was_taken_back_stops_nothing(house) -> None:
    run = submit(house)
    house.plan()
    house.begin(house.attempt_of(run))
    clusters.drain(house.ctx, SYSTEM, "one", by=house.clock.now() + timedelta(seconds=10))
    clusters.resume(house.ctx, SYSTEM, "one")
    house.clock.advance(20)
    Health(house.ctx).tick()
    assert house.attempt_of(run).stop_cause is None
    assert house.attempt_of(run).state is AttemptState.RUNNING


def test_what_is_wrong_is_refused_with_a_sentence(house) -> None:
    with pytest.raises(NotFoundError, match="has no device 7: it has 0, 1"):
        clusters.drain(house.ctx, SYSTEM, "one", device=7)
    with pytest.raises(NotFoundError, match="There is no node 'nine'"):
        clusters.drain(house.ctx, SYSTEM, "nine")
    with pytest.raises(UsageError, match="has passed"):
        clusters.drain(house.ctx, SYSTEM, "one", by=house.clock.now() - timedelta(minutes=1))
    with pytest.raises(UsageError, match="control characters"):
        clusters.drain(house.ctx, SYSTEM, "one", reason="a\nb")
    with pytest.raises(AccessDeniedError):
        clusters.drain(house.ctx, Actor(name="eve"), "one")
    assert state(house) is NodeState.READY


def test_a_run_that_would_fit_but_for_a_quarantine_is_accepted(house) -> None:
    clusters.drain(house.ctx, SYSTEM, "one", device=1)
    assert submit(house, resources=Resources(gpu_milli=2000)).state is RunState.QUEUED
