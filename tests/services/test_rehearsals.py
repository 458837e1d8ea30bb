"""A policy is rehearsed on what was run: the same load twice, who wins and who loses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mainspring.core.actors import Actor
from mainspring.core.errors import AccessDeniedError, NotFoundError, SpecError
from mainspring.core.machines import MachineOffer
from mainspring.core.policy import BurstMode, BurstPolicy, OrderPolicy, Policy
from mainspring.core.records import Cause, Cluster, Outcome
from mainspring.core.resources import Device, Resources
from mainspring.core.specs import RunSpec
from mainspring.services import attempts, projects, rehearsals, runs, shares
from mainspring.services.shares import ShareChange

ALICE = Actor(name="alice", is_admin=True)
BOB = Actor(name="bob", is_admin=True)
STRICT = Policy(order=OrderPolicy(is_fair=False, is_shortest_first=False))


@pytest.fixture
def busy(house: Any) -> Any:
    """A house in which alice submitted six runs at once and bob one a second later, each of ten minutes on a GPU."""
    made = []
    for number, who in enumerate([ALICE] * 6 + [BOB]):
        asked = Resources(cpu_milli=100, gpu_milli=1000)
        house.clock.advance(number == 6)
        made.append(runs.submit(house.ctx, who, RunSpec(command=("x",), name=f"r{number}", resources=asked))[0])
    for _ in range(4):
        house.plan()
        going = [run for run in made if house.ctx.store.runs.get(run.id).state == "running"]
        for run in going:
            house.begin(house.attempt_of(run))
        house.clock.advance(600)
        for run in going:
            house.end(run)
    return house


def test_who_came_late_loses_under_a_strict_order(busy: Any) -> None:
    found = rehearsals.rehearse(busy.ctx, ALICE, STRICT, days=1)
    assert (found.runs, found.left_out) == (7, 0)
    assert found.now.policy == Policy()
    assert found.then.by_share["bob"].mean_s > found.now.by_share["bob"].mean_s
    assert found.then.by_share["alice"].mean_s <= found.now.by_share["alice"].mean_s
    assert found.then.all.runs == 7


def test_the_same_policy_changes_nothing(busy: Any) -> None:
    found = rehearsals.rehearse(busy.ctx, ALICE, Policy(), days=1)
    assert found.now == found.then


def test_waits_count_to_the_share_of_the_project(busy: Any) -> None:
    shares.change(busy.ctx, ALICE, "lab", ShareChange(limit={"gpu": 1000}))
    projects.edit(busy.ctx, ALICE, "default", share="lab")
    found = rehearsals.rehearse(busy.ctx, ALICE, Policy(), days=1)
    assert set(found.now.by_share) == {"lab/alice", "lab/bob"}
    assert found.now.makespan_s == pytest.approx(7 * 600, abs=30)  # under the limit of the share, one at a time


def test_what_would_be_rented_has_its_price(busy: Any) -> None:
    """With a paid site at hand, a policy that rents at once costs money and lets nobody wait; one that never does is free."""
    machine = MachineOffer(cpu_milli=8000, memory_bytes=1 << 34, devices=(Device(index=0),), price_usd_per_hour="3.6", limit=8)
    cluster = Cluster(id="cloud", name="cloud", backend="memory", config={}, created_at=busy.clock.now())
    busy.ctx.store.clusters.add(cluster)
    busy.ctx.store.machines.offer(cluster, [machine])
    eager = Policy(burst=BurstPolicy(min_wait_s=0, min_gain_s=0, idle_s=60, min_life_s=0))
    never = replace(eager, burst=replace(eager.burst, mode=BurstMode.NEVER))
    busy.ctx.store.policies.set(never, "", actor="alice")
    found = rehearsals.rehearse(busy.ctx, ALICE, eager, days=1)
    assert found.now.cost_usd == 0
    assert found.then.cost_usd > 0
    assert found.then.all.mean_s < found.now.all.mean_s
    poor = replace(eager, burst=replace(eager.burst, budget_usd="1"))
    assert rehearsals.rehearse(busy.ctx, ALICE, poor, days=1).then.cost_usd <= 1


def test_runs_with_choices_are_replayed_with_them(house: Any) -> None:
    asked = {
        "either": {"resources": Resources(gpu_milli=9000), "alternatives": (Resources(gpu_milli=1000),)},
        "elastic": {"resources": Resources(gpu_milli=1000), "replicas": 8, "min_replicas": 1},
    }
    for name, more in asked.items():
        made, _ = runs.submit(house.ctx, ALICE, RunSpec(command=("x",), name=name, **more))
        assert house.plan() == [made.id]
        house.begin(house.attempt_of(made))
        house.clock.advance(60)
        for replica in house.attempt_of(made).replicas:
            attempts.finish(house.ctx, house.attempt_of(made), replica.index, Outcome(cause=Cause.SUCCEEDED, exit_code=0), {})
    found = rehearsals.rehearse(house.ctx, ALICE, STRICT, days=1)
    assert (found.runs, found.left_out) == (2, 0)


def test_what_makes_no_sense_is_told(busy: Any) -> None:
    with pytest.raises(SpecError, match="half_life_s"):
        rehearsals.rehearse(busy.ctx, ALICE, Policy(order=OrderPolicy(half_life_s=0)), days=1)
    with pytest.raises(AccessDeniedError):
        rehearsals.rehearse(busy.ctx, Actor(name="eve"), Policy())
    busy.clock.advance(3 * 86_400)
    with pytest.raises(NotFoundError, match="ended in the last 1 day"):
        rehearsals.rehearse(busy.ctx, ALICE, Policy(), days=1)
