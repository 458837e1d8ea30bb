"""Kueue's own performance workloads through our store, with durable commits, in real time (B7, B8).

python -m benchmarks.kueue [--config baseline|large] [--database-url URL] [--part 1.0]

The generators are those of kubernetes-sigs/kueue, test/performance/scheduler/configs (baseline; large-scale as of v0.12 with
10 cohorts of 100 queues): cohorts are shares with a pool of their own, queues are people with a guarantee, a workload is a
run that asks for CPUs and whose end is reported after its run time. Every submission, start and end is a durable commit. Kueue
does the same through a Kubernetes API server: this compares a database-backed planner with a control plane, and says so.
`--part` plays that part of each queue's workloads, for a try-out.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from time import monotonic, sleep

from benchmarks.report import report
from mainspring.app import build_context
from mainspring.controllers.schedule import Schedule
from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.beats import Beat
from mainspring.core.records import Attempt, Cause, Cluster, Node, Outcome
from mainspring.core.resources import Resources
from mainspring.core.shares import Share
from mainspring.core.specs import RunSpec
from mainspring.services import attempts, projects, runs
from mainspring.services.context import Context
from mainspring.settings import Settings

QUOTA, THREADS = 20, 8
PAUSE_S = 0.002


@dataclass(frozen=True, slots=True)
class Kind:
    """One class of workloads of each queue."""

    name: str
    count: int
    every_s: float
    lasts_s: float
    priority: int
    cpus: int


@dataclass(frozen=True, slots=True)
class Config:
    """One of Kueue's configurations, and what its own test reports for it (seconds, per cent)."""

    cohorts: int
    queues: int
    kinds: tuple[Kind, ...]
    wall_s: float
    use: float


CONFIGS = {
    "baseline": Config(
        5,
        6,
        (
            Kind("small", 350, 0.1, 0.2, 50, 1),
            Kind("medium", 100, 0.5, 0.5, 100, 5),
            Kind("large", 50, 1.2, 1.0, 200, 20),
        ),
        351.1,
        55.9,
    ),
    "large": Config(
        10,
        100,
        (
            Kind("small", 35, 0.02, 0.05, 50, 1),
            Kind("medium", 10, 0.05, 0.1, 100, 5),
            Kind("large", 5, 0.2, 0.2, 200, 20),
        ),
        1179.0,
        38.6,
    ),
}


@dataclass(slots=True)
class Play:
    """One play of a configuration in a context."""

    ctx: Context
    config: Config
    part: float
    ends: list[tuple[float, int, Attempt]] = field(default_factory=list)
    began: dict[str, tuple[float, Kind]] = field(default_factory=dict)  # by run: when it was submitted
    waits: dict[str, list[float]] = field(default_factory=dict)
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> tuple[int, float]:
        """Return how many workloads were played, and in how many seconds."""
        due = self.arrivals()
        total, begin = len(due), monotonic()
        schedule = Schedule(self.ctx, "bench")
        seen: set[str] = set()
        with ThreadPoolExecutor(THREADS) as pool:
            stop = threading.Event()
            creator = threading.Thread(target=self.create, args=(due, begin, pool))
            ender = threading.Thread(target=self.end_all, args=(pool, stop))
            creator.start()
            ender.start()
            while self.done < total:
                schedule.tick()
                now = monotonic()
                for attempt in self.ctx.store.attempts.pending():
                    if attempt.id not in seen:
                        seen.add(attempt.id)
                        self.start(attempt, now)
                sleep(PAUSE_S)
            stop.set()
            creator.join()
            ender.join()
        return total, monotonic() - begin

    def arrivals(self) -> list[tuple[float, str, str, Kind, int]]:
        """Return (when, cohort, queue, kind, number) of every workload, the first first."""
        found = [
            (number * kind.every_s, f"cohort-{cohort}", f"queue-{queue}", kind, number)
            for cohort in range(self.config.cohorts)
            for queue in range(self.config.queues)
            for kind in self.config.kinds
            for number in range(max(1, round(kind.count * self.part)))
        ]
        return sorted(found, key=lambda one: (one[0], one[1], one[2], one[3].name, one[4]))

    def create(self, due: list[tuple[float, str, str, Kind, int]], begin: float, pool: ThreadPoolExecutor) -> None:
        """Submit each workload when it is due."""
        for when, cohort, queue, kind, _ in due:
            pause = begin + when - monotonic()
            if pause > 0:
                sleep(pause)
            pool.submit(self.submit, cohort, queue, kind)

    def submit(self, cohort: str, queue: str, kind: Kind) -> None:
        """Submit one; its wait begins when that is asked for."""
        asked_at = monotonic()
        spec = RunSpec(
            command=("true",),
            project=cohort,
            priority=kind.priority,
            resources=Resources(cpu_milli=1000 * kind.cpus, pool=cohort),
        )
        run, _ = runs.submit(self.ctx, Actor(name=f"{cohort}-{queue}", is_admin=True), spec)
        with self.lock:
            self.began[run.id] = (asked_at, kind)

    def start(self, attempt: Attempt, now: float) -> None:
        """Let a workload that was started run for its time."""
        while attempt.run not in self.began:
            sleep(PAUSE_S)
        with self.lock:
            asked_at, kind = self.began[attempt.run]
            self.waits.setdefault(kind.name, []).append(now - asked_at)
            heapq.heappush(self.ends, (now + kind.lasts_s, len(self.waits[kind.name]), attempt))

    def end_all(self, pool: ThreadPoolExecutor, stop: threading.Event) -> None:
        """Report each end when it is due."""
        while not stop.is_set():
            with self.lock:
                ready = []
                while self.ends and self.ends[0][0] <= monotonic():
                    ready.append(heapq.heappop(self.ends)[2])
            for attempt in ready:
                pool.submit(self.end, attempt)
            sleep(PAUSE_S)

    def end(self, attempt: Attempt) -> None:
        """Report one end."""
        try:
            attempts.beat(self.ctx, attempt, Beat(state="ended", exit=Outcome(cause=Cause.SUCCEEDED, exit_code=0)))
        except Exception:
            logging.exception("the end of %s was not taken", attempt.id)
        with self.lock:
            self.done += 1


