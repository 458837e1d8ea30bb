"""The system's OpenSSH client for every engine that needs another machine: its words, host keys, and what its refusals mean.

The user's own configuration, agent and jump hosts hold; what is said here comes before them. Nothing is ever asked on a terminal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mainspring.core.errors import BackendError, CredentialsError, LaunchError, UnreachableError

Found = TypeVar("Found")
CONNECT_S = 5
KEEP_S = 600  # how long a connection for single commands stays open without any
NO_PYTHON = 69  # exit status of REMOTE where there is no Python that serves
NO_USER = 67  # of AS_USER, where nobody has that name, or root has it
_PYTHONS = ("python3", "python3.13", "python3.12", "python3.11", "python3.10", "python3.9", "/usr/bin/python3")
# No single quote may be in it: the login shell over there (sh, csh, fish) gets all of it as one word.
_REMOTE = (
    'for p in {pythons}; do if "$p" -c "import sys; sys.exit(sys.version_info < (3, 9))" </dev/null 2>/dev/null; then '
    'exec "$p" -I -S -c "import json,sys;exec(json.loads(sys.stdin.buffer.readline()))"; fi; done; exit {no_python}'
)
# It becomes another user: root by itself, others as far as sudo lets them without a password.
_AS_USER = (
    'cd /; n=$(id -u {user} 2>/dev/null) || exit {no_user}; [ "$n" != 0 ] || exit {no_user}; s=$1; '
    'if [ "$(id -u)" = "$n" ]; then set -- env; elif [ "$(id -u)" = 0 ]; then set -- runuser -u {user} -- env; '
    'else set -- sudo -n -u {user} -- env; fi; exec "$@" -u HOME USER={user} LOGNAME={user} sh -c "$s"'
)
MAX_BASE = 48
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # what a user of a unix system may be called, without any sign of a shell
_PLAIN = re.compile(r"[\w./~+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How one host is reached. `folder` is ours: accepted host keys are kept there.

    `accepted` are fingerprints of host keys (`SHA256:...`) that somebody has accepted; with `accepts_new` the first key that
    a host shows is accepted. `options` are further words for `-o`. `python` is the one to use there.
    """

    host: str
    folder: Path
    user: str = ""
    port: int = 0
    key: str = ""
    config: str = ""
    options: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    accepts_new: bool = False
    python: str = ""

    @property
    def known_hosts(self) -> Path:
        """Return the file of the host keys that were accepted here; the user's own file counts too."""
        return self.folder / "known_hosts"

    def mend(self, command: str, *, program: str = "ssh") -> str:
        """Return the command that logs in by hand, or copies the key to where it is wanted."""
        words = [program, *(["-p", str(self.port)] if self.port else []), *(["-i", self.key] if self.key else [])]
        return shlex.join([*words, f"{self.user}@{self.host}" if self.user else self.host, *([command] if command else [])])


def words(login: Login, *more: str) -> list[str]:
    """Return ssh's words up to the host, with `more` options before all others."""
    known = f'UserKnownHostsFile="{login.known_hosts}" ~/.ssh/known_hosts ~/.ssh/known_hosts2'
    found = ["ssh", "-T", *(["-F", login.config] if login.config else [])]
    for option in (
        *more,
        *login.options,
        "BatchMode=yes",
        f"ConnectTimeout={CONNECT_S}",
        "ConnectionAttempts=1",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=2",
        "StrictHostKeyChecking=yes",
        known,
        "LogLevel=INFO",
        "ForwardAgent=no",
        "ForwardX11=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "EscapeChar=none",
    ):
        found += ["-o", option]
    found += ["-l", login.user] if login.user else []
    found += ["-p", str(login.port)] if login.port else []
    found += ["-i", login.key] if login.key else []
    return found


def remote_python(python: str = "", user: str = "") -> str:
    """Return the command that starts a Python 3.9 or newer over there; it reads its program, as JSON, from the first line.

    It runs as `user` if one is named, in that user's home. Raises LaunchError.
    """
    if python and not _PLAIN.fullmatch(python):
        raise LaunchError(f"{python[:60]!r} cannot name a Python: give a path or a name without blanks and quotes.")
    script = _REMOTE.format(pythons=python or " ".join(_PYTHONS), no_python=NO_PYTHON)
    if not user:
        return f"exec sh -c '{script}'"
    if not USER.fullmatch(user):
        raise LaunchError(f"{user[:60]!r} cannot name a user of a host.")
    return f"exec sh -c '{_AS_USER.format(user=user, no_user=NO_USER)}' sh '{script}'"


def first_line(program: str) -> bytes:
    """Return what `remote_python` is to read first."""
    return json.dumps(program).encode() + b"\n"


def run_python(login: Login, program: str, text: str, limit_s: float = 20.0) -> str:
    """Run a Python program on the host with `text` on its standard input and return what it printed.

    The connection is kept for the next one. Raises UnreachableError, CredentialsError, LaunchError.
    """
    control = sockets(login.folder) / hashlib.sha256(f"{login.user}@{login.host}:{login.port}".encode()).hexdigest()[:12]
    kept = ("ControlMaster=auto", f"ControlPath={control}", f"ControlPersist={KEEP_S}")

    def attempt() -> str:
        command = [*words(login, *kept), "--", login.host, remote_python(login.python)]
        code, out, err = _call(command, first_line(program) + text.encode(), limit_s)
        if code != 0:
            raise explain(login, code, err)
        return out

    return with_host_key(login, attempt)


