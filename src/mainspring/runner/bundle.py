"""Build the runner's zip: deterministic, so that its digest names its version. Runs on the server's side only."""

from __future__ import annotations

import importlib._bootstrap_external as importer
import os
import zipfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_LEFT_OUT = frozenset({"bundle.py"})
_NOT_COMPILED = frozenset({"host.py", "limits.py", "gpus.py"})  # loaded once for each connection to a host: not worth their size
# The agent's half is not loaded in user code's process, nor the other way round; the fork server has it ready.
_MAIN = """import sys

if sys.argv[1:2] == ["--entry"]:
    from mainspring_runner.entry import main
elif sys.argv[1:2] == ["--fork-server"]:
    from mainspring_runner.forks import main
else:
    from mainspring_runner.agent import main
sys.exit(main(sys.argv[-1]) if len(sys.argv) > 1 else "usage: runner.zip ATTEMPT_FOLDER")
"""
_MOMENT = (2020, 1, 1, 0, 0, 0)


def build_bundle(target: Path) -> Path:
    """Write the zip to `target` and return it: equal bytes from equal sources and Python. Several processes may call it at once.

    It has the modules compiled for this Python too (compiling is half of the start otherwise); another one compiles them itself.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        for path in sorted(_HERE.glob("*.py")):
            if path.name not in _LEFT_OUT:
                _add_module(archive, f"mainspring_runner/{path.name}", path)
        for path in sorted((_HERE / "shim" / "mainspring").glob("*.py")):
            _add(archive, f"shim/mainspring/{path.name}", path.read_bytes())
    draft.replace(target)
    return target


def _add_module(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    source = path.read_bytes()
    _add(archive, name, source)
    if path.name in _NOT_COMPILED:
        return
    code = compile(source, name, "exec", dont_inherit=True)
    data: bytes = importer._code_to_hash_pyc(code, b"\0" * 8, False)  # type: ignore[attr-defined]
    _add(archive, name + "c", data)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _MOMENT)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)
