"""Start a real PostgreSQL for tests: a free port on loopback, a folder of its own, ready when it answers, ended by pid.

Without the programs `find` returns None. PostgreSQL refuses to run as root: then it runs as `postgres`, or as `nobody`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from engines.sharing import end, free_ports, shared

READY_S = 60.0
_USER = "mainspring"
_GENTLY = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
# what tests write need not outlive them
_NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=300",
    "shared_buffers=64MB",
    "autovacuum=off",
    "jit=off",
    "log_min_messages=fatal",
)


@dataclass(frozen=True)
class Postgres:
    """A running server; each `new_database` is empty and apart from all others."""

    port: int
    pid: int
    folder: str

    def url(self, database: str) -> str:
        """Return the address of `database` for SQLAlchemy."""
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"test_{uuid.uuid4().hex[:16]}"
        self._run(f"CREATE DATABASE {name} STRATEGY file_copy")
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with _connect(self.port) as connection:
            connection.execute(statement)


def find() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs: Debian's folders, else the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).resolve().parent if program else None


def share(folder: Path, *, is_durable: bool = False) -> AbstractContextManager[Postgres]:
    """Share the server of `folder` with the other users of it. Blocks up to a minute."""
    settings = _SETTINGS if is_durable else _SETTINGS + _NOT_DURABLE
    return shared(folder, lambda: _start(settings), lambda engine: end(engine.pid, _GENTLY), Postgres)


def _start(settings: Sequence[str]) -> Postgres:
    programs = find()
    if programs is None:
        raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="mainspring-postgres-"))
    drop = _drop_root(folder)
    data = folder / "data"
    init = [*drop, str(programs / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    made = subprocess.run(init, capture_output=True, text=True, check=False, cwd=folder)
    if made.returncode:
        raise RuntimeError(f"initdb failed:\n{made.stderr[-2000:]}")
    for _ in range(3):  # a free port may be taken by somebody else before the server has it
        server = _try_start(programs, folder, data, drop, settings)
        if server is not None:
            return server
    raise RuntimeError("PostgreSQL does not start:\n" + (folder / "postgres.log").read_text()[-2000:])


def _try_start(programs: Path, folder: Path, data: Path, drop: list[str], settings: Sequence[str]) -> Postgres | None:
    (port,) = free_ports(1)
    command = [*drop, str(programs / "postgres"), "-D", str(data), "-p", str(port)]
    for setting in settings:
        command += ["-c", setting]
    with (folder / "postgres.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=folder)
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _connect(port).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
            continue
        return Postgres(port=port, pid=process.pid, folder=str(folder))
    end(process.pid, _GENTLY)
    return None


def _drop_root(folder: Path) -> list[str]:
    """Return the words that make a command run as an ordinary user who owns `folder`; none when we are one."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, user.pw_uid, user.pw_gid)
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody.")


def _connect(port: int) -> psycopg.Connection:
    return psycopg.connect(host="127.0.0.1", port=port, user=_USER, dbname="postgres", autocommit=True, connect_timeout=10)
