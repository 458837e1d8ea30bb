"""The story that a newcomer sees, told to the end: real data to an endpoint with a value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "demo"


@pytest.mark.e2e
@pytest.mark.timeout(420)
@pytest.mark.skipif(not SCRIPT.is_file(), reason="scripts/demo is not written yet")
def test_the_demo_ends_by_itself_with_a_summary(project_command: Callable[..., Any], tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = project_command(
        SCRIPT, timeout_s=400, env={"MAINSPRING_HOME": str(home), "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "160"}
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-6000:]
    assert "Traceback" not in told
    for part in ("flights@v1", "value", "AUC", "p50", "p99", "sha256"):
        assert part.lower() in told.lower(), f"the summary does not mention {part!r}:\n{told[-6000:]}"
    assert re.search(r"refused|does not meet|misses", told, re.IGNORECASE), "the poor candidate was not refused"
    assert re.search(r"\$\s?-?[\d,]+|[\d,]+ USD", told), "no value in dollars"
    auc = [float(found) for found in re.findall(r"AUC\D{0,20}(0\.\d+)", told)]
    assert auc, "no AUC in the summary"
    assert 0.6 < max(auc) < 1.0
    server = home / "server.json"
    if server.is_file():
        pid = json.loads(server.read_text(encoding="utf-8")).get("pid", 0)
        assert not _is_alive(pid), "the demo left its server behind"


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
