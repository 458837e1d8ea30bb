"""What a task asks for, and the run that comes of it. A node that only calls the function never loads this."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mainspring.core.environments import Wish
from mainspring.core.errors import UsageError
from mainspring.core.specs import Environment, RunKind, RunSpec
from mainspring.sdk.resources import make_choices, to_priority, to_replicas, to_seconds


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

    def template(self, function: Callable[..., Any]) -> RunSpec:
        """Return the run of a call without its code and arguments. Raises UsageError, SpecError."""
        resources, *others = make_choices(
            self.gpus,
            cpus=self.cpus,
            memory=self.memory,
            gpu_memory=self.gpu_memory,
            gpu_model=self.gpu_model,
            disk=self.disk,
            pool=self.pool,
            labels=self.labels,
        )
        replicas, least = to_replicas(self.replicas)
        return RunSpec(
            kind=RunKind.TASK,
            name=self.name or function.__name__.strip("_<>").replace("<lambda>", "lambda") or "task",
            project=self.project or os.environ.get("MAINSPRING_PROJECT", "") or "default",
            resources=resources,
            alternatives=tuple(others),
            replicas=replicas,
            min_replicas=least,
            same=self.same,
            env=dict(self.env or {}),
            secrets=tuple(self.secrets),
            timeout_s=to_seconds(self.timeout, "timeout"),
            grace_s=to_seconds(self.grace, "grace"),
            retries=self.retries,
            priority=to_priority(self.priority),
            tags=tuple(self.tags),
            is_exclusive=self.exclusive,
            is_preemptible=self.preemptible,
            cache=self.cache and not os.environ.get("MAINSPRING_NO_CACHE"),
            environment=Environment(image=self.image),
            overrides=dict(self.overrides or {}),
        )

    def changed(self, given: Mapping[str, Any]) -> Options:
        """Return the options with some others. Raises UsageError."""
        return replace(self, **check_options(given))

    def wish(self) -> Wish:
        """Return what is asked of the environment."""
        return Wish(environment=self.environment, python=self.python, wheels=self.wheels)


def check_options(given: Mapping[str, Any]) -> Mapping[str, Any]:
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
