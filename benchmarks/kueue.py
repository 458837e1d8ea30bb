"""Kueue's own performance workloads through our store, with durable commits, in real time (B7, B8).

python -m benchmarks.kueue [--config baseline|large] [--database sqlite|postgresql] [--cores N] [--at-once N] [--part 1.0]

The generators are those of kubernetes-sigs/kueue, test/performance/scheduler/configs (baseline; large-scale as it was with
50,000 workloads): cohorts are shares with a pool of their own, queues are people with a guarantee (nominal quota) and a limit
(borrowing limit), a workload is a run that asks for CPUs. The planner runs in the server's own loop; in place of runners a mimic
reports each end after the workload's time, as a runner would. Every submission, start and end is a durable commit. Kueue does
the same through a Kubernetes API server: this compares a database-backed planner with a control plane, and says so.
The use of the quota is Kueue's own figure: CPUs x time that workloads hold, from the commit of the start to that of the end,
over CPUs of the quota x time of the play. The work alone (CPUs x time asked for) is told beside it: it forgives no delay.
CPU time tells what a busy machine hides.
`--cores` keeps this process to so many processors; PostgreSQL is another process, and has all of them. `--at-once` is how many
requests of those who submit, and as many of runners, are under way together.
`--part` plays that part of each queue's workloads, for a try-out.
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from time import monotonic, process_time, sleep

from benchmarks.report import report
from mainspring.app import build_context, rest_garbage
from mainspring.controllers.loop import Loop, Loops
from mainspring.controllers.schedule import REST, Schedule
from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.beats import Beat
from mainspring.core.records import Cause, Cluster, Node, Outcome
from mainspring.core.resources import Resources
from mainspring.core.shares import Share
from mainspring.core.specs import RunSpec
from mainspring.services import attempts, projects, runs
from mainspring.services.context import Context
from mainspring.settings import Settings

QUOTA, BORROWED = 20, 100
PAUSE_S, LOOK_S = 0.002, 0.01
SCRIPTS = Path(__file__).parents[1] / "scripts"
COMPARED = "a database-backed planner with a Kubernetes control plane"


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
    waits_s: dict[str, float]
    at_once: int  # requests of those who submit that are under way together, and as many of runners


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
        {"large": 16.5, "medium": 76.8, "small": 215.5},
        8,
    ),
    "large": Config(
        10,
        100,
        (
            Kind("small", 35, 0.06, 0.15, 50, 1),
            Kind("medium", 11, 0.3, 0.35, 100, 5),
            Kind("large", 4, 0.7, 0.7, 200, 20),
        ),
        1179.0,
        38.6,
        {"large": 105.6, "medium": 256.4, "small": 700.4},
        32,
    ),
}


@dataclass(slots=True)
class Play:
    """One play of a configuration in a context."""

    ctx: Context
    config: Config
    part: float
    ends: list[tuple[float, str]] = field(default_factory=list)
    began: dict[str, tuple[float, Kind]] = field(default_factory=dict)  # by run: when it was submitted
    waits: dict[str, list[float]] = field(default_factory=dict)
    done: int = 0
    heard: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> tuple[int, float]:
        """Return how many workloads were played, and in how many seconds."""
        due = self.arrivals()
        self.heard = self.ctx.store.events.last_seq()
        loops = Loops(self.ctx.signals)
        begin = monotonic()
        # who submits and what runs are strangers to each other: an end does not wait behind submissions that nobody took yet
        at_once = self.config.at_once
        with ThreadPoolExecutor(at_once) as people, ThreadPoolExecutor(at_once) as runners:
            creator = threading.Thread(target=self.create, args=(due, begin, people))
            creator.start()
            near = self.ctx.store.stay_near_writer  # as the server's own loop
            planner = Loop(name="schedule", topics=("runs", "nodes"), tick=Schedule(self.ctx).tick, begin=near, rest=REST)
            loops.start([planner, Loop(name="mimic", topics=("attempts",), tick=self.start_all, gap_s=PAUSE_S)])
            while self.done < len(due):
                with self.lock:
                    ready = []
                    while self.ends and self.ends[0][0] <= monotonic():
                        ready.append(heapq.heappop(self.ends)[1])
                    pause_s = self.ends[0][0] - monotonic() if self.ends else LOOK_S
                for attempt in ready:
                    runners.submit(self.end, attempt)
                sleep(max(PAUSE_S, min(LOOK_S, pause_s)))
            creator.join()
        took_s = monotonic() - begin
        loops.stop()
        return len(due), took_s

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

    def start_all(self) -> float | None:
        """Let the workloads that were placed since the last time run for their time."""
        while told := self.ctx.store.events.since(self.heard):
            now = monotonic()
            for event in told:
                if event.kind == "run.placed":
                    self.start(event.subject, str(event.data["attempt"]), now)
            self.heard = told[-1].seq
        return None

    def start(self, run: str, attempt: str, now: float) -> None:
        """Note one start, and when it is to end."""
        while run not in self.began:  # it was placed before its submission returned here
            sleep(PAUSE_S)
        with self.lock:
            asked_at, kind = self.began[run]
            self.waits.setdefault(kind.name, []).append(now - asked_at)
            heapq.heappush(self.ends, (now + kind.lasts_s, attempt))

    def end(self, attempt: str) -> None:
        """Report one end."""
        last = Beat(state="ended", exit=Outcome(cause=Cause.SUCCEEDED, exit_code=0))
        try:
            attempts.beat(self.ctx, attempts.find(self.ctx, attempt), last)
        except Exception:
            logging.exception("the end of %s was not taken", attempt)
        with self.lock:
            self.done += 1


def main() -> None:
    """Play one configuration and report it beside Kueue's own figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="baseline")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--cores", type=int, default=0, metavar="N", help="keep the process to so many processors")
    parser.add_argument("--at-once", type=int, default=0, metavar="N", help="requests on each side (that of the configuration)")
    parser.add_argument("--part", type=float, default=1.0)
    given = parser.parse_args()
    config = CONFIGS[given.config]
    config = replace(config, at_once=given.at_once or config.at_once)
    with tempfile.TemporaryDirectory() as folder, database(given.database, Path(folder)) as url:
        if given.cores:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-given.cores :])
        ctx = build_context(Settings(home=Path(folder) / "home", database_url=url))
        rest_garbage()
        try:
            kept = f", kept to {given.cores} of the processors" if given.cores else ""
            tell(Play(ctx, config, given.part), f"{given.config}, {given.database}{kept}")
        finally:
            ctx.store.close()


