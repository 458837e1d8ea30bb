"""An engine in memory whose runs take virtual time: it keeps a backend's promises and forgets nothing when the server dies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mainspring.core.backend import (
    Backend,
    Capabilities,
    ExitRecord,
    Handle,
    Inventory,
    LaunchRequest,
    Observation,
    ObservedState,
    Probe,
)
from mainspring.core.beats import Beat
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cause, Outcome
from mainspring.services import attempts
from mainspring.services.context import Context


@dataclass(slots=True)
class Runner:
    """What lives on a node for one replica. It begins its work once, whatever the server does."""

    attempt: str
    replica: int
    ends_at_s: float
    state: str = "running"
    exit: Outcome | None = None
    is_alive: bool = True
    is_told: str = ""  # the last state that the server answered to

    def beat(self, ctx: Context, now_s: float, *, is_heard: bool = True) -> None:
        """Tell the server where it is; an answer that is lost (`is_heard` False) is asked for again."""
        if self.exit is None and now_s >= self.ends_at_s:
            self.exit = Outcome(cause=Cause.SUCCEEDED, exit_code=0)
        state = "ended" if self.exit is not None else self.state
        answer = attempts.beat(ctx, attempts.find(ctx, self.attempt), Beat(replica=self.replica, state=state, exit=self.exit))
        if not is_heard:
            return
        self.is_told = state
        if any(command.kind == "stop" for command in answer.commands) and self.exit is None:
            self.exit, self.is_told = Outcome(cause=Cause.CANCELLED, exit_code=-15), ""
        if answer.is_acknowledged:
            self.is_alive = False


@dataclass(slots=True)
class Engine:
    """A backend. `lasts_s` says how long the work of an attempt takes; `now_s` is the virtual time."""

    lasts_s: Callable[[str], float]
    now_s: float = 0.0
    runners: dict[tuple[str, int], Runner] = field(default_factory=dict)
    capabilities: Capabilities = field(default_factory=Capabilities)

    def probe(self) -> Probe:
        """Say that it is ready."""
        return Probe(is_ready=True)

    def inventory(self) -> Inventory:
        """List nothing: the nodes are in the store already."""
        return Inventory()

    def launch(self, request: LaunchRequest) -> Handle:
        """Start a runner; a second time, bring a dead one back that only has to report its end."""
        key = (str(request.attempt), request.replica)
        known = self.runners.get(key)
        if known is None:
            self.runners[key] = Runner(*key, ends_at_s=self.now_s + self.lasts_s(key[0]))
        elif not known.is_alive and known.is_told != "ended":
            known.is_alive = True
            known.exit = known.exit or Outcome(cause=Cause.NODE_LOST, message="The runner died.")
        return _handle(*key)

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Say which runners live."""
        return [
            Observation(handle=one, state=ObservedState.RUNNING if self._is_alive(one) else ObservedState.GONE) for one in handles
        ]

    def stop(self, handle: Handle, grace_s: float) -> None:  # noqa: ARG002 the contract has it
        """End a runner at once."""
        runner = self.runners.get((handle.attempt, handle.replica))
        if runner is not None and runner.is_alive and runner.exit is None:
            runner.exit = Outcome(cause=Cause.CANCELLED, exit_code=-15)

    def owned(self) -> Sequence[Handle]:
        """List the living."""
        return [_handle(*key) for key, runner in self.runners.items() if runner.is_alive]

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return what the engine calls it."""
        return dict(handle.data)

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return how it ended, if it did."""
        runner = self.runners.get((handle.attempt, handle.replica))
        return ExitRecord(outcome=runner.exit) if runner is not None and runner.exit is not None else None

    def forget(self, handle: Handle) -> None:
        """Keep everything: whoever checks the history looks at it."""

    def _is_alive(self, handle: Handle) -> bool:
        runner = self.runners.get((handle.attempt, handle.replica))
        return runner is not None and runner.is_alive


@dataclass(slots=True)
class Fleet:
    """The one engine, and a pool that does what it is given at once: what loops get in place of a fleet and of lanes."""

    engine: Backend

    def backend(self, cluster: str) -> Backend:  # noqa: ARG002 the contract has it
        """Return the engine."""
        return self.engine

    def kind(self, cluster: str) -> str:  # noqa: ARG002 the contract has it
        """Return the name of no engine that is known."""
        return "house"

    def may_wait(self, cluster: str) -> bool:  # noqa: ARG002 the contract has it
        """Say that what is launched begins at once."""
        return False

    def hears_ends(self, cluster: str) -> bool:  # noqa: ARG002 the contract has it
        """Say that looking costs nothing."""
        return True

    def note(self, cluster: str, message: str) -> None:
        """Take no complaint: this engine has none."""
        raise AssertionError(f"{cluster}: {message}")

    def submit(self, work: Callable[[], None], *, lane: str) -> None:  # noqa: ARG002 the contract has it
        """Do it now."""
        work()


def _handle(attempt: str, replica: int) -> Handle:
    return Handle(attempt=AttemptId(attempt), replica=replica, data={"engine": f"{attempt}/{replica}"})
