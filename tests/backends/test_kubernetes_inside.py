"""A server that lives in a pod of the cluster: who it is there, by the token that the kubelet gives it and renews."""

from __future__ import annotations

import json
import os
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from engines.kubernetes.cluster import IMAGE
from engines.waiting import until

import mainspring
from mainspring.backends.kubernetes import rights
from mainspring.backends.kubernetes.api import Api
from mainspring.backends.kubernetes.places import SERVICE_ACCOUNT, find_place
from mainspring.core.errors import CredentialsError

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]
ROLE = "/apis/rbac.authorization.k8s.io/v1"
NAME = "mainspring"  # of the pod, and of its account
PROGRAM = """
import json, pathlib, time
from mainspring.backends.kubernetes.backend import KubernetesBackend
from mainspring.core.records import Cluster

config = {"cpus": 2, "memory": 2}
made = KubernetesBackend(Cluster(id="in", name="in", backend="kubernetes", config=config), pathlib.Path("/tmp"), "inst-inside")
while True:
    seen = made.probe()
    print(json.dumps({"ready": seen.is_ready, "facts": dict(seen.facts), "commands": [one.command for one in seen.notices]}), flush=True)
    if seen.is_ready:
        break
    time.sleep(0.5)
print(json.dumps([len(made.inventory().nodes), len(made.owned())]), flush=True)
"""  # noqa: E501 (a program)


@pytest.fixture
def space(kubernetes: Any) -> Iterator[str]:
    """A name space with an account for the server, which has no right yet."""
    name = f"inside-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    kubernetes.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    kubernetes.ask("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": NAME}})
    yield name
    kubernetes.empty(name)
    kubernetes.ask("DELETE", f"/api/v1/namespaces/{name}")


def let_in(kubernetes: Any, space: str) -> None:
    """Give the account the Role that is printed."""
    kubernetes.ask("POST", f"{ROLE}/namespaces/{space}/roles", yaml.safe_load(rights.role(space)))
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": space}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "mainspring"}
    body = {"metadata": {"name": "mainspring"}, "roleRef": role, "subjects": [account]}
    kubernetes.ask("POST", f"{ROLE}/namespaces/{space}/rolebindings", body)


def pod_of(kubernetes: Any) -> dict[str, Any]:
    """Return a pod that runs `PROGRAM` with our packages, on the node's network: this API server listens on loopback alone."""
    host, port = kubernetes.url.removeprefix("https://").split(":")
    folders = {"packages": sysconfig.get_path("purelib"), "sources": str(Path(mainspring.__file__).parents[1])}
    account = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "authority", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "PYTHONPATH": "/sources:/packages", "HOME": "/tmp"}
    container = {
        "name": "server",
        "image": IMAGE,
        "command": ["python3", "-c", PROGRAM],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "volumeMounts": [
            *({"name": name, "mountPath": f"/{name}", "readOnly": True} for name in folders),
            {"name": "account", "mountPath": str(SERVICE_ACCOUNT), "readOnly": True},
        ],
    }
    spec = {
        "hostNetwork": True,
        "restartPolicy": "Never",
        "serviceAccountName": NAME,
        "containers": [container],
        "volumes": [
            *({"name": name, "hostPath": {"path": path}} for name, path in folders.items()),
            {"name": "account", "projected": {"sources": account}},
        ],
    }
    return {"metadata": {"name": NAME}, "spec": spec}


def test_a_server_in_a_pod_takes_the_pods_own_account(kubernetes: Any, space: str) -> None:
    """Without a right it says which account is to be given which, and as soon as it has them it is ready."""
    authority = {"metadata": {"name": "authority"}, "data": {"ca.crt": Path(kubernetes.authority).read_text()}}
    kubernetes.ask("POST", f"/api/v1/namespaces/{space}/configmaps", authority)
    kubernetes.ask("POST", f"/api/v1/namespaces/{space}/pods", pod_of(kubernetes))

    def said() -> list[Any]:
        folder = next(Path(kubernetes.folder, "pod-logs").glob(f"{space}_{NAME}_*/server/0.log"), None)
        lines = folder.read_text().splitlines() if folder else []
        return [json.loads(line.split(" ", 3)[3]) for line in lines if line.split(" ", 3)[1] == "stdout"]

    until(lambda: len(said()) > 0, unless=ValueError)
    first = said()[0]
    assert not first["ready"]
    assert first["commands"][0].endswith(f"--role mainspring --serviceaccount {space}:{NAME}"), first
    let_in(kubernetes, space)
    path = f"/api/v1/namespaces/{space}/pods/{NAME}"
    until(lambda: kubernetes.ask("GET", path)["status"]["phase"] in ("Succeeded", "Failed"))
    ready, counts = said()[-2:]
    assert (ready["ready"], ready["facts"]["name space"], counts) == (True, space, [1, 0]), said()


def test_a_token_that_the_kubelet_renewed_is_taken(
    kubernetes: Any, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one of the account; it is worth nothing any more once what it is bound to is gone."""
    let_in(kubernetes, space)
    host, port = kubernetes.url.removeprefix("https://").split(":")
    for name, value in (("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", port)):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KUBECONFIG", raising=False)

    def token(number: int) -> str:
        bound = {"metadata": {"name": f"bound-{number}"}}
        kubernetes.ask("POST", f"/api/v1/namespaces/{space}/secrets", bound)
        asked = {"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": f"bound-{number}"}, "expirationSeconds": 600}
        told = kubernetes.ask("POST", f"/api/v1/namespaces/{space}/serviceaccounts/{NAME}/token", {"spec": asked})
        return str(told["status"]["token"])

    for name, text in (("token", token(1)), ("namespace", space), ("ca.crt", Path(kubernetes.authority).read_text())):
        (tmp_path / name).write_text(text)
    api = Api(find_place({}, service_account=tmp_path))

    def who() -> str:
        return str(cast("Any", api.get(f"/apis/batch/v1/namespaces/{space}/jobs"))["kind"])

    assert who() == "JobList"
    kubernetes.ask("DELETE", f"/api/v1/namespaces/{space}/secrets/bound-1")

    def is_refused() -> bool:
        try:
            return who() == ""
        except CredentialsError:
            return True

    until(is_refused)
    (tmp_path / "token").write_text(token(2))
    assert who() == "JobList"
