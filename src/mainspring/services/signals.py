"""Wake-up calls inside one process: loops and streams sleep until a topic they care about has moved.

A signal carries nothing and may be lost: whoever wakes reads the rows. Topics are those of `Store.on_commit`
("runs", "nodes", "logs:ATTEMPT", …) and `follow:ATTEMPT`. Thread safe; waiting costs nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress


class Signals:
    """Counts the moves of each topic; sleepers name the count that they have seen."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._versions: Counter[str] = Counter()
        self._followers: Counter[str] = Counter()
        self._wanted: Counter[tuple[str, int]] = Counter()
        self._sleepers: defaultdict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = defaultdict(set)

    def version(self, *topics: str) -> int:
        """Return how often the topics have moved, summed."""
        with self._moved:
            return sum(self._versions[topic] for topic in topics)

    def hint(self, *topics: str) -> None:
        """Wake everybody who sleeps on one of the topics."""
        self.hint_all(topics)

    def hint_all(self, topics: Iterable[str]) -> None:
        """Wake everybody who sleeps on one of the topics; called by the store after each commit."""
        sleepers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        with self._moved:
            for topic in topics:
                self._versions[topic] += 1
                sleepers |= self._sleepers.get(topic, set())
            self._moved.notify_all()
        for loop, event in sleepers:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(event.set)

    def wait(self, topics: tuple[str, ...], seen: int, timeout_s: float) -> int:
        """Block the thread until the topics' version differs from `seen` or the time is over; return the version."""
        with self._moved:
            self._moved.wait_for(lambda: sum(self._versions[topic] for topic in topics) != seen, timeout_s)
            return sum(self._versions[topic] for topic in topics)

    async def wait_async(self, topics: tuple[str, ...], seen: int, timeout_s: float) -> int:
        """Sleep on the event loop until the topics' version differs from `seen` or the time is over; return the version."""
        sleeper = (asyncio.get_running_loop(), asyncio.Event())
        with self._moved:
            for topic in topics:
                self._sleepers[topic].add(sleeper)
        try:
            if self.version(*topics) == seen:
                with suppress(TimeoutError):
                    await asyncio.wait_for(sleeper[1].wait(), timeout_s)
        finally:
            with self._moved:
                for topic in topics:
                    self._sleepers[topic].discard(sleeper)
                    if not self._sleepers[topic]:
                        del self._sleepers[topic]
        return self.version(*topics)

    @contextmanager
    def follow(self, attempt: str) -> Iterator[None]:
        """Mark that somebody follows the attempt's log, so that its runner beats every 100 ms meanwhile."""
        with self._moved:
            self._followers[attempt] += 1
        self.hint(f"attempt:{attempt}")
        try:
            yield
        finally:
            with self._moved:
                self._followers[attempt] -= 1
                if self._followers[attempt] <= 0:
                    del self._followers[attempt]

    @contextmanager
    def want(self, attempt: str, replica: int) -> Iterator[None]:
        """Mark that somebody waits for the tunnel of a replica: its runner is told until it has come."""
        with self._moved:
            self._wanted[attempt, replica] += 1
        self.hint(f"attempt:{attempt}")
        try:
            yield
        finally:
            with self._moved:
                self._wanted[attempt, replica] -= 1
                if self._wanted[attempt, replica] <= 0:
                    del self._wanted[attempt, replica]

    def is_wanted(self, attempt: str, replica: int) -> bool:
        """Say whether somebody waits for the tunnel of a replica."""
        with self._moved:
            return self._wanted[attempt, replica] > 0

    def is_followed(self, attempt: str) -> bool:
        """Say whether somebody follows the attempt's log."""
        with self._moved:
            return self._followers[attempt] > 0
