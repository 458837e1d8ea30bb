"""What runs where Slurm's commands are: writes files, runs commands, reads files; the standard library of Python 3.9 alone.

One JSON object on standard input, {write, run, read, remove}, carried out in this order; one JSON object as the answer.
A command may begin with NAME=VALUE, as in a shell, and may have an environment of its own: `env`, over it those of this one whose
names are in `passed`. `login` asks for the environment that its user finds after a login, `python` where a word leads in `env`.
Nothing of Slurm is known here.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from typing import Any

LIMIT_S = 15
MAX_READ = 1 << 20


def main() -> None:
    """Carry out what standard input asks; the answer is the last line, whatever profiles have printed before."""
    sys.stdout.write("\n" + json.dumps(carry_out(json.load(sys.stdin))))


def carry_out(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the answer."""
    for item in asked.get("write", ()):
        _write(os.path.expanduser(item["path"]), base64.b64decode(item["data"]), bool(item.get("is_kept")))
    unread: dict[str, str] = {}
    answer = {
        "home": os.path.expanduser("~"),
        "python": sys.version.split()[0],
        "run": [_run(command) for command in asked.get("run", ())],
        "read": {path: _read(os.path.expanduser(path), unread) for path in asked.get("read", ())},
        "unread": unread,
    }
    if asked.get("login"):
        answer["login"] = _login()
    if asked.get("python"):
        answer["python_place"] = _python(asked["python"], asked["env"])
    for path in asked.get("remove", ()):
        shutil.rmtree(os.path.expanduser(path), ignore_errors=True)
    return answer


def _write(path: str, data: bytes, is_kept: bool) -> None:
    if is_kept and os.path.exists(path):
        return
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    draft = f"{path}.{os.getpid()}.{threading.get_ident()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    os.rename(draft, path)


def _run(command: dict[str, Any]) -> dict[str, Any]:
    words = [os.path.expanduser(word) if word.startswith("~/") else word for word in command["words"]]
    env = dict(os.environ)
    if "passed" in command:
        passed = {name: value for name, value in env.items() if name in command["passed"]}
        env = {**command.get("env", {}), **passed}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    try:
        done = subprocess.run(
            words,
            env=env,
            input=command.get("input", "").encode(),
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
    except FileNotFoundError:
        return {"code": 127, "out": "", "err": f"{words[0]} is not installed"}
    except (OSError, subprocess.TimeoutExpired) as wrong:
        return {"code": 126, "out": "", "err": str(wrong)}
    return {"code": done.returncode, "out": done.stdout.decode("utf-8", "replace"), "err": done.stderr.decode("utf-8", "replace")}


def _login() -> dict[str, str]:
    """Return the environment that the profiles of this machine and of its user make; empty when they do not end."""
    kept = {name: os.environ[name] for name in ("HOME", "USER", "LOGNAME", "LANG") if name in os.environ}
    shell = shutil.which("bash") or "/bin/sh"
    command = [shell, "-lc", "exec env -0"]
    env = {"PATH": os.defpath, **kept, "SHELL": shell}
    try:
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    words = [word.decode("utf-8", "replace").partition("=") for word in done.stdout.split(b"\0") if b"=" in word]
    return {name: value for name, _, value in words if name.isidentifier() and name not in ("SHLVL", "PWD", "OLDPWD", "_")}


def _python(word: str, env: dict[str, str]) -> list[str]:
    """Return [what the word is on the PATH, the Python behind it, that without links, this kind of machine], or nothing."""
    found = shutil.which(word, path=env.get("PATH"))
    told = "import os, sys; print(sys.executable, os.path.realpath(sys.executable), os.uname().machine, sep='\\0')"
    try:
        command = [found or word, "-S", "-E", "-c", told]
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    words = os.fsdecode(done.stdout).rstrip("\n").split("\0")
    return [found, *words] if found and done.returncode == 0 and len(words) == 3 else []


def _read(path: str, unread: dict[str, str]) -> str | None:
    """Return what is in a file; None where there is none. One that is there and cannot be read is told in `unread`."""
    try:
        with open(path, "rb") as file:
            return base64.b64encode(file.read(MAX_READ)).decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as wrong:
        unread[path] = wrong.strerror or str(wrong)
        return None


if __name__ == "__main__":
    main()
