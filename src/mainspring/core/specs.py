"""What a user asks for. `RunSpec` is the wire format of CLI, SDK and REST; its fields are the flags of `mainspring run`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mainspring.core.errors import SpecError, TooLargeError, UsageError
from mainspring.core.ids import check_name
from mainspring.core.resources import Resources, check_resources
from mainspring.core.units import MAX_SECONDS

MAX_PARAMS_BYTES = 1_000_000
MAX_ENV_BYTES = 256_000
MAX_REPLICAS = 4096
MAX_RETRIES = 100
MAX_ALTERNATIVES = 16
PRIORITIES = (-1000, 1000)
_ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,254}\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class RunKind(StrEnum):
    """What the runner starts: a command line, a Python function, or the serving process of an endpoint."""

    COMMAND = "command"
    TASK = "task"
    SERVING = "serving"


class ValueKind(StrEnum):
    """How an argument or a result travels. Only `json` is ever read by the server; `pickle` is opened in runs alone."""

    JSON = "json"
    PARQUET = "parquet"
    NPY = "npy"
    PICKLE = "pickle"
    DATASET = "dataset"
    MODEL = "model"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One argument or result. `json` carries small JSON values inline; every other kind is a blob.

    `digest` is the sha256 (hex) of a blob; for `dataset` and `model` it is that of a manifest.
    `meta` describes it for people: rows, columns, signature, verification (JSON values).
    """

    kind: ValueKind
    json: object = None
    digest: str = ""
    size_bytes: int = 0
    meta: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a task's function is: `module:function` inside the code bundle, or a cloudpickle blob (notebooks)."""

    module: str = ""
    function: str = ""
    pickled: str = ""  # digest of a cloudpickle of the function; opened only inside the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The code bundle: digest of its manifest, and where it came from."""

    manifest: str = ""
    folder: str = "."  # working folder inside the bundle, relative, `/` separated
    git_commit: str = ""
    git_branch: str = ""
    git_remote: str = ""
    git_diff: str = ""  # digest of the uncommitted diff
    is_dirty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """How to run: an interpreter (an absolute path that a local node may have, or a version such as `3.11`), a lock.

    With a lock, each node builds its environment once, with the wheels that came along if it has no index. Without one, the
    interpreter is used as it is there.
    """

    interpreter: str = ""
    lock: str = ""  # digest of the lock: see `core/environments.py`
    wheels: str = ""  # digest of a manifest of wheels
    packages: str = ""  # digest of what is installed beside the code; sent where the cache needs it
    image: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a run belongs to: a step of a pipeline run, a trial of a sweep, a replica of an endpoint's revision."""

    kind: str  # "pipeline_run" | "sweep" | "endpoint"
    id: str
    key: str = ""  # step key, trial number, revision number


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run as asked for.

    `command` is the argument vector of a COMMAND run; TASK runs have `entry` and `args`.
    `timeout_s` 0 means no limit; it counts user code only and is enforced (SIGTERM, `grace_s`, SIGKILL).
    `retries` are tries after user errors, out-of-memory and timeouts; lost nodes have their own limit.
    `params` are what the user calls parameters: shown, searched, changed by `rerun --set`.
    `cache` lets it take the outputs of an earlier run that agrees in all that they depend on (`core/caching.py`).
    `alternatives` would do as well as `resources`, and are tried in order after them. An elastic gang starts with
    `min_replicas` (0: all of them) to `replicas` members. `same` is a node label whose value all of them must share
    (`rack`), or `node` for one machine.
    `overrides` are what the user asks of an engine kind beyond all this, by the kind's name: `{"docker": {"shm_size": "8GiB"}}`;
    they count where the run goes to a cluster of that kind, and that kind alone knows what they mean.
    `secrets` are names; values are put into the environment of the user process under these names.
    """

    kind: RunKind = RunKind.COMMAND
    name: str = ""
    project: str = "default"
    command: tuple[str, ...] = ()
    entry: Entry | None = None
    args: Mapping[str, Value] = field(default_factory=dict)
    params: Mapping[str, object] = field(default_factory=dict)
    code: Code = field(default_factory=Code)
    environment: Environment = field(default_factory=Environment)
    resources: Resources = field(default_factory=Resources)
    alternatives: tuple[Resources, ...] = ()
    replicas: int = 1
    min_replicas: int = 0
    same: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    timeout_s: float = 0.0
    grace_s: float = 10.0
    retries: int = 0
    priority: int = 0
    tags: tuple[str, ...] = ()
    is_exclusive: bool = False
    is_preemptible: bool = True
    disconnect_limit_s: float = 0.0
    cache: bool = False
    overrides: Mapping[str, object] = field(default_factory=dict)
    link: Link | None = None


def on_path(spec: RunSpec, path: str) -> RunSpec:
    """Return `spec` with folders in front of its PYTHONPATH, unless they are there already."""
    there = spec.env.get("PYTHONPATH", "")
    if not path or f"{there}:".startswith(f"{path}:"):
        return spec
    return replace(spec, env={**spec.env, "PYTHONPATH": f"{path}:{there}" if there else path})


def overrides_of(spec: RunSpec, kind: str) -> Mapping[str, object]:
    """Return what the user asks of an engine kind."""
    found = spec.overrides.get(kind)
    return found if isinstance(found, Mapping) else {}


def asks_for(spec: RunSpec) -> str:
    """Return what a run asks for as people read it: `1 CPU, 1 GPU of model A100, or 1 CPU, 2 GPUs of model L4; 2..8 replicas`."""
    said = ", or ".join(asked.show() for asked in (spec.resources, *spec.alternatives))
    if spec.replicas > 1:
        said += f"; {spec.min_replicas}..{spec.replicas} replicas" if spec.min_replicas else f"; {spec.replicas} replicas"
    if spec.same:
        said += " on one machine" if spec.same == "node" else f" of one {spec.same}"
    return said


def check_spec(spec: RunSpec) -> RunSpec:
    """Return `spec` if it is meaningful; raises SpecError with `details["path"]` otherwise. Pure, for both sides of the wire."""
    check_resources(spec.resources)
    _named(spec)
    _wire_size("params", spec.params, MAX_PARAMS_BYTES)
    _wire_size("env", spec.env, MAX_ENV_BYTES)
    _wire_size("overrides", spec.overrides, MAX_ENV_BYTES)
    for kind, asked in spec.overrides.items():
        if not isinstance(asked, Mapping):
            raise _wrong(f"overrides.{kind}", f"overrides.{kind} is no mapping.", "Write --override ENGINE.NAME=VALUE.")
    if _CONTROL.search(spec.environment.image) or len(spec.environment.image) > 512:
        raise _wrong("environment.image", "The image's name is too long, or holds control characters.", "Write NAME:TAG.")
    if spec.environment.wheels and not spec.environment.lock:
        raise _wrong("environment.wheels", "Wheels without a lock are installed by nobody.", "Write --environment lock.")
    if _CONTROL.search(spec.environment.interpreter) or len(spec.environment.interpreter) > 4096:
        raise _wrong("environment.interpreter", "The interpreter's name is too long, or holds control characters.", "Write 3.11.")
    for name, value in spec.env.items():
        if _ENV_NAME.match(name) is None:
            raise _wrong(f"env.{name[:40]}", f"{name[:40]!r} cannot name an environment variable.", "Write --env NAME=VALUE.")
        if "\x00" in value:
            raise _wrong(f"env.{name}", f"The value of {name} holds a NUL character.", "Remove it.")
    if spec.kind is RunKind.COMMAND and not spec.command:
        raise _wrong("command", "There is nothing to run: the command is empty.", "mainspring run train.py")
    if spec.kind is RunKind.TASK and (spec.entry is None or not (spec.entry.function or spec.entry.pickled)):
        raise _wrong("entry", "A task run needs a function.", "Write module:function.")
    for position, word in enumerate(spec.command):
        if "\x00" in word:
            raise _wrong(f"command[{position}]", "The command holds a NUL character.", "Remove it.")
    _between("replicas", spec.replicas, 1, MAX_REPLICAS)
    _between("min_replicas", spec.min_replicas, 0, spec.replicas)
    if len(spec.alternatives) > MAX_ALTERNATIVES:
        raise _wrong("alternatives", f"{len(spec.alternatives)} alternatives are more than {MAX_ALTERNATIVES}.", "Name fewer.")
    for other in spec.alternatives:
        check_resources(other)
    if len(spec.same) > 256 or _CONTROL.search(spec.same):
        raise _wrong("same", "The label in `same` is too long, or holds control characters.", "Name a label such as rack.")
    _between("retries", spec.retries, 0, MAX_RETRIES)
    _between("priority", spec.priority, *PRIORITIES)
    _between("timeout_s", spec.timeout_s, 0, MAX_SECONDS)
    _between("grace_s", spec.grace_s, 0, 86400)
    _between("disconnect_limit_s", spec.disconnect_limit_s, 0, MAX_SECONDS)
    return spec


def _named(spec: RunSpec) -> None:
    try:
        check_name(spec.project, "project")
        if spec.name:
            check_name(spec.name, "run")
        for tag in spec.tags:
            check_name(tag, "tag")
        for secret in spec.secrets:
            check_secret_name(secret)
    except UsageError as wrong:
        raise SpecError(wrong.message, hint=wrong.hint, details={"path": "name"}) from wrong


def check_secret_name(name: str) -> str:
    """Return `name` if it may name a secret (and so an environment variable). Raises UsageError."""
    if _ENV_NAME.match(name) is None:
        raise UsageError(f"{name[:60]!r} cannot name a secret.", hint="Use letters, digits and '_'.")
    return name


def _between(path: str, value: float, low: float, high: float) -> None:
    if (isinstance(value, float) and not math.isfinite(value)) or not low <= value <= high:
        raise _wrong(path, f"{path} is {value}, which is not between {low:g} and {high:g}.", "Leave it out for its default.")


def _wire_size(path: str, values: Mapping[str, object], limit: int) -> None:
    size = sum(len(str(key)) + len(str(value)) for key, value in values.items())
    if size > limit:
        raise TooLargeError(
            f"{path} are {size:,} characters; the limit is {limit:,}.",
            hint="Put large values into a file or a data set.",
            details={"path": path, "size": size, "limit": limit},
        )
    for key, value in values.items():
        if not key or _CONTROL.search(key) or len(key) > 256:
            raise _wrong(path, f"A name in {path} is empty, too long, or holds control characters.", "Rename it.")
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(f"{path}.{key}", f"{path}.{key} is {value}, which is not a number.", "Give a finite number.")


def _wrong(path: str, message: str, hint: str) -> SpecError:
    return SpecError(message, hint=hint, details={"path": path})
