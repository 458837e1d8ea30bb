"""What is installed beside user code, as one digest: the cache of runs rests on it.

Installed packages count by the record of their files. What is only pointed at (editable installs, `.pth` files) lives
elsewhere and changes at will, so its Python files count by content.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import unquote, urlparse

FRESH_S = 5.0
_known: tuple[float, str] = (float("-inf"), "")


def packages_digest() -> str:
    """Return the sha256 of this interpreter's version and of all that it can import beside the code; some seconds old at most.

    The run compares it with what it finds where it runs, and is not offered to others when the two differ.
    """
    global _known
    now = time.monotonic()
    if now - _known[0] > FRESH_S:
        _known = (now, _digest())
    return _known[1]


def _digest() -> str:
    seen = hashlib.sha256(f"{sys.version}\n{platform.machine()}\n".encode())
    elsewhere: set[Path] = set()
    for line in sorted(_installed(elsewhere)):
        seen.update(line.encode())
    for place in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        for path in sorted(Path(place).glob("*.pth")):
            text = path.read_text(errors="replace")
            seen.update(f"{path.name}\n{text}\n".encode())
            elsewhere.update(Path(line) for line in text.splitlines() if os.path.isabs(line) and os.path.isdir(line))
    for folder in sorted(elsewhere):
        for file in _python_files(folder):
            seen.update(f"{file}\n".encode())
            seen.update(hashlib.sha256(file.read_bytes()).digest())
    return seen.hexdigest()


def _installed(elsewhere: set[Path]) -> Iterator[str]:
    """Yield a line for each distribution; add the folders of editable ones to `elsewhere`."""
    for one in distributions():
        record = one.read_text("RECORD") or one.read_text("METADATA") or ""
        yield f"{one.metadata['Name']} {one.version} {hashlib.sha256(record.encode()).hexdigest()}\n"
        folder = _editable(one)
        if folder is not None:
            elsewhere.add(folder)


def _editable(one: Distribution) -> Path | None:
    try:
        told = json.loads(one.read_text("direct_url.json") or "{}")
    except ValueError:
        return None
    if not told.get("dir_info", {}).get("editable"):
        return None
    folder = Path(unquote(urlparse(str(told.get("url", ""))).path))
    return folder if folder.is_dir() else None


def _python_files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            one
            for one in folders
            if not one.startswith(".")
            and one not in ("__pycache__", "node_modules")
            and not os.path.exists(os.path.join(parent, one, "pyvenv.cfg"))
        )
        for name in sorted(names):
            path = Path(parent) / name
            if name.endswith((".py", ".so")) and path.is_file():
                yield path
