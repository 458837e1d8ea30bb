"""A Slurm cluster from `cluster add` on, as people type it, with a real server and a real Slurm."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("fleet")]
ON_SLURM = {"cpu_milli": 1000, "labels": {"cluster": "hpc"}}


@pytest.fixture
def hpc(fresh: Site, slurm: Any, tmp_path: Path) -> Site:
    fresh.start("--cpus", "2", MAINSPRING_QUIET_BEAT_S="1", **slurm.env)
    shared = Path(slurm.folder) / "shared" / tmp_path.name
    added = fresh.cli("cluster", "add", "slurm", "local", "--name", "hpc", "--folder", str(shared))
    assert added.code == 0, added
    assert "hpc is registered with 2 nodes" in added.out
    assert ["partitions", "main,", "short"] in [line.split() for line in added.out.splitlines()], added.out
    return fresh


def test_a_cluster_is_checked_and_used(hpc: Site) -> None:
    checked = hpc.cli("cluster", "check", "hpc")
    assert (checked.code, checked.out.count("succeeded")) == (0, 2), checked
    done = hpc.cli(
        "run", "--gpus", "2", "--pool", "hpc", "--", "sh", "-c", "echo $SLURM_JOB_PARTITION $CUDA_VISIBLE_DEVICES; exit 3"
    )
    assert any(line.startswith("main ") and len(line.split()[1].split(",")) == 2 for line in done.out.splitlines()), done


def test_runs_outlive_the_server_and_are_told_once(hpc: Site, slurm: Any, until: Callable[..., Any]) -> None:
    flag = Path(slurm.folder) / f"go-{hpc.home.parent.name}"
    loop = ["sh", "-c", f"n=0; while [ ! -e {flag} ]; do n=$((n+1)); echo line $n; sleep 0.1; done; echo done"]
    runs = [hpc.submit(loop, resources=ON_SLURM) for _ in range(4)]
    for run in runs:
        hpc.running(run, b"line 2")
    hpc.stop(signal.SIGKILL)
    hpc.start("--cpus", "2", MAINSPRING_QUIET_BEAT_S="1", **slurm.env)
    flag.touch()
    for run in runs:
        ended = hpc.wait(run, timeout_s=90)
        found = [int(line.split()[1]) for line in hpc.log(run).splitlines() if line.startswith(b"line ")]
        assert (ended["state"], len(hpc.attempts(run)), found) == ("succeeded", 1, list(range(1, len(found) + 1)))


def test_a_cancelled_run_ends_its_job(hpc: Site, slurm: Any, until: Callable[..., Any]) -> None:
    run = hpc.submit(["sh", "-c", "echo up; sleep 300"], resources=ON_SLURM)
    hpc.running(run, b"up")
    assert hpc.cli("cancel", run).code == 0
    assert hpc.wait(run, timeout_s=90)["state"] == "cancelled"
    until(lambda: run[-6:] not in slurm.run("squeue", "--noheader", "--format=%j %T"), "the end of the job")


def test_what_slurm_lets_wait_is_told_with_slurms_own_start(hpc: Site, slurm: Any, until: Callable[..., Any]) -> None:
    """Somebody's job has the node; ours was admitted before that was seen. `why` and the forecast have Slurm's word."""
    late = ("--override", "slurm.sbatch=--begin=now+1hour")
    held = hpc.cli("run", "--pool", "hpc", "-d", *late, "--json", "--", "sh", "-c", "echo never")
    assert held.code == 0, held
    run = json.loads(held.out)["id"]
    until(lambda: "BeginTime" in hpc.cli("why", run).out, "Slurm's reason", timeout_s=90)
    told = hpc.cli("why", run)
    assert "hpc has not begun it yet: Slurm says BeginTime: it is not to begin before a certain time." in told.out, told
    assert "Expected to start at" in told.out, told
    assert "between" in hpc.cli("forecast", run).out
    assert hpc.call("GET", f"/runs/{run}").json()["reason"]["code"] == "waiting_for_engine"
    assert hpc.cli("cancel", run).code == 0
    assert hpc.wait(run, timeout_s=90)["state"] == "cancelled"
