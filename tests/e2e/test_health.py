"""Nodes and GPUs that are ill, as people meet them: by the command line, with a real server, drivers that are played."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SMI = """#!/bin/sh
case "$*" in
*ecc.errors*) cat "{folder}/errors" ;;
*=driver_version*) printf '550.54\\n550.54\\n' ;;
*driver_version*) printf '0, GPU-a, L4, 23034, 550.54\\n1, GPU-b, L4, 23034, 550.54\\n' ;;
*) printf '0, GPU-a, L4, 23034\\n1, GPU-b, L4, 23034\\n' ;;
esac
"""
WELL = "0, 00000000:3B:00.0, 0\n1, 00000000:AF:00.0, 0\n"
XID = "[  812.25] NVRM: Xid (PCI:0000:af:00): 79, pid=812, name=python, GPU has fallen off the bus.\n"
COUNT = """
import pathlib, time
import mainspring as ms
state = pathlib.Path(ms.checkpoint_dir) / "state"
begin = int(state.read_text()) if ms.is_resumed() else 0
print("begins with", begin, flush=True)
for step in range(begin, 100000):
    if ms.should_checkpoint():
        with ms.writing_checkpoint() as folder:
            (folder / "state").write_text(str(step + 1))
        print("saved", step + 1, flush=True)
    time.sleep(0.05)
    if begin:
        break
