"""What one does with runs: again with changes, pull, pause and go on, archive, delete; gangs; login links."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e


def test_rerun_with_a_changed_parameter(site: Site, tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text("def train(lr=1.0, epochs=2):\n    return {'lr': lr, 'epochs': epochs}\n")
    script = tmp_path / "go.py"
    script.write_text(
        "import mainspring as ms\n@ms.task(cpus=1)\ndef train(lr=1.0, epochs=2):\n    return {'lr': lr, 'epochs': epochs}\n"
        "if __name__ == '__main__':\n    run = train.submit(lr=0.5)\n    run.result()\n    print(run.id)\n"
    )
    ref = _python(site, script)
    again = site.cli("rerun", ref, "--set", "lr=1e-4")
    assert again.code == 0, again
    run = site.wait(again.out.strip())
    assert run["state"] == "succeeded", site.log(run["id"])
    pulled = tmp_path / "out"
    assert site.cli("pull", run["id"], str(pulled)).code == 0
    told = json.loads(next(path for path in pulled.rglob("*") if path.is_file() and "json" in path.name).read_text())
    assert told == {"lr": 1e-4, "epochs": 2}
    wrong = site.cli("rerun", ref, "--set", "no_such=1")
    assert wrong.code == 2
    assert "no_such" in wrong.err


def test_rerun_with_other_arguments_and_pull_of_files(site: Site, tmp_path: Path) -> None:
    script = tmp_path / "write.py"
    script.write_text(
        "import os, sys\nprint(sys.argv[1:])\n"
        "with open(os.environ['MAINSPRING_OUT'] + '/report.txt', 'w') as out:\n    out.write(' '.join(sys.argv[1:]))\n"
    )
    first = site.cli("run", "write.py", "--json", "--", "one", cwd=tmp_path)
    ref = json.loads(first.out)["id"]
    again = site.cli("rerun", ref, "--follow", "--", "two", "three words")
    assert again.code == 0
    assert "['two', 'three words']" in again.out
    newest = site.call("GET", "/runs?limit=1").json()["items"][0]["id"]
    target = tmp_path / "pulled"
    done = site.cli("pull", newest, str(target))
    assert done.code == 0, done
    assert [path.read_text() for path in target.rglob("report.txt")] == ["two three words"]


def test_a_running_run_is_paused_and_goes_on_from_its_checkpoint(site: Site, until) -> None:
    code = (
        "import os, time\npath = os.environ['MAINSPRING_CHECKPOINT'] + '/at'\n"
        "if os.path.exists(path):\n    print('resumed', flush=True); raise SystemExit(0)\n"
        "open(path, 'w').write('1')\nprint('up', flush=True)\ntime.sleep(600)"
    )
    ref = site.python(code, grace_s=1)
    site.running(ref, b"up")
    assert site.cli("pause", ref).code == 0
    until(lambda: site.run(ref)["state"] == "queued", "the pause")
    why = site.cli("why", ref)
    assert "paused" in why.out.lower() or "hold" in why.out.lower(), why
    assert site.cli("resume", ref).code == 0
    assert site.wait(ref)["state"] == "succeeded"
    assert site.log(ref).endswith(b"resumed\n")


def test_a_waiting_run_is_paused_and_let_go(site: Site, until) -> None:
    holder = site.python("import time; time.sleep(600)", resources={"gpu_milli": 2000}, grace_s=0)
    site.running(holder)
    ref = site.python("print('had it')", resources={"gpu_milli": 1000})
    until(lambda: (site.run(ref)["reason"] or {}).get("code") == "no_free_gpu", "its reason")
    assert "GPU" in site.cli("why", ref).out
    site.call("POST", f"/runs/{ref}/pause")
    site.call("POST", f"/runs/{holder}/cancel", json={})
    site.wait(holder)
    until(lambda: site.run(ref)["reason"]["code"] == "paused", "its being passed over")
    site.call("POST", f"/runs/{ref}/resume")
    assert site.wait(ref)["state"] == "succeeded"


def test_archive_and_rm(site: Site) -> None:
    ref = site.python("print(1)", name="to-be-gone")
    running = site.python("import time; time.sleep(600)", grace_s=0)
    site.wait(ref)
    assert site.cli("rm", "-y", running).code == 5, "a run that lives is not deleted"
    assert site.cli("archive", ref).code == 0
    assert ref not in site.cli("ps", "--json", "--all").out
    assert ref in site.cli("ps", "--json", "--archived").out
    assert site.cli("archive", ref, "--undo").code == 0
    assert ref in site.cli("ps", "--json", "--all").out
    assert site.cli("rm", ref).code != 0, "nobody was asked"
    assert site.run(ref)["id"] == ref
    assert site.cli("rm", "-y", ref).code == 0
    assert site.cli("show", ref).code == 4
    site.call("POST", f"/runs/{running}/cancel", json={})
    site.wait(running)


def test_a_run_may_use_every_processor_that_its_server_may(site: Site) -> None:
    """Some threads of the server keep to one: what it starts must not inherit that."""
    run = site.submit([sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"])
    assert site.wait(run)["state"] == "succeeded"
    assert site.log(run).decode().strip() == str(sorted(os.sched_getaffinity(0)))


def test_a_gang_has_one_fate(site: Site) -> None:
    code = "import os; print('member', os.environ['MAINSPRING_REPLICA'], 'of', os.environ['MAINSPRING_WORLD_SIZE'])"
    ref = site.python(code, replicas=2)
    assert site.wait(ref)["state"] == "succeeded"
    for number in (0, 1):
        assert site.log(ref, replica=number) == b"member %d of 2\n" % number


def test_a_member_that_fails_stops_the_others(site: Site, until) -> None:
    code = (
        "import os, sys, time\n"
        "print('up', flush=True)\n"
        "time.sleep(600) if os.environ['MAINSPRING_REPLICA'] == '0' else sys.exit(9)"
    )
    run = site.wait(ref := site.python(code, replicas=2, grace_s=1), timeout_s=90)
    assert (run["state"], run["outcome"]["cause"], run["outcome"]["exit_code"]) == ("failed", "user_error", 9)
    until(lambda: not [pid for pid in site.carriers() if ref.encode() in _environ(pid)], "the end of the other member")


def test_a_gang_that_loses_a_runner_is_tried_again_as_a_whole(site: Site, tmp_path: Path, until) -> None:
    go = tmp_path / "go"
    code = (
        "import os, sys, time\n"
        "print('up', os.environ['MAINSPRING_ATTEMPT_NUMBER'], flush=True)\n"
        f"while os.environ['MAINSPRING_ATTEMPT_NUMBER'] == '1' and not os.path.exists({str(go)!r}): time.sleep(0.02)"
    )
    ref = site.python(code, replicas=2, grace_s=1)
    until(lambda: site.log(ref, replica=0) and site.log(ref, replica=1), "both members")
    first = site.attempts(ref)[0]["id"]
    place = site.home / "clusters" / "local" / "attempts" / f"{first}.1"
    os.kill(json.loads((place / "runner.json").read_text())["pid"], signal.SIGKILL)
    run = site.wait(ref, timeout_s=90)
    assert (run["state"], run["attempt"], run["retries_used"]) == ("succeeded", 2, 0)
    assert [one["outcome"]["cause"] for one in site.attempts(ref)] == ["node_lost", "succeeded"]
    for number in (0, 1):
        assert site.log(ref, replica=number, attempt=2) == b"up 2\n"
    until(lambda: not [pid for pid in site.carriers() if first.encode() in _environ(pid)], "the end of the first attempt")


def test_a_gang_waits_until_all_of_it_fits(site: Site, until) -> None:
    holder = site.python("import time; time.sleep(600)", resources={"gpu_milli": 1000}, grace_s=0)
    site.running(holder)
    ref = site.python("print(1)", replicas=2, resources={"gpu_milli": 1000})
    until(lambda: (site.run(ref)["reason"] or {}).get("code") in ("gang_incomplete", "no_free_gpu"), "its reason")
    assert not site.attempts(ref)
    site.call("POST", f"/runs/{holder}/cancel", json={})
    assert site.wait(ref)["state"] == "succeeded"


def test_a_login_link_opens_once(fresh: Site) -> None:
    fresh.start(MAINSPRING_HAS_UI="true")
    link = fresh.cli("ui", "--print").out.strip()
    with httpx2.Client(follow_redirects=False) as first:
        answer = first.get(link)
        assert answer.status_code in (302, 303, 307), answer.text
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
    with httpx2.Client(follow_redirects=False) as second:
        assert "set-cookie" not in second.get(link).headers
        assert second.get(fresh.url).status_code in (302, 303, 307, 401)
    assert "Traceback" not in fresh.server_log()


def _python(site: Site, script: Path) -> str:
    import subprocess

    done = subprocess.run(
        [sys.executable, str(script)], env=site.environ(), cwd=script.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
