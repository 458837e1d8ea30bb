"""The server's own troubles: its port, its database, its disk, its end, and what it uses while nothing happens."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e
IDLE_S = 10.0


def test_a_port_in_use_is_named(fresh: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = fresh.cli("server", "--port", str(port))
        assert done.code == 2
        assert f"Port {port}" in done.err
        assert "hint: " in done.err
        done = fresh.cli("up", "--port", str(port), timeout_s=90)
        assert done.code != 0
        assert f"Port {port}" in done.err
    assert "Traceback" not in fresh.server_log()


def test_an_address_of_another_machine_is_refused(fresh: Site) -> None:
    done = fresh.cli("server", "--bind", "192.0.2.1")
    assert done.code == 2
    assert "192.0.2.1 is no address of this machine" in done.err


def test_two_ups_at_once_make_one_server(fresh: Site, until: Callable[..., Any]) -> None:
    command = [sys.executable, "-m", "mainspring.cli.main", "up", "--json"]
    env = fresh.environ(MAINSPRING_HAS_UI="false")
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    told = [json.loads(one.communicate(timeout=40)[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert told[0]["pid"] == told[1]["pid"]
    status = json.loads(fresh.cli("status", "--json").out)
    assert {"pid", "url", "version", "home"} <= set(status)
    assert (status["pid"], status["home"]) == (told[0]["pid"], str(fresh.home))
    assert fresh.cli("down").code == 0
    assert fresh.cli("down").code == 0, "down twice is no error"
    assert fresh.cli("status").code == 7
    until(lambda: not fresh.carriers(), "the end of every process")


def test_a_second_server_for_the_same_folder_is_refused(site: Site) -> None:
    done = site.cli("server")
    assert done.code == 1
    assert "owned by another process" in done.err
    assert "hint: " in done.err
    assert site.answers(), "the first one goes on and can be found"


def test_a_damaged_database_is_named_and_left_as_it_is(fresh: Site) -> None:
    fresh.start()
    fresh.stop()
    path = fresh.home / "mainspring.db"
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    damaged = b"not a database at all" * 1000
    path.write_bytes(damaged)
    done = fresh.cli("server")
    assert done.code == 1
    assert str(path) in done.err
    assert "restore" in done.err
    assert path.read_bytes() == damaged
    done = fresh.cli("run", "--", "true", timeout_s=90)
    assert done.code != 0
    assert "damaged" in done.err, done.err


def test_a_newer_database_is_left_alone(fresh: Site) -> None:
    fresh.start()
    fresh.stop()
    with sqlite3.connect(fresh.home / "mainspring.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    done = fresh.cli("server")
    assert done.code == 1
    assert "newer" in done.err
    assert "hint: " in done.err


def test_sigterm_ends_the_server_and_runs_go_on(fresh: Site) -> None:
    fresh.start("--cpus", "8")
    code = "import time\nfor n in range(200):\n    print('line', n, flush=True)\n    time.sleep(0.05)"
    refs = [fresh.python(code) for _ in range(3)]
    for ref in refs:
        fresh.running(ref, b"line")
    assert fresh.stop() == 0
    assert not (fresh.home / "server.json").exists()
    assert fresh.carriers(), "the runs were ended with the server"
    fresh.start("--cpus", "8")
    for ref in refs:
        run = fresh.wait(ref)
        assert (run["state"], run["attempt"]) == ("succeeded", 1)
        assert fresh.log(ref) == b"".join(b"line %d\n" % n for n in range(200))
    assert "Traceback" not in fresh.server_log()


def test_old_and_new_know_each_other(site: Site) -> None:
    answer = site.call("GET", "/runs", headers={"Mainspring-Protocol": "0"})
    assert answer.status_code == 426
    assert answer.headers.get("mainspring-protocol", "1") == "1"
    # a new client against an old server: an answer that says 426 becomes a sentence and exit code 7
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Old(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = {"code": "version_mismatch", "message": "This server speaks protocol 0.", "hint": "Upgrade it.", "details": {}}
            body = json.dumps({"error": told}).encode()
            self.send_response(426)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = HTTPServer(("127.0.0.1", 0), Old)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = site.cli("ps", MAINSPRING_URL=f"http://127.0.0.1:{server.server_port}", MAINSPRING_TOKEN="ms_any")
    finally:
        server.shutdown()
        server.server_close()
    assert done.code == 7
    assert "protocol 0" in done.err
    assert "Upgrade it." in done.err


def test_what_is_no_mainspring_at_all(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    done = site.cli("ps", MAINSPRING_URL=address, MAINSPRING_TOKEN="ms_any", timeout_s=90)
    assert done.code == 7
    assert address in done.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no mounts here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_refuses_and_loses_nothing(small_disk: Path, fresh: Site, until: Callable[..., Any]) -> None:
    fresh.home = small_disk / "home"
    fresh.home.mkdir(mode=0o700)
    fresh.start("--cpus", "8")
    accepted = [fresh.python(f"print({n})") for n in range(3)]
    for ref in accepted:
        assert fresh.wait(ref)["state"] == "succeeded"
    filler = fresh.home / "filler"
    _fill(filler)

    def refused() -> Any:
        answer = fresh.call("POST", "/runs", json={"command": ["true"], "name": "while-full", "params": {"pad": "y" * 4000}})
        if answer.status_code == 201:
            accepted.append(answer.json()["id"])
            return None
        return answer

    answer = until(refused, "the refusal")
    assert answer.status_code == 507, answer.text
    assert answer.json()["error"]["code"] == "disk_full"
    assert answer.json()["error"]["hint"]

    def refused_by_hand() -> Any:
        _fill(filler)  # the database finds room for a while where its log begins anew
        done = fresh.cli("run", "-d", "--name", "by-hand", "--env", "PAD=" + "y" * 20000, "--", "true", cwd=small_disk)
        if done.code == 0:
            accepted.append(done.out.strip())
            return None
        return done

    done = until(refused_by_hand, "the refusal by hand")
    assert done.code == 1
    assert "space" in done.err
    assert fresh.answers(), "reading goes on"
    filler.unlink()
    accepted.append(fresh.python("print('again')"))
    for ref in accepted:
        assert fresh.wait(ref)["state"] == "succeeded"
    assert {run["id"] for run in fresh.call("GET", "/runs?limit=1000").json()["items"]} == set(accepted)
    assert "Traceback" not in fresh.server_log()


def test_a_run_that_ends_while_the_disk_is_full_is_not_lost(small_disk: Path, fresh: Site, tmp_path: Path, until: Any) -> None:
    fresh.home = small_disk / "home"
    fresh.home.mkdir(mode=0o700)
    fresh.start("--cpus", "8")
    go = tmp_path / "go"
    code = f"import os, time\nprint('up', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)"
    refs = [fresh.python(code) for _ in range(3)]
    for ref in refs:
        fresh.running(ref, b"up")
    folders = [fresh.folder_of(ref) for ref in refs]
    filler = fresh.home / "filler"
    _fill(filler)
    go.touch()
    until(lambda: all((place / "ended.json").exists() or not place.exists() for place in folders), "the ends on disk")
    _fill(filler)
    filler.unlink()
    for ref in refs:
        run = fresh.wait(ref, timeout_s=90)
        assert (run["state"], run["attempt"]) == ("succeeded", 1)
        assert fresh.log(ref) == b"up\n"
    assert "Traceback" not in fresh.server_log()


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as out:
        try:
            while True:
                out.write(b"x" * 4096)
        except OSError:
            pass


def test_an_idle_server_uses_next_to_nothing(fresh: Site, record_property: Callable[[str, object], None]) -> None:
    fresh.is_cold = True
    fresh.start(MAINSPRING_HAS_UI="true")
    assert fresh.wait(fresh.python("print('warm')"))["state"] == "succeeded"
    assert fresh.process is not None
    pid = fresh.process.pid
    before, began = _cpu_s(pid), time.monotonic()
    deadline = began + IDLE_S
    while time.monotonic() < deadline:
        time.sleep(0.5)  # nothing is awaited: idleness itself is what is measured
    share = (_cpu_s(pid) - before) / (time.monotonic() - began)
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    record_property("idle_cpu_percent", round(share * 100, 2))
    record_property("idle_rss_mib", resident // 1024)
    print(f"idle: {share * 100:.2f} % CPU, {resident // 1024} MiB RSS")
    assert share < 0.02, f"an idle server used {share:.1%} of a CPU"


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_backup_while_runs_are_in_flight_is_whole(fresh: Site, tmp_path: Path) -> None:
    fresh.start("--cpus", "8")
    done = [fresh.python(f"print({n})") for n in range(5)]
    for ref in done:
        fresh.wait(ref)
    flying = [fresh.python("import time; print('up', flush=True); time.sleep(600)", grace_s=0) for _ in range(3)]
    for ref in flying:
        fresh.running(ref, b"up")
    copy = tmp_path / "copy.db"
    made = fresh.cli("backup", str(copy))
    assert made.code == 0, made
    assert fresh.cli("backup", str(copy)).code == 5, "a backup never replaces a file"
    assert fresh.cli("restore", str(copy), "-y").code == 5, "nothing is restored under a server"
    fresh.stop()
    # into a fresh home, where no runner ever was
    other = type(fresh)(home=tmp_path / "other")
    other.home.mkdir(mode=0o700)
    try:
        restored = other.cli("restore", str(copy), "-y")
        assert restored.code == 0, restored
        other.start("--cpus", "8")
        assert {run["id"] for run in other.call("GET", "/runs?limit=100").json()["items"]} == {*done, *flying}
        for number, ref in enumerate(done):
            assert other.run(ref)["state"] == "succeeded"
            assert other.log(ref) == b"%d\n" % number
        assert other.wait(other.python("print('works')"))["state"] == "succeeded"
        assert "Traceback" not in other.server_log()
    finally:
        other.close()
    damaged = tmp_path / "damaged.db"
    shutil.copy(copy, damaged)
    with damaged.open("r+b") as file:
        file.seek(8192)
        file.write(b"\0" * 40960)
    refused = fresh.cli("restore", str(damaged), "-y")
    assert refused.code == 1
    assert "damaged" in refused.err
    fresh.start("--cpus", "8")
    assert fresh.run(done[0])["state"] == "succeeded", "the database is as it was"
