"""Plug-ins: the built-in ones are found as strangers' are; a package of the examples is installed and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring import plugins
from mainspring.core.errors import NotFoundError

EXAMPLE = Path(__file__).parents[1] / "examples" / "mainspring-echo"
USE = """
from pathlib import Path
from datetime import datetime, UTC
from mainspring import plugins
from mainspring.core.errors import ServerError
from mainspring.core.records import Cluster, Event, SweepSpec
from mainspring.core.spaces import parse_dimension
from mainspring.core.specs import RunSpec
assert {"broken", "echo", "local"} <= set(plugins.names("backends")), plugins.names("backends")
backend = plugins.load("backends", "echo")(Cluster(id="c", name="c", backend="echo"), Path("."), "inst")
assert backend.inventory().nodes[0].name == "echo"
spec = SweepSpec(template=RunSpec(command=("a",)), space=(parse_dimension("uniform:0:1", "x"),), metric="m", sampler="middle")
from mainspring.workflows.sweeps import ask
assert ask(spec, [], 1, plugins.load("samplers", "middle")) == {"x": 0.5}
notifier = plugins.load("notifiers", "file")({"path": "told"})
notifier.notify(Event(seq=7, at=datetime.now(UTC), actor="a", kind="k", subject="s"), "it works")
assert Path("told").read_text() == "7 it works\\n"
from mainspring import scheduler
from mainspring.app import add_scorers
from mainspring.core.policy import Policy
from mainspring.core.records import Node
from mainspring.core.resources import Resources
from mainspring.core.snapshot import Snapshot, WaitingRun
add_scorers()
now = datetime.now(UTC)
nodes = tuple(Node(id=name, cluster="c", name=name, cpu_milli=1000, memory_bytes=1) for name in ("old", "new", "zoo"))
run = WaitingRun(id="run_1", owner="o", project="p", seq=1, priority=0, submitted_at=now, resources=Resources())
(start,) = scheduler.plan(Snapshot(now=now, nodes=nodes, waiting=(run,), policy=Policy(scorer="newest"))).decisions
assert start.places[0].node == "zoo", start
try:
    plugins.load("backends", "broken")
except ServerError as wrong:
    assert "mainspring-echo" in str(wrong), wrong
else:
    raise SystemExit("a broken plug-in was loaded")
print("used")
"""


def test_the_built_in_ones_are_registered_as_all_are() -> None:
    assert "local" in plugins.names("backends")
    assert {"tpe", "random", "grid"} <= set(plugins.names("samplers"))
    assert callable(plugins.load("notifiers", "log"))


def test_an_unknown_plug_in_names_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match="local"):
        plugins.load("backends", "abacus")
    with pytest.raises(NotFoundError) as typo:
        plugins.load("backends", "locla")
    assert "Did you mean local?" in typo.value.hint
    with pytest.raises(NotFoundError, match="samplers"):
        plugins.names("wheels")


def test_an_example_package_is_installed_and_used(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(EXAMPLE, source)
    project = source / "pyproject.toml"
    group = '[project.entry-points."mainspring.backends"]\n'
    project.write_text(project.read_text().replace(group, group + 'broken = "mainspring_echo.nowhere:create"\n'))
    site = tmp_path / "site"
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))
    installer = [uv, "pip", "install", "--quiet", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    subprocess.run([*installer, "--no-deps", "--target", str(site), str(source)], check=True, timeout=100)
    used = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert used.stdout == "used\n", used.stderr


@pytest.mark.parametrize(("fault", "reached"), [("", "abc"), ("other", "abc"), ("here", ""), ("here:2", "a"), ("here:4", "abc")])
def test_a_fault_point_kills_at_the_named_time_only(fault: str, reached: str) -> None:
    script = "from mainspring.plugins import reach\nfor one in 'abc':\n    reach('here'); print(one, end='', flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "MAINSPRING_FAULT": fault}, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == (reached, 0 if reached == "abc" else -9)
