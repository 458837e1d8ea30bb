"""The scenes of one queue over several real engines; the programs are those of examples/scenes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines.docker import IMAGE as CONTAINER
from tests.e2e.test_network_cuts import Door

if TYPE_CHECKING:
    from conftest import Site

SCENES = Path(__file__).parents[2] / "examples" / "scenes"
SMALL = {"cpu_milli": 250, "memory_bytes": 64 << 20}
DONE = {"succeeded", "failed", "cancelled"}
LIMIT_S = 240.0
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
]
FLEET = pytest.mark.xdist_group("fleet")  # Slurm and Kubernetes: one of each, whose nodes are counted, and die


def program(name: str) -> list[str]:
    """Return the command of an example."""
    return ["python3", "-c", (SCENES / name).read_text()]


def on(cluster: str, **more: int) -> dict[str, Any]:
    return {**SMALL, **more, "labels": {"cluster": cluster}}


def soon(site: Site, run: str, check: Callable[[], Any], what: str) -> Any:
    """Return what `check` gives once that is true; a failure tells the run's attempts, its reason and the server's last words."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    story = [site.cli("why", run).out, *map(str, site.attempts(run)), site.log(run).decode(errors="replace")[-2000:]]
    pytest.fail("\n".join([f"{what} did not happen within {LIMIT_S:g} s", *story, site.server_log()[-4000:]]))


def checkpointed(site: Site, run: str) -> dict[str, Any]:
    """Return the first attempt of a run once the server has a checkpoint of it."""
    return dict(
        soon(site, run, lambda: next((one for one in site.attempts(run) if one.get("checkpoint_at")), None), "a checkpoint")
    )


def ended(site: Site, run: str) -> dict[str, Any]:
    return dict(soon(site, run, lambda: (told := site.run(run))["state"] in DONE and told, "its end"))


def look(site: Site, cluster: str) -> None:
    """Let the engine be looked at now, whatever it says."""
    asked = site.call("POST", f"/clusters/{cluster}/probe").json()
    site.call("GET", f"/operations/{asked['id']}", params={"timeout_s": 15})


def states(site: Site, cluster: str) -> set[str]:
    return {one.get("state", "ready") for one in site.call("GET", f"/clusters/{cluster}").json()["nodes"]}


def begun(site: Site, run: str) -> list[int]:
    """Return the step of each attempt that said where it begins."""
    found = []
    for attempt in range(1, len(site.attempts(run)) + 1):
        words = [line.split() for line in site.log(run, attempt=attempt).decode().splitlines() if line.startswith("begins with")]
        found += [int(one[2]) for one in words]
    return found


def went_on(site: Site, run: str) -> None:
    """Check that a run whose node died ended well, in another attempt, from its checkpoint, at no cost of its own retries."""
    told = ended(site, run)
    tries = site.attempts(run)
    assert (told["state"], told["retries_used"]) == ("succeeded", 0), tries
    steps = begun(site, run)
    assert steps[0] == 0, steps
    assert 1 < len(steps) <= len(tries), (steps, tries)
    assert steps[-1] > 0, (steps, tries)


@pytest.fixture(scope="module")
def second_node(kubernetes: Any) -> Iterator[Any]:
    """Another node of Kubernetes, with two GPUs, for as long as these tests go."""
    with kubernetes.second_node() as node:
        yield node


@pytest.fixture
def nodes_seen(kubernetes: Any, need: Callable[[bool, str, str], None]) -> Iterator[None]:
    """Let the team see nodes, by the commands of docs/how-to/kubernetes.md."""
    need(shutil.which("kubectl") is not None, "kubectl", "https://kubernetes.io/docs/tasks/tools")
    words = ["kubectl", "--kubeconfig", kubernetes.kubeconfig()]
    about = {"clusterrole": ["--verb=list", "--resource=nodes,pods"]}
    about["clusterrolebinding"] = ["--clusterrole=mainspring-nodes", "--user=team"]
    for kind, rest in about.items():
        subprocess.run([*words, "create", kind, "mainspring-nodes", *rest], check=True, capture_output=True)
    yield
    for kind in about:
        subprocess.run([*words, "delete", kind, "mainspring-nodes"], check=True, capture_output=True)


