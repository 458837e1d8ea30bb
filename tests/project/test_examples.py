"""The small examples do what they say: as plain Python, and as runs on a real server."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def example(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return a function that loads an example as a module; its working folder is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAINSPRING_SPOOL", raising=False)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(name).stem, project / "examples" / name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module")
def served(
    project: Path, project_command: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Any]]:
    """Start a server with a home of its own; return a function that calls a program of the environment with it."""
    home = tmp_path_factory.mktemp("examples") / "home"
    env = {"MAINSPRING_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "160"}

    def call(program: str, *words: str, timeout_s: float = 100) -> Any:
        return project_command(project / ".venv/bin" / program, *words, timeout_s=timeout_s, env=env)

    up = call("mainspring", "up")
    assert up.returncode == 0, up.stdout + up.stderr
    yield call
    call("mainspring", "down")


def test_curve_is_plain_python_outside_a_run(example: Callable[[str], Any], tmp_path: Path) -> None:
    assert 0 < example("hello/curve.py").main(0.5) < 1e-9
    assert "rate 0.5" in (tmp_path / "summary.txt").read_text(encoding="utf-8")


def test_fit_called_directly_finds_the_line(example: Callable[[str], Any]) -> None:
    fit = example("sweep/fit.py").fit
    good, slow = fit(rate=0.3), fit(rate=0.001)
    assert good["slope"] == pytest.approx(3, abs=0.3)
    assert good["intercept"] == pytest.approx(1, abs=0.4)
    assert good["loss"] < slow["loss"]
    assert fit(rate=5.0)["loss"] == 1e6


def test_the_steps_of_the_pipeline_are_plain_calls(example: Callable[[str], Any]) -> None:
    weather = example("pipeline/weather.py")
    figures = weather.judge(weather.clean(weather.read(days=400, seed=3)), days=400)
    assert 0.9 < figures["share_kept"] < 1
    assert figures["mean"] == pytest.approx(15, abs=2)


@pytest.mark.e2e
@pytest.mark.xdist_group("examples")
def test_hello_runs_with_arguments_of_its_own(served: Callable[..., Any]) -> None:
    told = served("mainspring", "run", "examples/hello/hello.py", "--", "--name", "you")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "hello, you, from" in told.stdout
    assert "GPUs: none" in told.stdout


@pytest.mark.e2e
@pytest.mark.xdist_group("examples")
def test_curve_leaves_parameters_a_curve_and_a_file(served: Callable[..., Any], tmp_path: Path) -> None:
    told = served("mainspring", "run", "examples/hello/curve.py", "--name", "curve", "--", "0.5")
    assert told.returncode == 0, told.stdout + told.stderr
    shown = json.loads(served("mainspring", "show", "curve", "--json").stdout)
    assert '"rate"' in json.dumps(shown)
    pulled = served("mainspring", "pull", "curve", str(tmp_path / "results"))
    assert pulled.returncode == 0, pulled.stderr
    (page,) = (tmp_path / "results").rglob("summary.txt")
    assert "rate 0.5" in page.read_text(encoding="utf-8")


@pytest.mark.e2e
@pytest.mark.xdist_group("examples")
def test_the_sweep_of_the_example_finds_a_fair_rate(served: Callable[..., Any]) -> None:
    told = served("python", "examples/sweep/fit.py")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "best:" in told.stdout


@pytest.mark.e2e
@pytest.mark.xdist_group("examples")
def test_the_pipeline_of_the_example_passes_its_gate(served: Callable[..., Any]) -> None:
    told = served("python", "examples/pipeline/weather.py")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "succeeded" in told.stdout


def test_the_steps_and_the_trial_of_the_scenes_are_plain_python(example: Callable[[str], Any]) -> None:
    steps = example("scenes/steps.py")
    assert steps.train(steps.prepare(10))["mean"] == "0.450"
    trial = example("scenes/trial.py").trial
    assert trial(lr=0.01) == 0 > trial(lr=1.0)


def test_the_gang_of_the_scenes_meets_where_it_is_told(project: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "0,1"}
    members = [
        subprocess.Popen(
            [sys.executable, str(project / "examples/scenes/gang.py")],
            env={**place, "RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    told = [one.communicate(timeout=90)[0].strip() for one in members]
    assert told == ["0 of 2 with 2 GPUs heard 1", "1 of 2 with 2 GPUs heard 0"]
