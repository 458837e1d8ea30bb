"""Launches that failed are counted with their ends, forgotten with the next start, and closures are compare-and-set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mainspring.core.errors import CapacityError, NotFoundError
from mainspring.core.health import drained, resumed
from mainspring.core.records import Cause, NodeState, Outcome, Symptom, SymptomKind
from mainspring.core.resources import DeviceShare
from mainspring.core.snapshot import DecisionKind, Plan
from mainspring.store.nodes import with_more


def place(world, run, node, *shares):
    """Start a run on a node; return its attempt, or None where that was refused."""
    decision = world.decision(run, (node, 100, tuple(DeviceShare(index=one, milli=1000) for one in shares)))
    applied = world.store.apply(Plan(fingerprint="f", decisions=(decision,)), now=world.clock.now())
    return world.store.attempts.of_run(run.id)[-1] if applied.started else None


def fail(world, attempt, message="no such file"):
    outcome = Outcome(cause=Cause.LAUNCH_FAILED, message=message)
    world.store.attempts.finish(attempt.id, 0, outcome, now=world.clock.now())


def test_failures_are_counted_until_a_launch_begins_there(world):
    sick, well = world.node(), world.node()
    one, two = world.run(), world.run()
    fail(world, place(world, one, sick))
    fail(world, place(world, two, sick))
    found = world.store.health.failures()
    assert [(each.node, each.run, each.message, each.begun_at) for each in found] == [
        (sick.id, one.id, "no such file", None),
        (sick.id, two.id, "no such file", None),
    ]
    attempt = place(world, world.run(), well)
    world.launch(attempt)
    world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())
    assert all(each.begun_at == world.clock.now() for each in world.store.health.failures()), "their kind began elsewhere"
    attempt = place(world, world.run(), sick)
    world.launch(attempt)
    world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())
    assert world.store.health.failures() == []


def test_a_run_that_ends_before_its_first_beat_has_begun_too(world):
    node = world.node()
    fail(world, place(world, world.run(), node))
    attempt = place(world, world.run(), node)
    world.store.attempts.finish(attempt.id, 0, Outcome(cause=Cause.USER_ERROR, exit_code=1), now=world.clock.now())
    assert world.store.health.failures() == []


def test_a_launch_that_was_stopped_says_nothing_of_the_node(world):
    node = world.node()
    attempt = place(world, world.run(), node)
    world.store.attempts.ask_stop(attempt.id, Cause.CANCELLED, stop_by=world.clock.now())
    fail(world, attempt)
    assert world.store.health.failures() == []


def test_old_failures_are_forgotten_and_a_removed_run_takes_its_own_along(world):
    node = world.node()
    fail(world, place(world, world.run(), node))
    world.clock.move(100_000)
    fail(world, place(world, world.run(), node))
    assert len(world.store.health.failures()) == 1


def test_nothing_is_placed_where_it_was_taken_out(world):
    node = world.node(gpus=2)
    now = world.clock.now()
    world.store.nodes.settle(node.id, lambda one: drained(one, by="ada", now=now, device=1))
    assert place(world, world.run(), node, 1) is None
    assert place(world, world.run(), node, 0) is not None
    world.store.nodes.settle(node.id, lambda one: resumed(one, now=now, device=1))
    assert place(world, world.run(), node, 1) is not None


def test_only_a_probe_starts_in_quarantine(world):
    node = world.node()
    world.store.nodes.settle(node.id, lambda one: replace(one, state=NodeState.QUARANTINED))
    run = world.run()
    assert place(world, run, node) is None
    decision = world.decision(run, (node, 100, ()))
    assert decision.kind is DecisionKind.START
    assert world.store.start_probe(decision, now=world.clock.now(), actor="system")
    world.store.nodes.set_state(node.id, NodeState.DRAINING)
    other = world.decision(world.run(), (node, 100, ()))
    assert not world.store.start_probe(other, now=world.clock.now(), actor="system")


def test_what_is_closed_outlives_looks_and_the_looks_are_kept(world):
    node = world.node(gpus=1)
    world.store.nodes.settle(node.id, lambda one: drained(one, by="ada", now=world.clock.now(), reason="disks"))
    seen = world.store.nodes.get(node.id)
    told = Symptom(kind=SymptomKind.ECC, device=0, mark=2)
    (fresh,) = world.store.nodes.upsert(
        seen.cluster, [replace(seen, closures=(), state=NodeState.READY, symptoms=(told,), boot="b")], now=world.clock.now()
    )
    assert (fresh.state, fresh.closures, fresh.symptoms, fresh.boot) == (NodeState.DRAINING, seen.closures, (told,), "b")
    assert world.store.nodes.get(node.id) == fresh


def test_each_change_is_told_once(world):
    node = world.node()
    before = world.store.events.since(0)
    now = world.clock.now()
    for _ in range(2):
        world.store.nodes.settle(node.id, lambda one: one if one.closures else drained(one, by="ada", now=now), actor="ada")
    world.store.nodes.settle(node.id, lambda one: resumed(one, now=now), actor="bob")
    told = world.store.events.since(0)[len(before) :]
    assert [(event.kind, event.actor, event.subject) for event in told] == [
        ("node.draining", "ada", node.id),
        ("node.ready", "bob", node.id),
    ]
    with pytest.raises(NotFoundError):
        world.store.nodes.settle("none", lambda one: one)


def test_a_grant_on_a_device_that_is_out_is_refused_with_its_name(world):
    node = world.node(gpus=1)
    out = drained(node, by="ada", now=world.clock.now(), device=0)
    granted = world.decision(world.run(), (node, 1, (DeviceShare(index=0, milli=1),))).places[0].granted
    with pytest.raises(CapacityError, match="Device 0 of node"):
        with_more(out, [granted])
