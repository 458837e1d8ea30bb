"""Who is stopped for whom: fairness on both sides, the least loss, and nobody in vain."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mainspring import scheduler
from mainspring.core.ids import RunId
from mainspring.core.policy import Policy, PreemptionPolicy
from mainspring.core.reasons import ReasonCode
from mainspring.core.resources import Resources
from mainspring.core.shares import Share, parse_amounts
from mainspring.core.snapshot import DecisionKind, Reservation, ShareState, Snapshot

HOUR = timedelta(hours=1)
PRIORITY = Policy(preemption=PreemptionPolicy(mode="priority"))


@pytest.fixture
def later(make_waiting: Any) -> Any:
    """Give a step: start what fits now, let an hour pass, then submit more runs."""

    def made(snapshot: Snapshot, *more: Any, **changes: Any) -> Snapshot:
        after = scheduler.apply_plan(snapshot, scheduler.plan(snapshot))
        placed = tuple(replace(run, **changes) for run in after.placed)
        return replace(after, now=snapshot.now + HOUR, waiting=(*after.waiting, *more), placed=placed)

    return made


@pytest.fixture
def gpu_run(make_waiting: Any) -> Any:
    """Give a maker of runs of whole GPUs."""

    def made(seq: int, owner: str = "alice", gpus: int = 1, **others: Any) -> Any:
        return make_waiting(seq, owner=owner, gpu_milli=1000 * gpus, cpu_milli=10, **others)

    return made


def _evicted(snapshot: Snapshot) -> dict[str, tuple[str, str]]:
    """Return victim -> (rule, beneficiary)."""
    return {
        str(one.run): (one.rule, str(one.beneficiary))
        for one in scheduler.plan(snapshot).decisions
        if one.kind is DecisionKind.EVICT
    }


def test_borrowed_places_are_reclaimed_and_kept_for_the_owed(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    snapshot = later(scene([make_node("n", gpus=4)], [gpu_run(one) for one in range(1, 5)]), gpu_run(5, "bob", 2))
    plan = scheduler.plan(snapshot)
    assert _evicted(snapshot) == {"run_003": ("reclaim", "run_005"), "run_004": ("reclaim", "run_005")}
    nominated = next(one for one in plan.decisions if one.kind is DecisionKind.NOMINATE)
    assert (nominated.run, nominated.rule) == ("run_005", "reclaim")
    assert nominated.reason is not None
    assert nominated.reason.code is ReasonCode.NOMINATED
    after = scheduler.apply_plan(snapshot, plan)
    again = scheduler.plan(after)
    assert [one.run for one in again.decisions if one.kind is DecisionKind.START] == ["run_005"]
    assert {one.seq for one in after.waiting} == {3, 4, 5}
    settled = scheduler.plan(scheduler.apply_plan(after, again))
    assert {one.kind for one in settled.decisions} == {DecisionKind.WAIT}


def test_a_share_at_its_fair_part_takes_nothing_from_others(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    runs = [gpu_run(1), gpu_run(2), gpu_run(3, "bob"), gpu_run(4, "bob")]
    snapshot = later(scene([make_node("n", gpus=4)], runs), gpu_run(5, "bob"), gpu_run(6, "alice"))
    assert _evicted(snapshot) == {}
    whole = later(scene([make_node("n", gpus=3)], runs[:3]), gpu_run(5, "bob"))
    assert _evicted(whole) == {}  # one and a half each: taking a device would only turn the unfairness round


@pytest.mark.parametrize(
    ("changes", "policy", "expected"),
    [
        ({}, Policy(), 1),
        ({"is_preemptible": False}, Policy(), 0),
        ({"is_stopping": True}, Policy(), 0),
        ({}, Policy(preemption=PreemptionPolicy(mode="never")), 0),
        ({}, Policy(preemption=PreemptionPolicy(min_run_s=3601.0)), 0),
        ({"checkpointed": True}, Policy(preemption=PreemptionPolicy(min_run_s=3601.0)), 1),
    ],
)
def test_some_runs_are_never_stopped(
    changes: dict[str, Any], policy: Policy, expected: int, scene: Any, make_node: Any, gpu_run: Any, later: Any
) -> None:
    start = scene([make_node("n", gpus=2)], [gpu_run(1), gpu_run(2)])
    if changes.pop("checkpointed", False):
        changes = {"checkpointed_at": start.now}
    snapshot = replace(later(start, gpu_run(5, "bob"), **changes), policy=policy)
    assert len(_evicted(snapshot)) == expected


def test_a_guarantee_comes_back_when_it_is_asked_for(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    share = ShareState(share=Share(name="bob", guarantee=parse_amounts("3gpu")))
    start = scene([make_node("n", gpus=4)], [gpu_run(one) for one in range(1, 5)], shares=(share,))
    assert len(_evicted(later(start, gpu_run(9, "bob", 3)))) == 3
    assert _evicted(later(replace(start, shares=()), gpu_run(9, "bob", 3))) == {}


@pytest.mark.parametrize(("estimate_s", "age_s", "is_stopped"), [(20.0, 5, False), (20.0, 600, True), (0.4, 5, True)])
def test_who_outlived_its_estimate_is_not_believed_to_end_soon_again_and_again(
    scene: Any, make_node: Any, gpu_run: Any, later: Any, estimate_s: float, age_s: int, is_stopped: bool
) -> None:
    """A run that was believed to take a second held what was promised to others for ten minutes, a minute at a time."""
    owed = ShareState(share=Share(name="bob", guarantee={"gpu": 2000}))
    start = scene([make_node("n", gpus=2)], [gpu_run(1, gpus=2, estimate_s=estimate_s)], shares=(owed,))
    snapshot = later(start, gpu_run(2, "bob", 2))
    snapshot = replace(
        snapshot, placed=tuple(replace(run, since=snapshot.now - timedelta(seconds=age_s)) for run in snapshot.placed)
    )
    assert bool(_evicted(snapshot)) is is_stopped


def test_a_guarantee_takes_back_what_was_lent_however_young(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    policy = Policy(preemption=PreemptionPolicy(min_run_s=7200.0))
    share = ShareState(share=Share(name="bob", guarantee=parse_amounts("2gpu")))
    start = replace(scene([make_node("n", gpus=4)], [gpu_run(one) for one in range(1, 5)], shares=(share,)), policy=policy)
    assert {rule for rule, _ in _evicted(later(start, gpu_run(9, "bob", 2))).values()} == {"guarantee"}
    assert _evicted(later(start, gpu_run(9, "bob", 3))) == {}  # more than was promised
    assert _evicted(later(replace(start, shares=()), gpu_run(9, "bob", 2))) == {}  # nothing was promised


def test_a_guarantee_is_not_kept_by_places_in_pieces(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    """One GPU is idle on each machine: nothing is scarce, and yet two together are not there."""

    def asked(**guarantees: str) -> dict[str, tuple[str, str]]:
        shares = tuple(ShareState(share=Share(name=name, guarantee=parse_amounts(one))) for name, one in guarantees.items())
        nodes = [make_node("a", gpus=4), make_node("b", gpus=4)]
        return _evicted(later(scene(nodes, [gpu_run(1, gpus=3), gpu_run(2, gpus=3)], shares=shares), gpu_run(9, "bob", 2)))

    assert [rule for rule, _ in asked(bob="2gpu").values()] == ["guarantee"]
    assert asked() == {}
    assert asked(alice="6gpu", bob="2gpu") == {}  # neither holds more than it was promised


def test_the_least_work_is_lost(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    snapshot = later(scene([make_node("n", gpus=3)], [gpu_run(one) for one in (1, 2, 3)]), gpu_run(9, "bob"))
    fresh = tuple(
        replace(run, checkpointed_at=snapshot.now - timedelta(minutes=20)) if run.seq == 2 else run for run in snapshot.placed
    )
    assert list(_evicted(replace(snapshot, placed=fresh))) == ["run_002"]


def test_reclaim_is_judged_at_every_level(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    """Team b has its part; its second person takes from the first, not from team a."""
    runs = [gpu_run(one, "x", share="a/x") for one in (1, 2)] + [gpu_run(one, "y", share="b/y") for one in (3, 4)]
    snapshot = later(scene([make_node("n", gpus=4)], runs), gpu_run(5, "z", share="b/z"), gpu_run(6, "x", share="a/x"))
    assert _evicted(snapshot) == {"run_004": ("reclaim", "run_005")}


def test_below_a_limit_colleagues_share(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    limit = ShareState(share=Share(name="a", limit=parse_amounts("2gpu")))
    runs = [gpu_run(one, "x", share="a/x") for one in (1, 2)]
    snapshot = later(scene([make_node("n", gpus=8)], runs, shares=(limit,)), gpu_run(5, "z", share="a/z"))
    assert _evicted(snapshot) == {"run_002": ("reclaim", "run_005")}


def test_gangs_take_and_are_taken_as_a_whole(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    nodes = [make_node(name, gpus=2) for name in "abcd"]
    start = scene(nodes, [gpu_run(1, gpus=2, replicas=2), gpu_run(2, gpus=2), gpu_run(3, gpus=2)])
    snapshot = later(start, gpu_run(9, "bob", 2, replicas=2))
    assert set(_evicted(snapshot)) in ({"run_002", "run_003"}, {"run_001"})
    alone = later(replace(start, waiting=start.waiting[:1], nodes=start.nodes[:2]), gpu_run(9, "bob", 2))
    assert _evicted(alone) == {}  # all four devices of the gang for two: alice would fall below her part


def test_a_gang_of_one_rack_has_one_rack_cleared(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    """The cheapest victims are on two racks; those of one rack go, and the gang is kept that rack."""
    racks = {"a": "r1", "b": "r2", "c": "r2"}
    nodes = [make_node(name, gpus=1, labels={"rack": rack}) for name, rack in racks.items()]
    before = scene(nodes, [gpu_run(one) for one in (3, 2, 1)], policy=Policy(scorer="first_fit"))
    snapshot = later(before, gpu_run(9, "bob", replicas=2, same="rack"))
    guaranteed = (ShareState(share=Share(name="bob", guarantee=parse_amounts("2gpu"))),)
    plan = scheduler.plan(replace(snapshot, shares=guaranteed))
    nominated = next(one for one in plan.decisions if one.kind is DecisionKind.NOMINATE)
    assert [racks[place.node] for place in nominated.places] == ["r2", "r2"]


def test_priority_takes_inside_a_share_only(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    start = scene([make_node("n", gpus=2)], [gpu_run(1), gpu_run(2, "bob")], policy=PRIORITY)
    snapshot = later(start, gpu_run(9, priority=5))
    assert _evicted(snapshot) == {"run_001": ("preempt", "run_009")}
    assert _evicted(replace(snapshot, policy=Policy())) == {}
    assert _evicted(later(start, gpu_run(9))) == {}


def test_priority_takes_below_a_limit_too(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    limit = ShareState(share=Share(name="alice", limit=parse_amounts("1gpu")))
    start = scene([make_node("n", gpus=2)], [gpu_run(1)], policy=PRIORITY, shares=(limit,))
    assert _evicted(later(start, gpu_run(9, priority=5))) == {"run_001": ("preempt", "run_009")}


def test_a_run_that_lost_little_moves_aside(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    """Two half-empty nodes; a run of two devices fits when one of the small runs goes to the other node."""
    nodes = [make_node("a", gpus=2), make_node("b", gpus=2)]
    start = scene(nodes, [gpu_run(1), gpu_run(2)], policy=Policy(scorer="spread"))
    snapshot = later(start, gpu_run(9, "bob", 2))
    assert {place.node for run in snapshot.placed for place in run.places} == {"a", "b"}
    assert _evicted(snapshot) == {}  # an hour of work would be lost
    fresh = replace(
        snapshot, placed=tuple(replace(run, checkpointed_at=snapshot.now - timedelta(minutes=1)) for run in snapshot.placed)
    )
    plan = scheduler.plan(fresh)
    assert [rule for rule, _ in _evicted(fresh).values()] == ["move"]
    after = scheduler.apply_plan(fresh, plan)
    assert len([one for one in scheduler.plan(after).decisions if one.kind is DecisionKind.START]) == 2


def test_a_move_comes_before_a_reclaim(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    """Room for two devices comes from a small run that goes to another node; else from one that has to wait."""
    nodes = [make_node(name, gpus=2) for name in "abc"]
    start = scene(nodes, [gpu_run(1, gpus=2), gpu_run(2), gpu_run(3)], policy=Policy(scorer="spread"))
    snapshot = later(start, gpu_run(9, "bob", 2), gpu_run(10, "bob", 2))
    assert len({place.node for run in snapshot.placed for place in run.places}) == 3
    assert set(_evicted(snapshot).values()) == {("reclaim", "run_009")}  # the small ones would lose an hour of work by a move
    kept = tuple(
        replace(run, checkpointed_at=snapshot.now) if run.resources.gpu_milli == 1000 else run for run in snapshot.placed
    )
    assert [rule for rule, _ in _evicted(replace(snapshot, placed=kept)).values()] == ["move"]


def test_nobody_moves_unless_all_find_a_place(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    """Each of two would fit on the other node, which has the CPU for one of them."""
    nodes = [make_node("a", gpus=2, labels={"zone": "x"}), make_node("b", cpus=1, gpus=2)]
    runs = [replace(gpu_run(one), resources=replace(gpu_run(one).resources, cpu_milli=1000)) for one in (1, 2)]
    snapshot = later(scene(nodes[:1], runs), gpu_run(9, "bob", 2, labels={"zone": "x"}))

    def moved(other: Any) -> set[str]:
        fresh = tuple(replace(run, checkpointed_at=snapshot.now) for run in snapshot.placed)
        return {rule for rule, _ in _evicted(replace(snapshot, nodes=(*snapshot.nodes, other), placed=fresh)).values()}

    assert moved(nodes[1]) == set()
    assert moved(make_node("b", cpus=2, gpus=2)) == {"move"}


def test_places_being_cleared_are_not_cleared_twice(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    snapshot = later(scene([make_node("n", gpus=2)], [gpu_run(1), gpu_run(2)]), gpu_run(9, "bob"))
    plan = scheduler.plan(snapshot)
    nominated = next(one for one in plan.decisions if one.kind is DecisionKind.NOMINATE)
    victim = next(iter(_evicted(snapshot)))
    meanwhile = replace(
        snapshot,
        placed=tuple(replace(run, is_stopping=run.id == RunId(victim)) for run in snapshot.placed),
        waiting=tuple(replace(run, nominated=nominated.places) for run in snapshot.waiting),
    )
    assert _evicted(meanwhile) == {}
    assert [one.kind for one in scheduler.plan(meanwhile).decisions] == [DecisionKind.NOMINATE]


def test_a_run_that_holds_nothing_that_helps_is_left_alone(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:
    nodes = [make_node("a", gpus=2), make_node("b", gpus=2, labels={"zone": "x"})]
    runs = [gpu_run(one, labels={"zone": "x"}) for one in (1, 2)] + [gpu_run(one) for one in (3, 4)]
    snapshot = later(scene(nodes, runs), gpu_run(9, "bob", labels={"zone": "x"}))
    assert set(_evicted(snapshot)) <= {"run_001", "run_002"}
    assert len(_evicted(snapshot)) == 1


def test_an_open_window_is_cleared_for_its_share(scene: Any, make_node: Any, gpu_run: Any, later: Any) -> None:

    snapshot = later(scene([make_node("n", gpus=4)], [gpu_run(one) for one in range(1, 5)]), gpu_run(9, "bob", 3))
    window = Reservation(
        id="w",
        share="bob",
        begins_at=snapshot.now,
        ends_at=snapshot.now + HOUR,
        resources=Resources(cpu_milli=10, gpu_milli=1000),
        replicas=3,
    )
    assert len(_evicted(replace(snapshot, reservations=(window,)))) == 3


def test_room_is_made_for_any_choice_and_for_as_few_replicas_as_will_do(
    scene: Any, make_node: Any, gpu_run: Any, later: Any
) -> None:
    """The second choice is tried when no eviction serves the first; a gang of 2 to 4 takes two places, not four."""
    snapshot = scene([make_node("n", gpus=4)], [gpu_run(one) for one in range(1, 5)])
    choosy = gpu_run(5, "bob", 8, alternatives=(Resources(cpu_milli=10, gpu_milli=2000),))
    elastic = gpu_run(5, "bob", replicas=4, min_replicas=2)
    for run in (choosy, elastic):
        asked = later(snapshot, run)
        plan = scheduler.plan(asked)
        assert _evicted(asked) == {"run_003": ("reclaim", "run_005"), "run_004": ("reclaim", "run_005")}
        again = scheduler.plan(scheduler.apply_plan(asked, plan))
        (start,) = [one for one in again.decisions if one.kind is DecisionKind.START]
        assert (start.run, sum(len(place.granted.devices) for place in start.places)) == ("run_005", 2)
