"""`@ms.task`: a function with the resources it needs. Called, it is a plain function; submitted, it is a run."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from mainspring.core.environments import Wish
from mainspring.core.errors import UsageError
from mainspring.core.specs import Environment, RunKind, RunSpec
from mainspring.sdk.recording import StepResult, active
from mainspring.sdk.resources import make_choices, to_priority, to_replicas, to_seconds

if TYPE_CHECKING:  # a node only calls the function: the client would be most of what a short run costs there
    from mainspring.client.client import Client
    from mainspring.core.forecasts import Forecast
    from mainspring.sdk.runs import Run

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a task asks for, as written; the words are those of `mainspring run`."""

    cpus: float | None = None
    memory: str | None = None
    gpus: str | float | None = None
    gpu_memory: str | None = None
    gpu_model: str | Sequence[str] | None = None
    disk: str | None = None
    pool: str | None = None
    labels: Mapping[str, str] | None = None
    retries: int = 0
    timeout: str | float | None = None
    grace: str | float = 10.0
    priority: int | str = 0
    env: Mapping[str, str] | None = None
    secrets: Sequence[str] = ()
    cache: bool = False
    name: str = ""
    tags: Sequence[str] = ()
    replicas: int | str = 1
    same: str = ""
    exclusive: bool = False
    preemptible: bool = True
    project: str = ""
    image: str = ""
    python: str = ""
    environment: str = ""
    wheels: str = ""
    overrides: Mapping[str, Mapping[str, object]] | None = None


class Task(Generic[P, R]):
    """A function that can be submitted. Wrong options are refused where the task is written, not when it runs."""

    def __init__(self, function: Callable[P, R], options: Options) -> None:
        if not callable(function):
            raise UsageError(f"@ms.task is for functions, not for {type(function).__name__}.")
        self.function = function
        self.options = options
        functools.update_wrapper(cast(Any, self), function)
        _template(function, options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now; inside a pipeline function, record the call as a step."""
        recorder = active.get()
        if recorder is None:
            return self.function(*args, **kwargs)
        from mainspring.sdk import calls

        bound = bind(self.function, args, kwargs)
        refs = {name: value for name, value in bound.items() if isinstance(value, StepResult)}
        constant = {name: value for name, value in bound.items() if name not in refs}
        template = self.spec(calls.connect(), constant, ignoring=refs)
        return cast(R, recorder.add_task(replace(template, project=recorder.project), refs))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Submit the call as a run; returns when the server has stored it.

        Arguments may be runs: their results are passed on without passing through here.
        """
        from mainspring.sdk import calls

        template, bound = _template(self.function, self.options), bind(self.function, args, kwargs)
        return calls.submit(self.function, template, bound, self._wish())

    def forecast(self, *args: P.args, **kwargs: P.kwargs) -> Forecast:
        """Return when the call would start were it submitted now; nothing is submitted. Raises CannotFitError."""
        from mainspring.sdk import calls

        return calls.forecast(self.function, _template(self.function, self.options), bind(self.function, args, kwargs))

    def with_options(self, **changed: Any) -> Task[P, R]:
        """Return the same task with other options: `train.with_options(gpus=2, name="large")`. Raises UsageError."""
        return Task(self.function, replace(self.options, **check_options(changed)))

    def spec(self, client: Client, bound: Mapping[str, object], *, ignoring: Mapping[str, object] | None = None) -> RunSpec:
        """Return the run of a call with these arguments; sends code and values."""
        from mainspring.sdk import calls

        template = _template(self.function, self.options)
        return calls.spec(client, self.function, template, bound, ignoring=ignoring, wish=self._wish())

    def _wish(self) -> Wish:
        asked = self.options
        return Wish(environment=asked.environment, python=asked.python, wheels=asked.wheels)

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
        return Task(function, Options())
    made = Options(**check_options(options))
    return lambda wrapped: Task(wrapped, made)


def check_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return `given` when every name is an option. Raises UsageError."""
    known = [one.name for one in fields(Options)]
    for name in given:
        if name not in known:
            raise UsageError(f"A task has no option {name!r}.", hint="Known: " + ", ".join(known) + ".")
    return given


def bind(function: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Return arguments by name. Raises UsageError for wrong ones, before anything is sent."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError as wrong:
        raise UsageError(f"{function.__name__}{signature}: {wrong}.", hint="Call it as you would call the function.") from wrong
    named: dict[str, object] = {}
    for name, value in bound.items():
        match signature.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                raise UsageError(f"{function.__name__} takes *{name}, which cannot travel.", hint="Take a list instead.")
            case inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            case _:
                named[name] = value
    return named


def _template(function: Callable[..., Any], options: Options) -> RunSpec:
    resources, *others = make_choices(
        options.gpus,
        cpus=options.cpus,
        memory=options.memory,
        gpu_memory=options.gpu_memory,
        gpu_model=options.gpu_model,
        disk=options.disk,
        pool=options.pool,
        labels=options.labels,
    )
    replicas, least = to_replicas(options.replicas)
    return RunSpec(
        kind=RunKind.TASK,
        name=options.name or function.__name__.strip("_<>").replace("<lambda>", "lambda") or "task",
        project=options.project or os.environ.get("MAINSPRING_PROJECT", "") or "default",
        resources=resources,
        alternatives=tuple(others),
        replicas=replicas,
        min_replicas=least,
        same=options.same,
        env=dict(options.env or {}),
        secrets=tuple(options.secrets),
        timeout_s=to_seconds(options.timeout, "timeout"),
        grace_s=to_seconds(options.grace, "grace"),
        retries=options.retries,
        priority=to_priority(options.priority),
        tags=tuple(options.tags),
        is_exclusive=options.exclusive,
        is_preemptible=options.preemptible,
        cache=options.cache and not os.environ.get("MAINSPRING_NO_CACHE"),
        environment=Environment(image=options.image),
        overrides=dict(options.overrides or {}),
    )
