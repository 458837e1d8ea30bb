"""`mainspring sweep`: many trials of one task or script, and the sweeps there are."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from mainspring.cli.connecting import connect
from mainspring.cli.flags import active_python, locate
from mainspring.cli.options import Json, Project, Yes, scalar
from mainspring.cli.output import emit_json, note, say, short, state, table
from mainspring.cli.submit import busy, furnished, send
from mainspring.client.client import Client
from mainspring.core.environments import Wish
from mainspring.core.errors import SpecError, UsageError
from mainspring.core.records import Dimension, Trial
from mainspring.core.spaces import parse_dimension
from mainspring.core.specs import Code, Entry, Environment, RunKind, RunSpec, Value, ValueKind
from mainspring.core.units import counted
from mainspring.sdk.datasets import dataset
from mainspring.sdk.progress import quiet
from mainspring.sdk.resources import make_choices, to_priority, to_seconds
from mainspring.sdk.sweeps import Study, start

RESOURCES = frozenset({"cpus", "memory", "gpus", "gpu_memory", "gpu_model", "disk", "pool", "labels"})
PLACE = frozenset({"environment", "python", "wheels", "image"})
_RANGE = re.compile(r"-?[\d.]+(e-?\d+)?:-?[\d.]+(e-?\d+)?")
_WORDS = ("log:", "loguniform:", "uniform:", "float:", "int:", "choice:")


def sweep(
    target: str,
    /,
    *space: str,
    trials: Annotated[int, Parameter(name=["--trials", "-n"])] = 20,
    maximize: str = "",
    minimize: str = "",
    parallel: int = 0,
    sampler: str = "tpe",
    seed: int = 0,
    name: str = "",
    project: Project = "default",
    gpus: str | None = None,
    gpu_memory: str | None = None,
    cpus: float | None = None,
    memory: str | None = None,
    pool: str | None = None,
    image: str | None = None,
    environment: str | None = None,
    python: str | None = None,
    wheels: str | None = None,
    timeout: str | None = None,
    retries: int = 0,
    priority: str = "normal",
    detach: Annotated[bool, Parameter(name=["--detach", "-d"], negative=())] = False,
    as_json: Json = False,
    yes: Yes = False,
) -> int:
    """Run many trials of a task (`train.py:train`) or a script (`train.py`) and look for the best.

    Example: `mainspring sweep train.py:train -n 20 --maximize roc_auc learning_rate=log:1e-3:0.3 data=dataset:flights`.
    NAME=log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH and choice:A,B,C are searched; NAME=VALUE is the same for every trial.
    `mainspring sweep ls`, `mainspring sweep show ID` and `mainspring sweep stop ID` look after sweeps.

    Parameters
    ----------
    target
        FILE.py:FUNCTION (with the resources and the environment that its @ms.task names), or a script that takes --NAME VALUE.
    trials
        How many.
    maximize
        The metric to make large.
    minimize
        The metric to make small.
    parallel
        At most so many at once; default as many as the queue admits.
    image
        The container image to run in.
    environment
        What trials find installed, in the words of `mainspring run`: here, lock, auto, PATH, from:RUN.
    python
        The interpreter, a path or a version such as 3.11.
    wheels
        Wheels to send along with the lock: `fetch`, or a folder.
    sampler
        tpe, random, grid, or a plug-in's.
    detach
        Print the sweep's id and return at once.
    """
    if target in ("ls", "show", "stop") and not Path(target).exists():
        return _look_after(target, space, project, as_json)
    dimensions, fixed = _read_space(space)
    file, _, function = target.partition(":")
    flags = {"cpus": cpus, "memory": memory, "gpus": gpus, "gpu_memory": gpu_memory, "pool": pool, "image": image}
    flags |= {"environment": environment, "python": python, "wheels": wheels}
    template, wish = _template(file, function, flags)
    template = replace(
        template, project=project, timeout_s=to_seconds(timeout, "--timeout"), retries=retries, priority=to_priority(priority)
    )
    with busy("Starting the server"):
        client = connect()
    made = _task(client, template, file, function, fixed, yes) if function else _script(client, template, file, fixed, yes)
    study = start(
        client, furnished(client, made, wish, _folder_of(file, function)), dimensions, trials=trials, maximize=maximize,
        minimize=minimize, parallel=parallel, sampler=sampler, seed=seed, name=name, wait=False,
    )  # fmt: skip
    return _followed(study, is_detached=detach, as_json=as_json)


def _template(file: str, function: str, flags: Mapping[str, object]) -> tuple[RunSpec, Wish]:
    """Return what all trials have in common: the resources and the place of the task, with the flags over them."""
    asked = _declared(Path(file), function) if function else {}
    asked |= {key: value for key, value in flags.items() if value is not None}
    place = {name: str(asked.pop(name, "") or "") for name in PLACE}
    resources, *others = make_choices(asked.pop("gpus", None), **asked)
    around = Environment(interpreter=place["python"] or active_python(), image=place.pop("image"))
    return RunSpec(name=function, environment=around, resources=resources, alternatives=tuple(others)), Wish(**place)


def _followed(study: Study, *, is_detached: bool, as_json: bool) -> int:
    """Wait for the sweep and tell how it went; return the exit code."""
    if is_detached:
        emit_json(study.record) if as_json else say(study.id)
        return 0
    note(f"Sweep {study.name} ({study.id}); Ctrl-C leaves it running.")
    try:
        with quiet(is_quiet=as_json):
            study.wait()
    except KeyboardInterrupt:
        note(f"It goes on. See it: mainspring sweep show {study.id}   end it: mainspring sweep stop {study.id}")
        return 130
    return _report(study, as_json)


def _look_after(word: str, rest: tuple[str, ...], project: str, as_json: bool) -> int:
    client = connect()
    if word == "ls":
        found = client.sweeps.all(project=project)
        if as_json:
            emit_json(found)
            return 0
        rows = [
            (
                state(one.state),
                one.name,
                one.id,
                one.owner,
                f"{one.spec.trials}",
                "" if one.best_value is None else f"{one.best_value:.6g}",
            )
            for one in found
        ]
        table(("state", "name", "id", "owner", "trials", "best"), rows, empty="No sweeps yet: mainspring sweep FILE:FUNCTION ...")
        return 0
    if len(rest) != 1:
        raise UsageError("No sweep is named.", hint=f"mainspring sweep {word} ID")
    if word == "stop":
        stopped = client.sweeps.stop(rest[0])
        emit_json(stopped) if as_json else say(f"{stopped.name} is {stopped.state}.")
        return 0
    return _report(Study(client, client.sweeps.get(rest[0])), as_json)


def _report(study: Study, as_json: bool) -> int:
    record, trials = study.record, study.trials
    if as_json:
        emit_json({"sweep": record, "trials": trials})
        return 0 if any(one.value is not None for one in trials) else 1
    sign = -1.0 if record.spec.is_maximized else 1.0
    ranked = sorted(trials, key=lambda one: (one.value is None, sign * (one.value or 0.0), one.number))
    rows = [_row(one) for one in ranked[:20]]
    say(f"{record.name}: {record.state}, {len(trials)} of {counted(record.spec.trials, 'trial')}, {record.spec.metric}")
    table(("trial", "state", record.spec.metric, "parameters", "run"), rows)
    if len(ranked) > len(rows):
        note(f"{len(ranked) - len(rows)} more: --json shows all")
    if record.state != "active" and not any(one.value is not None for one in trials):
        note(f"error: no trial reported {record.spec.metric!r}")
        return 1
    return 0


def _row(one: Trial) -> tuple[Text | str, ...]:
    shown = ", ".join(f"{key}={value:.5g}" if isinstance(value, float) else f"{key}={value}" for key, value in one.params.items())
    return str(one.number), state(one.state), "" if one.value is None else f"{one.value:.6g}", shown, short(one.run)


def _read_space(words: tuple[str, ...]) -> tuple[list[Dimension], dict[str, str]]:
    dimensions, fixed = [], {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{word!r} is not NAME=SPACE.", hint="learning_rate=log:1e-3:0.3")
        if text.startswith(_WORDS):
            dimensions.append(parse_dimension(text, name))
        elif _RANGE.fullmatch(text):
            raise UsageError(f"{word} does not say how to search.", hint=f"Write {name}=uniform:{text}, or log: or int: for it.")
        else:
            fixed[name] = text
    if not dimensions:
        same = f": {', '.join(words)} {'is' if len(words) == 1 else 'are'} the same for every trial" if words else ""
        raise SpecError(f"The sweep searches nothing{same}.", hint="learning_rate=log:1e-3:0.3, depth=int:2:8, kind=choice:a,b")
    return dimensions, fixed


def _task(client: Client, template: RunSpec, file: str, function: str, fixed: dict[str, str], yes: bool) -> RunSpec:
    path = Path(file)
    if not path.stem.isidentifier():
        raise UsageError(f"{path.name} cannot be imported: its name is no Python name.", hint="Rename it.")
    code = send(client, path.resolve().parent, is_confirmed=yes)
    args = {name: _argument(client, text) for name, text in fixed.items()}
    params = {name: value.json for name, value in args.items() if value.kind is ValueKind.JSON}
    entry = Entry(module=path.stem, function=function)
    return replace(template, kind=RunKind.TASK, entry=entry, code=code, args=args, params=params)


def _script(client: Client, template: RunSpec, file: str, fixed: dict[str, str], yes: bool) -> RunSpec:
    words, folder = locate((file,))
    code = send(client, folder, is_confirmed=yes) if folder is not None else Code()
    flags = tuple(word for name, text in fixed.items() for word in (f"--{name}", text))
    params = {name: scalar(text) for name, text in fixed.items()}
    return replace(template, command=(*words, *flags), code=code, params=params, name=Path(file).stem)


def _folder_of(file: str, function: str) -> Path | None:
    """Return the working folder of the trials, beside or above which their lock is."""
    return Path(file).resolve().parent if function else locate((file,))[1]


def _argument(client: Client, text: str) -> Value:
    if text.startswith("dataset:"):
        return dataset(text.removeprefix("dataset:")).to_value(client)
    return Value(kind=ValueKind.JSON, json=scalar(text))


def _declared(path: Path, function: str) -> dict[str, Any]:
    """Return the resources and the environment that the task's decorator names; by reading the file, not by importing it here.

    Raises UsageError unless the file defines the function.
    """
    if not os.path.isfile(path):
        raise UsageError(f"{path} is not a file here.", hint=f"This is {Path.cwd()}.")
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as wrong:
        raise UsageError(f"{path} cannot be read as Python: {wrong}.") from wrong
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    if function not in found:
        raise UsageError(f"{path} has no function {function!r}.", hint="It has: " + (", ".join(found) or "none") + ".")
    declared: dict[str, Any] = {}
    for decorator in found[function].decorator_list:
        if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith("task"):
            continue
        for keyword in decorator.keywords:
            if keyword.arg in RESOURCES | PLACE:
                try:
                    declared[keyword.arg] = ast.literal_eval(keyword.value)
                except ValueError:
                    note(f"notice: {keyword.arg}={ast.unparse(keyword.value)} of {function} is computed; give it as a flag.")
    return declared
