"""The flags of `mainspring run` as a value: whoever speaks of a run that is not submitted yet takes the same."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from mainspring.cli.options import Flag, Project, pairs, values
from mainspring.core.environments import Wish
from mainspring.core.errors import UsageError
from mainspring.core.specs import Environment, RunSpec, check_spec
from mainspring.sdk.code import code_root
from mainspring.sdk.resources import make_choices, to_priority, to_replicas, to_seconds

SCRIPTS = (".py", ".sh", ".R", ".jl", ".pl", ".rb")
Command: TypeAlias = Annotated[
    str, Parameter(allow_leading_hyphen=False, help="The script or program; its own arguments go behind `--`.")
]
Many: TypeAlias = Annotated[tuple[str, ...], Parameter(negative=())]


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """What a run asks for.

    Parameters
    ----------
    name
        What to call the run; else the name of the script.
    gpus
        Whole GPUs, a share of one such as 0.5, or choices by model, the first that fits: `A100:1 | L4:2`.
    gpu_memory
        Memory needed per GPU, such as 8GiB; one GPU may then be a share of a larger one.
    gpu_model
        Only this model of GPU (may be repeated).
    cpus
        CPUs; default 1.
    memory
        Memory, such as 4GiB.
    disk
        Disk, such as 50GiB.
    pool
        Only nodes of this pool.
    label
        Only nodes with this label, KEY=VALUE (may be repeated).
    env
        Environment variable, NAME=VALUE, or NAME for its value here (may be repeated).
    secret
        Name of a secret of the project to put into the environment (may be repeated).
    timeout
        Stop the run after this long, such as 2h.
    grace
        How long a stopped run may take to end by itself.
    retries
        Tries after the script failed; lost machines do not count.
    priority
        high, normal, low or a number: higher goes first in its share. Above normal is a right in a project.
    tag
        A tag to find the run by (may be repeated).
    replicas
        Members of the run, started together or not at all; `2..8` takes as many as there is room for.
    same
        A node label that all members share, such as rack; `node` keeps them on one machine.
    exclusive
        Never start a second try while the first may still be alive.
    image
        The container image to run in; only where containers run.
    override
        What one engine is asked beyond all this, ENGINE.NAME=VALUE such as docker.shm_size=8GiB (may be repeated).
    python
        The interpreter of Python scripts, a path or a version such as 3.11; default: the active environment's.
    environment
        What Python scripts find installed: `here` is what each node has (the default), `lock` the nearest uv.lock,
        pylock.toml or pinned requirements.txt, or PATH of one, `auto` a lock if there is one, `from:RUN` what a run ran with.
    wheels
        Wheels to send along, for nodes without a package index: `fetch` gets those of the lock here, or a folder that has them.
    """

    name: str = ""
    project: Project = "default"
    gpus: str | None = None
    gpu_memory: str | None = None
    gpu_model: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative=())] = ()
    cpus: float | None = None
    memory: str | None = None
    disk: str | None = None
    pool: str | None = None
    label: Many = ()
    env: Many = ()
    secret: Many = ()
    timeout: str | None = None
    grace: str = "10s"
    retries: int = 0
    priority: str = "normal"
    tag: Many = ()
    replicas: str = "1"
    same: str = ""
    exclusive: Annotated[bool, Flag] = False
    image: str = ""
    override: Many = ()
    python: str = ""
    environment: str = ""
    wheels: str = ""


def wish_of(flags: RunFlags) -> Wish:
    """Return what is asked of the environment."""
    return Wish(environment=flags.environment, python=flags.python, wheels=flags.wheels)


def spec_of(command: tuple[str, ...], flags: RunFlags) -> tuple[RunSpec, Path | None]:
    """Return the run asked for, without its code, and the folder whose files it needs. Raises UsageError, SpecError."""
    words, folder = locate(command)
    resources, *others = make_choices(
        flags.gpus,
        cpus=flags.cpus,
        memory=flags.memory,
        gpu_memory=flags.gpu_memory,
        gpu_model=flags.gpu_model,
        disk=flags.disk,
        pool=flags.pool,
        labels=pairs(flags.label, "--label"),
    )
    replicas, least = to_replicas(flags.replicas)
    spec = RunSpec(
        name=flags.name,
        project=flags.project,
        command=words,
        environment=Environment(interpreter=flags.python or active_python(), image=flags.image),
        resources=resources,
        alternatives=tuple(others),
        replicas=replicas,
        min_replicas=least,
        same=flags.same,
        env=environment(flags.env),
        secrets=flags.secret,
        timeout_s=to_seconds(flags.timeout, "--timeout"),
        grace_s=to_seconds(flags.grace, "--grace"),
        retries=flags.retries,
        priority=to_priority(flags.priority),
        tags=flags.tag,
        is_exclusive=flags.exclusive,
        overrides=overrides(flags.override),
    )
    return check_spec(spec), folder


def locate(command: tuple[str, ...]) -> tuple[tuple[str, ...], Path | None]:
    """Return (the command as seen from the working folder, that folder or None when no files are needed)."""
    if not command:
        raise UsageError("There is nothing to run.", hint="mainspring run train.py -- --lr 3e-4")
    here = Path.cwd()
    script = Path(command[0])
    if os.path.isdir(script) and (os.sep in command[0] or not shutil.which(command[0])):
        raise UsageError(
            f"{command[0]} is a folder.", hint="Name the script or the program in it: mainspring run FOLDER/train.py"
        )
    if command[0].endswith(SCRIPTS) or (os.sep in command[0] and not script.is_absolute()):
        if not os.path.isfile(script):
            raise UsageError(f"{command[0]} is not a file here.", hint=f"This is {here}.")
        found = script.resolve()
        root, _ = code_root(found.parent)
        if here.resolve().is_relative_to(root.resolve()):
            return (_spelled(os.path.relpath(found, here.resolve())), *command[1:]), here
        return (_spelled(found.name), *command[1:]), found.parent
    _, is_git = code_root(here)
    needs_files = is_git or any(os.path.isfile(word) for word in command[1:])  # a word may be no path at all: os.path says no
    return command, here if needs_files else None


def _spelled(path: str) -> str:
    """Return a path that a shell would not look up on PATH; Python scripts stay as they are."""
    return path if path.endswith(".py") or os.sep in path else f"./{path}"


def active_python() -> str:
    """Return the interpreter of the active environment, else the one that runs us."""
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        folder = os.environ.get(variable, "")
        if folder and (found := shutil.which("python", path=str(Path(folder) / "bin"))):
            return found
    return sys.executable


def environment(words: tuple[str, ...]) -> dict[str, str]:
    """Return `--env NAME=VALUE`, and the value from here for `--env NAME`. Raises UsageError."""
    filled = []
    for word in words:
        if "=" not in word and word not in os.environ:
            raise UsageError(f"--env {word}: {word} is not set here.", hint=f"Write --env {word}=VALUE.")
        filled.append(word if "=" in word else f"{word}={os.environ[word]}")
    found = pairs(filled, "--env")
    for name, value in found.items():
        if not value.isprintable() and any("\ud800" <= sign <= "\udfff" for sign in value):
            raise UsageError(f"The value of {name} is not UTF-8.", hint="Send bytes that are no text as base64, or in a file.")
    return found


def overrides(words: tuple[str, ...]) -> dict[str, object]:
    """Return `--override ENGINE.NAME=VALUE` by engine; a name may have points itself. Raises UsageError."""
    found: dict[str, dict[str, object]] = {}
    for name, value in values(words, "--override").items():
        engine, point, inner = name.partition(".")
        if not point or not engine or not inner:
            raise UsageError(f"--override {name!r} names no engine.", hint="Write --override docker.shm_size=8GiB.")
        found.setdefault(engine, {})[inner] = value
    return dict(found)
