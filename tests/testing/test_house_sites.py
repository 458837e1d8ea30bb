"""A paid site in the simulated house: whatever breaks, budgets hold, machines have an owner and an end, and none is left."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from benchmarks import team

from mainspring.core.ids import RunId
from mainspring.core.machines import Machine, cost_micros, costs
from mainspring.core.policy import BurstPolicy
from mainspring.core.resources import Resources
from mainspring.scheduler import burst
from mainspring.scheduler.fairness import fairness
from mainspring.simulator import Job
from mainspring.simulator.figures import served
from mainspring.store import machines as stored_machines
from mainspring.testing.engine import Engine
from mainspring.testing.house import HouseFaults, HouseSimulation
from mainspring.testing.house_sites import Broken, Cloud, PaidSite, SiteFaults

FAULTS = HouseFaults(crash=0.01, death=0.01, deaf=0.2)
BAD_DAYS = SiteFaults(refused=0.1, deaf=0.1, stuck=0.1, cut=0.05, vanish=0.01)
EAGER = BurstPolicy(min_wait_s=0, min_gain_s=0, max_estimate_s=300, max_gpus=3, idle_s=60, min_life_s=120, budget_usd="1.2")
SITE = PaidSite(burst=EAGER, budgets={"red": "0.9", "red/ann": "0.5"}, faults=BAD_DAYS)
RICH = PaidSite(burst=replace(EAGER, max_estimate_s=3600.0, budget_usd="9"))


def crowd(seed: int, count: int) -> list[Job]:
    """Return the runs of three people in two teams; of a half nobody knows the length, the others' are known badly."""
    dice = random.Random(seed)
    return [
        Job(
            id=f"job-{number:03}",
            share=dice.choice(("red/ann", "red/bob", "blue/cid")),
            submit_s=dice.uniform(0, 200),
            duration_s=(length_s := dice.uniform(10, 240)),
            estimate_s=dice.choice((0.0, length_s * dice.uniform(0.3, 2))),
            resources=Resources(gpu_milli=dice.choice((500, 1000)), memory_bytes=2**20),
            replicas=dice.choice((1, 1, 1, 2)),
        )
        for number in range(count)
    ]


def alike(*lengths_s: float, estimate_s: float = 0.0) -> list[Job]:
    """Return runs of one person on one GPU each, submitted one after the other."""
    one = Job(id="", share="ann", submit_s=0, duration_s=0, estimate_s=estimate_s)
    return [
        replace(one, id=f"job-{number}", submit_s=float(number), duration_s=length_s) for number, length_s in enumerate(lengths_s)
    ]


def test_without_faults_machines_come_are_used_and_go_home(house: Any) -> None:
    site = replace(SITE, faults=SiteFaults())
    simulation = HouseSimulation(house.ctx, house.clock, crowd(0, 8), site=site)
    found = simulation.run()
    assert found.events["machines"]
    assert not found.events["node_lost"]
    assert sum(one.cloud_s for one in found.done) > 60
    assert len(found.done) == 8


def test_a_run_comes_home_from_its_checkpoint_when_there_is_room(house: Any) -> None:
    jobs = alike(60.0, 60.0, 1000.0, estimate_s=600.0)
    found = HouseSimulation(house.ctx, house.clock, jobs, site=RICH, checkpoint_s=30.0).run()
    (away, home) = found.done[2].spans
    assert (found.done[2].evictions, found.done[2].cloud_s) == (1, away[1] - away[0])
    assert home[1] - home[0] > 500, "what was left of it was worth the way home"
    assert 1000 <= found.done[2].cloud_s + home[1] - home[0] <= 1000 + 30 + 15 * 2, "what it had kept was not done again"


def test_a_machine_costs_nothing_after_its_own_end() -> None:
    began = datetime(2026, 3, 31, 23, tzinfo=UTC)
    life = Machine(
        id="m", cluster="c", site="s", offer="", run=RunId("r"), project="p", owner="o", share="o", price_usd_per_hour="3.6",
        asked_at=began, ends_at=began + timedelta(hours=2), rented_at=began,
    )  # fmt: skip
    seen = replace(life, ended_at=began + timedelta(days=3))
    for now in (timedelta(hours=3), timedelta(days=3)):
        assert dict(costs(life, began + now)) == dict(costs(seen, began + now)) == {"2026-03": 3_600_000, "2026-04": 3_600_000}
    assert cost_micros(life, began + timedelta(minutes=30)) == 1_800_000


def test_the_bill_ends_where_the_machine_ended_itself_however_late_somebody_looks(house: Any) -> None:
    faults = HouseFaults(crash=0.02, away_s=3600.0)
    jobs = alike(*[300.0] * 6, estimate_s=100.0)
    found = HouseSimulation(house.ctx, house.clock, jobs, faults=faults, seed=1, site=RICH).run()
    assert found.events["crash"]
    assert found.events["machines"]


