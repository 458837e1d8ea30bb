"""The scenes of one queue over several real engines; the programs are those of examples/scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

SCENES = Path(__file__).parents[2] / "examples" / "scenes"
SMALL = {"cpu_milli": 250, "memory_bytes": 64 << 20}
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]


def program(name: str) -> list[str]:
    """Return the command of an example."""
    return ["python3", "-c", (SCENES / name).read_text()]


def on(cluster: str, **more: int) -> dict[str, Any]:
    return {**SMALL, **more, "labels": {"cluster": cluster}}


def begun(site: Site, run: str) -> list[tuple[int, str]]:
    """Return (step, machine) of each attempt that said where it begins."""
    found = []
    for attempt in range(1, len(site.attempts(run)) + 1):
        words = [line.split() for line in site.log(run, attempt=attempt).decode().splitlines() if line.startswith("begins with")]
        found += [(int(one[2]), one[4]) for one in words]
    return found


@pytest.mark.parametrize("cluster", ["hpc"])
def test_the_same_gang_meets(
    cluster: str, fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None]
) -> None:
    """Scene (a): two members with two GPUs each."""
    begin_fleet(fresh, cluster)
    add_engine(fresh, cluster)
    run = fresh.submit(program("gang.py"), replicas=2, resources=on(cluster, gpu_milli=2000))
    ended = fresh.wait(run, timeout_s=180)
    told = sorted((fresh.log(run) + fresh.log(run, replica=1)).decode().splitlines())
    assert ended["state"] == "succeeded", (ended, told)
    assert told == ["0 of 2 with 2 GPUs heard 1", "1 of 2 with 2 GPUs heard 0"]


def test_a_pod_that_is_lost_goes_on_elsewhere_from_its_checkpoint(
    fresh: Site,
    begin_fleet: Callable[..., None],
    add_engine: Callable[..., None],
    kubernetes: Any,
    team: str,
    until: Callable[..., Any],
) -> None:
    """Scene (d) on Kubernetes: the pod is deleted as when its node is."""
    begin_fleet(fresh, "pods")
    add_engine(fresh, "pods")
    run = fresh.submit(program("count.py"), resources=on("pods"))
    until(lambda: fresh.attempts(run) and fresh.attempts(run)[0].get("checkpoint_at"), "a checkpoint", timeout_s=120)
    for pod in kubernetes.ask("GET", f"/api/v1/namespaces/{team}/pods")["items"]:
        kubernetes.ask("DELETE", f"/api/v1/namespaces/{team}/pods/{pod['metadata']['name']}?gracePeriodSeconds=0")
    ended = fresh.wait(run, timeout_s=180)
    assert (ended["state"], ended["retries_used"]) == ("succeeded", 0), fresh.attempts(run)
    assert len(fresh.attempts(run)) == 2
    assert begun(fresh, run)[-1][0] > 0
