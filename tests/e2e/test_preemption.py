"""A real run that is stopped for another goes on from its checkpoint: where it was when that has ended, or on another machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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

MOVING = """
import os, pathlib, time
import mainspring as ms
state = pathlib.Path(ms.checkpoint_dir) / "state"
begin = int(state.read_text()) if ms.is_resumed() else 0
print("begins with", begin, "resumed", os.environ.get("MAINSPRING_RESUME", "0"), "on", os.uname().nodename, flush=True)
if not begin:
    with ms.writing_checkpoint() as folder:
        (folder / "state").write_text("7")
    print("saved 7", flush=True)
    while not ms.should_stop():
        time.sleep(0.02)
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


@pytest.mark.engine
@pytest.mark.xdist_group("fleet")
def test_a_run_that_has_to_make_room_goes_on_at_another_machine_from_its_checkpoint(
    fresh: Any, begin_fleet: Callable[..., None], add_engine: Callable[..., None], tmp_path: Path, until: Callable[..., Any]
) -> None:
    """Two hosts over SSH: who asks for the very one where a run is gets it, and the run moves to the other one."""
    begin_fleet(fresh, "metal")
    add_engine(fresh, "metal", "--gpus", "2", hosts=slice(0, 2))
    changed = fresh.cli("policy", "set", "preemption.min_checkpointed_run_s", "0")
    assert changed.code == 0, changed
    asked = {"cpu_milli": 100, "memory_bytes": 64 << 20, "gpu_milli": 2000}
    moved = fresh.submit(["python3", "-c", MOVING], name="moved", resources={**asked, "labels": {"cluster": "metal"}}, grace_s=30)
    first = until(lambda: next((one for one in fresh.attempts(moved) if one.get("checkpoint_at")), None), "a checkpoint")
    here = first["replicas"][0]["node"]
    go = tmp_path / "go"
    stay = f"import os, time\nprint('mine', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)"
    owed = fresh.submit(["python3", "-c", stay], name="owed", resources={**asked, "labels": {"node": here}})
    done = fresh.wait(moved)
    assert (done["state"], done["retries_used"]) == ("succeeded", 0), fresh.attempts(moved)
    first, second = fresh.attempts(moved)
    there = second["replicas"][0]["node"]
    assert (first["outcome"]["cause"], first["stop_for"], first["replicas"][0]["node"]) == ("preempted", owed, here)
    assert there != here
    fresh.running(owed, b"mine")
    assert [one["replicas"][0]["node"] for one in fresh.attempts(owed)] == [here]
    saved = fresh.log(moved, attempt=1).split(b"saved ")[-1].split()[0]
    begun, name = fresh.log(moved, attempt=1).splitlines()[0].split(b" on ")
    again, other = fresh.log(moved, attempt=2).splitlines()[0].split(b" on ")
    assert (begun, again) == (b"begins with 0 resumed 0", b"begins with %s resumed 1" % saved)
    assert name != other
    assert 0 < first["lost_s"] < 20
    assert "Lost work" in fresh.cli("show", moved).out
    go.touch()
    assert fresh.wait(owed)["state"] == "succeeded"
