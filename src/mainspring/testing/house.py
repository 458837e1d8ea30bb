"""The second mode: the same jobs through the real store and the real controllers, on a virtual clock, with faults.

A fault is a server that dies at one of its fault points and begins again from its rows, a runner that dies, an answer that is
lost, a wall clock that jumps, a paid site on a bad day (`house_sites.py`). The books are checked at every step: `Broken` is
raised where a promise was not kept.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import heapq
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import cast

from mainspring.controllers import attempts as attempts_loop
from mainspring.controllers import machines as machines_loop
from mainspring.controllers import schedule as schedule_loop
from mainspring.controllers.attempts import Attempts
from mainspring.controllers.fleet import INVENTORY_S, Fleet, Reach
from mainspring.controllers.loop import Loops
from mainspring.controllers.machines import Machines
from mainspring.controllers.schedule import Schedule
from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.beats import Beat, Chunk
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import Attempt, AttemptState, Cause, Cluster, RunState
from mainspring.core.resources import GPU_MILLI
from mainspring.core.shares import Share
from mainspring.core.specs import RunSpec
from mainspring.services import attempts, projects, runs
from mainspring.services.context import Context
from mainspring.simulator.jobs import Done, Job
from mainspring.store import ends as stored_ends
from mainspring.store import starts as stored_starts
from mainspring.testing.clock import FakeClock
from mainspring.testing.engine import Engine, Runner
from mainspring.testing.house_sites import Books, Broken, Cloud, Engines, PaidSite

WITH_POINTS = (attempts_loop, machines_loop, schedule_loop, attempts, runs, stored_ends, stored_starts)
LEASES_END_S = 31.0
STEP_S = 15.0  # at most so long between two looks while runs are open
PATIENCE_S = 21_600.0  # nothing comes any more, and for so long something is still open: it never ends


class Crash(BaseException):  # not an error that anybody may handle
    """The server died here: what was not committed never was."""


class CrashInside(Exception):
    """It died inside a transaction, which the store's own thread rolls back before it tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseFaults:
    """Probabilities: a crash at each fault point, a runner's death and a lost answer at each beat, a jump at each step.

    A server that crashed is away for `away_s`, the leases of the dead one at least.
    """

    crash: float = 0.0
    death: float = 0.0
    deaf: float = 0.0
    jump: float = 0.0
    away_s: float = LEASES_END_S


@dataclass(slots=True)
class HouseHistory:
    """What happened, by kind; `waits_s` is from submission to the first start, by job. `done` is by a clock that never jumped."""

    events: Counter[str] = field(default_factory=Counter)
    waits_s: dict[str, float] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)


