"""The server: start it, stop it, see it, open its page, back it up."""

from __future__ import annotations

import os
import time
import webbrowser
from importlib import import_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mainspring.cli import foreground
from mainspring.cli.connecting import connect
from mainspring.cli.options import Flag, Json, Yes
from mainspring.cli.output import age, done, emit_json, facts, note, say, state
from mainspring.cli.questions import confirm
from mainspring.cli.submit import busy
from mainspring.client.connection import find, home_folder, keep_flags, start
from mainspring.core.codec import parse_time
from mainspring.core.errors import ServerUnreachableError, StateError, UsageError
from mainspring.core.units import show_bytes

STOP_S = 15.0
Home = Annotated[
    Path | None, Parameter(name="--home", help="The installation's folder; default MAINSPRING_HOME, else ~/.mainspring.")
]


def up(
    *,
    home: Home = None,
    gpus: int | None = None,
    gpu_model: str = "",
    cpus: float | None = None,
    port: int | None = None,
    bind: str = "",
    advertise: str = "",
    insecure_http: Annotated[bool, Flag] = False,
    database_url: str = "",
    as_json: Json = False,
) -> None:
    """Start the server with its web page on this machine, which becomes the first pool. Does nothing when it runs.

    A command that needs a server and finds none starts it with the options of the last `up`.

    Examples: `mainspring up`, `mainspring up --gpus 2 --port 7000`.

    Parameters
    ----------
    gpus
        Declare so many GPUs instead of those that are found.
    gpu_model
        What to call declared GPUs.
    cpus
        Declare so many CPUs.
    port
        The port to listen on; default a free one, kept for later.
    bind
        An address to listen on beside loopback, with TLS by a certificate of its own; 0.0.0.0 for all.
    advertise
        Where machines and people elsewhere reach the server: https://HOST:PORT.
    insecure_http
        Listen there without TLS: whoever is on the way can read tokens.
    database_url
        postgresql+psycopg://… instead of SQLite under the home folder.
    """
    folder = (home or home_folder()).expanduser().absolute()
    flags: list[str] = []
    given = (
        ("gpus", gpus),
        ("gpu-model", gpu_model),
        ("cpus", cpus),
        ("port", port),
        ("bind", bind),
        ("advertise", advertise),
        ("database-url", database_url),
    )
    for name, value in given:
        if value not in (None, ""):
            flags += [f"--{name}", str(value)]
    if insecure_http:
        flags.append("--insecure-http")
    was_up = find(folder) is not None
    with busy("Starting the server"):
        told = start(folder, *flags)
    if not was_up:
        keep_flags(folder, flags)
    elif flags:
        note("The server runs already; its options stay as they were. mainspring down, then up, changes them.")
    if as_json:
        emit_json(told)
    else:
        already = "already " if was_up else ""
        say(f"Mainspring {told.get('version', '')} is {already}up at {told['url']} (pid {told['pid']}, {folder}).")
        if told.get("network_url"):
            say(f"From elsewhere: {told['network_url']}")
        if told.get("fingerprint"):
            say(f"Fingerprint of its certificate: {told['fingerprint']}")
        note("Open its page: mainspring ui     run something: mainspring run SCRIPT")


def down(*, home: Home = None, as_json: Json = False) -> None:
    """Stop the server. Runs go on; they report to the next server.

    Example: `mainspring down`.
    """
    folder = (home or home_folder()).expanduser().absolute()
    told = find(folder)
    if told is None:
        note(f"No server runs for {folder}.")
        if as_json:
            emit_json({"is_up": False, "home": str(folder), "pid": None})
        return
    connect(folder, may_start=False).clusters.shut_down()
    until = time.monotonic() + STOP_S
    with busy("Stopping the server"):
        while find(folder) is not None and time.monotonic() < until:
            time.sleep(0.05)
    if find(folder) is not None:
        raise StateError(f"The server (pid {told['pid']}) did not end within {STOP_S:g} s.", hint=f"See {folder / 'server.log'}")
    done({"is_up": False, "home": str(folder), "pid": told["pid"]}, "The server is down. Runs go on.", as_json=as_json)


