"""Two hundred rounds in one process under a virtual clock: crashes at fault points, lost answers, dead runners, clock jumps."""

from __future__ import annotations

import base64
import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from mainspring.controllers import attempts as attempts_loop
from mainspring.controllers import schedule as schedule_loop
from mainspring.controllers.attempts import Attempts
from mainspring.controllers.fleet import Reach
from mainspring.controllers.schedule import Schedule
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Capabilities, ExitRecord, Handle, Inventory, LaunchRequest, Observation, ObservedState, Probe
from mainspring.core.beats import Beat, Chunk
from mainspring.core.errors import MainspringError, StateError
from mainspring.core.ids import AttemptId
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import AttemptState, Cause, Outcome, RunState
from mainspring.core.specs import RunSpec
from mainspring.services import attempts, runs
from mainspring.store import ends as stored_ends
from mainspring.store import starts as stored_starts
from mainspring.testing.engine import Fleet

ROUNDS, SHARDS, RUNS, STEPS = 200, 4, 3, 60
WITH_POINTS = (attempts_loop, schedule_loop, attempts, runs, stored_ends, stored_starts)


class Crash(Exception):
    """The server died here: what was not committed never was."""


@dataclass
class ToyRunner:
    """What lives on the node: it outlives the server, spools, and repeats itself until it is answered."""

    attempt: str
    script: bytes
    spool: bytes = b""
    acked: int = 0
    state: str = "starting"
    is_alive: bool = True
    begun: int = 0
    exit: Outcome | None = None
    is_acknowledged: bool = False

    def work(self) -> None:
        """Let user code go on by one line, or end."""
        if self.exit is not None or not self.is_alive:
            return
        if self.state == "starting":
            self.state, self.begun = "running", self.begun + 1
        elif len(self.spool) < len(self.script):
            self.spool = self.script[: len(self.spool) + 7]
        else:
            self.exit = Outcome(cause=Cause.SUCCEEDED, exit_code=0)

    def beat(self, ctx, is_heard: bool) -> None:
        """Say what is not acknowledged; an answer that is lost changes nothing here."""
        fresh = self.spool[self.acked :]
        is_last = self.exit is not None and not fresh
        chunk = Chunk(stream="log", offset=self.acked, data=base64.b64encode(fresh).decode())
        said = Beat(
            state="ended" if is_last else self.state, chunks=(chunk,) if fresh else (), exit=self.exit if is_last else None
        )
        answer = attempts.beat(ctx, attempts.find(ctx, self.attempt), said)
        if not is_heard:
            return
        self.acked = answer.ack.get("log", self.acked)
        if any(command.kind == "stop" for command in answer.commands) and self.exit is None:
            self.exit = Outcome(cause=Cause.CANCELLED, exit_code=-15)
        if answer.is_acknowledged:
            self.is_acknowledged, self.is_alive = True, False


@dataclass
class ToyBackend:
    """An engine in memory; its promises are those of the contract."""

    dice: random.Random
    runners: dict[str, ToyRunner] = field(default_factory=dict)
    capabilities: Capabilities = field(default_factory=Capabilities)

    def probe(self) -> Probe:
        return Probe(is_ready=True)

    def inventory(self) -> Inventory:
        return Inventory()

    def launch(self, request: LaunchRequest) -> Handle:
        known = self.runners.get(request.attempt)
        if known is None:
            self.runners[request.attempt] = ToyRunner(request.attempt, script=b"a line\n" * self.dice.randint(0, 4))
        elif not known.is_alive and not known.is_acknowledged:
            known.is_alive = True  # it drains and reports; user code is never begun again
            known.exit = known.exit or Outcome(cause=Cause.NODE_LOST, message="The runner died.")
        return Handle(attempt=request.attempt, replica=request.replica, data={"toy": request.attempt})

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        return [
            Observation(handle=one, state=ObservedState.RUNNING if self._lives(one) else ObservedState.GONE) for one in handles
        ]

    def _lives(self, handle: Handle) -> bool:
        runner = self.runners.get(handle.attempt)
        return runner is not None and runner.is_alive

    def stop(self, handle: Handle, grace_s: float) -> None:
        runner = self.runners.get(handle.attempt)
        if runner is not None and runner.is_alive:
            runner.exit = runner.exit or Outcome(cause=Cause.CANCELLED, exit_code=-15)

    def owned(self) -> Sequence[Handle]:
        alive = [one.attempt for one in self.runners.values() if one.is_alive]
        return [Handle(attempt=AttemptId(one), replica=0, data={"toy": one}) for one in alive]

    def native(self, handle: Handle) -> Mapping[str, object]:
        return dict(handle.data)

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        runner = self.runners.get(handle.attempt)
        return ExitRecord(outcome=runner.exit) if runner is not None and runner.exit is not None else None

    def forget(self, handle: Handle) -> None:
        """Nothing is kept but what the test looks at."""


