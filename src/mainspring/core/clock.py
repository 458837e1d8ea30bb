"""What tells the time. Pure rooms never read a clock: `app.py` brings the real one, tests bring a fake."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for people, monotonic time for leases and time-outs (it never jumps). Thread safe."""

    def now(self) -> datetime:
        """Return the wall time, timezone-aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that only grow, from an arbitrary start."""
        ...
