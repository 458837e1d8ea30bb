"""Shares, usage, policies, nominations: what the planner's world is made of, and how evictions are carried out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update

from mainspring.core.durations import FEWEST
from mainspring.core.errors import ConflictError, NotFoundError, StaleWriteError
from mainspring.core.policy import OrderPolicy, Policy
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import AttemptState, Cause, Project, RunState
from mainspring.core.resources import DeviceShare, Resources
from mainspring.core.shares import Share
from mainspring.core.snapshot import Decision, DecisionKind, Plan, Reservation
from mainspring.core.usage import HOUR_MS, Used
from mainspring.store.share_tables import durations
from mainspring.store.tables import attempts

HALF_LIFE = 604_800.0


def of_month(world, month):
    return {line[1:]: used for line, used in world.store.usage.of_month(month, world.clock.now()).items()}


def hold(world, run, node, milli=500):
    decision = world.decision(run, (node, 1000, (DeviceShare(index=0, milli=milli),)))
    assert world.store.apply(Plan(fingerprint="", decisions=(decision,)), now=world.clock.now()).started == (run.id,)
    return world.store.attempts.of_run(run.id)[-1]


def clearing(world, waits, victim, places):
    """Return a plan that stops `victim` and keeps `places` for `waits`."""
    reason = Reason(code=ReasonCode.NOMINATED, sentence="Room is being made.")
    evict = Decision(run=victim.id, kind=DecisionKind.EVICT, version=victim.version, beneficiary=waits.id, rule="reclaim")
    nominate = Decision(run=waits.id, kind=DecisionKind.NOMINATE, version=waits.version, places=places, reason=reason)
    return Plan(fingerprint="", decisions=(evict, nominate))


def test_shares_are_compared_and_set(world):
    made = world.store.shares.put(Share(name="lab", weight=2.0, guarantee={"gpu": 4000}, version=0))
    assert (made.version, world.store.shares.all()) == (1, [made])
    changed = world.store.shares.put(made)
    with pytest.raises(StaleWriteError):
        world.store.shares.put(made)
    with pytest.raises(StaleWriteError):
        world.store.shares.put(Share(name="lab", version=0))
    assert world.store.shares.all() == [changed]


def test_a_share_that_something_belongs_to_stays(world):
    for name in ("lab", "lab/team"):
        world.store.shares.put(Share(name=name, version=0))
    world.store.projects.add(Project(name="vision", created_at=world.clock.now(), share="lab/team"))
    with pytest.raises(ConflictError, match="lab/team"):
        world.store.shares.remove("lab")
    with pytest.raises(ConflictError, match="vision"):
        world.store.shares.remove("lab/team")
    with pytest.raises(NotFoundError):
        world.store.shares.remove("none")
    assert [one.name for one in world.store.shares.all()] == ["lab", "lab/team"]


def test_what_is_below_a_share_moves_with_it(world):
    for name in ("lab", "lab/team", "laboratory"):
        world.store.shares.put(Share(name=name, version=0))
    world.store.projects.add(Project(name="vision", created_at=world.clock.now(), share="lab/team"))
    world.store.shares.move("lab", "org/lab")
    assert [one.name for one in world.store.shares.all()] == ["laboratory", "org/lab", "org/lab/team"]
    assert world.store.projects.get("vision").share == "org/lab/team"


def test_estimates_that_were_far_too_low_are_replaced_by_what_such_runs_took(world):
    world.store.policies.set(Policy(order=OrderPolicy(learns=True)), "", actor="ada")
    node = world.node()
    first, late = world.run("train"), world.run("train")
    for number in range(FEWEST):
        attempt = world.launch(world.start(world.run(f"job{number}", owner=f"p{number}"), node))
        world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())
        _told(world, attempt.id)
        world.clock.move(1000)
        world.end(attempt)
        if number == FEWEST - 2:
            world.store.usage.book(world.clock.now(), HALF_LIFE)
            _say(world, 1.0)
            assert {one.estimate_s for one in world.store.snapshot(world.clock.now()).waiting} == {1.0}
    world.store.usage.book(world.clock.now(), HALF_LIFE)
    _say(world, 1.0)
    attempt = world.start(first, node)
    snapshot = world.store.snapshot(world.clock.now())
    assert attempt.estimate_s == 1.0  # what was told is kept, or what is learned would feed on itself
    assert [one.estimate_s for one in snapshot.placed] == [pytest.approx(1000, rel=0.1)]
    assert {one.id: one.estimate_s for one in snapshot.waiting} == {late.id: pytest.approx(1000, rel=0.1)}
    assert world.store.forecasts.estimate("default", "ada", late.spec) == snapshot.waiting[0].estimate_s
    assert set(world.store.forecasts.lengths()) == {(snapshot.waiting[0].estimate_s, 1000.0)}
    world.store.policies.set(Policy(order=OrderPolicy(learns=False)), "", actor="ada")
    snapshot = world.store.snapshot(world.clock.now())
    assert [one.estimate_s for one in (*snapshot.placed, *snapshot.waiting)] == [1.0, 1.0]


def _told(world, attempt: str) -> None:
    world.store._db.write(lambda tx: tx.conn.execute(update(attempts).where(attempts.c.id == attempt).values(estimate_s=1.0)))


def _say(world, seconds: float) -> None:
    """Let all kinds of runs be believed to take so long."""
    kinds = durations.c.key.not_like("estimated %")
    world.store._db.write(lambda tx: tx.conn.execute(update(durations).where(kinds).values(median_s=seconds)))


def test_usage_is_exact_whether_open_freed_or_booked(world):
    node, run = world.node(gpus=1), world.run()
    attempt = hold(world, run, node)
    world.clock.move(3600)
    expected = {("ada", "default", "ada"): Used(gpu_milli_ms=500 * HOUR_MS, cpu_milli_ms=1000 * HOUR_MS)}
    assert of_month(world, "2026-01") == expected
    world.end(attempt)
    assert of_month(world, "2026-01") == expected
    assert world.store.usage.book(world.clock.now(), HALF_LIFE) == 1
    assert world.store.usage.book(world.clock.now(), HALF_LIFE) == 0
    assert of_month(world, "2026-01") == expected
    world.store.runs.delete(run.id)
    assert of_month(world, "2026-01") == expected


def test_what_a_removed_run_used_stays_in_the_books(world):
    attempt = hold(world, world.run(), world.node(gpus=1))
    world.clock.move(60)
    _, run = world.end(attempt)
    world.store.runs.delete(run.id)
    assert of_month(world, "2026-01")["ada", "default", "ada"].gpu_milli_ms == 500 * 60_000


def test_usage_is_split_at_the_end_of_a_month(world):
    world.clock.move((datetime(2026, 1, 31, 23, tzinfo=UTC) - world.clock.now()).total_seconds())
    attempt = hold(world, world.run(), world.node(gpus=1))
    world.clock.move(3 * 3600)
    world.end(attempt)
    world.store.usage.book(world.clock.now(), HALF_LIFE)
    hours = [of_month(world, month)["ada", "default", "ada"].gpu_milli_ms / 500 / HOUR_MS for month in ("2026-01", "2026-02")]
    assert hours == [1, 2]


def test_past_use_is_told_as_a_part_of_all_siblings(world):
    world.store.projects.add(Project(name="vision", created_at=world.clock.now(), share="lab"))
    node = world.node(gpus=1)
    served = {}
    for project, owner, hours in (("vision", "bob", 3), ("default", "ada", 1)):
        attempt = hold(world, world.run(project=project, owner=owner), node)
        served[owner] = world.clock.now()
        world.clock.move(hours * 3600)
        world.end(attempt)
    for _ in range(2):
        shares = world.store.snapshot(world.clock.now()).shares
        assert {one.share.name: one.served_at for one in shares if one.served_at} == {
            "lab/bob": served["bob"],
            "ada": served["ada"],
        }
        states = {one.share.name: one.history for one in shares}
        assert states["lab"] == pytest.approx(0.75, abs=0.01)
        assert (states["lab/bob"], states["ada"]) == (1.0, pytest.approx(0.25, abs=0.01))
        world.store.usage.book(world.clock.now(), HALF_LIFE)  # booked or not, it is the same


def test_estimates_come_from_the_narrowest_kind_that_is_known(world):
    node = world.node(gpus=1)
    for owner, seconds in (("ada", 100), ("ada", 200), ("ada", 300), ("bob", 1000)):
        attempt = world.launch(hold(world, world.run(owner=owner), node))
        world.store.attempts.beat(attempt.id, 0, state="running", now=world.clock.now())
        world.clock.move(seconds)
        world.end(attempt)
    world.store.usage.book(world.clock.now(), HALF_LIFE)
    waiting = [world.run(owner="ada"), world.run(owner="bob"), world.run(owner="eve"), world.run("other", owner="eve")]
    waiting.append(world.run(owner="bob", timeout_s=60.0))
    found = {one.id: one.estimate_s for one in world.store.snapshot(world.clock.now()).waiting}
    assert [found[run.id] for run in waiting] == [200, 1000, 250, 250, 60]
    attempt = hold(world, waiting[0], node)
    assert attempt.estimate_s == 200
    assert [one.estimate_s for one in world.store.snapshot(world.clock.now()).placed] == [200]


def test_an_eviction_and_the_place_that_it_makes_are_one(world):
    node, victim, waits = world.node(gpus=1), world.run("victim", owner="bob"), world.run("waits")
    attempt = hold(world, victim, node, 1000)
    victim = world.store.runs.get(victim.id)
    places = world.decision(waits, (node, 1000, (DeviceShare(index=0, milli=1000),))).places
    applied = world.store.apply(clearing(world, waits, victim, places), now=world.clock.now())
    assert (applied.evicted, applied.refused) == ((victim.id,), ())
    stopped = world.store.attempts.get(attempt.id)
    assert (stopped.state, stopped.stop_cause, stopped.stop_for) == (AttemptState.STOPPING, Cause.PREEMPTED, waits.id)
    snapshot = world.store.snapshot(world.clock.now())
    assert [one.nominated for one in snapshot.waiting] == [places]
    assert [one.is_stopping for one in snapshot.placed] == [True]
    (event,) = [one for one in world.store.events.since(0) if one.kind == "attempt.stop_asked"]
    assert event.data["beneficiary"] == waits.id
    world.end(attempt, Cause.PREEMPTED)
    start = world.decision(waits, (node, 1000, (DeviceShare(index=0, milli=1000),)))
    assert world.store.apply(Plan(fingerprint="", decisions=(start,)), now=world.clock.now()).started == (waits.id,)
    assert [one.nominated for one in world.store.snapshot(world.clock.now()).waiting] == [()]  # the victim, which waits again


@pytest.mark.parametrize("who", ["victim", "waits"])
def test_a_stale_eviction_stops_nobody_and_keeps_nothing(world, who):
    node, victim, waits = world.node(gpus=1), world.run("victim"), world.run("waits")
    attempt = hold(world, victim, node, 1000)
    victim = world.store.runs.get(victim.id)
    plan = clearing(world, waits, victim, world.decision(waits, (node, 1000)).places)
    world.store.runs.edit(victim.id if who == "victim" else waits.id, priority=5)
    assert world.store.apply(plan, now=world.clock.now()).refused == (waits.id,)
    assert world.store.attempts.get(attempt.id).stop_cause is None
    assert [one.nominated for one in world.store.snapshot(world.clock.now()).waiting] == [()]


def test_a_place_is_given_up_when_the_plan_no_longer_keeps_it(world):
    node, victim, waits = world.node(gpus=1), world.run("victim"), world.run("waits")
    hold(world, victim, node, 1000)
    victim = world.store.runs.get(victim.id)
    world.store.apply(clearing(world, waits, victim, world.decision(waits, (node, 1000)).places), now=world.clock.now())
    reason = Reason(code=ReasonCode.NO_FREE_GPU, sentence="All GPUs are in use.")
    wait = Decision(run=waits.id, kind=DecisionKind.WAIT, version=waits.version, reason=reason)
    world.store.apply(Plan(fingerprint="", decisions=(wait,)), now=world.clock.now())
    assert [one.nominated for one in world.store.snapshot(world.clock.now()).waiting] == [()]
    assert world.store.runs.get(waits.id).reason == reason


def test_an_expected_start_is_told_with_the_reason_and_not_at_each_breath(world):
    run, now = world.run(), world.clock.now()
    reason = Reason(code=ReasonCode.NO_FREE_CPU, sentence="All CPUs are in use.")

    def tell(expected):
        world.clock.move(2)  # figures are told once a second at most
        wait = Decision(run=run.id, kind=DecisionKind.WAIT, version=1, reason=reason, expected_at=expected)
        world.store.apply(Plan(fingerprint="", decisions=(wait,)), now=now)
        return world.store.runs.get(run.id).reason.facts["expected_at"]

    first = tell(now + timedelta(minutes=5))
    assert first.startswith("2026-01-05T12:05")
    assert tell(now + timedelta(minutes=5, seconds=20)) == first
    assert tell(now + timedelta(minutes=7)).startswith("2026-01-05T12:07")


def test_a_policy_that_cannot_be_read_is_passed_over(world):
    assert world.store.policies.current().number == 0
    mine = Policy(order=OrderPolicy(history=0.5))
    assert world.store.policies.set(mine, "text", actor="ada").number == 1
    world.store.policies.set(Policy(), "", actor="ada", after=1)
    with pytest.raises(StaleWriteError):
        world.store.policies.set(mine, "", actor="ada", after=1)
    for broken in ('{"order": {"history": 7}}', '{"order": 3}', "no JSON"):
        with world.store._db.write_engine.begin() as conn:
            conn.execute(text("UPDATE policies SET policy = :broken WHERE number = 2"), {"broken": broken})
        assert (world.store.policies.current().number, world.store.snapshot(world.clock.now()).policy) == (1, mine)


def test_a_snapshot_brings_reservations_that_are_not_over(world):
    now = world.clock.now()
    for id, begin in (("rsv-old", -2), ("rsv-new", 1)):
        window = {"begins_at": now + timedelta(hours=begin), "ends_at": now + timedelta(hours=begin + 1)}
        reservation = Reservation(id=id, share="lab", resources=Resources(gpu_milli=1000), **window)
        world.store.shares.reserve(reservation, "ada")
    assert [one.id for one in world.store.snapshot(now).reservations] == ["rsv-new"]
    assert (world.store.shares.release("rsv-new"), world.store.shares.release("rsv-new")) == (True, False)


def test_nobody_is_hidden_behind_another_persons_queue(world):
    for number in range(12):
        world.run(f"mine{number}", owner="ada")
    other = world.run("other", owner="bob")
    seen = world.store.snapshot(world.clock.now(), each=3).waiting
    assert ([one.owner for one in seen], seen[-1].id) == (["ada"] * 3 + ["bob"], other.id)
    assert seen[0].share == "ada"
    assert world.store.runs.get(other.id).state is RunState.QUEUED