@dataclass
class Round:
    """One round: random acts with crashes, then peace, then the promises."""

    house: object
    dice: random.Random
    name: str
    accepted: dict[str, str] = field(default_factory=dict)
    is_peace: bool = False
    owners: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.ctx = self.house.ctx
        self.engine = ToyBackend(self.dice)
        self.restart()

    def restart(self) -> None:
        """Begin again with rows alone, as a new server process does."""
        fleet, owner = Fleet(self.engine), f"{self.name}-{next(self.owners)}"
        self.schedule = Schedule(self.ctx)
        self.attempts = Attempts(self.ctx, fleet, fleet, owner, Reach(url="http://127.0.0.1:1"))

    def reach(self, point: str) -> None:
        if not self.is_peace and self.dice.random() < 0.08:
            raise Crash(point)

    def act(self) -> None:
        """Do one thing; a crash is a new server."""
        living = [one for one in self.engine.runners.values() if one.is_alive]
        choice = self.dice.random()
        try:
            if choice < 0.15:
                self.submit(f"{self.name}-{self.dice.randrange(RUNS)}")
            elif choice < 0.35:
                self.schedule.tick()
            elif choice < 0.6:
                self.attempts.tick()
            elif choice < 0.9 and living:
                runner = self.dice.choice(living)
                runner.work()
                runner.beat(self.ctx, is_heard=self.is_peace or self.dice.random() < 0.7)
            elif choice < 0.93 and living and not self.is_peace:
                self.dice.choice(living).is_alive = False
            elif choice < 0.95 and self.accepted and not self.is_peace:
                with contextlib.suppress(StateError):  # it may be done already
                    runs.cancel(self.ctx, SYSTEM, self.dice.choice(sorted(self.accepted.values())), grace_s=1)
            elif choice < 0.97 and not self.is_peace:
                self.house.clock.jump(self.dice.choice((-86400, 86400, 3600)))
            else:
                self.house.clock.advance(self.dice.uniform(0.5, 40.0))
        except Crash:
            self.house.clock.advance(31.0)  # leases of the dead process run out
            self.restart()

    def submit(self, key: str) -> None:
        run, _ = runs.submit(self.ctx, SYSTEM, RunSpec(command=("true",), name=key, retries=1), key=key)
        assert self.accepted.setdefault(key, run.id) == run.id, "the same key gave two runs"

    def settle(self) -> None:
        """Let everything come to rest without faults."""
        self.is_peace = True
        for number in range(RUNS):
            self.submit(f"{self.name}-{number}")
        for _ in range(3000):
            found = [self.ctx.store.runs.get(run) for run in self.accepted.values()]
            if all(run.state in TERMINAL_RUN for run in found) and not self.ctx.store.attempts.open():
                return
            self.act()
        stuck = [(one, self.engine.runners.get(one.id)) for one in self.ctx.store.attempts.open()]
        raise AssertionError(f"{[(run.name, run.state, run.desired, run.reason) for run in found]}: {stuck}")

    def check(self) -> None:
        """Judge promises P1, P2, P3, P6 and P8."""
        for run_id in self.accepted.values():
            run = self.ctx.store.runs.get(run_id)
            tries = self.ctx.store.attempts.of_run(run_id)
            won = [one for one in tries if one.outcome is not None and one.outcome.cause is Cause.SUCCEEDED]
            assert len(won) == (run.state is RunState.SUCCEEDED), "committed once"
            assert [one.number for one in tries] == list(range(1, len(tries) + 1))
            assert all(one.state is AttemptState.ENDED for one in tries)
            for one in tries:
                runner = self.engine.runners.get(one.id)
                if runner is not None:
                    assert runner.begun <= 1, "user code was begun twice"
                    assert self.ctx.store.logs.read(one.id, 0, "log") == runner.spool[: runner.acked], (
                        "bytes were lost or doubled"
                    )
        assert self.ctx.store.nodes.open_allocations() == []
        (node,) = self.ctx.store.nodes.all()
        assert (node.used_cpu_milli, node.used_devices) == (0, ())


@pytest.mark.chaos
@pytest.mark.parametrize("shard", range(SHARDS))
def test_rounds_of_random_faults_break_no_promise(house, monkeypatch: pytest.MonkeyPatch, shard: int) -> None:
    crashes = 0
    for number in range(shard, ROUNDS, SHARDS):
        one = Round(house, random.Random(number), f"round-{number}")

        def reach(point: str, one: Round = one) -> None:
            nonlocal crashes
            try:
                one.reach(point)
            except Crash:
                crashes += 1
                raise

        for module in WITH_POINTS:
            monkeypatch.setattr(module, "reach", reach)
        for _ in range(STEPS):
            one.act()
        try:
            one.settle()
            one.check()
        except (AssertionError, MainspringError) as wrong:
            raise AssertionError(f"round {number}: {wrong}") from wrong
    assert crashes > ROUNDS // SHARDS, "too little was broken to prove anything"
