"""An older backup is restored while runs go on: their runners are listed, adopted, and nothing of them is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

USER = """
import os, time
ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(ledger, f"{os.environ['MAINSPRING_RUN']} {os.environ['MAINSPRING_ATTEMPT']}\\n".encode())
n = 0
while not os.path.exists(os.environ["LET_GO"]):
    print("line", n, flush=True)
    n += 1
    time.sleep(0.05)
open(os.environ["MAINSPRING_OUT"] + "/result", "w").write("kept")
print("the end", flush=True)
"""


def submit(site: Any, name: str) -> str:
    env = {"LEDGER": str(site.ledger), "LET_GO": str(site.home / "let-go")}
    asked = {"command": [sys.executable, "-c", USER], "name": name, "env": env, "resources": {"cpu_milli": 1000}}
    answer = site.call("POST", "/runs", json=asked)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def cli(site: Any, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mainspring.cli.main", *words],
        env={**os.environ, **dict(site.env), "MAINSPRING_HOME": str(site.home), "COLUMNS": "200"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_runs_begun_after_a_backup_are_adopted_when_it_is_restored(installation: Any, poll: Callable[..., None]) -> None:
    site = installation
    site.cpus = 1  # the second run waits at the time of the backup, and begins after it
    site.start()
    blocker = site.call(
        "POST", "/runs", json={"command": ["sleep", "600"], "resources": {"cpu_milli": 1000}, "grace_s": 0}
    ).json()["id"]
    queued = submit(site, "queued-then")
    copy = site.home.parent / "copy.db"
    assert site.call("POST", "/backup", json={"path": str(copy)}).status_code == 200
    site.call("POST", f"/runs/{blocker}/cancel", json={"grace_s": 0})
    poll(lambda: any(run == queued for run, _ in site.lines()), 90, "the begin of the run that waited")
    site.kill()
    site.cpus = 4
    shutil.copy(site.home / "mainspring.db", site.home.parent / "newest.db")
    cli(site, "restore", str(copy), "--home", str(site.home), "--yes")
    site.start()
    found: list[dict[str, Any]] = []

    def is_listed() -> bool:
        found[:] = [one for one in site.call("GET", "/unadopted").json() if one["run"] == queued]
        return bool(found)

    poll(is_listed, 90, "the runner's word")
    assert len(site.call("GET", f"/runs/{queued}/attempts").json()) == 0, "it was started a second time"
    assert site.call("GET", f"/runs/{queued}").json()["state"] == "queued"
    assert found[0]["attempt"] in cli(site, "adopt")
    assert "goes on as attempt 1" in cli(site, "adopt", found[0]["attempt"])
    assert site.call("GET", "/unadopted").json() == []
    (site.home / "let-go").touch()
    poll(lambda: site.call("GET", f"/runs/{queued}").json()["state"] == "succeeded", 90, "the end")
    assert set(site.lines().values()) == {1}
    assert len(site.lines()) == 1, "it was executed twice"
    log = site.call("GET", f"/runs/{queued}/logs").text.splitlines()
    assert log[0] == "line 0"
    assert log[-1] == "the end"
    assert log[:-1] == [f"line {n}" for n in range(len(log) - 1)], "lines were lost or doubled"
    assert any("result" in name for name in site.call("GET", f"/runs/{queued}").json()["outputs"])


def test_a_run_that_the_backup_does_not_know_comes_back_whole(installation: Any, poll: Callable[..., None]) -> None:
    site = installation
    site.start()
    copy = site.home.parent / "copy.db"
    assert site.call("POST", "/backup", json={"path": str(copy)}).status_code == 200
    run = submit(site, "unheard-of")
    poll(lambda: any(one == run for one, _ in site.lines()), 90, "the begin")
    site.kill()
    cli(site, "restore", str(copy), "--home", str(site.home), "--yes")
    site.start()
    assert site.call("GET", f"/runs/{run}").status_code == 404
    poll(lambda: any(one["run"] == run for one in site.call("GET", "/unadopted").json()), 90, "the runner's word")
    assert site.call("POST", "/unadopted/att-nobody/adopt").status_code == 404
    (attempt,) = [one["attempt"] for one in site.call("GET", "/unadopted").json()]
    assert site.call("POST", f"/unadopted/{attempt}/adopt").json()["name"] == "unheard-of"
    assert site.call("POST", f"/unadopted/{attempt}/adopt").status_code == 404
    (site.home / "let-go").touch()
    poll(lambda: site.call("GET", f"/runs/{run}").json()["state"] == "succeeded", 90, "the end")
    assert site.call("GET", f"/runs/{run}/logs").text.splitlines()[0] == "line 0"
    poll(lambda: not site.runners(), 90, "the end of every runner")