@FLEET
@pytest.mark.parametrize("cluster", ["metal", "hpc"])
def test_the_same_gang_meets_on_ssh_hosts_and_on_slurm(
    cluster: str, fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None]
) -> None:
    """Scene (a): two members with two GPUs each, on two nodes."""
    begin_fleet(fresh, cluster)
    add_engine(fresh, cluster, *(("--gpus", "2") if cluster == "metal" else ()), hosts=slice(0, 2), partition="main")
    gang_meets(fresh, cluster)


@FLEET
def test_the_same_gang_meets_on_kubernetes(
    fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None], second_node: Any, nodes_seen: None
) -> None:
    """Scene (a) on Kubernetes: two nodes, each with a kubelet and a containerd of its own."""
    begin_fleet(fresh, "pods")
    add_engine(fresh, "pods")
    gang_meets(fresh, "pods")


def gang_meets(site: Site, cluster: str) -> None:
    """Let two members meet that fit on no node together."""
    node = site.call("GET", f"/clusters/{cluster}").json()["nodes"][0]
    asked = {"gpu_milli": 2000} | ({} if cluster == "metal" else {"cpu_milli": node["cpu_milli"] * 3 // 4})
    run = site.submit(program("gang.py"), replicas=2, resources=on(cluster, **asked))
    told = ended(site, run)
    lines = sorted((site.log(run) + site.log(run, replica=1)).decode().splitlines())
    assert told["state"] == "succeeded", (told, lines, site.attempts(run))
    assert lines == ["0 of 2 with 2 GPUs heard 1", "1 of 2 with 2 GPUs heard 0"]
    assert len({one["node"] for one in site.attempts(run)[0]["replicas"]}) == 2


@FLEET
def test_a_pipeline_goes_over_two_engines(fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None]) -> None:
    """Scene (c): its CPU step on a host over SSH, its GPU step on Kubernetes."""
    begin_fleet(fresh, "metal", "pods")
    add_engine(fresh, "metal")
    add_engine(fresh, "pods", "--gpus", "2")
    words = [sys.executable, str(SCENES / "steps.py"), "metal", "pods"]
    done = subprocess.run(words, env=fresh.environ(), cwd=SCENES, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    made = fresh.call("GET", "/runs", params={"limit": 20}).json()["items"]
    story = [(one["name"], fresh.log(one["id"])[-1000:], fresh.attempts(one["id"])) for one in made]
    assert (done.returncode, done.stdout.strip().splitlines()[-1:]) == (0, ["succeeded"]), (done, story)
    where = {one["spec"]["entry"]["function"]: fresh.attempts(one["id"])[-1]["cluster"] for one in made}
    assert where == {"prepare": "metal", "train": "pods"}, story


def test_a_machine_that_was_switched_off_goes_on_from_its_checkpoints(fresh: Site) -> None:
    """Scene (d) on the server's own machine: the server, the runner and user code die at once."""
    fresh.start("--cpus", "2", MAINSPRING_QUIET_BEAT_S="1")
    run = fresh.submit(program("count.py"), resources=SMALL)
    checkpointed(fresh, run)
    fresh.stop(signal.SIGKILL)
    for pid in fresh.carriers():
        with contextlib.suppress(ProcessLookupError):  # what its server had for it ends with it
            os.kill(pid, signal.SIGKILL)
    fresh.start("--cpus", "2", MAINSPRING_QUIET_BEAT_S="1")
    went_on(fresh, run)


@pytest.mark.parametrize("kind", ["docker", "podman"])
def test_a_container_that_is_removed_goes_on_from_its_checkpoint(
    kind: str, fresh: Site, begin_fleet: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    """Scene (d) in containers: one is gone with all that it wrote, as when its machine was set up anew."""
    engine = request.getfixturevalue(f"{kind}_engine")
    begin_fleet(fresh, "box")
    words = ("--host", engine.url, "--image", CONTAINER, "--cpus", "1", "--memory", "1GiB")
    added = fresh.cli("cluster", "add", kind, "--name", "box", *words)
    assert added.code == 0, added
    run = fresh.submit(program("count.py"), resources=on("box"))
    attempt = checkpointed(fresh, run)["id"]
    (mine,) = [name for name in engine.run("ps", "--format", "{{.Names}}").split() if attempt in name]
    engine.run("rm", "-f", mine)
    went_on(fresh, run)


@pytest.mark.parametrize(("first", "second"), [("docker", "podman"), ("podman", "docker")])
def test_a_container_engine_that_dies_lets_its_run_go_on_at_another(
    first: str, second: str, fresh: Site, begin_fleet: Callable[..., None], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Scene (d) in containers: the engine's machine dies. Nobody answers any more, and what ran there is dead."""
    engines = {kind: request.getfixturevalue(f"{kind}_engine") for kind in (first, second)}
    begin_fleet(fresh, "box", MAINSPRING_LOST_AFTER_S="3")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "engine.sock"))
    listener.listen()
    door = Door(listener, socket.AF_UNIX, engines[first].url.removeprefix("unix://"))

    def add(kind: str, host: str) -> None:
        words = ("--host", host, "--image", CONTAINER, "--cpus", "1", "--memory", "1GiB", "--pool", "lab")
        added = fresh.cli("cluster", "add", kind, *words)
        assert added.code == 0, added

    try:
        add(first, f"unix://{tmp_path / 'engine.sock'}")
        run = fresh.submit(program("count.py"), resources={**SMALL, "pool": "lab"})
        attempt = checkpointed(fresh, run)
        door.is_open.clear()
        (mine,) = [name for name in engines[first].run("ps", "--format", "{{.Names}}").split() if attempt["id"] in name]
        engines[first].run("kill", mine)
        add(second, engines[second].url)
        went_on(fresh, run)
        assert [one["cluster"] for one in fresh.attempts(run)] == [first, second]
    finally:
        door.is_open.set()
        listener.close()
    soon(
        fresh, run, lambda: attempt["id"] not in engines[first].run("ps", "--all", "--format", "{{.Names}}"), "what it left gone"
    )


def test_a_host_that_is_switched_off_goes_on_elsewhere_from_its_checkpoint(
    fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None], ssh_hosts: Any
) -> None:
    """Scene (d) over SSH."""
    begin_fleet(fresh, "metal", MAINSPRING_LOST_AFTER_S="3")
    add_engine(fresh, "metal", hosts=slice(1, 3))
    run = fresh.submit(program("count.py"), resources=on("metal"))
    node = checkpointed(fresh, run)["replicas"][0]["node"]
    (name,) = [name for name, address in ssh_hosts.addresses.items() if node.endswith(address)]
    ssh_hosts.stop(name)
    try:
        went_on(fresh, run)
    finally:
        ssh_hosts.start(name)
    assert fresh.attempts(run)[-1]["replicas"][0]["node"] != node


@FLEET
def test_a_node_of_kubernetes_that_dies_lets_its_run_go_on_at_the_other(
    fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None], second_node: Any, nodes_seen: None
) -> None:
    """Scene (d) on Kubernetes: the node's daemons and all its pods are killed; the API server gives it up after 50 s."""
    begin_fleet(fresh, "pods", MAINSPRING_LOST_AFTER_S="3")
    add_engine(fresh, "pods")
    assert fresh.cli("node", "drain", "pods.n1").code == 0
    run = fresh.submit(program("count.py"), resources=on("pods"))
    assert checkpointed(fresh, run)["replicas"][0]["node"] == "pods.n2"
    assert fresh.cli("node", "resume", "pods.n1").code == 0
    second_node.cut_power()
    try:
        went_on(fresh, run)
    finally:
        second_node.start()
    assert fresh.attempts(run)[-1]["replicas"][0]["node"] == "pods.n1"


