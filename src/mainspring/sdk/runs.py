"""`Run`: what `submit` returns. Waits, results, logs, reasons; every call asks the server, nothing is kept that can be stale."""

from __future__ import annotations

import codecs
import math
import sys
import time
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.client.inside import Forward
from mainspring.core import records
from mainspring.core.environments import Wish
from mainspring.core.errors import RunCancelledError, RunFailedError, StateError
from mainspring.core.forecasts import Forecast
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.records import RunState
from mainspring.core.specs import Environment, Value, ValueKind
from mainspring.sdk.awaiting import in_thread, within
from mainspring.sdk.inside import ShellResult, run_inside
from mainspring.sdk.locks import changed
from mainspring.sdk.models import Model
from mainspring.sdk.progress import Progress
from mainspring.sdk.results import pull_outputs
from mainspring.sdk.values import from_value

R = TypeVar("R")
TAIL_BYTES = 4000
LOOK_S = 2.0  # how often a person at a terminal is told how it stands, and a thread looks whether it is still wanted


class Run(Generic[R]):
    """A run on the server. `await run` gives its result."""

    def __init__(self, client: Client, record: records.Run) -> None:
        self._client = client
        self._record = record

    @property
    def id(self) -> str:
        """Return the id."""
        return self._record.id

    @property
    def name(self) -> str:
        """Return the name."""
        return self._record.name

    @property
    def record(self) -> records.Run:
        """Return the record as it is now."""
        if self._record.state not in TERMINAL_RUN:
            self._record = self._client.runs.get(self.id)
        return self._record

    @property
    def state(self) -> str:
        """Return queued, running, succeeded, failed or cancelled."""
        return str(self.record.state)

    @property
    def is_done(self) -> bool:
        """Say whether the run is over."""
        return self.record.state in TERMINAL_RUN

    @property
    def params(self) -> dict[str, Any]:
        """Return the parameters: those given, then those the run logged."""
        return self._client.runs.params(self.id)

    @property
    def metrics(self) -> dict[str, float]:
        """Return the last value of each metric."""
        return {name: _number(one.get("last")) for name, one in self._client.runs.metrics(self.id).items()}

    def metric(self, name: str, *, points: int = 1000) -> list[list[float]]:
        """Return `[[step, value, unix_seconds], …]` of one metric, thinned to about `points`."""
        return self._client.runs.points(self.id, name, points=points)

    @property
    def artifacts(self) -> dict[str, Value]:
        """Return what the run returned and wrote, by name."""
        return dict(self.record.outputs)

    def wait(self, timeout: float | None = None) -> Run[R]:
        """Block until the run is over, with live progress on a terminal; return it. Raises TimeoutError after `timeout` s."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        with Progress(self.name) as progress:
            while True:
                left = max(0.0, until - time.monotonic())
                pause = min(left, LOOK_S) if progress.is_watched else left
                self._record = self._client.runs.wait(self.id, None if pause == math.inf else pause)
                if self._record.state in TERMINAL_RUN:
                    return self
                if time.monotonic() >= until:
                    raise self._late(timeout)
                progress.update(0, _told(self._record))

    def _late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"Run {self.name} is still {self._record.state} after {timeout:g} s.")

    def result(self, timeout: float | None = None) -> R:
        """Return what the task returned, waiting for it. A pickled result is opened here: trust the code that made it.

        Raises RunFailedError with the end of the log, RunCancelledError, TimeoutError.
        """
        return self._opened(self.wait(timeout)._record)

    async def wait_async(self, timeout: float | None = None) -> Run[R]:
        """Wait as `wait` does, without blocking the event loop. Raises TimeoutError after `timeout` seconds.

        When it is cancelled, or its time is over, the run goes on: `cancel` ends it.
        """
        self._record = await self._client.asynchronous().wait(self.id, timeout)
        if self._record.state not in TERMINAL_RUN:
            raise self._late(timeout)
        return self

    async def result_async(self, timeout: float | None = None) -> R:
        """Return what the task returned, without blocking the event loop; `timeout` seconds are for the waiting.

        Raises as `result`.
        """
        await self.wait_async(timeout)
        return await in_thread(self._opened, self._record)

    def __await__(self) -> Generator[Any, None, R]:
        return self.result_async().__await__()

    def logs(self, *, follow: bool = False, attempt: int | None = None) -> Iterator[str]:
        """Yield the log's lines; with `follow` as they are written, until the run ends."""
        decode = _Lines()
        if follow:
            for part in self._client.runs.follow(self.id, attempt=attempt):
                yield from decode.take(part.data)
        else:
            offset = 0
            while data := self._client.runs.log(self.id, attempt=attempt, offset=offset):
                if not data.data:
                    break
                offset = data.next_offset
                yield from decode.take(data.data)
        yield from decode.rest()

    async def logs_async(self) -> AsyncIterator[str]:
        """Yield the log's lines as they are written, without blocking the event loop."""
        decode = _Lines()
        async for data in self._client.asynchronous().logs(self.id):
            for line in decode.take(data):
                yield line
        for line in decode.rest():
            yield line

    def why(self) -> dict[str, Any]:
        """Return `{state, sentence, reason, ahead, attempt}`: why the run is where it is."""
        return self._client.runs.why(self.id)

    def native(self) -> dict[str, Any]:
        """Return the engine's own objects (process, pod, job) of the newest try. Raises StateError before there are any."""
        return self._client.runs.native(self.id)

    def shell(self, command: Sequence[str], *, data: bytes = b"", replica: int = 0, timeout: float | None = None) -> ShellResult:
        """Run a command inside the running run, in its environment and folder, and return what it printed and its exit code.

        `data` is its input. Raises StateError when the run does not run or ends meanwhile, TimeoutError (the command is ended).
        """
        return run_inside(self._client, self.id, command, data=data, replica=replica, timeout=timeout)

    async def shell_async(
        self, command: Sequence[str], *, data: bytes = b"", replica: int = 0, timeout: float | None = None
    ) -> ShellResult:
        """Run a command inside the running run without blocking the event loop; see `shell`."""
        return await in_thread(self.shell, command, data=data, replica=replica, timeout=timeout)

    def port(self, port: int, *, replica: int = 0, local: int = 0) -> Forward:
        """Return a port of this machine that leads to one inside the running run: `with run.port(6006) as there: … there.url`.

        Also for `async with`. Raises StateError when the run does not run, UsageError when the port `local` is taken.
        """
        return self._client.runs.forward(self.id, port, replica=replica, local=local)

    def lineage(self) -> dict[str, Any]:
        """Return `{nodes, edges}` of what the run was made from."""
        return self._client.runs.lineage(self.id)

    def attempts(self) -> list[records.Attempt]:
        """Return the tries, oldest first."""
        return self._client.runs.attempts(self.id)

    def cancel(self, *, grace: float | None = None) -> Run[R]:
        """Cancel the run: at once when it waits, after SIGTERM and `grace` seconds when it runs. Does not wait."""
        self._record = self._client.runs.cancel(self.id, grace_s=grace)
        return self

    def pause(self) -> Run[R]:
        """Hold the run until `resume`."""
        self._record = self._client.runs.pause(self.id)
        return self

    def resume(self) -> Run[R]:
        """Let a paused run go on."""
        self._record = self._client.runs.resume(self.id)
        return self

    def checkpoint(self) -> Run[R]:
        """Ask the running code for a checkpoint: its `ms.should_checkpoint()` is true once. Raises StateError unless it runs."""
        self._client.runs.checkpoint(self.id)
        return self

    @property
    def cached_from(self) -> str:
        """Return the id of the run whose outputs this one took, empty when it was computed."""
        return self.record.cached_from

    def rerun(self, **set: object) -> Run[R]:
        """Submit it again with some parameters changed, or in another environment: `environment`, `python`, `wheels`.

        The words are those of `mainspring rerun`; where the run has a parameter of such a name, that is what is changed.
        """
        known = self.params if set else {}
        words = {name: str(set.pop(name)) for name in ("environment", "python", "wheels") if name in set and name not in known}
        given = Environment(interpreter=words.get("python") or sys.executable)
        environment, path = changed(self._client, self.record, Wish(**words), given)
        again = self._client.runs.rerun(self.id, set_params=set, environment=environment, path=path)
        return Run(self._client, again)

    def tag(self, *tags: str, remove: Sequence[str] = ()) -> Run[R]:
        """Add and remove tags."""
        self._record = self._client.runs.edit(self.id, add_tags=tags, remove_tags=remove)
        return self

    def pull(self, folder: str | Path = ".") -> list[Path]:
        """Fetch what the run returned and wrote into a folder; pickles are written, not opened. Blocks; files are replaced.

        Raises UsageError when the folder cannot be made, IntegrityError.
        """
        with Progress(f"Fetching {self.name}", is_bytes=True) as progress:
            return pull_outputs(self._client, self.record, Path(folder), progress=progress.moved)

    async def pull_async(self, folder: str | Path = ".", *, timeout: float | None = None) -> list[Path]:
        """Fetch as `pull` does, without blocking the event loop. Raises as `pull`, and TimeoutError: it is given up then."""
        return await within(timeout, f"Fetching the outputs of {self.name}", in_thread(self.pull, folder))

    def forecast(self) -> Forecast:
        """Return when the waiting run is expected to start. Raises StateError when it does not wait."""
        return self._client.forecasts.of_run(self.id)

    def to_value(self, client: Client) -> Value:
        """Return the run's result as an argument of another run, without fetching it; waits for it."""
        del client
        self.wait()
        return self._output(self._record)

    def _opened(self, record: records.Run) -> R:
        value = self._output(record)
        made: Any
        if value.kind is ValueKind.MODEL:
            made = Model.of_digest(value.digest, meta=_known(value.meta), run=record.id, metrics=record.metrics)
        else:
            made = from_value(self._client, value)
        if value.kind is ValueKind.DATASET:
            made.producer = record.id
        result: R = made
        return result

    def _output(self, record: records.Run) -> Value:
        if record.state is RunState.CANCELLED:
            raise RunCancelledError(f"Run {record.name} was cancelled.", details={"run": record.id})
        if record.state is RunState.FAILED:
            raise self._failure(record)
        if record.state is not RunState.SUCCEEDED:
            raise StateError(f"Run {record.name} is {record.state}.", hint="run.wait()")
        return record.outputs.get("result", Value(kind=ValueKind.JSON))

    def _failure(self, record: records.Run) -> RunFailedError:
        tail = self._client.runs.log(record.id, offset=-TAIL_BYTES, limit=TAIL_BYTES).data.decode("utf-8", "replace")
        outcome = record.outcome
        said = outcome.message if outcome is not None and outcome.message else "It failed."
        return RunFailedError(
            f"Run {record.name} ({record.id}) failed: {said}" + (f"\n{tail.rstrip()}\n" if tail.strip() else ""),
            hint=f"mainspring logs {record.id}",
            details={
                "run": record.id,
                "cause": str(outcome.cause) if outcome is not None else "",
                "exit_code": outcome.exit_code if outcome is not None else None,
                "log_tail": tail,
            },
        )

    def __repr__(self) -> str:
        return f"Run({self.name}, {self.id}, {self._record.state})"


