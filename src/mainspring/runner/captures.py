"""What user code ran with: the packages of its interpreter, told once as a blob, so that it can be seen and built again.

The interpreter is asked once, while user code runs, and again only when it or a folder of its packages has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import time
from typing import IO, Any

from .blobs import send_bytes
from .folder import Folder, read_json, write_whole
from .wire import AwayError, RefusedError, Wire

_SENT_S = 3600.0  # for so long it is not asked whether the server still has it
_ASK_S = 60.0
_MAX_BYTES = 4 << 20
_SCRIPT = r"""
import importlib.metadata as m, json, platform, re, sys, sysconfig
found = {}
for one in m.distributions():
    head = (one.read_text("METADATA") or one.read_text("PKG-INFO") or one.read_text("") or "").partition("\n\n")[0]
    told = {key.lower(): value for key, value in re.findall(r"(?m)^(Name|Version): *(\S+)", head)}
    told = {"name": "", "version": "", **told}
    name = told["name"]
    if not name or name.lower() in found:
        continue
    found[name.lower()] = told
    try:
        direct = json.loads(one.read_text("direct_url.json") or "{}")
    except ValueError:
        direct = {}
    folder = direct.get("dir_info")
    if direct.get("url"):
        url = re.sub(r"://[^/@]+@", "://", direct["url"])
        vcs = direct.get("vcs_info") or {}
        told["origin"] = "%s+%s@%s" % (vcs.get("vcs", "git"), url, vcs.get("commit_id", "")) if vcs else url
        if folder and folder.get("editable"):
            told["is_editable"] = True
    tags = re.findall(r"(?m)^Tag: *(\S+)-(\S+)-(\S+)", one.read_text("WHEEL") or "")
    if tags and folder is None:
        parts = [".".join(dict.fromkeys(tag[n] for tag in tags)) for n in range(3)]
        told["wheel"] = "-".join([re.sub(r"[-_.]+", "_", name), told["version"], *parts]) + ".whl"
told = {"python": platform.python_version(), "implementation": sys.implementation.name, "platform": sysconfig.get_platform()}
print(json.dumps([{**told, "packages": [found[key] for key in sorted(found)]}, sys.path]))
"""


def capture(folder: Folder, wire: Wire, cache: str, python: str) -> None:
    """Tell the server what `python` has installed. Whatever goes wrong, the run goes on, and the next one tells it."""
    path = os.path.join(cache, "captures", hashlib.sha256(python.encode()).hexdigest()[:32] + ".json")
    try:
        told = _known(path, python)
        if told is None:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(path + ".lock", "w") as turn:  # many runs begin at once: one asks and sends, the others find it told
                _wait_for(turn)
                told = _known(path, python)
                if told is None:
                    told = _ask(python)
                    send_bytes(wire, str(told["digest"]), str(told["text"]).encode())
                    told["sent_at"] = time.time()
                    write_whole(path, told)
    except (AwayError, RefusedError, OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as wrong:
        folder.event("environment_unseen", message=repr(wrong)[:300])
        return
    folder.event("environment_seen", digest=told["digest"])


def _known(path: str, python: str) -> dict[str, Any] | None:
    """Return what was told of the interpreter, if nothing has changed since and the server has it."""
    told = read_json(path)
    if told is None or time.time() - float(told["sent_at"]) > _SENT_S or told["stamp"] != _stamp(python, told["folders"]):
        return None
    return told


def _wait_for(turn: IO[str]) -> None:
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks: each asks


def _ask(python: str) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "MAINSPRING_FAULT")}
    done = subprocess.run(
        [python, "-c", _SCRIPT], cwd="/", env=env, capture_output=True, timeout=_ASK_S, check=False, stdin=subprocess.DEVNULL
    )
    seen, folders = json.loads(done.stdout.decode().splitlines()[-1])
    text = json.dumps(seen, sort_keys=True, separators=(",", ":"))
    if len(text) > _MAX_BYTES:
        raise ValueError(f"{len(text)} bytes")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"digest": digest, "text": text, "folders": folders, "stamp": _stamp(python, folders)}


def _stamp(python: str, folders: list[str]) -> list[int]:
    """Return what changes when the interpreter does, or what is installed for it."""
    told = os.stat(python)
    return [told.st_ino, told.st_mtime_ns, *(os.stat(folder).st_mtime_ns for folder in folders if os.path.isdir(folder))]
