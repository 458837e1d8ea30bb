"""`ms.sweep`: hundreds of runs in one line. The server asks and tells; no process here drives it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.core import records
from mainspring.core.errors import StateError, UsageError
from mainspring.core.records import Dimension, SweepSpec, SweepState, Trial
from mainspring.core.spaces import check_space, named
from mainspring.core.specs import RunSpec
from mainspring.sdk.awaiting import in_thread
from mainspring.sdk.progress import Progress, check_wanted
from mainspring.sdk.runs import Run
from mainspring.sdk.task import Task
from mainspring.sdk.templates import Options, bind

POLL_S = 0.3


class Study:
    """A sweep on the server, and its trials."""

    def __init__(self, client: Client, record: records.Sweep) -> None:
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
    def record(self) -> records.Sweep:
        """Return the record as it is now."""
        if self._record.state is SweepState.ACTIVE:
            self._record = self._client.sweeps.get(self.id)
        return self._record

    @property
    def state(self) -> str:
        """Return active, done or stopped."""
        return str(self.record.state)

    @property
    def trials(self) -> list[Trial]:
        """Return the trials so far, by number."""
        return self._client.sweeps.trials(self.id)

    @property
    def best_trial(self) -> Trial:
        """Return the best trial that reported the metric. Raises StateError when none has."""
        told = [trial for trial in self.trials if trial.value is not None]
        if not told:
            raise StateError(
                f"No trial of {self.name} has reported {self._record.spec.metric!r}.",
                hint=f"Log it in the task: ms.log_metric({self._record.spec.metric!r}, value)",
            )
        sign = 1.0 if self._record.spec.is_maximized else -1.0
        return max(told, key=lambda trial: sign * (trial.value or 0.0))

    @property
    def best(self) -> Run[Any]:
        """Return the run of the best trial."""
        return Run(self._client, self._client.runs.get(self.best_trial.run))

    def wait(self, timeout: float | None = None) -> Study:
        """Block until every trial is over, with live progress on a terminal. Raises TimeoutError."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        with Progress(self.name, self._record.spec.trials) as progress:
            while self.record.state is SweepState.ACTIVE:
                trials = self.trials
                told = [trial.value for trial in trials if trial.value is not None]
                best = (max if self._record.spec.is_maximized else min)(told) if told else None
                running = sum(trial.state == "running" for trial in trials)
                shown = f"best {best:.5g}, " if best is not None else ""
                progress.update(sum(trial.told_at is not None for trial in trials), f"{shown}{running} running")
                if time.monotonic() > until:
                    raise self._late(timeout)
                time.sleep(POLL_S)
        return self

    async def wait_async(self, timeout: float | None = None) -> Study:
        """Wait as `wait` does, without blocking the event loop. Raises TimeoutError. When it is cancelled the sweep goes on."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while (await in_thread(lambda: self.record)).state is SweepState.ACTIVE:
            if time.monotonic() > until:
                raise self._late(timeout)
            await asyncio.sleep(POLL_S)
        return self

    def _late(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"Sweep {self.name} is still active after {timeout:g} s.")

    def stop(self) -> Study:
        """End the sweep; running trials are cancelled, results stay."""
        self._record = self._client.sweeps.stop(self.id)
        return self

    def __repr__(self) -> str:
        return f"Study({self.name}, {self._record.state})"


def sweep(
    function: Task[..., Any] | Callable[..., Any],
    /,
    *,
    trials: int = 20,
    maximize: str = "",
    minimize: str = "",
    parallel: int = 0,
    sampler: str = "tpe",
    seed: int = 0,
    name: str = "",
    wait: bool = True,
    **arguments: Any,
) -> Study:
    """Search the dimensions among `arguments` (`ms.loguniform(1e-3, 0.3)`); the others are the same for every trial.

    The metric named by `maximize` or `minimize` is what the task logs. `parallel` 0 takes what the queue admits.
    """
    searched = task_of(function)
    space = [named(key, value) for key, value in arguments.items() if isinstance(value, Dimension)]
    fixed = {key: value for key, value in arguments.items() if not isinstance(value, Dimension)}
    bind(searched.function, (), arguments)
    client = connect()
    template = searched.spec(client, fixed, ignoring=[one.name for one in space])
    return start(
        client, template, space, trials=trials, maximize=maximize, minimize=minimize, parallel=parallel, sampler=sampler,
        seed=seed, name=name, wait=wait,
    )  # fmt: skip


async def sweep_async(
    function: Task[..., Any] | Callable[..., Any],
    /,
    *,
    trials: int = 20,
    maximize: str = "",
    minimize: str = "",
    parallel: int = 0,
    sampler: str = "tpe",
    seed: int = 0,
    name: str = "",
    wait: bool = True,
    **arguments: Any,
) -> Study:
    """Search as `sweep` does, without blocking the event loop; `wait=False` and `study.wait_async(timeout)` limit the time.

    One that is cancelled may have been started, and goes on: `study.stop` ends it. Raises as `sweep`.
    """
    study = await in_thread(
        sweep, function, trials=trials, maximize=maximize, minimize=minimize, parallel=parallel, sampler=sampler,
        seed=seed, name=name, wait=False, **arguments,
    )  # fmt: skip
    return await study.wait_async() if wait else study


def start(
    client: Client,
    template: RunSpec,
    space: list[Dimension],
    *,
    trials: int,
    maximize: str,
    minimize: str,
    parallel: int,
    sampler: str,
    seed: int,
    name: str,
    wait: bool,
) -> Study:
    """Start a sweep over a finished template. Raises UsageError, SpecError."""
    if bool(maximize) == bool(minimize):
        raise UsageError("A sweep needs one metric.", hint='Give maximize="roc_auc" or minimize="loss".')
    spec = SweepSpec(
        template=replace(template, name=template.name),
        space=check_space(space),
        metric=maximize or minimize,
        is_maximized=bool(maximize),
        trials=trials,
        parallel=parallel,
        sampler=sampler,
        seed=seed,
        name=name,
    )
    check_wanted()
    study = Study(client, client.sweeps.start(spec))
    return study.wait() if wait else study


def task_of(function: Task[..., Any] | Callable[..., Any]) -> Task[..., Any]:
    """Return the task; a plain function becomes one with default options."""
    return function if isinstance(function, Task) else Task(function, Options())
