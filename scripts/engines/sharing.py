"""One real engine for all parallel test workers: the first that enters starts it, the last that leaves ends it, by pid.

A file lock guards the list of users; a user that died without leaving does not count.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

AT_ONCE = ((signal.SIGKILL, 10.0),)


@contextmanager
def shared(folder: Path, start: Callable[[], Any], stop: Callable[[Any], None], made: Callable[..., Any]) -> Iterator[Any]:
    """Yield the engine of `folder` (a dataclass with `pid` and `folder`); `made` rebuilds it from its fields."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder) as state:
        state["users"] = [pid for pid in state.get("users", []) if is_alive(pid)]
        if not state.get("engine") or not is_alive(state["engine"]["pid"]):
            state["engine"] = asdict(start())
        state["users"].append(os.getpid())
        engine = made(**state["engine"])
    try:
        yield engine
    finally:
        with _locked(folder) as state:
            state["users"].remove(os.getpid())
            state["users"] = [pid for pid in state["users"] if is_alive(pid)]
            if not state["users"]:
                stop(engine)
                state["engine"] = None
                shutil.rmtree(engine.folder, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z"


def end(pid: int, signals: Sequence[tuple[signal.Signals, float]] = AT_ONCE) -> None:
    """Send the signals in turn, each with the seconds that the process has after it."""
    for sign, limit_s in signals:
        try:
            os.kill(pid, sign)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if not is_alive(pid):
                return
            time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Return so many ports of loopback that nobody listens on now."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(holder.getsockname()[1]) for holder in holders]
    for holder in holders:
        holder.close()
    return ports


@contextmanager
def _locked(folder: Path) -> Iterator[dict[str, Any]]:
    with (folder / "users.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        state: dict[str, Any] = json.loads(text) if text else {}
        yield state
        file.seek(0)
        file.truncate()
        file.write(json.dumps(state))
