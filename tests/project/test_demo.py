"""The story that a newcomer sees, told to the end: real data to an endpoint with a value."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "demo"


@pytest.mark.e2e
@pytest.mark.timeout(420)
def test_the_demo_ends_by_itself_with_a_summary(project_command: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = project_command(
        SCRIPT, timeout_s=400, env={"MAINSPRING_HOME": str(home), "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "160"}
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-6000:]
    assert "Traceback" not in told
    summary = told[told.index("from raw data to a live endpoint") :]
    for part in ("Gate, poor one", "Gate, best one", "May, live", "p50", "p99", "Lineage", "sha256", "Web page"):
        assert part in summary, f"the summary does not have {part!r}:\n{summary}"
    assert len(re.findall(r"^\s*Why \S+ waited", summary, re.MULTILINE)) == 2
    auc = [float(found) for found in re.findall(r"AUC (0\.\d+)", summary)]
    assert len(auc) >= 3, summary
    assert 0.55 < min(auc) < max(auc) < 1.0
    assert re.search(r"2,000 flights: AUC [\d.]+, worth -?[\d,]+ USD", summary), summary
    assert re.search(r"Took\s+[\d.]+ s", summary), summary
    server = home / "server.json"
    if server.is_file():
        pid = json.loads(server.read_text(encoding="utf-8")).get("pid", 0)
        assert not _is_alive(pid), "the demo left its server behind"
    deadline = time.monotonic() + 20
    while _left_behind(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _left_behind(home) == [], "the demo left processes behind"


def _left_behind(home: Path) -> list[str]:
    """Return the command lines of living processes that work below `home`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(home).encode() in words and _is_alive(int(entry.name)):
                found.append(words.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