@FLEET
def test_a_slurm_node_that_dies_lets_its_run_go_on_at_another(
    fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None], slurm: Any
) -> None:
    """Scene (d) on Slurm: the node's daemon dies with all that runs there."""
    begin_fleet(fresh, "hpc", MAINSPRING_LOST_AFTER_S="3")
    add_engine(fresh, "hpc", partition="main")
    run = fresh.submit(program("count.py"), resources=on("hpc"))
    node = checkpointed(fresh, run)["replicas"][0]["node"]
    name = node.partition(".")[2]
    slurm.stop_node(name)
    try:
        went_on(fresh, run)
    finally:
        slurm.start_node(name)
    assert fresh.attempts(run)[-1]["replicas"][0]["node"] != node


@FLEET
def test_credentials_that_expire_keep_new_runs_away_and_no_old_one(
    kubernetes: Any, fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None], tmp_path: Path
) -> None:
    """Scene (e): what runs ends well, `why` tells of the credentials, and new ones bring the cluster back."""
    begin_fleet(fresh, "pods", MAINSPRING_LOST_AFTER_S="5")
    add_engine(fresh, "pods")
    config = tmp_path / "kubeconfig"
    good = config.read_text()
    run = fresh.submit(["sh", "-c", "for n in $(seq 20); do echo $n; sleep 1; done"], resources=on("pods"))
    soon(fresh, run, lambda: b"2\n" in fresh.log(run), "its begin")
    config.write_text(good.replace(kubernetes.tokens["team"], "0" * 32))
    look(fresh, "pods")
    soon(fresh, run, lambda: states(fresh, "pods") == {"unreachable"}, "that the cluster is out of reach")
    later = fresh.submit(["echo", "later"], resources=on("pods"))
    soon(fresh, later, lambda: "does not accept the credentials" in fresh.cli("why", later).out, "why it waits")
    other = fresh.submit(["true"], resources=SMALL)
    assert ended(fresh, other)["state"] == "succeeded", "another cluster is held up"
    told = ended(fresh, run)
    assert (told["state"], len(fresh.attempts(run))) == ("succeeded", 1), fresh.attempts(run)
    assert fresh.log(run) == b"".join(b"%d\n" % number for number in range(1, 21))
    assert (fresh.run(later)["state"], fresh.attempts(later)) == ("queued", [])
    config.write_text(good)
    assert ended(fresh, later)["state"] == "succeeded", fresh.attempts(later)
    assert fresh.log(later) == b"later\n"


