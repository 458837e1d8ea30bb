"""The command line as a process, and one real server for the module."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from engines import warm

from mainspring.cli.main import run_cli

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run `mainspring WORDS` in tmp_path; `home=` names the installation, else an empty one."""

    def call(*words: str, home: Path | None = None, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}
        environ |= {"MAINSPRING_HOME": str(home or tmp_path / "empty"), "COLUMNS": "200", **env}
        done = warm.run(words, env=environ, cwd=tmp_path, data=stdin.encode(), timeout=60)
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    return call


@pytest.fixture
def typed(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `mainspring WORDS` in tmp_path and in this process, on the module's server: a twentieth of a process of its own."""
    for name in [name for name in os.environ if name.startswith("MAINSPRING_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MAINSPRING_HOME", str(server))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        code = run_cli(list(words))
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return call


@pytest.fixture
def again(tmp_path: Path) -> str:
    """What is added to a name that the module's server must not have yet: nothing at the first try, "1" at the second."""
    return tmp_path.name[-1].replace("0", "")


@pytest.fixture(scope="module")
def server(served: Path) -> Path:
    """The home of a real server with two declared GPUs."""
    return served