def status(*, home: Home = None, as_json: Json = False) -> int:
    """Show where the server is and what it does; exit code 7 when there is none.

    Examples: `mainspring status`, `mainspring status --json`.
    """
    folder = (home or home_folder()).expanduser().absolute()
    try:
        told = connect(home, may_start=False).clusters.status()
    except ServerUnreachableError as wrong:
        if not as_json:
            raise
        emit_json({"is_up": False, "home": str(folder), "pid": None, "url": "", "version": "", "message": wrong.message})
        return wrong.exit_code
    if as_json:
        emit_json({"is_up": True, **told})
        return 0
    counts = told.get("counts") or {}
    gpus = told.get("gpus") or {}
    out = gpus.get("out", 0)
    facts(
        (
            ("State", state("ready")),
            ("Address", str(told.get("url", ""))),
            ("Version", str(told.get("version", ""))),
            ("Process", str(told.get("pid", ""))),
            ("Up for", age(parse_time(str(told["started_at"]))) if told.get("started_at") else ""),
            ("Home", str(told.get("home", ""))),
            ("Runs", ", ".join(f"{number} {name}" for name, number in counts.items()) or "none yet"),
            ("GPUs", f"{gpus.get('used', 0):g} of {gpus.get('total', 0)} in use" + (f", {out} taken out" if out else "")),
            ("Nodes", ", ".join(f"{number} {name}" for name, number in (told.get("nodes") or {}).items()) or "none yet"),
        )
    )
    return 0


def serve(
    *,
    home: Home = None,
    gpus: int | None = None,
    gpu_model: str = "",
    cpus: float | None = None,
    port: int | None = None,
    bind: str = "",
    advertise: str = "",
    insecure_http: Annotated[bool, Flag] = False,
    database_url: str = "",
) -> None:
    """Run the server in the foreground (what `up` starts)."""
    folder = (home or home_folder()).expanduser().absolute()
    given: dict[str, object] = {"home": folder, "gpus": gpus, "gpu_model": gpu_model, "cpus": cpus, "port": port, "bind": bind}
    foreground.serve({**given, "advertise": advertise, "insecure_http": insecure_http, "database_url": database_url})


def ui(*, print_only: Annotated[bool, Parameter(name="--print", negative=())] = False, as_json: Json = False) -> None:
    """Open the web page by a one-time link.

    Examples: `mainspring ui`, `mainspring ui --print` on a machine without a browser.

    Parameters
    ----------
    print_only
        Print the link (valid once, for 60 seconds) instead of opening a browser.
    """
    link = connect().people.login_link()
    if as_json:
        emit_json({"link": link})
    elif print_only or not webbrowser.open(link):
        say(link)
    else:
        note(f"Opened {link.partition('/login/')[0]}")


def backup(path: Path | None = None, /, *, as_json: Json = False) -> None:
    """Write a consistent copy of the database while the server runs: `mainspring backup copy.db`."""
    with busy("Writing the backup"):
        told = connect().clusters.backup(os.fspath(path.absolute()) if path else "")
    if as_json:
        emit_json(told)
    else:
        say(f"{told['path']} ({show_bytes(int(told['bytes']))})")


def restore(archive: Path, /, *, home: Home = None, yes: Yes = False, as_json: Json = False) -> None:
    """Put a backup in place of the database; the server must be down.

    Example: `mainspring restore copy.db`.
    """
    folder = (home or home_folder()).expanduser().absolute()
    if find(folder) is not None:
        raise StateError("The server is running.", hint="mainspring down")
    if not os.path.isfile(archive):
        raise UsageError(f"{archive} is not a file.", hint="mainspring backup writes one.")
    if (folder / "mainspring.db").exists():
        confirm(f"Replace the database under {folder}?", is_yes=yes)
    import_module("mainspring.app").restore(folder, archive)
    told = f"Restored {archive} to {folder}. mainspring up starts it."
    done({"archive": str(archive), "home": str(folder)}, told, as_json=as_json)
