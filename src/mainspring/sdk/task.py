"""`@ms.task`: a function with the resources it needs. Called, it is a plain function; submitted, it is a run.

On a node it is only called: what a submission needs would be most of the start of a short run, and is loaded by the first one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from mainspring.core.errors import UsageError
from mainspring.sdk.active import recorder as recording_now

if TYPE_CHECKING:
    from mainspring.client.client import Client
    from mainspring.core.forecasts import Forecast
    from mainspring.core.specs import RunSpec
    from mainspring.sdk.runs import Run
    from mainspring.sdk.templates import Options

P = ParamSpec("P")
R = TypeVar("R")
_ENTRY = "mainspring_runner.entry"  # loaded where the runner calls a function of a module that was looked at when it was sent


class Task(Generic[P, R]):
    """A function that can be submitted. Wrong options are refused where the task is written, not when it runs."""

    def __init__(self, function: Callable[P, R], options: Options | Mapping[str, Any]) -> None:
        if not callable(function):
            raise UsageError(f"@ms.task is for functions, not for {type(function).__name__}.")
        self.function = function
        self._given = options
        functools.update_wrapper(cast(Any, self), function)
        if _ENTRY not in sys.modules:
            self._template()

    @functools.cached_property
    def options(self) -> Options:
        """Return what it asks for. Raises UsageError."""
        from mainspring.sdk import templates

        given = self._given
        return given if isinstance(given, templates.Options) else templates.Options(**templates.check_options(given))

    def _template(self) -> RunSpec:
        from mainspring.sdk import templates

        return templates.template(self.function, self.options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now; inside a pipeline function, record the call as a step."""
        recorder = recording_now.get()
        if recorder is None:
            return self.function(*args, **kwargs)
        from dataclasses import replace

        from mainspring.sdk import calls, recording, templates

        bound = templates.bind(self.function, args, kwargs)
        refs = {name: value for name, value in bound.items() if isinstance(value, recording.StepResult)}
        constant = {name: value for name, value in bound.items() if name not in refs}
        template = self.spec(calls.connect(), constant, ignoring=refs)
        return cast(R, recorder.add_task(replace(template, project=recorder.project), refs))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Submit the call as a run; blocks until the server has stored it, not until it ran. Each call makes another run.

        Arguments may be runs: they are waited for, and their results are passed on without passing through here.
        Raises UsageError, CannotFitError, QuotaError, TooLargeError (of the code).
        """
        from mainspring.sdk import calls, templates

        bound = templates.bind(self.function, args, kwargs)
        return calls.submit(self.function, self._template(), bound, templates.wish(self.options))

    async def submit_async(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Submit the call as `submit` does, without blocking the event loop: `runs = await asyncio.gather(*(…))`.

        Each call makes another run. One that is cancelled (`asyncio.timeout`) may have been submitted. Raises as `submit`.
        """
        from mainspring.sdk import awaiting, runs

        for value in (*args, *kwargs.values()):
            if isinstance(value, runs.Run):
                await value.wait_async()
        return await awaiting.in_thread(self.submit, *args, **kwargs)

    def forecast(self, *args: P.args, **kwargs: P.kwargs) -> Forecast:
        """Return when the call would start were it submitted now; nothing is submitted. Raises CannotFitError."""
        from mainspring.sdk import calls, templates

        return calls.forecast(self.function, self._template(), templates.bind(self.function, args, kwargs))

    def with_options(self, **changed: Any) -> Task[P, R]:
        """Return the same task with other options: `train.with_options(gpus=2, name="large")`. Raises UsageError."""
        from mainspring.sdk import templates

        return Task(self.function, templates.changed(self.options, changed))

    def spec(self, client: Client, bound: Mapping[str, object], *, ignoring: Mapping[str, object] | None = None) -> RunSpec:
        """Return the run of a call with these arguments; sends code and values."""
        from mainspring.sdk import calls, templates

        wish = templates.wish(self.options)
        return calls.spec(client, self.function, self._template(), bound, ignoring=ignoring, wish=wish)

    def __repr__(self) -> str:
        return f"Task({self.function.__qualname__})"


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task: `@ms.task` or `@ms.task(gpus=1, memory="8GiB", retries=2)`.

    Options: cpus, memory, gpus, gpu_memory, gpu_model, disk, pool, labels, retries, timeout, grace, priority, env,
    secrets, cache, name, tags, replicas, same, exclusive, preemptible, project, image, python, environment, wheels, overrides.
    """
    if function is not None:
        return Task(function, {})
    return lambda wrapped: Task(wrapped, options)
