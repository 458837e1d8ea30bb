"""Find the server, or start the embedded one: two clients that begin at once make one server.

`MAINSPRING_URL` with `MAINSPRING_TOKEN` (and `MAINSPRING_CERTIFICATE`, a PEM file, for a server that vouches for itself), else a
login kept in `HOME/login.json`, else `HOME/server.json` with `HOME/token`;
HOME is `MAINSPRING_HOME`, default `~/.mainspring`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mainspring.client.client import Client
from mainspring.core.errors import AuthError, MainspringError, ServerUnreachableError, UsageError

try:
    import fcntl
except ImportError:  # no file locks on Windows: only Linux runs a server, WSL counts as Linux
    fcntl = None  # type: ignore[assignment]

READY_S = 60.0  # it takes 1.3 s; a disk that stands still is no reason to give up while its process lives
POLL_S = 0.03
UP = "up.json"
_shared: dict[tuple[str, str], Client] = {}
_lock = threading.Lock()


def home_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the installation's folder; makes nothing."""
    given = environ.get("MAINSPRING_HOME", "")
    return Path(given).expanduser().absolute() if given else Path.home() / ".mainspring"


def connect(
    home: Path | None = None, *, may_start: bool = True, on_start: Callable[[Path, str, tuple[str, ...]], None] | None = None
) -> Client:
    """Return a client of the server that is configured; starts the embedded one when there is none and `may_start`.

    It is started with the flags of the last `mainspring up`: the same GPUs, the same database. `on_start(home, url, flags)` is
    called when it was. The same client is handed out again while its server lives.

    Raises ServerUnreachableError, AuthError.
    """
    remote = _remote(home)
    if remote is not None:
        return _share(remote[0], remote[1], None, remote[2])
    folder = home or home_folder()
    found = find(folder)
    if found is None and may_start:
        if "MAINSPRING_ATTEMPT" in os.environ:
            raise UsageError(
                "Code inside a run cannot reach the server: it has no address and no token.",
                hint="Submit from outside the run; what a script submits belongs under: if __name__ == '__main__'",
            )
        flags = kept_flags(folder)
        found = start(folder, *flags)
        if on_start is not None:
            on_start(folder, str(found["url"]), flags)
    if found is None:
        raise ServerUnreachableError(f"No server runs for {folder}.", hint="mainspring up")
    return _share(found["url"], read_token(folder), folder)


