"""An administrator takes a node out of service by the engine's own command: what is shown, what waits; nothing is killed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.test_scenes import checkpointed, ended, look, on, program, soon, states, went_on

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]
SOME = ["sh", "-c", "for n in $(seq 30); do echo $n; sleep 0.3; done"]


@pytest.fixture
def kubectl(kubernetes: Any, need: Callable[[bool, str, str], None]) -> Iterator[Callable[..., None]]:
    """An administrator's kubectl; afterwards every node takes pods again, and the team sees no nodes."""
    need(shutil.which("kubectl") is not None, "kubectl", "https://kubernetes.io/docs/tasks/tools")

    def run(*words: str) -> None:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", kubernetes.kubeconfig(), *words], check=False, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done

    run("create", "clusterrole", "mainspring-nodes", "--verb=list", "--resource=nodes,pods")
    run("create", "clusterrolebinding", "mainspring-nodes", "--clusterrole=mainspring-nodes", "--user=team")
    yield run
    run("uncordon", "n1")
    for kind in ("clusterrolebinding", "clusterrole"):
        run("delete", kind, "mainspring-nodes")


def closed(site: Site, cluster: str, reason: str, run: str) -> str:
    """Wait until the cluster's one node takes no runs, and check that people see why; return a run that waits for it."""
    soon(site, run, lambda: look(site, cluster) or states(site, cluster) == {"draining"}, "that its node drains")
    shown = site.cli("cluster", "show", cluster).out
    assert reason in shown, shown
    later = site.submit(["echo", "later"], resources=on(cluster))
    soon(site, later, lambda: reason in site.cli("why", later).out, "why it waits")
    assert (site.run(later)["state"], site.attempts(later)) == ("queued", [])
    return later


def opened(site: Site, cluster: str, later: str) -> None:
    """Wait until the node takes runs again, and what waited for it has run."""
    soon(site, later, lambda: look(site, cluster) or states(site, cluster) == {"ready"}, "that its node takes runs")
    assert ended(site, later)["state"] == "succeeded", site.attempts(later)


def test_a_cordoned_node_takes_no_run_and_loses_none(
    fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None], kubectl: Callable[..., None]
) -> None:
    """`kubectl cordon` and `uncordon`."""
    begin_fleet(fresh, "pods")
    add_engine(fresh, "pods")
    run = fresh.submit(SOME, resources=on("pods"))
    soon(fresh, run, lambda: b"2\n" in fresh.log(run), "its begin")
    kubectl("cordon", "n1")
    later = closed(fresh, "pods", "It was cordoned in Kubernetes.", run)
    told = ended(fresh, run)
    assert (told["state"], len(fresh.attempts(run))) == ("succeeded", 1), fresh.attempts(run)
    assert fresh.log(run) == b"".join(b"%d\n" % number for number in range(1, 31))
    assert fresh.attempts(later) == []
    kubectl("uncordon", "n1")
    opened(fresh, "pods", later)


def test_a_run_of_a_node_that_is_drained_goes_on_from_its_checkpoint(
    fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None], kubectl: Callable[..., None]
) -> None:
    """`kubectl drain` evicts: the run has its grace, is no failure of its own, and waits for a node."""
    begin_fleet(fresh, "pods")
    add_engine(fresh, "pods")
    run = fresh.submit(program("count.py"), resources=on("pods"))
    attempt = checkpointed(fresh, run)["id"]
    kubectl("drain", "n1", "--force", "--delete-emptydir-data", f"--pod-selector=mainspring/attempt={attempt}", "--timeout=90s")
    first = soon(fresh, run, lambda: fresh.attempts(run)[0].get("outcome"), "the end of the first try")
    assert first["cause"] == "preempted", first
    kubectl("uncordon", "n1")
    went_on(fresh, run)


def test_a_node_that_slurm_drains_takes_no_run_and_loses_none(
    fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None], slurm: Any
) -> None:
    """`scontrol update State=DRAIN Reason=...` and `State=RESUME`."""
    begin_fleet(fresh, "hpc")
    add_engine(fresh, "hpc")  # the partition of one node
    run = fresh.submit(SOME, resources=on("hpc"))
    soon(fresh, run, lambda: b"2\n" in fresh.log(run), "its begin")
    slurm.run("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=a fan is broken")
    try:
        later = closed(fresh, "hpc", "a fan is broken", run)
        told = ended(fresh, run)
        assert (told["state"], len(fresh.attempts(run))) == ("succeeded", 1), fresh.attempts(run)
        assert fresh.log(run) == b"".join(b"%d\n" % number for number in range(1, 31))
        assert fresh.attempts(later) == []
    finally:
        slurm.run("scontrol", "update", "NodeName=n1", "State=RESUME")
    opened(fresh, "hpc", later)