def main() -> None:
    """Play one configuration and report it beside Kueue's own figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="baseline")
    parser.add_argument("--database-url", default="")
    parser.add_argument("--part", type=float, default=1.0)
    given = parser.parse_args()
    config = CONFIGS[given.config]
    with tempfile.TemporaryDirectory() as folder:
        ctx = build_context(Settings(home=Path(folder), database_url=given.database_url))
        try:
            tell(Play(ctx, config, given.part), given.config)
        finally:
            ctx.store.close()


def tell(play: Play, name: str) -> None:
    """Play it and report."""
    set_up(play.ctx, play.config)
    total, wall_s = play.run()
    config = play.config
    work = sum(len(play.waits[kind.name]) * kind.lasts_s * kind.cpus for kind in config.kinds)
    use = 100 * work / (QUOTA * config.queues * config.cohorts * wall_s)
    told: dict[str, object] = {"workloads": total, "per_second": round(total / wall_s, 1), "part": play.part}
    whole = play.part == 1.0
    report(f"kueue {name}", "wall", wall_s, "s", peer="Kueue", peer_value=config.wall_s if whole else None, conditions=told)
    report(f"kueue {name}", "use of the quota", use, "%", peer="Kueue", peer_value=config.use if whole else None, conditions=told)
    for kind in config.kinds:
        report(f"kueue {name}", f"time to admission, {kind.name}", fmean(play.waits[kind.name]), "s", conditions=told)


def set_up(ctx: Context, config: Config) -> None:
    """Make the cohorts as projects and shares with a node each, and the queues as people with a guarantee."""
    ctx.store.clusters.add(Cluster(id="local", name="local", backend="local", created_at=ctx.clock.now()))
    nodes = []
    for cohort in (f"cohort-{number}" for number in range(config.cohorts)):
        cpus = QUOTA * config.queues
        nodes.append(Node(id=cohort, cluster="local", name=cohort, pool=cohort, cpu_milli=1000 * cpus, memory_bytes=2**40))
        ctx.store.shares.put(Share(name=cohort, version=0, guarantee={"cpu": 1000 * cpus}))
        projects.add(ctx, SYSTEM, cohort)
        projects.edit(ctx, SYSTEM, cohort, share=cohort)
        for queue in range(config.queues):
            ctx.store.shares.put(Share(name=f"{cohort}/{cohort}-queue-{queue}", version=0, guarantee={"cpu": 1000 * QUOTA}))
    ctx.store.nodes.upsert("local", nodes, now=ctx.clock.now())


if __name__ == "__main__":
    main()
