"""The way to an engine on another machine: the system's ssh leads a socket of ours to the engine's socket over there.

Nothing is needed there but sshd and the engine. The ssh process ends with ours, as it waits for the end of its input.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mainspring.backends.openssh import Login, explain, sockets, with_host_key, words
from mainspring.core.errors import CredentialsError, LaunchError, UnreachableError

READY_S = 8.0
AGAIN_S = 5.0  # a machine that was away is asked again after that
_HOST = re.compile(r"[A-Za-z0-9][\w.-]*\Z|[0-9a-fA-F:]+\Z")


@dataclass(slots=True)
class Road:
    """One kept connection, begun anew when it has ended. Thread safe."""

    login: Login
    there: str  # the engine's socket on the other machine
    _process: subprocess.Popen[bytes] | None = None
    _here: Path | None = None
    _wrong: Exception | None = None
    _not_before: float = 0.0
    _is_closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> Path:
        """Return the socket on this machine that leads there. Raises UnreachableError, CredentialsError, LaunchError."""
        with self._lock:
            if self._process is not None and self._process.poll() is None and self._here is not None:
                return self._here
            if self._wrong is not None and time.monotonic() < self._not_before:
                raise self._wrong
            if self._is_closed:
                raise UnreachableError(f"Nobody asks {self.login.host} any more.")
            try:
                self._here = with_host_key(self.login, self._begin)
            except (UnreachableError, CredentialsError, LaunchError) as wrong:
                self._wrong, self._not_before = wrong, time.monotonic() + AGAIN_S
                raise
            self._wrong = None
            return self._here

    def forget_trouble(self) -> None:
        """Let the next call try at once."""
        with self._lock:
            self._wrong = None

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            self._is_closed = True
            self._end()

    def _begin(self) -> Path:
        self._end()
        login = self.login
        login.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = secrets.token_hex(6)
        control, here = sockets(login.folder) / name, sockets(login.folder) / f"{name}.sock"
        complaints = login.folder / f"ssh-{name}.log"
        master = ("ControlMaster=yes", f"ControlPath={control}", "ControlPersist=no")
        try:
            with complaints.open("wb") as log:
                self._process = subprocess.Popen(
                    [*words(login, *master), "--", login.host, "exec cat >/dev/null"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as wrong:
            raise UnreachableError(f"ssh cannot be started: {wrong.strerror}.", hint="apt-get install openssh-client") from wrong
        until = time.monotonic() + READY_S
        while not control.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                self._end()
                told = complaints.read_text(errors="replace")
                complaints.unlink(missing_ok=True)
                raise explain(login, 255, told)
            time.sleep(0.01)
        complaints.unlink(missing_ok=True)
        asked = ["ssh", "-S", str(control), "-O", "forward", "-L", f"{here}:{self.there}", login.host]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=READY_S, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            self._end()
            raise LaunchError(f"{login.host} cannot be led to: {done.stderr.strip()[-200:]}")
        return here

    def _end(self) -> None:
        process, here = self._process, self._here
        self._process = self._here = None
        if process is not None:
            with contextlib.suppress(OSError):
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2.0)
        if here is not None:
            here.unlink(missing_ok=True)


def road_of(host: str, config: Mapping[str, object], folder: Path, socket: str) -> Road:
    """Return the road for `ssh://USER@HOST:PORT/PATH/OF/SOCKET`; without a path it is `socket`. Raises LaunchError."""
    try:
        parts = urlsplit(host)
        port = parts.port or 0
    except ValueError as wrong:
        raise LaunchError(f"--host {host[:80]!r} is none: {wrong}.", hint="ssh://USER@HOST or ssh://USER@HOST:PORT") from wrong
    name = parts.hostname or ""
    if not _HOST.match(name) or parts.password or parts.query or parts.fragment or ":" in unquote(parts.path):
        raise LaunchError(f"--host {name[:80]!r} names no machine.", hint="ssh://USER@HOST or ssh://USER@HOST:PORT")
    options, keys = config.get("ssh_option"), config.get("host_key")
    login = Login(
        host=name,
        folder=folder / "hosts" / name,
        user=unquote(parts.username or ""),
        port=port,
        key=str(Path(str(config["key"])).expanduser()) if config.get("key") else "",
        config=str(config.get("ssh_config") or ""),
        options=tuple(str(one) for one in options) if isinstance(options, list | tuple) else (),
        accepted=tuple(str(one) for one in keys) if isinstance(keys, list | tuple) else (),
        accepts_new=bool(config.get("accept_new")),
    )
    return Road(login=login, there=unquote(parts.path) if len(parts.path) > 1 else socket)
