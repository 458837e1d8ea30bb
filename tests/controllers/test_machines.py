"""Rented machines, driven by a clock that is moved by hand, at a site that lives in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from mainspring.controllers.fleet import Fleet
from mainspring.controllers.loop import Loops
from mainspring.controllers.machines import Machines
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Capabilities, Inventory, Probe
from mainspring.core.errors import CapacityError
from mainspring.core.machines import ListedMachine, MachineOffer, MachineState, empty_machine
from mainspring.core.policy import BurstPolicy, Policy
from mainspring.core.records import AttemptState, Cause, Cluster, NodeState, Run
from mainspring.core.resources import Device, Resources
from mainspring.core.shares import Share
from mainspring.core.specs import RunSpec
from mainspring.services import runs

CLUSTER = Cluster(id="c9", name="cloud", backend="memory")
OFFER = MachineOffer(
    cpu_milli=8000, memory_bytes=1 << 34, devices=(Device(index=0),), price_usd_per_hour="3.6", limit=4, ready_s=60.0
)


@dataclass
class MemorySite:
    """A site. What it was told to rent comes after a minute and ends itself in time."""

    now: Callable[[], datetime]
    found: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)  # tag: up at, ends at
    is_empty: bool = False
    capabilities: Capabilities = field(default_factory=Capabilities)

    def offers(self) -> list[MachineOffer]:
        return [OFFER]

    def rent(self, tag: str, offer: str, ends_at: datetime) -> None:
        assert offer == ""
        if self.is_empty:
            raise CapacityError("Nothing left.")
        up_at = self.found[tag][0] if tag in self.found else self.now() + timedelta(seconds=60)
        self.found[tag] = (up_at, ends_at)

    def machines(self) -> list[ListedMachine]:
        self.found = {tag: times for tag, times in self.found.items() if times[1] > self.now()}
        return [ListedMachine(tag=tag, ends_at=ends, is_up=up <= self.now()) for tag, (up, ends) in self.found.items()]

    def give_back(self, tag: str) -> None:
        self.found.pop(tag, None)

    def probe(self) -> Probe:
        return Probe(is_ready=True)

    def inventory(self) -> Inventory:
        return Inventory(nodes=tuple(empty_machine(one.tag, CLUSTER, OFFER) for one in self.machines() if one.is_up))


class Inline:
    """Lanes that do at once what they are given."""

    def submit(self, work: Callable[[], None], *, lane: str) -> None:
        del lane
        work()


@dataclass
class Scene:
    """A house whose two GPUs are taken, beside a site."""

    house: Any
    site: MemorySite
    loop: Machines

    def submit(self, owner: str = "", **more: Any) -> Run:
        """Submit a run on one GPU that is believed to last ten minutes."""
        asked = Resources(cpu_milli=100, gpu_milli=1000)
        spec = RunSpec(command=("x",), resources=asked, timeout_s=more.pop("timeout_s", 600.0), **more)
        return runs.submit(self.house.ctx, SYSTEM, spec)[0]

    def step(self, seconds: float = 0.0) -> list[str]:
        """Let time pass, then plan and look once; return the runs that were started."""
        self.house.clock.advance(seconds)
        started = list(self.house.plan())
        self.loop.tick()
        return started

    def machines(self) -> list[Any]:
        """Return the open machines."""
        return list(self.house.ctx.store.machines.open())

    def rented(self) -> tuple[Run, Any]:
        """Fill the house, let a run overflow and start there; return it and its machine."""
        for _ in range(2):
            self.submit(timeout_s=36_000.0)
        assert len(self.step()) == 2
        run = self.submit()
        self.step()
        self.step(61)
        assert self.step() == [run.id]
        (machine,) = self.machines()
        self.house.begin(self.house.attempt_of(run))
        return run, machine


@pytest.fixture
def scene(house: Any, tmp_path: Path) -> Scene:
    ctx = house.ctx
    ctx.store.clusters.add(CLUSTER)
    policy = Policy(burst=BurstPolicy(min_wait_s=0, min_gain_s=0, idle_s=120, min_life_s=300))
    ctx.store.policies.set(policy, "", actor="ada")
    fleet = Fleet(ctx, tmp_path / "clusters")
    site = MemorySite(house.clock.now)
    fleet.keep(CLUSTER, cast(Any, site))
    made = Scene(house, site, Machines(ctx, fleet, cast(Loops, Inline())))
    made.loop.tick()
    return made


def test_a_machine_lives_from_intent_to_its_bill(scene: Scene) -> None:
    run, machine = scene.rented()
    assert (machine.state, machine.run) == (MachineState.READY, run.id)
    store = scene.house.ctx.store
    assert [one.node for one in store.nodes.open_allocations() if one.run == run.id] == [machine.id]
    scene.step(300)
    scene.house.end(run)
    scene.step()
    assert scene.machines()[0].idle_since is not None
    scene.step(60)
    assert scene.machines()[0].state is MachineState.READY  # idle for a minute only
    scene.step(61)
    assert (scene.machines(), scene.site.found) == ([], {})
    (gone,) = store.machines.page()
    assert (gone.state, gone.ended_at - gone.asked_at) == (MachineState.ENDED, timedelta(seconds=61 + 300 + 121))
    assert store.nodes.get(machine.id) is None


def test_a_run_that_lasts_longer_gets_more_while_budgets_have_it_and_then_stops_in_time(scene: Scene) -> None:
    store = scene.house.ctx.store
    run, machine = scene.rented()
    store.shares.put(Share(name=run.owner, budget_usd="3", version=0))
    assert machine.reserved_micros == 1_380_000  # twice ten minutes, one until it is there, two idle
    life = machine.ends_at - machine.asked_at
    while scene.machines()[0].ends_at == machine.ends_at:
        scene.step(20)
    (longer,) = scene.machines()
    assert longer.ends_at - longer.asked_at == life * 3 / 2
    scene.step()
    assert scene.site.found[machine.id][1] == longer.ends_at
    while scene.house.attempt_of(run).stop_cause is None:
        scene.step(20)
        assert scene.house.clock.now() < longer.ends_at
    attempt = scene.house.attempt_of(run)
    assert (attempt.stop_cause, attempt.state) == (Cause.PREEMPTED, AttemptState.STOPPING)
    assert store.nodes.get(machine.id).state is NodeState.DRAINING
    scene.house.end(run, Cause.PREEMPTED)
    scene.step()
    scene.step()
    assert machine.id not in scene.site.found
    spent = [one for one in store.snapshot(scene.house.clock.now()).shares if one.share.name == run.owner]
    assert float(spent[0].spent_usd) <= 3


def test_a_site_that_has_none_is_let_rest_and_the_run_may_go_elsewhere(scene: Scene) -> None:
    scene.site.is_empty = True
    for _ in range(2):
        scene.submit(timeout_s=36_000.0)
    scene.step()
    run = scene.submit()
    for _ in range(3):
        scene.step()
    assert scene.machines() == []
    (gone,) = scene.house.ctx.store.machines.page()
    assert (gone.message, gone.rented_at) == ("Nothing left.", None)
    (site,) = scene.house.ctx.store.machines.sites()
    assert site.cooldown_until == scene.house.clock.now() + timedelta(seconds=60)
    assert scene.house.ctx.store.runs.get(run.id).reason.code == "no_free_gpu"
    scene.site.is_empty = False
    scene.step(61)
    assert len(scene.machines()) == 1


def test_a_machine_that_ends_by_itself_is_recorded(scene: Scene) -> None:
    scene.rented()
    scene.site.found.clear()
    scene.step()
    assert scene.machines() == []
    assert scene.house.ctx.store.machines.page()[0].message == "The site has ended it."


def test_an_order_that_nobody_waits_for_is_not_placed(scene: Scene) -> None:
    for _ in range(2):
        scene.submit(timeout_s=36_000.0)
    scene.step()
    run = scene.submit()
    scene.house.plan()
    assert [one.state for one in scene.machines()] == [MachineState.ASKED]
    runs.cancel(scene.house.ctx, SYSTEM, run.id)
    scene.loop.tick()
    scene.loop.tick()
    assert (scene.machines(), scene.site.found) == ([], {})


def test_one_that_never_comes_is_given_up(scene: Scene) -> None:
    for _ in range(2):
        scene.submit(timeout_s=36_000.0)
    scene.step()
    scene.submit(timeout_s=3000.0)
    scene.step()
    scene.step()
    (machine,) = scene.machines()
    assert machine.state is MachineState.RENTED
    scene.site.found[machine.id] = (scene.house.clock.now() + timedelta(days=9), machine.ends_at)
    scene.step(481)
    scene.step()
    scene.step()
    gone = next(one for one in scene.house.ctx.store.machines.page() if one.id == machine.id)
    assert (gone.state, gone.message) == (MachineState.ENDED, "It did not come in time.")
