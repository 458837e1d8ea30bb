"""`@ms.pipeline`: a function whose calls on tasks record a graph; the server carries it out, no process drives it."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.core.errors import RunFailedError, UnsupportedError, UsageError
from mainspring.core.graphs import Graph, PipelineState, StepState
from mainspring.core.graphs import PipelineRun as Record
from mainspring.core.objectives import Objective
from mainspring.sdk.awaiting import in_thread
from mainspring.sdk.progress import Progress, check_wanted
from mainspring.sdk.recording import Recorder, active
from mainspring.sdk.runs import Run
from mainspring.sdk.templates import bind

P = ParamSpec("P")
R = TypeVar("R")
POLL_S = 0.2


class PipelineRun:
    """One execution of a pipeline on the server."""

    def __init__(self, client: Client, record: Record) -> None:
        self._client = client
        self._record = record

    @property
    def id(self) -> str:
        """Return the id."""
        return self._record.id

    @property
    def record(self) -> Record:
        """Return the record as it is now."""
        if self._record.state is PipelineState.ACTIVE:
            self._record = self._client.pipelines.get(self.id)
        return self._record

    @property
    def state(self) -> str:
        """Return active, succeeded, failed or cancelled."""
        return str(self.record.state)

    @property
    def steps(self) -> dict[str, str]:
        """Return the state of each step by its key."""
        return {one.key: str(one.state) for one in self.record.steps}

    def run(self, key: str) -> Run[Any]:
        """Return the run of a step. Raises UsageError for a step without one."""
        for one in self.record.steps:
            if one.key == key and one.run:
                return Run(self._client, self._client.runs.get(one.run))
        raise UsageError(f"Step {key!r} has no run (yet).", hint="Steps: " + ", ".join(self.steps))

    def wait(self, timeout: float | None = None, *, raises: bool = True) -> PipelineRun:
        """Block until the pipeline is over. Raises RunFailedError with the sentence of the step that failed, TimeoutError."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        with Progress(self._record.name, len(self._record.graph.steps)) as progress:
            while self.record.state is PipelineState.ACTIVE:
                done = [one for one in self._record.steps if one.state in (StepState.SUCCEEDED, StepState.SKIPPED)]
                running = [one.key for one in self._record.steps if one.state is StepState.RUNNING]
                progress.update(len(done), ", ".join(running))
                if time.monotonic() > until:
                    raise self._late(timeout)
                time.sleep(POLL_S)
        return self._checked(raises=raises)

    async def wait_async(self, timeout: float | None = None, *, raises: bool = True) -> PipelineRun:
        """Wait as `wait` does, without blocking the event loop. Raises as `wait`. When it is cancelled the pipeline goes on."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while (await in_thread(lambda: self.record)).state is PipelineState.ACTIVE:
            if time.monotonic() > until:
                raise self._late(timeout)
            await asyncio.sleep(POLL_S)
        return self._checked(raises=raises)

    def _late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"Pipeline {self._record.name} is still active after {timeout:g} s.")

    def _checked(self, *, raises: bool) -> PipelineRun:
        failed = [one for one in self._record.steps if one.state is StepState.FAILED]
        if raises and self._record.state is not PipelineState.SUCCEEDED:
            told = f"step {failed[0].key}: {failed[0].message}" if failed else f"it was {self._record.state}"
            raise RunFailedError(
                f"Pipeline {self._record.name} {self._record.state}: {told}",
                details={"pipeline": self.id, "run": failed[0].run if failed else ""},
            )
        return self

    def retry(self) -> PipelineRun:
        """Start it again after its last good steps, with their results and the code of then; return the new run.

        Raises StateError while it is active, and when all of it succeeded.
        """
        return PipelineRun(self._client, self._client.pipelines.retry(self.id))

    def cancel(self) -> PipelineRun:
        """End the pipeline run; running steps are cancelled."""
        self._record = self._client.pipelines.cancel(self.id)
        return self

    def __repr__(self) -> str:
        return f"PipelineRun({self._record.name}, {self.id}, {self._record.state})"


class Pipeline(Generic[P, R]):
    """A recorded function. Called, it runs as plain Python, here."""

    def __init__(self, function: Callable[P, R], *, name: str, project: str, objective: Objective | None) -> None:
        self.function = function
        self.name = name or function.__name__
        self.project = project or os.environ.get("MAINSPRING_PROJECT", "") or "default"
        self.objective = objective
        functools.update_wrapper(cast(Any, self), function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""
        return self.function(*args, **kwargs)

    def graph(self, *args: P.args, **kwargs: P.kwargs) -> Graph:
        """Record the steps of a call; sends code and constant arguments, runs nothing."""
        bind(self.function, args, kwargs)
        recorder = Recorder(self.project, self.objective)
        token = active.set(recorder)
        try:
            self.function(*args, **kwargs)
        finally:
            active.reset(token)
        return recorder.graph()

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> PipelineRun:
        """Record the call and let the server carry it out; blocks until it is stored. Each call makes another pipeline run.

        Raises UsageError for calls that cannot be recorded, and what submitting its steps would raise.
        """
        graph = self.graph(*args, **kwargs)
        client = connect()
        check_wanted()
        return PipelineRun(client, client.pipelines.start(self.name, graph, project=self.project))

    def run(self, *args: P.args, **kwargs: P.kwargs) -> PipelineRun:
        """Submit and wait. Raises RunFailedError."""
        return self.submit(*args, **kwargs).wait()

    async def submit_async(self, *args: P.args, **kwargs: P.kwargs) -> PipelineRun:
        """Submit as `submit` does, without blocking the event loop: the function is called in a thread.

        One that is cancelled may have been submitted. Raises as `submit`.
        """
        return await in_thread(self.submit, *args, **kwargs)

    async def run_async(self, *args: P.args, **kwargs: P.kwargs) -> PipelineRun:
        """Submit and wait, without blocking the event loop. Raises RunFailedError. When it is cancelled the pipeline goes on."""
        return await (await self.submit_async(*args, **kwargs)).wait_async()


@overload
def pipeline(function: Callable[P, R], /) -> Pipeline[P, R]: ...
@overload
def pipeline(
    *, name: str = "", project: str = "", objective: Objective | None = None, triggers: Sequence[object] = ()
) -> Callable[[Callable[P, R]], Pipeline[P, R]]: ...


def pipeline(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    project: str = "",
    objective: Objective | None = None,
    triggers: Sequence[object] = (),
) -> Any:
    """Make a function a pipeline: calls on tasks inside it record steps. `objective` is what its gates judge by.

    Raises UnsupportedError for triggers.
    """
    if triggers:
        raise _no_triggers()
    if function is not None:
        return Pipeline(function, name="", project="", objective=None)
    return lambda wrapped: Pipeline(wrapped, name=name, project=project, objective=objective)


def on_dataset(name: str) -> object:
    """Raise UnsupportedError: triggers come with a later version."""
    del name
    raise _no_triggers()


def on_push(branch: str) -> object:
    """Raise UnsupportedError: triggers come with a later version."""
    del branch
    raise _no_triggers()


def cron(schedule: str) -> object:
    """Raise UnsupportedError: triggers come with a later version."""
    del schedule
    raise _no_triggers()


def _no_triggers() -> UnsupportedError:
    return UnsupportedError("Triggers are not part of this version.", hint="Submit the pipeline: build.submit()")
