"""What is looked at beside the user's process: its time, its deadline once it is stopped, its use, its address."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import Any

from . import process
from .beats import Link, boot_time
from .folder import Folder, append

TICK_S = 0.1
USAGE_S = 5.0


class Stop:
    """Why and until when user code is being stopped. The first cause is kept; a later deadline can only be earlier."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = threading.RLock()  # a signal's handler may come while the main thread is inside
        self._pid = 0
        self._deadline = 0.0
        self.cause = ""

    def ask(self, cause: str, deadline_s: float) -> None:
        """Ask user code to end, and kill it after `deadline_s`. Repeatable."""
        with self._lock:
            until = boot_time() + max(0.0, deadline_s)  # a grace does not stand still while the machine sleeps
            self._deadline = min(self._deadline, until) if self.cause else until
            if self.cause:
                return
            self.cause = cause
            append(self._folder.in_spool("stop_requested"), cause.encode() + b"\n")
            if self._pid:
                process.signal_group(self._pid, signal.SIGTERM)

    def guard(self, pid: int) -> None:
        """Take the process that a stop is about; 0 once it has ended."""
        with self._lock:
            self._pid = pid
            if pid and self.cause:
                process.signal_group(pid, signal.SIGTERM)

    def enforce(self) -> None:
        """Kill the tree when the deadline has passed."""
        with self._lock:
            if self._pid and self.cause and boot_time() >= self._deadline:
                process.kill_all(self._pid)


class Watch(threading.Thread):
    """Looks every 100 ms while user code runs."""

    def __init__(
        self, folder: Folder, link: Link, stop: Stop, spec: dict[str, Any], pid: int, visible: str | None = None
    ) -> None:
        """`visible` is what user code has in CUDA_VISIBLE_DEVICES; None: nothing is hidden from it."""
        super().__init__(daemon=True, name="watch")
        self._visible = visible
        self._folder = folder
        self._link = link
        self._ending = stop  # `_stop` is a thread's own
        self._usage = process.Usage(pid)
        self._timeout_s = float(spec.get("timeout_s") or 0.0)
        self._disconnect_s = float(spec.get("disconnect_limit_s") or 0.0)
        self._grace_s = float(spec.get("grace_s", 10.0))
        self._is_awaited = True
        self._is_warned = False
        self._has_gpu: bool | None = None
        self.is_over = threading.Event()

    def run(self) -> None:
        """Look until the process has ended."""
        began = time.monotonic()
        looked = time.monotonic()
        used = 0.0  # it has just begun; to ask would be to read all of /proc, which most short runs never need
        while not self.is_over.wait(TICK_S):
            try:
                now = time.monotonic()
                if self._timeout_s and now - began >= self._timeout_s:
                    self._ending.ask("timeout", self._grace_s)
                if self._disconnect_s:
                    self._fence(boot_time() - self._link.heard_at)
                self._ending.enforce()
                if self._is_awaited:
                    self._read_address()
                if now - looked >= USAGE_S:
                    used = self._note_usage(used, now - looked)
                    looked = now
            except Exception as wrong:  # the loop's top: deadlines must be kept whatever a file in /proc looks like
                self._folder.event("watch_failed", message=repr(wrong)[:300])

    def _fence(self, silent_s: float) -> None:
        """End user code once no beat was answered for too long (P5); before that, ask it for a checkpoint."""
        if silent_s >= self._disconnect_s:
            self._ending.ask("node_lost", self._grace_s)
        is_near = silent_s >= self._disconnect_s - min(self._grace_s, self._disconnect_s / 2)
        if is_near and not self._is_warned:
            append(self._folder.in_spool("checkpoint_requested"), b"")
        self._is_warned = is_near

    def _read_address(self) -> None:
        try:
            with open(self._folder.in_spool("address")) as file:
                address = file.read(256).strip()
        except (OSError, ValueError):
            return
        if address:
            self._is_awaited = False
            self._link.tell(address=address)

    def _note_usage(self, before: float, passed_s: float) -> float:
        used, memory = self._usage.sample()
        point: dict[str, Any] = {
            "at": time.time(),
            "cpu": round(max(0.0, used - before) / passed_s, 3),
            "memory_bytes": memory,
            "gpu": self._gpus(),
        }
        append(self._folder.in_spool("usage"), json.dumps(point).encode() + b"\n")
        return used

    def _gpus(self) -> list[dict[str, Any]]:
        if self._has_gpu is None:
            places = os.environ.get("PATH", os.defpath).split(os.pathsep)
            self._has_gpu = self._visible != "" and any(os.access(os.path.join(place, "nvidia-smi"), os.X_OK) for place in places)
        if not self._has_gpu:
            return []
        from . import gpus

        return gpus.use(self._visible)
