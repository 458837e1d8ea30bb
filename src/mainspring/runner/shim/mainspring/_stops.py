"""The word that a run is to end: a file, with SIGTERM beside it. A program that asks for the word is not ended by the signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

LATE_S = 1.0  # an engine's own SIGTERM may come before the word
POLL_S = 0.02
_word = os.path.join(os.environ.get("MAINSPRING_SPOOL", ""), "stop_requested")
_is_heeding = False


def should_stop() -> bool:
    """Say whether the run was asked to end. SIGTERM is left to the program from then on: it has its grace to save and to end."""
    global _is_heeding
    if not os.path.dirname(_word):
        return False
    if not _is_heeding and threading.current_thread() is threading.main_thread():
        _is_heeding = True
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_term)
            os.register_at_fork(after_in_child=_give_back)
    return os.path.exists(_word)


def _on_term(number: int, _: Any) -> None:
    until = time.monotonic() + LATE_S
    while not os.path.exists(_word):
        if time.monotonic() >= until:  # somebody's `kill`
            _give_back()
            os.kill(os.getpid(), number)
            return
        time.sleep(POLL_S)


def _give_back() -> None:
    try:
        if signal.getsignal(signal.SIGTERM) is _on_term:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except ValueError:  # not in the main thread
        pass