def test_a_machine_that_ends_with_a_run_that_would_not_stop_leaves_no_node(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "stop", lambda *_: None)
    site = replace(RICH, burst=replace(RICH.burst, budget_usd="0.40"))  # enough for one machine, not for more time
    found = HouseSimulation(house.ctx, house.clock, alike(600.0, 600.0, 400.0, estimate_s=100.0), site=site).run()
    assert found.events["machines"] == 1
    assert found.events["preempted"] == 1


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [6, 7])
def test_with_faults_no_budget_is_exceeded_and_no_machine_is_left(house: Any, seed: int) -> None:
    simulation = HouseSimulation(house.ctx, house.clock, crowd(seed, 10), faults=FAULTS, seed=seed, site=SITE, checkpoint_s=20.0)
    found = simulation.run()
    assert found.events["crash"], "too little was broken to prove anything"
    assert found.events["machines"]
    assert any(what.startswith("site ") for what in found.events)


@pytest.mark.chaos
def test_a_clock_that_jumps_exceeds_no_budget(house: Any) -> None:
    faults = replace(FAULTS, jump=0.05)
    simulation = HouseSimulation(house.ctx, house.clock, crowd(4, 10), faults=faults, seed=4, site=SITE, checkpoint_s=20.0)
    found = simulation.run()
    assert found.events["jump"]
    assert found.events["machines"]


@pytest.mark.parametrize("seed", range(2))
def test_schedules_of_the_small_team_keep_gate_and_budgets(house: Any, seed: int) -> None:
    eight(house)
    money = replace(team.EAGER.burst, budget_usd="1.5")
    site = PaidSite(burst=money, budgets={"person-1": "0.4"}, price_usd_per_hour="2", ready_s=60.0)
    simulation = HouseSimulation(house.ctx, house.clock, team.schedule(seed, 14), site=site, seed=seed)
    found = simulation.run()
    assert len(found.done) == 14


def test_the_small_team_fares_with_the_real_controllers_as_in_the_simulator(house: Any) -> None:
    eight(house)
    jobs = team.schedule(1, 40)
    found = HouseSimulation(house.ctx, house.clock, jobs).run()
    jain, makespan = team.at_home(jobs)
    assert fairness(served(found.done), gpus=team.GPUS).index >= jain - 0.03
    assert max(one.ended_s for one in found.done) - min(one.submit_s for one in jobs) <= 1.05 * makespan * team.bound_s(jobs)


def eight(house: Any) -> None:
    """Let the house have the team's machine in place of its own."""
    mine = replace(team.machine(), id="local.one", name="one", cluster="local")
    house.ctx.store.nodes.upsert("local", [mine], now=house.clock.now())


# --- a rule that is broken is noticed -----------------------------------------------------------------------------------


def no_budget(patch: pytest.MonkeyPatch) -> None:
    """Neither the planner nor the store looks at money."""
    patch.setattr(burst.Burst, "_reserve", lambda *_: None)
    patch.setattr(stored_machines, "left_of", lambda *_: {})


def no_gate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(burst.Burst, "is_gate_open", lambda *_: True)


def no_end(patch: pytest.MonkeyPatch) -> None:
    """Machines are rented for longer than their money lasts."""
    rent = Cloud.rent
    patch.setattr(Cloud, "rent", lambda cloud, tag, offer, ends: rent(cloud, tag, offer, ends + timedelta(hours=1)))


def no_owner(patch: pytest.MonkeyPatch) -> None:
    """A second machine is rented that no row knows."""
    rent = Cloud.rent

    def twice(cloud: Cloud, tag: str, offer: str, ends_at: datetime) -> None:
        rent(cloud, tag, offer, ends_at)
        rent(cloud, f"{tag}-again", offer, ends_at)

    patch.setattr(Cloud, "rent", twice)


def no_memory(patch: pytest.MonkeyPatch) -> None:
    """A run for which a machine is coming asks for another one."""
    patch.setattr(stored_machines, "_COMING", ())


def no_way_home(patch: pytest.MonkeyPatch) -> None:
    """What has ended is not seen to be gone."""
    patch.setattr(stored_machines.Machines, "ended", lambda *_, **__: False)


def no_bill(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stored_machines, "book_cost", lambda *_: None)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (no_budget, "spent and reserved"),
        (no_gate, "there were idle GPUs"),
        (no_end, "its money at"),
        (no_owner, "no row knows it"),
        (no_memory, "asked more than once"),
        (no_way_home, "never ends"),
        (no_bill, "the bill says"),
    ],
)
def test_a_broken_rule_is_noticed(
    house: Any, monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None], says: str
) -> None:
    jobs = alike(500.0, 500.0, 100.0, estimate_s=300.0)
    if broken is no_gate:  # the second one wants two GPUs, and one is idle
        jobs = [jobs[0], replace(jobs[1], replicas=2)]
    budget = "0.1" if broken is no_budget else "9"
    site = replace(RICH, burst=replace(RICH.burst, budget_usd=budget))
    monkeypatch.setattr("mainspring.testing.house.PATIENCE_S", 1200.0)
    broken(monkeypatch)
    with pytest.raises(Broken, match=says):
        HouseSimulation(house.ctx, house.clock, jobs, site=site).run()


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_same_runs_break_nothing_as_it_is(house: Any, replicas: int) -> None:
    jobs = alike(500.0, 500.0, 100.0, estimate_s=300.0)
    jobs[1] = replace(jobs[1], replicas=replicas)
    assert HouseSimulation(house.ctx, house.clock, jobs, site=RICH).run().events["machines"] >= 1
