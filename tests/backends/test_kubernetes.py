"""The Kubernetes backend passes the shipped contract against a real cluster, as a user who has one Role in one name space."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from engines.kubernetes.cluster import IMAGE, NODE
from engines.sharing import free_ports
from engines.waiting import until

from mainspring.backends.kubernetes import pods, rights
from mainspring.backends.kubernetes.api import MERGE_PATCH, Api
from mainspring.backends.kubernetes.backend import KubernetesBackend
from mainspring.backends.kubernetes.places import find_place
from mainspring.core.backend import Backend, Handle, LaunchRequest, Observation, ObservedState
from mainspring.core.errors import CredentialsError, LaunchError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import Cause, Cluster, Node, NodeState, Outcome
from mainspring.core.resources import DeviceShare, Granted
from mainspring.testing.backend import SLEEP, BackendContract
from mainspring.testing.server import RunnerServer, Told

ROLE = "/apis/rbac.authorization.k8s.io/v1"
LIMIT_S = 180.0  # only to end what hangs: a pod takes seconds, on a busy machine some more
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),  # what pods hold is counted: two at once would see each other's
]
DRIVER = {"cuda.driver.major": "550", "cuda.driver.minor": "54", "cuda.driver.rev": "15"}
SMALL = Granted(cpu_milli=250, memory_bytes=128 << 20)


def make_space(cluster: Any, name: str, user: str = "team") -> None:
    """Make a name space in which `user` has the Role that the backend prints, and restricted pods only may be."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    cluster.ask("POST", f"{ROLE}/namespaces/{name}/roles", yaml.safe_load(rights.role(name)))
    binding = {
        "metadata": {"name": "mainspring"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "mainspring"},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
    }
    cluster.ask("POST", f"{ROLE}/namespaces/{name}/rolebindings", binding)


