"""The client of a command: whoever typed it is told when a server was started for it."""

from __future__ import annotations

import shlex
from pathlib import Path

from mainspring.cli.output import note
from mainspring.client import connection
from mainspring.client.client import Client


def connect(home: Path | None = None, *, may_start: bool = True) -> Client:
    """Return a client as `connection.connect`; a line on stderr tells of a server that was not there before."""
    return connection.connect(home, may_start=may_start, on_start=_tell)


def _tell(home: Path, url: str, flags: tuple[str, ...]) -> None:
    as_before = f", as by: mainspring up {shlex.join(flags)}" if flags else ""
    note(f"Started a server for {home} at {url}{as_before}; it stays until: mainspring down")
