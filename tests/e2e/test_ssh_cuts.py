"""A real link that is down for longer than anybody waits, then up again: what is promised of runs behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]
LOOP = ["sh", "-c", "hostname; n=0; while [ ! -e $HOME/go ]; do n=$((n+1)); echo line $n; sleep 0.1; done; echo done"]


def lines(log: bytes) -> list[int]:
    return [int(line.split()[1]) for line in log.splitlines() if line.startswith(b"line ")]


def lives(attempt: str) -> bool:
    """Say whether a process of an attempt lives on any host: all of them are seen from here."""
    mark = f"MAINSPRING_ATTEMPT={attempt}".encode()
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit() and mark in (place / "environ").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def test_what_was_cut_off_is_committed_once_and_an_exclusive_run_never_overlaps(
    fresh: Site, ssh_hosts: Any, until: Callable[..., Any]
) -> None:
    homes = {name: Path(ssh_hosts.folder) / name / "home" for name in ssh_hosts.addresses}
    for home in homes.values():
        (home / "go").unlink(missing_ok=True)
    fresh.start("--cpus", "4", MAINSPRING_QUIET_BEAT_S="1", MAINSPRING_LOST_AFTER_S="3")
    hosts = [ssh_hosts.addresses[name] for name in ("bm1", "bm2")]
    keys = ",".join(ssh_hosts.fingerprint(name) for name in ("bm1", "bm2"))
    words = ("--user", "root", "--key", ssh_hosts.key, "--host-key", keys, "--min-free-gib", "0.01")
    assert fresh.cli("cluster", "add", "ssh", *hosts, "--name", "lab", *words).code == 0
    assert fresh.cli("node", "drain", f"lab.{hosts[1]}").code == 0
    where = {"cpu_milli": 100, "labels": {"cluster": "lab"}}
    alone, plain = (fresh.submit(LOOP, resources=where, is_exclusive=is_exclusive) for is_exclusive in (True, False))
    for run in (alone, plain):
        fresh.running(run, b"line 3")
    assert fresh.cli("node", "resume", f"lab.{hosts[1]}").code == 0
    ssh_hosts.cut("bm1")
    try:
        until(lambda: len(fresh.attempts(plain)) == 2 and b"line 3" in fresh.log(plain), "its second try", timeout_s=90)
        assert fresh.log(plain).split()[0] == b"bm2"
        assert len(fresh.attempts(alone)) == 1, "an exclusive run was begun again while nobody knows of the first"
        assert "No word from node" in fresh.cli("why", alone).out
        (homes["bm2"] / "go").touch()
        assert fresh.wait(plain, timeout_s=90)["state"] == "succeeded"
    finally:
        ssh_hosts.heal("bm1")
    first = fresh.attempts(plain)[0]["id"]
    until(lambda: not lives(first), "the end of what was superseded", timeout_s=90)
    (homes["bm1"] / "go").touch()
    ended = fresh.wait(alone, timeout_s=90)
    told = lines(fresh.log(alone))
    assert (ended["state"], len(fresh.attempts(alone)), told) == ("succeeded", 1, list(range(1, len(told) + 1)))
    causes = [(one["outcome"] or {}).get("cause") for one in fresh.attempts(plain)]
    assert causes[1:] == ["succeeded"]
    assert causes[0] != "succeeded"
    second = lines(fresh.log(plain))
    assert second == list(range(1, len(second) + 1))
