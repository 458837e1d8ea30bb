"""Does anything break? Random schedules through the real store and controllers on a virtual clock, with faults; then worlds.py.

python -m benchmarks.invariants [--events 100000] [--team 10] [--first 0] [--times 10]

An event is something done: a submission, a plan, a round of a loop, a beat, a crash, a death, a jump. Each seed is a fresh
database and 40 runs, every other one beside a paid site with budgets and bad days of its own; the first broken promise ends the
bench with its seed. `--first` goes on where another ended. Then `--team` schedules of the small team (team.py): at home, what
people get beside what the simulator says; beside a site within a budget and with faults, whether gate and budgets hold. Then each
test of a numbered promise plays `--times` as many generated worlds as in `make test`. Each is left out by 0.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from time import perf_counter

from benchmarks import team, worlds
from benchmarks.report import report
from mainspring.blobs.store import BlobStore
from mainspring.core.actors import SYSTEM
from mainspring.core.policy import BurstPolicy
from mainspring.core.records import Cluster, Node
from mainspring.core.resources import Device, Resources
from mainspring.scheduler.fairness import fairness
from mainspring.services import projects
from mainspring.services.context import Context
from mainspring.services.signals import Signals
from mainspring.settings import Settings
from mainspring.simulator import Job
from mainspring.simulator.figures import served
from mainspring.store.store import Store
from mainspring.testing.clock import FakeClock
from mainspring.testing.house import HouseFaults, HouseSimulation
from mainspring.testing.house_sites import PaidSite, SiteFaults
from mainspring.testing.ids import FakeIds

FAULTS = HouseFaults(crash=0.01, death=0.01, deaf=0.2, jump=0.02)
BAD_DAYS = SiteFaults(refused=0.1, deaf=0.1, stuck=0.05, cut=0.05, vanish=0.005)
EAGER = BurstPolicy(min_wait_s=0, min_gain_s=0, max_estimate_s=900, max_gpus=4, idle_s=60, min_life_s=120, budget_usd="4")
SITE = PaidSite(burst=EAGER, budgets={"person-0": "1", "person-1": "0.5", "person-2": "0"}, faults=BAD_DAYS)
OF_TEAM = PaidSite(burst=replace(team.EAGER.burst, budget_usd="3"), budgets={"person-1": "0.4"}, faults=BAD_DAYS)
RUNS, NODES, GPUS = 40, 3, 4
TEAM_FAULTS = replace(FAULTS, jump=0.0)


def main() -> None:
    """Play all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--team", type=int, default=10)
    parser.add_argument("--times", type=int, default=10)
    given = parser.parse_args()
    if given.events:
        schedules(given.events, given.first)
    if given.team:
        small_team(range(given.first, given.first + given.team))
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


def small_team(seeds: Sequence[int], trials: int = 100) -> None:
    """Play the small team through store and controllers: at home without faults, and beside a site with them."""
    jain, apart, longer, machines, began = [], [], [], 0, perf_counter()
    for seed in seeds:
        jobs = team.schedule(seed, trials)
        with tempfile.TemporaryDirectory() as folder, house(Path(folder), [_team_machine()]) as (ctx, clock):
            done = HouseSimulation(ctx, clock, jobs, seed=seed).run().done
        simulated, ratio = team.at_home(jobs)
        jain.append(fairness(served(done), gpus=team.GPUS).index)
        apart.append(jain[-1] - simulated)
        makespan_s = max(one.ended_s for one in done) - min(job.submit_s for job in jobs)
        longer.append(makespan_s / team.bound_s(jobs) / ratio)
        with tempfile.TemporaryDirectory() as folder, house(Path(folder), [_team_machine()]) as (ctx, clock):
            beside = HouseSimulation(ctx, clock, jobs, faults=TEAM_FAULTS, seed=seed, site=OF_TEAM, checkpoint_s=60.0)
            machines += beside.run().events["machines"]
    told: dict[str, object] = {"schedules": len(seeds), "first": seeds[0], "trials": trials}
    told |= {"machines": machines, "least": min(jain), "seconds": round(perf_counter() - began)}
    report("invariants", "small team: Jain's index by store and controllers, mean", fmean(jain), "", conditions=told)
    report("invariants", "small team: that less the simulator's", fmean(apart), "", conditions=told | {"worst": min(apart)})
    report("invariants", "small team: makespan / simulator's", fmean(longer), "x", conditions=told | {"most": max(longer)})
    report("invariants", "small team: budgets, gates and owners broken", 0.0, "", conditions=told)


def play(seed: int, folder: Path) -> Counter[str]:
    """Return what happened in one schedule. Raises `Broken`."""
    is_paid = seed % 2 == 1
    with house(folder, [_node(number) for number in range(1 if is_paid else NODES)]) as (ctx, clock):
        site, every_s = (SITE, 60.0) if is_paid else (None, 0.0)
        played = HouseSimulation(ctx, clock, _jobs(seed), faults=FAULTS, seed=seed, site=site, checkpoint_s=every_s)
        return played.run().events


@contextmanager
def house(folder: Path, nodes: Sequence[Node]) -> Iterator[tuple[Context, FakeClock]]:
    """Open a fresh database with these nodes."""
    clock, ids, signals = FakeClock(), FakeIds(), Signals()
    store = Store.open(f"sqlite:///{folder / 'mainspring.db'}", clock=clock, ids=ids)
    try:
        blobs = BlobStore.open(str(folder / "blobs"), folder=folder / "blobs")
        settings = Settings(home=folder)
        ctx = Context(store=store, blobs=blobs, clock=clock, ids=ids, signals=signals, settings=settings, started_at=clock.now())
        projects.add(ctx, SYSTEM, "default")
        store.clusters.add(Cluster(id="local", name="local", backend="local", created_at=clock.now()))
        store.nodes.upsert("local", nodes, now=clock.now())
        yield ctx, clock
    finally:
        store.close()


def _jobs(seed: int) -> list[Job]:
    dice = random.Random(seed)
    return [
        Job(
            id=f"job-{number:03}",
            share=f"person-{dice.randrange(5)}",
            submit_s=dice.uniform(0, 900),
            duration_s=(length_s := dice.uniform(1, 600)),
            estimate_s=dice.choice((0.0, length_s * dice.uniform(0.3, 2))) if seed % 2 else 0.0,
            resources=Resources(gpu_milli=dice.choice((0, 250, 500, 1000, 2000)), memory_bytes=2**20),
            replicas=dice.choice((1, 1, 1, 2)),
            priority=dice.choice((0, 0, 10)),
        )
        for number in range(RUNS)
    ]


def _team_machine() -> Node:
    return replace(team.machine(), cluster="local")


def _node(number: int) -> Node:
    name = f"node-{number}"
    devices = tuple(Device(index=index) for index in range(GPUS))
    return Node(id=name, cluster="local", name=name, cpu_milli=32_000, memory_bytes=2**36, devices=devices)


if __name__ == "__main__":
    main()
