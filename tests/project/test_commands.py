"""The commands of a newcomer: make lists itself, installers say what they miss and touch nothing that is there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """Return a PATH with a shell and nothing to install with: neither apt-get nor a browser."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "env", "dirname", "cat", "sha256sum", "cut"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return str(folder)


def test_make_help_lists_every_target(project: Path, project_command: Callable[..., Any]) -> None:
    listed = project_command("make", "help")
    assert listed.returncode == 0
    named = set(re.findall(r"^  make ([a-z]+)", listed.stdout, re.MULTILINE))
    text = (project / "Makefile").read_text(encoding="utf-8")
    assert named == set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())  # type: ignore[index]
    assert {"demo", "test", "check", "docs"} <= named


def test_scripts_can_be_started(project: Path) -> None:
    for name in (
        ".ci/run",
        "scripts/install",
        "scripts/check",
        "scripts/test",
        "scripts/docs",
        "scripts/bench",
        "scripts/vision",
        "scripts/engines/install",
    ):
        path = project / name
        assert os.access(path, os.X_OK), name
        text = path.read_text(encoding="utf-8")
        assert text.startswith("#!/usr/bin/env bash\n"), name
        assert re.search(r"^set -e?uo pipefail$", text, re.MULTILINE), name


def test_an_unknown_profile_is_refused(project_command: Callable[..., Any]) -> None:
    refused = project_command("scripts/install", "everything")
    assert refused.returncode == 1
    assert "demo, dev, test, examples or bench" in refused.stderr


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_missing_engine_is_an_error_in_ci_only(project_command: Callable[..., Any], bare_path: str, ci: str, code: int) -> None:
    told = project_command("scripts/engines/install", env={"PATH": bare_path, "CI": ci})
    assert told.returncode == code
    assert "missing: " in told.stderr
    assert "chromium" in told.stderr


def test_an_installer_without_python_says_what_to_do(
    project: Path, project_command: Callable[..., Any], bare_path: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    (copy / "scripts").mkdir(parents=True)
    for name in ("scripts/install", "uv.lock", "pyproject.toml"):
        shutil.copy2(project / name, copy / name)
    told = project_command("scripts/install", "demo", cwd=copy, env={"PATH": bare_path})
    assert told.returncode == 1
    assert "no Python 3.11 or newer" in told.stderr
    assert "MAINSPRING_PYTHON=" in told.stderr
