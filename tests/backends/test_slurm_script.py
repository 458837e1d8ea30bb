"""The batch script by itself: which Python it takes, and what it asks on the way there. Run by a shell, without a Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring.backends.slurm import far
from mainspring.backends.slurm.script import batch_script
from mainspring.core.backend import LaunchRequest
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import Node
from mainspring.core.resources import Granted

REQUEST = LaunchRequest(
    installation="here",
    attempt=AttemptId("att-1"),
    run=RunId("run-1"),
    replica=0,
    node=Node(id="c.n1", cluster="c", name="n1", cpu_milli=1000, memory_bytes=1 << 30),
    granted=Granted(cpu_milli=1000, memory_bytes=0),
    server_url="http://127.0.0.1:1",
    token="secret",
)


class Machine:
    """A machine on which `python3` is a shim, which counts how often it was asked; `runner` tells who runs it."""

    def __init__(self, root: Path) -> None:
        self.asked = root / "asked"
        self.folder = root / "att-1.0"
        self.shims = root / "shims"
        self.runner = root / "runner.py"
        self.runner.write_text("import sys; print(sys.executable, sys.argv[1])")
        for folder in (self.folder, self.shims):
            folder.mkdir(parents=True)
        self.shim(sys.executable)

    def shim(self, python: str) -> None:
        """Let `python3` lead there."""
        path = self.shims / "python3"
        path.write_text(f'#!/bin/sh\necho asked >>{self.asked}\nexec {python} "$@"\n')
        path.chmod(0o755)

    @property
    def env(self) -> dict[str, str]:
        """Return what a job has of an environment there."""
        return {"PATH": f"{self.shims}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}

    def run(self, known: list[str], prolog: str = "") -> tuple[str, int]:
        """Return which Python ran the runner, and how often the shim was asked meanwhile."""
        self.asked.unlink(missing_ok=True)
        script = batch_script(REQUEST, str(self.folder), str(self.runner), {"prolog": prolog}, known)
        done = subprocess.run(["sh", "-s"], input=script, env=self.env, capture_output=True, text=True, check=True)
        python, folder = done.stdout.split()
        assert folder == str(self.folder)
        assert (self.folder / "job").read_text() == "7\n"
        return python, len(self.asked.read_text().split()) if self.asked.exists() else 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_leads_to_a_python_is_asked_once_and_not_by_each_job(machine: Machine) -> None:
    known = far.carry_out({"python": "python3", "env": machine.env})["python_place"]
    assert known == [str(machine.shims / "python3"), sys.executable, os.path.realpath(sys.executable), os.uname().machine]
    assert machine.run(known) == (sys.executable, 0)
    assert machine.run([]) == (sys.executable, 1)


def test_a_node_that_differs_from_the_login_host_is_asked(machine: Machine) -> None:
    known = far.carry_out({"python": "python3", "env": machine.env})["python_place"]
    word, python, real, kind = known
    for other in ([word, python, real, "sparc"], [word, python, f"{real}0", kind], ["/else/python3", python, real, kind]):
        assert machine.run(other) == (sys.executable, 1)
    unnamed = machine.folder.parent / "python3"
    unnamed.symlink_to(real)
    assert machine.run([word, python, str(unnamed), kind])[1] == 1  # nothing tells its version but itself
    assert machine.run([word, python, "/usr/bin/python3.8", kind])[1] == 1


def test_a_prolog_that_leads_elsewhere_is_obeyed(machine: Machine) -> None:
    known = far.carry_out({"python": "python3", "env": machine.env})["python_place"]
    mine = machine.folder.parent / "mine"
    mine.mkdir()
    (mine / "python3").symlink_to("/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable)
    assert machine.run(known, prolog=f"export PATH={mine}:$PATH")[1] == 0
    assert machine.run(known, prolog=f"export PATH={mine}:$PATH")[0] != sys.executable or not os.path.exists("/usr/bin/python3")


def test_a_machine_without_python_is_told_nothing_of(machine: Machine) -> None:
    assert far.carry_out({"python": "python9", "env": machine.env})["python_place"] == []
    (machine.shims / "python3").write_text("#!/bin/sh\nexit 1\n")
    assert far.carry_out({"python": "python3", "env": {"PATH": str(machine.shims)}})["python_place"] == []