def get_run(reference: str) -> Run[Any]:
    """Return the run of that id, the beginning or end of one, or name (the newest)."""
    client = connect()
    return Run(client, client.runs.get(reference))


def find_runs(*, project: str = "default", limit: int = 100, **wanted: Any) -> list[Run[Any]]:
    """Return the newest runs; `wanted` as for `mainspring ps`: states, owner, tag, text, order."""
    client = connect()
    return [Run(client, one) for one in client.runs.page(project=project, limit=limit, **wanted).items]


def wait_all(runs: Sequence[Run[Any]], timeout: float | None = None) -> list[Run[Any]]:
    """Block until every run is over; return them. Raises TimeoutError."""
    until = None if timeout is None else time.monotonic() + timeout
    return [run.wait(None if until is None else max(0.0, until - time.monotonic())) for run in runs]


async def wait_all_async(runs: Sequence[Run[Any]], timeout: float | None = None) -> list[Run[Any]]:
    """Wait until every run is over, without blocking the event loop; return them. Raises TimeoutError. The runs go on then."""
    until = math.inf if timeout is None else time.monotonic() + timeout
    return [await run.wait_async(None if timeout is None else max(0.0, until - time.monotonic())) for run in runs]


class _Lines:
    """Turns bytes into lines; bytes that are no UTF-8 become the replacement character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def take(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes, without their ends."""
        *lines, self._held = (self._held + self._decoder.decode(data)).split("\n")
        return [line.removesuffix("\r") for line in lines]

    def rest(self) -> list[str]:
        """Return the last line when it has no end."""
        held = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return [held] if held else []


def _told(record: records.Run) -> str:
    """Return how a run stands, in words."""
    why = record.reason if record.state is RunState.QUEUED else None
    return f"{record.state}: {why.sentence}" if why is not None else str(record.state)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float | str) else float("nan")


def _known(meta: Mapping[str, object]) -> Mapping[str, object]:
    """Return what a run said of its model, when it said what is needed; else `model.json` is read when it is asked for."""
    return meta if "format" in meta else {}
