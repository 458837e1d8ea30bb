"""Overflow into a cloud that this machine plays: a real server, real runs, real waiting; only the money is not real."""

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
idle_s = 2
min_life_s = 1
max_estimate_s = 60
"""
CLOUD = ("--gpus", "1", "--cpus", "2", "--price", "36", "--start-s", "1", "--limit", "2")


@pytest.fixture
def cloud(fresh: Any) -> Any:
    """An installation of eight declared GPUs beside a cloud of two machines with one GPU each."""
    fresh.start("--gpus", "8", "--cpus", "32")
    added = fresh.cli("cluster", "add", "simulated-cloud", "--name", "cloud", *CLOUD)
    assert added.code == 0, added
    assert fresh.call("PUT", "/policy", json={"text": POLICY}).status_code == 200
    return fresh


def submit(site: Any, name: str, go: Path, timeout_s: float = 60) -> str:
    """Submit a run on one GPU that ends when the file `go` is there; how long it may take counts for its rent."""
    program = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)"
    spec = {
        "command": [sys.executable, "-c", program],
        "name": name,
        "timeout_s": timeout_s,
        "resources": {"cpu_milli": 100, "gpu_milli": 1000},
    }
    answer = site.call("POST", "/runs", json=spec)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def fill(site: Any, go: Path, until: Callable[..., Any]) -> list[str]:
    """Let eight runs hold all GPUs."""
    runs = [submit(site, f"own-{number}", go, timeout_s=600) for number in range(8)]
    until(lambda: all(state(site, run)["state"] == "running" for run in runs), "eight running runs")
    return runs


def state(site: Any, run: str) -> dict[str, Any]:
    """Return a run."""
    return dict(site.call("GET", f"/runs/{run}").json())


def machines(site: Any) -> list[dict[str, Any]]:
    """Return the rented machines."""
    return list(site.call("GET", "/machines").json()["items"])


@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_the_ninth_run_overflows_and_its_machine_goes_home(cloud: Any, tmp_path: Path, until: Callable[..., Any]) -> None:
    own, far = tmp_path / "own", tmp_path / "far"
    runs = fill(cloud, own, until)
    assert machines(cloud) == []
    ninth = submit(cloud, "ninth", far)
    until(lambda: state(cloud, ninth)["state"] == "running", "the start of the ninth run")
    (bill,) = machines(cloud)
    (attempt,) = cloud.call("GET", f"/runs/{ninth}/attempts").json()
    assert (bill["machine"]["state"], bill["machine"]["run"]) == ("ready", ninth)
    assert [one["node"] for one in attempt["replicas"]] == [bill["machine"]["id"]]
    far.touch()
    until(lambda: state(cloud, ninth)["state"] == "succeeded", "the end of the ninth run")
    until(lambda: machines(cloud)[0]["machine"]["state"] == "ended", "the end of the machine")
    own.touch()
    until(lambda: all(state(cloud, run)["state"] == "succeeded" for run in runs), "the end of all")
    (bill,) = machines(cloud)
    assert 0 < float(bill["cost_usd"]) <= float(bill["reserved_usd"])
    (line,) = [one for one in cloud.call("GET", "/usage?by=project").json()["items"] if one["key"] == "default"]
    assert line["cost_usd"] == bill["cost_usd"]
    assert not list((cloud.home / "clusters/cloud/machines").iterdir())
    nodes = [node for view in cloud.call("GET", "/clusters").json() for node in view["nodes"]]
    assert [node["cluster"] for node in nodes] == ["local"]


@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_with_no_money_it_waits_and_says_so(cloud: Any, tmp_path: Path, until: Callable[..., Any]) -> None:
    go = tmp_path / "go"
    user = cloud.call("GET", "/whoami").json()["name"]
    assert cloud.call("PATCH", f"/shares/{user}", json={"budget_usd": "0"}).status_code == 200
    fill(cloud, go, until)
    ninth = submit(cloud, "ninth", go)
    until(lambda: (state(cloud, ninth)["reason"] or {}).get("code") == "budget", "the reason")
    told = cloud.cli("why", ninth)
    assert "budget of share" in told.out
    assert machines(cloud) == []
    go.touch()
    until(lambda: state(cloud, ninth)["state"] == "succeeded", "its turn at home")
    assert machines(cloud) == []
