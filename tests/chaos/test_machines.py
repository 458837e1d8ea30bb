"""A server that dies while machines are rented: none is forgotten, none is paid for twice, and the run goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

POLICY = """
[burst]
min_wait_s = 0
min_gain_s = 0
idle_s = 1
min_life_s = 0
max_estimate_s = 60
"""
CLOUD = {"name": "cloud", "backend": "simulated-cloud", "options": {"gpus": 1, "cpus": 2, "price": 36, "start_s": 1, "limit": 2}}
POINTS = ("after-W2", "after-W2:2", "before-rent", "after-rent", "before-give-back", "after-give-back")


def submit(installation: Any, name: str, go: Path, timeout_s: float = 60) -> str:
    """Submit a run on the one GPU that ends when the file `go` is there; how long it may take counts for its rent."""
    program = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)"
    spec = {
        "command": [sys.executable, "-c", program],
        "name": name,
        "timeout_s": timeout_s,
        "resources": {"cpu_milli": 100, "gpu_milli": 1000},
    }
    answer = installation.call("POST", "/runs", json=spec, headers={"Idempotency-Key": name})
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["id"])


def add_cloud(installation: Any, poll: Callable[..., None]) -> None:
    """Register the cloud, and wait until its offer is known."""
    assert installation.call("POST", "/clusters", json=CLOUD).status_code == 202
    poll(lambda: bool(installation.call("GET", "/sites").json()["items"]), 90, "the cloud's offer")


def state(installation: Any, run: str) -> str:
    """Return the state of a run."""
    return str(installation.call("GET", f"/runs/{run}").json()["state"])


def machines(installation: Any) -> list[dict[str, Any]]:
    """Return the rented machines."""
    return list(installation.call("GET", "/machines").json()["items"])


@pytest.mark.chaos
@pytest.mark.timeout(180)
@pytest.mark.parametrize("point", POINTS)
def test_no_machine_is_forgotten_or_rented_twice(
    installation: Any, tmp_path: Path, poll: Callable[..., None], point: str
) -> None:
    installation.flags = ("--gpus", "1")
    installation.start()
    assert installation.call("PUT", "/policy", json={"text": POLICY}).status_code == 200
    add_cloud(installation, poll)
    own, far = tmp_path / "own", tmp_path / "far"
    first = submit(installation, "own", own, timeout_s=600)
    poll(lambda: state(installation, first) == "running", 90, "the first run's start")
    installation.kill()
    installation.start(point)
    far.touch()
    second = submit(installation, "far", far)
    poll(installation.is_dead, 60, f"the server's death {point}")
    installation.start()
    poll(lambda: state(installation, second) == "succeeded", 90, "the end of the second run")
    poll(lambda: {one["machine"]["state"] for one in machines(installation)} == {"ended"}, 90, "the end of the machine")
    (bill,) = machines(installation)
    assert bill["machine"]["run"] == second
    assert 0 < float(bill["cost_usd"]) <= float(bill["reserved_usd"])
    assert not list((installation.home / "clusters/cloud/machines").iterdir())
    (line,) = [one for one in installation.call("GET", "/usage?by=project").json()["items"] if one["key"] == "default"]
    assert line["cost_usd"] == bill["cost_usd"]
    own.touch()
    poll(lambda: state(installation, first) == "succeeded", 90, "the end of the first run")


@pytest.mark.chaos
@pytest.mark.timeout(120)
def test_a_machine_that_no_row_knows_is_ended(installation: Any, poll: Callable[..., None]) -> None:
    installation.flags = ("--gpus", "1")
    installation.start()
    add_cloud(installation, poll)
    stray = installation.home / "clusters/cloud/machines/machine-stray"
    stray.mkdir(parents=True)
    (stray / "machine.json").write_text('{"up_at": 0, "ends_at": 4e9}')
    installation.kill()
    installation.start()
    run = submit(installation, "far", installation.home)  # a folder that is there: it ends at once
    poll(lambda: not stray.exists(), 90, "the end of the stray machine")
    poll(lambda: state(installation, run) == "succeeded", 90, "the end of the run")
    nodes = [one["node"] for one in installation.call("GET", f"/runs/{run}/attempts").json()[0]["replicas"]]
    assert nodes != ["machine-stray"]  # it was up first, and no place for anybody
