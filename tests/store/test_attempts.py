"""W3 to W7: leases with fences, beats, and an end that counts once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from mainspring.core.errors import NotFoundError
from mainspring.core.records import AttemptState, Cause, Desired, Outcome, RunState
from mainspring.core.specs import Value, ValueKind
from mainspring.store import NewEvent

ONE = {"result": Value(kind=ValueKind.JSON, json=1)}
TWO = {"result": Value(kind=ValueKind.JSON, json=2)}


@pytest.fixture
def attempt(world):
    return world.start(world.run(), world.node())


def test_a_lease_is_held_by_one(world, attempt):
    barrier = threading.Barrier(8)

    def take(number):
        barrier.wait()
        return world.store.attempts.lease(attempt.id, owner=f"c{number}", ttl_s=60)

    with ThreadPoolExecutor(8) as pool:
        taken = [lease for lease in pool.map(take, range(8)) if lease]
    assert len(taken) == 1
    assert world.store.attempts.renew(taken[0], 60)
    world.store.attempts.release(taken[0])
    assert not world.store.attempts.renew(taken[0], 60)
    again = world.store.attempts.lease(attempt.id, owner="other", ttl_s=60)
    assert again.fence > taken[0].fence


def test_an_expired_lease_is_taken_over_and_its_writes_touch_nothing(world, attempt):
    old = world.store.attempts.lease(attempt.id, owner="old", ttl_s=0)
    new = world.store.attempts.lease(attempt.id, owner="new", ttl_s=60)
    assert new is not None
    assert new.fence == old.fence + 1
    now = world.clock.now()
    assert world.store.attempts.launching(old, token_hash="stale", now=now) is None
    assert world.store.attempts.record_handle(old, 0, {"pid": 1}, now=now) is False
    assert world.store.attempts.renew(old, 60) is False
    world.store.attempts.release(old)
    assert world.store.attempts.get(attempt.id) == attempt
    launched = world.store.attempts.launching(new, token_hash="good", now=now)
    assert (launched.state, launched.token_hash, launched.launched_at) == (AttemptState.LAUNCHING, "good", now)
    assert world.store.attempts.record_handle(new, 0, {"pid": 7}, now=now)
    stored = world.store.attempts.get(attempt.id)
    assert stored.replicas[0].handle == {"pid": 7}
    assert stored.replicas[0].state is AttemptState.LAUNCHING
    assert world.store.attempts.by_token_hash("good") == stored
    assert world.store.attempts.by_token_hash("stale") is None
    assert world.store.attempts.by_token_hash("") is None


def test_the_same_owner_in_another_lease_is_fenced_too(world, attempt):
    first = world.store.attempts.lease(attempt.id, owner="c", ttl_s=0)
    second = world.store.attempts.lease(attempt.id, owner="c", ttl_s=60)
    assert world.store.attempts.record_handle(first, 0, {}, now=world.clock.now()) is False
    assert world.store.attempts.record_handle(second, 0, {}, now=world.clock.now()) is True


def test_launching_is_repeated_after_a_crash_and_keeps_its_first_time(world, attempt):
    first = world.launch(attempt)
    world.clock.move(100)
    again = world.launch(attempt)
    assert (again.state, again.launched_at, again.token_hash) == (first.state, first.launched_at, first.token_hash)
    world.store.attempts.beat(attempt.id, 0, state="starting", now=world.clock.now())
    lease = world.store.attempts.lease(attempt.id, owner="late", ttl_s=60)
    assert world.store.attempts.launching(lease, token_hash="other", now=world.clock.now()) is None
    assert world.store.attempts.get(attempt.id).token_hash == first.token_hash


def test_an_ended_attempt_is_not_leased(world, attempt):
    world.end(attempt)
    assert world.store.attempts.lease(attempt.id, owner="c", ttl_s=60) is None


def test_beats_bring_the_attempt_forward_and_never_back(world, attempt):
    world.launch(attempt)
    states = []
    for said in ("starting", "starting", "running", "starting", "running"):
        world.clock.move(1)
        beaten = world.store.attempts.beat(attempt.id, 0, state=said, address="", now=world.clock.now())
        assert beaten == world.store.attempts.get(attempt.id)
        states.append(beaten.state)
        assert beaten.replicas[0].last_beat_at == world.clock.now()
    assert states == [AttemptState.STARTING, AttemptState.STARTING, *[AttemptState.RUNNING] * 3]
    assert beaten.replicas[0].state is AttemptState.RUNNING
    assert beaten.started_at == world.clock.now() - timedelta(seconds=2)


def test_a_quiet_beat_wakes_nobody_and_leaves_the_version(world, attempt):
    world.launch(attempt)
    before = world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())
    woken = []
    world.store.on_commit(woken.append)
    after = world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())
    assert woken == []
    assert after.version == before.version
    addressed = world.store.attempts.beat(attempt.id, 0, state="running", address="127.0.0.1:8000", now=world.clock.now())
    assert woken == [{"attempts", "endpoints"}]
    assert addressed.replicas[0].address == "127.0.0.1:8000"
    again = world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())
    assert again.replicas[0].address == "127.0.0.1:8000"


def test_a_quiet_beat_writes_one_row(sqlite_home, world_of):
    world = world_of(sqlite_home.open())
    attempt = world.launch(world.start(world.run(), world.node()))
    world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())

    def written():
        return world.store._db.write(lambda tx: tx.conn.connection.driver_connection.total_changes)

    before = written()
    world.store.attempts.append(attempt.id, 0, [], now=world.clock.now())
    world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())
    assert written() - before == 1


def test_a_beat_after_the_end_changes_nothing(world, attempt):
    ended, _ = world.end(attempt)
    world.clock.move(5)
    assert world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now()) == ended
    assert world.store.attempts.get(attempt.id) == ended
    with pytest.raises(NotFoundError):
        world.store.attempts.beat("att-0", 0, state="running", now=world.clock.now())
    with pytest.raises(NotFoundError):
        world.store.attempts.beat(attempt.id, 9, state="running", now=world.clock.now())


def test_the_end_frees_commits_and_tells_once(world, attempt):
    world.launch(attempt)
    seq = world.store.events.last_seq()
    world.clock.move(10)
    ended, run = world.end(attempt, outputs=ONE)
    assert (ended.state, ended.outcome.cause, ended.ended_at) == (AttemptState.ENDED, Cause.SUCCEEDED, world.clock.now())
    assert (run.state, run.outputs, run.ended_at) == (RunState.SUCCEEDED, ONE, world.clock.now())
    assert world.store.nodes.open_allocations() == []
    assert world.store.nodes.all()[0].used_cpu_milli == 0
    world.clock.move(10)
    again = world.end(attempt, Cause.USER_ERROR, outputs=TWO)
    assert again == (ended, run) == (world.store.attempts.get(attempt.id), world.store.runs.get(run.id))
    assert [e.kind for e in world.store.events.since(seq)] == ["attempt.ended", "run.succeeded"]
    assert world.store.attempts.open() == []


def test_two_ends_at_once_count_once(world):
    for _ in range(5):
        attempt = world.start(world.run(), world.node())
        seq = world.store.events.last_seq()
        barrier = threading.Barrier(4)

        def end(cause, attempt=attempt, barrier=barrier):
            barrier.wait()
            return world.end(attempt, cause)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(end, [Cause.SUCCEEDED, Cause.USER_ERROR, Cause.NODE_LOST, Cause.SUCCEEDED]))
        assert len({(a.outcome.cause, r.state) for a, r in found}) == 1
        assert len(world.store.events.since(seq)) == 2
        assert world.store.nodes.open_allocations() == []
    assert all(node.used_cpu_milli == 0 for node in world.store.nodes.all())


def test_a_superseded_attempt_commits_nothing(world):
    run, node = world.run(), world.node()
    first = world.start(run, node)
    _, again = world.end(first, Cause.NODE_LOST)
    assert again.state is RunState.QUEUED
    second = world.start(again, node)
    assert second.number == 2
    world.end(first, Cause.SUCCEEDED, outputs=ONE)
    assert world.store.runs.get(run.id).state is RunState.RUNNING
    _, done = world.end(second, outputs=TWO)
    assert (done.state, done.outputs, done.attempt) == (RunState.SUCCEEDED, TWO, 2)


def test_retries_are_used_up_by_user_errors(world):
    run, node = world.run(retries=1), world.node()
    _, run = world.end(world.start(run, node), Cause.USER_ERROR, outputs=ONE)
    assert (run.state, run.retries_used, run.outputs) == (RunState.QUEUED, 1, {})
    _, run = world.end(world.start(run, node), Cause.OUT_OF_MEMORY)
    assert (run.state, run.outcome.cause) == (RunState.FAILED, Cause.OUT_OF_MEMORY)
    assert [a.number for a in world.store.attempts.of_run(run.id)] == [1, 2]


def test_a_gang_ends_with_its_first_failure_and_frees_as_each_ends(world):
    run, node = world.run(replicas=3), world.node()
    attempt = world.start(run, node, node, node)
    world.launch(attempt)
    standing, same = world.end(attempt, Cause.OUT_OF_MEMORY, replica=1)
    assert (standing.state, same.state) == (AttemptState.LAUNCHING, RunState.RUNNING)
    assert [r.ended_at is not None for r in standing.replicas] == [False, True, False]
    assert world.store.nodes.get(node.id).used_cpu_milli == 2000
    world.store.attempts.ask_stop(attempt.id, Cause.CANCELLED, stop_by=world.clock.now())
    world.end(attempt, Cause.USER_ERROR, replica=0)
    ended, done = world.end(attempt, Cause.SUCCEEDED, replica=2)
    assert (ended.outcome.cause, done.outcome.cause, done.state) == (Cause.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY, RunState.FAILED)
    assert [r.outcome.cause for r in ended.replicas] == [Cause.USER_ERROR, Cause.OUT_OF_MEMORY, Cause.SUCCEEDED]
    assert world.store.nodes.get(node.id).used_cpu_milli == 0


def test_replicas_that_end_at_once_end_the_attempt_once(world):
    for _ in range(4):
        node = world.node()
        attempt = world.start(world.run(replicas=4), node, node, node, node)
        seq = world.store.events.last_seq()
        barrier = threading.Barrier(4)

        def end(replica, attempt=attempt, barrier=barrier):
            barrier.wait()
            return world.end(attempt, replica=replica, outputs={f"r{replica}": Value(kind=ValueKind.JSON, json=replica)})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(end, range(4)))
        run = world.store.runs.get(attempt.run)
        assert (run.state, set(run.outputs)) == (RunState.SUCCEEDED, {"r0", "r1", "r2", "r3"})
        assert len(world.store.events.since(seq)) == 2
        assert world.store.nodes.get(node.id).used_cpu_milli == 0


def test_a_stop_is_intent_with_its_first_cause(world, attempt):
    world.launch(attempt)
    by = world.clock.now() + timedelta(seconds=30)
    event = NewEvent("ada", "attempt.stopping", attempt.id)
    stopping = world.store.attempts.ask_stop(attempt.id, Cause.PREEMPTED, stop_by=by, event=event)
    assert (stopping.state, stopping.stop_cause, stopping.stop_by) == (AttemptState.STOPPING, Cause.PREEMPTED, by)
    sooner = world.store.attempts.ask_stop(attempt.id, Cause.CANCELLED, stop_by=by - timedelta(seconds=20))
    assert (sooner.stop_cause, sooner.stop_by) == (Cause.PREEMPTED, by - timedelta(seconds=20))
    assert world.store.attempts.ask_stop(attempt.id, Cause.CANCELLED, stop_by=by) == sooner
    world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())
    ended, run = world.end(attempt, Cause.USER_ERROR)
    assert (ended.outcome.cause, run.state, run.retries_used) == (Cause.PREEMPTED, RunState.QUEUED, 0)
    assert world.store.attempts.ask_stop(attempt.id, Cause.CANCELLED, stop_by=by) == ended


def test_a_result_that_races_a_cancel_wins_if_it_came_first(world, attempt):
    world.store.runs.set_desired(attempt.run, Desired.CANCELLED)
    world.store.attempts.ask_stop(attempt.id, Cause.CANCELLED, stop_by=world.clock.now())
    ended, run = world.end(attempt, Cause.SUCCEEDED, outputs=ONE)
    assert (ended.outcome.cause, run.state, run.outputs) == (Cause.SUCCEEDED, RunState.SUCCEEDED, ONE)


def test_an_end_that_was_heard_late_tells_how_long_it_took_and_frees_now(world, attempt):
    began = world.clock.now()
    world.launch(attempt)
    world.store.attempts.beat(attempt.id, 0, state="running", now=began)
    world.clock.move(3600)
    ended, run = world.end(attempt, late_s=3000.0)
    assert (ended.ended_at - began).total_seconds() == (run.ended_at - began).total_seconds() == 600
    assert ended.replicas[0].ended_at == ended.ended_at
    assert world.store.nodes.open_allocations() == []
    (held,) = world.store.usage.of_month(f"{began:%Y-%m}", world.clock.now()).values()
    assert held.cpu_milli_ms == 1000 * 3600 * 1000, "its place was taken for all of the hour"


@pytest.mark.parametrize("late_s", [3601.0, 3e8])
def test_no_end_is_before_its_beginning(world, attempt, late_s):
    began = world.clock.now()
    world.launch(attempt)
    world.store.attempts.beat(attempt.id, 0, state="running", now=began)
    world.clock.move(3600)
    ended, _ = world.end(attempt, late_s=late_s)
    assert ended.ended_at == began


def test_open_attempts_are_those_without_an_end(world):
    node = world.node()
    first, second = world.start(world.run(), node), world.start(world.run(), node)
    assert world.store.attempts.open() == [first, second]
    world.end(first)
    assert world.store.attempts.open() == [second]
    with pytest.raises(NotFoundError):
        world.store.attempts.finish("att-0", 0, Outcome(cause=Cause.SUCCEEDED), now=world.clock.now())
    assert world.store.attempts.get("att-0") is None
