"""Containers and pods that nobody reaches for longer than anybody waits, then again: what is promised of runs in them.

The link of each is taken down on this machine, and the engine's own door stands still: bytes wait, and nobody is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines.docker import IMAGE as CONTAINER
from engines.kubernetes.cluster import IMAGE as POD
from tests.e2e.test_ssh_cuts import lines, lives

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.chaos,
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
]
LIMIT_S = 180.0
CONTAINERS = ("docker", "podman")


class Door:
    """A door of our own before an engine's. Between `cut` and `heal` nothing comes through; then all that was sent does."""

    def __init__(self, listener: socket.socket, family: int, target: Any) -> None:
        self.listener, self.family, self.target = listener, family, target
        self.is_open = threading.Event()
        self.is_open.set()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.socket(self.family)
                far.connect(self.target)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=pair, daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.is_open.wait()
                target.sendall(data)
        self.is_open.wait()
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def door(request: pytest.FixtureRequest, place: str, tmp_path: Path) -> Iterator[Door]:
    """The way to the engine's own door."""
    if place in CONTAINERS:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "engine.sock"))
        listener.listen()
        made = Door(listener, socket.AF_UNIX, request.getfixturevalue(f"{place}_engine").url.removeprefix("unix://"))
    else:
        host, port = request.getfixturevalue("kubernetes").url.removeprefix("https://").split(":")
        made = Door(socket.create_server(("127.0.0.1", 0)), socket.AF_INET, (host, int(port)))
    yield made
    made.is_open.set()
    made.listener.close()


@pytest.fixture
def site(request: pytest.FixtureRequest, place: str, door: Door, fresh: Site, tmp_path: Path) -> Site:
    """A server with one cluster, through that door; its own machine takes no run yet."""
    engine = request.getfixturevalue(f"{place}_engine" if place in CONTAINERS else "kubernetes")
    fresh.start("--cpus", "2", "--bind", engine.address, MAINSPRING_QUIET_BEAT_S="1", MAINSPRING_LOST_AFTER_S="3")
    if place in CONTAINERS:
        host = f"unix://{tmp_path / 'engine.sock'}"
        words = [place, "--host", host, "--network", "bridge", "--image", CONTAINER, "--cpus", "1", "--memory", "1GiB"]
    else:
        space = request.getfixturevalue("team")
        there = Path(engine.kubeconfig("team", space)).read_text()
        (tmp_path / "kubeconfig").write_text(there.replace(engine.url, f"https://127.0.0.1:{door.listener.getsockname()[1]}"))
        words = ["kubernetes", "--kubeconfig", str(tmp_path / "kubeconfig"), "--image", POD, "--cpus", "1", "--memory", "1"]
    added = fresh.cli("cluster", "add", *words, "--name", place)
    assert added.code == 0, added
    assert fresh.cli("node", "drain", own_node(fresh)).code == 0
    return fresh


def own_node(site: Site) -> str:
    (node,) = site.call("GET", "/clusters/local").json()["nodes"]
    return str(node["id"])


def process_of(attempt: str) -> Path:
    """Return a process of an attempt, in /proc of this machine, which sees into all containers."""
    mark = f"MAINSPRING_ATTEMPT={attempt}".encode()
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdigit() and mark in (place / "environ").read_bytes().split(b"\0"):
                return place
    raise AssertionError(f"nothing of {attempt} lives")


def link_of(process: Path) -> str:
    """Return the link on this machine whose other end is the one of a container."""
    inside = ["nsenter", f"--net={process}/ns/net", "ip", "-json", "link", "show", "eth0"]
    (told,) = json.loads(subprocess.run(inside, check=True, capture_output=True, text=True).stdout)
    here = json.loads(subprocess.run(["ip", "-json", "link"], check=True, capture_output=True, text=True).stdout)
    return str(next(one["ifname"] for one in here if one["ifindex"] == told["link_index"]))


@pytest.mark.parametrize("place", [*CONTAINERS, pytest.param("pods", marks=pytest.mark.xdist_group("fleet"))])
def test_what_was_cut_off_is_committed_once_and_an_exclusive_run_never_overlaps(
    place: str, door: Door, site: Site, until: Callable[..., Any]
) -> None:
    flag = Path(f"/tmp/mainspring-go-{os.getpid()}-{place}")  # a container has its own, seen through /proc
    flag.unlink(missing_ok=True)
    loop = f"n=0; while [ ! -e {flag} ]; do n=$((n+1)); echo line $n; sleep 0.1; done; echo done"
    asked = {"cpu_milli": 250, "memory_bytes": 64 << 20}
    alone, plain = (site.submit(["sh", "-c", loop], resources=asked, is_exclusive=is_exclusive) for is_exclusive in (True, False))
    for run in (alone, plain):
        until(lambda run=run: b"line 3" in site.log(run), "its begin", timeout_s=LIMIT_S)
    first = {run: site.attempts(run)[0] for run in (alone, plain)}
    assert {one["cluster"] for one in first.values()} == {place}
    inside = Path(f"{process_of(first[alone]['id'])}/root{flag}")
    links = [link_of(process_of(one["id"])) for one in first.values()]
    assert site.cli("node", "resume", own_node(site)).code == 0
    try:
        door.is_open.clear()
        for link in links:
            subprocess.run(["ip", "link", "set", link, "down"], check=True)
        try:
            until(lambda: len(site.attempts(plain)) == 2 and b"line 3" in site.log(plain), "its second try", timeout_s=LIMIT_S)
            assert site.attempts(plain)[1]["cluster"] == "local"
            assert len(site.attempts(alone)) == 1, "an exclusive run was begun again while nobody knows of the first"
            assert lives(first[plain]["id"])
            assert "No word from" in site.cli("why", alone).out
            flag.touch()
            assert site.wait(plain, timeout_s=LIMIT_S)["state"] == "succeeded"
        finally:
            for link in links:
                subprocess.run(["ip", "link", "set", link, "up"], check=False)
            door.is_open.set()
        until(lambda: not lives(first[plain]["id"]), "the end of what was superseded", timeout_s=LIMIT_S)
        inside.touch()
        ended = site.wait(alone, timeout_s=LIMIT_S)
        told = lines(site.log(alone))
        assert (ended["state"], len(site.attempts(alone)), told) == ("succeeded", 1, list(range(1, len(told) + 1)))
        causes = [(one["outcome"] or {}).get("cause") for one in site.attempts(plain)]
        assert (causes[1:], causes[0] != "succeeded") == (["succeeded"], True)
        second = lines(site.log(plain))
        assert second == list(range(1, len(second) + 1))
    finally:
        flag.unlink(missing_ok=True)
