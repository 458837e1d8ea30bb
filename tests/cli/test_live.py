"""The commands against a real server on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.e2e
WRITES = """
import os
print("seen", os.environ["GREETING"])
with open(os.environ["MAINSPRING_OUT"] + "/o.txt", "w") as file:
    file.write("out")
"""


@pytest.fixture
def script(tmp_path):
    def write(text, name="train.py"):
        (tmp_path / name).write_text(text)
        return name

    return write


def test_run_follows_the_log_and_takes_the_exit_code(cli, server, script):
    script("import sys; print('hello', *sys.argv[1:]); sys.exit(3 if '--bad' in sys.argv else 0)")
    good = cli("run", "train.py", "--gpus", "1", "--", "--lr", "3e-4", home=server)
    assert (good.returncode, good.stdout) == (0, "hello --lr 3e-4\n")
    bad = cli("run", "train.py", "--", "--bad", home=server)
    assert bad.returncode == 3
    assert "exit code 3" in bad.stderr


def test_the_log_of_a_run_that_waits_says_so(cli, server):
    assert cli("run", "--gpus", "2", "--detach", "--name", "holds-all", "--", "sleep", "600", home=server).returncode == 0
    assert cli("run", "--gpus", "2", "--detach", "--name", "waits", "--", "true", home=server).returncode == 0
    told = cli("logs", "waits", home=server)
    assert (told.returncode, told.stdout) == (0, "")
    assert "waits has not begun: mainspring why waits" in told.stderr
    assert cli("cancel", "waits", "holds-all", home=server).returncode == 0


LISTENS = """
import socket
door = socket.create_server(("127.0.0.1", 0))
print("first")
print("port", door.getsockname()[1], flush=True)
while True:
    with door.accept()[0] as one:
        one.sendall(b"hi")
