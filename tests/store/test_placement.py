"""W2: the planner's snapshot and the application of its plans. Nothing is ever given twice."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from mainspring.core.codec import decode, encode
from mainspring.core.errors import UsageError
from mainspring.core.health import drained
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import AttemptState, Cause, Desired, NodeState, RunState
from mainspring.core.resources import DeviceShare, Granted, Resources
from mainspring.core.snapshot import Decision, DecisionKind, Plan, Snapshot


def held(world):
    """Return what open allocations hold by node, added up from the rows."""
    found = {}
    for one in world.store.nodes.open_allocations():
        cpu, devices = found.setdefault(one.node, (0, {}))
        for share in one.granted.devices:
            devices[share.index] = devices.get(share.index, 0) + share.milli
        found[one.node] = (cpu + one.granted.cpu_milli, devices)
    return found


def check_books(world):
    """The nodes' own figures are the sum of the open allocations, and within what there is."""
    sums = held(world)
    for node in world.store.nodes.all():
        cpu, devices = sums.get(node.id, (0, {}))
        assert node.used_cpu_milli == cpu <= node.cpu_milli
        assert {share.index: share.milli for share in node.used_devices} == {k: v for k, v in devices.items() if v}
        assert all(milli <= 1000 for milli in devices.values())


def plan(*decisions):
    return Plan(fingerprint="f", decisions=decisions)


def test_a_start_writes_attempt_allocation_and_node_together(world):
    run, node = world.run(), world.node(gpus=2)
    decision = world.decision(run, (node, 1500, (DeviceShare(index=1, milli=500),)))
    applied = world.store.apply(plan(decision), now=world.clock.now())
    assert (applied.started, applied.refused) == ((run.id,), ())
    placed = world.store.runs.get(run.id)
    assert (placed.state, placed.attempt, placed.version, placed.started_at) == (RunState.RUNNING, 1, 2, world.clock.now())
    (attempt,) = world.store.attempts.of_run(run.id)
    assert (attempt.number, attempt.state, attempt.cluster) == (1, AttemptState.ALLOCATED, world.cluster.id)
    assert [(r.index, r.node, r.granted) for r in attempt.replicas] == [(0, node.id, decision.places[0].granted)]
    (allocation,) = world.store.nodes.open_allocations()
    assert (allocation.attempt, allocation.run, allocation.owner, allocation.node) == (attempt.id, run.id, "ada", node.id)
    used = world.store.nodes.get(node.id)
    assert (used.used_cpu_milli, used.used_devices) == (1500, (DeviceShare(index=1, milli=500),))
    assert [e.kind for e in world.store.events.since(0)] == ["run.placed"]
    check_books(world)


def test_a_stale_decision_is_refused_and_leaves_nothing(world):
    run, node = world.run(), world.node()
    decision = world.decision(run, (node, 1000))
    world.store.runs.edit(run.id, priority=3)
    assert world.store.apply(plan(decision), now=world.clock.now()).refused == (run.id,)
    assert world.store.attempts.of_run(run.id) == []
    assert held(world) == {}
    assert world.store.nodes.get(node.id) == node


@pytest.mark.parametrize("wanted", [Desired.PAUSED, Desired.CANCELLED])
def test_what_is_not_wanted_is_not_started(world, wanted):
    run, node = world.run(), world.node()
    changed = world.store.runs.set_desired(run.id, wanted)
    assert world.store.apply(plan(world.decision(changed, (node, 1))), now=world.clock.now()).refused == (run.id,)


def test_more_than_a_node_has_is_refused_in_every_dimension(world):
    node = world.node(cpu_milli=2000, memory_bytes=100, gpus=1)
    run = world.run()

    def applied(**granted):
        asked = world.decision(run, (node, 1))
        place = replace(asked.places[0], granted=Granted(**({"cpu_milli": 1, "memory_bytes": 0} | granted)))
        return world.store.apply(plan(replace(asked, places=(place,))), now=world.clock.now())

    assert applied(cpu_milli=2001).refused
    assert applied(memory_bytes=101).refused
    assert applied(disk_bytes=10**12 + 1).refused
    assert applied(devices=(DeviceShare(index=0, milli=1001),)).refused
    assert applied(devices=(DeviceShare(index=0, milli=600), DeviceShare(index=0, milli=600))).refused
    assert applied(devices=(DeviceShare(index=5, milli=1),)).refused
    exact = {"cpu_milli": 2000, "memory_bytes": 100, "devices": (DeviceShare(index=0, milli=1000),)}
    assert applied(**exact).started == (run.id,)
    check_books(world)


