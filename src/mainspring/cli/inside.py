"""`mainspring shell` and `mainspring port`: into a running run, wherever it runs."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from mainspring.cli.connecting import connect
from mainspring.cli.output import emit_json, note, one_line, short
from mainspring.client.client import Client
from mainspring.client.inside import Shell
from mainspring.core.errors import MainspringError, StateError
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.sdk.inside import run_inside

try:
    import termios
    import tty
except ImportError:  # Windows has no terminals of this kind
    termios = None  # type: ignore[assignment]
    tty = None  # type: ignore[assignment]

LOOK_S = 20.0
LOST = 255  # as ssh has it: the way, not the command, failed


def shell(
    run: str,
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=False, help="The command, behind `--`; none: a shell.")],
    replica: int = 0,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Open a shell inside a running run: in its environment and folder, in its container, pod, host or node.

    Examples: `mainspring shell train`, `mainspring shell train -- nvidia-smi`, `mainspring shell train -- tar c out > out.tar`.
    On a terminal it behaves like one; with pipes the command gets plain pipes. The exit code is that of the command. What is
    started there ends with the run at the latest.

    Parameters
    ----------
    run
        The run: its id, the beginning or end of one, or its name.
    replica
        Which member of a run that has several.
    as_json
        For programs: wait for the command, without input, and print one object with `code`, `output` and `errors`.
    """
    client = connect()
    if as_json:
        ended = run_inside(client, run, command, replica=replica)
        emit_json({"code": ended.code, "output": ended.text, "errors": ended.errors.decode("utf-8", "replace")})
        return ended.code
    is_terminal = termios is not None and sys.stdin.isatty() and sys.stdout.isatty()
    opened = client.runs.shell(
        run,
        command,
        replica=replica,
        terminal=_size() if is_terminal else None,
        term=os.environ.get("TERM", "xterm"),
    )
    try:
        with _raw() if is_terminal else contextlib.nullcontext():
            return _carry(opened, has_terminal=is_terminal)
    finally:
        opened.close()


def port(
    run: str,
    port: int,
    /,
    *,
    local: int = 0,
    replica: int = 0,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Reach a port inside a running run at an address of this machine, until Ctrl-C or the run's end.

    Examples: `mainspring port train 6006`, `mainspring port train 8888 --local 8888`.
    Anything over TCP goes through: pages, websockets, debuggers. Only this machine reaches the address.

    Parameters
    ----------
    run
        The run: its id, the beginning or end of one, or its name.
    port
        What the run listens on, on its own loopback.
    local
        The port of this machine; default: a free one.
    replica
        Which member of a run that has several.
    as_json
        For programs: one line with `url`.
    """
    client = connect()
    found = client.runs.get(run)
    forward = client.runs.forward(found.id, port, replica=replica, local=local)
    said: set[str] = set()

    def tell(wrong: MainspringError) -> None:
        if wrong.message not in said:
            said.add(wrong.message)
            note(f"{wrong.message} {wrong.hint}".strip())

    forward.on_failure = tell
    with forward:
        url = f"http://{forward.address}"
        sys.stdout.write(one_line({"url": url}) if as_json else f"{url}\n")
        sys.stdout.flush()  # a program waits for it at the other end of a pipe
        note(f"It leads to port {port} of {found.name} ({short(found.id)}). Ctrl-C ends it.")
        _until_over(client, found.id)
    note(f"{found.name} has ended.")
    return 0


def _until_over(client: Client, run: str) -> None:
    """Block until the run is over, whatever happens to the server meanwhile."""
    pause = threading.Event()
    while True:
        try:
            if client.runs.wait(run, LOOK_S).state in TERMINAL_RUN:
                return
        except MainspringError as wrong:
            if wrong.http_status in (401, 403, 404):
                raise
            pause.wait(1.0)


def _carry(opened: Shell, *, has_terminal: bool) -> int:
    """Pass input on until the command has ended; return its exit code."""
    bell, rope = os.pipe()
    failed: list[BaseException] = []
    is_over = threading.Event()

    def read() -> None:
        try:
            for part in opened.outputs():
                _write(2 if part.is_error else 1, part.data)
        except BaseException as wrong:  # told by the main thread
            failed.append(wrong)
        is_over.set()
        os.write(rope, b"!")

    def resized(*_: object) -> None:
        os.write(rope, b"s")

    if has_terminal:
        signal.signal(signal.SIGWINCH, resized)
    threading.Thread(target=read, daemon=True, name="shell-output").start()
    sources: list[int] = [bell, 0]
    while not is_over.is_set():
        ready = select.select(sources, [], [])[0]
        if bell in ready and b"s" in os.read(bell, 64):
            opened.resize(*_size())
        if 0 in ready:
            data = os.read(0, 65536)
            if data:
                opened.send(data)
            else:
                sources.remove(0)
                opened.end()
    if failed:
        if isinstance(failed[0], MainspringError):
            raise failed[0]
        if isinstance(failed[0], BrokenPipeError):
            return 128 + signal.SIGPIPE
        raise StateError(f"The shell broke off: {failed[0]!r}.")
    return opened.code if opened.code is not None else LOST


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _size() -> tuple[int, int]:
    found = shutil.get_terminal_size()
    with contextlib.suppress(OSError):
        found = os.get_terminal_size(0)
    return found.lines, found.columns


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Let every key through to the other side, and give the terminal back as it was."""
    before: Any = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
