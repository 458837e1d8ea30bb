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
TRIAL_CPU = 500
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


def held_and_there(site: Site) -> tuple[list[int], list[int]]:
    """Return the CPUs (milli) that runs hold on each node of the fleet, and those that it has."""
    clusters = site.call("GET", "/clusters").json()
    held = [sum(one["granted"]["cpu_milli"] for one in runs) for cluster in clusters for runs in cluster["holders"].values()]
    return held, [node["cpu_milli"] for cluster in clusters for node in cluster["nodes"]]


def test_one_sweep_spreads_over_all_of_them(fleet: Site, until: Any) -> None:
    """Scene (b): what fits nowhere now waits in one queue, whatever engine comes free first; a share's limit is one for all.

    The limit is a little less than all that there is, so that it is reached only when every engine is in use.
    """
    most = min(60 * TRIAL_CPU, sum(held_and_there(fleet)[1]) - TRIAL_CPU)
    mine = fleet.call("GET", "/whoami").json()["name"]
    assert fleet.cli("share", mine, "--limit", f"{most / 1000:g}cpu").code == 0
    template = {"command": ["python3", "-c", TRIAL], "resources": {**SMALL, "cpu_milli": TRIAL_CPU}}
    asked = {"template": template, "space": [{"name": "lr", "kind": "float", "low": 0.0, "high": 1.0}], "metric": "score"}
    made = fleet.call("POST", "/sweeps", json={**asked, "trials": 60})
    assert made.status_code == 201, made.text
    sweep = made.json()["id"]
    seen: list[int] = []

    def is_done() -> bool:
        seen.append(sum(held_and_there(fleet)[0]))
        return bool(fleet.call("GET", f"/sweeps/{sweep}").json()["state"] == "done")

    until(is_done, "the sweep", timeout_s=240)
    assert max(seen) == most, (most, seen)
    trials = fleet.call("GET", f"/sweeps/{sweep}/trials").json()
    runs = [one["run"] for one in (trials["items"] if isinstance(trials, dict) else trials)]
    spread = clusters_of(fleet, runs)
    assert (sum(spread.values()), set(spread)) == (60, ENGINES), spread


def test_all_runs_are_there_after_the_server_was_killed(fleet: Site, begin_fleet: Callable[..., None], until: Any) -> None:
    """Scene (f): of a hundred runs none is lost, none is done twice, no line is missing; most are short, for two cores."""
    lines = ["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.5; done"]
    runs = [fleet.submit(lines, resources=SMALL) for _ in range(30)]
    quick = {"cpu_milli": 50, "memory_bytes": 16 << 20}
    short = [fleet.submit(["echo", "short"], resources={**quick, "labels": {"cluster": one}}) for one in ("local", "metal") * 32]
    short.append(fleet.submit(["echo", "short"], resources=quick))

    def pinned(cluster: str) -> str | None:
        asked = {"command": lines, "resources": {**SMALL, "labels": {"cluster": cluster}}}
        answer = fleet.call("POST", "/runs", json=asked)
        return answer.json()["id"] if answer.status_code == 201 else None  # 422: jobs of other tests hold all of Slurm

    runs += [until(lambda one=one: pinned(one), f"room on {one}", timeout_s=120) for one in sorted(ENGINES)]
    fleet.running(runs[0], b"2")
    fleet.stop(signal.SIGKILL)
    begin_fleet(fleet, "hpc", "pods")
    assert len([*runs, *short]) == 100
    for run in (*runs, *short):
        assert fleet.wait(run, timeout_s=240)["state"] == "succeeded", run
        assert fleet.log(run) == (b"short\n" if run in short else b"1\n2\n3\n4\n5\n6\n7\n8\n")
    assert set(clusters_of(fleet, runs)) == ENGINES
    assert sum(clusters_of(fleet, short).values()) == len(short)


def test_what_no_row_knows_is_found_on_every_engine_and_taken_in_again(
    fleet: Site, begin_fleet: Callable[..., None], until: Any
) -> None:
    """An older backup is restored: each engine shows what is ours by its name or tag, and the runner says whose it is."""
    loop = ["sh", "-c", "n=0; while [ $n -lt 9000 ]; do n=$((n+1)); echo $n; sleep 0.1; done"]
    runs = {one: fleet.submit(loop, resources={**SMALL, "labels": {"cluster": one}}, grace_s=1) for one in sorted(ENGINES)}
    for run in runs.values():
        until(lambda run=run: b"5\n" in fleet.log(run), f"the begin of {run}", timeout_s=240)
    attempts = {one: fleet.attempts(run)[0]["id"] for one, run in runs.items()}
    fleet.stop(signal.SIGKILL)
    for one, run in runs.items():
        fleet.lose(run, attempts[one])
    begin_fleet(fleet, "hpc", "pods")

    def told() -> dict[str, str]:
        return {one["attempt"]: one["run"] for one in fleet.call("GET", "/unadopted").json()}

    until(lambda: all(told().get(attempts[one]) == run for one, run in runs.items()), "the word of all runners", timeout_s=240)
    for one, run in runs.items():
        adopted = fleet.cli("adopt", attempts[one])
        assert (adopted.code, "goes on as attempt 1" in adopted.out) == (0, True), (one, adopted)
        until(lambda run=run: fleet.log(run).count(b"\n") > 50, f"more of the log of {one}", timeout_s=240)
        assert fleet.log(run).startswith(b"1\n2\n3\n4\n5\n"), one
        assert fleet.cli("cancel", run).code == 0
    for one, run in runs.items():
        assert fleet.wait(run, timeout_s=240)["state"] == "cancelled", (one, fleet.attempts(run))
        assert len(fleet.attempts(run)) == 1, one
