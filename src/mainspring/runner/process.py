"""User code's process: begun once, in a session of its own; seen and ended with all its descendants."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import termios
import time
from collections.abc import Callable

from .folder import Folder, identity, is_alive, reach, read_json, stat_of, write_durably

PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, so that a daemon stays ours."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass  # not Linux: only the group is ended then


def begin(folder: Folder, command: list[str], cwd: str, env: dict[str, str]) -> int:
    """Start user code and return its pid; `started` is on disk before its first instruction (S3, S4).

    The child waits at a pipe for that. If we die before, the pipe ends and nothing begins. Raises OSError when it cannot
    start, BrokenPipeError when the child was killed before user code began.
    """
    log = os.open(folder.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    gate_read, gate_write = os.pipe()
    told_read, told_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(command, cwd, env, log, null, gate_read, gate_write, told_write)
    for descriptor in (log, null, gate_read, told_write):
        os.close(descriptor)
    try:
        reach("before-S3")
        write_durably(folder.started, {**identity(pid), "pgid": pid})
        reach("after-S3")
        os.write(gate_write, b"1")
    except BrokenPipeError:  # somebody killed the child: it never became user code, so that another attempt may begin it
        os.close(told_read)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(gate_write)
    number = os.read(told_read, 16)
    os.close(told_read)
    if number:
        os.waitpid(pid, 0)
        raise OSError(int(number), os.strerror(int(number)))
    reach("after-S4")
    return pid


def _become(command: list[str], cwd: str, env: dict[str, str], log: int, null: int, gate: int, other: int, told: int) -> None:
    """Turn the forked child into user code; never returns."""
    try:
        os.setsid()
        os.close(other)
        _forget_signals()
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if os.read(gate, 1) != b"1":
            os._exit(70)
        _execute(command, cwd, env)
    except OSError as wrong:
        os.write(told, str(wrong.errno or 1).encode())
    finally:
        os._exit(127)


def become_inside(
    command: list[str], cwd: str, env: dict[str, str], streams: tuple[int, int, int], told: int, *, has_terminal: bool
) -> None:
    """Turn a forked child into a process that somebody began from outside, with `streams` as 0, 1, 2; never returns.

    What fails is told as a number at `told`.
    """
    try:
        os.setsid()
        if has_terminal:
            fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
        _forget_signals()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        _execute(command, cwd, env)
    except OSError as wrong:
        os.write(told, str(wrong.errno or 1).encode())
    finally:
        os._exit(127)


def _forget_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _execute(command: list[str], cwd: str, env: dict[str, str]) -> None:
    """Become the command. The kernel is to choose it for want of memory, not the runner, which must live to tell of it."""
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(descriptor, b"500")
        os.close(descriptor)
    except OSError:
        pass  # a container may forbid it
    os.umask(0o022)
    os.chdir(cwd)
    os.execve(command[0], command, env)  # noqa: S606  (no shell is wanted)


def wait_for(pid: int, on_other: Callable[[int, int], None]) -> int:
    """Reap children until that one ended; return its exit code, negative for a signal. Others are told to `on_other`."""
    while True:
        found, status = os.waitpid(-1, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if found == pid:
            return code
        on_other(found, code)


def signal_group(pid: int, number: int) -> None:
    """Signal the whole group, if it is there."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def descendants(root: int) -> list[int]:
    """Return the living processes below `root`, without it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_of(int(name))
            if fields is not None and fields[0] not in "ZX":
                children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def kill_all(group: int = 0) -> None:
    """Kill every descendant of ours (again until none is left, for they may fork meanwhile), and the group."""
    for _ in range(50):
        if group:
            signal_group(group, signal.SIGKILL)
        found = descendants(os.getpid())
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def has_children() -> bool:
    """Reap what has ended; say whether children are left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def end_leftovers(folder: Folder, cgroup: str) -> None:
    """End what an earlier runner of this folder left behind: the recorded group, whoever carries our spool, the cgroup."""
    seen = read_json(folder.started)
    if seen is not None and is_alive(seen):
        signal_group(int(seen["pgid"]), signal.SIGKILL)
    for _ in range(50):
        found = _carriers(folder) | _members(cgroup)
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def _carriers(folder: Folder) -> set[int]:
    mark = f"\0MAINSPRING_SPOOL={folder.spool}\0".encode()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    environ = file.read()
            except OSError:
                continue
            fields = stat_of(int(name))
            if mark in b"\0" + environ + b"\0" and fields is not None and fields[0] not in "ZX":
                found.add(int(name))
    return found


def _members(cgroup: str) -> set[int]:
    if not cgroup:
        return set()
    try:
        with open(os.path.join(cgroup, "cgroup.procs")) as file:
            return {int(line) for line in file} - {os.getpid()}
    except (OSError, ValueError):
        return set()


class Usage:
    """CPU time and memory of a process and all below it. Memory counts each page once, though forked processes share many.

    One process is told by its resident set. Of several the kernel divides what they share (PSS), for which it walks all their
    pages: 12 to 28 ms a GB were measured, 331 ms for 17 processes of 500 MB each. So it is asked for at most 1 % of the time, and
    between two such times the resident sets are scaled by what it said last. What it will not tell of counts as resident.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._own_part = 1.0  # PSS / resident set, when it was asked for last
        self._due = 0.0

    def sample(self) -> tuple[float, int]:
        """Return (CPU seconds used so far, bytes of memory now). Takes milliseconds, more where memory is to be divided."""
        seconds = 0.0
        resident: dict[int, int] = {}
        for pid in [self._root, *descendants(self._root)]:
            fields = stat_of(pid)
            if fields is not None:
                seconds += (int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])) / _TICKS
                resident[pid] = int(fields[21]) * _PAGE
        whole = sum(resident.values())
        if len(resident) < 2 or not whole:
            return seconds, whole
        began = time.monotonic()
        if began >= self._due:
            self._own_part = min(1.0, sum(_own_bytes(pid, size) for pid, size in resident.items()) / whole)
            ended = time.monotonic()
            self._due = ended + 100 * (ended - began)
        return seconds, int(whole * self._own_part)


def _own_bytes(pid: int, resident: int) -> int:
    """Return the memory of a process with what it shares divided among those that share it."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has just ended, is somebody else's now (setuid), or an old kernel's
    return resident


def killed_for_memory(cgroup: str) -> int | None:
    """Return how often the kernel killed in the cgroup for want of memory (v2 and v1); None where that is not told."""
    for name, word in (("memory.events", "oom_kill"), ("memory.oom_control", "oom_kill")):
        try:
            with open(os.path.join(cgroup, name)) as file:
                for line in file:
                    parts = line.split()
                    if len(parts) == 2 and parts[0] == word:
                        return int(parts[1])
        except (OSError, ValueError):
            continue
    return None
