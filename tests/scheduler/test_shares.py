"""Who gets what: the order between shares, limits at each level, guarantees, and what is fair."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mainspring import scheduler
from mainspring.core.policy import BackfillPolicy, OrderPolicy, Policy, PreemptionPolicy
from mainspring.core.reasons import ReasonCode
from mainspring.core.resources import Device
from mainspring.core.shares import Share, parse_amounts
from mainspring.core.snapshot import Decision, DecisionKind, Plan, ShareState, Snapshot
from mainspring.scheduler.cycle import Cycle
from mainspring.scheduler.reading import read
from mainspring.scheduler.shares import water_fill


def _share(name: str, guarantee: str = "", limit: str = "", history: float = 0.0, **others: Any) -> ShareState:
    share = Share(name=name, guarantee=parse_amounts(guarantee), limit=parse_amounts(limit), **others)
    return ShareState(share=share, history=history)


def _starts(snapshot: Snapshot, plan: Plan) -> Counter[str]:
    """Count the starts of each share's person."""
    leaf = {run.id: run.share or run.owner for run in snapshot.waiting}
    return Counter(leaf[one.run] for one in plan.decisions if one.kind is DecisionKind.START)


def _asks(make_waiting: Any, **wanted: int) -> list[Any]:
    """Make one-GPU runs of each share in turn; `team__alice=3` means share `team/alice`."""
    runs: list[Any] = []
    for name, count in wanted.items():
        share = name.replace("__", "/")
        runs += [
            make_waiting(len(runs) + 1 + number, gpu_milli=1000, cpu_milli=10, owner=share.split("/")[-1], share=share)
            for number in range(count)
        ]
    return runs


@pytest.mark.parametrize(
    ("wanted", "shares", "expected"),
    [
        ({"alice": 20, "bob": 20}, [], {"alice": 4, "bob": 4}),
        ({"alice": 20, "bob": 1}, [], {"alice": 7, "bob": 1}),
        ({"a__x": 9, "a__y": 9, "b__z": 9}, [], {"a/x": 2, "a/y": 2, "b/z": 4}),
        ({"alice": 20, "bob": 20}, [_share("alice", weight=3.0)], {"alice": 6, "bob": 2}),
        ({"alice": 20, "bob": 20}, [_share("alice", guarantee="6gpu")], {"alice": 7, "bob": 1}),
        ({"bob": 20}, [_share("alice", guarantee="6gpu")], {"bob": 8}),  # idle guarantees are borrowed
        ({"alice": 20, "bob": 20}, [_share("alice", limit="1gpu")], {"alice": 1, "bob": 7}),
        ({"a__x": 9, "a__y": 9}, [_share("a", limit="3gpu")], {"a/x": 2, "a/y": 1}),
        ({"alice": 9, "bob": 9}, [_share("alice", guarantee="12gpu"), _share("bob", guarantee="4gpu")], {"alice": 6, "bob": 2}),
        ({"alice": 9, "bob": 9}, [_share("alice", history=1.0)], {"alice": 3, "bob": 5}),
        ({"alice": 9, "bob": 9}, [_share("alice", is_held=True)], {"bob": 8}),
    ],
)
def test_gpus_are_shared_by_the_tree(
    wanted: dict[str, int], shares: list[ShareState], expected: dict[str, int], scene: Any, make_node: Any, make_waiting: Any
) -> None:
    snapshot = scene([make_node("n", gpus=8)], _asks(make_waiting, **wanted), shares=tuple(shares))
    assert _starts(snapshot, scheduler.plan(snapshot)) == expected


