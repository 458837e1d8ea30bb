"""The scene of ten people on eight GPUs, played small: it ends by itself and prints what it promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.e2e
@pytest.mark.timeout(200)
def test_the_small_scene_prints_shares_waits_reasons_and_the_index(project: Path, project_command: Callable[..., Any]) -> None:
    # the sweep must still hold every GPU when the others come: 24 trials were over before most of them
    env = {"TEAM_TRIALS": "64", "TEAM_RUSH": "2", "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "160"}
    done = project_command(project / "scripts/team", timeout_s=180, env=env)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-4000:]
    assert "Traceback" not in told
    for part in ("wait p95", "judy", "Why a single run waited", "64 trials, best score", "Jain's index"):
        assert part in told, told[-4000:]
