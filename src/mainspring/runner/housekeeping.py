"""What is done beside user code for the node: what it runs with is told, and what nobody used for long makes room."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from .cache import make_room
from .folder import Folder
from .setup import CannotStartError, interpreter_of
from .wire import Wire

EVERY_S = 600.0
PATIENCE_S = 3.0  # a run that ends sooner than it was seen what it ran with waits so long; the next ones find it told
_NO_LIMIT = 1 << 62
_SHELLS = ("bash", "sh", "dash", "zsh", "env")


class House(threading.Thread):
    """Works once, while user code runs. `python` is its interpreter, empty where there is none."""

    def __init__(self, folder: Folder, wire: Wire, cache: str, work: dict[str, Any], python: str) -> None:
        super().__init__(daemon=True, name="house")
        self._folder = folder
        self._wire = wire
        self._cache = cache
        self._python = python
        self._limits = work.get("limits") or {}
        self._unwanted = tuple(str(one) for one in work.get("unwanted") or ())
        self._has_lock = bool((work["spec"].get("environment") or {}).get("lock"))
        self.is_told = threading.Event()

    def run(self) -> None:
        """Tell first, then make room."""
        try:
            if self._python:
                from . import captures

                captures.capture(self._folder, self._wire, self._cache, self._python)
        except Exception as wrong:  # the thread's top: a run is not worse for what is done beside it
            self._folder.event("house_failed", message=repr(wrong)[:300])
        self.is_told.set()
        try:
            self._make_room()
        except Exception as wrong:  # as above
            self._folder.event("house_failed", message=repr(wrong)[:300])
        open(self._folder.in_spool("house_over"), "w").close()  # a run that is there for nothing else waits for it

    def _make_room(self) -> None:
        os.makedirs(self._cache, mode=0o700, exist_ok=True)
        if self._is_due() and os.path.isdir(os.path.join(self._cache, "blobs")):
            from . import trees

            trees.clear(self._cache, idle_s=trees.IDLE_S)
            make_room(self._cache, int(self._limits.get("blobs_bytes") or _NO_LIMIT))
        root = os.path.join(self._cache, "environments")
        if os.path.isdir(root) and (self._has_lock or self._unwanted):
            from . import environments

            there = environments.Environments(root, self._folder.say, self._folder.event, lambda: False)
            there.make_room(int(self._limits.get("environments_bytes") or _NO_LIMIT), self._unwanted)

    def _is_due(self) -> bool:
        """Say whether nobody has looked for a while, and take note that somebody does."""
        mark = os.path.join(self._cache, "looked")
        try:
            if time.time() - os.stat(mark).st_mtime < EVERY_S:
                return False
        except OSError:
            pass
        with open(mark, "w"):
            os.utime(mark)
        return True


def python_behind(command: list[str], spec: dict[str, Any], env: dict[str, str], work: str) -> str:
    """Return the interpreter that a command line comes to use, as far as that can be seen; empty where there is none."""
    program = command[0]
    name = os.path.basename(program)
    if name.startswith("python"):
        return program
    beside = os.path.join(os.path.dirname(program), "python")
    if os.path.dirname(program) not in ("/bin", "/usr/bin") and os.access(beside, os.X_OK):
        return beside
    if name in _SHELLS or program.startswith(work + os.sep):
        try:
            return interpreter_of(spec, env)
        except CannotStartError:
            pass
    return ""