@pytest.mark.parametrize("state", [NodeState.DRAINING, NodeState.UNREACHABLE, NodeState.DEAD])
def test_a_node_that_is_not_ready_takes_nothing(world, state):
    run, node = world.run(), world.node()
    world.store.nodes.set_state(node.id, state)
    assert world.store.apply(plan(world.decision(run, (node, 1))), now=world.clock.now()).refused == (run.id,)


def test_a_gang_is_placed_whole_or_not_at_all(world):
    small, large = world.node(cpu_milli=1000), world.node(cpu_milli=4000)
    gang, single = world.run("gang", replicas=3), world.run("single")
    too_much = world.decision(gang, (large, 2000), (small, 2000), (large, 2000))
    fits = world.decision(single, (small, 1000))
    applied = world.store.apply(plan(too_much, fits), now=world.clock.now())
    assert (applied.started, applied.refused) == ((single.id,), (gang.id,))
    assert [a.run for a in world.store.nodes.open_allocations()] == [single.id]
    whole = world.decision(gang, (large, 1000), (large, 1000), (large, 2000))
    assert world.store.apply(plan(whole), now=world.clock.now()).started == (gang.id,)
    assert len(world.store.attempts.of_run(gang.id)[0].replicas) == 3
    check_books(world)


def test_waiting_runs_get_their_reasons(world):
    run = world.run()
    reason = Reason(code=ReasonCode.NO_CLUSTER, sentence="There is no node.")
    decision = Decision(run=run.id, kind=DecisionKind.WAIT, version=run.version, reason=reason)
    world.store.apply(plan(decision), now=world.clock.now())
    assert world.store.runs.get(run.id).reason == reason


def test_a_reason_is_told_at_once_its_figures_once_a_second(world):
    run = world.run()

    def told(code, free, seconds=0.0):
        world.clock.move(seconds)
        reason = Reason(code=code, sentence=f"{free} are free.", facts={"free": free})
        wait = Decision(run=run.id, kind=DecisionKind.WAIT, version=1, reason=reason)
        applied = world.store.apply(plan(wait), now=world.clock.now())
        row = world.store.runs.get(run.id).reason
        return row.code, row.facts["free"], applied.is_behind

    assert told(ReasonCode.NO_FREE_CPU, 3) == (ReasonCode.NO_FREE_CPU, 3, False)
    assert told(ReasonCode.NO_FREE_CPU, 2) == (ReasonCode.NO_FREE_CPU, 3, True)
    assert told(ReasonCode.FRAGMENTED, 2) == (ReasonCode.FRAGMENTED, 2, False)
    assert told(ReasonCode.FRAGMENTED, 1, seconds=0.5)[1:] == (2, True)
    assert told(ReasonCode.FRAGMENTED, 1, seconds=0.6)[1:] == (1, False)
    world.store.begin_planning()  # another process planned since: rows are read again, and an equal word is not repeated
    assert told(ReasonCode.FRAGMENTED, 1)[1:] == (1, False)


def test_a_plan_starts_all_that_still_can_in_one_transaction(world):
    node = world.node(cpu_milli=3000)
    runs = [world.run() for _ in range(5)]
    decisions = [world.decision(run, (node, 1000)) for run in runs]
    world.store.runs.edit(runs[1].id, priority=1)
    commits = []
    stop = world.store.on_commit(commits.append)
    applied = world.store.apply(plan(*decisions, decisions[0]), now=world.clock.now())
    stop()
    assert applied.started == (runs[0].id, runs[2].id, runs[3].id)
    assert applied.refused == (runs[1].id, runs[4].id, runs[0].id)
    assert len(commits) == 1
    assert [len(world.store.attempts.of_run(run.id)) for run in runs] == [1, 0, 1, 1, 0]
    check_books(world)


def test_a_start_that_cannot_be_written_stops_no_other(world):
    node, runs = world.node(cpu_milli=3000), [world.run() for _ in range(3)]
    first, odd, last = (world.decision(run, (node, 1000)) for run in runs)
    odd = replace(odd, places=(replace(odd.places[0], replica=2**70),))
    with pytest.raises(UsageError, match="larger than the database can hold"):
        world.store.apply(plan(first, odd, last), now=world.clock.now())
    assert [world.store.runs.get(run.id).state for run in runs] == [RunState.RUNNING, RunState.QUEUED, RunState.RUNNING]
    check_books(world)


