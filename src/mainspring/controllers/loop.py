"""How a loop lives: woken by signals, level-triggered, with back-off, a heart that never stops and a drain.

A tick reads rows, acts, and returns after how many seconds it wants to be called again even if nothing moves
(None: only when something moves, or after `idle_s`). A tick that raises is logged, counted, and tried again later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from mainspring.services.signals import Signals

log = logging.getLogger(__name__)
MAX_BACKOFF_S = 30.0
DEBOUNCE_S = 0.002
MOST_REST_S = 0.25


def _nothing() -> None:
    """Begin without more."""


@dataclass(slots=True, kw_only=True)
class Loop:
    """One background loop.

    `begin` is called first, in its thread. `topics` wake it; `idle_s` is the longest sleep, `gap_s` the time from one tick to
    the next at least. After a tick it rests `rest` times as long as that took (`MOST_REST_S` at most) where the process's other
    threads are busy, less where they are not: so much of the processor is others' for sure, and what happens meanwhile is seen
    at once by one tick. A tick that comes after a rest comes at once; of a storm of commits each loop sees a few moments only.
    """

    name: str
    topics: tuple[str, ...]
    tick: Callable[[], float | None]
    begin: Callable[[], None] = _nothing
    idle_s: float = 60.0
    gap_s: float = 0.02
    rest: float = 0.0
    failures: int = 0
    ticks: int = 0


class Lanes(Protocol):
    """What loops that ask engines need of `Loops`."""

    def submit(self, work: Callable[[], None], *, lane: str) -> object:
        """Run `work` in the pool of a lane."""
        ...


def _others_s() -> float:
    """Return the processor time that the other threads of this process have used."""
    return time.process_time() - time.thread_time()


@dataclass(slots=True)
class Loops:
    """Runs loops in threads of its own and hands out bounded pools for slow calls to engines: a lane for each cluster."""

    signals: Signals
    lane_size: int = 8
    others_s: Callable[[], float] = _others_s
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lanes: dict[str, ThreadPoolExecutor] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, loops: list[Loop]) -> None:
        """Start every loop; returns at once."""
        for loop in loops:
            thread = threading.Thread(target=self._run, args=(loop,), name=f"loop-{loop.name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, work: Callable[[], None], *, lane: str) -> Future[None]:
        """Run `work` in the pool of a lane; what is slow in one holds up nothing in another."""
        with self._lock:
            if lane not in self._lanes:
                self._lanes[lane] = ThreadPoolExecutor(self.lane_size, thread_name_prefix=f"engine-{lane}")
            return self._lanes[lane].submit(work)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask every loop to end and wait for the tick in flight; a restart resumes from rows."""
        self._stopping.set()
        self.signals.hint("stop")
        for thread in self._threads:
            thread.join(timeout_s)
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)

    def _run(self, loop: Loop) -> None:
        topics = (*loop.topics, "stop")
        loop.begin()
        ended, used = time.monotonic(), self.others_s()
        while not self._stopping.is_set():
            seen = self.signals.version(*topics)
            began = time.monotonic()
            pause = self._once(loop)
            now, used_now = time.monotonic(), self.others_s()
            took_s = now - began
            rest = loop.rest * _crowding((used_now - used) / max(1e-6, now - ended))
            ended, used = now, used_now
            gap_s = max(loop.gap_s, took_s + min(MOST_REST_S, rest * took_s))
            if not self._stopping.is_set():
                self.signals.wait(topics, seen, loop.idle_s if pause is None else pause)
                self._stopping.wait(max(DEBOUNCE_S, gap_s - (time.monotonic() - began)))

    def _once(self, loop: Loop) -> float | None:
        try:
            pause = loop.tick()
        except Exception:  # a loop's top: whatever went wrong, the rows are still there and the next tick sees them
            loop.failures += 1
            log.exception("loop failed", extra={"loop": loop.name, "failures": loop.failures})
            self._stopping.wait(min(MAX_BACKOFF_S, 0.1 * 2 ** min(loop.failures, 9)))
            return 0.0
        loop.failures = 0
        loop.ticks += 1
        return pause


def _crowding(busy: float) -> float:
    """Return how much of its rest a loop takes while the others use `busy` processors: none up to 0.4, all of it from 0.8 on.

    Together they can hardly use more than one: threads take turns at the interpreter.
    """
    return max(0.0, min(1.0, (busy - 0.4) / 0.4))
