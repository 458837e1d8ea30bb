"""What a run carries, from the command line: a checkpoint asked for, found on the next try, what a pause cost."""

from __future__ import annotations

import json
import time

import pytest

pytestmark = pytest.mark.e2e

SCRIPT = """
import time
import mainspring as ms
with ms.writing_checkpoint() as folder:
    at = folder / 'at'
    step = int(at.read_text()) if ms.is_resumed() else 0
    at.write_text(str(step + 1))
print('step', step, flush=True)
if step == 0:
    while not ms.should_checkpoint():
        time.sleep(0.01)
    with ms.writing_checkpoint() as folder:
        (folder / 'at').write_text('10')
    print('saved', flush=True)
    time.sleep(600)
"""


def wait_for(check, what: str):
    deadline = time.monotonic() + 30
    while not (found := check()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def test_a_checkpoint_asked_for_is_where_the_next_try_begins(cli, server, tmp_path):
    script = tmp_path / "work" / "carry.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    run = cli("run", str(script), "--detach", "--grace", "0s", home=server).stdout.strip()
    wait_for(lambda: "step 0" in cli("logs", run, home=server).stdout, "the start")
    assert cli("checkpoint", run, home=server).returncode == 0

    def attempts():
        return json.loads(cli("show", run, "--json", home=server).stdout)["attempts"]

    first = wait_for(lambda: attempts()[0]["checkpoint_at"], "the first checkpoint")
    wait_for(lambda: "saved" in cli("logs", run, home=server).stdout, "the answer")
    wait_for(lambda: attempts()[0]["checkpoint_at"] > first, "the second checkpoint")
    assert cli("pause", run, home=server).returncode == 0
    wait_for(lambda: attempts()[0]["state"] == "ended", "the pause")
    assert cli("resume", run, home=server).returncode == 0
    done = cli("logs", "-f", run, home=server)
    assert done.returncode == 0, done
    assert "step 10" in cli("logs", run, home=server).stdout
    told = attempts()
    assert told[0]["lost_s"] > 0
    assert "Lost work" in cli("show", run, home=server).stdout
    assert cli("checkpoint", run, home=server).returncode != 0  # nothing runs any more
