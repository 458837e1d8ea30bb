"""Whoever runs something on hosts and on Slurm needs no right of root's there, and no other user than their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines.slurm import USER

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.engine]
WHO = ["sh", "-c", "id -u; echo $HOME; cat /etc/shadow 2>/dev/null; exit 5"]  # whose hashes root alone may read
UID = 60004


def test_a_host_is_used_by_a_user_without_rights(fresh: Site, ssh_hosts: Any) -> None:
    """`cluster add ssh --user ml`: what it starts, reads and stops is that user's own."""
    fresh.start("--cpus", "1", MAINSPRING_QUIET_BEAT_S="1")
    words = ("--user", "ml", "--key", ssh_hosts.key, "--host-key", ssh_hosts.fingerprint("bm1"), "--min-free-gib", "0.01")
    added = fresh.cli("cluster", "add", "ssh", ssh_hosts.addresses["bm1"], "--name", "lab", *words)
    assert added.code == 0, added
    where = {"cpu_milli": 100, "labels": {"cluster": "lab"}}
    run = fresh.submit(WHO, resources=where)
    ended = fresh.wait(run)
    assert fresh.log(run).decode() == f"{UID}\n{ssh_hosts.folder}/bm1/ml\n"
    assert (ended["state"], fresh.attempts(run)[0]["outcome"]["exit_code"]) == ("failed", 5)
    lasting = fresh.submit(["sh", "-c", "echo up; exec sleep 600"], resources=where, grace_s=1)
    fresh.running(lasting, b"up")
    pid = json.loads(fresh.cli("native", lasting, "--json").out)["replicas"][0]["object"]["pid"]
    assert fresh.cli("cancel", lasting).code == 0
    assert fresh.wait(lasting)["state"] == "cancelled"
    assert pid
    checked = fresh.cli("cluster", "check", "lab")
    assert (checked.code, "succeeded" in checked.out) == (0, True), checked


@pytest.mark.xdist_group("fleet")  # where Slurm's other tests are: one cluster
def test_slurm_is_used_by_a_user_without_rights(fresh: Site, slurm: Any) -> None:
    """`cluster add slurm LOGIN-HOST --user ml`: its jobs are that user's, and so are the folders that it makes."""
    fresh.start("--cpus", "1", MAINSPRING_QUIET_BEAT_S="1")
    words = ("--user", USER, "--port", str(slurm.port), "--key", slurm.key, "--host-key", slurm.fingerprint)
    added = fresh.cli("cluster", "add", "slurm", "127.0.0.1", "--name", "hpc", "--server-url", fresh.url, *words)
    assert added.code == 0, added
    run = fresh.submit(WHO, resources={"cpu_milli": 100, "labels": {"cluster": "hpc"}})
    ended = fresh.wait(run)
    home = Path(slurm.folder, USER)
    assert fresh.log(run).decode() == f"{UID}\n{home}\n", fresh.attempts(run)
    assert (ended["state"], fresh.attempts(run)[0]["outcome"]["exit_code"]) == ("failed", 5)
    lasting = fresh.submit(["sh", "-c", "echo up; exec sleep 600"], resources={"labels": {"cluster": "hpc"}}, grace_s=1)
    fresh.running(lasting, b"up")
    job = str(json.loads(fresh.cli("native", lasting, "--json").out)["replicas"][0]["object"]["job"])
    assert f"({UID})" in slurm.run("scontrol", "show", "job", job)
    assert {path.stat().st_uid for path in home.glob("*/**")} == {UID}
    assert fresh.cli("cancel", lasting).code == 0
    assert fresh.wait(lasting)["state"] == "cancelled"
