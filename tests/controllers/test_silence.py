"""What is decided while nobody can tell how a replica is, by rows and a clock that is moved by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mainspring.controllers.fleet import Fleet
from mainspring.controllers.loop import Loops
from mainspring.controllers.observations import Observations
from mainspring.core.actors import SYSTEM
from mainspring.core.errors import StateError
from mainspring.core.health import drained
from mainspring.core.records import AttemptState, Node, NodeState, RunState, Symptom, SymptomKind
from mainspring.core.silence import is_removable, listed, patience_s, sighted, unreachable
from mainspring.core.specs import RunSpec
from mainspring.services import attempts, clusters, runs


@pytest.fixture
def going(house):
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    house.plan()
    house.begin(house.attempt_of(run))
    attempts.mark_unknown(house.ctx, house.attempt_of(run), 0, 600.0)
    return run


def test_a_beat_that_comes_before_it_is_given_up_wins(house, going) -> None:
    seen = house.attempt_of(going)
    house.clock.advance(700)
    house.ctx.store.attempts.beat(seen.id, 0, state="running", now=house.clock.now())
    attempts.give_up(house.ctx, seen, 0, "too long")
    assert house.attempt_of(going).state is AttemptState.RUNNING
    assert house.attempt_of(going).replicas[0].unknown_since is None
    assert len(house.ctx.store.nodes.open_allocations()) == 1


def test_what_is_given_up_frees_once_and_keeps_its_node_from_others(house, going) -> None:
    node = "local.one"
    assert house.ctx.store.nodes.sight(node, is_reachable=False)
    for _ in range(2):
        attempts.give_up(house.ctx, house.attempt_of(going), 0, "too long")
    assert house.ctx.store.runs.get(going.id).state is RunState.QUEUED
    assert house.ctx.store.runs.get(going.id).reason is None
    assert house.ctx.store.nodes.open_allocations() == []
    assert house.ctx.store.nodes.get(node).used_cpu_milli == 0
    assert not house.ctx.store.nodes.sight(node, is_reachable=True), "something of it may still run there"
    house.ctx.store.nodes.upsert(
        "local", [replace(house.ctx.store.nodes.get(node), state=NodeState.READY)], now=house.clock.now()
    )
    assert house.ctx.store.nodes.get(node).state is NodeState.UNREACHABLE
    assert house.plan() == []
    (given_up,) = house.ctx.store.attempts.given_up()
    house.ctx.store.attempts.set_unknown(given_up.id, 0, None)
    assert house.ctx.store.nodes.sight(node, is_reachable=True)
    assert house.plan() == [going.id]
    assert len(house.ctx.store.nodes.open_allocations()) == 1


def test_a_node_is_not_forgotten_while_something_is_held_there(house, going) -> None:
    assert not house.ctx.store.nodes.remove("local.one")
    attempts.give_up(house.ctx, house.attempt_of(going), 0, "too long")
    assert not house.ctx.store.nodes.remove("local.one"), "nobody knows how the one is that was given up"
    house.ctx.store.attempts.set_unknown(house.attempt_of(going).id, 0, None)
    assert house.ctx.store.nodes.remove("local.one")


def test_patience_is_that_of_the_run(house, going) -> None:
    replica = house.attempt_of(going).replicas[0]
    alone = RunSpec(command=("a",), is_exclusive=True)
    limited = replace(alone, disconnect_limit_s=100.0, grace_s=10.0)
    assert patience_s(RunSpec(command=("a",)), replica, 600.0) == 600.0
    assert patience_s(alone, replica, 600.0) is None
    assert patience_s(limited, replica, 600.0) == pytest.approx(121.0)
    assert patience_s(limited, replace(replica, last_beat_at=None), 600.0) is None, "it may not have begun to count"


def test_the_sentence_has_the_clock(house, going) -> None:
    attempt = house.attempt_of(going)
    told = unreachable(attempt, attempt.replicas[0], 600.0, house.clock.now() + timedelta(seconds=240))
    assert told.sentence == "No word from node local.one for 4 m 0 s; a new attempt starts in 6 m 0 s unless it comes back."
    assert runs.why(house.ctx, SYSTEM, going.id)["sentence"].startswith("No word from node local.one")


@pytest.mark.parametrize("said", [NodeState.DRAINING, NodeState.DEAD])
def test_what_an_operator_said_of_a_node_stands(said: NodeState) -> None:
    assert sighted(said, True) is said
    assert sighted(said, False) is said
    assert sighted(NodeState.UNREACHABLE, True) is NodeState.READY


def test_a_node_that_its_engine_drains_drains_until_that_says_otherwise() -> None:
    """Unless an operator drained it here as well, or it is rented and goes back."""
    node = Node(id="k.n1", cluster="k", name="n1", cpu_milli=1000, memory_bytes=1 << 30)
    cordoned = replace(node, state=listed(node, NodeState.DRAINING, is_rented=False))
    assert cordoned.state is NodeState.DRAINING
    assert listed(cordoned, NodeState.READY, is_rented=False) is NodeState.READY
    assert listed(cordoned, NodeState.READY, is_rented=True) is NodeState.DRAINING
    assert is_removable(cordoned, 601.0, 600.0), "who takes a node away cordons it first"
    here = drained(cordoned, by="root", now=datetime(2026, 1, 1, tzinfo=UTC))
    assert listed(here, NodeState.READY, is_rented=False) is NodeState.DRAINING
    assert not is_removable(here, 1e9, 600.0)
    assert listed(replace(node, state=NodeState.DEAD), NodeState.READY, is_rented=False) is NodeState.DEAD


def test_what_an_engine_drained_is_not_resumed_here(house) -> None:
    told = Symptom(kind=SymptomKind.ENGINE, detail="It was cordoned in Kubernetes.")
    (node,) = house.ctx.store.nodes.all()
    house.ctx.store.nodes.upsert(node.cluster, [replace(node, state=NodeState.DRAINING, symptoms=(told,))], now=house.clock.now())
    with pytest.raises(StateError, match=r"was not drained here. It was cordoned in Kubernetes."):
        clusters.resume(house.ctx, SYSTEM, node.id)
    clusters.drain(house.ctx, SYSTEM, node.id)
    assert clusters.resume(house.ctx, SYSTEM, node.id).state is NodeState.READY, "until the next look at its engine"


def test_a_run_that_beats_lives_on_whatever_its_engine_can_tell(house, tmp_path) -> None:
    """Credentials that have expired: the engine tells nothing for ever, and the runner goes on beating."""
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    house.plan()
    house.begin(house.attempt_of(run))
    watch = Observations(house.ctx, Fleet(house.ctx, tmp_path), Loops(house.ctx.signals), lambda *_: pytest.fail("it launches"))
    for _ in range(100):
        house.clock.advance(10)
        house.ctx.store.attempts.beat(house.attempt_of(run).id, 0, state="running", now=house.clock.now())
        watch.unknown(house.attempt_of(run), house.attempt_of(run).replicas[0])
    assert (house.attempt_of(run).state, house.attempt_of(run).replicas[0].unknown_since) == (AttemptState.RUNNING, None)
    assert house.ctx.store.nodes.get("local.one").state is NodeState.READY
    asked = house.ctx.signals.version("clusters")
    for _ in range(70):
        house.clock.advance(10)
        watch.unknown(house.attempt_of(run), house.attempt_of(run).replicas[0])
    assert house.attempt_of(run).state is AttemptState.ENDED, "it is silent too"
    assert house.ctx.signals.version("clusters") == asked + 1, "its engine is asked why, once: it may know, and asks often then"
