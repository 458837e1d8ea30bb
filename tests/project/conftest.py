"""What tests of the project as a whole share: its folder, its files as git has them, commands run with a deadline."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def project() -> Path:
    """Return the project's folder."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def project_command(project: Path) -> Command:
    """Return a function that runs a command in the project's folder and gives it back with what it printed."""

    def run(
        *words: str | Path, timeout_s: float = 110, cwd: Path = project, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MAINSPRING_", "PYTEST_"))}
        return subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env={**clean, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def scripts_on_path(project: Path) -> Path:
    """Make the modules of scripts/ importable; return the folder."""
    folder = project / "scripts"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder
