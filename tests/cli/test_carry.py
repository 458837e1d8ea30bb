"""What a run carries, from the command line: a checkpoint asked for, found on the next try, what a pause cost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path

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
    deadline = time.monotonic() + 90
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

    def attempts():
        return json.loads(cli("show", run, "--json", home=server).stdout)["attempts"]

    first = wait_for(lambda: attempts()[0]["checkpoint_at"], "the first checkpoint")
    assert cli("checkpoint", run, home=server).returncode == 0
    wait_for(lambda: "saved" in cli("logs", run, home=server).stdout, "the answer")
    wait_for(lambda: attempts()[0]["checkpoint_at"] > first, "the second checkpoint")
    assert cli("pause", run, home=server).returncode == 0
    wait_for(lambda: attempts()[0]["state"] == "ended", "the pause")
    here = [Path(root, name) for root, names, _ in os.walk(server) for name in names if name == "checkpoints"]
    assert here

    def is_gone() -> bool:  # as on a node that has never seen the run; the server tidies up meanwhile
        for path in here:
            shutil.rmtree(path, ignore_errors=True)
        return not any(path.exists() for path in here)

    wait_for(is_gone, "the loss of its files")
    assert cli("resume", run, home=server).returncode == 0
    done = cli("logs", "-f", run, home=server)
    assert done.returncode == 0, done
    assert "step 10" in cli("logs", run, home=server).stdout
    told = attempts()
    assert told[0]["lost_s"] > 0
    assert "Lost work" in cli("show", run, home=server).stdout
    assert cli("checkpoint", run, home=server).returncode != 0  # nothing runs any more


COUNTING = """
import os, pathlib, time
folder = pathlib.Path(os.environ['MAINSPRING_CHECKPOINT'])
at = int((folder / 'at').read_text()) if 'MAINSPRING_RESUME' in os.environ else 0
print('from', at, flush=True)
while at < 40:
    time.sleep(0.05)
    at += 1
    (folder / 'new').write_text(str(at))
    if at == 30: print('saves', time.time(), flush=True)
    (folder / 'new').rename(folder / 'at')
    if at == 30 and os.environ['MAINSPRING_ATTEMPT_NUMBER'] == '1':
        time.sleep(600)
print('done', flush=True)
"""


def test_the_death_of_a_runner_loses_one_interval_at_most(cli, server, tmp_path):
    script = tmp_path / "work" / "counting.py"
    script.parent.mkdir()
    script.write_text(COUNTING)
    began = time.monotonic()
    run = cli("run", str(script), "--detach", "--grace", "0s", home=server).stdout.strip()

    def attempts():
        return json.loads(cli("show", run, "--json", home=server).stdout)["attempts"]

    def log() -> str:
        return cli("logs", run, home=server).stdout

    def is_saved() -> bool:
        at = attempts()[0]["checkpoint_at"]
        return at is not None and datetime.fromisoformat(at).timestamp() >= float(log().partition("saves ")[2].split()[0])

    wait_for(lambda: "saves" in log() and is_saved(), "the last checkpoint of the first try")
    killed = attempts()[0]["id"]
    folders = [Path(root) for root, _, names in os.walk(server) if "runner.json" in names and killed in root]
    os.kill(json.loads((folders[0] / "runner.json").read_text())["pid"], signal.SIGKILL)
    done = cli("logs", "-f", run, home=server)
    assert done.returncode == 0, done
    assert "from 30" in log() or "from 29" in log(), log()
    first = attempts()[0]
    assert first["outcome"]["cause"] == "node_lost"
    assert 0 < first["lost_s"] < time.monotonic() - began
