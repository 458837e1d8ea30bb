"""Plug-ins by entry point, the built-in ones registered the same way; and the named fault points of the chaos tests."""

from __future__ import annotations

import os
import signal
import threading
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from mainspring.core.backend import Engine
from mainspring.core.errors import NotFoundError, ServerError

KINDS = ("backends", "samplers", "notifiers", "scorers")
_reached = 0
_lock = threading.Lock()


@cache
def _table(kind: str) -> dict[str, EntryPoint]:
    if kind not in KINDS:
        raise NotFoundError(f"There is no kind of plug-in {kind!r}; known: {', '.join(KINDS)}.")
    return {entry.name: entry for entry in entry_points(group=f"mainspring.{kind}")}


def names(kind: str) -> list[str]:
    """Return the names of the installed plug-ins of a kind, sorted; loads none of them."""
    return sorted(_table(kind))


def load(kind: str, name: str) -> object:
    """Return what the entry point names (a factory); loaded at its first use.

    Raises NotFoundError with the known names, ServerError when the plug-in itself is broken.
    """
    entry = _table(kind).get(name)
    if entry is None:
        known = ", ".join(names(kind)) or "none"
        near = get_close_matches(name, names(kind), 1)
        raise NotFoundError(
            f"There is no plug-in {name[:60]!r} among the {kind}; known: {known}.",
            hint=(f"Did you mean {near[0]}? Else install" if near else "Install")
            + f" the package that registers it under mainspring.{kind}.",
        )
    try:
        return entry.load()
    except Exception as wrong:  # a stranger's code: whatever it raises, say whose it is
        owner = entry.dist.name if entry.dist is not None else "an unknown package"
        raise ServerError(
            f"The plug-in {name!r} of {owner} cannot be loaded: {wrong}.", hint=f"Reinstall or remove {owner}."
        ) from wrong


def engine(kind: str) -> Engine:
    """Return an engine kind; a plug-in that names a bare `create(cluster, folder, installation)` has no options.

    Raises as `load`.
    """
    found = load("backends", kind)
    if isinstance(found, Engine):
        return found
    if not callable(found):
        raise ServerError(f"The plug-in {kind!r} names neither an Engine nor a function.", hint="Reinstall or remove it.")
    return Engine(create=found)


@cache
def _fault() -> str:
    return os.environ.get("MAINSPRING_FAULT", "")


def reach(point: str) -> None:
    """Kill this process, as a power cut would, if MAINSPRING_FAULT names `point` (`after-W2:3`: at the third time)."""
    wanted, _, count = _fault().partition(":")
    if wanted != point:
        return
    global _reached
    with _lock:
        _reached += 1
        if _reached >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
