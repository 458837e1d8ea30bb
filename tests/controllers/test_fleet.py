"""What an engine can do becomes what its rows say: GPUs in parts, or only whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from mainspring.backends.kubernetes.backend import CAPABILITIES as KUBERNETES
from mainspring.controllers.fleet import SHARED_S, Fleet
from mainspring.controllers.schedule import Schedule
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Capabilities, Inventory, Probe
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import Cluster, Node, RunState
from mainspring.core.resources import ALONE, Device, DeviceShare, Foreign, Resources
from mainspring.core.specs import RunSpec
from mainspring.services import runs
from mainspring.testing.lanes import AtOnce

CLUSTER = Cluster(id="c9", name="hpc", backend="memory", config={"pool": "hpc"})


@dataclass
class MemoryEngine:
    """An engine of one node with one GPU. `foreign` is what others hold of its 8 CPUs, `looks` how often it was asked."""

    capabilities: Capabilities
    foreign: Foreign = ALONE
    looks: int = 0
    takes: Callable[[], None] = lambda: None  # what moves the clock while it answers

    def probe(self) -> Probe:
        self.takes()
        return Probe(is_ready=True)

    def inventory(self) -> Inventory:
        self.looks += 1
        node = Node(id="c9.n", cluster="c9", name="n", cpu_milli=8000, memory_bytes=1 << 34, devices=(Device(index=0),))
        return Inventory(nodes=(replace(node, cpu_milli=8000 - self.foreign.cpu_milli, foreign=self.foreign),))


@pytest.mark.parametrize("can", [KUBERNETES, Capabilities()], ids=["kubernetes", "a plug-in that says nothing"])
def test_an_engine_without_parts_gives_and_is_charged_whole_gpus(house: Any, tmp_path: Path, can: Capabilities) -> None:
    started, node = _two_halves(house, tmp_path, can)
    assert [device.whole for device in node.devices] == [True]
    assert len(started) == 1
    assert node.used_devices == (DeviceShare(index=0, milli=1000),)
    (replica,) = house.attempt_of(started[0]).replicas
    assert replica.granted.devices == (DeviceShare(index=0, milli=1000),), "what use, budgets and holders are counted by"


def test_an_engine_with_parts_puts_two_on_one_gpu(house: Any, tmp_path: Path) -> None:
    started, node = _two_halves(house, tmp_path, Capabilities(fractions=True))
    assert [device.whole for device in node.devices] == [False]
    assert len(started) == 2
    assert node.used_devices == (DeviceShare(index=0, milli=1000),)


def test_a_run_waits_for_others_work_to_end_and_is_not_refused(house: Any, tmp_path: Path) -> None:
    fleet, lanes, schedule = Fleet(house.ctx, tmp_path / "clusters"), cast(Any, AtOnce()), Schedule(house.ctx)
    engine = MemoryEngine(Capabilities(), Foreign(cpu_milli=8000))
    house.ctx.store.clusters.add(CLUSTER)
    fleet.keep(CLUSTER, cast(Any, engine))
    fleet.take_inventory(CLUSTER)
    fleet.ask_shared(lanes)
    assert engine.looks == 1, "before it was seen that others are there"
    fleet._ask(CLUSTER)
    run, _ = runs.submit(house.ctx, SYSTEM, RunSpec(command=("x",), resources=Resources(cpu_milli=4000, pool="hpc")))
    before = house.ctx.signals.version("shared")
    pause = schedule.tick()
    assert pause is not None
    assert pause <= SHARED_S, "nobody tells when others' work ends"
    assert house.ctx.signals.version("shared") != before
    assert house.ctx.store.runs.get(run.id).reason.code is ReasonCode.FOREIGN_WORK
    engine.foreign = ALONE
    fleet.ask_shared(lanes)
    assert engine.looks == 3
    schedule.tick()
    assert house.ctx.store.runs.get(run.id).state is RunState.RUNNING
    fleet.ask_shared(lanes)
    assert engine.looks == 3, "nobody else is there any more"


def test_how_fast_an_engine_answers_is_kept_with_what_it_told(house: Any, tmp_path: Path) -> None:
    fleet, clusters = Fleet(house.ctx, tmp_path / "clusters"), house.ctx.store.clusters
    engine = MemoryEngine(Capabilities())
    clusters.add(CLUSTER)
    fleet.keep(CLUSTER, cast(Any, engine))

    def look(takes_s: float) -> float:
        engine.takes = partial(house.clock.advance, takes_s)
        fleet.take_inventory(CLUSTER)
        return float(clusters.probe("c9").latency_s)

    assert look(0.2) == pytest.approx(0.2)
    assert look(0.3) == pytest.approx(0.2), "nothing is written for what nobody would notice"
    assert look(3.0) == pytest.approx(3.0)
    assert look(0.2) == pytest.approx(0.2)
    fleet.take_inventory(CLUSTER, Probe(is_ready=True, latency_s=0.25))
    assert clusters.probe("c9").latency_s == 0.25, "what people asked for is what they are shown"


def _two_halves(house: Any, folder: Path, can: Capabilities) -> tuple[list[str], Node]:
    """Submit two halves of a GPU to an engine; return who starts, and the node then."""
    fleet = Fleet(house.ctx, folder / "clusters")
    house.ctx.store.clusters.add(CLUSTER)
    fleet.keep(CLUSTER, cast(Any, MemoryEngine(can)))
    fleet.take_inventory(CLUSTER)
    for _ in range(2):
        spec = RunSpec(command=("x",), resources=Resources(cpu_milli=100, gpu_milli=500, pool="hpc"))
        runs.submit(house.ctx, SYSTEM, spec)
    started = list(house.plan())
    fleet.take_inventory(CLUSTER)  # as every minute: what is held stays
    assert house.plan() == []
    return started, house.ctx.store.nodes.get("c9.n")
