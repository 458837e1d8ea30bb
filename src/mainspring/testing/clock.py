"""A clock that is moved by hand: its wall may jump, its monotonic time only passes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(slots=True)
class FakeClock:
    """Stands still until `advance` or `jump`."""

    wall: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    ticks_s: float = 500.0

    def now(self) -> datetime:
        """Return the wall time."""
        return self.wall

    def monotonic(self) -> float:
        """Return the monotonic time."""
        return self.ticks_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += timedelta(seconds=seconds)
        self.ticks_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or a wrong time server would."""
        self.wall += timedelta(seconds=seconds)
