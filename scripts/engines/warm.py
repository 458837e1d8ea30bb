"""Commands and servers that begin warm: one Python loads the product once, and forks for each of them.

A whole run of the tests starts a thousand commands and servers, each of which would spend most of its time on the same imports.
What begins here is a process like any other: its own session, environment, folder and files, killed and waited for by its pid.
Only its command line and its first environment in /proc are those of the Python that it was forked from. What the start itself
is about (its time, its memory, its imports) starts a Python of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

MODULE = "mainspring.cli.main"
_LARGEST = 1 << 20
_INDIFFERENT = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")  # of the variables that a Python reads when it begins
_door: socket.socket | None = None
_turn = threading.Lock()


class Child:
    """A process that was forked; as much of `subprocess.Popen` as tests use. Killed and waited for from any thread."""

    def __init__(self, pid: int, told: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._told = told
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return how it has ended, None while it lives; below zero by a signal."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        found = self._look(timeout)
        if found is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return found

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._told], [], [], timeout)[0]:
                self.returncode = int(os.read(self._told, 32) or b"-9")  # nothing: who forked it is gone
                os.close(self._told)
            return self.returncode


Process: TypeAlias = Child | subprocess.Popen[bytes]


def cold(words: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """Start `mainspring WORDS` as a Python of its own."""
    return subprocess.Popen([sys.executable, "-m", MODULE, *words], **how)


def start(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    cwd: Path | str | None = None,
    start_new_session: bool = False,
) -> Process:
    """Start `mainspring WORDS`: warm, or as a Python of its own where the environment asks for another one."""
    if _of_python(env) != _of_python(os.environ):
        return cold(words, env=env, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, start_new_session=start_new_session)
    asked = {"words": list(words), "env": dict(env), "cwd": str(cwd or Path.cwd()), "session": start_new_session}
    reader, writer = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR)
    files = [
        nothing if one == subprocess.DEVNULL else one if isinstance(one, int) else one.fileno() for one in (stdin, stdout, stderr)
    ]
    try:
        with _turn:
            door = _open()
            socket.send_fds(door, [json.dumps(asked).encode()], [*files, writer])
            pid = int(door.recv(32))
    finally:
        os.close(writer)
        os.close(nothing)
    return Child(pid, reader)


def run(
    words: Sequence[str], *, env: Mapping[str, str], data: bytes = b"", cwd: Path | str | None = None, timeout: float = 90.0
) -> subprocess.CompletedProcess[bytes]:
    """Run `mainspring WORDS` to its end. Raises subprocess.TimeoutExpired, after it was killed."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        said.write(data)
        said.seek(0)
        child = start(words, env=env, stdin=said, stdout=out, stderr=err, cwd=cwd)
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(10)
            raise
        for one in (out, err):
            one.seek(0)
        return subprocess.CompletedProcess(list(words), code, out.read(), err.read())


def _of_python(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith("PYTHON") and name not in _INDIFFERENT}


def _open() -> socket.socket:
    """Return the way to this process's forking Python; starts it at first."""
    global _door
    if _door is None:
        _door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
        command = [sys.executable, os.fspath(Path(__file__)), str(theirs.fileno())]
        made = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
        theirs.close()
        atexit.register(_close, made)
        _door.recv(32)
    return _door


def _close(made: subprocess.Popen[bytes]) -> None:
    if _door is not None:
        _door.close()
    made.wait(10)


# --- the Python that forks ----------------------------------------------------------------------------------------------


def _load() -> None:
    """Load what servers and commands load."""
    dispatch = importlib.import_module("mainspring.cli.dispatch")
    names = [target for _, target, *_ in dispatch.COMMANDS]
    names += [target for *_, members in dispatch.GROUPS for _, target in members]
    for name in (
        "mainspring.app",
        "mainspring.cli.foreground",
        *sorted({f"mainspring.cli.{one.partition(':')[0]}" for one in names}),
    ):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _serve(door: socket.socket) -> list[str]:
    """Fork for each request until nobody asks any more; returns in each child, with its words."""
    _load()
    wakes, wake = os.pipe()
    for one in (wakes, wake):
        os.set_blocking(one, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told: dict[int, int] = {}
    door.send(b"ready")
    while True:
        ready, _, _ = select.select([door, wakes], [], [])
        if wakes in ready:
            os.read(wakes, 1 << 16)
            _reap(told)
        if door in ready:
            data, files, _, _ = socket.recv_fds(door, _LARGEST, 8)
            if not data:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                return _become(json.loads(data), files[:3])
            for one in files[:3]:
                os.close(one)
            told[pid] = files[3]
            door.send(b"%d" % pid)


def _reap(told: dict[int, int]) -> None:
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        writer = told.pop(pid)
        try:
            os.write(writer, b"%d" % os.waitstatus_to_exitcode(status))
        except BrokenPipeError:
            pass  # nobody waits for it
        os.close(writer)


def _become(asked: dict[str, object], files: Sequence[int]) -> list[str]:
    """Be a process of one's own in a forked child: session, folder, environment, files, dice."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if asked["session"]:
        os.setsid()
    for place, one in enumerate(files):
        os.dup2(one, place)
    os.closerange(3, 4096)
    os.chdir(str(asked["cwd"]))
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    os.environ.clear()
    os.environ.update(dict(asked["env"]))  # type: ignore[call-overload]
    time.tzset()
    random.seed()
    for place, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        wrong = "backslashreplace" if name == "stderr" else "strict"
        setattr(sys, name, os.fdopen(place, mode, 1 if name == "stderr" else -1, "utf-8", wrong, closefd=False))
    words = [str(one) for one in list(asked["words"])]  # type: ignore[call-overload]
    sys.argv = ["mainspring", *words]
    return words


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its `docker` is not the library
    _words = _serve(socket.socket(fileno=int(sys.argv[1])))
    importlib.import_module(MODULE).main()
