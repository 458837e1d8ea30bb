"""The word that a run is to end: a file, with SIGTERM beside it. A program that asks for the word is not ended by the signal."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType

LATE_S = 1.0  # an engine's own SIGTERM may come before the word
POLL_S = 0.02
_is_heeding = False


def is_asked() -> bool:
    """Say whether the run is asked to end."""
    spool = os.environ.get("MAINSPRING_SPOOL", "")
    return bool(spool) and os.path.exists(os.path.join(spool, "stop_requested"))


def heed() -> None:
    """Leave SIGTERM to a program that asks for the word: it has its grace to save and to end; then SIGKILL comes.

    Does nothing where the program has a handler of its own, and nothing in other threads than the main one. A SIGTERM without
    the word, somebody's `kill`, ends the program as ever; so does any in a process that it forks.
    """
    global _is_heeding
    if _is_heeding or threading.current_thread() is not threading.main_thread():
        return
    _is_heeding = True
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_term)
        os.register_at_fork(after_in_child=_give_back)


def _on_term(number: int, frame: FrameType | None) -> None:
    del frame
    until = time.monotonic() + LATE_S
    while not is_asked():
        if time.monotonic() >= until:
            _give_back()
            os.kill(os.getpid(), number)
            return
        time.sleep(POLL_S)


def _give_back() -> None:
    with contextlib.suppress(ValueError):  # not in the main thread
        if signal.getsignal(signal.SIGTERM) is _on_term:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
