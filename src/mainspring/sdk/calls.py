"""The calls of a task as runs: where the function is, its code, its arguments, sent to the server.

Loaded by the first submission: user code on a node imports the task's module and never comes here.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.core.environments import Wish
from mainspring.core.errors import CannotFitError
from mainspring.core.forecasts import Choice, Forecast
from mainspring.core.specs import Code, Entry, RunSpec, Value, ValueKind, check_spec, on_path
from mainspring.sdk.awaiting import in_thread
from mainspring.sdk.code import code_root, send_code
from mainspring.sdk.locks import resolve
from mainspring.sdk.packages import packages_digest
from mainspring.sdk.progress import Progress, check_wanted
from mainspring.sdk.recording import Recorder, StepResult
from mainspring.sdk.runs import Run
from mainspring.sdk.templates import Options, bind
from mainspring.sdk.values import is_json, pickled, to_value

CODE_FRESH_S = 1.0  # a loop of submits reads the tree once a second, not once a submit
PARAM_CHARS = 1000
_sent: dict[tuple[str, str], tuple[float, Code]] = {}
_sending = threading.Lock()


class Calls:
    """Makes runs of the calls of one task. Blocking; any number of threads may share it."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        self._function, self._options = function, options

    def submit(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Run[Any]:
        """Submit a call; returns when the server has stored it. Raises as `Task.submit`."""
        bound, client = bind(self._function, args, kwargs), connect()
        made = check_spec(self.spec(client, bound))
        check_wanted()
        return Run(client, client.runs.submit(made))

    async def submit_async(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Run[Any]:
        """Submit a call once the runs among its arguments have ended; does not block the event loop."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, Run):
                await value.wait_async()
        return await in_thread(self.submit, args, kwargs)

    def forecast(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Forecast:
        """Return when a call would start were it submitted now; no environment is resolved for it. Raises CannotFitError."""
        bound, client = bind(self._function, args, kwargs), connect()
        choice = Choice(label="", spec=check_spec(self._sent(client, bound, (), Wish())))
        (prospect,) = client.forecasts.prospects([choice])
        if prospect.forecast is None:
            raise CannotFitError(prospect.refusal, hint="See what there is: mainspring cluster ls")
        return prospect.forecast

    def record(self, recorder: Recorder, args: Sequence[object], kwargs: Mapping[str, object]) -> StepResult:
        """Record a call as a step of a pipeline. Raises UnsupportedError when it could run beside the step before it."""
        bound = bind(self._function, args, kwargs)
        refs = {name: value for name, value in bound.items() if isinstance(value, StepResult)}
        constant = {name: value for name, value in bound.items() if name not in refs}
        template = self.spec(connect(), constant, ignoring=refs)
        return recorder.add_task(replace(template, project=recorder.project), refs)

    def spec(self, client: Client, bound: Mapping[str, object], *, ignoring: Collection[str] = ()) -> RunSpec:
        """Return the run of a call with these arguments; sends code, values and the lock of its environment.

        `ignoring`: arguments that come later, whose defaults are no parameters of it.
        """
        return self._sent(client, bound, ignoring, self._options.wish())

    def _sent(self, client: Client, bound: Mapping[str, object], ignoring: Collection[str], wish: Wish) -> RunSpec:
        """Return the template with the call's code, values and environment, which are sent."""
        function, template = self._function, self._options.template(self._function)
        entry, code = locate(client, function)
        args = {name: to_value(client, value) for name, value in bound.items()}
        params = {
            **_defaults(function, {*bound, *ignoring}),
            **{name: value.json for name, value in args.items() if _is_param(value)},
        }
        environment = replace(template.environment, interpreter=sys.executable)
        path = ""
        if wish != Wish():
            found = module_of(function)
            folder = _notebook_folder() if found is None else found[1]
            environment, path = resolve(client, wish, replace(environment, interpreter=wish.python or sys.executable), folder)
        if template.cache and not environment.lock:
            environment = replace(environment, packages=packages_digest())
        return on_path(replace(template, entry=entry, code=code, args=args, params=params, environment=environment), path)


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
        with Progress("Sending code", is_bytes=True) as progress:
            code = send_code(client, folder, is_confirmed=bool(os.environ.get("MAINSPRING_YES")), progress=progress.moved)
        _sent[key] = (time.monotonic(), code)
        return code


def _notebook_folder() -> Path | None:
    """Return the folder whose modules a notebook may import; none for a home folder that git does not speak for."""
    here = Path.cwd()
    _, is_git = code_root(here)
    return here if is_git or here not in (Path.home(), Path("/"), Path("/tmp")) else None  # noqa: S108 - left out, not used


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
