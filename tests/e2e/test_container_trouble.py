"""Container engines on bad days, and what `cluster add` refuses: wrong options, an engine behind SSH, down, slow, rows lost."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines.docker import IMAGE
from engines.registry import PASSWORD, USER

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


@contextlib.contextmanager
def slow_registry() -> Iterator[tuple[str, threading.Event]]:
    """Serve an image of 32 MB slowly; give its name, and what lets the rest of it come at once."""
    hurry = threading.Event()
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        entry = tarfile.TarInfo("data")
        entry.size = 32 << 20
        tar.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    packed = gzip.compress(layer.getvalue(), 0)
    diff = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}}
    ).encode()
    docker = "application/vnd.docker"

    def part(data: bytes, kind: str) -> dict[str, Any]:
        return {"mediaType": f"{docker}.{kind}", "size": len(data), "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}

    parts = {"config": part(config, "container.image.v1+json"), "layers": [part(packed, "image.rootfs.diff.tar.gzip")]}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": f"{docker}.distribution.manifest.v2+json", **parts}).encode()
    known = {f"sha256:{hashlib.sha256(data).hexdigest()}": data for data in (config, packed, manifest)}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            is_manifest = "/manifests/" in self.path
            data = manifest if is_manifest else known.get(name, b"{}")
            self.send_response(200)
            kind = f"{docker}.distribution.manifest.v2+json" if is_manifest else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(data).hexdigest()}")
            self.end_headers()
            if self.command == "HEAD":
                return
            for start in range(0, len(data), 64 << 10):
                self.wfile.write(data[start : start + (64 << 10)])
                hurry.wait(0.05)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"localhost:{server.server_port}/slow:1", hurry
        finally:
            hurry.set()
            server.shutdown()


def test_how_far_an_image_has_come_is_told_while_it_is_pulled(
    box: Site, docker_engine: Any, until: Callable[..., Any], tmp_path: Path
) -> None:
    err = tmp_path / "err"
    with slow_registry() as (image, hurry), err.open("wb") as noted:
        command = [sys.executable, "-m", "mainspring.cli.main", "run", "--image", image, "--name", "pulled", "--", "true"]
        typed = subprocess.Popen(command, env=box.environ(), cwd=box.home, stderr=noted, stdout=subprocess.DEVNULL)
        run = str(until(lambda: (found := box.call("GET", "/runs/pulled")).status_code == 200 and found.json()["id"], "the run"))
        told = until(lambda: (said := box.call("GET", f"/runs/{run}/why").json())["sentence"].count(" of ") and said, "progress")
        assert f"box has not begun it yet: pulling its image {image}: " in told["sentence"]
        assert "MB of" in told["sentence"] or "MiB of" in told["sentence"]
        assert told["reason"]["code"] == "waiting_for_engine"
        assert "pulling its image" in box.cli("ps").out
        line = f"box has not begun it yet: pulling its image {image}"
        until(lambda: line in err.read_text(), "the line to who waits")
        hurry.set()
        outcome = until(lambda: box.attempts(run)[0]["outcome"], "the first try's end", timeout_s=90)
    assert "has no Python" in outcome["message"], outcome
    assert box.cli("cancel", run).code == 0
    assert typed.wait(60) == 1, err.read_text()
    docker_engine.run("rmi", "--force", image)


def test_a_secret_of_the_project_is_the_login_of_a_registry(
    box: Site, docker_engine: Any, registry: Any, until: Callable[..., Any]
) -> None:
    image = registry.push(docker_engine.run, IMAGE, f"private/python:{os.getpid()}-{time.monotonic_ns()}")
    words = ("run", "--image", image, "--override")
    refused = box.cli(*words, f"docker.registry_login={USER}:{PASSWORD}", "--", "true")
    assert (refused.code, "given as a secret of the project" in refused.err) == (2, True), refused
    refused = box.cli(*words, "docker.registry_login=secret:NOBODYS", "--", "true")
    assert (refused.code, "has no secret 'NOBODYS'" in refused.err) == (4, True), refused
    assert box.cli("secret", "set", "WRONG", data=f"{USER}:wrong-one").code == 0
    assert box.cli("secret", "set", "LOGIN", data=f"{USER}:{PASSWORD}").code == 0
    failed = box.cli(*words, "docker.registry_login=secret:WRONG", "--detach", "--", "true").out.strip()
    outcome = until(lambda: (box.attempts(failed) or [{"outcome": None}])[0]["outcome"], "the refusal", timeout_s=90)
    assert "its registry wants another login" in outcome["message"], outcome
    assert box.cli("cancel", failed).code == 0
    done = box.cli(*words, "docker.registry_login=secret:LOGIN", "--json", "--", "echo", "in", timeout_s=120)
    assert done.code == 0, done
    run = json.loads(done.out)
    assert f"Pulled image {image}".encode() in box.log(run["id"])
    told = json.dumps([run, box.attempts(run["id"]), box.call("GET", f"/runs/{run['id']}/native").text]) + box.server_log()
    assert PASSWORD not in told
    assert "wrong-one" not in told + json.dumps(box.attempts(failed))
    docker_engine.run("rmi", "--force", image)


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
    box.lose(run, attempt)
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
