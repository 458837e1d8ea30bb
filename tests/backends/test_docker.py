"""The Docker backend passes the shipped contract against a real daemon and a real podman, and keeps its own promises."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from engines.docker import BARE_IMAGE, IMAGE
from engines.registry import PASSWORD, USER

from mainspring.backends.docker import ENGINE, PODMAN, container
from mainspring.backends.docker.backend import DockerBackend
from mainspring.backends.docker.container import device_env, host_config, make_handle, wishes_of
from mainspring.backends.docker.door import Door, UnsettledError
from mainspring.core.backend import Backend, LaunchRequest, ObservedState
from mainspring.core.errors import LaunchError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import Cluster, Node
from mainspring.core.resources import Device, DeviceShare, Granted
from mainspring.testing.backend import SLEEP, BackendContract
from mainspring.testing.server import RunnerServer

pytestmark = pytest.mark.engine
INSTALLATION = f"inst-docker-{os.getpid()}"  # workers of a session share the daemon


def make(engine: Any, folder: Path, **config: object) -> DockerBackend:
    given = {"host": engine.url, "image": IMAGE, "cpus": 4, "gpus": 2, "gpu_model": "toy", **config}
    kind = ENGINE if "docker" in engine.url else PODMAN
    made = kind.create(Cluster(id="box", name="box", backend="docker", config=given), folder, INSTALLATION)
    assert isinstance(made, DockerBackend)
    return made


class Containers(BackendContract):
    """What holds for every engine that speaks Docker's language."""

    installation = INSTALLATION

    def reborn(self, backend: Backend) -> Backend:
        assert isinstance(backend, DockerBackend)
        door = dataclasses.replace(backend.door, _client=None)
        return DockerBackend(backend.cluster, backend.folder, backend.installation, door)

    def out_of_reach(self) -> Backend:
        cluster = Cluster(id="off", name="off", backend="docker", config={"host": "unix:///nonexistent/docker.sock"})
        return ENGINE.create(cluster, Path("/nonexistent"), INSTALLATION)

    def test_an_image_without_python_is_refused_with_what_to_do(self, backend: DockerBackend, server: RunnerServer) -> None:
        request = dataclasses.replace(self.request(backend, server, ["true"], "bare"), image=BARE_IMAGE)
        with pytest.raises(LaunchError, match="has no Python") as caught:
            backend.launch(request)
        assert "apt-get install" in caught.value.hint
        assert backend.native(make_handle(request.attempt, 0))["id"] == ""

    def test_an_image_that_nobody_has_is_told_at_the_next_look(self, backend: DockerBackend, server: RunnerServer) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # a registry that answers nothing, until it is gone
            image = f"127.0.0.1:{silent.getsockname()[1]}/no/such:9"
            request = dataclasses.replace(self.request(backend, server, ["true"], "none"), image=image)
            handle = backend.launch(request)
            assert handle in backend.owned()
        self.wait_for(backend, handle, ObservedState.GONE)
        with pytest.raises(LaunchError, match=image):
            backend.launch(request)

    def test_an_image_of_a_registry_with_a_login_is_pulled(
        self, backend: DockerBackend, server: RunnerServer, registry: Any, docker_engine: Any, tmp_path: Path
    ) -> None:
        image, login = registry.name("private/python:1"), {"registry_user": USER, "registry_password": PASSWORD}
        with contextlib.suppress(subprocess.CalledProcessError):  # an earlier try may have pulled it
            docker_engine.run("rmi", "--force", image)
        for config, is_let_in in (({}, False), ({**login, "registry_password": "wrong-one"}, False), (login, True)):
            asked = dict(backend.cluster.config) | config
            asking = DockerBackend(
                dataclasses.replace(backend.cluster, config=asked), tmp_path, INSTALLATION, dataclasses.replace(backend.door)
            )
            request = dataclasses.replace(self.request(asking, server, ["echo", "in"], "login"), image=image)
            handle = asking.launch(request)
            if not is_let_in:
                self.wait_for(asking, handle, ObservedState.GONE)
                with pytest.raises(LaunchError, match="registry") as caught:
                    asking.launch(request)
                assert "--registry-password" in caught.value.hint
                assert "wrong-one" not in str(caught.value) + caught.value.hint
                continue
            with self.launched(asking, request):
                told = server.wait(request.attempt, "ended", 60.0)
                assert b"Pulled image " + image.encode() in told.log
                assert b"sha256:" in told.log
                assert told.log.endswith(b"in\n")
                event = json.loads(server.of(request.attempt).events)
                assert (event["kind"], "sha256:" in event["digest"]) == ("image", True)
                assert PASSWORD not in str(asking.native(handle)) + told.log.decode()

    def test_what_a_run_leaves_in_the_cache_reaches_its_own_project_alone(
        self, backend: DockerBackend, server: RunnerServer
    ) -> None:
        look = f"ls {container.CACHE}/environments 2>/dev/null; echo seen"
        leave = f"mkdir -p {container.CACHE}/environments/left"
        for number, (project, code, says) in enumerate(
            (
                ("one", leave, b""),
                ("two", look, b"seen\n"),
                ("one", f"{look}; rm -r {container.CACHE}/environments/left", b"left\nseen\n"),
            )
        ):
            request = dataclasses.replace(self.request(backend, server, ["sh", "-c", code], f"kept{number}"), project=project)
            with self.launched(backend, request):
                assert server.wait(request.attempt, "ended").log == says

    def test_what_a_run_overrides_holds(self, backend: DockerBackend, server: RunnerServer) -> None:
        script = "import os, resource as r; print(os.getuid(), r.getrlimit(r.RLIMIT_NOFILE)[0], os.statvfs('/dev/shm').f_blocks)"
        request = self.request(backend, server, ["python3", "-c", script], "override")
        asked = {"user": "1234:1234", "ulimits": ["nofile=123:456", "nproc=20000:20000"], "shm_size": "32MiB"}
        with self.launched(backend, dataclasses.replace(request, overrides=asked)):
            assert server.wait(request.attempt, "ended").log == b"1234 123 8192\n"  # pages of 4 KiB
        other = self.request(backend, server, ["true"], "wrong")
        for wrong in ({"privileged": True}, {"user": "root"}, {"network": "container:x"}, {"shm_size": "lots"}, {"ulimits": "x"}):
            with pytest.raises(LaunchError):
                backend.launch(dataclasses.replace(other, overrides=wrong))

    def test_it_has_no_more_cpu_than_it_was_given(self, backend: DockerBackend, server: RunnerServer) -> None:
        """What the kernel was told of its control group, not what the engine was asked for."""
        for milli in (500, 1500):
            granted = Granted(cpu_milli=milli, memory_bytes=64 << 20)
            request = self.request(backend, server, SLEEP, f"cpu{milli}", granted)
            with self.launched(backend, request):
                server.wait(request.attempt, "running")
                pid = backend.door.inspect(f"mainspring-{request.attempt}.0")["State"]["Pid"]
                assert cpus_of(pid) == milli / 1000

    def test_a_mount_for_reading_is_not_written_to_whatever_its_name(
        self, backend: DockerBackend, server: RunnerServer, tmp_path: Path
    ) -> None:
        here = tmp_path / 'data  of $HOME\'s "lab"'
        here.mkdir()
        (here / "there").write_text("read")
        mounts = [f"{here}:/in of:ro", f"{here}:/out"]
        mounted = dataclasses.replace(backend.cluster, config={**backend.cluster.config, "mounts": mounts})
        asking = DockerBackend(mounted, tmp_path, INSTALLATION, dataclasses.replace(backend.door))
        script = "cat '/in of/there'; echo x 2>/dev/null >'/in of/new' || echo refused; echo written >/out/new"
        request = self.request(asking, server, ["sh", "-c", script], "mounts")
        with self.launched(asking, request):
            assert server.wait(request.attempt, "ended").log == b"readrefused\n"
        assert (here / "new").read_text() == "written\n"

    def test_whatever_people_call_a_run_it_is_found_by_its_own_marks(self, backend: DockerBackend, server: RunnerServer) -> None:
        name = 'a\n"b" $(c) \u2028 ☃ --privileged'
        mine = {"mainspring.attempt": "att-of-others", "mainspring.installation": "others", "team": "a=b,c"}
        request = dataclasses.replace(self.request(backend, server, SLEEP, "named"), name=name, owner=name, labels=mine)
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            labels = backend.door.inspect(f"mainspring-{request.attempt}.0")["Config"]["Labels"]
            assert (labels["mainspring.name"], labels["team"]) == (name, "a=b,c")
            assert handle in backend.owned()

    def test_the_token_is_in_no_listing(self, backend: DockerBackend, server: RunnerServer) -> None:
        request = self.request(backend, server, SLEEP, "token")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            told = backend.door.inspect(f"mainspring-{request.attempt}.0")
            assert request.token not in str(told)
            assert str(backend.native(handle)["digest"])


