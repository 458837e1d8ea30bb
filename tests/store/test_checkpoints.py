"""What runners tell of checkpoints: the newest are kept, an end without one is measured, nobody else's count."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from mainspring.core.records import Cause
from mainspring.core.resources import DeviceShare
from mainspring.core.snapshot import Plan


@pytest.fixture
def going(world):
    """A run on half a GPU whose user code has begun."""
    node = world.node(gpus=1)
    run = world.run()
    decision = world.decision(run, (node, 100, (DeviceShare(index=0, milli=500),)))
    world.store.apply(Plan(fingerprint="", decisions=(decision,)), now=world.clock.now())
    attempt = world.store.attempts.of_run(run.id)[0]
    world.launch(attempt)
    return world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())


def tell(world, attempt, manifest: str, *, ago_s: float = 0.0, replica: int = 0) -> None:
    """Let the runner tell of a checkpoint that it made `ago_s` seconds ago."""
    at = (world.clock.now() - timedelta(seconds=ago_s)).timestamp()
    line = json.dumps({"kind": "checkpoint", "manifest": manifest * 64, "size_bytes": 5, "at": at}).encode() + b"\n"
    end = world.store.logs.size(attempt.id, replica, "events")
    world.store.attempts.append(attempt.id, replica, [("events", end, line)], now=world.clock.now())
    world.store.attempts.append(attempt.id, replica, [("events", end, line)], now=world.clock.now())  # a beat that came twice


def test_the_last_two_are_kept_and_the_newest_comes_first(world, going) -> None:
    for manifest in "abc":
        world.clock.move(10)
        tell(world, going, manifest)
    kept = world.store.checkpoints.newest(going.run, 0)
    assert [(one.number, one.manifest[0], one.attempt) for one in kept] == [(3, "c", going.id), (2, "b", going.id)]
    named = set(world.store.blobs.named())
    assert "a" * 64 not in named
    assert {"b" * 64, "c" * 64} <= named
    assert world.store.attempts.get(going.id).checkpoint_at == world.clock.now()


@pytest.mark.parametrize(("cause", "lost"), [(Cause.PREEMPTED, 20.0), (Cause.NODE_LOST, 20.0), (Cause.USER_ERROR, 0.0)])
def test_an_end_costs_what_was_done_since_the_newest(world, going, cause: Cause, lost: float) -> None:
    world.clock.move(100)
    tell(world, going, "a")
    world.clock.move(30)
    tell(world, going, "b", ago_s=10)
    world.clock.move(10)
    ended, _ = world.end(going, cause)
    assert (ended.lost_s, ended.lost_gpu_s) == (lost, lost / 2)
    assert world.store.attempts.get(going.id) == ended


def test_without_a_checkpoint_an_end_costs_everything(world, going) -> None:
    world.clock.move(40)
    ended, _ = world.end(going, Cause.PREEMPTED)
    assert (ended.lost_s, ended.lost_gpu_s) == (40.0, 20.0)


def test_a_wrong_clock_makes_nothing_older_than_the_attempt_or_younger_than_now(world, going) -> None:
    world.clock.move(50)
    tell(world, going, "a", ago_s=10_000)
    assert world.store.attempts.get(going.id).checkpoint_at == going.created_at
    tell(world, going, "b", ago_s=-10_000)
    assert world.store.attempts.get(going.id).checkpoint_at == world.clock.now()


def test_a_replica_without_one_gets_that_of_the_first(world, going) -> None:
    tell(world, going, "a")
    assert [one.manifest[0] for one in world.store.checkpoints.newest(going.run, 3)] == ["a"]


def test_neither_nonsense_nor_a_former_attempt_counts(world, going) -> None:
    lines = (
        b'{"kind": "checkpoint", "manifest": "../../etc/passwd", "at": 1}\n{"kind": "checkpoint", "manifest": "'
        + b"a" * 64
        + b'", "at": 1e300}\n"checkpoint"\n{"kind": "other", "manifest": "checkpoint"}\n'
    )
    world.store.attempts.append(going.id, 0, [("events", 0, lines)], now=world.clock.now())
    assert world.store.checkpoints.newest(going.run, 0) == []
    tell(world, going, "b")
    world.end(going, Cause.NODE_LOST)
    world.clock.move(1000)
    tell(world, going, "c")  # it lived on until now: what it saved is newer
    node = world.node()
    again = world.start(world.store.runs.get(going.run), node)
    tell(world, again, "d")
    tell(world, going, "e")  # superseded meanwhile
    assert [one.manifest[0] for one in world.store.checkpoints.newest(going.run, 0)] == ["d", "c"]
    world.store.runs.get(going.run)
    world.end(again)
    assert world.store.checkpoints.newest(going.run, 0) == []  # it succeeded


def test_asking_for_a_checkpoint_is_counted_until_a_stop_is_asked(world, going) -> None:
    ask = world.store.attempts.ask_checkpoint
    assert [ask(going.id).checkpoint_no for _ in range(2)] == [1, 2]
    world.store.attempts.ask_stop(going.id, Cause.CANCELLED, stop_by=world.clock.now())
    assert ask(going.id).checkpoint_no == 2
