"""One attempt's folder: where each file is, how it is written so that a crash leaves it whole, and who is alive."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from typing import Any

RESERVE_BYTES = 65536
_reached = 0
_reached_lock = threading.Lock()


class Folder:
    """Paths of one attempt and replica."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.spool = self.at("spool")
        self.out = self.at("out")
        self.work = self.at("work")
        self.inputs = self.at("inputs")
        self.checkpoint = self.at("checkpoint")
        self.started = self.at("started")
        self.ended = self.at("ended.json")
        self.exit = self.at("exit.json")
        self.log = self.in_spool("log")

    def at(self, name: str) -> str:
        """Return the path of a file of this folder."""
        return os.path.join(self.root, name)

    def in_spool(self, name: str) -> str:
        """Return the path of a file of the spool."""
        return os.path.join(self.spool, name)

    def make(self) -> None:
        """Make the folders that user code sees, and reserve the room of the exit record. Repeatable."""
        for path in (self.spool, self.out, self.inputs, self.checkpoint, self.work):
            os.makedirs(path, mode=0o700, exist_ok=True)
        reserve = os.open(self.at("reserve"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(reserve, 0, RESERVE_BYTES)
        except OSError:
            pass  # a full disk or one without fallocate: the exit record is then written without a reserve
        finally:
            os.close(reserve)

    def say(self, sentence: str) -> None:
        """Append a sentence of the runner's own to the log."""
        append(self.log, f"[mainspring] {sentence}\n".encode())

    def event(self, kind: str, **facts: Any) -> None:
        """Append to the stream of events."""
        append(self.in_spool("events"), json.dumps({"kind": kind, **facts}).encode() + b"\n")


def append(path: str, data: bytes) -> None:
    """Append with one write; a full disk loses the sentence, never the runner."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        os.write(descriptor, data)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def claim(folder: Folder) -> int | None:
    """Return the descriptor that holds the folder for this process's life; None when another runner has it."""
    descriptor = os.open(folder.at("attempt.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def write_durably(path: str, value: Any) -> None:
    """Write JSON so that after any crash the file is absent, old or whole: draft, fsync, rename, fsync of the folder.

    The room reserved at the start is freed when the disk is full.
    """
    data = json.dumps(value).encode()
    draft = path + ".draft"
    try:
        _write_synced(draft, data)
    except OSError:
        try:
            os.unlink(os.path.join(os.path.dirname(path), "reserve"))
        except FileNotFoundError:
            pass
        _write_synced(draft, data)
    os.rename(draft, path)
    parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def write_whole(path: str, value: Any) -> None:
    """Write JSON so that it is never read half. Not durable: for what means nothing after the machine's own crash."""
    draft = path + ".draft"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(value).encode())
    os.rename(draft, path)


def _write_synced(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: str) -> dict[str, Any] | None:
    """Return the object in a file, None when there is none (or half of one)."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def boot_id() -> str:
    """Return what changes with each start of this machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def stat_of(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on (0 state, 1 parent, 2 group, 3 session, 19 start time)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    return text[text.rindex(b")") + 2 :].decode().split()


def identity(pid: int) -> dict[str, Any]:
    """Return what tells this process from a later one with its number."""
    fields = stat_of(pid)
    return {"pid": pid, "start_time": int(fields[19]) if fields else 0, "boot_id": boot_id()}


def is_alive(seen: dict[str, Any]) -> bool:
    """Say whether the process of that identity exists and is no zombie."""
    fields = stat_of(int(seen.get("pid", 0)))
    if fields is None or fields[0] in "ZX" or seen.get("boot_id") != boot_id():
        return False
    return int(fields[19]) == seen.get("start_time")


def reach(point: str) -> None:
    """Kill this process, as a power cut would, if MAINSPRING_FAULT names `point` (`after-S3:2`: at the second time).

    `after-S3@FILE` leaves a line in the file first: whoever waits for the death of a runner has nothing else to look at.
    """
    global _reached
    fault, _, ledger = os.environ.get("MAINSPRING_FAULT", "").partition("@")  # here: a forked runner is given its own
    wanted, _, count = fault.partition(":")
    if wanted != point:
        return
    with _reached_lock:
        _reached += 1
        if _reached >= int(count or 1):
            if ledger:
                append(ledger, f"{point} {os.getpid()}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