def with_host_key(login: Login, attempt: Callable[[], Found]) -> Found:
    """Return what `attempt` does; once more when the host's key was not known and is one that was accepted.

    Raises what it raises; CredentialsError with the fingerprint when nobody has accepted the key.
    """
    try:
        return attempt()
    except UnknownKeyError:
        learn(login)
        return attempt()


class UnknownKeyError(CredentialsError):
    """The host's key is in no list of known ones."""


def learn(login: Login) -> None:
    """Keep the key that the host shows if it was accepted. Raises CredentialsError, UnreachableError."""
    login.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=login.folder) as folder:
        shown = Path(folder) / "shown"
        asking = (f'UserKnownHostsFile="{shown}"', "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=accept-new")
        nobody = ("PreferredAuthentications=none", "ControlPath=none", "HashKnownHosts=no")
        code, _, err = _call([*words(login, *asking, *nobody), "--", login.host, "true"], b"", 2.0 * CONNECT_S)
        if not shown.exists():
            raise explain(login, code, err)
        _, told, _ = _call(["ssh-keygen", "-l", "-f", str(shown)], b"", CONNECT_S)
        prints = re.findall(r"SHA256:\S+", told)
        if not login.accepts_new and not set(prints) & set(login.accepted):
            found = ", ".join(prints) or "unreadable"
            raise CredentialsError(
                f"Nobody has accepted the host key of {login.host} yet: {found}.",
                hint=f"Log in by hand once and accept it: {login.mend('true')}",
                details={"fingerprints": prints},
            )
        with login.known_hosts.open("a") as file:
            file.write(shown.read_text())


def explain(login: Login, code: int | None, told: str, user: str = "") -> BackendError:
    """Return what ssh's complaint means, or that of whatever lets us be `user` there."""
    host, last = login.host, _last_line(told)
    if user and code == NO_USER:
        return LaunchError(f"{host} has no user {user} whose runs it may start.", hint=login.mend(f"sudo useradd -m {user}"))
    if user and (last.startswith(("sudo:", "runuser:")) or "sudo: not found" in told):
        line = f"{login.user or 'LOGIN'} ALL=({user}) NOPASSWD: ALL"
        return LaunchError(f"{host} does not let us be {user}: {last}", hint=f"In its sudoers, by visudo: {line}")
    if code == NO_PYTHON:
        return LaunchError(
            f"There is no Python 3.9 or newer on {host}" + (f" named {login.python}." if login.python else "."),
            hint=f"{login.mend('sudo apt-get install -y python3')}; or name one: --python /path/to/python3",
        )
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in told:
        return CredentialsError(
            f"{host} shows another host key than before: it was installed anew, or somebody stands in between.",
            hint=f"If it is right: ssh-keygen -R {host} -f {login.known_hosts}",
        )
    if "Host key verification failed" in told or "host key is known for" in told:
        return UnknownKeyError(f"The host key of {host} is not known.")
    if login.key and "not accessible: No such file" in told:
        return CredentialsError(f"The key {login.key} is not there.", hint="Name one: --key ~/.ssh/id_ed25519")
    if "Permission denied" in told or "Too many authentication failures" in told or "UNPROTECTED PRIVATE KEY" in told:
        who = f" for {login.user}" if login.user else ""
        return CredentialsError(f"{host} refuses the key{who}: {last}", hint=login.mend("", program="ssh-copy-id"))
    sentence = f"{host} cannot be reached: {last or 'ssh ended without a word'}.".replace("..", ".")
    return UnreachableError(sentence, hint=f"Try by hand: {login.mend('true')}")


def sockets(folder: Path) -> Path:
    """Return a folder for control sockets, private and short: the kernel takes 108 bytes of a path."""
    mark = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108  (private, see below)
        if not base or len(base) > MAX_BASE or not os.access(base, os.W_OK):
            continue
        found = Path(base) / f"mainspring-{os.getuid()}-{mark}"
        with contextlib.suppress(FileExistsError):
            found.mkdir(mode=0o700)
        seen = found.lstat()
        if seen.st_uid == os.getuid() and seen.st_mode & 0o777 == 0o700:
            return found
    raise UnreachableError("There is no folder for the sockets of ssh: neither XDG_RUNTIME_DIR nor the temporary folder serves.")


def _call(command: Sequence[str], text: bytes, limit_s: float) -> tuple[int, str, str]:
    try:
        done = subprocess.run(command, input=text, capture_output=True, timeout=limit_s, check=False)
    except FileNotFoundError as wrong:
        raise UnreachableError("ssh is not installed here.", hint="apt-get install openssh-client") from wrong
    except subprocess.TimeoutExpired:
        return 255, "", f"no answer within {limit_s:g} s"
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def _last_line(told: str) -> str:
    lines = [line.strip() for line in told.splitlines() if line.strip() and not line.startswith("Warning: Permanently added")]
    return lines[-1][:300] if lines else ""
