"""Stops, outages, crashes and stray processes: user code begins at most once, and nothing that it said is lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 60.0  # only to end what hangs: a disk may stand still for a while
DAEMON = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import os, time; os.fork() and os._exit(0); os.setsid();"
    " print(os.getpid(), flush=True); time.sleep(600)'], start_new_session=True)\n"
    "child.wait()\n"
    "time.sleep(0.3)\n"
)
SPEAKER = (
    "import os, sys, time\n"
    "print('begun', flush=True)\n"
    "while not os.path.exists({go!r}): time.sleep(0.01)\n"
    "for n in range(3000): print('line', n)\n"
)
SPOKEN = b"begun\n" + b"".join(b"line %d\n" % n for n in range(3000))


def _is_running(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def test_a_command_to_stop_ends_user_code_with_its_cause(site: Any, server: Any, until: Any) -> None:
    site.python_code("import time; print('up', flush=True); time.sleep(600)")
    runner = site.start()
    until(lambda: server.log, "the first line")
    server.commands = [{"no": 1, "kind": "stop", "cause": "preempted", "deadline_s": 5.0}]
    assert runner.wait(LIMIT_S) == 0
    assert (server.exit["cause"], server.exit["exit_code"]) == ("preempted", -signal.SIGTERM)
    assert (site.root / "spool" / "stop_requested").exists()


def test_a_followed_log_comes_at_once(site: Any, server: Any, until: Any) -> None:
    code = "import time\nfor n in range(1000): print(time.time(), flush=True); time.sleep(0.02)"
    site.python_code(code)
    server.is_followed = True
    runner = site.start()
    until(lambda: server.log.count(b"\n") > 20, "the first lines")
    late = []
    seen = server.log
    for _ in range(5):
        until(lambda seen=seen: server.log != seen, "more lines")
        seen = server.log
        late.append(time.time() - float(seen.splitlines()[-1]))
    assert min(late) < 0.3
    runner.terminate()
    assert runner.wait(LIMIT_S) == 0


def test_user_code_that_ignores_sigterm_is_killed_at_the_deadline(site: Any, server: Any, until: Any) -> None:
    site.python_code("import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)")
    runner = site.start()
    until(lambda: server.log, "the first line")
    server.commands = [{"no": 1, "kind": "stop", "cause": "cancelled", "deadline_s": 0.3}]
    assert runner.wait(LIMIT_S) == 0
    assert (server.exit["cause"], server.exit["exit_code"]) == ("cancelled", -signal.SIGKILL)


def test_a_stop_of_the_backend_is_a_sigterm_to_the_runner(site: Any, server: Any, until: Any) -> None:
    site.python_code("import time; print('up', flush=True); time.sleep(600)")
    runner = site.start()
    until(lambda: server.log, "the first line")
    runner.terminate()
    assert runner.wait(LIMIT_S) == 0
    assert server.exit["cause"] == "cancelled"


def test_a_limit_of_time_is_kept(site: Any, server: Any) -> None:
    site.python_code("import time; time.sleep(600)", timeout_s=0.3)
    assert site.run() == 0
    assert server.exit["cause"] == "timeout"


def test_silence_of_the_server_beyond_the_runs_limit_ends_it(site: Any, server: Any, until: Any) -> None:
    site.python_code("import time; print('up', flush=True); time.sleep(600)", disconnect_limit_s=8.0)
    runner = site.start()
    until(lambda: server.log, "the first line")
    server.status, server.is_silent = 503, True
    until(lambda: (site.root / "exit.json").exists(), "the exit record")
    assert site.read("exit.json")["outcome"]["cause"] == "node_lost"
    assert runner.poll() is None


def test_what_user_code_left_running_is_ended(site: Any, server: Any) -> None:
    site.python_code(DAEMON)
    assert site.run() == 0
    assert server.exit["cause"] == "succeeded"
    assert not _is_running(int(server.log))


def test_answers_that_are_lost_double_nothing(site: Any, server: Any, tmp_path: Path) -> None:
    server.lose = 4
    (tmp_path / "go").touch()
    site.python_code(SPEAKER.format(go=str(tmp_path / "go")))
    assert site.run() == 0
    assert server.log == SPOKEN
    assert server.exit["cause"] == "succeeded"


@pytest.mark.parametrize("status", [503, 429, 401, 500])
def test_an_outage_loses_nothing(site: Any, server: Any, until: Any, tmp_path: Path, status: int) -> None:
    site.python_code(SPEAKER.format(go=str(tmp_path / "go")))
    runner = site.start()
    until(lambda: server.log, "the first line")
    server.status = status
    (tmp_path / "go").touch()
    until(lambda: (site.root / "exit.json").exists(), "the exit record")
    assert server.log == b"begun\n"
    server.status = 200
    assert runner.wait(LIMIT_S) == 0
    assert server.log == SPOKEN
    assert server.exit["cause"] == "succeeded"


def test_an_end_that_is_heard_late_says_by_how_much(site: Any, server: Any, until: Any, tmp_path: Path) -> None:
    site.python_code(SPEAKER.format(go=str(tmp_path / "go")))
    runner = site.start()
    until(lambda: server.log, "the first line")
    server.status = 503
    until(lambda: server.refusals > 1, "an outage before the end, which makes no end late")
    before = time.monotonic()
    (tmp_path / "go").touch()
    until(lambda: (site.root / "ended.json").exists(), "the end of user code")
    ended, seen = time.monotonic(), server.refusals
    until(lambda: server.refusals > seen + 1, "an outage after it")
    least, server.status = time.monotonic() - ended, 200
    assert runner.wait(LIMIT_S) == 0
    assert least <= server.late_s <= time.monotonic() - before


def test_an_end_that_is_heard_at_once_is_not_late(site: Any, server: Any) -> None:
    site.python_code("print(1)")
    assert site.run() == 0
    assert (server.ends, server.late_s) == (1, 0.0)


def test_an_attempt_that_nobody_knows_runs_on_and_keeps_its_spool(site: Any, server: Any, until: Any, tmp_path: Path) -> None:
    site.python_code(SPEAKER.format(go=str(tmp_path / "go")))
    runner = site.start()
    until(lambda: server.log, "the first line")
    server.status = 410
    (tmp_path / "go").touch()
    until(lambda: (site.root / "exit.json").exists(), "the exit record")
    assert runner.poll() is None
    assert (site.root / "spool" / "log").read_bytes() == SPOKEN


def test_an_attempt_that_is_adopted_is_heard_again_as_soon_as_the_server_asked_for(
    site: Any, server: Any, until: Any, tmp_path: Path
) -> None:
    site.python_code(SPEAKER.format(go=str(tmp_path / "go")))
    runner = site.start()
    until(lambda: server.log, "the first line")
    server.is_patient, server.status = True, 410
    (tmp_path / "go").touch()
    until(lambda: server.refusals > 3, "the claim, again and again")
    server.status = 200
    assert runner.wait(LIMIT_S) == 0, "it waits for half a minute, as where nothing was asked for"
    assert server.log == SPOKEN


def test_an_attempt_that_nobody_knew_from_the_start_leaves(site: Any, server: Any) -> None:
    site.python_code("print('never')")
    server.status = 410
    assert site.run() == 1
    assert not (site.root / "started").exists()


def test_a_second_runner_of_one_folder_leaves_at_once(site: Any, server: Any, until: Any, tmp_path: Path) -> None:
    site.python_code(SPEAKER.format(go=str(tmp_path / "go")))
    runner = site.start()
    until(lambda: server.log, "the first line")
    assert site.run() == 75
    (tmp_path / "go").touch()
    assert runner.wait(LIMIT_S) == 0
    assert server.log == SPOKEN


def test_where_the_engine_tells_ends_the_next_runner_sends_what_is_left_and_tells_none(
    site: Any, server: Any, until: Any, tmp_path: Path
) -> None:
    """A runner whose folder outlives it in a pod: why the one before died, the engine knows."""
    launch = {**site.read("launch.json"), "engine_tells_end": True, "exit_copy": str(tmp_path / "last-word")}
    (site.root / "launch.json").write_text(json.dumps(launch))
    site.python_code("import time\nprint('begun', flush=True)\ntime.sleep(600)")
    runner = site.start()
    until(lambda: server.log, "the first line")
    runner.kill()
    runner.wait()
    (site.root / "spool" / "log").open("ab").write(b"more")
    assert site.run() == 0
    assert (server.log, server.exit) == (b"begun\nmore", None)
    assert not (tmp_path / "last-word").exists()


def test_the_outcome_is_left_where_the_engine_shows_it(site: Any, server: Any, until: Any, tmp_path: Path) -> None:
    """And a stop that comes from the engine alone has the cause that the backend named."""
    more = {"engine_tells_end": True, "exit_copy": str(tmp_path / "last-word"), "term_cause": "preempted"}
    (site.root / "launch.json").write_text(json.dumps({**site.read("launch.json"), **more}))
    site.python_code("import time; print('up', flush=True); time.sleep(600)")
    runner = site.start()
    until(lambda: server.log, "the first line")
    runner.terminate()
    assert runner.wait(LIMIT_S) == 0
    assert server.exit["cause"] == "preempted"
    assert json.loads((tmp_path / "last-word").read_text())["outcome"]["cause"] == "preempted"


def test_a_signal_by_which_the_engine_tells_why_is_that_cause(site: Any, server: Any, until: Any) -> None:
    """User code is asked to end all the same, by SIGTERM."""
    more = {"term_cause": "preempted", "signals": {"SIGUSR1": "timeout"}}
    (site.root / "launch.json").write_text(json.dumps({**site.read("launch.json"), **more}))
    waits = "print('up', flush=True)\ntime.sleep(600)"
    site.python_code(f"import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit('told'))\n{waits}")
    runner = site.start()
    until(lambda: server.log, "the first line")
    runner.send_signal(signal.SIGUSR1)
    assert runner.wait(LIMIT_S) == 0
    assert (server.exit["cause"], server.log) == ("timeout", b"up\ntold\n")


def test_after_the_runners_death_the_next_one_drains_and_begins_nothing(site: Any, server: Any, until: Any) -> None:
    code = "import time, os\nprint('begun', os.getpid(), flush=True)\nopen(os.environ['L'], 'a').write('x')\ntime.sleep(600)"
    site.python_code(code, env={"L": str(site.root / "ledger")})
    runner = site.start()
    until(lambda: (site.root / "ledger").exists() and server.log, "the first line")
    runner.kill()
    runner.wait()
    pid = int(server.log.split()[1])
    assert _is_running(pid)
    (site.root / "spool" / "log").open("ab").write(b"more")
    assert site.run() == 0
    assert not _is_running(pid)
    assert (site.root / "ledger").read_text() == "x"
    assert server.exit["cause"] == "node_lost"
    assert server.log.startswith(b"begun %d\nmore" % pid)


def test_an_exit_record_of_a_dead_runner_is_sent_by_the_next(site: Any, server: Any, until: Any, tmp_path: Path) -> None:
    site.python_code(SPEAKER.format(go=str(tmp_path / "go")))
    runner = site.start()
    until(lambda: server.log, "the first line")
    server.status = 503
    (tmp_path / "go").touch()
    until(lambda: (site.root / "exit.json").exists(), "the exit record")
    runner.kill()
    runner.wait()
    server.status = 200
    assert site.run() == 0
    assert (server.exit["cause"], server.log, server.ends) == ("succeeded", SPOKEN, 1)
    assert site.run() == 0
    assert server.ends == 1


@pytest.mark.parametrize("point", ["before-S3", "after-S3", "after-S4", "before-S6", "after-S6", "before-S7"])
def test_a_crash_at_any_point_ends_in_one_end(site: Any, server: Any, point: str) -> None:
    code = "import os; open(os.environ['L'], 'a').write('x'); print('said')"
    site.python_code(code, env={"L": str(site.root / "ledger")})
    assert site.start(env={**os.environ, "MAINSPRING_FAULT": point}).wait(LIMIT_S) == -signal.SIGKILL
    assert site.run() == 0
    began = (site.root / "ledger").read_text() if (site.root / "ledger").exists() else ""
    assert len(began) <= 1
    if point in ("before-S3", "before-S6", "after-S6", "before-S7"):
        assert (server.exit["cause"], began) == ("succeeded", "x")
    else:
        assert server.exit["cause"] == "node_lost"
    assert site.read("exit.json")["is_final"]


def test_the_token_is_in_no_listing_and_not_with_user_code(site: Any, server: Any, until: Any) -> None:
    site.python_code("import time; print('up', flush=True); time.sleep(600)")
    runner = site.start()
    until(lambda: server.log, "the first line")
    for pid in (runner.pid, site.read("started")["pid"]):
        for name in ("cmdline", "environ"):
            assert b"t0ken" not in Path(f"/proc/{pid}/{name}").read_bytes()
    fields = {name: site.read(name) for name in ("started", "runner.json")}
    assert fields["runner.json"]["pid"] == runner.pid
    assert set(fields["started"]) == {"pid", "start_time", "boot_id", "pgid"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_does_not_lose_the_end(site: Any, server: Any, until: Any, tmp_path: Path) -> None:
    kept = {name: (site.root / name).read_bytes() for name in ("launch.json", "token")}
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(site.root)], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no mounts here")
    try:
        for name, data in kept.items():
            (site.root / name).write_bytes(data)
        fill = "import os\nf = open(os.environ['MAINSPRING_OUT'] + '/../filler', 'wb', 0)\n"
        site.python_code(fill + "try:\n  while True: f.write(b'x' * 4096)\nexcept OSError as full: raise SystemExit(3)")
        assert site.run() == 0
        assert (server.exit["cause"], server.exit["exit_code"]) == ("user_error", 3)
    finally:
        subprocess.run(["umount", "-l", str(site.root)], check=True)


@pytest.fixture
def group(tmp_path: Path) -> Any:
    """A cgroup (v1) with 64 MB of memory, to be entered by whoever writes a pid into its `cgroup.procs`."""
    made = Path("/sys/fs/cgroup/memory") / f"mainspring-runner-test-{os.getpid()}"
    try:
        made.mkdir()
        (made / "memory.limit_in_bytes").write_text(str(64 << 20))
        (made / "memory.swappiness").write_text("0")
    except OSError:
        pytest.skip("no memory cgroup (v1) to write to")
    yield made
    made.rmdir()


def test_memory_beyond_the_limit_is_told_as_such(site: Any, server: Any, group: Path) -> None:
    launch = {**site.read("launch.json"), "cgroup": str(group)}
    (site.root / "launch.json").write_text(json.dumps(launch))
    site.python_code("x = []\nwhile True: x.append(bytearray(1 << 20))")
    enter = f"echo $$ > {group}/cgroup.procs; exec {sys.executable} -S -E {site.bundle} {site.root}"
    assert subprocess.run(["/bin/sh", "-c", enter], timeout=30, check=False).returncode == 0
    assert (server.exit["cause"], server.exit["exit_code"]) == ("out_of_memory", 137)


def test_metrics_of_a_writer_killed_mid_line_stay_lines(site: Any, server: Any) -> None:
    code = "import os; open(os.environ['MAINSPRING_SPOOL'] + '/metrics', 'w').write('[\"a\", 1, 0, 1.0]\\n[\"b\", 2')"
    site.python_code(code)
    assert site.run() == 0
    assert server.lines("metrics") == [["a", 1, 0, 1.0]]


def test_log_beyond_the_limit_gives_way_to_a_marker(site: Any, server: Any, until: Any, tmp_path: Path) -> None:
    launch = {**site.read("launch.json"), "spool_limit_bytes": 16 << 20}
    (site.root / "launch.json").write_text(json.dumps(launch))
    go = str(tmp_path / "go")
    site.python_code(SPEAKER.format(go=go).replace("for n", f"\nfor _ in range(40): print('y' * {1 << 20})\nfor n"))
    runner = site.start()
    until(lambda: server.log, "the first line")
    server.status = 503
    (tmp_path / "go").touch()
    until(lambda: (site.root / "holes.json").exists() and (site.root / "exit.json").exists(), "a hole")
    server.status = 200
    assert runner.wait(LIMIT_S) == 0
    holes = site.read("holes.json")["holes"]
    lost = sum(end - start for start, end in holes)
    text = server.log.replace(b"\n[mainspring: %d bytes of log were dropped while the server was away]\n" % lost, b"", 1)
    assert len(holes) == 1
    assert len(text) == len(SPOKEN) + 40 * ((1 << 20) + 1) - lost
    assert text.endswith(SPOKEN[-20000:])


def _of_python39() -> str:
    for place in (*Path.home().glob(".pyenv/versions/3.9*/bin/python"), Path("/usr/bin/python3.9")):
        if place.exists():
            return str(place)
    return ""


@pytest.mark.skipif(not _of_python39(), reason="no Python 3.9 here")
def test_runner_and_shim_work_on_python_3_9(site: Any, server: Any) -> None:
    site.python = _of_python39()
    code = "import mainspring as ms, sys; ms.log_metric('loss', 0.5, 3); ms.log_params(lr=0.1); print(sys.version_info[:2])\n"
    code += "with ms.writing_checkpoint() as folder: (folder / 'a').write_text('1')\nsys.exit(3)"
    site.spec(site.python, "-c", code)
    assert site.run() == 0
    assert server.log == b"(3, 9)\n"
    assert [one["kind"] for one in server.lines("events") if not one["kind"].startswith("environment")] == ["checkpoint"]
    assert [point[:3] for point in server.lines("metrics")] == [["loss", 0.5, 3]]
    assert server.lines("params") == [["lr", 0.1]]
