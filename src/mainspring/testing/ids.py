"""Ids that count, so that a test gives the same ones each time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from mainspring.core.ids import make_id


@dataclass(slots=True)
class FakeIds:
    """Hands out ids in order; thread safe."""

    time_ms: int = 1_800_000_000_000
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def new(self, kind: str) -> str:
        """Return the next id of `kind`."""
        with self._lock:
            return make_id(kind, self.time_ms, next(self._numbers))
