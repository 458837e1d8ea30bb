"""Work of loops, done by who brings it: a test sees what came of it when the call returns."""

from __future__ import annotations

from collections.abc import Callable


class AtOnce:
    """Lanes that do work at once, in the caller's thread."""

    def submit(self, work: Callable[[], None], *, lane: str) -> None:
        """Do the work. Raises AssertionError for a lane without a name."""
        assert lane
        work()