@contextmanager
def database(which: str, folder: Path) -> Iterator[str]:
    """Yield the address of a database of that kind that nobody used yet."""
    if which == "sqlite":
        yield ""
        return
    sys.path.append(str(SCRIPTS))
    with importlib.import_module("engines.postgres").share(folder / "postgresql", is_durable=True) as server:
        yield server.url(server.new_database())


def tell(play: Play, name: str) -> None:
    """Play it and report."""
    set_up(play.ctx, play.config)
    before_s = process_time()
    total, wall_s = play.run()
    cpu_s = process_time() - before_s
    config = play.config
    quota = QUOTA * config.queues * config.cohorts * wall_s
    work = sum(len(play.waits[kind.name]) * kind.lasts_s * kind.cpus for kind in config.kinds)
    told: dict[str, object] = {"workloads": total, "part": play.part, "at_once": config.at_once, "compared": COMPARED}
    rows: list[tuple[str, float, str, float | None]] = [
        ("wall", wall_s, "s", config.wall_s),
        ("workloads", total / wall_s, "/s", total / config.wall_s),
        ("use of the quota", 100 * held(play.ctx) / quota, "%", config.use),
        ("use of the quota by work alone", 100 * work / quota, "%", None),
        ("CPU of the planner's process", 1000 * cpu_s / total, "ms/workload", None),
    ]
    rows += [
        (f"time to admission, {kind.name}", fmean(play.waits[kind.name]), "s", config.waits_s[kind.name]) for kind in config.kinds
    ]
    for metric, value, unit, published in rows:
        peer = published if play.part == 1.0 else None
        report(f"kueue {name}", metric, value, unit, peer="Kueue", peer_value=peer, conditions=told)


def held(ctx: Context) -> float:
    """Return CPUs x seconds that were held, by the rows."""
    begun = datetime.fromtimestamp(0, UTC)
    rows = ctx.store.nodes.allocations_since(begun, limit=1_000_000)
    return sum(
        one.granted.cpu_milli / 1000 * (one.freed_at - one.opened_at).total_seconds() for one in rows if one.freed_at is not None
    )


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
            name, most = f"{cohort}/{cohort}-queue-{queue}", {"cpu": 1000 * (QUOTA + BORROWED)}
            ctx.store.shares.put(Share(name=name, version=0, guarantee={"cpu": 1000 * QUOTA}, limit=most))
    ctx.store.nodes.upsert("local", nodes, now=ctx.clock.now())


if __name__ == "__main__":
    main()
