"""Endpoints: a replica that dies, a version that is taken back, and replicas that run where the server dials nobody:

in a container or a pod of a network of its own, behind ssh.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines.docker import IMAGE

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# as people do it who have the library; a native model, so that nothing but numpy is needed where it is served
REGISTER = """
import sys
import numpy as np
import mainspring as ms
from sklearn.linear_model import LinearRegression

rows = np.array([[0.0], [1.0], [2.0]], np.float32)
inputs = {"inputs": [{"name": "x", "dtype": "float32"}], "outputs": [{"name": "y", "dtype": "float32"}]}
for factor in map(int, sys.argv[2:]):
    ms.Model(LinearRegression().fit(rows, rows[:, 0] * factor), signature=inputs).register(sys.argv[1])
"""


def ours() -> list[str]:
    """Return the folders that an interpreter with Mainspring needs: itself, its packages and our sources."""
    found = {sys.base_prefix, sys.prefix, str(Path(__file__).parents[2] / "src")}
    return sorted(one for one in found if not any(one != other and Path(one).is_relative_to(other) for other in found))


def register(site: Site, name: str = "doubles", *factors: str) -> None:
    """Register a version of a model for each factor by which it multiplies; one of 2 when there is none."""
    words = [sys.executable, "-c", REGISTER, name, *(factors or ("2",))]
    done = subprocess.run(words, env=site.environ(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def serve(site: Site, cluster: str, until: Callable[..., Any]) -> None:
    """Deploy the model in the pool of a cluster."""
    register(site)
    lost = site.cli("deploy", "doubles", "--name", "doubles", "--pool", "nowhere")
    assert (lost.code, "nowhere" in lost.err) == (6, True), lost
    assert site.cli("deploy", "doubles", "--name", "doubles", "--pool", "far", "-d").code == 0
    shown = lambda: site.call("GET", "/endpoints/doubles").json()  # noqa: E731
    try:
        until(lambda: shown()["state"] == "ready" and shown()["addresses"], "the replica", timeout_s=240)
    except BaseException:
        print(shown(), replica(site), site.cli("why", "serve-doubles").out, site.server_log()[-3000:])
        raise
    assert replica(site)[1]["cluster"] == cluster
    assert "inside run-" in site.cli("endpoint", "show", "doubles").out


def replica(site: Site) -> tuple[bytes, dict[str, Any]]:
    """Return the log and the newest attempt of the newest replica."""
    run = site.call("GET", "/runs", params={"limit": 1}).json()["items"][0]["id"]
    return site.log(run)[-3000:], (site.attempts(run) or [{}])[-1]


def answers(site: Site, until: Callable[..., Any]) -> None:
    """Ask for predictions, few and many at once."""

    def predict(rows: int) -> list[Any]:
        answer = site.call("POST", "/endpoints/doubles/predict", json=[{"x": float(number)} for number in range(rows)])
        return answer.json()["predictions"] if answer.status_code == 200 else []

    until(lambda: predict(2), "a prediction", timeout_s=120)
    for rows in (1, 3, 9000):
        found = predict(rows)
        assert [round(float(one), 2) for one in found[:3]] == [0.0, 2.0, 4.0][:rows], (found[:3], replica(site))
        assert len(found) == rows


def check(site: Site, until: Callable[..., Any], *flags: str, **env: str) -> None:
    """Let it answer, also after the server was killed, and end."""
    answers(site, until)
    assert site.call("GET", "/endpoints/doubles/v2/health/ready").json() == {"ready": True}
    run = replica(site)[1]["run"]
    site.stop(9)
    site.start(*flags, **env)
    answers(site, until)
    assert replica(site)[1]["run"] == run, "another replica was started"
    assert site.cli("endpoint", "rm", "doubles", "--yes").code == 0
    assert site.wait(run, timeout_s=120)["state"] == "cancelled"


def test_who_waits_no_longer_for_an_endpoint_is_told_where_to_look(fresh: Site) -> None:
    fresh.start("--cpus", "1")
    register(fresh)
    (here,) = [one["id"] for one in fresh.call("GET", "/clusters/local").json()["nodes"]]
    assert fresh.cli("cluster", "drain", here).code == 0
    late = fresh.cli("deploy", "doubles", "--name", "doubles", "--timeout", "1s")
    assert (late.code, "still starting after 1 s" in late.err, "why serve-doubles" in late.err) == (5, True, True), late
    assert "draining" in fresh.cli("why", "serve-doubles").out


def test_a_replica_that_is_killed_is_replaced_and_a_version_is_taken_back(site: Site, until: Callable[..., Any]) -> None:
    register(site, "times", "2", "3")

    def deploy(version: int) -> str:
        done = site.cli("deploy", f"times@{version}", "--name", "times", "--json")
        assert done.code == 0, done
        return serving()

    def serving() -> str:
        runs = site.call("GET", "/runs", params={"state": "running", "limit": 50}).json()["items"]
        return str(next(one["id"] for one in runs if one["name"] == "serve-times"))

    def says() -> float:
        done = site.cli("endpoint", "predict", "times", '[{"x": 10}]')
        return round(float(json.loads(done.out)[0]), 1) if done.code == 0 else 0.0

    first = deploy(1)
    assert says() == 20
    os.kill(json.loads((site.folder_of(first) / "started").read_text())["pid"], signal.SIGKILL)
    assert site.wait(first)["state"] == "failed"
    until(lambda: says() == 20, "a prediction after the replica was killed")
    second = serving()
    assert second != first
    third = deploy(2)
    assert (says(), site.wait(second)["state"]) == (30, "cancelled")
    assert site.cli("endpoint", "rollback", "times").out == "times goes to revision 3.\n"
    until(lambda: says() == 20, "a prediction of the version before")
    site.wait(third)
    last = serving()
    assert site.cli("endpoint", "rm", "times", "--yes").code == 0
    site.wait(last)


@pytest.mark.engine
def test_a_container_on_a_network_of_its_own_is_asked_through_its_tunnel(
    fresh: Site, docker_engine: Any, until: Callable[..., Any]
) -> None:
    flags = ("--cpus", "1", "--bind", docker_engine.address)
    fresh.start(*flags)
    mounts = ",".join(f"{one}:{one}:ro" for one in ours())
    words = ("--image", IMAGE, "--cpus", "2", "--memory", "2GiB", "--network", "bridge", "--mounts", mounts, "--pool", "far")
    added = fresh.cli("cluster", "add", "docker", "--name", "box", "--host", docker_engine.url, *words)
    assert added.code == 0, added
    serve(fresh, "box", until)
    check(fresh, until, *flags)


@pytest.mark.engine
def test_a_host_behind_ssh_is_asked_through_its_tunnel(fresh: Site, ssh_hosts: Any, until: Callable[..., Any]) -> None:
    fresh.start("--cpus", "1", MAINSPRING_QUIET_BEAT_S="1")
    known = ("--key", ssh_hosts.key, "--host-key", ssh_hosts.fingerprint("bm3"), "--min-free-gib", "0.01", "--pool", "far")
    added = fresh.cli("cluster", "add", "ssh", ssh_hosts.addresses["bm3"], "--user", "root", "--name", "metal", *known)
    assert added.code == 0, added
    serve(fresh, "metal", until)
    check(fresh, until, "--cpus", "1", MAINSPRING_QUIET_BEAT_S="1")


@pytest.mark.engine
@pytest.mark.xdist_group("fleet")
def test_a_job_of_slurm_is_asked_through_its_tunnel(
    fresh: Site, slurm: Any, begin_fleet: Callable[..., None], add_engine: Callable[..., None], until: Callable[..., Any]
) -> None:
    begin_fleet(fresh, "hpc")
    add_engine(fresh, "hpc", "--pool", "far", partition="main")
    serve(fresh, "hpc", until)
    check(fresh, until, "--cpus", "1", MAINSPRING_QUIET_BEAT_S="1", **slurm.env)


@pytest.mark.engine
@pytest.mark.timeout(900)  # the first waits until the program of Kubernetes is built
@pytest.mark.xdist_group("fleet")
def test_a_pod_is_asked_through_its_tunnel(
    fresh: Site,
    kubernetes: Any,
    begin_fleet: Callable[..., None],
    add_engine: Callable[..., None],
    tmp_path: Path,
    until: Callable[..., Any],
) -> None:
    """Its image has no Mainspring: a template brings this machine's folders in, which only root can read."""
    begin_fleet(fresh, "pods")
    places = {f"ours{number}": folder for number, folder in enumerate(ours())}
    mounts = [{"name": name, "mountPath": folder, "readOnly": True} for name, folder in places.items()]
    template = {
        "volumes": [{"name": name, "hostPath": {"path": folder}} for name, folder in places.items()],
        "securityContext": {"runAsNonRoot": False, "runAsUser": 0},
        "containers": [{"name": "run", "volumeMounts": mounts}],
    }
    (tmp_path / "template.json").write_text(json.dumps(template))
    add_engine(fresh, "pods", "--template", str(tmp_path / "template.json"), "--pool", "far")
    serve(fresh, "pods", until)
    check(fresh, until, "--cpus", "1", "--bind", kubernetes.address, MAINSPRING_QUIET_BEAT_S="1")
