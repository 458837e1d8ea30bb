"""One queue over five real engines: this machine, Docker, a host over SSH, Slurm and Kubernetes."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from engines.docker import IMAGE as CONTAINER
from engines.kubernetes.cluster import IMAGE as POD

from mainspring.backends.kubernetes import rights

if TYPE_CHECKING:
    from conftest import Site

ROLE = "/apis/rbac.authorization.k8s.io/v1"
ENGINES = {"local", "box", "metal", "hpc", "pods"}
SMALL = {"cpu_milli": 250, "memory_bytes": 64 << 20}
TRIAL = "import sys, time, mainspring; time.sleep(1); mainspring.log_metric('score', 1.0); print('of', sys.argv[0])"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("kubernetes"),
]


@pytest.fixture
def team(kubernetes: Any) -> Iterator[str]:
    """A name space in which the user `team` has the Role that Mainspring prints, and no other right."""
    name = f"engines-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    kubernetes.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    kubernetes.ask("POST", f"{ROLE}/namespaces/{name}/roles", yaml.safe_load(rights.role(name)))
    binding = {
        "metadata": {"name": "mainspring"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "mainspring"},
        "subjects": [{"kind": "User", "name": "team", "apiGroup": "rbac.authorization.k8s.io"}],
    }
    kubernetes.ask("POST", f"{ROLE}/namespaces/{name}/rolebindings", binding)
    yield name
    kubernetes.ask("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def fleet(fresh: Site, kubernetes: Any, team: str, docker_engine: Any, ssh_hosts: Any, slurm: Any, tmp_path: Path) -> Site:
    """A server with five clusters. The address that it listens on is the one that pods reach."""
    begin(fresh, kubernetes, slurm)
    host = ssh_hosts.addresses["bm3"]
    shared = Path(slurm.folder) / "shared" / tmp_path.name
    for words in (
        ("docker", "--name", "box", "--host", docker_engine.url, "--image", CONTAINER, "--cpus", "1", "--memory", "1GiB"),
        ("ssh", host, "--name", "metal", "--user", "root", "--key", ssh_hosts.key, "--host-key", ssh_hosts.fingerprint("bm3"),
         "--min-free-gib", "0.01"),
        ("slurm", "local", "--name", "hpc", "--partition", "short", "--folder", str(shared)),
        ("kubernetes", "--name", "pods", "--kubeconfig", kubernetes.kubeconfig("team", team), "--image", POD, "--cpus", "1",
         "--memory", "1"),
    ):  # fmt: skip
        added = fresh.cli("cluster", "add", *words)
        assert added.code == 0, added
    return fresh


def begin(site: Site, kubernetes: Any, slurm: Any) -> None:
    site.start("--cpus", "1", "--bind", kubernetes.address, MAINSPRING_QUIET_BEAT_S="1", **slurm.env)


def clusters_of(site: Site, runs: list[str]) -> Counter[str]:
    """Count the clusters on which runs were committed, once each."""
    found: Counter[str] = Counter()
    for run in runs:
        done = [one for one in site.attempts(run) if (one.get("outcome") or {}).get("cause") == "succeeded"]
        assert len(done) == 1, (run, site.attempts(run))
        found[done[0]["cluster"]] += 1
    return found


def test_one_sweep_spreads_over_all_of_them(fleet: Site, until: Any) -> None:
    """Scene (b): what fits nowhere now waits in one queue, whatever engine comes free first."""
    template = {"command": ["python3", "-c", TRIAL], "resources": SMALL}
    asked = {"template": template, "space": [{"name": "lr", "kind": "float", "low": 0.0, "high": 1.0}], "metric": "score"}
    made = fleet.call("POST", "/sweeps", json={**asked, "trials": 60})
    assert made.status_code == 201, made.text
    sweep = made.json()["id"]
    until(lambda: fleet.call("GET", f"/sweeps/{sweep}").json()["state"] == "done", "the sweep", timeout_s=240)
    trials = fleet.call("GET", f"/sweeps/{sweep}/trials").json()
    runs = [one["run"] for one in (trials["items"] if isinstance(trials, dict) else trials)]
    spread = clusters_of(fleet, runs)
    assert (sum(spread.values()), set(spread)) == (60, ENGINES), spread


def test_all_runs_are_there_after_the_server_was_killed(fleet: Site, kubernetes: Any, slurm: Any) -> None:
    """Scene (f), with as many runs as two cores carry: none is lost, none is done twice, no line is missing."""
    lines = ["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.5; done"]
    runs = [fleet.submit(lines, resources=SMALL) for _ in range(30)]
    runs += [fleet.submit(lines, resources={**SMALL, "labels": {"cluster": one}}) for one in sorted(ENGINES)]
    fleet.running(runs[0], b"2")
    fleet.stop(signal.SIGKILL)
    begin(fleet, kubernetes, slurm)
    for run in runs:
        assert fleet.wait(run, timeout_s=240)["state"] == "succeeded", run
        assert fleet.log(run) == b"1\n2\n3\n4\n5\n6\n7\n8\n"
    assert set(clusters_of(fleet, runs)) == ENGINES