def test_a_key_that_is_taken_back_keeps_new_runs_away_and_no_old_one(
    fresh: Site, begin_fleet: Callable[..., None], add_engine: Callable[..., None], ssh_hosts: Any
) -> None:
    """Scene (e) over SSH: what runs there ends well and is told of once the key is back; nobody is sent there meanwhile."""
    begin_fleet(fresh, "metal")
    add_engine(fresh, "metal")
    run = fresh.submit(["sh", "-c", "for n in $(seq 10); do echo $n; sleep 1; done"], resources=on("metal"))
    soon(fresh, run, lambda: b"2\n" in fresh.log(run), "its begin")
    keys = Path(ssh_hosts.folder) / "key.pub"  # what each host lets in
    good = keys.read_text()
    try:
        keys.write_text("")
        for pid in logins(fresh):
            os.kill(pid, signal.SIGKILL)  # whoever is in stays in: a key is asked for at the door
        soon(fresh, run, lambda: look(fresh, "metal") or states(fresh, "metal") == {"unreachable"}, "that it is out of reach")
        later = fresh.submit(["echo", "later"], resources=on("metal"))
        soon(fresh, later, lambda: "refuses the key" in fresh.cli("why", later).out, "why it waits")
        other = fresh.submit(["true"], resources=SMALL)
        assert ended(fresh, other)["state"] == "succeeded", "another cluster is held up"
        assert (fresh.run(later)["state"], fresh.attempts(later)) == ("queued", [])
        assert (fresh.run(run)["state"], len(fresh.attempts(run))) == ("running", 1)
    finally:
        keys.write_text(good)
    told = ended(fresh, run)
    assert (told["state"], len(fresh.attempts(run))) == ("succeeded", 1), fresh.attempts(run)
    assert fresh.log(run) == b"".join(b"%d\n" % number for number in range(1, 11))
    assert ended(fresh, later)["state"] == "succeeded", fresh.attempts(later)
    assert fresh.log(later) == b"later\n"


def logins(site: Site) -> list[int]:
    """Return the connections that a server has to its hosts."""
    assert site.process is not None
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == site.process.pid and (place / "comm").read_text().strip() == "ssh":
                    found.append(int(place.name))
    assert found
    return found
