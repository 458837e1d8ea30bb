"""What a long call reports to: on a terminal it becomes a live bar after a second, and a call that was given up ends there."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from mainspring.sdk.extras import need

AFTER_S = 1.0
given_up: ContextVar[threading.Event | None] = ContextVar("mainspring_given_up", default=None)
_is_quiet: ContextVar[bool] = ContextVar("mainspring_is_quiet", default=False)
_screen = threading.Lock()  # two live bars would draw over each other: the second one is not shown


@contextmanager
def quiet(*, is_quiet: bool = True) -> Iterator[None]:
    """Show no bar in here: output is for a program, or other coroutines print meanwhile."""
    token = _is_quiet.set(is_quiet or _is_quiet.get())
    try:
        yield
    finally:
        _is_quiet.reset(token)


def check_wanted() -> None:
    """Raise CancelledError in the thread of a call whose coroutine was cancelled: it does nothing more."""
    event = given_up.get()
    if event is not None and event.is_set():
        raise asyncio.CancelledError


class Progress:
    """A bar over `total` things (bytes, if `is_bytes`; None: nobody knows how many), with a note behind it.

    It is drawn on stderr from a second after it began, if that is a terminal and no other bar is there; else nothing is. Any
    thread may update it.
    """

    def __init__(self, text: str, total: int | None = None, *, is_bytes: bool = False) -> None:
        self._text = text
        self._is_bytes = is_bytes
        self._told: dict[str, Any] = {"total": total, "completed": 0, "note": ""}
        self._lock = threading.Lock()
        self._is_over = False
        self._timer: threading.Timer | None = None
        self._bar: Any = None
        self._task: Any = None
        self._is_live = bool(sys.stderr) and sys.stderr.isatty() and not _is_quiet.get()

    def __enter__(self) -> Progress:
        if self._is_live:
            self._timer = threading.Timer(AFTER_S, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    @property
    def is_watched(self) -> bool:
        """Say whether it matters that `update` is called often: somebody looks, or the call may be given up."""
        return self._is_live or given_up.get() is not None

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None:
        """Tell that `done` of the total are done. Raises CancelledError where nobody waits for the call any more."""
        check_wanted()
        with self._lock:
            self._told |= {"completed": done, "note": note} | ({} if total is None else {"total": total})
            if self._bar is not None:
                self._bar.update(self._task, **self._told)

    def moved(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have travelled. Raises as `update`."""
        self.update(done, total=total)

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._bar is not None:
                self._bar.stop()
                self._bar = None
                _screen.release()

    def _show(self) -> None:
        shown = need("rich.progress", "Showing progress")
        console = need("rich.console", "Showing progress").Console(stderr=True)
        count = shown.DownloadColumn() if self._is_bytes else shown.MofNCompleteColumn()
        columns = [shown.SpinnerColumn(), shown.TextColumn("{task.description}", markup=False)]
        columns += [shown.BarColumn(), count] if self._is_bytes or self._told["total"] is not None else []
        columns += [shown.TimeElapsedColumn(), shown.TextColumn("{task.fields[note]}", markup=False)]
        # what other threads print goes where they print it
        bar = shown.Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        with self._lock:
            if self._is_over or not _screen.acquire(blocking=False):
                return
            self._bar = bar
            self._task = bar.add_task(self._text, **self._told)
            bar.start()
