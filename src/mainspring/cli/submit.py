"""`mainspring run`: any script, in any language, as its files are now."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.prompt import Confirm

from mainspring.cli.options import Flag, Json, Project, Yes, pairs
from mainspring.cli.output import emit_json, note, say, short
from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.core.errors import MainspringError, TooLargeError, UsageError
from mainspring.core.records import Cause, Run, RunState
from mainspring.core.specs import Code, Environment, RunSpec, check_spec
from mainspring.sdk.code import code_root, send_code
from mainspring.sdk.resources import make_resources, to_seconds

INTERRUPTED = 130
SCRIPTS = (".py", ".sh", ".R", ".jl", ".pl", ".rb")
WHY_AFTER_S = 1.5


def run(
    *command: Annotated[
        str, Parameter(allow_leading_hyphen=False, help="The script or program; its own arguments go behind `--`.")
    ],
    name: str = "",
    project: Project = "default",
    gpus: float | None = None,
    gpu_memory: str | None = None,
    gpu_model: Annotated[tuple[str, ...], Parameter(consume_multiple=False, negative=())] = (),
    cpus: float | None = None,
    memory: str | None = None,
    disk: str | None = None,
    pool: str | None = None,
    label: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    env: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    secret: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    timeout: str | None = None,
    grace: str = "10s",
    retries: int = 0,
    priority: int = 0,
    tag: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    replicas: int = 1,
    exclusive: Annotated[bool, Flag] = False,
    python: str = "",
    detach: Annotated[bool, Parameter(name=["--detach", "-d"], negative=())] = False,
    as_json: Json = False,
    yes: Yes = False,
) -> int:
    """Run a script or a program on the fleet and follow its log; Ctrl-C leaves it running.

    Examples: `mainspring run train.py --gpus 1 -- --lr 3e-4`, `mainspring run --memory 8GiB -- bash prepare.sh`.
    The exit code is that of the script.

    Parameters
    ----------
    name
        What to call the run; else the name of the script.
    gpus
        Whole GPUs, or a share of one such as 0.5.
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
        Higher goes first.
    tag
        A tag to find the run by (may be repeated).
    replicas
        Members of the run, started together or not at all.
    exclusive
        Never start a second try while the first may still be alive.
    python
        The interpreter of Python scripts; default: the active environment's.
    detach
        Print the id and return at once.
    """
    words, folder = locate(command)
    spec = check_spec(
        RunSpec(
            name=name,
            project=project,
            command=words,
            environment=Environment(interpreter=python or active_python()),
            resources=make_resources(
                cpus=cpus, memory=memory, gpus=gpus, gpu_memory=gpu_memory, gpu_model=gpu_model, disk=disk, pool=pool,
                labels=pairs(label, "--label"),
            ),
            replicas=replicas,
            env=environment(env),
            secrets=secret,
            timeout_s=to_seconds(timeout, "timeout"),
            grace_s=to_seconds(grace, "grace"),
            retries=retries,
            priority=priority,
            tags=tag,
            is_exclusive=exclusive,
        )
    )  # fmt: skip
    with busy("Starting the server"):
        client = connect()
    code = send(client, folder, is_confirmed=yes or bool(os.environ.get("MAINSPRING_YES"))) if folder else Code()
    submitted = client.runs.submit(with_code(spec, code))
    if detach:
        emit_json(submitted) if as_json else say(submitted.id)
        return 0
    note(f"Submitted {submitted.name} ({short(submitted.id)}).")
    ended = follow(client, submitted, to=sys.stderr if as_json else sys.stdout)
    if ended is None:
        note(f"Detached; it goes on. Follow it: mainspring logs -f {short(submitted.id)}")
        note(f"Stop it: mainspring cancel {short(submitted.id)}")
        return INTERRUPTED
    if as_json:
        emit_json(ended)
    return conclude(ended)


def locate(command: tuple[str, ...]) -> tuple[tuple[str, ...], Path | None]:
    """Return (the command as seen from the working folder, that folder or None when no files are needed)."""
    if not command:
        raise UsageError("There is nothing to run.", hint="mainspring run train.py -- --lr 3e-4")
    here = Path.cwd()
    script = Path(command[0])
    if command[0].endswith(SCRIPTS) or (os.sep in command[0] and not script.is_absolute()):
        if not script.is_file():
            raise UsageError(f"{command[0]} is not a file here.", hint=f"This is {here}.")
        found = script.resolve()
        root, _ = code_root(found.parent)
        if here.resolve().is_relative_to(root.resolve()):
            return (_spelled(os.path.relpath(found, here.resolve())), *command[1:]), here
        return (_spelled(found.name), *command[1:]), found.parent
    _, is_git = code_root(here)
    needs_files = is_git or any((here / word).is_file() for word in command[1:] if word)
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
    return pairs(filled, "--env")


def send(client: Client, folder: Path, *, is_confirmed: bool) -> Code:
    """Send the code; asks a person, if there is one, when it is large."""
    try:
        with busy("Sending code"):
            return send_code(client, folder, is_confirmed=is_confirmed)
    except TooLargeError as large:
        if is_confirmed or not sys.stdin.isatty():
            raise
        note(large.message)
        if not Confirm.ask("Send it?", default=False):
            raise
    with busy("Sending code"):
        return send_code(client, folder, is_confirmed=True)


def with_code(spec: RunSpec, code: Code) -> RunSpec:
    """Return `spec` with its code."""
    return replace(spec, code=code)


@contextmanager
def busy(text: str) -> Iterator[None]:
    """Show that something goes on, on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


def follow(client: Client, run: Run, *, to: object = None, attempt: int | None = None, offset: int = 0) -> Run | None:
    """Print the log as it is written, and why the run waits; return the ended run, None when Ctrl-C came first."""
    stream = getattr(to or sys.stdout, "buffer", None)
    begun = threading.Event()
    threading.Thread(target=_tell_why, args=(client, run.id, begun), daemon=True, name="why").start()
    try:
        for part in client.runs.follow(run.id, attempt=attempt, offset=offset):
            begun.set()
            if part.kind == "attempt" and part.attempt > 1:
                note(f"--- try {part.attempt} ---")
            elif part.data:
                if stream is not None:
                    stream.write(part.data)
                    stream.flush()
                else:
                    sys.stdout.write(part.data.decode("utf-8", "replace"))
        return client.runs.wait(run.id)
    except KeyboardInterrupt:
        return None
    finally:
        begun.set()


def conclude(run: Run) -> int:
    """Say how the run ended; return the exit code for the shell."""
    if run.state is RunState.SUCCEEDED:
        return 0
    outcome = run.outcome
    told = outcome.message if outcome and outcome.message else f"It {run.state}."
    note(f"{run.name} ({short(run.id)}) {run.state}: {told}")
    code = outcome.exit_code if outcome is not None else None
    if code is None or code == 0 or (outcome is not None and outcome.cause is Cause.CANCELLED and code < 0):
        return 1
    return code if code > 0 else 128 - code


def _tell_why(client: Client, run: str, begun: threading.Event) -> None:
    said, pause = "", WHY_AFTER_S
    while not begun.wait(pause):
        pause = 2.0
        try:
            told = client.runs.why(run)
        except MainspringError:
            continue
        sentence = str(told.get("sentence", ""))
        if told.get("state") != "queued":
            return
        if sentence and sentence != said and not begun.is_set():
            said = sentence
            note(sentence)
