"""Jobs through the real store and controllers on a virtual clock: whatever breaks, each ends once and nothing is left held."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from mainspring.core.resources import Resources
from mainspring.simulator import Job
from mainspring.testing.house import HouseFaults, HouseSimulation
from mainspring.testing.house_sites import Broken

FAULTS = HouseFaults(crash=0.01, death=0.01, deaf=0.2, jump=0.02)


def crowd(seed: int, count: int) -> list[Job]:
    dice = random.Random(seed)
    return [
        Job(
            id=f"job-{number:03}",
            share=f"person-{dice.randrange(4)}",
            submit_s=dice.uniform(0, 300),
            duration_s=dice.uniform(1, 120),
            resources=Resources(gpu_milli=dice.choice((0, 250, 500, 1000)), memory_bytes=2**20),
            replicas=dice.choice((1, 1, 1, 2)),
        )
        for number in range(count)
    ]


def test_without_faults_every_run_ends_at_its_first_attempt(house) -> None:
    found = HouseSimulation(house.ctx, house.clock, crowd(0, 12)).run()
    assert found.events["attempts"] == 12 == len(found.waits_s)
    assert not found.events["crash"]


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(4))
def test_with_faults_nothing_is_lost_doubled_leaked_or_given_twice(house, seed: int) -> None:
    found = HouseSimulation(house.ctx, house.clock, crowd(seed, 12), faults=FAULTS, seed=seed).run()
    assert found.events["crash"], "too little was broken to prove anything"
    assert found.events["attempts"] >= 12


def test_a_leak_is_noticed(house, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = house.ctx.store.nodes.all
    simulation = HouseSimulation(house.ctx, house.clock, crowd(1, 4))
    monkeypatch.setattr(house.ctx.store.nodes, "all", lambda: [replace(node, used_cpu_milli=99_999) for node in kept()])
    with pytest.raises(Broken, match="more than it has"):
        simulation.run()


def test_the_engine_begins_no_work_twice(house) -> None:
    simulation = HouseSimulation(house.ctx, house.clock, crowd(2, 6), faults=HouseFaults(crash=0.05), seed=9)
    simulation.run()
    assert len(simulation.engine.runners) >= 6
    assert all(one.exit is not None for one in simulation.engine.runners.values())