def find(home: Path) -> dict[str, Any] | None:
    """Return what `HOME/server.json` says when its process lives, else None."""
    try:
        told = json.loads((home / "server.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("pid"), int) or not isinstance(told.get("url"), str):
        return None
    return told if _lives(told) else None


def start(home: Path, *flags: str, wait_s: float = READY_S) -> dict[str, Any]:
    """Start the embedded server of `home` with `flags`, unless one runs; return its `server.json` once it answers.

    Raises ServerUnreachableError with the end of `HOME/server.log` when it does not come up.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as wrong:
        raise UsageError(f"{home} cannot be made: {wrong.strerror}.", hint="Set MAINSPRING_HOME to a folder of yours.") from wrong
    with _only_one(home):
        found = find(home)
        if found is not None:
            return found
        log = home / "server.log"
        environ = {name: value for name, value in os.environ.items() if name not in ("MAINSPRING_URL", "MAINSPRING_TOKEN")}
        with log.open("ab") as out:
            begin = out.tell()
            child = subprocess.Popen(
                [sys.executable, "-m", "mainspring.cli.main", "server", "--home", str(home), *flags],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=home,
                env=environ,
            )
        return _ready(home, child, log, begin, wait_s)


def keep_flags(home: Path, flags: Sequence[str]) -> None:
    """Keep the flags of a server that was started by hand, for the one that a later command may have to start.

    Where they cannot be written that one has none: the server is up, which was asked for.
    """
    with contextlib.suppress(OSError):
        _write_private(home / UP, list(flags))


def kept_flags(home: Path) -> tuple[str, ...]:
    """Return them; none where none were kept, or the file is damaged."""
    try:
        told = json.loads((home / UP).read_text())
    except (OSError, ValueError):
        return ()
    return tuple(told) if isinstance(told, list) and all(isinstance(word, str) for word in told) else ()


def read_token(home: Path) -> str:
    """Return the embedded token. Warns when others may read it; raises AuthError when it cannot be read."""
    path = home / "token"
    try:
        if path.stat().st_mode & 0o077:
            warnings.warn(f"{path} can be read by others; run: chmod 600 {path}", stacklevel=2)
        return path.read_text().strip()
    except OSError as wrong:
        raise AuthError(f"{path} cannot be read: {wrong.strerror}.", hint="It belongs to whoever started the server.") from wrong


def save_login(home: Path, url: str, token: str, certificate: str = "") -> Path:
    """Keep a remote server's address and token for later commands (0600), and its own certificate; return the file."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return _write_private(home / "login.json", {"url": url, "token": token, "certificate": certificate})


def forget() -> None:
    """Close every shared client; the next `connect` looks again."""
    with _lock:
        for client in _shared.values():
            client.close()
        _shared.clear()


def shown_certificate(url: str) -> tuple[str, str]:
    """Return the certificate (PEM) that a server shows, and its fingerprint. Raises ServerUnreachableError."""
    parts = urlsplit(url)
    try:
        pem = ssl.get_server_certificate((parts.hostname or "", parts.port or 443), timeout=10)
    except OSError as wrong:
        raise ServerUnreachableError(f"{url} does not answer: {wrong}.", hint="Is the address right?") from wrong
    return pem, hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def _write_private(path: Path, value: object) -> Path:
    descriptor = os.open(path.with_suffix(".tmp"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file)
    return path.with_suffix(".tmp").replace(path)


def _remote(home: Path | None) -> tuple[str, str, str] | None:
    url = os.environ.get("MAINSPRING_URL", "") if home is None else ""
    if url:
        token = os.environ.get("MAINSPRING_TOKEN", "")
        if not token:
            raise AuthError(
                "MAINSPRING_URL is set and MAINSPRING_TOKEN is not.",
                hint="Make a token where you are known (mainspring token add NAME, or the page's settings) and put it there, "
                "or unset MAINSPRING_URL and keep both: mainspring login URL",
            )
        return url, token, _certificate(os.environ.get("MAINSPRING_CERTIFICATE", ""))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(((home or home_folder()) / "login.json").read_text())
        return str(kept["url"]), str(kept["token"]), str(kept.get("certificate") or "")
    return None


def _certificate(path: str) -> str:
    try:
        return Path(path).read_text() if path else ""
    except OSError as wrong:
        raise UsageError(f"MAINSPRING_CERTIFICATE cannot be read: {wrong.strerror}.", hint=f"It names {path}.") from wrong


def _share(url: str, token: str, home: Path | None, certificate: str = "") -> Client:
    with _lock:
        if (url, token) not in _shared:
            _shared[url, token] = Client.open(url, token, home=home, certificate=certificate)
        return _shared[url, token]


def _lives(told: dict[str, Any]) -> bool:
    """Say whether the process that wrote the file is there: start time and boot id must agree where /proc has them."""
    try:
        os.kill(told["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{told['pid']}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "Z" or (told.get("start_time") and int(fields[19]) != told["start_time"]):
            return False
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        if told.get("boot_id") and told["boot_id"] != boot:
            return False
    return True


def _ready(home: Path, child: subprocess.Popen[bytes], log: Path, begin: int, wait_s: float) -> dict[str, Any]:
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        found = find(home)
        if found is not None and found["pid"] == child.pid and _answers(home, found["url"]):
            return found
        code = child.poll()
        if code is not None:
            raise ServerUnreachableError(
                f"The server ended at once (exit code {code}): {_last_words(log, begin)}", hint=f"The whole story is in {log}"
            )
        time.sleep(POLL_S)
    raise ServerUnreachableError(f"The server did not answer within {wait_s:g} s.", hint=f"See {log}")


def _answers(home: Path, url: str) -> bool:
    try:
        client = Client.open(url, (home / "token").read_text().strip())
    except OSError:
        return False
    client.transport.pause = lambda _: None
    try:
        return bool(client.clusters.status().get("ready"))
    except MainspringError:
        return False
    finally:
        client.close()


def _last_words(log: Path, begin: int) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
        return " ".join(lines[-3:])[:600]
    return "no log"


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold HOME/start.lock: who comes second waits and then finds the first one's server."""
    with (home / "start.lock").open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
