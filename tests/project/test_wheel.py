"""The wheel, installed into an empty environment, is the product: up, run, ps, logs, why, down."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def uv(project: Path, need: Callable[[bool, str, str], None]) -> str:
    """Return the uv that the installer used."""
    found = shutil.which("uv") or str(project / ".venv-tools/bin/uv")
    need(Path(found).exists(), "uv", "scripts/install")
    return found


@pytest.fixture(scope="module")
def wheel(uv: str, project: Path, project_command: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the project's folder."""
    folder = tmp_path_factory.mktemp("wheel")
    built = project_command(uv, "build", "--wheel", "--quiet", "--out-dir", folder, project, timeout_s=200)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(
    uv: str, project: Path, wheel: Path, project_command: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Make an empty environment and install the wheel with its server; versions as in uv.lock."""
    folder = tmp_path_factory.mktemp("empty") / "env"
    locked = folder.parent / "locked.txt"
    exported = project_command(
        uv, "export", "--frozen", "--no-default-groups", "--extra", "server", "--no-emit-project", "--quiet", "-o", locked
    )
    assert exported.returncode == 0, exported.stderr
    made = project_command(uv, "venv", "--quiet", "--python", project / ".venv/bin/python", folder)
    assert made.returncode == 0, made.stderr
    python = folder / "bin/python"
    for words in (["-r", str(locked)], ["--no-deps", str(wheel)]):
        done = project_command(uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *words, timeout_s=250)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def installed(environment: Path, project_command: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that calls the installed command with a home of its own; takes the server down at the end.

    Whoever calls it has nothing in `person`, and what is temporary goes to `temporary`.
    """
    home = tmp_path / "home"
    command = environment / "bin/mainspring"
    theirs = {"HOME": str(tmp_path / "person"), "TMPDIR": str(tmp_path / "temporary")}
    for place in theirs.values():
        Path(place).mkdir()

    def call(*words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        env = {
            "MAINSPRING_HOME": str(home),
            "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
            "COLUMNS": "160",
            "NO_COLOR": "1",
        } | theirs
        result: subprocess.CompletedProcess[str] = project_command(command, *words, timeout_s=timeout_s, cwd=tmp_path, env=env)
        return result

    yield call
    if (home / "server.json").is_file():
        call("down")


def test_the_wheel_is_small_and_has_what_it_needs(wheel: Path) -> None:
    assert wheel.stat().st_size < 2_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert "mainspring/py.typed" in names
    assert any(name.startswith("mainspring/store/migrations/versions/") and name.endswith(".py") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


def test_up_run_ps_logs_why_down(installed: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text("import os\nprint('six times seven is', 6 * 7, os.environ['FLAVOUR'])\n", encoding="utf-8")
    up = installed("up", "--gpus", "1")
    assert up.returncode == 0, up.stdout + up.stderr
    status = json.loads(installed("status", "--json").stdout)
    assert {"pid", "url", "version", "home"} <= set(status)
    assert _is_alive(status["pid"])

    ran = installed("run", "work.py", "--name", "first", "--env", "FLAVOUR=plain")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "six times seven is 42 plain" in ran.stdout
    holder = installed("run", "--gpus", "1", "--detach", "--name", "holder", "--", "sleep", "60").stdout.strip()
    assert holder.startswith("run-")
    waiter = installed("run", "--gpus", "1", "--detach", "--name", "waiter", "--", "true").stdout.strip()

    listed = json.loads(installed("ps", "--json").stdout)
    rows = listed["items"] if isinstance(listed, dict) else listed
    assert {holder, waiter} <= {row["id"] for row in rows}
    assert "six times seven" in installed("logs", "first").stdout
    assert "GPU" in _until(lambda: installed("why", "waiter").stdout, "GPU")

    assert installed("cancel", "holder", "waiter").returncode == 0  # else its runner waits for a server that is gone for good
    assert "cancelled" in _until(lambda: installed("show", holder, "--json").stdout, "cancelled")
    down = installed("down")
    assert down.returncode == 0, down.stderr
    assert not _alive_within(status["pid"], 15)
    (tmp_path / "work.py").unlink()
    left = [path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "home")]
    assert {path.name for path in left} == {"person", "temporary"}, "something is kept outside MAINSPRING_HOME"


def test_no_traceback_reaches_a_user(installed: Callable[..., Any]) -> None:
    refused = installed("run", "--gpus", "-1", "--", "true")
    assert refused.returncode == 2
    unknown = installed("show", "run-0000000000000000")
    assert unknown.returncode == 4
    for answer in (refused, unknown):
        assert "Traceback" not in answer.stdout + answer.stderr
        assert answer.stderr.strip()


def _until(read: Callable[[], str], wanted: str, deadline_s: float = 20) -> str:
    """Read again until the text has what is wanted, or the time is over; return the last one read."""
    end = time.monotonic() + deadline_s
    text = read()
    while wanted not in text and time.monotonic() < end:
        time.sleep(0.1)
        text = read()
    return text


def _alive_within(pid: int, deadline_s: float) -> bool:
    end = time.monotonic() + deadline_s
    while _is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
