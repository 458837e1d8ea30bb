"""One queue over five real engines: this machine, Docker, a host over SSH, Slurm and Kubernetes."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

ENGINES = {"local", "box", "metal", "hpc", "pods"}
SMALL = {"cpu_milli": 250, "memory_bytes": 64 << 20}
TRIAL = "import sys, time, mainspring; time.sleep(1); mainspring.log_metric('score', 1.0); print('of', sys.argv[0])"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]


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


def test_all_runs_are_there_after_the_server_was_killed(fleet: Site, begin_fleet: Callable[..., None], until: Any) -> None:
    """Scene (f), with as many runs as two cores carry: none is lost, none is done twice, no line is missing."""
    lines = ["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.5; done"]
    runs = [fleet.submit(lines, resources=SMALL) for _ in range(30)]

    def pinned(cluster: str) -> str | None:
        asked = {"command": lines, "resources": {**SMALL, "labels": {"cluster": cluster}}}
        answer = fleet.call("POST", "/runs", json=asked)
        return answer.json()["id"] if answer.status_code == 201 else None  # 422: jobs of other tests hold all of Slurm

    runs += [until(lambda one=one: pinned(one), f"room on {one}", timeout_s=120) for one in sorted(ENGINES)]
    fleet.running(runs[0], b"2")
    fleet.stop(signal.SIGKILL)
    begin_fleet(fleet, "hpc", "pods")
    for run in runs:
        assert fleet.wait(run, timeout_s=240)["state"] == "succeeded", run
        assert fleet.log(run) == b"1\n2\n3\n4\n5\n6\n7\n8\n"
    assert set(clusters_of(fleet, runs)) == ENGINES
