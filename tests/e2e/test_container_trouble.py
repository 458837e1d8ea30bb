"""Container engines on bad days, and what `cluster add` refuses: wrong options, an engine behind SSH, down, slow, rows lost."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines.docker import IMAGE

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.engine]


@pytest.fixture
def box(fresh: Site, docker_engine: Any) -> Site:
    fresh.start("--cpus", "1")
    words = ("--image", IMAGE, "--cpus", "4", "--memory", "2GiB", "--pool", "lab")
    added = fresh.cli("cluster", "add", "docker", "--name", "box", "--host", docker_engine.url, *words)
    assert added.code == 0, added
    return fresh


def test_a_check_tells_at_once_why_nothing_can_run(box: Site, docker_engine: Any) -> None:
    words = ("cluster", "add", "docker", "--name", "bare", "--host", docker_engine.url, "--cpus", "1", "--memory", "1GiB")
    added = box.cli(*words, "--image", "localhost:1/no/such:9")
    assert (added.code, "has not got the image localhost:1/no/such:9" in added.err) == (0, True), added
    checked = box.cli("cluster", "check", "bare", timeout_s=120)
    assert (checked.code, "localhost:1/no/such:9 cannot be pulled" in checked.out) == (1, True), checked


def test_what_the_engine_has_not_got_is_refused_when_it_is_added(fresh: Site, docker_engine: Any) -> None:
    fresh.start("--cpus", "1")
    wrong = (
        (("--mounts", "here:there"), "Mount 'here:there'"),
        (("--ulimits", "lots"), "Limit 'lots'"),
        (("--runtime", "abacus"), "no runtime 'abacus'"),
        (("--shm-size", "lots"), "shm_size 'lots'"),
        (("--user", "me"), "UID or UID:GID"),
        (("--network", "none"), "without any network"),
    )
    for words, says in wrong:
        refused = fresh.cli("cluster", "add", "docker", "--host", docker_engine.url, *words)
        assert (refused.code, says in refused.err) == (6, True), refused
    for host, code, says in (
        ("nonsense", 6, "names no engine"),
        ("ssh://a b", 6, "names no machine"),
        ("unix:///no/such.sock", 1, "no such socket"),
        ("tcp://127.0.0.1:1", 1, "nobody listens"),
    ):
        refused = fresh.cli("cluster", "add", "docker", "--host", host)
        assert (refused.code, says in refused.err) == (code, True), refused
    assert [one["cluster"]["name"] for one in fresh.call("GET", "/clusters").json()] == ["local"]


@pytest.mark.xdist_group("fleet")
def test_an_engine_behind_ssh_needs_nothing_but_sshd(fresh: Site, docker_engine: Any, ssh_hosts: Any) -> None:
    fresh.start("--cpus", "1", "--bind", docker_engine.address)
    place = docker_engine.url.removeprefix("unix://")
    at = f"ssh://root@{ssh_hosts.addresses['bm1']}"
    known = ("--key", ssh_hosts.key, "--host-key", ssh_hosts.fingerprint("bm1"))
    words = ("cluster", "add", "docker", "--name", "far", "--image", IMAGE)
    unknown = fresh.cli(*words, "--host", at + place, "--key", ssh_hosts.key)
    assert (unknown.code, ssh_hosts.fingerprint("bm1") in unknown.err) == (1, True), unknown
    nobody = fresh.cli(*words, "--host", at, *known)
    assert (nobody.code, "nobody is at /var/run/docker.sock there" in nobody.err) == (1, True), nobody
    added = fresh.cli(*words, "--host", at + place, *known)
    assert added.code == 0, added
    done = fresh.cli("run", "--label", "cluster=far", "--", "sh", "-c", "test -f /.dockerenv && echo inside", timeout_s=90)
    assert (done.code, "inside" in done.out) == (0, True), done


def test_a_container_that_no_row_knows_is_found(box: Site, docker_engine: Any, until: Callable[..., Any]) -> None:
    run = box.submit(["sh", "-c", "echo begun; sleep 300"], resources={"cpu_milli": 100, "pool": "lab"}, grace_s=1.0)
    box.running(run, b"begun")
    attempt = box.attempts(run)[0]["id"]
    living = lambda: attempt in docker_engine.run("ps", "--format", "{{.Names}}")  # noqa: E731
    assert living()
    box.stop(9)
    with contextlib.closing(sqlite3.connect(box.home / "mainspring.db")) as rows, rows:
        tables = [name for (name,) in rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = {one[1] for one in rows.execute(f"PRAGMA table_info({table})")}
            for column, value in (("attempt", attempt), ("run", run)):
                if column in columns:
                    rows.execute(f"DELETE FROM {table} WHERE {column} = ?", (value,))  # noqa: S608 (names of the schema)
        rows.execute("DELETE FROM attempts WHERE id = ?", (attempt,))
        rows.execute("DELETE FROM runs WHERE id = ?", (run,))
    box.start("--cpus", "1")
    until(lambda: attempt in box.cli("adopt").out, "the container among those that no row knows", timeout_s=90)
    assert living(), "an admin has a day to adopt it, as after a backup was restored"


class Door:
    """A socket before an engine's own, which can be shut, or answer late."""

    def __init__(self, path: Path, engine: str) -> None:
        self.delay_s = 0.0
        self.is_shut = False
        self._engine = engine
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(64)
        self.url = f"unix://{path}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._join, args=(self._socket.accept()[0],), daemon=True).start()

    def _join(self, ours: socket.socket) -> None:
        theirs = socket.socket(socket.AF_UNIX)
        theirs.connect(self._engine)
        for source, target in ((ours, theirs), (theirs, ours)):
            threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.is_shut:
                    break
                if self.delay_s:
                    threading.Event().wait(self.delay_s)  # the engine takes its time
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR if self.is_shut else socket.SHUT_RD)


def test_an_engine_that_is_down_or_slow_holds_up_nobody_else(
    fresh: Site, docker_engine: Any, tmp_path: Path, until: Callable[..., Any]
) -> None:
    fresh.start("--cpus", "1", MAINSPRING_QUIET_BEAT_S="1")
    door = Door(Path(tempfile.mkdtemp(prefix="door-")) / "s", docker_engine.url.removeprefix("unix://"))
    words = ("--host", door.url, "--image", IMAGE, "--cpus", "4", "--memory", "2GiB")
    assert fresh.cli("cluster", "add", "docker", "--name", "box", *words).code == 0
    there, here = {"cpu_milli": 100, "labels": {"cluster": "box"}}, {"cpu_milli": 100, "labels": {"cluster": "local"}}
    run = fresh.submit(["sh", "-c", "n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; sleep 0.5; done"], resources=there)
    fresh.running(run, b"2")
    for trouble in ("slow", "shut"):
        door.delay_s, door.is_shut = (10.0 if trouble == "slow" else 0.0), trouble == "shut"
        waiting = fresh.submit(["true"], resources=there)
        began = time.monotonic()
        assert fresh.wait(fresh.submit(["true"], resources=here), timeout_s=90)["state"] == "succeeded"
        assert time.monotonic() - began < 15, "another cluster's run waits for an engine that is " + trouble
        door.delay_s, door.is_shut = 0.0, False
        assert fresh.wait(waiting, timeout_s=90)["state"] == "succeeded"
    assert fresh.wait(run, timeout_s=90)["state"] == "succeeded"
    assert fresh.log(run) == b"".join(b"%d\n" % number for number in range(1, 61))
    assert len(fresh.attempts(run)) == 1
    door.close()