def cpus_of(pid: int) -> float:
    """Return how many CPUs the control group of a process may use, of either version."""
    groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    found = next((path for names, path in groups.items() if "cpu" in names.split(",")), None)
    if found is None:
        quota, period = (Path("/sys/fs/cgroup", groups[""].lstrip("/")) / "cpu.max").read_text().split()
    else:
        group = Path("/sys/fs/cgroup/cpu", found.lstrip("/"))
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return int(quota) / int(period)


class TestDocker(Containers):
    @pytest.fixture
    def backend(self, docker_engine: Any, tmp_path: Path) -> DockerBackend:
        return make(docker_engine, tmp_path)

    def test_a_container_on_a_bridge_needs_an_address(self, docker_engine: Any, tmp_path: Path) -> None:
        backend = make(docker_engine, tmp_path, network="bridge")
        assert backend.capabilities.needs_network
        here = RunnerServer()
        request = self.request(backend, here, ["true"], "bridge")
        with pytest.raises(LaunchError, match="loopback alone"):
            backend.launch(request)
        here.close()
        reached = RunnerServer(docker_engine.address)
        request = self.request(backend, reached, ["sh", "-c", "echo over the bridge"], "bridged")
        with self.launched(backend, request):
            assert reached.wait(request.attempt, "ended").log == b"over the bridge\n"
        reached.close()

    def test_on_an_internal_network_the_server_is_reached(self, docker_engine: Any, tmp_path: Path) -> None:
        """Docker's firewall keeps containers in there (not this Docker's, which may write no rules); no run can ask to be out."""
        name = f"sealed-{os.getpid()}"
        docker_engine.run("network", "create", "--internal", name)
        told = docker_engine.run("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", name)
        reached = RunnerServer(told.strip())
        try:
            backend = make(docker_engine, tmp_path, network=name)
            assert backend.probe().is_ready
            request = self.request(backend, reached, ["sh", "-c", "echo sealed"], "sealed")
            with self.launched(backend, request):
                assert reached.wait(request.attempt, "ended").log == b"sealed\n"
            with pytest.raises(LaunchError, match="administrator has set network"):
                backend.launch(dataclasses.replace(request, attempt=AttemptId("att-out"), overrides={"network": "host"}))
        finally:
            reached.close()
            docker_engine.run("network", "rm", name)

    def test_the_driver_of_this_machine_is_told(
        self, docker_engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not make(docker_engine, tmp_path).probe().facts["driver"]
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 550.54\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert make(docker_engine, tmp_path).probe().facts["driver"] == "550.54"


class TestPodman(Containers):
    @pytest.fixture
    def backend(self, podman_engine: Any, tmp_path: Path) -> DockerBackend:
        return make(podman_engine, tmp_path)


class Improper(BaseHTTPRequestHandler):
    """An engine that answers as podman does when a container has ended and is not yet cleaned up."""

    said = ""

    def do_GET(self) -> None:
        self.answer(200, {"ApiVersion": "1.41"})

    def do_POST(self) -> None:
        self.answer(500, {"message": self.said})

    def answer(self, status: int, told: dict[str, str]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_container_that_ended_as_it_was_killed_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Improper)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    door = Door(host=f"tcp://127.0.0.1:{server.server_port}", program="podman")
    try:
        for said in (
            "can only kill running containers. ab12 is in state stopped: container state improper",
            "container state improper: stopped",
        ):
            monkeypatch.setattr(Improper, "said", said)
            door.kill("ab12", "SIGKILL")
        for said in ("runtime is locked", "can only attach to created or running containers: container state improper"):
            monkeypatch.setattr(Improper, "said", said)
            with pytest.raises(UnsettledError, match=said):
                door.kill("ab12", "SIGKILL")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("is_cdi", [False, True])
def test_real_devices_are_asked_for_exactly_and_declared_ones_are_not(tmp_path: Path, is_cdi: bool) -> None:
    real = tuple(Device(index=number, uuid=f"GPU-{number}") for number in range(4))
    node = Node(id="n", cluster="c", name="n", cpu_milli=1000, memory_bytes=1, devices=real)
    granted = Granted(
        cpu_milli=2000, memory_bytes=1, devices=(DeviceShare(index=1, milli=1000), DeviceShare(index=3, milli=1000))
    )
    request = LaunchRequest(
        installation="i", attempt=AttemptId("a"), run=RunId("r"), replica=0, node=node, granted=granted, server_url="", token=""
    )
    asked = host_config(request, wishes_of({}, {}), network="host", cpus=1, volume="v", is_cdi=is_cdi)
    names = ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-3"] if is_cdi else ["GPU-1", "GPU-3"]
    assert asked["device_requests"][0]["DeviceIDs"] == names
    assert asked["cpu_quota"] == 100_000, "more than the machine has cannot be granted"
    assert device_env(node, [1, 3])["CUDA_VISIBLE_DEVICES"] == "0,1", "inside they are numbered anew"
    declared = dataclasses.replace(node, devices=tuple(dataclasses.replace(one, declared=True) for one in real))
    declared_request = dataclasses.replace(request, node=declared)
    assert "device_requests" not in host_config(declared_request, wishes_of({}, {}), network="host", cpus=1, volume="v")
    assert device_env(declared, [1, 3])["CUDA_VISIBLE_DEVICES"] == "1,3"


@pytest.mark.parametrize("word", ["relative:/there", "/here", "/here:there", "/here:/there:x", "/a:/b:ro:z"])
def test_a_mount_that_is_none_is_refused(word: str) -> None:
    node = Node(id="n", cluster="c", name="n", cpu_milli=1, memory_bytes=1)
    granted = Granted(cpu_milli=1, memory_bytes=1)
    request = LaunchRequest(
        installation="i", attempt=AttemptId("a"), run=RunId("r"), replica=0, node=node, granted=granted, server_url="", token=""
    )
    with pytest.raises(LaunchError, match="Mount"):
        host_config(request, wishes_of({"mounts": [word]}, {}), network="host", cpus=1, volume="v")


def test_what_the_administrator_set_stands() -> None:
    assert wishes_of({"user": "1234"}, {}).user == "1234"
    for name, value in (("user", "0:0"), ("network", "host")):
        with pytest.raises(LaunchError, match="administrator"):
            wishes_of({"user": "1234", "network": "bridge"}, {name: value})
    with pytest.raises(LaunchError, match="without any network"):
        wishes_of({}, {"network": "none"})
