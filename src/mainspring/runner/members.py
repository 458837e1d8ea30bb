"""What a stream of the tunnel leads to: a port of this machine, or a process of the attempt, on a terminal or on pipes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from typing import Any

from . import process, setup
from .inside import Inside

BYTES, EXTRA_BYTES = 0, 1  # standard output (or what a port says), and standard error
MAX_WORDS = 1024
KILL_S = 2.0
_SHELLS = ("/bin/bash", "/bin/sh")


class RefusedError(Exception):
    """This stream cannot be opened, or has ended. `reason` is refused, ended, not_found, busy or failed."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Member:
    """One stream's end here: `reads` maps descriptors to BYTES or EXTRA_BYTES, `write` takes what comes (-1: nothing more)."""

    is_port = False

    def __init__(self, number: int) -> None:
        self.number = number
        self.reads: dict[int, int] = {}
        self.write = -1
        self.waiting = bytearray()
        self.is_ending = False  # nothing comes any more: close `write` once all is written
        self.is_connecting = False
        self.credit = 0
        self.code: int | None = None
        self.ended_at = 0.0
        self.unwatch: Callable[[int], None] = lambda _: None  # called before one is closed

    @property
    def is_lingering(self) -> bool:
        """Say whether it has ended and its last words may still come."""
        return self.code is not None

    def has_connected(self) -> bool:
        """Say whether what it leads to is there. Raises RefusedError when that cannot be."""
        return True

    def resize(self, rows: int, columns: int) -> None:
        """Take the size of the window; nothing without a terminal."""

    def push(self) -> int:
        """Write what waits; return how many bytes were taken."""
        taken = 0
        while self.waiting and self.write >= 0:
            try:
                count = os.write(self.write, self.waiting[:65536])
            except (BlockingIOError, InterruptedError):
                return taken
            except OSError:  # nobody reads there any more: what comes is thrown away
                self.stop_writing()
                break
            del self.waiting[:count]
            taken += count
        if self.write < 0:
            taken += len(self.waiting)
            self.waiting.clear()
        elif self.is_ending and not self.waiting:
            self.is_ending = False
            self.end_input()
        return taken

    def pull(self, size: int) -> tuple[int, bytes] | None:
        """Return (stream, bytes) of what has come, no bytes at the end of one; None when there is nothing now."""
        for descriptor, stream in list(self.reads.items()):
            try:
                data = os.read(descriptor, size)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:  # a terminal that nobody has open any more says so with an error
                data = b""
            if not data:
                self.finish_reading(descriptor)
            return stream, data
        return None

    def end_input(self) -> None:
        """Let the other side see an end."""
        self.stop_writing()

    def finish_reading(self, descriptor: int) -> None:
        """Stop reading there: it has ended."""
        del self.reads[descriptor]
        self.let_go(descriptor)

    def stop_writing(self) -> None:
        """Write nothing any more."""
        descriptor, self.write = self.write, -1
        if descriptor >= 0 and descriptor not in self.reads:
            self.let_go(descriptor)

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        for descriptor in {*self.reads, self.write} - {-1}:
            self.let_go(descriptor)
        self.reads.clear()
        self.write = -1

    def let_go(self, descriptor: int) -> None:
        """Close a descriptor."""
        self.unwatch(descriptor)
        os.close(descriptor)


