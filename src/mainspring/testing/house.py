"""The second mode: the same jobs through the real store and the real controllers, on a virtual clock, with faults.

A fault is a server that dies at one of its fault points and begins again from its rows, a runner that dies, an answer that is
lost, a wall clock that jumps. The books are checked at every step: `Broken` is raised where a promise was not kept.
"""

from __future__ import annotations

import contextlib
import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mainspring.controllers import attempts as attempts_loop
from mainspring.controllers import schedule as schedule_loop
from mainspring.controllers.attempts import Attempts
from mainspring.controllers.fleet import Reach
from mainspring.controllers.schedule import Schedule
from mainspring.core.actors import Actor
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import AttemptState, Cause, RunState
from mainspring.core.resources import GPU_MILLI
from mainspring.core.specs import RunSpec
from mainspring.services import attempts, runs
from mainspring.services.context import Context
from mainspring.simulator.jobs import Job
from mainspring.store import ends as stored_ends
from mainspring.store import starts as stored_starts
from mainspring.testing.clock import FakeClock
from mainspring.testing.engine import Engine, Fleet, Runner

WITH_POINTS = (attempts_loop, schedule_loop, attempts, runs, stored_ends, stored_starts)
LEASES_END_S = 31.0
STEP_S = 15.0  # at most so long between two looks while runs are open


class Crash(BaseException):  # not an error that anybody may handle
    """The server died here: what was not committed never was."""


class CrashInside(Exception):
    """It died inside a transaction, which the store's own thread rolls back before it tells."""


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseFaults:
    """Probabilities: a crash at each fault point, a runner's death and a lost answer at each beat, a jump at each step."""

    crash: float = 0.0
    death: float = 0.0
    deaf: float = 0.0
    jump: float = 0.0


@dataclass(slots=True)
class HouseHistory:
    """What happened, by kind; `waits_s` is from submission to the first start, by job."""

    events: Counter[str] = field(default_factory=Counter)
    waits_s: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class HouseSimulation:
    """One simulation in a context whose clock is `clock`, and whose nodes are in the store."""

    ctx: Context
    clock: FakeClock
    jobs: Sequence[Job]
    faults: HouseFaults = field(default_factory=HouseFaults)
    seed: int = 0
    history: HouseHistory = field(default_factory=HouseHistory)
    _dice: random.Random = field(init=False)
    engine: Engine = field(init=False)
    _schedule: Schedule = field(init=False)
    _attempts: Attempts = field(init=False)
    _ids: dict[str, str] = field(default_factory=dict)  # run by job
    _job_of: dict[str, Job] = field(default_factory=dict)  # by run
    _servers: int = 0
    _is_dead: bool = False
    _now_s: float = 0.0

    def run(self) -> HouseHistory:
        """Play it until every run has ended and nothing is held."""
        self._dice = random.Random(self.seed)
        self.engine = Engine(lasts_s=self._lasts_s)
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
        self._check_runs()
        return self.history

    def _pass(self, at_most_s: float) -> None:
        ends = [one.ends_at_s for one in self.engine.runners.values() if one.is_alive and one.exit is None]
        until_s = max(self._now_s + 0.001, min([at_most_s, self._now_s + STEP_S, *(one for one in ends if one > self._now_s)]))
        self._advance(until_s - self._now_s)
        if self._dice.random() < self.faults.jump:
            self.history.events["jump"] += 1
            self.clock.jump(self._dice.choice((-86400, 86400, 3600)))

    def _advance(self, seconds: float) -> None:
        self._now_s += seconds
        self.engine.now_s = self._now_s
        self.clock.advance(seconds)

    def _settle(self) -> None:
        """Let the server and the runners act until nothing moves."""
        for _ in range(8):
            self._guarded("plan", self._schedule.tick)
            self._guarded("drive", self._attempts.tick)
            fresh = [one for one in self.engine.runners.values() if one.is_alive and self._has_news(one)]
            if not fresh:
                return
            for runner in fresh:
                self._live(runner)

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
        actor = Actor(name=job.owner or job.share, is_admin=True)
        spec = RunSpec(
            command=("true",),
            name=job.id,
            resources=job.resources,
            replicas=job.replicas,
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
            self._advance(LEASES_END_S)
            self._restart()
            return False
        self.history.events[what] += 1
        return True

    def _restart(self) -> None:
        fleet = Fleet(self.engine)
        self._servers += 1
        self._schedule = Schedule(self.ctx)
        self._attempts = Attempts(
            self.ctx,
            fleet,
            fleet,
            f"server-{self._servers}",
            Reach(url="http://127.0.0.1:1"),
        )

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
        return self._job_of[attempts.find(self.ctx, attempt).run].duration_s

    def _is_quiet(self) -> bool:
        if self.ctx.store.attempts.open():
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
            if run.state is not RunState.SUCCEEDED and causes[-1] is not Cause.NODE_LOST:
                raise Broken(f"{run_id} is {run.state} after {causes}")
            self.history.events["attempts"] += len(tries)
