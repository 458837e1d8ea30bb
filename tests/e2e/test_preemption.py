"""What was borrowed comes back: the planner stops a real run for one that is owed, and the run goes on from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.e2e
COUNT = """
import os, pathlib, time
import mainspring as ms
state = pathlib.Path(ms.checkpoint_dir) / "state"
begin = int(state.read_text()) if ms.is_resumed() else 0
print("begins with", begin, "resumed", os.environ.get("MAINSPRING_RESUME", "0"), flush=True)
for step in range(begin, 100000):
    if ms.should_checkpoint():
        with ms.writing_checkpoint() as folder:
            (folder / "state").write_text(str(step + 1))
        print("saved", step + 1, flush=True)
        break
    time.sleep(0.02)
    if begin:
        break
"""


def test_a_guarantee_takes_back_what_was_lent_and_the_run_goes_on_from_its_checkpoint(
    site: Any, until: Callable[..., Any]
) -> None:
    for words in (
        ("project", "add", "owed"),
        ("share", "owed", "--guarantee", "2gpu"),
        ("project", "edit", "owed", "--share", "owed"),
    ):
        done = site.cli(*words)
        assert done.code == 0 or "There is" in done.err, done
    gpus = {"cpu_milli": 100, "gpu_milli": 2000}
    try:
        lent = site.python(COUNT, name="lent", resources=gpus, grace_s=30)
        site.running(lent, b"begins with 0")
        owed = site.python("import time; time.sleep(1); print('mine')", name="owed", project="owed", resources=gpus)
        assert site.wait(owed)["state"] == "succeeded"
        done = site.wait(lent)
        assert (done["state"], done["retries_used"]) == ("succeeded", 0)
        first, second = site.attempts(lent)
        assert (first["outcome"]["cause"], first["stop_for"]) == ("preempted", owed)
        assert second["outcome"]["cause"] == "succeeded"
        assert first["lost_s"] < 10, "all but the time since its checkpoint was kept"
        saved = site.log(lent, attempt=1).split(b"saved ")[1].split()[0]
        assert site.log(lent, attempt=2).startswith(b"begins with %s resumed 1" % saved)
        assert "stopped" in site.cli("show", lent).out
    finally:
        site.cli("share", "owed", "--guarantee", "")
