"""Does anything break? Random schedules through the real store and controllers on a virtual clock, with faults; then worlds.py.

python -m benchmarks.invariants [--events 100000] [--first 0] [--times 10]

An event is something done: a submission, a plan, a round of the attempts loop, a beat, a crash, a death, a jump. Each seed is
a fresh database and 40 runs; the first broken promise ends the bench with its seed. `--first` goes on where another ended.
Then each test of a numbered promise plays `--times` as many generated worlds as in `make test`. Either is left out by 0.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter

from benchmarks import worlds
from benchmarks.report import report
from mainspring.blobs.store import BlobStore
from mainspring.core.actors import SYSTEM
from mainspring.core.records import Cluster, Node
from mainspring.core.resources import Device, Resources
from mainspring.services import projects
from mainspring.services.context import Context
from mainspring.services.signals import Signals
from mainspring.settings import Settings
from mainspring.simulator import Job
from mainspring.store.store import Store
from mainspring.testing.clock import FakeClock
from mainspring.testing.house import HouseFaults, HouseSimulation
from mainspring.testing.ids import FakeIds

FAULTS = HouseFaults(crash=0.01, death=0.01, deaf=0.2, jump=0.02)
RUNS, NODES, GPUS = 40, 3, 4


def main() -> None:
    """Play both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--times", type=int, default=10)
    given = parser.parse_args()
    if given.events:
        schedules(given.events, given.first)
    if given.times:
        worlds.play(given.times)


def schedules(count: int, first: int) -> None:
    """Play schedules until there were `count` events."""
    events: Counter[str] = Counter()
    began, seed = perf_counter(), first
    while events.total() < count:
        with tempfile.TemporaryDirectory() as folder:
            events += play(seed, Path(folder))
        seed += 1
    told: dict[str, object] = {"first": first, "next": seed, "seconds": round(perf_counter() - began), **events}
    report("invariants", "events through store and controllers", float(events.total()), "", conditions=told)
    report("invariants", "promises broken", 0.0, "", conditions=told)


def play(seed: int, folder: Path) -> Counter[str]:
    """Return what happened in one schedule. Raises `Broken`."""
    clock, ids, signals = FakeClock(), FakeIds(), Signals()
    store = Store.open(f"sqlite:///{folder / 'mainspring.db'}", clock=clock, ids=ids)
    try:
        blobs = BlobStore.open(str(folder / "blobs"), folder=folder / "blobs")
        settings = Settings(home=folder)
        ctx = Context(store=store, blobs=blobs, clock=clock, ids=ids, signals=signals, settings=settings, started_at=clock.now())
        projects.add(ctx, SYSTEM, "default")
        store.clusters.add(Cluster(id="local", name="local", backend="local", created_at=clock.now()))
        store.nodes.upsert("local", [_node(number) for number in range(NODES)], now=clock.now())
        return HouseSimulation(ctx, clock, _jobs(seed), faults=FAULTS, seed=seed).run().events
    finally:
        store.close()


def _jobs(seed: int) -> list[Job]:
    dice = random.Random(seed)
    return [
        Job(
            id=f"job-{number:03}",
            share=f"person-{dice.randrange(5)}",
            submit_s=dice.uniform(0, 900),
            duration_s=dice.uniform(1, 600),
            resources=Resources(gpu_milli=dice.choice((0, 250, 500, 1000, 2000)), memory_bytes=2**20),
            replicas=dice.choice((1, 1, 1, 2)),
            priority=dice.choice((0, 0, 10)),
        )
        for number in range(RUNS)
    ]


def _node(number: int) -> Node:
    name = f"node-{number}"
    devices = tuple(Device(index=index) for index in range(GPUS))
    return Node(id=name, cluster="local", name=name, cpu_milli=32_000, memory_bytes=2**36, devices=devices)


if __name__ == "__main__":
    main()
