"""When a machine is rented, where, for how much, and when it goes home."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from mainspring import scheduler
from mainspring.core.policy import BurstMode, BurstPolicy, Policy
from mainspring.core.reasons import ReasonCode
from mainspring.core.resources import DeviceShare, Granted, Resources
from mainspring.core.shares import Share
from mainspring.core.snapshot import Decision, DecisionKind, Place, PlacedRun, Rented, ShareState, Site, Snapshot

HOUR = timedelta(hours=1)
SHORT = Policy()
FULL = tuple(DeviceShare(index=one, milli=1000) for one in range(2))


@pytest.fixture
def cloud(make_node: Any) -> Any:
    """Give a maker of sites whose machines have two GPUs and cost 3 USD an hour."""

    def made(name: str = "cloud", price: str = "3", **others: Any) -> Site:
        machine = make_node(f"{name}-machine", gpus=2, pool=name, cluster=name, price_usd_per_hour=price)
        return replace(Site(name=name, machine=machine, max_machines=4), **others)

    return made


@pytest.fixture
def full(scene: Any, make_node: Any, make_waiting: Any, cloud: Any) -> Any:
    """Give a maker of a full cluster with runs that have waited an hour and would run for half an hour."""

    def made(count: int = 1, sites: tuple[Site, ...] = (), run: Any = None, **others: Any) -> Snapshot:
        now = scene([], []).now
        one = {"gpu_milli": 1000, "estimate_s": 1800.0, "submitted_at": now - HOUR, "cpu_milli": 10} | (run or {})
        runs = [make_waiting(seq, **one) for seq in range(1, count + 1)]
        return replace(scene([make_node("n", gpus=2, used_devices=FULL)], runs, sites=sites or (cloud(),)), **others)

    return made


def _bursts(snapshot: Snapshot) -> list[Decision]:
    return [one for one in scheduler.plan(snapshot).decisions if one.kind is DecisionKind.BURST]


def test_a_run_that_waited_on_a_full_cluster_gets_a_machine(full: Any) -> None:
    snapshot = full()
    (asked,) = _bursts(snapshot)
    # twice the estimate, five minutes until it is there, five minutes idle at the end: 70 minutes at 3 USD
    assert (asked.site, asked.machines, asked.cost_usd) == ("cloud", 1, "3.50")
    assert asked.expected_at == snapshot.now + timedelta(minutes=5)
    assert asked.reason is not None
    assert asked.reason.code is ReasonCode.BURSTING
    again = scheduler.plan(scheduler.apply_plan(snapshot, scheduler.plan(snapshot)))
    assert [(one.kind, one.reason and one.reason.code) for one in again.decisions] == [(DecisionKind.WAIT, ReasonCode.BURSTING)]


@pytest.mark.parametrize(
    "run",
    [
        {"submitted_at": None},  # has not waited
        {"estimate_s": 5 * 3600.0},
        {"gpu_milli": 0, "cpu_milli": 99_000},
        {"gpu_milli": 1000, "sites": ()},  # data may go nowhere
        {"sites": ("elsewhere",)},
        {"is_bursting": True},
        {"is_held": True},
        {"replicas": 9},  # more machines than the site has
        {"owner": ""},
        {"pool": "default"},
        {"gpu_models": ("A100",), "labels": {"zone": "x"}},
    ],
)
def test_what_is_not_worth_it_waits(run: dict[str, Any], full: Any, scene: Any) -> None:
    if "submitted_at" in run:
        run = {"submitted_at": scene([], []).now}
    assert _bursts(full(run=run)) == []


def test_the_gate_is_strict(full: Any, make_node: Any) -> None:
    def asked(mode: BurstMode, milli: int, **others: Any) -> int:
        used = (DeviceShare(index=0, milli=1000), DeviceShare(index=1, milli=milli))
        node = make_node("n", gpus=2, used_devices=used, **others)
        return len(_bursts(full(nodes=(node,), policy=Policy(burst=BurstPolicy(mode=mode)))))

    assert asked(BurstMode.ALL_ALLOCATED, 1000) == 1
    assert asked(BurstMode.ALL_ALLOCATED, 900) == 0  # a tenth of a device is idle
    assert asked(BurstMode.NO_FIT, 900) == 1
    assert asked(BurstMode.NEVER, 1000) == 0
    assert asked(BurstMode.ALL_ALLOCATED, 900, state="draining") == 1  # what takes no runs is not counted


def test_budgets_hold_for_all_decisions_at_once(full: Any) -> None:
    def asked(**others: Any) -> int:
        return len(_bursts(full(count=4, run={"share": "team/alice"}, **others)))

    team = ShareState(share=Share(name="team", budget_usd="12"), spent_usd="3", reserved_usd="1.4")
    assert asked() == 4
    assert asked(shares=(team,)) == 2  # 7.60 are left, 3.50 each
    assert asked(shares=(replace(team, spent_usd="10"),)) == 0
    assert asked(budget_usd="7.00") == 2
    assert asked(budget_usd="6.99") == 1
    assert asked(budget_usd="12", shares=(replace(team, share=Share(name="team")),)) == 2
    spent = sum(Decimal(one.cost_usd) for one in _bursts(full(count=4, budget_usd="8")))
    assert spent == Decimal("7.00")


def test_caps_hold_for_all_decisions_at_once(full: Any, cloud: Any) -> None:
    assert len(_bursts(full(count=9))) == 4
    assert len(_bursts(full(count=9, sites=(cloud(running=3),)))) == 1
    capped = Policy(burst=BurstPolicy(max_gpus=5))
    assert len(_bursts(full(count=9, policy=capped))) == 2
    assert len(_bursts(full(count=9, sites=(cloud(running=2),), policy=capped))) == 0


def test_the_cheapest_site_that_may_and_can(full: Any, cloud: Any, scene: Any) -> None:
    now = scene([], []).now
    dear, cheap = cloud("dear", "9"), cloud("cheap", "1")
    assert _bursts(full(sites=(dear, cheap)))[0].site == "cheap"
    assert _bursts(full(sites=(dear, cheap), run={"sites": ("dear",)}))[0].site == "dear"
    failed = replace(cheap, cooldown_until=now + timedelta(seconds=1))
    assert _bursts(full(sites=(dear, failed)))[0].site == "dear"
    assert _bursts(full(sites=(replace(cheap, cooldown_until=now),)))[0].site == "cheap"
    heavy = {"data_bytes": 10**12, "data_on": ("dear",)}
    assert _bursts(full(sites=(dear, cheap), run=heavy))[0].expected_at == now + timedelta(minutes=5)


def test_a_start_that_is_expected_soon_is_not_bought(full: Any) -> None:
    snapshot = full(run={"nominated": ()})
    filled = scheduler.apply_plan(snapshot, scheduler.plan(replace(snapshot, sites=())))
    started = replace(filled, nodes=tuple(replace(node, used_devices=()) for node in filled.nodes), sites=())
    running = scheduler.apply_plan(started, scheduler.plan(started))
    late = replace(running.placed[0], estimate_s=7200.0)

    def asked(estimate_s: float) -> int:
        placed = (replace(late, estimate_s=estimate_s),)
        held = tuple(replace(node, used_devices=FULL) for node in running.nodes)
        waiting = full(run={"gpu_milli": 1000}).waiting
        return len(_bursts(replace(full(), nodes=held, placed=placed, waiting=tuple(replace(one, id="r") for one in waiting))))

    assert asked(800.0) == 0  # gains less than ten minutes
    assert asked(7200.0) == 1


def test_who_has_not_waited_long_is_not_sent_away_whatever_is_expected(full: Any, scene: Any) -> None:
    at = {"submitted_at": scene([], []).now - timedelta(seconds=1799)}
    assert _bursts(full(run=at)) == []
    assert len(_bursts(full(run=at, policy=Policy(burst=BurstPolicy(min_wait_s=1700.0))))) == 1


def test_a_place_in_line_counts_not_the_next_gpu_that_comes_free(full: Any, scene: Any) -> None:
    now = scene([], []).now
    asked = Resources(cpu_milli=10, gpu_milli=1000)

    def placed(number: int, left_s: float) -> PlacedRun:
        place = Place(replica=0, node="n", granted=Granted(cpu_milli=10, memory_bytes=0, devices=(FULL[number],)))
        return PlacedRun(
            id=f"run-{number}",  # type: ignore[arg-type]
            owner="bob",
            project="default",
            priority=0,
            seq=90 + number,
            since=now - HOUR,
            is_preemptible=False,
            places=(place,),
            resources=asked,
            estimate_s=3600.0 + left_s,
        )

    # Both devices are free within two minutes, for those who are first; the others wait half an hour for each before them.
    snapshot = full(count=6, placed=(placed(0, 60.0), placed(1, 120.0)))
    decided = [one.run for one in _bursts(replace(snapshot, sites=(replace(snapshot.sites[0], max_machines=9),)))]
    assert decided == [run.id for run in snapshot.waiting[2:]]


def test_machines_go_home_when_idle_and_old_enough(full: Any, scene: Any, make_node: Any, make_waiting: Any, cloud: Any) -> None:
    now = scene([], []).now

    def gone(idle_s: float | None, age_s: float, waiting: tuple[Any, ...] = (), **others: Any) -> tuple[str, ...]:
        idle = None if idle_s is None else now - timedelta(seconds=idle_s)
        rented = Rented(node="m", site="cloud", born_at=now - timedelta(seconds=age_s), idle_since=idle, **others)
        snapshot = scene([make_node("m", gpus=2, pool="cloud")], list(waiting), sites=(cloud(),), rented=(rented,))
        return tuple(scheduler.plan(snapshot).release)

    assert gone(300, 600) == ("m",)
    assert gone(299, 6000) == ()
    assert gone(None, 6000) == ()
    assert gone(300, 599) == ()
    assert gone(600, 6000, (make_waiting(1, gpu_milli=1000),)) == ()  # the plan uses it
    assert gone(600, 6000, (make_waiting(1, gpu_milli=1000, sites=()),)) == ("m",)
    assert gone(10, 20, ends_at=now) == ("m",)


def test_data_that_may_not_leave_is_not_placed_on_a_free_machine(
    scene: Any, make_node: Any, make_waiting: Any, cloud: Any
) -> None:
    nodes = [make_node("m", gpus=2, pool="cloud")]

    def kinds(**others: Any) -> list[DecisionKind]:
        snapshot = scene(nodes, [make_waiting(1, gpu_milli=1000, **others)], sites=(cloud(max_machines=0),))
        return [one.kind for one in scheduler.plan(snapshot).decisions]

    assert kinds() == kinds(sites=("cloud",)) == [DecisionKind.START]
    assert kinds(sites=()) == kinds(sites=("other",)) == [DecisionKind.WAIT]


def test_a_long_run_takes_no_machine_that_was_rented_for_a_short_one(
    scene: Any, make_node: Any, make_waiting: Any, cloud: Any
) -> None:
    def starts(policy: Policy = SHORT, **run: Any) -> int:
        waiting = [make_waiting(1, gpu_milli=1000, cpu_milli=10, **run)]
        rented = make_node("m", gpus=2, pool="cloud", price_usd_per_hour="3")
        plan = scheduler.plan(scene([rented], waiting, sites=(cloud(),), policy=policy))
        return len([one for one in plan.decisions if one.kind is DecisionKind.START])

    assert starts(estimate_s=14_400.0) == 1
    assert starts(estimate_s=14_401.0) == 0
    assert starts(Policy(burst=BurstPolicy(max_estimate_s=20_000.0)), estimate_s=14_401.0) == 1
    assert starts(estimate_s=14_401.0, pool="cloud") == 1  # it was sent there by name
    assert starts() == 1  # nobody knows


def test_a_run_that_only_a_budget_keeps_here_says_so(full: Any) -> None:
    def reasons(**others: Any) -> list[Any]:
        plan = scheduler.plan(full(count=2, run={"share": "team/alice"}, **others))
        return [one.reason for one in plan.decisions if one.reason is not None]

    team = ShareState(share=Share(name="team", budget_usd="5"), spent_usd="1")
    first, second = reasons(shares=(team,))
    assert (first.code, second.code) == (ReasonCode.BURSTING, ReasonCode.BUDGET)
    assert second.facts == {"site": "cloud", "cost_usd": "3.50", "share": "team", "left_usd": "0.50"}
    assert [one.code for one in reasons(shares=(replace(team, share=Share(name="team", budget_usd="0")),))] == [
        ReasonCode.BUDGET,
        ReasonCode.BUDGET,
    ]
    assert reasons(budget_usd="1")[0].facts["share"] == ""
    never = reasons(
        shares=(replace(team, share=Share(name="team", budget_usd="0")),), policy=Policy(burst=BurstPolicy(mode=BurstMode.NEVER))
    )
    assert {one.code for one in never} == {ReasonCode.NO_FREE_GPU}