@dataclass(slots=True)
class HouseSimulation:
    """One simulation in a context whose clock is `clock`, and whose nodes are in the store; a job's share is a person, or a
    person below a share, whose runs are of the project of that name. With `checkpoint_s` runs keep their work that often.
    """

    ctx: Context
    clock: FakeClock
    jobs: Sequence[Job]
    faults: HouseFaults = field(default_factory=HouseFaults)
    seed: int = 0
    site: PaidSite | None = None
    checkpoint_s: float = 0.0
    history: HouseHistory = field(default_factory=HouseHistory)
    engine: Engine = field(init=False)
    cloud: Cloud | None = None
    _dice: random.Random = field(init=False)
    _engines: Engines = field(init=False)
    _books: Books | None = None
    _schedule: Schedule = field(init=False)
    _attempts: Attempts = field(init=False)
    _machines: Machines = field(init=False)
    _fleet: Fleet = field(init=False)
    _ids: dict[str, str] = field(default_factory=dict)  # run by job
    _job_of: dict[str, Job] = field(default_factory=dict)  # by run
    _kept_s: dict[str, float] = field(default_factory=dict)  # by run: the work that its newest checkpoint has
    _told_bytes: Counter[tuple[str, int]] = field(default_factory=Counter)  # of a runner's events
    _servers: int = 0
    _is_dead: bool = False
    _began: datetime = field(init=False)
    _now_s: float = 0.0
    _listed_s: float = 0.0

    def run(self) -> HouseHistory:
        """Play it until every run has ended and nothing is held."""
        self._dice = random.Random(self.seed)
        self._began = self.clock.now()
        self.engine = Engine(lasts_s=self._lasts_s)
        if self.site is not None:
            cluster = self.site.open(self.ctx)
            self.cloud = Cloud(cluster, self.site, self.clock, self._dice, Engine(lasts_s=self._lasts_s))
            self._books = Books(self.ctx, self.cloud, is_exact=not self.faults.jump)
        self._engines = Engines(self.engine, self.cloud)
        self._open_projects()
        self._restart()
        arrivals = [(job.submit_s, number, job) for number, job in enumerate(self.jobs)]
        heapq.heapify(arrivals)
        with self._breaking():
            while arrivals or not self._is_quiet():
                self._pass(arrivals[0][0] if arrivals else self._now_s + STEP_S)
                while arrivals and arrivals[0][0] <= self._now_s:
                    self._guarded("submit", lambda: self._submit(arrivals[0][2])) and heapq.heappop(arrivals)
                self._settle()
                self._check_nodes()
                if self._books is not None:
                    self._books.check()
                away_s = self.history.events["crash"] * self.faults.away_s
                if self._now_s > max(job.submit_s for job in self.jobs) + PATIENCE_S + away_s:
                    raise Broken("something never ends")
        self._check_runs()
        if self._books is not None and self.cloud is not None:
            self._books.check_end()
            self.history.events += Counter({f"site {what}": count for what, count in self.cloud.events.items()})
            self.history.events["machines"] = len(self.cloud.lives)
        return self.history

    def _pass(self, at_most_s: float) -> None:
        ends = [one.ends_at_s for one in self._engines.runners() if one.is_alive and one.exit is None]
        until_s = max(self._now_s + 0.001, min([at_most_s, self._now_s + STEP_S, *(one for one in ends if one > self._now_s)]))
        self._advance(until_s - self._now_s)
        if self._dice.random() < self.faults.jump:
            self.history.events["jump"] += 1
            self.clock.jump(self._dice.choice((-86400, 86400, 3600)))

    def _advance(self, seconds: float) -> None:
        self._now_s += seconds
        for engine in self._engines.all():
            engine.now_s = self._now_s
        self.clock.advance(seconds)
        if self.cloud is not None:
            self.cloud.pass_time()

    def _settle(self) -> None:
        """Let the server and the runners act until nothing moves."""
        self._save()
        for _ in range(8):
            is_whole = self._guarded("plan", self._schedule.tick)
            if self._books is not None:
                self._books.check_gate(is_whole=is_whole)
                self._guarded("rent", self._machines.tick)
                self._list()
            self._guarded("drive", self._attempts.tick)
            fresh = [one for one in self._engines.runners() if one.is_alive and self._has_news(one)]
            if not fresh:
                return
            for runner in fresh:
                self._live(runner)

    def _list(self) -> None:
        """Ask the site now and then which machines there are, as the inventory loop does."""
        if self.cloud is not None and self._now_s >= self._listed_s + INVENTORY_S:
            self._listed_s = self._now_s
            self._fleet.take_inventory(self.cloud.cluster)

    def _save(self) -> None:
        """Let the first member of each run keep its work, if it is time."""
        if not self.checkpoint_s:
            return
        running = [one for one in self._engines.runners() if one.is_alive and one.exit is None and one.replica == 0]
        for runner in running:
            attempt = attempts.find(self.ctx, runner.attempt)
            left_s = runner.ends_at_s - self._now_s
            if runner.is_told == "running" and left_s > 0 and self._lasts_s(runner.attempt) - left_s >= self.checkpoint_s:
                self._guarded("checkpoint", partial(self._keep, runner, attempt))

    def _keep(self, runner: Runner, attempt: Attempt) -> None:
        left_s = runner.ends_at_s - self._now_s
        manifest = hashlib.sha256(f"{runner.attempt} {self._now_s}".encode()).hexdigest()
        line = {"kind": "checkpoint", "manifest": manifest, "size_bytes": 1, "at": self.clock.now().timestamp()}
        data, key = json.dumps(line).encode() + b"\n", (runner.attempt, runner.replica)
        chunk = Chunk(stream="events", offset=self._told_bytes[key], data=base64.b64encode(data).decode())
        attempts.beat(self.ctx, attempt, Beat(replica=runner.replica, state=runner.state, chunks=(chunk,)))
        self._told_bytes[key] += len(data)
        self._kept_s[attempt.run] = self._job_of[attempt.run].duration_s - left_s

    def _has_news(self, runner: Runner) -> bool:
        return runner.exit is not None or self._now_s >= runner.ends_at_s or runner.is_told != runner.state

    def _live(self, runner: Runner) -> None:
        if self._dice.random() < self.faults.death:
            self.history.events["death"] += 1
            runner.is_alive = False
            return
        job = self._job_of[attempts.find(self.ctx, runner.attempt).run]
        self.history.waits_s.setdefault(job.id, self._now_s - job.submit_s)
        is_heard = self._dice.random() >= self.faults.deaf
        self._guarded("beat", lambda: runner.beat(self.ctx, self._now_s, is_heard=is_heard))

    def _submit(self, job: Job) -> None:
        share, _, person = job.share.rpartition("/")
        actor = Actor(name=job.owner or person, is_admin=True)
        spec = RunSpec(
            command=("true",),
            name=job.id,
            project=share or "default",
            resources=job.resources,
            replicas=job.replicas,
            timeout_s=job.estimate_s,
            priority=job.priority,
            is_preemptible=job.is_preemptible,
        )
        run, _ = runs.submit(self.ctx, actor, spec, key=job.id)
        if self._ids.setdefault(job.id, run.id) != run.id:
            raise Broken(f"{job.id} became two runs")
        self._job_of[run.id] = job

    def _guarded(self, what: str, act: Callable[[], object]) -> bool:
        """Do something; a crash is a new server, after the leases of the dead one have run out."""
        with contextlib.suppress(Crash, CrashInside):
            act()
        if self._is_dead:
            self._is_dead = False
            self.history.events["crash"] += 1
            self._advance(self.faults.away_s)
            self._restart()
            return False
        self.history.events[what] += 1
        return True

    def _restart(self) -> None:
        self._fleet = Fleet(self.ctx, self.ctx.settings.home)
        for id, backend in self._engines.backends():
            self._fleet.keep(self._cluster(id), backend)
        lanes = AtOnce()
        self._servers += 1
        self._schedule = Schedule(self.ctx)
        self._attempts = Attempts(self.ctx, self._fleet, lanes, f"server-{self._servers}", Reach(url="http://127.0.0.1:1"))
        self._machines = Machines(self.ctx, self._fleet, cast(Loops, lanes))

    def _cluster(self, id: str) -> Cluster:
        found = self.ctx.store.clusters.get(id)
        if found is None:
            raise Broken(f"cluster {id} is gone")
        return found

    def _open_projects(self) -> None:
        """Give each share that a job names a project."""
        known = {one.name for one in self.ctx.store.shares.all()}
        for name in sorted({job.share.rpartition("/")[0] for job in self.jobs} - {""}):
            if name not in known:
                self.ctx.store.shares.put(Share(name=name, version=0))
            projects.ensure(self.ctx, name)
            projects.edit(self.ctx, SYSTEM, name, share=name)

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """Let fault points crash while the simulation runs."""

        def reach(point: str) -> None:
            if self._is_dead or self._dice.random() < self.faults.crash:
                self._is_dead = True
                raise CrashInside(point) if point.startswith("inside") else Crash(point)

        kept = [(module, module.reach) for module in WITH_POINTS]
        try:
            for module, _ in kept:
                module.reach = reach  # type: ignore[attr-defined]
            yield
        finally:
            for module, old in kept:
                module.reach = old  # type: ignore[attr-defined]

    def _lasts_s(self, attempt: str) -> float:
        run = attempts.find(self.ctx, attempt).run
        return self._job_of[run].duration_s - self._kept_s.get(run, 0.0)

    def _is_quiet(self) -> bool:
        if self.ctx.store.attempts.open():
            return False
        if self._books is not None and not self._books.is_over():
            return False
        found = (self.ctx.store.runs.get(run) for run in self._ids.values())
        return all(run is not None and run.state in TERMINAL_RUN for run in found)

    def _check_nodes(self) -> None:
        """No node holds more than it has, and what it holds is what its open allocations say."""
        held: Counter[tuple[str, int]] = Counter()
        for one in self.ctx.store.nodes.open_allocations():
            for share in one.granted.devices:
                held[one.node, share.index] += share.milli
        for node in self.ctx.store.nodes.all():
            told = Counter({(node.id, share.index): share.milli for share in node.used_devices})
            if node.used_cpu_milli > node.cpu_milli or any(milli > GPU_MILLI for milli in told.values()):
                raise Broken(f"{node.id} holds more than it has")
            if told != Counter({key: milli for key, milli in held.items() if key[0] == node.id}):
                raise Broken(f"{node.id} says that it holds {dict(told)}, its allocations say {dict(held)}")

    def _check_runs(self) -> None:
        """Every run ended once, and a run that did not succeed lost its nodes again and again."""
        if self.ctx.store.nodes.open_allocations():
            raise Broken("allocations are left")
        for run_id in self._ids.values():
            run = self.ctx.store.runs.get(run_id)
            tries = self.ctx.store.attempts.of_run(run_id)
            causes = [one.outcome.cause for one in tries if one.outcome is not None]
            if run is None or len(causes) != len(tries) or any(one.state is not AttemptState.ENDED for one in tries):
                raise Broken(f"{run_id} has attempts that never ended")
            if causes.count(Cause.SUCCEEDED) != (run.state is RunState.SUCCEEDED):
                raise Broken(f"{run_id} is {run.state} after {causes}")
            if run.state is not RunState.SUCCEEDED and causes[-1] not in (Cause.NODE_LOST, Cause.LAUNCH_FAILED):
                raise Broken(f"{run_id} is {run.state} after {causes}")
            self.history.events["attempts"] += len(tries)
            self.history.events.update(cause.value for cause in causes if cause is not Cause.SUCCEEDED)
            self.history.done.append(self._done(self._job_of[run_id], tries))
        if self._cluster("local").message:
            raise Broken(f"the house's own engine had no trouble, and yet: {self._cluster('local').message}")

    def _done(self, job: Job, tries: Sequence[Attempt]) -> Done:
        spans = [((one.created_at - self._began).total_seconds(), self._end_s(one)) for one in tries]
        return Done(
            job=job,
            started_s=spans[0][0],
            ended_s=spans[-1][1],
            spans=tuple(spans),
            evictions=sum(one.stop_cause is Cause.PREEMPTED for one in tries),
            cloud_s=sum(end - begin for (begin, end), one in zip(spans, tries, strict=True) if one.cluster != "local"),
        )

    def _end_s(self, attempt: Attempt) -> float:
        return ((attempt.ended_at or self.clock.now()) - self._began).total_seconds()


class AtOnce:
    """Lanes that do at once what they are given."""

    def submit(self, work: Callable[[], None], *, lane: str) -> None:  # noqa: ARG002 the contract has it
        """Do it now."""
        work()
