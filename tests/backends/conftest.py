"""What the tests of several backends share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mainspring.core.backend import Handle


@pytest.fixture
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Handle], None]:
    """Return what lets a job of Slurm's leave the queue, and its runner be killed with it before it wrote how it ended."""

    def forget(handle: Handle) -> None:
        (Path(str(handle.data["folder"])) / "exit.json").unlink()
        (tmp_path / "forgetful").mkdir()
        (tmp_path / "forgetful" / "squeue").write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / "forgetful" / "squeue").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'forgetful'}:{os.environ['PATH']}")

    return forget