"""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """A folder of programs that play NVIDIA's driver and the kernel's log; what they print is in its files."""
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "errors").write_text(WELL)
    (folder / "kernel").write_text("")
    for name, text in (("nvidia-smi", SMI.format(folder=folder)), ("dmesg", f'#!/bin/sh\ncat "{folder}/kernel"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def nodes(site: Site, cluster: str) -> dict[str, Any]:
    """Return the nodes of a cluster by name."""
    return {one["name"]: one for one in site.call("GET", f"/clusters/{cluster}").json()["nodes"]}


def look(site: Site, cluster: str) -> None:
    """Let the engine be looked at now."""
    asked = site.call("POST", f"/clusters/{cluster}/probe").json()
    assert site.call("GET", f"/operations/{asked['id']}", params={"timeout_s": 15}).json()["state"] != "pending"


def out(node: dict[str, Any]) -> set[int]:
    """Return the devices of a node that take nothing."""
    return {one.get("device", -1) for one in node.get("closures", ()) if one.get("state", "closed") != "lifted"}


def test_a_gpu_with_errors_is_taken_out_and_let_back(fresh: Site, driver: Path, until: Callable[..., Any]) -> None:
    fresh.start("--cpus", "4", PATH=f"{driver}:{os.environ['PATH']}")
    (name,) = nodes(fresh, "local")
    look(fresh, "local")
    assert ["driver", "550.54"] in [line.split() for line in fresh.cli("cluster", "show", "local").out.splitlines()]
    (driver / "errors").write_text(WELL.replace("3B:00.0, 0", "3B:00.0, 2"))
    look(fresh, "local")
    until(lambda: out(nodes(fresh, "local")[name]) == {0}, "its quarantine")
    listed = fresh.cli("cluster", "ls")
    assert "0/2 (1 out) L4" in listed.out, listed.out
    assert "device 0: quarantined: 2 uncorrected ECC errors of its memory." in listed.out, listed.out
    assert "1 taken out" in fresh.cli("status").out
    both = fresh.submit(["true"], resources={"gpu_milli": 2000})
    until(lambda: "taken out" in fresh.cli("why", both).out, "why it waits")
    one = fresh.submit(["sh", "-c", "echo on $CUDA_VISIBLE_DEVICES"], resources={"gpu_milli": 1000})
    assert fresh.wait(one)["state"] == "succeeded"
    assert fresh.log(one) == b"on 1\n"
    (driver / "errors").write_text(WELL)  # it was reset
    look(fresh, "local")
    assert fresh.wait(both)["state"] == "succeeded"
    drained = fresh.cli("cluster", "drain", name, "--device", "1", "--reason", "its fan is loud")
    assert (drained.code, drained.out) == (0, f"Device 1 of {name} takes no further runs.\n")
    assert "device 1: drained by" in fresh.cli("cluster", "show", "local").out
    missing = fresh.cli("cluster", "drain", name, "--device", "7")
    assert (missing.code, "has no device 7" in missing.err) == (4, True), missing
    assert json.loads(fresh.cli("cluster", "resume", name, "--device", "1", "--json").out)["name"] == name
    assert out(nodes(fresh, "local")[name]) == set()
    told = [event["kind"] for event in fresh.call("GET", "/events", params={"limit": 500}).json()["items"]]
    assert [kind for kind in told if kind.startswith("node.")] == [
        "node.quarantined",
        "node.ready",
        "node.draining",
        "node.ready",
    ]


def test_a_gpu_of_a_host_falls_off_the_bus(fresh: Site, ssh_hosts: Any, driver: Path, until: Callable[..., Any]) -> None:
    python = driver / "python"
    python.write_text(f'#!/bin/sh\nPATH="{driver}:$PATH" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    address = ssh_hosts.addresses["bm1"]
    fresh.start("--cpus", "4", MAINSPRING_QUIET_BEAT_S="1")
    words = ["--user", "root", "--key", ssh_hosts.key, "--host-key", ssh_hosts.fingerprint("bm1"), "--min-free-gib", "0.01"]
    added = fresh.cli("cluster", "add", "ssh", address, "--name", "lab", "--python", str(python), *words)
    assert (added.code, "2 L4" in added.out) == (0, True), added
    told = [line.split() for line in added.out.splitlines()]
    assert ["driver", "550.54"] in told, added
    assert any("free disk" in line for line in added.out.splitlines()), added
    assert re.search(rf"lab\.{re.escape(address)} .* [\d.]+ [GT]iB +[\d.]+ [GT]iB +2 L4", added.out), "memory, then its free disk"
    (driver / "kernel").write_text(XID)
    look(fresh, "lab")
    until(lambda: out(nodes(fresh, "lab")[address]) == {1}, "its quarantine")
    assert "XID 79" in fresh.cli("cluster", "show", "lab").out


def test_a_host_that_fails_every_launch_is_left_alone_until_it_works(
    fresh: Site, ssh_hosts: Any, until: Callable[..., Any]
) -> None:
    """What was seen of it is in rows: the server is killed in between."""
    settings = {"MAINSPRING_QUIET_BEAT_S": "1", "MAINSPRING_HEALTH_RETRY_S": "2"}
    fresh.start("--cpus", "4", **settings)
    bad, good = ssh_hosts.addresses["bm1"], ssh_hosts.addresses["bm2"]
    keys = ",".join(ssh_hosts.fingerprint(name) for name in ("bm1", "bm2"))
    words = ["--user", "root", "--key", ssh_hosts.key, "--host-key", keys, "--min-free-gib", "0.01"]
    root = f"sick-{fresh.home.parent.name}"
    added = fresh.cli("cluster", "add", "ssh", bad, good, "--name", "lab", "--folder", f"~/{root}", *words)
    assert added.code == 0, added
    (place,) = [one for one in (Path(ssh_hosts.folder) / "bm1" / "home" / root).glob("*/*") if one.is_dir()]
    attempts = place / "attempts"
    attempts.write_text("where a folder should be")
    asked = {"cpu_milli": 100, "labels": {"cluster": "lab"}}
    runs = [fresh.submit(["true"], resources=asked) for _ in range(6)]
    until(lambda: nodes(fresh, "lab")[bad]["state"] == "quarantined", "its quarantine", timeout_s=90)
    for run in runs:
        assert fresh.wait(run, timeout_s=90)["state"] == "succeeded", "they go on at the other host"
    pinned = fresh.submit(["hostname"], resources={"cpu_milli": 100, "labels": {"node": f"lab.{bad}"}})
    until(lambda: "could not be launched here" in fresh.cli("why", pinned).out, "why it waits")
    fresh.stop(signal.SIGKILL)
    fresh.start("--cpus", "4", **settings)
    assert nodes(fresh, "lab")[bad]["state"] == "quarantined"
    attempts.unlink()
    assert fresh.wait(pinned, timeout_s=90)["state"] == "succeeded", fresh.cli("cluster", "show", "lab").out
    assert nodes(fresh, "lab")[bad]["state"] == "ready"


def test_a_drain_with_a_time_moves_what_runs_from_its_checkpoint(fresh: Site, until: Callable[..., Any]) -> None:
    settings = {"MAINSPRING_QUIET_BEAT_S": "1", "MAINSPRING_DRAIN_CHECKPOINT_S": "32"}
    fresh.start("--cpus", "4", **settings)
    (name,) = nodes(fresh, "local")
    run = fresh.python(COUNT, resources={"cpu_milli": 100}, grace_s=5)
    fresh.running(run, b"begins with 0")
    late = fresh.cli("cluster", "drain", name, "--by", "2020-01-01")
    assert (late.code, "has passed" in late.err) == (2, True), late
    drained = fresh.cli("cluster", "drain", name, "--by", "40s", "--reason", "new disks")
    assert (drained.code, "goes on elsewhere" in drained.out) == (0, True), drained
    fresh.stop(signal.SIGKILL)
    fresh.start("--cpus", "4", **settings)
    waits = fresh.submit(["true"], resources={"cpu_milli": 100})
    until(lambda: b"saved" in fresh.log(run, attempt=1), "its checkpoint, asked for ahead of the time")
    ended = until(lambda: (first := fresh.attempts(run)[0])["state"] == "ended" and first, "its end", timeout_s=90)
    assert ended["outcome"]["cause"] == "preempted"
    assert "new disks" in fresh.cli("why", waits).out + fresh.cli("cluster", "show", "local").out
    assert fresh.run(waits)["state"] == fresh.run(run)["state"] == "queued"
    assert fresh.cli("cluster", "resume", name).code == 0
    done = fresh.wait(run)
    assert (done["state"], done["retries_used"]) == ("succeeded", 0)
    assert int(fresh.log(run, attempt=2).split()[2]) > 0, "it began anew"
    assert fresh.wait(waits)["state"] == "succeeded"
