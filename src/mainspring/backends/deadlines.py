"""Deadlines of stops: one thread for all of them, which ends when none is left. Losing them is harmless, a stop is repeated."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mainspring.core.backend import Handle

log = logging.getLogger(__name__)
Key = tuple[str, int]


@dataclass(slots=True)
class Deadlines:
    """Calls `act(handle, is_last)` at each deadline; when it returns seconds, once more after them. Thread safe."""

    act: Callable[[Handle, bool], float]
    _due: dict[Key, tuple[float, Handle, bool]] = field(default_factory=dict)
    _moved: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None

    def set(self, handle: Handle, after_s: float) -> None:
        """Set the deadline of `handle`; one that is set already can only become earlier."""
        key, at = (handle.attempt, handle.replica), time.monotonic() + after_s
        with self._moved:
            known = self._due.get(key)
            if known is not None and (known[2] or known[0] <= at):
                return
            self._due[key] = (at, handle, False)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="stop-deadlines")
                self._thread.start()
            self._moved.notify()

    def drop(self, handle: Handle) -> None:
        """Forget the deadline of `handle`."""
        with self._moved:
            self._due.pop((handle.attempt, handle.replica), None)

    def _run(self) -> None:
        while (due := self._next()) is not None:
            handle, is_last = due
            try:
                pause_s = self.act(handle, is_last)
            except Exception:  # the loop's top: one tree that cannot be killed must not keep all others alive
                log.exception("kill failed", extra={"attempt": handle.attempt, "replica": handle.replica})
                continue
            if pause_s > 0 and not is_last:
                with self._moved:
                    self._due[handle.attempt, handle.replica] = (time.monotonic() + pause_s, handle, True)

    def _next(self) -> tuple[Handle, bool] | None:
        """Wait for the next deadline; None, and the thread is free to end, when there is none."""
        with self._moved:
            while self._due:
                key, (at, handle, is_last) = min(self._due.items(), key=lambda one: one[1][0])
                left = at - time.monotonic()
                if left <= 0:
                    del self._due[key]
                    return handle, is_last
                self._moved.wait(left)
            self._thread = None
            return None
