"""What fills an environment: uv where there is one or one can be had, else venv and pip. Why it failed, in a sentence.

uv is looked for on the PATH, then among the tools of the cache, then in the wheels that came with the run, then asked of pip.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

PASSED_ON = ("UV_", "PIP_", "SSL_", "NETRC", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PIP_REQUIRE_VIRTUALENV", "MAINSPRING_FAULT")
_MAX_LINES = 2000
_MAX_LINE = 400
_TAIL_BYTES = 16384
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PINNED = re.compile(
    r"^[A-Za-z0-9][A-Za-z0-9._-]* ?(\[[A-Za-z0-9._, -]*\])? ?"
    r"(===? ?[^\s;*,]+|@ ?(https?|git\+https?|git\+ssh)://[^\s]+)( ?;((?! -).)*)?$"  # no option hides behind a marker
)
_HASH = re.compile(r"^--hash=sha(256|384|512):[0-9a-f]+$")
_OPTION = re.compile(
    r"^(--pre|--prefer-binary|(-i|--index-url|--extra-index-url|-f|--find-links)[ =]https?://\S+|--(no|only)-binary[ =]\S+)$"
)
_FULL = ("no space left on device", "disk quota exceeded", "os error 28")
# What another node, or the same one later, may well do better. What uv and pip say when an index cannot be asked.
_AWAY = (
    "error sending request",
    "failed to fetch",
    "dns error",
    "name resolution",
    "connection refused",
    "connection reset",
    "connection broken",
    "network is unreachable",
    "tcp connect error",
    "timed out",
    "http error 5",
    "newconnectionerror",
    "service unavailable",
    "bad gateway",
    "network was disabled",
)


class NotBuiltError(Exception):
    """The environment cannot be built. `is_users`: its lock is at fault, and no other node would do better."""

    def __init__(self, sentence: str, is_users: bool, is_full: bool = False) -> None:
        super().__init__(sentence)
        self.is_users = is_users
        self.is_full = is_full


class StoppedError(Exception):
    """The run was stopped while its environment was built."""


class Shell:
    """Runs the tools of a build: their lines go to `say`, a stop ends them, and they keep `locks` while they live."""

    def __init__(
        self, env: dict[str, str], secrets: list[str], say: Callable[[str], None], is_stopped: Callable[[], bool]
    ) -> None:
        self.env = env
        self.locks: list[int] = []
        self._secrets = secrets
        self._say = say
        self._is_stopped = is_stopped
        self._lines = 0

    def run(self, words: list[str], is_told: bool = True) -> tuple[int, str]:
        """Return (exit status, the end of what it printed). Raises StoppedError, OSError."""
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.env,
            cwd="/",
            start_new_session=True,
            pass_fds=self.locks,
        )
        seen = b""
        waiting = b""
        assert child.stdout is not None  # noqa: S101  (asked for above)
        with child.stdout as out, selectors.DefaultSelector() as ready:
            ready.register(out, selectors.EVENT_READ)
            while True:
                if self._is_stopped():
                    _kill(child)
                    raise StoppedError
                if not ready.select(0.2):
                    continue
                piece = os.read(out.fileno(), 65536)
                if not piece:
                    break
                seen = (seen + piece)[-_TAIL_BYTES:]
                *lines, waiting = (waiting + piece).replace(b"\r", b"\n").split(b"\n")
                if is_told:
                    self._tell(lines)
        if is_told and waiting:
            self._tell([waiting])
        return child.wait(), self._clean(seen)

    def _tell(self, lines: list[bytes]) -> None:
        for line in lines:
            text = self._clean(line).strip()
            if text and self._lines < _MAX_LINES:
                self._lines += 1
                self._say(f"environment: {text[:_MAX_LINE]}")

    def _clean(self, data: bytes) -> str:
        text = _ESCAPES.sub("", data.decode("utf-8", "replace"))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _kill(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    child.wait()


def build_env(given: Mapping[str, str], spool: str) -> tuple[dict[str, str], list[str]]:
    """Return (the environment of the tools, values that must not be told). `given` is that of user code: its secrets stay out.

    What tells uv and pip where packages are, and by which right, is passed on. `spool` marks them as the attempt's own.
    """
    env = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    passed = {name: value for name, value in given.items() if name.upper().startswith(PASSED_ON) and name not in _LEFT_OUT}
    env.update(passed)
    env.update(MAINSPRING_SPOOL=spool, NO_COLOR="1", UV_NO_PROGRESS="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    secrets = [part for value in passed.values() for part in re.findall(r"://([^/@\s]+)@", value)]
    secrets += [value for name, value in passed.items() if "PASSWORD" in name.upper() or "TOKEN" in name.upper()]
    return env, [one for one in secrets if one]


def check_lock(text: str) -> bool:
    """Return whether all of it is hashed. Raises NotBuiltError for a line that is no pinned package: a lock is data."""
    hashed = []
    for line in _joined(text):
        words = line.replace("--hash ", "--hash=").split(" ")
        hashes = [word for word in words if word.startswith("--hash=")]
        said = " ".join(words[: len(words) - len(hashes)])
        is_fine = (_OPTION if said.startswith("-") else _PINNED).match(said) and all(_HASH.match(one) for one in hashes)
        if not is_fine or words[len(words) - len(hashes) :] != hashes:
            raise NotBuiltError(f"{line[:100]!r} in the lock is no pinned package; write NAME==VERSION.", is_users=True)
        if not said.startswith("-"):
            hashed.append(bool(hashes))
    return bool(hashed) and all(hashed)


def _joined(text: str) -> list[str]:
    lines = [re.sub(r"(?:^|\s)#.*$", "", line) for line in text.replace("\\\n", " ").splitlines()]
    return [" ".join(line.split()) for line in lines if line.strip()]


def fill(shell: Shell, place: str, python: str, lock: str, wheels: str, tools: str) -> str:
    """Make the environment `place` of `python` and install what the file `lock` names; return what did it.

    Wheels of the folder `wheels`, if there is one, are all that is asked first; an index only where they do not do.
    Raises NotBuiltError, StoppedError, OSError.
    """
    with open(lock, encoding="utf-8", errors="replace") as file:
        is_hashed = check_lock(file.read())
    uv = find_uv(shell, tools) or _get_uv(shell, python, tools, wheels)
    act = _with_uv if uv else _with_pip
    first: NotBuiltError | None = None
    if wheels:
        code, text = act(shell, uv or python, place, python, [*_offline(wheels, bool(uv)), *_hashed(is_hashed), lock], tools)
        if code == 0:
            return uv or "pip"
        first = _failed(code, text)
        if first.is_full:
            raise first
        remove(place)
    code, text = act(shell, uv or python, place, python, [*_hashed(is_hashed), lock], tools)
    if code != 0:
        failed = _failed(code, text)
        if first is not None and not failed.is_users:
            raise NotBuiltError(f"{first} That is of the wheels that came with the run. {failed}", first.is_users)
        raise failed
    return uv or "pip"


def _offline(wheels: str, is_uv: bool) -> list[str]:
    return [*(["--offline"] if is_uv else []), "--no-index", "--find-links", wheels]


def _hashed(is_hashed: bool) -> list[str]:
    return ["--require-hashes"] if is_hashed else []


def _with_uv(shell: Shell, uv: str, place: str, python: str, asked: list[str], tools: str) -> tuple[int, str]:
    cache = ["--cache-dir", os.path.join(tools, "cache")]
    code, text = shell.run([uv, "venv", "--no-project", "--python", python, *cache, place], is_told=False)
    if code != 0:
        return code, text
    words = [uv, "pip", "sync", "--python", os.path.join(place, "bin", "python"), "--compile-bytecode", *cache]
    if "--require-hashes" in asked:  # whatever index a file comes from, it is the one that was locked
        words += ["--index-strategy", "unsafe-best-match"]
    return shell.run([*words, "--link-mode", "hardlink", "--allow-empty-requirements", *asked])


def _with_pip(shell: Shell, python: str, place: str, _same: str, asked: list[str], _tools: str) -> tuple[int, str]:
    install = ["install", "--no-deps", "--no-cache-dir", "--quiet", *asked[:-1], "-r", asked[-1]]
    mine = os.path.join(place, "bin", "python")
    code, text = shell.run([python, "-m", "venv", "--without-pip", place], is_told=False)
    if code == 0 and shell.run([python, "-m", "pip", "--python", mine, "--version"], is_told=False)[0] == 0:
        return shell.run([python, "-m", "pip", "--python", mine, *install])
    remove(place)
    code, text = shell.run([python, "-m", "venv", place], is_told=False)  # a pip too old to install elsewhere, or none: its own
    if code == 0:
        return shell.run([mine, "-m", "pip", *install])
    if _is_full(text):
        return code or 1, text
    sentence = f"This node has neither uv nor a pip for {python}, and no index to get one from."
    raise NotBuiltError(f"{sentence} Install uv there, or send its wheel along: mainspring run --wheels.", is_users=False)


def find_uv(shell: Shell, tools: str) -> str:
    """Return the uv of this node, empty where there is none."""
    home = shell.env.get("HOME") or "/"
    places = [
        *(shell.env.get("PATH") or os.defpath).split(os.pathsep),
        *(os.path.join(home, one, "bin") for one in (".local", ".cargo")),
    ]
    for folder in [*places, tools]:
        path = os.path.join(folder or ".", "uv")
        try:
            if os.access(path, os.X_OK) and shell.run([path, "--version"], is_told=False)[0] == 0:
                return os.path.abspath(path)
        except OSError:
            continue  # of another platform
    return ""


def _get_uv(shell: Shell, python: str, tools: str, wheels: str) -> str:
    """Put uv among the tools: out of a wheel that came along, else by pip; empty where neither does."""
    os.makedirs(tools, mode=0o700, exist_ok=True)
    draft = os.path.join(tools, f"uv.{os.getpid()}")
    names = sorted(os.listdir(wheels)) if wheels else []
    mine = os.path.join(tools, "uv")
    try:
        for name in names:
            is_uv = name.startswith("uv-") and name.endswith(".whl")
            if is_uv and _unpack_uv(os.path.join(wheels, name), draft) and _takes(shell, draft, mine):
                return mine
        folder = draft + ".d"
        words = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir", "--target", folder, "uv"]
        has_pip = not wheels and shell.run([*words[:3], "--version"], is_told=False)[0] == 0
        if has_pip and shell.run(words, is_told=False)[0] == 0:
            os.replace(os.path.join(folder, "bin", "uv"), draft)
            if _takes(shell, draft, mine):
                return mine
        return ""
    finally:
        shutil.rmtree(draft + ".d", ignore_errors=True)
        if os.path.exists(draft):
            os.unlink(draft)


def _unpack_uv(wheel: str, draft: str) -> bool:
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next((one for one in archive.namelist() if one.endswith(".data/scripts/uv")), "")
            if not name:
                return False
            with archive.open(name) as source, open(draft, "wb") as file:
                shutil.copyfileobj(source, file)
    except (zipfile.BadZipFile, EOFError):
        return False
    return True


def _takes(shell: Shell, draft: str, target: str) -> bool:
    os.chmod(draft, 0o755)  # noqa: S103  (a program)
    try:
        if shell.run([draft, "--version"], is_told=False)[0] != 0:
            return False
    except OSError:
        return False  # of another platform
    os.replace(draft, target)
    return True


def remove(place: str) -> None:
    """Remove a tree, of which folders may be read-only. Raises OSError."""
    if not os.path.lexists(place):
        return
    for parent, _, _ in os.walk(place):
        os.chmod(parent, stat.S_IRWXU)
    shutil.rmtree(place)


def _is_full(text: str) -> bool:
    return any(word in text.casefold() for word in _FULL)


def _failed(code: int, text: str) -> NotBuiltError:
    """Return why it failed: the disk, the way to the index, or the lock itself."""
    if _is_full(text):
        return NotBuiltError("The disk of this node is full.", is_users=False, is_full=True)
    if code < 0:
        return NotBuiltError(f"The tool that builds it was ended by signal {-code}.", is_users=False)
    lines = [line.strip(" │╰─▶├") for line in text.splitlines() if line.strip(" │╰─▶├×")]
    told = " ".join(lines[-6:])[-600:]
    if any(word in text.casefold() for word in _AWAY):
        return NotBuiltError(f"The package index cannot be reached from this node ({told}).", is_users=False)
    return NotBuiltError(f"Its lock cannot be installed here: {told}", is_users=True)


def describe(python: str, shell: Shell) -> dict[str, Any]:
    """Return what an interpreter is: version, platform, libc. Raises NotBuiltError."""
    import json

    code, text = shell.run([python, "-I", "-c", _ASK], is_told=False)
    try:
        told: dict[str, Any] = json.loads(text.splitlines()[-1])
    except (ValueError, IndexError):
        raise NotBuiltError(f"{python} does not work on this node: {text[-200:] or code}", is_users=False) from None
    return told


_ASK = (
    "import json,platform,sys,sysconfig as s;"
    "print(json.dumps({'implementation':sys.implementation.name,'version':platform.python_version(),"
    "'platform':s.get_platform(),'libc':'-'.join(platform.libc_ver()),'abi':s.get_config_var('EXT_SUFFIX') or '',"
    "'base':sys.base_prefix}))"
)
