"""Tests of one group run one after another on one worker: several rooms' tests share engines on the strength of that."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e
CODE = """
import os, pathlib, pytest

@pytest.mark.parametrize("n", range(4))
@pytest.mark.xdist_group("{group}")
def test_it(n):
    pathlib.Path("{group}." + os.environ["PYTEST_XDIST_WORKER"]).touch()
"""


def test_a_group_has_one_worker(project_command: Any, tmp_path: Path) -> None:
    """The distributor of pytest has dropped groups without a word before (pytest 9.2 with pytest-xdist 3.8)."""
    for number, group in enumerate(("a", "b", "a", "b")):
        (tmp_path / f"test_{number}.py").write_text(CODE.format(group=group))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    words = ("-m", "pytest", "-q", "-p", "xdist.plugin", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup", tmp_path)
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the others take seconds to load, three times
    done = project_command(sys.executable, *words, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    workers = defaultdict(set)
    for mark in tmp_path.glob("?.gw?"):
        workers[mark.stem].add(mark.suffix)
    assert {group: len(found) for group, found in workers.items()} == {"a": 1, "b": 1}, workers
