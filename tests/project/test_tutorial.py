"""The tutorial, typed as it stands: each step gives what the page says."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("tutorial"), pytest.mark.timeout(400)]


@pytest.fixture
def follow(project: Path, project_command: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that types a command in an empty folder, with an installation of its own."""
    folder = tmp_path / "tutorial"
    folder.mkdir()
    person = tmp_path / "person"
    person.mkdir()
    env = {"MAINSPRING_HOME": str(tmp_path / "home"), "HOME": str(person), "NO_COLOR": "1", "COLUMNS": "200"}
    env["CI"] = ""  # where it is set libraries leave out what they tell their makers, and what they keep for that

    def call(program: str, *words: str) -> Any:
        return project_command(project / ".venv/bin" / program, *words, cwd=folder, env=env, timeout_s=120)

    yield call
    call("mainspring", "endpoint", "rm", "tumours", "--yes")
    call("mainspring", "down")
    assert list(person.rglob("*")) == [], "everything lives under MAINSPRING_HOME"


def test_the_tutorial_from_nothing_to_an_endpoint(follow: Callable[..., Any], project: Path, tmp_path: Path) -> None:
    page = (project / "docs/tutorial.md").read_text(encoding="utf-8")
    files = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```', page, re.MULTILINE | re.DOTALL))
    folder = tmp_path / "tutorial"
    (folder / "train.py").write_text(files["train.py"], encoding="utf-8")
    search = files["search.py"].replace("trials=20", "trials=3") + files["search.py, the end"]
    (folder / "search.py").write_text(search, encoding="utf-8")

    up = follow("mainspring", "up", "--gpus", "2")
    assert up.returncode == 0, up.stderr
    runs_and_waits(follow, page, folder)
    trained = follow("python", "train.py")
    assert trained.returncode == 0, trained.stderr
    assert 0.9 < float(trained.stdout.split()[-1]) <= 1
    searched = follow("python", "search.py")
    assert searched.returncode == 0, searched.stderr
    assert "Gate 'tumours' passed" in searched.stdout
    swept = follow("mainspring", "sweep", "train.py:train", "-n", "1", "--maximize", "roc_auc", "strength=log:1e-3:10")
    assert swept.returncode == 0, swept.stderr
    table = follow("mainspring", "model", "ls").stdout
    assert re.search(r"^tumours +v1 +onnx +champion +tumours +roc_auc=0", table, re.MULTILINE), table
    (model,) = json.loads(follow("mainspring", "model", "ls", "--json").stdout)
    assert (model["latest"]["model"], model["latest"]["aliases"]) == ("tumours", ["champion"]), model
    deployed = follow("mainspring", "deploy", "tumours@champion", "--name", "tumours")
    assert deployed.returncode == 0, deployed.stderr
    assert "tumours" in follow("mainspring", "endpoint", "ls").stdout
    refused = follow("mainspring", "endpoint", "predict", "tumours", '[{"mean radius": 14.1, "mean texture": 20.3}]')
    assert refused.returncode == 2
    assert "mean perimeter" in refused.stderr


def runs_and_waits(follow: Callable[..., Any], page: str, folder: Path) -> None:
    """Type the sections on a script and on what waits."""
    (script,) = re.findall(r"^echo '(.*)' > hello.py$", page, re.MULTILINE)
    (folder / "hello.py").write_text(script, encoding="utf-8")
    hello = follow("mainspring", "run", "hello.py")
    assert (hello.returncode, hello.stdout) == (0, f"hello from {socket.gethostname()}\n"), hello.stderr
    for name in ("holder", "waiter"):
        (typed,) = re.findall(rf"^(mainspring run .*--name {name} .*)$", page, re.MULTILINE)
        assert follow(*shlex.split(typed)).returncode == 0
    why = follow("mainspring", "why", "waiter").stdout
    assert "Waits for 1 GPU" in why, why
    assert re.search(r"\w+ holds 2\b", why), why
    assert follow("mainspring", "cancel", "holder").returncode == 0
    waited = follow("mainspring", "logs", "-f", "waiter")
    assert (waited.returncode, waited.stdout) == (0, hello.stdout), waited.stderr
