"""Flavours of Kubernetes, emulated on a real control plane by what each is told by."""

from __future__ import annotations

import json
import os
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from tests.backends.test_kubernetes import PatientServer, make_backend, make_space, own_space, plain_request, pods_of, until
from tests.backends.test_kubernetes_access import proxied

from mainspring.backends.kubernetes.api import MERGE_PATCH
from mainspring.backends.kubernetes.backend import KubernetesBackend
from mainspring.backends.kubernetes.flavours import find_flavour
from mainspring.backends.kubernetes.places import find_place
from mainspring.core.backend import LaunchRequest, Notice
from mainspring.core.errors import CredentialsError, LaunchError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cluster
from mainspring.testing.server import RunnerServer

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]
OF_PROJECT = 1_000_680_000  # the first user of a project's range


@pytest.fixture(scope="module")
def space(kubernetes: Any) -> Iterator[str]:
    """A name space of this module's own; nobody sees nodes there."""
    with own_space(kubernetes, "flavour") as name:
        yield name


@pytest.fixture
def server(kubernetes: Any) -> Iterator[RunnerServer]:
    """A server at the address of this machine that pods reach."""
    made = PatientServer(kubernetes.address)
    yield made
    made.close()


class TestFlavours:
    def test_vanilla_is_called_so(self, kubernetes: Any, space: str, tmp_path: Path) -> None:
        seen = make_backend(kubernetes, space, tmp_path, cpus=2, memory=4).probe()
        assert (seen.is_ready, seen.facts["flavour"], seen.version) == (True, "Kubernetes", "v1.34.2")

    def test_openshift_chooses_the_user(self, kubernetes: Any, space: str, tmp_path: Path, server: RunnerServer) -> None:
        """Its API groups are there, and pods name no user: the name space's range gives one."""
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for kind, group in (("SecurityContextConstraint", "security.openshift.io"), ("Route", "route.openshift.io")):
            kubernetes.ask("POST", path, definition(kind, group))
        try:
            until(lambda: "openshift" in str(kubernetes.ask("GET", "/apis")))
            made = make_backend(kubernetes, space, tmp_path, cpus=2, memory=4)
            assert made.probe().facts["flavour"] == "OpenShift"
            nowhere = {"kubeconfig": kubernetes.kubeconfig("admin", space), "namespace": "nowhere"}
            (notice,) = KubernetesBackend(replace(made.cluster, config=nowhere), tmp_path / "nowhere", "inst").probe().notices
            assert notice.command == "oc new-project nowhere"
            request = replace(plain_request(made, made.inventory().nodes[0]), server_url=server.url)
            with constrained(kubernetes, space):
                self.check_user(made, request, server)
            self.check_routes(kubernetes, space, tmp_path, made, replace(request, attempt=AttemptId(f"{request.attempt}r")))
        finally:
            kubernetes.empty(space)
            for kind, group in (("securitycontextconstraints", "security.openshift.io"), ("routes", "route.openshift.io")):
                kubernetes.ask("DELETE", f"{path}/{kind}.{group}")

    def check_user(self, made: KubernetesBackend, request: LaunchRequest, server: RunnerServer) -> None:
        """The pod runs as whoever the project says, in group 0, and may write; one that names a user is not taken."""
        server.jobs[request.attempt] = ["sh", "-c", "id -u; id -g; touch $HOME/mine mine && echo written"]
        handle = made.launch(request)
        (job,) = cast("list[dict[str, Any]]", made.native(handle)["jobs"])
        security = job["spec"]["template"]["spec"]["securityContext"]
        assert security == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert server.wait(request.attempt, "ended").log == f"{OF_PROJECT}\n0\nwritten\n".encode()
        made.forget(handle)
        named = replace(request, attempt=AttemptId(f"{request.attempt}u"), overrides={"uid": 1000})
        handle = made.launch(named)
        until(lambda: f"must be in the ranges: [{OF_PROJECT}" in made.observe([handle])[0].waiting)
        made.forget(handle)

    def check_routes(self, kubernetes: Any, space: str, folder: Path, made: KubernetesBackend, request: LaunchRequest) -> None:
        """A port has a Service and a Route, which go with the Job; who may not is told the right that is missing."""
        request = replace(request, overrides={"port": "8888"})
        with pytest.raises(LaunchError, match="needs more rights") as caught:
            made.launch(request)
        assert "routes.route.openshift.io" in caught.value.hint
        config = {**made.cluster.config, "kubeconfig": kubernetes.kubeconfig("admin", space)}
        (folder / "admin").mkdir()
        admin = KubernetesBackend(replace(made.cluster, config=config), folder / "admin", made.installation)
        handle = admin.launch(request)
        name = handle.data["job"]
        assert admin.native(handle)["ports"] == {"8888": f"{name}.{space}.svc:8888"}
        path = f"/apis/route.openshift.io/v1/namespaces/{space}/routes/{name}-8888"
        kubernetes.ask("PATCH", path, {"spec": {"host": "run.apps.example.com"}}, MERGE_PATCH)  # as its router does
        assert admin.native(handle)["ports"] == {"8888": "https://run.apps.example.com"}
        (service,) = kubernetes.ask("GET", f"/api/v1/namespaces/{space}/services")["items"]
        (pod,) = until_some(lambda: pods_of(admin, handle))
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        admin.forget(handle)
        until(lambda: not kubernetes.ask("GET", f"/api/v1/namespaces/{space}/services")["items"])
        until(lambda: not kubernetes.ask("GET", f"{path.rpartition('/')[0]}")["items"])

    def test_rancher_is_reached_through_its_proxy(self, kubernetes: Any, space: str, tmp_path: Path) -> None:
        """Its address has a path; everything goes through it, the watch too."""
        with proxied(kubernetes, "/k8s/clusters/c-m-abc123") as url:
            told = yaml.safe_load(Path(kubernetes.kubeconfig("team", space)).read_text())
            told["clusters"][0]["cluster"] = {"server": url}
            (tmp_path / "config").write_text(yaml.safe_dump(told))
            config = {"kubeconfig": str(tmp_path / "config"), "cpus": 2, "memory": 4}
            made = KubernetesBackend(Cluster(id="n", name="n", backend="kubernetes", config=config), tmp_path, "inst")
            seen = made.probe()
            assert (seen.is_ready, seen.facts.get("flavour")) == (True, "Rancher"), seen.notices[0].text
            assert made.owned() == []
            until(lambda: made._watched is not None and made._watched._is_synced)

    def test_the_quota_of_a_ranchers_project_tells_what_there_is(self, kubernetes: Any, tmp_path: Path) -> None:
        """Rancher writes a project's part on the name space, and makes a ResourceQuota of it, which is what counts."""
        name = f"p-{os.getpid()}-{time.monotonic_ns() % 10**9}"
        make_space(kubernetes, name)
        told = json.dumps({"limit": {"limitsCpu": "1500m", "limitsMemory": "3Gi"}})
        notes = {"field.cattle.io/projectId": "c-m-1:p-1", "field.cattle.io/resourceQuota": told}
        kubernetes.ask("PATCH", f"/api/v1/namespaces/{name}", {"metadata": {"annotations": notes}}, MERGE_PATCH)
        quota = {"metadata": {"name": "default-q"}, "spec": {"hard": {"limits.cpu": "1500m", "limits.memory": "3Gi"}}}
        kubernetes.ask("POST", f"/api/v1/namespaces/{name}/resourcequotas", quota)
        config = yaml.safe_load(Path(kubernetes.kubeconfig("team", name)).read_text())
        try:
            with proxied(kubernetes, "/k8s/clusters/c-m-abc123") as url:
                config["clusters"][0]["cluster"] = {"server": url}
                config["users"][0]["user"] = {"token": kubernetes.tokens["team"]}
                (tmp_path / "config").write_text(yaml.safe_dump(config))
                asked = {"kubeconfig": str(tmp_path / "config"), "namespace": name}
                made = KubernetesBackend(Cluster(id="n", name="n", backend="kubernetes", config=asked), tmp_path, "inst")
                seen = made.probe()
                assert (seen.is_ready, seen.facts.get("flavour")) == (True, "Rancher"), seen.notices[0].text
                (node,) = made.inventory().nodes
                assert (node.cpu_milli, node.memory_bytes) == (1500, 3 << 30)
        finally:
            kubernetes.ask("DELETE", f"/api/v1/namespaces/{name}")

    def test_a_kubeconfig_of_oc_is_taken_as_it_is(self, kubernetes: Any, space: str, tmp_path: Path) -> None:
        """Its names have slashes and colons, and there is one context for each project."""
        told = yaml.safe_load(Path(kubernetes.kubeconfig("team", space)).read_text())
        host, user = "api-lab-example-com:6443", "team/api-lab-example-com:6443"
        names = [(f"{project}/{host}/team", project) for project in ("default", space)]
        told["clusters"][0]["name"], told["users"][0]["name"] = host, user
        told["contexts"] = [
            {"name": name, "context": {"cluster": host, "user": user, "namespace": project}} for name, project in names
        ]
        told["current-context"] = names[1][0]
        (tmp_path / "config").write_text(yaml.safe_dump(told))
        config = {"kubeconfig": str(tmp_path / "config"), "cpus": 2, "memory": 4}
        made = KubernetesBackend(Cluster(id="n", name="n", backend="kubernetes", config=config), tmp_path, "inst")
        assert made.probe().is_ready
        assert (made.probe().facts["name space"], made.probe().facts["context"]) == (space, names[1][0])
        other = KubernetesBackend(replace(made.cluster, config={**config, "context": names[0][0]}), tmp_path / "b", "inst")
        assert "in name space default" in other.probe().notices[0].text

    def test_a_queue_of_kueue_that_nobody_named_is_told(self, kubernetes: Any, space: str, tmp_path: Path) -> None:
        """Runs would go past it. Whoever may not see queues is told that there may be one."""
        path, group = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "kueue.x-k8s.io"
        team = make_backend(kubernetes, space, tmp_path, cpus=2, memory=4)
        config = {**team.cluster.config, "kubeconfig": kubernetes.kubeconfig("admin", space)}
        (tmp_path / "admin").mkdir()
        admin = KubernetesBackend(replace(team.cluster, config=config), tmp_path / "admin", team.installation)

        def told(made: KubernetesBackend) -> list[Notice]:
            return [one for one in made.probe().notices if "Kueue" in one.text]

        assert told(team) == []
        kubernetes.ask("POST", path, definition("LocalQueue", group))
        try:
            queues = f"/apis/{group}/v1/namespaces/{space}/localqueues"
            until(lambda: not kubernetes.ask("GET", queues)["items"], unless=urllib.error.HTTPError)
            until(lambda: group in str(kubernetes.ask("GET", "/apis")))
            (notice,) = told(team)
            assert ("we may not see whether" in notice.text, "--queue=QUEUE" in notice.command) == (True, True)
            assert told(admin) == [], "this name space has none"
            queue = {"apiVersion": f"{group}/v1", "kind": "LocalQueue", "metadata": {"name": "lab"}}
            kubernetes.ask("POST", queues, {**queue, "spec": {"clusterQueue": "all"}})
            (notice,) = told(admin)
            assert ("has Kueue's queue lab." in notice.text, "--queue=lab" in notice.command) == (True, True)
            admin.cluster = replace(admin.cluster, config={**config, "queue": "lab"})
            assert told(admin) == []
        finally:
            kubernetes.ask("DELETE", f"{path}/localqueues.{group}")

    def test_others_are_known_by_their_context_and_labels(self) -> None:
        def flavour(url: str = "https://h:1", context: str = "", version: str = "v1.31.0", label: str = "x/y") -> str:
            return find_flavour(url, context, ["apps"], version, [{label: "true"}]).name

        assert flavour(context="microk8s") == flavour(label="microk8s.io/cluster") == "MicroK8s"
        assert flavour(context="minikube") == flavour(label="minikube.k8s.io/name") == "Minikube"
        assert (flavour(version="v1.30.2+k3s1"), flavour(version="v1.30.4-gke.1"), flavour()) == ("k3s", "GKE", "Kubernetes")

    def test_the_kubeconfigs_of_distributions_are_found_where_there_is_no_other(
        self, kubernetes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """MicroK8s, k3s and RKE2 put theirs where kubectl does not look."""
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        there = Path(kubernetes.kubeconfig("team", "default"))
        usual = ((tmp_path / "away", "x"), (there, "y"))
        assert find_place({}, usual=usual).url == kubernetes.url
        with pytest.raises(CredentialsError, match="there is no kubeconfig"):
            find_place({}, usual=usual[:1])


@contextmanager
def constrained(kubernetes: Any, space: str) -> Iterator[None]:
    """Do to the pods of a name space what OpenShift's constraint `restricted-v2` does, by the API server's own admission.

    Each container gets the project's user, unless it names one, which has to be in the project's range.
    """
    where = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}},
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }
    named = "has(object.spec.securityContext.runAsUser) ? object.spec.securityContext.runAsUser"
    user = f"Object.spec.containers.securityContext{{runAsUser: {named} : {OF_PROJECT}}}"
    containers = f"object.spec.containers.map(one, Object.spec.containers{{name: one.name, securityContext: {user}}})"
    given = {"expression": f"Object{{spec: Object.spec{{containers: {containers}}}}}"}
    mutation = {"patchType": "ApplyConfiguration", "applyConfiguration": given}
    refusal = {
        "expression": f"object.spec.containers.all(one, one.securityContext.runAsUser == {OF_PROJECT})",
        "message": "unable to validate against any security context constraint: runAsUser: Invalid value: "
        f"must be in the ranges: [{OF_PROJECT}, {OF_PROJECT + 9999}]",
    }
    group = "/apis/admissionregistration.k8s.io"
    policies = [
        (f"{group}/v1beta1/mutatingadmissionpolicies", {"mutations": [mutation], "reinvocationPolicy": "Never"}),
        (f"{group}/v1/validatingadmissionpolicies", {"validations": [refusal]}),
    ]
    name, made = f"restricted-v2-{os.getpid()}", []
    try:
        for path, spec in policies:
            bindings = f"{path.removesuffix('policies')}policybindings"
            more = {"validationActions": ["Deny"]} if "validating" in path else {}
            binding = {"metadata": {"name": name}, "spec": {"policyName": name, **more}}
            about = {"metadata": {"name": name}, "spec": {"failurePolicy": "Fail", "matchConstraints": where, **spec}}
            for of, body in ((path, about), (bindings, binding)):
                kubernetes.ask("POST", of, body)
                made.append(f"{of}/{name}")
        until(lambda: user_of_a_pod(kubernetes, space, None) == OF_PROJECT)
        until(lambda: user_of_a_pod(kubernetes, space, 1000) is None)
        yield
    finally:
        for path in made:
            kubernetes.ask("DELETE", path)


def user_of_a_pod(kubernetes: Any, space: str, uid: int | None) -> int | None:
    """Return the user that a pod would get that names this one; None where it would not be taken."""
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **({"runAsUser": uid} if uid else {})}
    spec = {"securityContext": security, "containers": [{"name": "c", "image": "x", "securityContext": own}]}
    try:
        pod = kubernetes.ask("POST", f"/api/v1/namespaces/{space}/pods?dryRun=All", {"metadata": {"name": "try"}, "spec": spec})
    except urllib.error.HTTPError:
        return None
    return cast("int | None", pod["spec"]["containers"][0]["securityContext"].get("runAsUser"))


def definition(kind: str, group: str) -> dict[str, object]:
    """Return a definition of a resource without content."""
    plural = f"{kind.lower()}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind}
    versions = [{"name": "v1", "served": True, "storage": True, "schema": schema}]
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": versions}
    return {"metadata": {"name": f"{plural}.{group}"}, "spec": spec}


def until_some(found: Callable[[], list[Any]]) -> list[Any]:
    """Poll until there are some, and return them."""
    until(lambda: bool(found()))
    return found()
