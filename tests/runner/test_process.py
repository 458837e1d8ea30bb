"""User code's process: what happens when it is killed before it is user code."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mainspring.runner import process
from mainspring.runner.folder import Folder, stat_of, write_durably


def test_a_child_killed_before_user_code_began_is_told_from_one_that_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(str(tmp_path))
    folder.make()

    def kill_then_write(path: str, value: dict[str, Any]) -> None:
        os.kill(value["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 5
        while (stat_of(value["pid"]) or "Z")[0] != "Z" and time.monotonic() < deadline:
            time.sleep(0.005)
        write_durably(path, value)

    monkeypatch.setattr(process, "write_durably", kill_then_write)
    with pytest.raises(BrokenPipeError):
        process.begin(folder, ["/bin/touch", str(tmp_path / "began")], str(tmp_path), {})
    assert not (tmp_path / "began").exists()
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        process.begin(folder, [str(tmp_path / "nothing")], str(tmp_path), {})
