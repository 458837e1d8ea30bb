"""Wait for what an engine does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(is_so: Callable[[], bool], limit_s: float = 180.0) -> None:
    """Look twenty times a second until it is so. Raises AssertionError after a limit that is there only to end what hangs."""
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.05)