class Port(Member):
    """A connection to a port, tried at each of `hosts` in turn."""

    is_port = True

    def __init__(self, number: int, hosts: list[str], port: int) -> None:
        super().__init__(number)
        if not 0 < port < 65536:
            raise RefusedError(f"{port} is no port.", "refused")
        self._hosts = hosts
        self._port = port
        self._socket: socket.socket | None = None
        self._next()

    def has_connected(self) -> bool:
        """Say whether somebody answers; try the next host where nobody does."""
        if self._socket is None:
            return False
        wrong = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if wrong:
            self._next()
            return False
        try:
            self._socket.getpeername()
        except OSError:
            return False  # not yet
        self.is_connecting = False
        self.reads = {self.write: BYTES}
        return True

    def finish_reading(self, descriptor: int) -> None:
        """Stop reading; what was asked may still be written."""
        del self.reads[descriptor]
        if self.write < 0:
            self._hang_up()

    def stop_writing(self) -> None:
        """Tell the port that nothing more comes."""
        self.write = -1
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        if not self.reads:
            self._hang_up()

    def close(self) -> None:
        """Hang up."""
        self.reads.clear()
        self.write = -1
        self._hang_up()

    def _hang_up(self) -> None:
        if self._socket is not None:
            self.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _next(self) -> None:
        """Begin to connect to the next host. Raises RefusedError when there is none left."""
        while self._hosts:
            host = self._hosts.pop(0)
            self._hang_up()
            try:
                found = socket.getaddrinfo(host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
                self._socket = socket.socket(found[0][0], socket.SOCK_STREAM)
                self._socket.setblocking(False)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                failed = self._socket.connect_ex(found[0][4])
            except OSError:
                continue
            if failed in (0, errno.EINPROGRESS):
                self.write = self._socket.fileno()
                self.is_connecting = True
                return
        self.close()
        raise RefusedError(f"Nobody listens at port {self._port} inside the run.", "refused")


class Shell(Member):
    """A process of the attempt: in its environment and folder, on a terminal (`pty`) or on plain pipes (`pipe`)."""

    def __init__(self, number: int, inside: Inside, asked: dict[str, Any], ring: Callable[[], None]) -> None:
        super().__init__(number)
        self._ring = ring
        self._inside = inside
        self._has_terminal = asked["what"] == "pty"
        self.pid = 0
        env = dict(inside.env)
        if self._has_terminal:
            env["TERM"] = str(asked.get("term") or "xterm")[:64]
        words = [str(word) for word in asked.get("command") or [_shell(env)]]
        if len(words) > MAX_WORDS:
            raise RefusedError(f"A command of {len(words)} words is too long.", "refused")
        try:
            words[0] = setup.program(words[0], env, inside.cwd)
        except setup.CannotStartError as wrong:
            raise RefusedError(str(wrong), "not_found") from wrong
        theirs = self._terminal(asked) if self._has_terminal else self._pipes()
        told, telling = os.pipe()
        try:
            self._fork(words, env, theirs, telling)
        except BaseException:
            self.close()
            os.close(told)
            raise
        finally:
            for descriptor in {*theirs, telling}:
                os.close(descriptor)
        failed = os.read(told, 16)
        os.close(told)
        if failed:
            self.close()
            raise RefusedError(f"{words[0]} cannot be started: {os.strerror(int(failed))}.", "not_found")
        for descriptor in {*self.reads, self.write}:
            os.set_blocking(descriptor, False)

    def _fork(self, words: list[str], env: dict[str, str], theirs: tuple[int, int, int], telling: int) -> None:
        with self._inside.lock:
            if self._inside.is_over.is_set():
                raise RefusedError("The run's code has ended.", "ended")
            self.pid = os.fork()
            if self.pid == 0:
                process.become_inside(words, self._inside.cwd, env, theirs, telling, has_terminal=self._has_terminal)
            self._inside.add(self.pid, self._ended)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal, which tells its foreground."""
        if self._has_terminal and self.write >= 0:
            fcntl.ioctl(self.write, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end_input(self) -> None:
        """End the input: on a terminal that is a character."""
        if self._has_terminal:
            self.waiting += b"\x04"
        else:
            self.stop_writing()

    def finish_reading(self, descriptor: int) -> None:
        """Stop reading; a terminal takes nothing any more either."""
        if descriptor == self.write:
            self.write = -1
        super().finish_reading(descriptor)

    def close(self) -> None:
        """Hang up: SIGHUP for its group, and SIGKILL for what does not heed it."""
        super().close()
        if self.code is None and self.pid and not self._inside.is_over.is_set():  # else all are killed anyway
            process.signal_group(self.pid, signal.SIGHUP)
            process.signal_group(self.pid, signal.SIGCONT)
            killing = threading.Timer(KILL_S, self._kill)
            killing.daemon = True
            killing.start()

    def _kill(self) -> None:
        if self.code is None and not self._inside.is_over.is_set():
            process.signal_group(self.pid, signal.SIGKILL)

    def _ended(self, code: int) -> None:
        self.ended_at = time.monotonic()
        self.code = code if code >= 0 else 128 - code
        self._ring()

    def _terminal(self, asked: dict[str, Any]) -> tuple[int, int, int]:
        mine, theirs = os.openpty()
        self.reads, self.write = {mine: BYTES}, mine
        self.resize(_size(asked.get("rows"), 24), _size(asked.get("columns"), 80))
        return theirs, theirs, theirs

    def _pipes(self) -> tuple[int, int, int]:
        into, self.write = os.pipe()
        out, out_end = os.pipe()
        extra, extra_end = os.pipe()
        self.reads = {out: BYTES, extra: EXTRA_BYTES}
        return into, out_end, extra_end


def _shell(env: dict[str, str]) -> str:
    """Return the shell of the environment, else one that is there."""
    for path in (env.get("SHELL") or "", *_SHELLS):
        if os.path.isabs(path) and os.access(path, os.X_OK):
            return path
    raise RefusedError("There is no shell in this environment.", "not_found")


def _size(told: Any, default: int) -> int:
    return told if isinstance(told, int) and 0 < told < 65536 else default