@contextmanager
def own_space(cluster: Any, kind: str) -> Iterator[str]:
    """Have a name space, called after who wants it, with that Role for the user `team`; at the end all in it is gone at once."""
    name = f"{kind}-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    make_space(cluster, name)
    yield name
    cluster.empty(name)
    cluster.ask("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="module")
def space(kubernetes: Any) -> Iterator[str]:
    """A name space of this module's own."""
    with own_space(kubernetes, "team") as name:
        yield name


@pytest.fixture(scope="module")
def nodes_seen(kubernetes: Any) -> Iterator[None]:
    """Let the team see nodes and everybody's pods."""
    name = f"nodes-{os.getpid()}"
    rules = [{"apiGroups": [group], "resources": [resource], "verbs": list(verbs)} for group, resource, verbs in rights.OPTIONAL]
    kubernetes.ask("POST", f"{ROLE}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    subject = {"kind": "User", "name": "team", "apiGroup": "rbac.authorization.k8s.io"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    body = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
    kubernetes.ask("POST", f"{ROLE}/clusterrolebindings", body)
    yield
    kubernetes.ask("DELETE", f"{ROLE}/clusterrolebindings/{name}")
    kubernetes.ask("DELETE", f"{ROLE}/clusterroles/{name}")


def make_backend(kubernetes: Any, space: str, folder: Path, **config: object) -> KubernetesBackend:
    """Return a backend that is the unprivileged user `team`."""
    config = {"kubeconfig": kubernetes.kubeconfig("team", space), "image": IMAGE, **config}
    installation = f"conf{os.getpid()}x{time.monotonic_ns():x}"
    return KubernetesBackend(Cluster(id="k", name="k", backend="kubernetes", config=config), folder, installation)


@pytest.fixture
def backend(kubernetes: Any, space: str, nodes_seen: None, tmp_path: Path) -> KubernetesBackend:
    return make_backend(kubernetes, space, tmp_path)


@pytest.fixture
def server(kubernetes: Any) -> Iterator[RunnerServer]:
    """A server at the address of this machine that pods reach."""
    made = PatientServer(kubernetes.address)
    yield made
    made.close()


class PatientServer(RunnerServer):
    """Waits as long as a pod may take on a busy machine."""

    def wait(self, attempt: str, state: str, timeout_s: float = LIMIT_S, replica: int = 0) -> Told:
        return super().wait(attempt, state, timeout_s, replica)


class TestContract(BackendContract):
    @pytest.fixture
    def server(self, kubernetes: Any) -> Iterator[RunnerServer]:
        made = PatientServer(kubernetes.address)
        yield made
        made.close()

    @pytest.fixture(autouse=True)
    def _same_installation(self, backend: KubernetesBackend) -> None:
        self.installation = backend.installation

    def request(
        self, backend: Backend, server: RunnerServer, command: Sequence[str], name: str, granted: Granted | None = None
    ) -> LaunchRequest:
        return replace(super().request(backend, server, command, name, granted or SMALL), node=real_node(backend))

    def wait_for(self, backend: Backend, handle: Handle, state: ObservedState) -> Observation:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            seen = backend.observe([handle])[0]
            if seen.state is state:
                return seen
            time.sleep(0.1)
        raise AssertionError(f"{handle.attempt} was not seen {state} within {LIMIT_S:g} s: {seen}")

    @pytest.fixture(autouse=True)
    def _others(self, kubernetes: Any, tmp_path: Path) -> None:
        """Prepare what `out_of_reach` and `shut_out` need: they take no fixtures."""
        (port,) = free_ports(1)
        text = Path(kubernetes.kubeconfig("team", "default")).read_text()
        (tmp_path / "away").write_text(text.replace(kubernetes.url, f"https://127.0.0.1:{port}"))
        (tmp_path / "expired").write_text(text.replace(kubernetes.tokens["team"], "expired"))
        self.folder = tmp_path

    def out_of_reach(self) -> KubernetesBackend:
        return lost(self.folder / "away")

    def shut_out(self) -> KubernetesBackend:
        return lost(self.folder / "expired")

    def reborn(self, backend: Backend) -> KubernetesBackend:
        assert isinstance(backend, KubernetesBackend)
        return KubernetesBackend(backend.cluster, backend.folder, backend.installation)

    def kill_runner(self, backend: Backend, handle: Handle) -> None:
        os.kill(runner_of(handle), signal.SIGKILL)

    def test_a_dead_runner_is_started_again_to_report_and_nothing_else(self, backend: Backend, server: RunnerServer) -> None:
        """The runner that follows sends what is left; the end is told by the backend."""
        request = self.request(backend, server, SLEEP, "drain")
        with self.launched(backend, request) as handle:
            server.wait_said(request.attempt, b"begun", timeout_s=LIMIT_S)
            self.kill_runner(backend, handle)
            self.wait_for(backend, handle, ObservedState.GONE)
            record = backend.read_exit(handle)
            assert record is not None
            assert (record.outcome.cause, record.is_final) == (Cause.NODE_LOST, True)
            assert backend.launch(request) == handle
            self.wait_for(backend, handle, ObservedState.GONE)
            assert (server.of(request.attempt).was_started, server.of(request.attempt).log) == (1, b"begun\n")

    def outcome(self, backend: KubernetesBackend, handle: Handle) -> Outcome:
        """Return how the backend says that it ended."""
        self.wait_for(backend, handle, ObservedState.GONE)
        record = backend.read_exit(handle)
        assert record is not None
        return record.outcome

    def test_out_of_memory_is_told(self, backend: KubernetesBackend, server: RunnerServer) -> None:
        command = ["python3", "-c", "print('begun', flush=True); x = b'x' * (400 << 20)"]
        request = self.request(backend, server, command, "oom")
        with self.launched(backend, request) as handle:
            outcome = self.outcome(backend, handle)
            assert outcome.cause is Cause.OUT_OF_MEMORY
            assert server.of(request.attempt).log.startswith(b"begun\n")

    def test_a_pod_that_somebody_deletes_is_never_followed_by_another(
        self, backend: KubernetesBackend, server: RunnerServer, kubernetes: Any
    ) -> None:
        """As a drained node or a spot machine does it: user code has its grace, and the run is tried again elsewhere."""
        script = "trap 'echo told; exit 0' TERM; echo begun; sleep 300 & wait"
        request = self.request(backend, server, ["sh", "-c", script], "evicted")
        with self.launched(backend, request) as handle:
            server.wait_said(request.attempt, b"begun", timeout_s=LIMIT_S)
            (pod,) = pods_of(backend, handle)
            kubernetes.ask("DELETE", f"/api/v1/namespaces/{handle.data['namespace']}/pods/{pod['metadata']['name']}")
            told = server.wait(request.attempt, "ended", LIMIT_S)
            assert told.exit is not None
            assert (told.exit["cause"], told.log) == (Cause.PREEMPTED, b"begun\ntold\n")
            self.wait_for(backend, handle, ObservedState.GONE)
            until(lambda: pods_of(backend, handle) == [])
            assert told.was_started == 1

    def test_a_job_that_somebody_deletes_is_lost(self, backend: KubernetesBackend, server: RunnerServer, kubernetes: Any) -> None:
        """Its pod had not begun: a runner that has is told to end, and says so itself."""
        request = replace(self.request(backend, server, SLEEP, "deleted"), overrides={"schedulerName": "nobody"})
        with self.launched(backend, request) as handle:
            path = f"/apis/batch/v1/namespaces/{handle.data['namespace']}/jobs/{handle.data['job']}"
            kubernetes.ask("DELETE", path, {"propagationPolicy": "Background", "gracePeriodSeconds": 0})
            assert self.outcome(backend, handle).cause is Cause.NODE_LOST

    def test_an_image_that_is_not_there_is_told(
        self, backend: KubernetesBackend, server: RunnerServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pods, "WEDGED_S", 0.0)
        request = replace(self.request(backend, server, SLEEP, "image"), image="mainspring.invalid/none:1")
        with self.launched(backend, request) as handle:
            outcome = self.outcome(backend, handle)
            assert outcome.cause is Cause.LAUNCH_FAILED
            assert "mainspring.invalid/none:1" in outcome.message

    def test_an_image_without_python_is_told(self, backend: KubernetesBackend, server: RunnerServer) -> None:
        overrides = {"containers": [{"name": "run", "env": [{"name": "PATH", "value": "/nowhere"}]}]}
        request = replace(self.request(backend, server, SLEEP, "nopython"), overrides=overrides)
        with self.launched(backend, request) as handle:
            outcome = self.outcome(backend, handle)
            assert (outcome.cause, "no Python 3.9" in outcome.message) == (Cause.LAUNCH_FAILED, True)

    def test_no_place_is_told_and_then_given_up(
        self, backend: KubernetesBackend, server: RunnerServer, kubernetes: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = self.request(backend, server, SLEEP, "huge", Granted(cpu_milli=900_000, memory_bytes=0))
        with self.launched(backend, request) as handle:
            until(lambda: "Insufficient cpu" in backend.observe([handle])[0].detail)
            assert "FailedScheduling: 0/" in kubernetes.told(), "what a test that fails would print"
            monkeypatch.setattr(pods, "UNPLACED_S", 0.0)
            outcome = self.outcome(backend, handle)
            assert (outcome.cause, "no place" in outcome.message) == (Cause.LAUNCH_FAILED, True)

    def test_gpus_are_asked_for_by_count_and_others_are_taken_off(
        self, backend: KubernetesBackend, server: RunnerServer, kubernetes: Any, space: str
    ) -> None:
        two = tuple(DeviceShare(index=index, milli=1000) for index in (6, 7))
        request = self.request(backend, server, SLEEP, "gpus", replace(SMALL, devices=two))
        assert [device.index for device in request.node.devices] == list(range(8))
        foreign = foreign_pod("stranger", {"cpu": "100m", "memory": "64Mi", "nvidia.com/gpu": "3"})
        kubernetes.ask("POST", "/api/v1/namespaces/default/pods", foreign)
        try:
            with self.launched(backend, request) as handle:
                server.wait(request.attempt, "running", LIMIT_S)
                (pod,) = pods_of(backend, handle)
                limits = pod["spec"]["containers"][0]["resources"]["limits"]
                assert limits == {"cpu": "250m", "memory": "128Mi", "nvidia.com/gpu": "2"} | {"memory": limits["memory"]}
                until(lambda: len(backend.inventory().nodes[0].devices) == 5)
                node = backend.inventory().nodes[0]
                assert [device.index for device in node.devices] == [0, 1, 2, 6, 7]
                assert request.node.cpu_milli - node.cpu_milli == 100
                assert request.node.memory_bytes - node.memory_bytes == 64 << 20
        finally:
            kubernetes.ask("DELETE", "/api/v1/namespaces/default/pods/stranger", {"gracePeriodSeconds": 0})

    @pytest.mark.parametrize(
        ("name", "labels", "mib"),
        [
            ("mig-1g.10gb", {"mig-1g.10gb.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", "mig-1g.10gb.memory": "9856"}, 9856),
            ("gpu.shared", {"gpu.product": "NVIDIA-A10", "gpu.memory": "23028", "gpu.replicas": "7", **DRIVER}, 23028 / 7),
        ],
    )
    def test_slices_are_the_gpus_of_a_cluster_that_is_registered_for_them(
        self,
        name: str,
        labels: dict[str, str],
        mib: float,
        backend: KubernetesBackend,
        server: RunnerServer,
        kubernetes: Any,
        space: str,
        tmp_path: Path,
    ) -> None:
        """MIG, and devices that the plug-in shares: by `--gpu-resource` a node's slices are counted, less those that others
        hold; whole GPUs stay what they were. The labels are those of NVIDIA's feature discovery.
        """
        name, node = f"nvidia.com/{name}", f"/api/v1/nodes/{NODE}"
        labels = {f"nvidia.com/{key}": value for key, value in labels.items()}
        product = next(value for key, value in labels.items() if key.endswith(".product"))
        paths = [f"/status/{of}/{name.replace('/', '~1')}" for of in ("capacity", "allocatable")]
        have = [{"op": "add", "path": path, "value": "7"} for path in paths]
        kubernetes.ask("PATCH", f"{node}/status", have, "application/json-patch+json")
        kubernetes.ask("PATCH", node, {"metadata": {"labels": labels}}, MERGE_PATCH)
        try:
            made = make_backend(kubernetes, space, tmp_path, gpu_resource=name)
            self.installation = made.installation
            slices = real_node(made).devices
            assert [(one.model, one.memory_bytes) for one in slices] == [(product, int(mib * 2**20))] * 7
            foreign = foreign_pod("stranger", {"cpu": "100m", "memory": "64Mi", name: "3"})
            kubernetes.ask("POST", "/api/v1/namespaces/default/pods", foreign)
            until(lambda: len(real_node(made).devices) == 4)
            assert len(real_node(backend).devices) == 8, "the others are another cluster's"
            assert made.probe().facts.get("driver") == ("550.54.15" if name.endswith("shared") else None)
            two = tuple(DeviceShare(index=index, milli=1000) for index in (0, 1))
            request = self.request(made, server, ["sh", "-c", "echo in a slice"], "mig", replace(SMALL, devices=two))
            with self.launched(made, request) as handle:
                assert server.wait(request.attempt, "ended", LIMIT_S).log == b"in a slice\n"
                (pod,) = pods_of(made, handle)
                assert (pod["spec"]["nodeName"], pod["spec"]["containers"][0]["resources"]["limits"][name]) == (NODE, "2")
        finally:
            kubernetes.ask("DELETE", "/api/v1/namespaces/default/pods/stranger", {"gracePeriodSeconds": 0})
            gone = [{"op": "remove", "path": path} for path in paths]
            kubernetes.ask("PATCH", f"{node}/status", gone, "application/json-patch+json")
            kubernetes.ask("PATCH", node, {"metadata": {"labels": dict.fromkeys(labels)}}, MERGE_PATCH)

    def test_any_field_can_be_overridden(self, backend: KubernetesBackend, server: RunnerServer) -> None:
        overrides: dict[str, object] = {
            "terminationGracePeriodSeconds": 77,
            "labels": {"team": "blue"},
            "containers": [{"name": "run", "env": [{"name": "COLOUR", "value": "a b"}]}],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "uid": 4321,
        }
        request = replace(self.request(backend, server, ["sh", "-c", "echo $COLOUR; id -u"], "fields"), overrides=overrides)
        with self.launched(backend, request) as handle:
            assert server.wait(request.attempt, "ended", LIMIT_S).log == b"a b\n4321\n"
            (pod,) = pods_of(backend, handle)
            assert (pod["spec"]["terminationGracePeriodSeconds"], pod["metadata"]["labels"]["team"]) == (77, "blue")
        with pytest.raises(LaunchError, match="'node_selector'"):
            backend.launch(replace(request, attempt=AttemptId(f"{request.attempt}x"), overrides={"nodeselector": {}}))

    def test_what_the_cluster_does_not_allow_is_refused(self, backend: KubernetesBackend, server: RunnerServer) -> None:
        """The name space enforces the restricted standard: the Job is taken, its pod is not, and it says so."""
        request = replace(self.request(backend, server, SLEEP, "hostnet"), overrides={"hostNetwork": True})
        with self.launched(backend, request) as handle:
            until(lambda: "violates PodSecurity" in backend.observe([handle])[0].detail)
        with pytest.raises(LaunchError):
            backend.launch(
                replace(self.request(backend, server, SLEEP, "wrong"), overrides={"restartPolicy": "x", "hostname": 1})
            )

    def test_where_nodes_may_not_be_read_the_quota_stands_for_them(
        self, kubernetes: Any, tmp_path: Path, server: RunnerServer
    ) -> None:
        name = f"quota-{os.getpid()}-{time.monotonic_ns() % 10**9}"
        make_space(kubernetes, name, user="nobody")
        config = {"kubeconfig": kubernetes.kubeconfig("nobody", name), "image": IMAGE}
        made = KubernetesBackend(Cluster(id="q", name="q", backend="kubernetes", config=config), tmp_path, self.installation)
        try:
            seen = made.probe()
            assert (seen.is_ready, "--cpus" in seen.notices[0].command) == (False, True)
            hard = {"requests.cpu": "3", "limits.memory": "2Gi", "requests.nvidia.com/gpu": "4", "pods": "10"}
            quota = {"metadata": {"name": "all"}, "spec": {"hard": hard}}
            kubernetes.ask("POST", f"/api/v1/namespaces/{name}/resourcequotas", quota)
            assert made.probe().is_ready
            (node,) = made.inventory().nodes
            assert (node.cpu_milli, node.memory_bytes, len(node.devices)) == (3000, 2 << 30, 4)
            request = self.request(made, server, ["sh", "-c", "echo here"], "quota")
            with self.launched(made, request):
                assert server.wait(request.attempt, "ended", LIMIT_S).log == b"here\n"
            modest = Granted(cpu_milli=250, memory_bytes=0)  # a quota for limits takes no pod that names none
            request = self.request(made, server, ["sh", "-c", "echo here"], "part", modest)
            with self.launched(made, request) as handle:
                assert server.wait(request.attempt, "ended", LIMIT_S).log == b"here\n"
                (pod,) = pods_of(made, handle)
                limits = pod["spec"]["containers"][0]["resources"]["limits"]
                assert limits == {"cpu": "250m", "memory": str((2 << 30) * 250 // 3000)}
        finally:
            kubernetes.empty(name)
            kubernetes.ask("DELETE", f"/api/v1/namespaces/{name}")


class TestNodes:
    """A node that exists by our word only: its pods are what we say."""

    @pytest.fixture
    def fake(self, kubernetes: Any) -> Iterator[str]:
        name = f"fake-{os.getpid()}"
        body = {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}
        kubernetes.ask("POST", "/api/v1/nodes", body)
        has = {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"}
        patch_status(kubernetes, f"/api/v1/nodes/{name}", {"allocatable": has, "capacity": has, **ready("True")})
        yield name
        kubernetes.ask("DELETE", f"/api/v1/nodes/{name}")

    def test_a_lost_node_says_nothing_about_its_pods(self, backend: KubernetesBackend, kubernetes: Any, fake: str) -> None:
        node = next(one for one in backend.inventory().nodes if one.name == fake)
        assert (node.cpu_milli, node.state) == (4000, NodeState.READY)
        handle = backend.launch(plain_request(backend, node))
        try:
            until(lambda: [one["spec"].get("nodeName") for one in pods_of(backend, handle)] == [fake])
            (pod,) = pods_of(backend, handle)
            path = f"/api/v1/namespaces/{handle.data['namespace']}/pods/{pod['metadata']['name']}"
            running = {"name": "run", "state": {"running": {}}, "ready": True, "restartCount": 0, "image": "", "imageID": ""}
            patch_status(kubernetes, path, {"phase": "Running", "containerStatuses": [running]})
            until(lambda: backend.observe([handle])[0].detail == f"Running on {fake}")
            patch_status(kubernetes, f"/api/v1/nodes/{fake}", ready("Unknown"))
            backend._silent = (0.0, ())  # what is known of nodes may be some seconds old
            seen = backend.observe([handle])[0]
            assert (seen.state, fake in seen.detail) == (ObservedState.UNKNOWN, True)
            states = {one.name: one.state for one in backend.inventory().nodes}
            assert (states[fake], states["n1"]) == (NodeState.UNREACHABLE, NodeState.READY)
            patch_status(kubernetes, f"/api/v1/nodes/{fake}", ready("True"))
            backend._silent = (0.0, ())
            assert backend.observe([handle])[0].state is ObservedState.RUNNING
            kubernetes.ask("DELETE", path, {"gracePeriodSeconds": 0})
            until(lambda: backend.observe([handle])[0].state is ObservedState.GONE)
        finally:
            backend.forget(handle)

    def test_a_label_that_a_node_is_given_is_seen_and_may_be_wanted(
        self, backend: KubernetesBackend, kubernetes: Any, fake: str
    ) -> None:
        def labels() -> dict[str, str]:
            return dict(next((one.labels for one in backend.inventory().nodes if one.name == fake), {}))

        assert "disk" not in labels()
        for label, seen in (({"disk": "ssd"}, "ssd"), ({"disk": "nvme"}, "nvme"), ({"disk": None}, None)):
            kubernetes.ask("PATCH", f"/api/v1/nodes/{fake}", {"metadata": {"labels": label}}, MERGE_PATCH)
            assert labels().get("disk") == seen
        backend.cluster = replace(backend.cluster, config={**backend.cluster.config, "node_selector": ["disk=ssd"]})
        assert labels() == {}
        kubernetes.ask("PATCH", f"/api/v1/nodes/{fake}", {"metadata": {"labels": {"disk": "ssd"}}}, MERGE_PATCH)
        assert labels()["disk"] == "ssd"

    def test_kueue_admits_what_waits(
        self, backend: KubernetesBackend, kubernetes: Any, space: str, tmp_path: Path, server: RunnerServer
    ) -> None:
        """With a queue Jobs are suspended until Kueue, here our hand, admits them."""
        made = make_backend(kubernetes, space, tmp_path, queue="lab")
        request = replace(plain_request(made, real_node(made)), server_url=server.url)
        server.jobs[request.attempt] = ["echo", "admitted"]
        handle = made.launch(request)
        try:
            assert "Suspended" in made.observe([handle])[0].detail
            (job,) = cast("list[dict[str, Any]]", made.native(handle)["jobs"])
            assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lab"
            path = f"/apis/batch/v1/namespaces/{space}/jobs/{handle.data['job']}"
            kubernetes.ask("PATCH", path, {"spec": {"suspend": False}}, MERGE_PATCH)
            assert server.wait(request.attempt, "ended").log == b"admitted\n"
        finally:
            made.forget(handle)


def test_the_bridge_of_the_pods_keeps_its_address_as_they_come_and_go(kubernetes: Any) -> None:
    """It would take the lowest of its ports': a pod's connection then stood still for up to half a minute."""
    told = Path(f"/sys/class/net/{kubernetes.bridge}/addr_assign_type").read_text()
    assert told.strip() == "3", "it was not set by anybody"


class TestAccess:
    """Who may not, and what he is told."""

    def test_missing_rights_are_told_with_the_commands_that_give_them(self, kubernetes: Any, tmp_path: Path) -> None:
        config = {"kubeconfig": kubernetes.kubeconfig("nobody", "default")}
        made = KubernetesBackend(Cluster(id="n", name="n", backend="kubernetes", config=config), tmp_path, "inst")
        seen = made.probe()
        assert not seen.is_ready
        assert "create jobs.batch" in seen.notices[0].text
        assert "kind: Role" in seen.notices[0].command
        with pytest.raises(CredentialsError):
            made.observe([Handle(attempt=AttemptId("a"), replica=0, data={"job": "a"})])

    def test_credentials_that_have_expired_are_told(self, kubernetes: Any, tmp_path: Path) -> None:
        text = Path(kubernetes.kubeconfig("team", "default")).read_text().replace(kubernetes.tokens["team"], "expired")
        (tmp_path / "config").write_text(text)
        assert "expired" in lost(tmp_path / "config").probe().notices[0].text

    def test_an_authority_that_is_not_ours_is_told(self, kubernetes: Any, tmp_path: Path) -> None:
        told = yaml.safe_load(Path(kubernetes.kubeconfig("team", "default")).read_text())
        del told["clusters"][0]["cluster"]["certificate-authority"]
        (tmp_path / "config").write_text(yaml.safe_dump(told))
        made = KubernetesBackend(
            Cluster(id="n", name="n", backend="kubernetes", config={"kubeconfig": str(tmp_path / "config")}), tmp_path, "inst"
        )
        assert "certificate that is not trusted" in made.probe().notices[0].text

    def test_an_exec_plug_in_gives_the_token(self, kubernetes: Any, space: str, tmp_path: Path) -> None:
        """As for EKS, GKE and AKS."""
        told = yaml.safe_load(Path(kubernetes.kubeconfig("team", space)).read_text())
        answer = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": kubernetes.tokens["team"]},
        }
        plugin = {"apiVersion": answer["apiVersion"], "command": "echo", "args": [json.dumps(answer)], "interactiveMode": "Never"}
        told["users"][0]["user"] = {"exec": plugin}
        (tmp_path / "config").write_text(yaml.safe_dump(told))
        config = {"kubeconfig": str(tmp_path / "config"), "cpus": 2, "memory": 4}
        made = KubernetesBackend(Cluster(id="n", name="n", backend="kubernetes", config=config), tmp_path, "inst")
        assert made.probe().is_ready

    def test_inside_a_pod_the_service_account_is_taken(
        self, kubernetes: Any, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host, port = kubernetes.url.removeprefix("https://").split(":")
        for name, value in (("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("KUBECONFIG", raising=False)
        files = {"token": kubernetes.tokens["team"], "namespace": space, "ca.crt": Path(kubernetes.authority).read_text()}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        found = find_place({}, service_account=tmp_path)
        assert (found.namespace, found.url) == (space, kubernetes.url)
        assert Api(found).get(f"/apis/batch/v1/namespaces/{space}/jobs")["kind"] == "JobList"


def real_node(backend: Backend) -> Node:
    """Return the node that has a kubelet, else the one that stands for a quota: others exist by some test's word only."""
    there = backend.inventory().nodes
    return next((node for node in there if node.name == NODE), there[0])


def plain_request(backend: KubernetesBackend, node: Node) -> LaunchRequest:
    """Return a request whose runner has nobody to dial."""
    attempt = AttemptId(f"att-plain-{os.getpid()}-{time.monotonic_ns():x}")
    url, token = "http://127.0.0.1:1", "t" * 64
    return LaunchRequest(
        installation=backend.installation,
        attempt=attempt,
        run=RunId("run-1"),
        replica=0,
        node=node,
        granted=SMALL,
        server_url=url,
        token=token,
    )


def patch_status(cluster: Any, path: str, status: dict[str, object]) -> None:
    """Say how an object is, as its kubelet would."""
    cluster.ask("PATCH", f"{path}/status", {"status": status}, MERGE_PATCH)


def ready(status: str) -> dict[str, object]:
    """Return the condition of a node that is, or is not, heard of."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = {
        "type": "Ready",
        "status": status,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
        "reason": "Told",
        "message": "",
    }
    return {"conditions": [told]}


def lost(kubeconfig: Path) -> KubernetesBackend:
    """Return the backend of a kubeconfig that leads nowhere."""
    cluster = Cluster(id="n", name="n", backend="kubernetes", config={"kubeconfig": str(kubeconfig)})
    return KubernetesBackend(cluster, kubeconfig.parent, "inst")


def foreign_pod(name: str, asked: dict[str, str]) -> dict[str, object]:
    """Return a pod of somebody else's."""
    container = {"name": "c", "image": IMAGE, "command": ["sleep", "300"], "resources": {"requests": asked, "limits": asked}}
    return {"metadata": {"name": name}, "spec": {"containers": [container], "automountServiceAccountToken": False}}


def pods_of(backend: KubernetesBackend, handle: Handle) -> list[dict[str, Any]]:
    """Return the pods of a replica."""
    return list(backend.native(handle)["pods"])  # type: ignore[call-overload]


def runner_of(handle: Handle) -> int:
    """Return the pid, on this machine, of a replica's runner."""
    mark = f"MAINSPRING_ATTEMPT={handle.attempt}".encode()
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"runner.zip" in words and mark in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no runner of {handle.attempt}")
