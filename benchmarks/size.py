"""How large the wheel is, and what a base install takes on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import report

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Build the wheel and install it with nothing but what it requires, without bytecode."""
    uv = shutil.which("uv") or str(ROOT / ".venv-tools/bin/uv")
    with tempfile.TemporaryDirectory(prefix="mainspring-bench-") as name:
        folder = Path(name)
        subprocess.run([uv, "build", "--wheel", "--quiet", "--out-dir", folder, ROOT], check=True)
        (wheel,) = folder.glob("*.whl")
        report("size", "wheel", wheel.stat().st_size / 1e6, "MB")
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder / "env"], check=True)
        before = taken(folder / "env")
        clean = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "UV_LINK_MODE": "copy"}
        subprocess.run([uv, "pip", "install", "--quiet", "--python", folder / "env/bin/python", wheel], check=True, env=clean)
        report("size", "base install", (taken(folder / "env") - before) / 1e6, "MB", conditions={"bytecode": False})


def taken(folder: Path) -> int:
    """Return the bytes of the files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
