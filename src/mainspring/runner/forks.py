"""The fork server: a process that has the runner loaded and forks one for each attempt, which spares each the start of Python.

Standard input is a socket to whoever began it. A request is {place, env, groups}; the answers are {pid} or {error} to each, and
{ended, status} for each runner that has ended. It ends when the socket does; the runners it forked live on. It reads nothing
of an attempt (no token, no secret), so that there is nothing in it that one attempt could inherit from another.
"""

from __future__ import annotations

import encodings.idna
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import traceback
import zlib
from typing import Any

from . import agent, captures, trees
from .folder import stat_of

_NEEDED_SOON = (captures, encodings.idna, shutil, trees, zlib)  # loaded here once: each runner would load them itself
_MAX_REQUEST = 1 << 18
_ARGUMENTS, _ENVIRONMENT = 45, 47  # where /proc/PID/stat tells the first and the last byte of either


def main(_room: str) -> int:
    """Serve until the socket ends."""
    sys.argv[0] = os.path.abspath(sys.argv[0])  # a runner works in another folder
    door = socket.socket(fileno=os.dup(0))
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        ready, _, _ = select.select([door.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        try:
            if door.fileno() in ready:
                request = door.recv(_MAX_REQUEST)
                if not request:
                    return 0
                door.send(_fork(json.loads(request)))
            while True:  # after the request: a runner is never told to have ended before it was told to have begun
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                door.send(json.dumps({"ended": pid, "status": _code(status)}).encode())
        except ChildProcessError:
            continue
        except OSError:
            return 0  # nobody is there any more


def _fork(asked: dict[str, Any]) -> bytes:
    try:
        pid = os.fork()
    except OSError as wrong:
        return json.dumps({"error": wrong.strerror or str(wrong)}).encode()
    if pid == 0:
        status = 1
        try:
            status = _become(str(asked["place"]), asked["env"], asked["groups"])
        except BaseException:  # the top of this process, whatever it was
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)  # at once: what Python would tidy up is the fork server's
    return json.dumps({"pid": pid}).encode()


def _become(place: str, env: dict[str, str], groups: list[str]) -> int:
    """Be the runner of the attempt in `place`, as if this process had been started as one; return its exit status."""
    os.setsid()
    for group in groups:
        try:
            with open(os.path.join(group, "cgroup.procs"), "w") as file:
                file.write(str(os.getpid()))
        except OSError:
            pass  # a limit that cannot be set is none
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(os.path.join(place, "runner.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number, source in enumerate((null, log, log)):
        os.dup2(source, number)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(env)
    words = [sys.executable, "-S", "-E", sys.argv[0], place]
    if not (_show(_ARGUMENTS, words) and _show(_ENVIRONMENT, [f"{name}={value}" for name, value in env.items()])):
        os.execv(sys.executable, words)  # noqa: S606  (no shell is wanted)
    return agent.main(place)


def _show(field: int, words: list[str]) -> bool:
    """Write what /proc is to tell of this process over what it tells of the fork server; False where there is no room.

    Runners are found by the marks in their environment, and people know them by their command line.
    """
    told = stat_of(os.getpid())
    if told is None or len(told) <= field + 1:
        return False
    begin, room = int(told[field]), int(told[field + 1]) - int(told[field])
    data = b"".join(os.fsencode(word) + b"\0" for word in words)
    if begin == 0 or len(data) > room:
        return False
    try:
        memory = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.pwrite(memory, data.ljust(room, b"\0"), begin) == room
    except OSError:
        return False
    finally:
        os.close(memory)


def _code(status: int) -> int:
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
