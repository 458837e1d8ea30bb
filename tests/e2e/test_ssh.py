"""Hosts over SSH from `cluster add` on, as people type it, with a real server and real sshds."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("ssh")]
LOOP = ["sh", "-c", "n=0; while [ ! -e $HOME/go ]; do n=$((n+1)); echo line $n; sleep 0.1; done; echo done"]


@pytest.fixture
def lab(fresh: Site, ssh_hosts: Any) -> Site:
    for name in ssh_hosts.addresses:
        (Path(ssh_hosts.folder) / name / "home" / "go").unlink(missing_ok=True)
    fresh.start("--cpus", "4", MAINSPRING_QUIET_BEAT_S="1")
    return fresh


def add(lab: Site, hosts: Any, *names: str, **more: str) -> Any:
    keys = ",".join(hosts.fingerprint(name) for name in names)
    options = [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", value)]
    targets = [hosts.addresses[name] for name in names]
    words = ["--user", "root", "--key", hosts.key, "--host-key", keys, "--min-free-gib", "0.01", *options]
    return lab.cli("cluster", "add", "ssh", *targets, "--name", "lab", *words)


def go(hosts: Any, name: str) -> None:
    """Let the loops of a host end."""
    (Path(hosts.folder) / name / "home" / "go").touch()


def connections(lab: Site) -> int:
    """Count the ssh processes of the server."""
    assert lab.process is not None
    found = 0
    for task in Path(f"/proc/{lab.process.pid}/task").iterdir():
        for pid in (task / "children").read_text().split():
            found += Path(f"/proc/{pid}/comm").read_text().strip() == "ssh"
    return found


def lines(log: bytes) -> list[int]:
    return [int(line.split()[1]) for line in log.splitlines() if line.startswith(b"line ")]


def test_a_host_is_added_checked_used_and_forgotten(lab: Site, ssh_hosts: Any, until: Callable[..., Any]) -> None:
    address = ssh_hosts.addresses["bm1"]
    refused = lab.cli("cluster", "add", "ssh", address, "--user", "root", "--key", ssh_hosts.key)
    assert (refused.code, ssh_hosts.fingerprint("bm1") in refused.out + refused.err) == (6, True), refused
    added = add(lab, ssh_hosts, "bm1", gpus="2")
    assert added.code == 0, added
    assert "lab is registered with 1 node" in added.out
    assert "2 gpu (declared)" in added.out
    checked = lab.cli("cluster", "check", "lab")
    assert (checked.code, "succeeded" in checked.out) == (0, True), checked
    done = lab.cli(
        "run", "--gpus", "1", "--label", f"node=lab.{address}", "--", "sh", "-c", "hostname; echo $CUDA_VISIBLE_DEVICES"
    )
    assert (done.code, done.out.splitlines()[-2:]) == (0, ["bm1", "0"]), done
    assert connections(lab) == 1
    assert lab.cli("cluster", "rm", "lab", "-y").code == 0
    until(lambda: connections(lab) == 0, "the end of its connections")


@pytest.mark.chaos
def test_a_run_outlives_the_server_and_its_end_is_told_once(lab: Site, ssh_hosts: Any, until: Callable[..., Any]) -> None:
    assert add(lab, ssh_hosts, "bm1").code == 0
    run = lab.submit(LOOP, resources={"cpu_milli": 100, "labels": {"cluster": "lab"}})
    lab.running(run, b"line 3")
    lab.stop(signal.SIGKILL)
    lab.start("--cpus", "4", MAINSPRING_QUIET_BEAT_S="1")
    seen = len(lab.log(run))
    until(lambda: len(lab.log(run)) > seen, "more of its log")
    go(ssh_hosts, "bm1")
    ended = lab.wait(run)
    found = lines(lab.log(run))
    assert (ended["state"], len(lab.attempts(run)), found) == ("succeeded", 1, list(range(1, len(found) + 1)))


@pytest.mark.chaos
def test_a_cut_link_is_unknown_until_it_is_healed(lab: Site, ssh_hosts: Any, until: Callable[..., Any]) -> None:
    assert add(lab, ssh_hosts, "bm1", "bm2").code == 0
    run = lab.submit(LOOP, resources={"cpu_milli": 100, "labels": {"node": f"lab.{ssh_hosts.addresses['bm1']}"}})
    lab.running(run, b"line 3")
    ssh_hosts.cut("bm1")
    try:
        why = lambda: lab.cli("why", run).out  # noqa: E731
        until(lambda: "No word from node" in why(), "its silence", timeout_s=60)
        other = lab.submit(["true"], resources={"cpu_milli": 100, "labels": {"cluster": "lab"}})
        assert lab.wait(other)["state"] == "succeeded", "another host is not held up"
        go(ssh_hosts, "bm1")
    finally:
        ssh_hosts.heal("bm1")
    ended = lab.wait(run, timeout_s=60)
    found = lines(lab.log(run))
    assert (ended["state"], len(lab.attempts(run)), found) == ("succeeded", 1, list(range(1, len(found) + 1)))


def test_a_gang_over_two_hosts_finds_itself(lab: Site, ssh_hosts: Any) -> None:
    assert add(lab, ssh_hosts, "bm1", "bm2", gpus="2").code == 0
    words = [
        "sh",
        "-c",
        "echo $(hostname) $MAINSPRING_REPLICA of $MAINSPRING_WORLD_SIZE at $MASTER_ADDR, gpus $CUDA_VISIBLE_DEVICES",
    ]
    run = lab.submit(words, replicas=2, resources={"cpu_milli": 100, "gpu_milli": 2000, "labels": {"cluster": "lab"}})
    assert lab.wait(run)["state"] == "succeeded"
    told = lab.log(run).decode() + lab.log(run, replica=1).decode()
    assert {"bm1", "bm2"} == {line.split()[0] for line in told.splitlines()}, told