def test_equals_take_turns(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """One GPU, three people who hold nothing: the one served longest ago is next, whoever asked first."""
    runs = _asks(make_waiting, alice=2, bob=2, carol=2)
    moment = scene([], []).now
    served = [
        replace(_share("alice"), served_at=moment - timedelta(seconds=5)),
        replace(_share("bob"), served_at=moment - timedelta(seconds=9)),
        replace(_share("carol"), served_at=moment - timedelta(seconds=1)),
    ]
    snapshot = scene([make_node("n", gpus=1)], runs, shares=tuple(served))
    assert _starts(snapshot, scheduler.plan(snapshot)) == {"bob": 1}
    never = scene([make_node("n", gpus=1)], runs, shares=tuple(served[:2]))
    assert _starts(never, scheduler.plan(never)) == {"carol": 1}


def test_past_use_counts_against_what_is_borrowed(scene: Any, make_node: Any, make_waiting: Any) -> None:
    snapshot = scene(
        [make_node("n", gpus=8)],
        _asks(make_waiting, alice=9, bob=9),
        shares=(_share("alice", history=1.0), _share("bob")),
        policy=Policy(order=OrderPolicy(history=1.0)),
    )
    assert _starts(snapshot, scheduler.plan(snapshot)) == {"alice": 1, "bob": 7}


def test_the_dominant_resource_counts_whichever_it_is(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """The example of the paper: 9 CPUs and 18 GiB; one asks for <1 CPU, 4 GiB>, the other for <3 CPUs, 1 GiB>: three and two."""
    runs = [make_waiting(seq, owner="ann", cpu_milli=1000, memory_bytes=4 << 30) for seq in range(6)]
    runs += [make_waiting(seq, owner="bob", cpu_milli=3000, memory_bytes=1 << 30) for seq in range(6, 12)]
    plan = scheduler.plan(scene([make_node("n", cpus=9, memory_gib=18)], runs))
    started = [one.run for one in plan.decisions if one.kind is DecisionKind.START]
    assert [sum(run < "run_006" for run in started), sum(run >= "run_006" for run in started)] == [3, 2]


def test_a_person_who_asks_for_cpus_does_not_starve_beside_one_who_holds_all_gpus(
    scene: Any, make_node: Any, make_waiting: Any
) -> None:
    """The counterexample of the paper on hierarchical DRF (SoCC 2013): a/x saturates the GPUs of team a."""
    cpus = [make_waiting(100 + one, cpu_milli=1000, share=("a/y", "b/z")[one % 2]) for one in range(16)]
    snapshot = scene([make_node("n", cpus=8, gpus=2)], [*_asks(make_waiting, a__x=2), *cpus])
    assert _starts(snapshot, scheduler.plan(snapshot)) == {"a/x": 2, "a/y": 3, "b/z": 4}


def test_priority_counts_inside_a_share_only(scene: Any, make_node: Any, make_waiting: Any) -> None:
    runs = [
        make_waiting(1, gpu_milli=1000),
        make_waiting(2, gpu_milli=1000, priority=5),
        make_waiting(3, gpu_milli=1000, priority=99),
        make_waiting(4, gpu_milli=1000, owner="bob"),
    ]
    plan = scheduler.plan(scene([make_node("n", gpus=2)], runs))
    assert {one.run for one in plan.decisions if one.kind is DecisionKind.START} == {"run_003", "run_004"}


def test_the_shortest_comes_first_until_the_longer_has_waited(scene: Any, make_node: Any, make_waiting: Any) -> None:
    node = make_node("n", gpus=1)
    short, long = make_waiting(2, gpu_milli=1000, estimate_s=600.0), make_waiting(1, gpu_milli=1000, estimate_s=3600.0)
    snapshot = scene([node], [short, long])
    assert scheduler.plan(snapshot).decisions[0].run == short.id
    old = make_waiting(1, gpu_milli=1000, estimate_s=3600.0, submitted_at=snapshot.now - timedelta(days=6))
    assert scheduler.plan(scene([node], [short, old])).decisions[0].run == old.id


def test_a_model_that_is_used_up_leaves_the_others(scene: Any, make_node: Any, make_waiting: Any) -> None:
    nodes = [make_node("a", gpus=4), make_node("t", devices=tuple(Device(index=one, model="T4") for one in range(4)))]
    snapshot = scene(nodes, _asks(make_waiting, alice=8), shares=(_share("alice", limit="1gpu:A100"),))
    plan = scheduler.plan(snapshot)
    assert Counter(one.places[0].node for one in plan.decisions if one.places) == {"a": 1, "t": 4}
    waits = [one.reason for one in plan.decisions if one.kind is DecisionKind.WAIT]
    assert {reason.code for reason in waits if reason} == {ReasonCode.SHARE_LIMIT}


@pytest.mark.parametrize(
    ("a100", "shares", "held", "expected"),
    [
        (4, [], {}, {"alice": 2, "bob": 2}),
        (6, [_share("alice", weight=2.0)], {}, {"alice": 4, "bob": 2}),
        (8, [_share("alice", history=1.0), _share("bob")], {}, {"alice": 1, "bob": 7}),
        (6, [], {"A100": 2}, {"alice": 1, "bob": 3}),  # three each, with what she holds
        (6, [_share("alice", weight=2.0)], {"A100": 2}, {"alice": 2, "bob": 2}),
        (4, [_share("alice", guarantee="3gpu:A100")], {}, {"alice": 3, "bob": 1}),
        (4, [_share("alice", limit="1gpu:A100")], {}, {"alice": 1, "bob": 3}),
    ],
)
def test_a_scarce_model_is_shared_though_another_idles(
    a100: int,
    shares: list[ShareState],
    held: dict[str, int],
    expected: dict[str, int],
    scene: Any,
    make_node: Any,
    make_waiting: Any,
) -> None:
    """Runs that only an A100 will do for split the A100s by weight, past use and what is held; the T4s beside them stay idle."""
    nodes = [
        make_node("a", cpus=64, gpus=a100),
        make_node("t", cpus=64, devices=tuple(Device(index=one, model="T4") for one in range(8))),
    ]
    before = [
        make_waiting(100 + one, gpu_milli=1000, cpu_milli=10, gpu_models=(model,), owner="alice", share="alice")
        for model, count in held.items()
        for one in range(count)
    ]
    first = scene(nodes, before, shares=tuple(shares), policy=Policy(order=OrderPolicy(history=1.0)))
    world = scheduler.apply_plan(first, scheduler.plan(first))
    runs = [replace(run, resources=replace(run.resources, gpu_models=("A100",))) for run in _asks(make_waiting, alice=9, bob=9)]
    plan = scheduler.plan(replace(world, waiting=tuple(runs)))
    assert _starts(replace(world, waiting=tuple(runs)), plan) == expected
    assert {place.node for one in plan.decisions if one.kind is DecisionKind.START for place in one.places} == {"a"}


@pytest.mark.parametrize("more", [0, 4, 9])
@pytest.mark.parametrize(
    ("others", "idle", "taken"),
    [
        ({"bob": 3}, 4, 2),
        ({"bob": 9}, 4, 2),
        ({"bob": 9, "cid": 9}, 4, 2),  # a third of four each, in whole devices
        ({"bob": 9, "cid": 9}, 0, 2),  # dan has all T4s, which is nothing to those who may have none
    ],
)
def test_what_is_held_of_a_scarce_model_is_reclaimed_though_another_idles(
    others: dict[str, int], idle: int, taken: int, more: int, scene: Any, make_node: Any, make_waiting: Any
) -> None:
    """Alice holds all four A100s and asks for more; what the others are owed of them is taken, however many T4s are free."""
    nodes = [make_node("a", gpus=4), make_node("t", devices=tuple(Device(index=one, model="T4") for one in range(4)))]

    def asks(first: int, name: str, count: int, *models: str) -> list[Any]:
        kinds = {"gpu_milli": 1000, "cpu_milli": 10, "gpu_models": models}
        return [make_waiting(first + one, owner=name, share=name, **kinds) for one in range(count)]

    full = scene(nodes, [*asks(1, "alice", 4, "A100"), *asks(10, "dan", 4 - idle, "T4", "A100")])
    held = scheduler.apply_plan(full, scheduler.plan(full))
    waiting = [run for number, (name, count) in enumerate(others.items()) for run in asks(50 + 20 * number, name, count, "A100")]
    later = replace(held, now=held.now + timedelta(hours=2), waiting=(*asks(30, "alice", more, "A100"), *waiting))
    done = Counter((one.kind, one.rule) for one in scheduler.plan(later).decisions if one.rule)
    assert done == {(DecisionKind.EVICT, "reclaim"): taken, (DecisionKind.NOMINATE, "reclaim"): taken}


def test_runs_that_may_not_be_preempted_stay_within_what_their_share_can_count_on(
    scene: Any, make_node: Any, make_waiting: Any
) -> None:
    runs = [make_waiting(one, gpu_milli=1000, cpu_milli=10, is_preemptible=False) for one in range(8)]
    others = [make_waiting(20, gpu_milli=1000, cpu_milli=10, owner="bob"), make_waiting(21, gpu_milli=1000, owner="eve")]
    nodes = [make_node("n", gpus=8)]

    def starts(**given: Any) -> int:
        snapshot = scene(nodes, [*runs, *others], **given)
        return _starts(snapshot, scheduler.plan(snapshot))["alice"]

    assert starts(shares=(_share("alice", guarantee="3gpu"),)) == 3
    assert starts() == 2  # a third of eight, in whole devices
    assert starts(shares=(_share("bob", guarantee="6gpu"),)) == 1  # half of what bob has not guaranteed
    assert starts(shares=(_share("alice", guarantee="3gpu", weight=9.0),)) == 3
    reason = next(
        one.reason
        for one in scheduler.plan(scene(nodes, [*runs, *others], shares=(_share("alice", guarantee="3gpu"),))).decisions
        if one.reason
    )
    assert (reason.code, reason.facts["entitled"], reason.facts["pinned"]) == (ReasonCode.OVER_GUARANTEE, 3000, 3000)


def test_reasons_name_the_share_and_the_rule(scene: Any, make_node: Any, make_waiting: Any) -> None:
    shares = (_share("a", limit="2gpu"), _share("b", is_held=True))
    snapshot = scene([make_node("n", gpus=8)], _asks(make_waiting, a__x=3, b__y=1), shares=shares)
    sentences = {one.reason.sentence for one in scheduler.plan(snapshot).decisions if one.reason}
    assert sentences == {
        "Waits because share a may hold 2 GPUs at most: it holds 2 GPUs and this run takes 1 GPU.",
        "Waits because share b is held; an admin lets it go on with `mainspring share b --release`.",
    }


def test_who_has_a_fair_part_hears_that_others_are_owed_more(scene: Any, make_node: Any, make_waiting: Any) -> None:
    full = scene([make_node("n", gpus=4)], _asks(make_waiting, alice=6))
    held = scheduler.apply_plan(full, scheduler.plan(full))
    bob = make_waiting(50, gpu_milli=1000, cpu_milli=10, owner="bob", share="bob", replicas=2)
    snapshot = scene(list(held.nodes), [*held.waiting, bob], placed=held.placed)
    reasons = {one.run: one.reason for one in scheduler.plan(snapshot).decisions}
    mine = reasons[held.waiting[0].id]
    assert mine is not None
    assert mine.code is ReasonCode.FAIR_SHARE
    assert (mine.facts["used"], mine.facts["fair"], mine.facts["owed"]) == (4000, 2000, {"bob": 2000})
    theirs = reasons[bob.id]
    assert theirs is not None
    assert theirs.code is ReasonCode.NO_FREE_GPU


def test_what_a_held_share_loses_of_a_model_counts_no_more(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """Of three A100s alice holds, one run would have no other. Once that is stopped, her fair parts are as if read anew."""
    kinds: dict[str, Any] = {"gpu_milli": 1000, "cpu_milli": 10, "owner": "alice", "share": "alice"}
    runs = [make_waiting(1, gpu_models=("A100",), **kinds), make_waiting(2, **kinds), make_waiting(3, **kinds)]
    first = scene([make_node("a", gpus=4)], runs)
    placed = scheduler.apply_plan(first, scheduler.plan(first))
    bob = make_waiting(9, gpu_milli=4000, gpu_models=("A100",), owner="bob", share="bob")
    shares = (_share("alice", "2gpu", is_held=True), _share("bob", weight=9.0))
    world = replace(placed, waiting=(bob,), shares=shares)
    victim = min(world.placed, key=lambda run: run.seq)
    stop = Plan(fingerprint="", decisions=(Decision(run=victim.id, kind=DecisionKind.EVICT, version=victim.version),))
    after = scheduler.apply_plan(world, stop)
    after = replace(after, waiting=tuple(run for run in after.waiting if run.owner == "bob"))

    cycle, anew = Cycle.begin(world, read(world)), Cycle.begin(after, read(after))
    held, alice = cycle.room.holdings.by_run[victim.id], cycle.tree.account("alice")
    need = cycle.tree.need(cycle.room.placement.request(victim.resources), 1)
    cycle.tree.charge(alice, held.amounts, is_pinned=False, sign=-1)
    cycle.tree.turn(alice, need, asked=0, held=[-amount for amount in held.amounts], unused=0)
    cycle.tree.settle_again()
    assert {name: one.fair for name, one in cycle.tree.accounts.items()} == {
        name: one.fair for name, one in anew.tree.accounts.items()
    }


def test_ten_thousand_runs_of_one_person_slow_nobody(scene: Any, make_node: Any, make_waiting: Any) -> None:
    """All of one kind fail as one; of many kinds only the first `depth` are tried."""
    many = [make_waiting(one, gpu_milli=1000, cpu_milli=10 + one) for one in range(10_000)]
    late = make_waiting(20_000, gpu_milli=1000, cpu_milli=10, owner="bob")
    snapshot = scene(
        [make_node("n", cpus=64, gpus=2)],
        [*many, late],
        policy=Policy(backfill=BackfillPolicy(depth=5), preemption=PreemptionPolicy(mode="never")),
    )
    plan = scheduler.plan(snapshot)
    assert _starts(snapshot, plan) == {"alice": 1, "bob": 1}
    codes = Counter(str(one.reason.code) for one in plan.decisions if one.reason)
    assert codes == {"no_free_gpu": 9999}


@pytest.mark.parametrize(
    ("total", "base", "most", "weights", "expected"),
    [
        (12, [0, 0, 0], [2, 20, 20], [1, 1, 1], [2, 5, 5]),
        (12, [8, 0], [20, 20], [1, 1], [10, 2]),
        (12, [0, 0], [20, 20], [3, 1], [9, 3]),
        (12, [20, 4], [20, 20], [1, 1], [10, 2]),
        (12, [1, 1], [2, 3], [1, 1], [2, 3]),
        (0, [0, 0], [1, 1], [1, 1], [0, 0]),
    ],
)
def test_water_finds_its_level(
    total: float, base: list[float], most: list[float], weights: list[float], expected: list[float]
) -> None:
    assert water_fill(total, base, most, weights) == pytest.approx(expected)
