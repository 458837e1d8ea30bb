"""`@ms.task`: a function with the resources it needs. Called, it is a plain function; submitted, it is a run.

On a node it is only called: what its options (25 ms) and its submissions (200 ms) need would be most of the start of a short
run, and is loaded by the first that comes: `templates.py` and `calls.py`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from mainspring.core.errors import UsageError
from mainspring.sdk.active import recorder as recording_now

if TYPE_CHECKING:
    from mainspring.client.client import Client
    from mainspring.core.forecasts import Forecast
    from mainspring.core.specs import RunSpec
    from mainspring.sdk.calls import Calls
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
            self.options.template(function)

    @functools.cached_property
    def options(self) -> Options:
        """Return what it asks for. Raises UsageError."""
        from mainspring.sdk import templates

        given = self._given
        return given if isinstance(given, templates.Options) else templates.Options(**templates.check_options(given))

    @property
    def _calls(self) -> Calls:
        from mainspring.sdk import calls

        return calls.Calls(self.function, self.options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now; inside a pipeline function, record the call as a step."""
        recorder = recording_now.get()
        return self.function(*args, **kwargs) if recorder is None else cast(R, self._calls.record(recorder, args, kwargs))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Submit the call as a run; blocks until the server has stored it, not until it ran. Each call makes another run.

        Arguments may be runs: they are waited for, and their results are passed on without passing through here.
        Raises UsageError, CannotFitError, QuotaError, TooLargeError (of the code).
        """
        return self._calls.submit(args, kwargs)

    async def submit_async(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Submit the call as `submit` does, without blocking the event loop: `runs = await asyncio.gather(*(…))`.

        Each call makes another run. One that is cancelled (`asyncio.timeout`) may have been submitted. Raises as `submit`.
        """
        return await self._calls.submit_async(args, kwargs)

    def forecast(self, *args: P.args, **kwargs: P.kwargs) -> Forecast:
        """Return when the call would start were it submitted now; nothing is submitted. Raises CannotFitError."""
        return self._calls.forecast(args, kwargs)

    def with_options(self, **changed: Any) -> Task[P, R]:
        """Return the same task with other options: `train.with_options(gpus=2, name="large")`. Raises UsageError."""
        return Task(self.function, self.options.changed(changed))

    def spec(self, client: Client, bound: Mapping[str, object], *, ignoring: Collection[str] = ()) -> RunSpec:
        """Return the run of a call with these arguments; sends code and values. `ignoring`: arguments that come later."""
        return self._calls.spec(client, bound, ignoring=ignoring)

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
