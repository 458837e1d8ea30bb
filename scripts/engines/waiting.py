"""Wait for what an engine does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT_S = 180.0


def until(is_so: Callable[[], bool], *, unless: type[Exception] | tuple[type[Exception], ...] = ()) -> None:
    """Look twenty times a second until it is so; a look that raises `unless` saw nothing.

    Raises AssertionError after a limit that is there only to end what hangs.
    """
    deadline = time.monotonic() + LIMIT_S
    while not _looks(is_so, unless):
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.05)


def _looks(is_so: Callable[[], bool], unless: type[Exception] | tuple[type[Exception], ...]) -> bool:
    try:
        return is_so()
    except unless:
        return False
