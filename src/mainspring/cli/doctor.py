"""`mainspring doctor`: looks at what goes wrong most often, and says what to do."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path

from rich.text import Text

import mainspring
from mainspring.cli.connecting import connect
from mainspring.cli.options import Json
from mainspring.cli.output import emit_json, table
from mainspring.client.client import Client
from mainspring.client.connection import home_folder
from mainspring.core.errors import MainspringError, ServerUnreachableError
from mainspring.core.units import show_bytes

LOW_BYTES = 2 << 30
SKEW_S = 30.0
SLOW_S = 0.5
_SHOWN = {"good": ("✔ good", "green"), "notice": ("! notice", "yellow"), "bad": ("✘ bad", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `level` good, notice or bad; `hint` what to do."""

    what: str
    level: str
    message: str
    hint: str = ""


def doctor(*, as_json: Json = False) -> int:
    """Check Python, disk, permissions, git, the server, its nodes and the clock; exit code 1 when something is bad.

    Example: `mainspring doctor`.
    """
    found = list(_look(home_folder()))
    if as_json:
        emit_json(found)
    else:
        rows = []
        for one in found:
            text, colour = _SHOWN[one.level]
            rows.append((Text(text, style=colour), one.what, one.message + (f" {one.hint}" if one.hint else "")))
        table(("", "what", "message"), rows)
    return 1 if any(one.level == "bad" for one in found) else 0


def _look(home: Path) -> Iterator[Finding]:
    yield Finding("python", "good", f"{sys.version.split()[0]} at {sys.executable}")
    missing = [name for name in ("fastapi", "sqlalchemy", "uvicorn") if find_spec(name) is None]
    if missing:
        hint = 'pip install "mainspring[server]"'
        yield Finding("server packages", "notice", f"{', '.join(missing)} missing: no server can be started here.", hint)
    yield _git()
    yield from _home(home)
    try:
        client = connect(may_start=False)
        before = time.monotonic()
        status = client.clusters.status()
        took = time.monotonic() - before
    except ServerUnreachableError as wrong:
        yield Finding("server", "notice", wrong.message, "mainspring up")
        return
    except MainspringError as wrong:
        yield Finding("server", "bad", wrong.message, wrong.hint)
        return
    level = "good" if took < SLOW_S else "notice"
    yield Finding("server", level, f"{status.get('version')} at {status.get('url')}, answered in {took * 1000:.0f} ms")
    if status.get("version") != mainspring.__version__:
        yield Finding(
            "version", "notice", f"This is {mainspring.__version__}, the server {status.get('version')}.", "Use the same."
        )
    yield _clock(client)
    yield from _nodes(client)


def _git() -> Finding:
    if shutil.which("git"):
        return Finding("git", "good", "found")
    return Finding("git", "notice", "not found: commits are not recorded, .gitignore is read by us.", "Install git.")


def _home(home: Path) -> Iterator[Finding]:
    if not home.exists():
        yield Finding("home", "good", f"{home} is made at the first start")
        return
    mode = home.stat().st_mode & 0o777
    if mode & 0o077:
        yield Finding("home", "notice", f"{home} can be entered by others (mode {mode:o}).", f"chmod 700 {home}")
    elif not os.access(home, os.W_OK):
        yield Finding("home", "bad", f"{home} cannot be written.", "Set MAINSPRING_HOME to a folder of yours.")
    else:
        yield Finding("home", "good", str(home))
    token = home / "token"
    if token.exists() and token.stat().st_mode & 0o077:
        yield Finding("token", "bad", f"{token} can be read by others.", f"chmod 600 {token}")
    free = shutil.disk_usage(home).free
    level = "good" if free >= LOW_BYTES else "bad"
    yield Finding("disk", level, f"{show_bytes(free)} free under {home}", "" if level == "good" else "Free some space.")


def _clock(client: Client) -> Finding:
    answer = client.transport.get("/whoami")
    said = answer.headers.get("date", "")
    if not said:
        return Finding("clock", "good", "the server does not tell its time")
    skew = abs((datetime.now(UTC) - parsedate_to_datetime(said)).total_seconds())
    if skew > SKEW_S:
        return Finding(
            "clock", "notice", f"This clock and the server's are {skew:.0f} s apart.", "Leases do not mind; people do."
        )
    return Finding("clock", "good", "agrees with the server's")


def _nodes(client: Client) -> Iterator[Finding]:
    for one in client.clusters.all():
        cluster, nodes = one["cluster"], one["nodes"]
        ready = [node for node in nodes if node.get("state", "ready") == "ready"]
        level = "good" if ready else "bad"
        yield Finding(f"cluster {cluster['name']}", level, f"{len(ready)} of {len(nodes)} nodes ready")
        if cluster.get("message"):
            yield Finding(f"cluster {cluster['name']}", "notice", str(cluster["message"]))
