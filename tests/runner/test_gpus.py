"""What nvidia-smi tells of use: a played one, with two devices; a real one is asked in tests/e2e/test_gpus.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mainspring.runner import gpus
from mainspring.runner.watch import Watch

SMI = """#!/bin/sh
printf '0, GPU-a, 45, 1024\\n1, GPU-b, 0, 12\\n2, GPU-c, [N/A], [N/A]\\nodd\\n'
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A played nvidia-smi, the only program there is."""
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


@pytest.mark.parametrize(
    ("visible", "seen"), [("1", [1]), ("GPU-a,1", [0, 1]), ("", []), ("7", []), (None, [0, 1, 2]), ("MIG-x/1/0", [])]
)
def test_a_run_is_told_the_use_of_its_own_devices(driver: Path, visible: str | None, seen: list[int]) -> None:
    assert [one["index"] for one in gpus.use(visible)] == seen


def test_use_is_a_part_and_bytes_and_what_is_not_counted_is_left_out(driver: Path) -> None:
    assert gpus.use("0,2") == [{"index": 0, "utilization": 0.45, "memory_bytes": 1 << 30}, {"index": 2}]


def test_a_driver_that_fails_tells_nothing(driver: Path) -> None:
    driver.write_text("#!/bin/sh\necho '0, GPU-a, 45, 1024'\nexit 9\n")
    assert gpus.use(None) == []


@pytest.mark.parametrize(("visible", "count"), [("1", 1), ("", 0), (None, 3)])
def test_the_driver_is_asked_for_what_user_code_sees(driver: Path, visible: str | None, count: int) -> None:
    nothing: Any = SimpleNamespace()
    assert len(Watch(nothing, nothing, nothing, {}, 0, visible)._gpus()) == count