"""


def test_programs_read_a_log_reach_a_port_and_look_inside(cli, server, script, tmp_path):
    script(LISTENS)
    assert cli("run", "--detach", "--name", "listens", "train.py", home=server).returncode == 0
    environ = {**os.environ, "MAINSPRING_HOME": str(server)}
    environ.pop("PYTHONUNBUFFERED", None)

    def begin(*words):
        command = [sys.executable, "-m", "mainspring.cli.main", *words, "--json"]
        return subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    following = begin("logs", "-f", "listens")
    told = [json.loads(following.stdout.readline()) for _ in range(2)]
    assert told[0] == {"stream": "log", "attempt": 1, "offset": 0, "text": "first"}
    assert (told[1]["offset"], told[1]["text"][:5]) == (6, "port ")
    assert [json.loads(line) for line in cli("logs", "listens", "--json", home=server).stdout.splitlines()] == told
    (last,) = cli("logs", "listens", "--json", "--tail", "1", home=server).stdout.splitlines()
    assert json.loads(last) == told[1]
    inside = cli("shell", "listens", "--json", "--", "sh", "-c", "echo in; echo bad >&2; exit 4", home=server)
    assert (inside.returncode, json.loads(inside.stdout)) == (4, {"code": 4, "output": "in\n", "errors": "bad\n"})
    reaching = begin("port", "listens", told[1]["text"].split()[1])
    where = urlsplit(json.loads(reaching.stdout.readline())["url"])
    with socket.create_connection((where.hostname, where.port), timeout=20) as one:
        assert one.recv(10) == b"hi"
    assert cli("cancel", "listens", "--grace", "0s", home=server).returncode == 0
    assert following.communicate(timeout=30)[0] == ""
    assert reaching.communicate(timeout=30)[0] == ""
    assert (following.returncode, reaching.returncode) == (1, 0)
    for words in (("logs", "listens", "--replica", "1"), ("logs", "-f", "listens", "--attempt", "7")):
        assert cli(*words, home=server).returncode == 4


def test_an_empty_list_says_where_the_runs_are(cli, server, script, again):
    script("print(1)")
    assert cli("project", "add", f"quiet{again}", home=server).returncode == 0
    assert cli("run", "train.py", "--name", "there", home=server).returncode == 0
    told = cli("ps", "--project", f"quiet{again}", home=server)
    assert f"No runs in project quiet{again}. There are some in default" in told.stderr
    asked = cli("ps", "--owner", "nobody", home=server)
    assert "No run of project default is asked for so" in asked.stderr


def test_a_run_from_submit_to_archive(cli, server, script, again):
    tag = f"t1{again}"
    script(WRITES)
    done = cli("run", "--detach", "--name", "story", "--tag", tag, "--env", "GREETING=hi", "train.py", home=server)
    run = done.stdout.strip()
    assert run.startswith("run-")
    assert cli("logs", "-f", run, home=server).stdout == "seen hi\n"
    assert cli("logs", "story", home=server).stdout == "seen hi\n"
    listed = json.loads(cli("ps", "--json", "--tag", tag, home=server).stdout)
    assert [(one["id"], one["state"], one["tags"]) for one in listed] == [(run, "succeeded", [tag])]
    assert "succeeded" in cli("ps", home=server).stdout
    assert json.loads(cli("why", run[-7:], "--json", home=server).stdout)["sentence"] == "It succeeded."
    assert json.loads(cli("show", "story", "--json", home=server).stdout)["run"]["spec"]["command"] == ["train.py"]
    assert "o.txt" in cli("pull", "story", "got", home=server).stdout
    assert "t2" in cli("tag", run, "t2", home=server).stdout
    assert cli("archive", run, home=server).returncode == 0
    assert json.loads(cli("ps", "--json", "--tag", tag, home=server).stdout) == []
    assert cli("rm", run, home=server).returncode == 2
    assert cli("rm", run, "-y", home=server).returncode == 0
    gone = cli("show", run, home=server)
    assert gone.returncode == 4
    assert "There is no run" in gone.stderr


def test_what_can_never_fit_is_refused_with_what_would(cli, server, script):
    script("")
    done = cli("run", "train.py", "--gpus", "64", home=server)
    assert done.returncode == 6
    assert "2" in done.stderr


def test_ctrl_c_detaches_and_the_run_goes_on(server, script, tmp_path, cli):
    script("import time; print('begun', flush=True); time.sleep(60)")
    environ = {**os.environ, "MAINSPRING_HOME": str(server)}
    process = subprocess.Popen(
        [sys.executable, "-m", "mainspring.cli.main", "run", "--name", "long", "train.py"],
        cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "mainspring cancel" in said
    assert json.loads(cli("ps", "--json", "--text", "long", home=server).stdout)[0]["state"] == "running"
    assert cli("cancel", "long", "--grace", "1s", home=server).returncode == 0
    ended = cli("logs", "-f", "long", home=server)
    assert ended.returncode == 1


def test_rerun_replaces_arguments(cli, server, script):
    script("import sys; print(sys.argv[1:])")
    cli("run", "--name", "again", "train.py", "--", "--lr", "1", home=server)
    assert "['--lr', '5']" in cli("rerun", "-f", "again", "--set", "lr=5", home=server).stdout
    assert "['--x']" in cli("rerun", "-f", "again", "--", "--x", home=server).stdout


def test_a_sweep_asks_for_what_its_task_declares(cli, server, script):
    script("import mainspring as ms\nN = 1\n@ms.task(gpus=2, memory='64MiB', cpus=N)\ndef f(x):\n    return x\n", "declared.py")
    words = ("sweep", "declared.py:f", "-n", "1", "--maximize", "score", "x=uniform:0:1", "--detach", "--json", "--yes")
    asked = json.loads(cli(*words, home=server).stdout)["spec"]["template"]["resources"]
    assert (asked["gpu_milli"], asked["memory_bytes"], asked["cpu_milli"]) == (2000, 64 << 20, 1000)
    told = cli(*words, "--gpus", "0.5", "--memory", "32MiB", home=server)
    assert "cpus=N of f is computed" in told.stderr
    asked = json.loads(told.stdout)["spec"]["template"]["resources"]
    assert (asked["gpu_milli"], asked["memory_bytes"]) == (500, 32 << 20)


def test_a_sweep_of_a_task(cli, server, script):
    script("import mainspring as ms\n@ms.task\ndef f(x: float, k: int):\n    ms.log_metric('score', k - x)\n", "jobs.py")
    words = ("sweep", "jobs.py:f", "-n", "2", "--maximize", "score", "--sampler", "random", "x=uniform:0:1", "k=3", "--json")
    done = cli(*words, home=server)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [trial["state"] for trial in told["trials"]] == ["succeeded", "succeeded"]
    assert all(2 <= trial["value"] <= 3 for trial in told["trials"])
    assert "no function" in cli("sweep", "jobs.py:g", "-n", "2", "--maximize", "score", "x=uniform:0:1", home=server).stderr


def test_data_sets(cli, server, tmp_path, again):
    name = f"flights{again}"
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.csv").write_text("x\n1\n")
    added = cli("data", "add", name, "d", home=server, FORCE_COLOR="1")  # as on a terminal
    assert f"{name}@v1: 1 file," in added.stdout
    assert re.search(r"Sending files: \d+ B of \d+ B", added.stderr), added.stderr
    assert cli("data", "add", name, "d", "--json", home=server, FORCE_COLOR="1").stderr == ""
    assert "Nothing has changed" in cli("data", "add", name, "d", home=server).stderr
    assert "v1" in cli("data", "ls", home=server).stdout
    assert "a.csv" in cli("data", "show", f"{name}@v1", home=server).stdout
    cli("data", "pull", name, "got", home=server)
    assert (tmp_path / "got/a.csv").read_text() == "x\n1\n"


def test_people_and_secrets(cli, server, script, again):
    ann, team = f"ann{again}", f"team{again}"
    assert cli("user", "add", ann, home=server).returncode == 0
    assert cli("project", "add", team, home=server).returncode == 0
    assert ann in cli("project", "grant", team, ann, "viewer", home=server).stdout
    token = cli("token", "add", "laptop", "--user", ann, home=server).stdout.strip()
    assert token.startswith("ms_")
    url = json.loads(cli("status", "--json", home=server).stdout)["url"]
    script("print(1)")
    elsewhere = {"MAINSPRING_URL": url, "MAINSPRING_TOKEN": token}
    refused = cli("run", "--project", team, "train.py", **elsewhere)
    assert refused.returncode == 3
    assert cli("ps", "--project", team, **elsewhere).returncode == 0
    assert cli("secret", "set", "API_KEY", home=server, stdin="value\n").returncode == 0
    assert "API_KEY" in cli("secret", "ls", home=server).stdout
    script("import os; print(len(os.environ['API_KEY']))")
    assert cli("run", "--secret", "API_KEY", "train.py", home=server).stdout == "5\n"
    assert cli("ps", MAINSPRING_URL=url, MAINSPRING_TOKEN="ms_wrong").returncode == 3


def test_the_fleet_and_the_doctor(cli, server):
    assert "ready" in cli("cluster", "ls", home=server).stdout
    told = json.loads(cli("status", "--json", home=server).stdout)
    assert told["home"] == str(server)
    assert {"pid", "url", "version"} <= set(told)
    done = cli("doctor", "--json", home=server)
    assert {"python", "disk", "server", "clock"} <= {one["what"] for one in json.loads(done.stdout)}
    assert "/login/" in cli("ui", "--print", home=server).stdout


def test_up_and_down_are_idempotent(cli, tmp_path):
    home = tmp_path / "own"
    assert cli("up", home=home).returncode == 0
    again = cli("up", "--json", home=home)
    pid = json.loads(again.stdout)["pid"]
    assert json.loads(cli("status", "--json", home=home).stdout)["pid"] == pid
    assert cli("down", home=home).returncode == 0
    assert cli("down", home=home).returncode == 0
    assert cli("status", home=home).returncode == 7
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("the server is still there")


def test_a_command_that_starts_a_server_says_so_once(cli, tmp_path):
    first, second = (cli("ps", "--json", home=tmp_path / "own") for _ in range(2))
    assert cli("down", home=tmp_path / "own").returncode == 0
    assert (json.loads(first.stdout), first.stderr.count("\n")) == ([], 1), first
    assert "Started a server for" in first.stderr
    assert "mainspring down" in first.stderr
    assert second.stderr == ""


def test_it_is_started_as_the_last_one_was_by_hand(cli, tmp_path):
    home = tmp_path / "own"
    assert cli("up", "--gpus", "3", home=home).returncode == 0
    assert cli("down", home=home).returncode == 0
    again = cli("cluster", "show", "local", "--json", home=home)
    assert cli("down", home=home).returncode == 0
    assert "as by: mainspring up --gpus 3;" in again.stderr
    assert len(json.loads(again.stdout)["nodes"][0]["devices"]) == 3
    assert (home / "up.json").stat().st_mode & 0o077 == 0
    assert cli("up", home=home).returncode == 0, "by hand it is as it is typed"
    assert cli("down", home=home).returncode == 0
    assert json.loads((home / "up.json").read_text()) == []


PIPELINE = """
import os, mainspring as ms

