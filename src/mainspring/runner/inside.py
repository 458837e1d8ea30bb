"""Who comes in while user code runs: shells and ports, through a tunnel that is dialled when the server says it is wanted.

The tunnel itself is loaded then: most attempts never need one. Shells are children of the runner, like user code, and are reaped
by the one thread that waits for it; they end with the attempt, and keep nothing alive.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .folder import Folder


class Inside:
    """The attempt as somebody inside finds it. `env` has secrets and is never written down."""

    def __init__(self, folder: Folder, launch: dict[str, Any], token: str) -> None:
        self.folder = folder
        self.launch = launch
        self.token = token
        self.env: dict[str, str] = {}
        self.cwd = ""
        self.lock = threading.Lock()  # held from a fork until its child is known: it may end at once
        self.is_open = False  # user code runs
        self.is_over = threading.Event()
        self._children: dict[int, Callable[[int], None]] = {}
        self._thread: threading.Thread | None = None
        self._bell: Callable[[], None] | None = None

    def begin(self, env: dict[str, str], cwd: str) -> None:
        """Let people in: user code has begun, with this environment in this folder."""
        self.env, self.cwd, self.is_open = dict(env), cwd, True

    def want(self) -> None:
        """Dial, unless there is a tunnel or one is being dialled. Returns at once; called as often as the server says so."""
        with self.lock:
            if not self.is_open or self.is_over.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._serve, daemon=True, name="tunnel")
            self._thread.start()

    def listen(self, bell: Callable[[], None] | None) -> None:
        """Let `bell` be called when all is over."""
        self._bell = bell

    def add(self, pid: int, on_end: Callable[[int], None]) -> None:
        """Know a child; `on_end(exit code)` comes from the thread that reaps. The lock must be held since before the fork."""
        self._children[pid] = on_end

    def reaped(self, pid: int, code: int) -> None:
        """Hear that a child has ended which is not user code's own process."""
        with self.lock:
            on_end = self._children.pop(pid, None)
        if on_end is not None:
            on_end(code)

    def end(self) -> None:
        """Let nobody in any more, and tell those who are: user code has ended. Returns at once."""
        with self.lock:
            self.is_over.set()
        bell = self._bell
        if bell is not None:
            bell()

    def close(self) -> None:
        """Wait a moment until those inside have been told."""
        if self._thread is not None:
            self._thread.join(2.0)
        self.env = {}

    def _serve(self) -> None:
        try:
            import_module(f"{__package__}.tunnel").serve(self)
        except Exception as wrong:  # the thread's top: a tunnel that breaks must not take the runner with it
            self.folder.event("tunnel_failed", message=repr(wrong)[:300], pid=os.getpid())
