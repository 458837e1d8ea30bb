"""The Kubernetes backend passes the shipped contract against a real cluster, as a user who has one Role in one name space."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from engines.kubernetes.cluster import IMAGE

from mainspring.backends.kubernetes import rights
from mainspring.backends.kubernetes.backend import KubernetesBackend
from mainspring.core.backend import Backend, Handle, LaunchRequest, Observation, ObservedState
from mainspring.core.records import Cause, Cluster
from mainspring.core.resources import Granted
from mainspring.testing.backend import SLEEP, BackendContract
from mainspring.testing.server import RunnerServer

ROLE = "/apis/rbac.authorization.k8s.io/v1"
LIMIT_S = 60.0  # a pod takes seconds on a busy machine
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


@pytest.fixture(scope="module")
def space(kubernetes: Any) -> Iterator[str]:
    """A name space of this module's own."""
    name = f"team-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    make_space(kubernetes, name)
    yield name
    kubernetes.ask("DELETE", f"/api/v1/namespaces/{name}")


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
    made = RunnerServer(kubernetes.address)
    yield made
    made.close()


class Slow(BackendContract):
    """The contract's hands, with the patience that pods need."""

    @pytest.fixture(autouse=True)
    def _same_installation(self, backend: KubernetesBackend) -> None:
        self.installation = backend.installation

    def request(
        self, backend: Backend, server: RunnerServer, command: Sequence[str], name: str, granted: Granted | None = None
    ) -> LaunchRequest:
        return super().request(backend, server, command, name, granted or SMALL)

    def wait_for(self, backend: Backend, handle: Handle, state: ObservedState) -> Observation:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            seen = backend.observe([handle])[0]
            if seen.state is state:
                return seen
            time.sleep(0.1)
        raise AssertionError(f"{handle.attempt} was not seen {state} within {LIMIT_S:g} s: {seen}")


class TestContract(Slow):
    @pytest.fixture
    def server(self, kubernetes: Any) -> Iterator[RunnerServer]:
        made = RunnerServer(kubernetes.address)
        yield made
        made.close()

    def kill_runner(self, backend: Backend, handle: Handle) -> None:
        os.kill(runner_of(handle), signal.SIGKILL)

    def test_a_dead_runner_is_started_again_to_report_and_nothing_else(self, backend: Backend, server: RunnerServer) -> None:
        """The runner that follows sends what is left; the end is told by the backend."""
        request = self.request(backend, server, SLEEP, "drain")
        with self.launched(backend, request) as handle:
            server.wait(request.attempt, "running")
            self.kill_runner(backend, handle)
            self.wait_for(backend, handle, ObservedState.GONE)
            record = backend.read_exit(handle)
            assert record is not None
            assert (record.outcome.cause, record.is_final) == (Cause.NODE_LOST, True)
            assert backend.launch(request) == handle
            self.wait_for(backend, handle, ObservedState.GONE)
            assert (server.of(request.attempt).was_started, server.of(request.attempt).log) == (1, b"begun\n")


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
