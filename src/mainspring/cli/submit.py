"""`mainspring run`: any script, in any language, as its files are now."""

from __future__ import annotations

import os
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

from mainspring.cli.connecting import connect
from mainspring.cli.flags import Command, RunFlags, spec_of, wish_of
from mainspring.cli.log_lines import PlainLog, Printed
from mainspring.cli.options import Json, Yes
from mainspring.cli.output import emit_json, note, say, short
from mainspring.client.blobs import Progress
from mainspring.client.client import Client
from mainspring.core.environments import Wish
from mainspring.core.errors import MainspringError, TooLargeError
from mainspring.core.reasons import ReasonCode
from mainspring.core.records import Cause, Run, RunState
from mainspring.core.specs import Code, RunSpec, on_path
from mainspring.core.units import show_bytes
from mainspring.sdk.code import send_code
from mainspring.sdk.locks import resolve
from mainspring.sdk.progress import quiet

INTERRUPTED = 130
WHY_AFTER_S = 1.5
QUIET_LOOKS = 15  # at a placed run that has written nothing, and of which nothing is told


def run(
    *command: Command,
    flags: Annotated[RunFlags, Parameter(name="*")] = RunFlags(),  # noqa: B008 frozen
    detach: Annotated[bool, Parameter(name=["--detach", "-d"], negative=())] = False,
    as_json: Json = False,
    yes: Yes = False,
) -> int:
    """Run a script or a program on the fleet and follow its log; Ctrl-C leaves it running.

    Examples: `mainspring run train.py --gpus 1 -- --lr 3e-4`, `mainspring run --memory 8GiB -- bash prepare.sh`.
    The exit code is that of the script.

    Parameters
    ----------
    detach
        Print the id and return at once.
    """
    spec, folder = spec_of(command, flags)
    with busy("Starting the server"):
        client = connect()
    is_confirmed = yes or bool(os.environ.get("MAINSPRING_YES"))
    code = send(client, folder, is_confirmed=is_confirmed, is_quiet=as_json) if folder else Code()
    submitted = client.runs.submit(furnished(client, with_code(spec, code), wish_of(flags), folder))
    if detach:
        emit_json(submitted) if as_json else say(submitted.id)
        return 0
    note(f"Submitted {submitted.name} ({short(submitted.id)}).")
    ended = follow(client, submitted, to=PlainLog(sys.stderr if as_json else sys.stdout))
    if ended is None:
        note(f"Detached; it goes on. Follow it: mainspring logs -f {short(submitted.id)}")
        note(f"Stop it: mainspring cancel {short(submitted.id)}")
        return INTERRUPTED
    if as_json:
        emit_json(ended)
    return conclude(ended)


def send(client: Client, folder: Path, *, is_confirmed: bool, is_quiet: bool = False) -> Code:
    """Send the code; asks a person, if there is one, when it is large."""
    try:
        with busy("Sending code", is_quiet=is_quiet) as progress:
            return send_code(client, folder, is_confirmed=is_confirmed, progress=progress)
    except TooLargeError as large:
        if is_confirmed or not sys.stdin.isatty():
            raise
        note(large.message)
        if not Confirm.ask("Send it?", default=False):
            raise
    with busy("Sending code", is_quiet=is_quiet) as progress:
        return send_code(client, folder, is_confirmed=True, progress=progress)


def with_code(spec: RunSpec, code: Code) -> RunSpec:
    """Return `spec` with its code."""
    return replace(spec, code=code)


def furnished(client: Client, spec: RunSpec, wish: Wish, folder: Path | None) -> RunSpec:
    """Return `spec` with the environment that was asked for; its lock and wheels are sent. Raises UsageError, NotFoundError."""
    with busy("Sending the lock"):
        environment, path = resolve(client, wish, spec.environment, folder)
    return on_path(replace(spec, environment=environment), path)


@contextmanager
def busy(text: str, *, is_quiet: bool = False) -> Iterator[Progress]:
    """Show on a terminal that something goes on; what is yielded shows how much of it is done, in bytes."""
    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        with quiet():
            yield lambda _done, _total: None
        return
    with quiet(), console.status(text) as shown:  # one thing that moves is enough: what is called in here shows nothing itself
        yield lambda done, total: shown.update(f"{text}: {show_bytes(done)} of {show_bytes(total)}")


def follow(client: Client, run: Run, *, to: Printed, attempt: int | None = None, replica: int = 0, offset: int = 0) -> Run | None:
    """Print the log as it is written, and why the run waits; return the ended run, None when Ctrl-C came first."""
    begun = threading.Event()
    threading.Thread(target=_tell_why, args=(client, run.id, begun), daemon=True, name="why").start()
    try:
        for part in client.runs.follow(run.id, attempt=attempt, replica=replica, offset=offset):
            if part.kind != "attempt":  # it is placed, and its engine may keep it waiting
                begun.set()
            if part.kind == "attempt" and part.attempt > 1:
                to.end()
                note(f"--- try {part.attempt} ---")
            elif part.data:
                to.take(part.data, part.attempt, part.offset)
        return client.runs.wait(run.id)
    except KeyboardInterrupt:
        return None
    finally:
        to.end()
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
    said, pause, quiet, was_kept = "", WHY_AFTER_S, 0, False
    while not begun.wait(pause):
        pause = 2.0
        try:
            told = client.runs.why(run)
        except MainspringError:
            continue
        sentence = str(told.get("sentence", ""))
        if told.get("state") not in ("queued", "running"):
            return
        is_kept = (told.get("reason") or {}).get("code") == ReasonCode.WAITING_FOR_ENGINE
        if told.get("state") == "running" and not is_kept:
            quiet += 1  # its engine begins it, or says in a moment what keeps it
            if was_kept or quiet > QUIET_LOOKS:
                return
            continue
        was_kept = is_kept
        if sentence and sentence != said and not begun.is_set():
            said = sentence
            note(sentence)