def test_twenty_threads_never_give_anything_twice(world):
    nodes = [world.node(cpu_milli=3000, gpus=2) for _ in range(3)]
    runs = [world.run(f"r{number}", replicas=1 + number % 2) for number in range(30)]
    dice = random.Random(7)
    decisions = []
    for _ in range(3):  # each run is decided three times, somewhere else each time: one of them may win
        for run in runs:
            share = (DeviceShare(index=dice.randrange(2), milli=dice.choice((300, 500, 1000))),)
            decisions.append(world.decision(run, *((dice.choice(nodes), 500, share) for _ in range(run.spec.replicas))))
    dice.shuffle(decisions)
    barrier = threading.Barrier(20)

    def work(number):
        barrier.wait()
        return [world.store.apply(plan(one), now=world.clock.now()) for one in decisions[number::20]]

    with ThreadPoolExecutor(20) as pool:
        applied = [one for found in pool.map(work, range(20)) for one in found]
    started = [run for one in applied for run in one.started]
    assert len(started) == len(set(started)) > 3
    assert len(started) + sum(len(one.refused) for one in applied) == len(decisions)
    check_books(world)
    assert {a.run for a in world.store.nodes.open_allocations()} == set(started)
    for run in started:
        for attempt in world.store.attempts.of_run(run):
            for replica in attempt.replicas:
                world.end(attempt, replica=replica.index)
    check_books(world)
    assert world.store.nodes.open_allocations() == []
    assert all(node.used_cpu_milli == 0 and node.used_devices == () for node in world.store.nodes.all())


def test_a_snapshot_says_what_is_so(world):
    node = world.node(gpus=1)
    waiting = world.run("waits", resources=Resources(cpu_milli=250, gpu_milli=500), replicas=2, priority=4)
    running = world.run("runs", is_preemptible=False)
    attempt = world.start(running, node, cpu_milli=700)
    world.run("cancelled")
    world.store.runs.set_desired(world.store.runs.find("cancelled")[0].id, Desired.CANCELLED)
    later = world.clock.now() + timedelta(seconds=5)
    snapshot = world.store.snapshot(later)
    assert snapshot.now == later
    (seen,) = snapshot.waiting
    assert (seen.id, seen.seq, seen.priority, seen.version, seen.replicas) == (waiting.id, waiting.seq, 4, 1, 2)
    assert (seen.resources, seen.owner, seen.project, seen.submitted_at) == (
        waiting.spec.resources,
        "ada",
        "default",
        waiting.created_at,
    )
    (placed,) = snapshot.placed
    assert (placed.id, placed.is_preemptible, placed.since) == (running.id, False, attempt.created_at)
    assert [(p.replica, p.node, p.granted.cpu_milli) for p in placed.places] == [(0, node.id, 700)]
    assert [n.used_cpu_milli for n in snapshot.nodes] == [700]
    assert decode(encode(snapshot), Snapshot) == snapshot


def test_a_run_that_lost_its_node_waits_and_avoids_it(world):
    node = world.node()
    run = world.run()
    world.end(world.start(run, node), Cause.LAUNCH_FAILED, backoff_s=8)
    (waiting,) = world.store.snapshot(world.clock.now()).waiting
    assert waiting.avoid == (node.id,)
    assert waiting.not_before == world.clock.now() + timedelta(seconds=8)
    assert world.store.runs.get(run.id).losses == 1


def test_nodes_keep_state_and_use_when_they_are_seen_again(world):
    node = world.node(cpu_milli=4000)
    world.start(world.run(), node)
    before = world.store.nodes.settle(node.id, lambda old: drained(old, by="root", now=world.clock.now()))
    assert before.state is NodeState.DRAINING
    world.clock.move(60)
    (seen,) = world.store.nodes.upsert(world.cluster.id, [node], now=world.clock.now())
    assert seen == replace(before, seen_at=world.clock.now())
    grown = replace(node, cpu_milli=8000, labels={"zone": "b"})
    (seen,) = world.store.nodes.upsert(world.cluster.id, [grown], now=world.clock.now())
    assert (seen.cpu_milli, seen.labels, seen.state, seen.used_cpu_milli) == (8000, {"zone": "b"}, NodeState.DRAINING, 1000)
    assert seen.version == before.version + 1
    assert world.store.nodes.get(node.id) == seen
