"""What the planner of this process has done: plans, decisions and how long they took, for `GET /metrics`."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field

BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


@dataclass(slots=True)
class Planned:
    """Counters. Thread safe."""

    decisions: int = 0
    seconds: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, seconds: float, decisions: int) -> None:
        """Count one plan: from the snapshot to the decisions."""
        with self._lock:
            self.decisions += decisions
            self.seconds += seconds
            self.counts[bisect_left(BUCKETS_S, seconds)] += 1
