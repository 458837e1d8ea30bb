"""What /proc tells: whether a recorded process still lives, and which processes carry a mark of ours."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from mainspring.backends.launches import json_object

PROC = Path("/proc")


def boot_id() -> str:
    """Return the id of this boot; a pid means nothing after another one."""
    with contextlib.suppress(OSError):
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


def start_time(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        words = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in ("Z", "X") else int(words[19])


def is_alive(record: Mapping[str, object]) -> bool:
    """Say whether the process that `record` (pid, start_time, boot_id) describes still lives: the same one, not a reused pid."""
    pid, began = record.get("pid"), record.get("start_time")
    if not isinstance(pid, int) or record.get("boot_id") not in ("", None, boot_id()):
        return False
    now = start_time(pid)
    return now is not None and (not isinstance(began, int | float) or int(began) == now)


def read_record(path: Path) -> dict[str, object]:
    """Return the JSON object in `path`, empty when it is missing or half written."""
    try:
        return json_object(path.read_bytes())
    except OSError:
        return {}


def marked(*marks: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (pid, environment) of each living process whose environment holds every one of `marks` ("NAME=value")."""
    wanted = [mark.encode() for mark in marks]
    for name in os.listdir(PROC):
        if not name.isdigit():
            continue
        found = _environ(name)  # all processes of the machine, often: a text is looked through before it is taken apart
        if not all(mark in found for mark in wanted):
            continue
        words = found.split(b"\0")
        if all(mark in words for mark in wanted) and start_time(int(name)) is not None:
            pairs = (word.decode("utf-8", "replace").partition("=") for word in words if word.startswith(b"MAINSPRING_"))
            yield int(name), {key: value for key, _, value in pairs}


def _environ(pid: str) -> bytes:
    try:
        descriptor = os.open(f"{PROC}/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        pieces = []
        while piece := os.read(descriptor, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal; silent when the process is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
