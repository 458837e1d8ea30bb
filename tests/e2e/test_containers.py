"""Containers as people use them: a cluster is added, runs go into images, the server dies and returns, what cannot be is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines.docker import BARE_IMAGE, IMAGE

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.engine]


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Any:
    """A real engine; its kind is the word of `cluster add`."""
    return request.getfixturevalue(f"{request.param}_engine")


@pytest.fixture
def box(fresh: Site, engine: Any) -> Site:
    fresh.start("--cpus", "1")
    kind = "podman" if "podman" in engine.url else "docker"
    added = fresh.cli(
        "cluster", "add", kind, "--name", "box", "--host", engine.url, "--image", IMAGE, "--cpus", "4",
        "--memory", "2GiB", "--gpus", "2", "--pool", "lab",
    )  # fmt: skip
    assert added.code == 0, added
    assert "box is registered with 1 node" in added.out
    assert "control groups" in added.out
    (node,) = fresh.call("GET", "/clusters/box").json()["nodes"]
    assert node["disk_bytes"] >= 1 << 30, "what is free where the engine keeps its containers"
    return fresh


def test_a_script_runs_in_an_image_and_the_engine_shows_it(box: Site, engine: Any, tmp_path: Path) -> None:
    (tmp_path / "where.py").write_text(
        "import os, sys\nprint(sys.version_info[:2], os.path.exists('/etc/debian_version'), sys.argv[1])\n"
    )
    words = ("run", "--image", IMAGE, "--gpus", "1", "--memory", "256MiB", "where.py", "--", "hello")
    done = box.cli(*words, cwd=tmp_path, timeout_s=90)
    assert done.code == 0, done
    assert "(3, 11) True hello" in done.out
    run = box.call("GET", "/runs/where").json()
    attempt = box.attempts(run["id"])[0]
    assert attempt["replicas"][0]["node"].startswith("box.")
    shown = box.cli("show", run["id"], "--json")
    digest = json.loads(shown.out)["image"]
    assert "sha256:" in digest, shown
    same = [engine.run("image", "inspect", "--format", "{{.Id}}", name).strip() for name in (digest, IMAGE)]
    assert same[0] == same[1]
    checked = box.cli("cluster", "check", "box", timeout_s=90)
    assert (checked.code, "succeeded" in checked.out) == (0, True), checked


def test_a_run_outlives_its_server_and_is_cancelled_by_the_next(box: Site) -> None:
    spec = {"resources": {"cpu_milli": 500, "pool": "lab"}, "grace_s": 1.0}
    lasting = box.submit(["sh", "-c", "echo begun; sleep 300"], **spec)
    counting = box.submit(["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.5; done"], **spec)
    box.running(lasting, b"begun")
    box.running(counting, b"1")
    box.stop(9)
    box.start("--cpus", "1")
    assert box.wait(counting)["state"] == "succeeded"
    assert box.log(counting) == b"1\n2\n3\n4\n5\n6\n7\n8\n"
    assert len(box.attempts(counting)) == 1
    native = box.cli("native", lasting, "--json")
    assert json.loads(native.out)["replicas"][0]["object"]["state"]["Status"] == "running"
    assert box.cli("cancel", lasting).code == 0
    assert box.wait(lasting)["state"] == "cancelled"


def test_what_no_container_can_be_is_told(box: Site, engine: Any, until: Callable[..., Any]) -> None:
    kind = "podman" if "podman" in engine.url else "docker"
    wrong = (
        ({"environment": {"image": BARE_IMAGE}}, "has no Python"),
        ({"overrides": {kind: {"no_such": 1}}}, f"{kind}.no_such"),
    )
    for more, says in wrong:
        ref = box.submit(["true"], resources={"cpu_milli": 100, "pool": "lab"}, **more)
        ended = until(lambda ref=ref: [one["outcome"] for one in box.attempts(ref) if one.get("outcome")], ref)[0]
        assert ended["cause"] == "launch_failed"
        assert says in ended["message"]
        box.cli("cancel", ref)


def test_an_image_where_no_container_runs_is_refused(fresh: Site) -> None:
    fresh.start("--cpus", "1")
    done = fresh.cli("run", "--image", IMAGE, "--", "true")
    assert (done.code, "containers=yes" in done.err) == (6, True), done
