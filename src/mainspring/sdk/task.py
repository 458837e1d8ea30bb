"""`@ms.task`: a function with the resources it needs. Called, it is a plain function; submitted, it is a run."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.core.errors import CannotFitError, UsageError
from mainspring.core.forecasts import Choice, Forecast
from mainspring.core.specs import Code, Entry, Environment, RunKind, RunSpec, Value, ValueKind, check_spec
from mainspring.sdk.code import code_root, send_code
from mainspring.sdk.packages import packages_digest
from mainspring.sdk.recording import StepResult, active
from mainspring.sdk.resources import make_choices, to_priority, to_replicas, to_seconds
from mainspring.sdk.runs import Run
from mainspring.sdk.values import is_json, pickled, to_value

P = ParamSpec("P")
R = TypeVar("R")
CODE_FRESH_S = 1.0  # a loop of submits reads the tree once a second, not once a submit
PARAM_CHARS = 1000
_sent: dict[tuple[str, str], tuple[float, Code]] = {}
_sending = threading.Lock()


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
        bound = bind(self.function, args, kwargs)
        refs = {name: value for name, value in bound.items() if isinstance(value, StepResult)}
        constant = {name: value for name, value in bound.items() if name not in refs}
        template = self.spec(connect(), constant, ignoring=refs)
        return cast(R, recorder.add_task(replace(template, project=recorder.project), refs))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Submit the call as a run; returns when the server has stored it.

        Arguments may be runs: their results are passed on without passing through here.
        """
        bound = bind(self.function, args, kwargs)  # first: wrong arguments start no server
        client = connect()
        return Run(client, client.runs.submit(check_spec(self.spec(client, bound))))

    def forecast(self, *args: P.args, **kwargs: P.kwargs) -> Forecast:
        """Return when the call would start were it submitted now; nothing is submitted. Raises CannotFitError."""
        bound = bind(self.function, args, kwargs)
        client = connect()
        choice = Choice(label="", spec=check_spec(self.spec(client, bound)))
        (prospect,) = client.forecasts.prospects([choice])
        if prospect.forecast is None:
            raise CannotFitError(prospect.refusal, hint="See what there is: mainspring cluster ls")
        return prospect.forecast

    def with_options(self, **changed: Any) -> Task[P, R]:
        """Return the same task with other options: `train.with_options(gpus=2, name="large")`. Raises UsageError."""
        return Task(self.function, replace(self.options, **check_options(changed)))

    def spec(self, client: Client, bound: Mapping[str, object], *, ignoring: Mapping[str, object] | None = None) -> RunSpec:
        """Return the run of a call with these arguments; sends code and values."""
        entry, code = locate(client, self.function)
        args = {name: to_value(client, value) for name, value in bound.items()}
        params = {
            **_defaults(self.function, {*bound, *(ignoring or {})}),
            **{name: value.json for name, value in args.items() if _is_param(value)},
        }
        return replace(
            _template(self.function, self.options),
            entry=entry,
            code=code,
            args=args,
            params=params,
            environment=Environment(interpreter=sys.executable, packages=packages_digest() if self.options.cache else ""),
        )

    def __repr__(self) -> str:
        return f"Task({self.function.__qualname__})"


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task: `@ms.task` or `@ms.task(gpus=1, memory="8GiB", retries=2)`.

    Options: cpus, memory, gpus, gpu_memory, gpu_model, disk, pool, labels, retries, timeout, grace, priority, env,
    secrets, cache, name, tags, replicas, same, exclusive, preemptible, project.
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


def locate(client: Client, function: Callable[..., Any]) -> tuple[Entry, Code]:
    """Return where the function is, and its code. By value when it was typed into a notebook or made inside another."""
    found = module_of(function)
    if found is None:
        data = pickled(function)
        digest = hashlib.sha256(data).hexdigest()
        client.blobs.upload({digest: data})
        return Entry(function=function.__name__, pickled=digest), _code(client, _notebook_folder())
    module, base = found
    return Entry(module=module, function=function.__qualname__), _code(client, base)


def module_of(function: Callable[..., Any]) -> tuple[str, Path | None] | None:
    """Return (module name, folder it is imported from, None for an installed one), or None when it must go by value."""
    name = getattr(function, "__module__", None) or ""
    module = sys.modules.get(name)
    if module is None or "." in function.__qualname__ or "<" in function.__qualname__:
        return None
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not os.path.exists(file) or not file.endswith(".py"):
        return None
    path = Path(file).resolve()
    if name == "__main__":
        spec = getattr(module, "__spec__", None)
        name = spec.name if spec is not None else path.stem
        if not all(part.isidentifier() for part in name.split(".")) or not _is_defined(path, function.__qualname__):
            return None
    if {"site-packages", "dist-packages"} & set(path.parts):
        return name, None
    depth = len(name.split(".")) - (0 if path.stem == "__init__" else 1)
    return name, path.parents[depth]


def _is_defined(path: Path, name: str) -> bool:
    """Say whether a script defines `name` on import too: what stands under `if __name__ == ...` is missing there."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name for node in tree.body)


def _code(client: Client, folder: Path | None) -> Code:
    if folder is None:
        return Code()
    key = (client.url, str(folder))
    with _sending:
        at, known = _sent.get(key, (0.0, Code()))
        if time.monotonic() - at < CODE_FRESH_S:
            return known
        code = send_code(client, folder, is_confirmed=bool(os.environ.get("MAINSPRING_YES")))
        _sent[key] = (time.monotonic(), code)
        return code


def _notebook_folder() -> Path | None:
    """Return the folder whose modules a notebook may import; none for a home folder that git does not speak for."""
    here = Path.cwd()
    _, is_git = code_root(here)
    return here if is_git or here not in (Path.home(), Path("/"), Path("/tmp")) else None  # noqa: S108 - left out, not used


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
    )


def _defaults(function: Callable[..., Any], given: set[str]) -> dict[str, object]:
    """Return the defaults of what was not given: they are parameters too, shown and changed by `rerun --set`."""
    found = {
        name: one.default
        for name, one in inspect.signature(function).parameters.items()
        if name not in given and one.default is not inspect.Parameter.empty
    }
    return {name: value for name, value in found.items() if is_json(value) and len(str(value)) <= PARAM_CHARS}


def _is_param(value: Value) -> bool:
    return value.kind is ValueKind.JSON and len(str(value.json)) <= PARAM_CHARS