@ms.task
def make():
    return 3

@ms.task
def use(number):
    if os.path.exists("{flag}"):
        raise ValueError("not yet")
    return number

@ms.pipeline
def build():
    return use(make())

if __name__ == "__main__":
    print(build.submit().id)
"""


def test_a_pipeline_goes_on_after_its_good_steps(cli, server, script, tmp_path):
    flag = tmp_path / "stop"
    flag.touch()
    script(PIPELINE.format(flag=flag), "graph.py")
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")} | {
        "MAINSPRING_HOME": str(server)
    }
    first = subprocess.run([sys.executable, "graph.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    ref = first.stdout.strip()

    def until(ref, wanted):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = json.loads(cli("pipeline", "show", ref, "--json", home=server).stdout)
            if found["state"] == wanted:
                return found
            time.sleep(0.1)
        raise AssertionError(found)

    before = until(ref, "failed")
    flag.unlink()
    told = cli("pipeline", "retry", ref, home=server).stdout
    assert "1 of 2 steps kept" in told
    again = until(told.split(" as ")[1].partition(":")[0], "succeeded")
    runs = [{step["key"]: step["run"] for step in one["steps"]} for one in (before, again)]
    assert (runs[0]["make"], runs[0]["use"] != runs[1]["use"]) == (runs[1]["make"], True)
    assert "use: It ended with exit code 1" in cli("pipeline", "ls", home=server).stdout
    assert "make" in cli("pipeline", "show", again["id"], home=server).stdout
    assert "succeeded" in cli("pipeline", "cancel", again["id"], home=server).stdout
    assert cli("pipeline", "retry", again["id"], home=server).returncode == 5


def test_who_is_ahead_in_a_project_of_others_is_told_without_a_name(cli, server, script, again):
    bob, eve, closed = f"bob{again}", f"eve{again}", f"walled{again}"  # named after "default" where the list of runs tells both
    script("import time; time.sleep(60)", "hold.py")
    assert cli("project", "add", closed, home=server).returncode == 0
    speaks = {}
    for user, project in ((bob, closed), (eve, "default")):
        assert cli("user", "add", user, home=server).returncode == 0
        assert cli("project", "grant", project, user, "editor", home=server).returncode == 0
        url = json.loads(cli("status", "--json", home=server).stdout)["url"]
        token = cli("token", "add", "t", "--user", user, home=server).stdout.strip()
        speaks[user] = {"MAINSPRING_URL": url, "MAINSPRING_TOKEN": token}
    held = cli("run", "--detach", "--gpus", "2", "hold.py", home=server).stdout.strip()
    hush = cli("run", "--detach", "--project", closed, "--name", "hush", "--gpus", "2", "hold.py", **speaks[bob]).stdout.strip()
    asked = cli("run", "--detach", "--gpus", "2", "hold.py", **speaks[eve])
    assert asked.returncode == 0, asked.stderr
    mine = asked.stdout.strip()
    try:
        told = cli("why", mine, **speaks[eve])
        assert "number 2 of 2" in told.stdout
        assert "(a project you are not in)" in told.stdout
        assert bob in told.stdout
        assert "hush" not in told.stdout
        assert "hush" in cli("why", mine, home=server).stdout
    finally:
        cli("cancel", held, hush, mine, "--grace", "0s", home=server)
