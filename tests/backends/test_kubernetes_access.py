"""How a cluster is found and logged in at, and how its changes are followed: against a real API server."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from engines.waiting import until

from mainspring.backends.kubernetes import login, manifests
from mainspring.backends.kubernetes.api import Api
from mainspring.backends.kubernetes.backend import KubernetesBackend
from mainspring.backends.kubernetes.options import for_run
from mainspring.backends.kubernetes.places import find_place, kubectl, renewal
from mainspring.backends.kubernetes.watch import Watch
from mainspring.core.backend import LaunchRequest
from mainspring.core.errors import CredentialsError, LaunchError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import Cluster, Node
from mainspring.core.resources import DeviceShare, Granted

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]
PODS = "/api/v1/namespaces/default/pods"
WHO = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
PROGRAM = """#!/usr/bin/env python3
import json, os, pathlib, sys
here = pathlib.Path(sys.argv[0]).parent
with (here / "runs").open("a") as runs:
    runs.write(os.environ["KUBERNETES_EXEC_INFO"] + chr(10))
print((here / "answer").read_text())
"""


def whoami(place: Any) -> str:
    told = Api(place).create("/apis/authentication.k8s.io/v1/selfsubjectreviews", dict(WHO))
    return cast("Any", told)["status"]["userInfo"]["username"]


def told(kubernetes: Any, user: str = "team") -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load(Path(kubernetes.kubeconfig(user, "default")).read_text()))


@pytest.fixture
def program(kubernetes: Any, tmp_path: Path) -> Callable[..., Path]:
    """Write a kubeconfig that logs in by a program beside it, which prints `answer`; return where."""

    def make(answer: dict[str, object] | str, **more: object) -> Path:
        config = told(kubernetes)
        version = "client.authentication.k8s.io/v1"
        plugin = {"apiVersion": version, "command": "./plugin", "interactiveMode": "Never", "provideClusterInfo": True, **more}
        config["users"][0]["user"] = {"exec": plugin}
        (tmp_path / "plugin").write_text(PROGRAM)
        (tmp_path / "plugin").chmod(0o755)
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        status = {"apiVersion": version, "kind": "ExecCredential", "status": answer}
        (tmp_path / "answer").write_text(answer if isinstance(answer, str) else json.dumps(status))
        return tmp_path / "config"

    return make


def runs_of(config: Path) -> list[str]:
    path = config.with_name("runs")
    return path.read_text().splitlines() if path.exists() else []


class TestPrograms:
    """As EKS, GKE and AKS log in."""

    def test_its_token_is_kept_until_it_runs_out(self, program: Callable[..., Path], kubernetes: Any) -> None:
        for ends_in, runs in ((timedelta(hours=1), 1), (timedelta(seconds=5), 3)):
            moment = (datetime.now(UTC) + ends_in).strftime("%Y-%m-%dT%H:%M:%SZ")
            config = program({"token": kubernetes.tokens["team"], "expirationTimestamp": moment})
            config.with_name("runs").unlink(missing_ok=True)
            api = Api(find_place({"kubeconfig": str(config)}))
            for _ in range(3):
                api.get("/version")
            assert len(runs_of(config)) == runs
        asked = json.loads(runs_of(config)[0])
        assert (asked["kind"], asked["spec"]["interactive"]) == ("ExecCredential", False)
        assert asked["spec"]["cluster"]["server"] == kubernetes.url
        assert asked["spec"]["cluster"]["certificate-authority-data"]

    def test_a_token_that_is_refused_is_asked_anew_once(self, program: Callable[..., Path], kubernetes: Any) -> None:
        config = program({"token": "expired"})
        api = Api(find_place({"kubeconfig": str(config)}))
        with pytest.raises(CredentialsError, match="wrong or have expired"):
            api.get("/api/v1/namespaces/default/pods")
        assert len(runs_of(config)) == 2
        program({"token": kubernetes.tokens["admin"]})
        assert api.get("/api/v1/namespaces/default/pods")["kind"] == "PodList"
        assert len(runs_of(config)) == 3

    def test_it_may_give_a_certificate(self, program: Callable[..., Path], kubernetes: Any) -> None:
        pems = {
            name: Path(kubernetes.folder, f"team.{end}").read_text() for name, end in (("Certificate", "crt"), ("Key", "key"))
        }
        config = program({f"client{name}Data": text for name, text in pems.items()})
        assert whoami(find_place({"kubeconfig": str(config)})) == "team"

    def test_what_is_wrong_with_it_is_told(
        self, program: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(config: Path) -> CredentialsError:
            with pytest.raises(CredentialsError) as caught:
                Api(find_place({"kubeconfig": str(config)})).get("/version")
            return caught.value

        missing = refused(program({"token": "x"}, command="aws-of-nobody", installHint="Install the AWS CLI: https://x"))
        assert ("aws-of-nobody" in missing.message, missing.hint) == (True, "Install the AWS CLI: https://x")
        assert "prints no ExecCredential" in refused(program("Please log in")).message
        assert "neither a token nor a certificate" in refused(program({"token": ""})).message
        config = program({"token": "x"})
        (tmp_path / "plugin").write_text("#!/bin/sh\necho 'session is over: run aws sso login' >&2; exit 3\n")
        assert "failed with 3: session is over: run aws sso login" in refused(config).message
        monkeypatch.setattr(login, "LIMIT_S", 0.2)
        (tmp_path / "plugin").write_text("#!/bin/sh\nexec sleep 60\n")
        assert "it may wait for a person" in refused(config).message

    def test_a_provider_that_kubectl_has_dropped_is_named(self, kubernetes: Any, tmp_path: Path) -> None:
        config = told(kubernetes)
        config["users"][0]["user"] = {"auth-provider": {"name": "gcp"}}
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        with pytest.raises(CredentialsError, match="'gcp'") as caught:
            Api(find_place({"kubeconfig": str(tmp_path / "config")})).get("/version")
        assert "gke-gcloud-auth-plugin" in caught.value.hint


class TestPlaces:
    def test_certificates_by_path_are_found_beside_the_kubeconfig(self, kubernetes: Any, tmp_path: Path) -> None:
        """As Minikube writes them, and relative ones too."""
        config = told(kubernetes)
        for name in ("team.crt", "team.key"):
            (tmp_path / name).write_text(Path(kubernetes.folder, name).read_text())
        (tmp_path / "ca.crt").write_text(Path(kubernetes.authority).read_text())
        config["clusters"][0]["cluster"]["certificate-authority"] = "ca.crt"
        config["users"][0]["user"] = {"client-certificate": "team.crt", "client-key": str(tmp_path / "team.key")}
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        assert whoami(find_place({"kubeconfig": str(tmp_path / "config")})) == "team"

    def test_several_kubeconfigs_are_one_and_the_first_word_stands(
        self, kubernetes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = told(kubernetes, "admin")
        other["contexts"][0]["name"] = other["current-context"] = "other"
        other["contexts"][0]["context"] |= {"cluster": "far", "user": "boss"}
        other["clusters"][0]["name"], other["users"][0]["name"] = "far", "boss"
        (tmp_path / "other").write_text(yaml.safe_dump(other))
        files = [str(tmp_path / "none"), kubernetes.kubeconfig("team", "default"), str(tmp_path / "other")]
        monkeypatch.setenv("KUBECONFIG", os.pathsep.join(files))
        assert (find_place({}).context, whoami(find_place({}))) == ("test", "team")
        found = find_place({"context": "other"})
        assert whoami(found) == "admin"
        monkeypatch.delenv("KUBECONFIG")
        assert find_place({"kubeconfig": found.source, "context": "other"}).url == kubernetes.url
        with pytest.raises(CredentialsError, match="there are: test, other") as caught:
            find_place({"kubeconfig": found.source, "context": "lab"})
        assert caught.value.hint == f"mainspring cluster add kubernetes --kubeconfig {found.source} --context test"
        monkeypatch.setenv("KUBECONFIG", os.pathsep.join(files))
        with pytest.raises(CredentialsError) as caught:
            find_place({"context": "lab"})
        assert caught.value.hint == "mainspring cluster add kubernetes --context test"

    @pytest.mark.parametrize(
        ("text", "words"), [("", "is no kubeconfig"), ("a: [", "cannot be read"), ("clusters: [{name: a}]", "has no context")]
    )
    def test_a_file_that_is_something_else_is_told(self, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "config").write_text(text)
        with pytest.raises(CredentialsError, match=words):
            find_place({"kubeconfig": str(tmp_path / "config")})

    def test_a_proxy_of_the_kubeconfig_is_gone_through(self, kubernetes: Any, tmp_path: Path) -> None:
        config = told(kubernetes)
        with tunnelling() as (url, asked):
            config["clusters"][0]["cluster"]["proxy-url"] = url
            (tmp_path / "config").write_text(yaml.safe_dump(config))
            assert whoami(find_place({"kubeconfig": str(tmp_path / "config")})) == "team"
        assert asked == [f"CONNECT {kubernetes.url.removeprefix('https://')} HTTP/1.1"]


class TestSpaces:
    def made(self, kubernetes: Any, folder: Path, user: str, namespace: str) -> KubernetesBackend:
        config = {"kubeconfig": kubernetes.kubeconfig(user, "default"), "namespace": namespace}
        return KubernetesBackend(Cluster(id="n", name="n", backend="kubernetes", config=config), folder, "inst")

    def test_a_name_space_that_is_not_there_is_told_before_a_run_is_lost(self, kubernetes: Any, tmp_path: Path) -> None:
        made = self.made(kubernetes, tmp_path, "admin", "nowhere")
        probe = made.probe()
        assert (probe.is_ready, probe.notices[0].command) == (False, "kubectl create namespace nowhere")
        with pytest.raises(LaunchError, match='namespaces "nowhere" not found'):
            made.launch(request_of(made))

    def test_the_command_that_gives_the_rights_names_us(self, kubernetes: Any, tmp_path: Path) -> None:
        (notice,) = self.made(kubernetes, tmp_path, "nobody", "default").probe().notices
        assert notice.command.endswith("--role mainspring --user nobody")

    def test_without_any_right_the_name_space_may_be_missing_too(self, kubernetes: Any, tmp_path: Path) -> None:
        """Nobody may ask whether it is there: the command makes it if it is not."""
        (notice,) = self.made(kubernetes, tmp_path, "nobody", "nowhere").probe().notices
        assert notice.command.startswith("kubectl get namespace nowhere || kubectl create namespace nowhere\nkubectl apply")


class TestLogins:
    """What is said of credentials that are taken no more: the command by which such a cluster gives new ones."""

    @pytest.mark.parametrize(
        ("user", "cluster", "names", "command"),
        [
            ({"token": "old"}, {}, ("lab", "ml"), "config set-credentials ml --token=TOKEN"),
            (
                {"token": "sha256~old"},
                {},
                ("ml/api-lab-example-com:6443/dev", "dev/api-lab-example-com:6443"),
                "oc login https://h:6443",
            ),
            ({"token": "t"}, {"server": "https://h/k8s/clusters/c-m-1"}, ("lab", "lab"), "--kubeconfig FILE-THAT-RANCHER-GIVES"),
            ({"token": "t"}, {}, ("microk8s", "admin"), "microk8s config > ~/.kube/config"),
            ({"exec": {"command": "/usr/bin/aws", "apiVersion": "v1"}}, {}, ("eks", "eks"), "aws sso login"),
            (
                {"client-certificate-data": "QQ==", "client-key-data": "QQ=="},
                {},
                ("lab", "ml"),
                "config set-credentials ml --client-certificate=FILE --client-key=FILE",
            ),
        ],
    )
    def test_each_kind_of_cluster_has_its_own(
        self, user: dict[str, Any], cluster: dict[str, Any], names: tuple[str, str], command: str, tmp_path: Path
    ) -> None:
        context, name = names
        config = {
            "current-context": context,
            "clusters": [{"name": "c", "cluster": {"server": "https://h:6443", **cluster}}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": name, "namespace": "ml"}}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        place = find_place({"kubeconfig": str(tmp_path / "config")})
        assert place.namespace == "ml"
        assert renewal(place).endswith(command)
        by_hand = kubectl(place, "get", "pods")
        assert by_hand == f"kubectl --kubeconfig {tmp_path / 'config'} --context {context} get pods"

    def test_an_engine_that_is_down_and_a_token_that_is_old_come_with_a_command(self, kubernetes: Any, tmp_path: Path) -> None:
        config = told(kubernetes)
        config["users"][0]["user"]["token"] = "old"
        (tmp_path / "old").write_text(yaml.safe_dump(config))
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
        (tmp_path / "down").write_text(yaml.safe_dump(config))
        for file, command in (("old", "config set-credentials user --token=TOKEN"), ("down", "get --raw /readyz")):
            cluster = Cluster(id="n", name="n", backend="kubernetes", config={"kubeconfig": str(tmp_path / file)})
            (notice,) = KubernetesBackend(cluster, tmp_path, "inst").probe().notices
            assert notice.command == f"kubectl --kubeconfig {tmp_path / file} --context test {command}"


class Counted(Watch):
    """A watch that counts its lists."""

    lists = 0

    def _list(self) -> Any:
        self.lists += 1
        return super()._list()


class TestWatch:
    @pytest.fixture
    def mark(self, kubernetes: Any) -> Iterator[str]:
        made = f"late-{os.getpid()}-{time.monotonic_ns() % 10**9}"
        yield made
        kubernetes.ask("DELETE", f"{PODS}?labelSelector=late%3D{made}", {"gracePeriodSeconds": 0})

    def made(self, kubernetes: Any, url: str, folder: Path, mark: str) -> Counted:
        config = told(kubernetes, "admin")
        config["clusters"][0]["cluster"] = {"server": url}
        (folder / "config").write_text(yaml.safe_dump(config))
        return Counted(Api(find_place({"kubeconfig": str(folder / "config")})), PODS, f"late={mark}", lambda pod: None)

    def add(self, kubernetes: Any, mark: str, name: str) -> str:
        """Make a pod of the mark; return its version."""
        container = {"name": "c", "image": "none"}
        spec = {"schedulerName": "nobody", "automountServiceAccountToken": False, "containers": [container]}
        body = {"metadata": {"name": f"{mark}-{name}", "labels": {"late": mark}}, "spec": spec}
        return str(kubernetes.ask("POST", PODS, body)["metadata"]["resourceVersion"])

    def names(self, watch: Watch) -> list[str]:
        return sorted(pod.metadata.name.rpartition("-")[2] for pod in watch.pods())

    def test_what_is_kept_no_more_is_listed_anew(self, kubernetes: Any, tmp_path: Path, mark: str) -> None:
        """The API server answers 410 to a version of long ago; nothing that happened meanwhile is missed."""
        with proxied(kubernetes, "/k8s", [200, 410]) as url:
            watch = self.made(kubernetes, url, tmp_path, mark)
            assert watch.pods() == []
            until(lambda: watch.lists == 3 and watch._is_synced)
            self.add(kubernetes, mark, "one")
            until(lambda: self.names(watch) == ["one"])
            kubernetes.ask("DELETE", f"{PODS}/{mark}-one", {"gracePeriodSeconds": 0})
            until(lambda: watch.pods() == [])
        assert watch.lists == 3, "the rest came by the watch"

    def test_a_watch_that_is_cut_goes_on_where_it_was(self, kubernetes: Any, tmp_path: Path, mark: str) -> None:
        """Nobody lists again, and what happened meanwhile is told."""
        watches: list[tuple[str, socket.socket]] = []
        with proxied(kubernetes, "/k8s", watches=watches) as url:
            watch = self.made(kubernetes, url, tmp_path, mark)
            assert watch.pods() == []
            until(lambda: watch._is_synced)
            version = self.add(kubernetes, mark, "one")
            until(lambda: self.names(watch) == ["one"])
            reset(watches[0][1])
            self.add(kubernetes, mark, "two")
            until(lambda: len(watches) == 2 and watch._is_synced)
            until(lambda: self.names(watch) == ["one", "two"])
            kubernetes.ask("DELETE", f"{PODS}/{mark}-one", {"gracePeriodSeconds": 0})
            until(lambda: self.names(watch) == ["two"])
        assert (watch.lists, len(watches)) == (1, 2)
        asked = parse_qs(urlsplit(watches[1][0]).query)
        assert int(asked["resourceVersion"][0]) >= int(version), "it began where the other one had come to"


def test_what_a_pool_and_a_run_ask_of_pods_reaches_the_api_server(kubernetes: Any, tmp_path: Path) -> None:
    """Selectors, taints, classes, pull secrets, a template and a MIG slice, kept by a real API server's validation."""
    (tmp_path / "pod.yaml").write_text(
        "dnsPolicy: ClusterFirst\ntopologySpreadConstraints: []\nhostAliases: [{ip: 10.0.0.9, hostnames: [nas]}]\n"
    )
    config = {
        "kubeconfig": kubernetes.kubeconfig("admin", "default"),
        "image": "a/b:1",
        "node_selector": ["disk=ssd"],
        "tolerate": ["team=ml:NoSchedule"],
        "priority_class": "high",
        "runtime_class": "nvidia",
        "pull_secret": ["reg"],
        "gpu_resource": "nvidia.com/mig-1g.10gb",
        "template": str(tmp_path / "pod.yaml"),
    }
    made = KubernetesBackend(Cluster(id="n", name="n", backend="kubernetes", config=config), tmp_path, "inst")
    volume = {"name": "nas", "nfs": {"server": "nas", "path": "/data"}}
    overrides = {"volumes": [volume], "priority_class": "higher", "nodeSelector.zone": "a"}
    request = request_of(made, overrides)
    asked = {**for_run(config, overrides), "pod_template": made._template()}
    job = manifests.job("ms-try", request, asked, runner="none", is_uid_given=False)
    kept = cast("Any", Api(made._door().place).create("/apis/batch/v1/namespaces/default/jobs", job, dryRun="All"))
    spec = kept["spec"]["template"]["spec"]
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"disk": "ssd", "zone": "a"}, "higher")
    assert (spec["runtimeClassName"], spec["imagePullSecrets"]) == ("nvidia", [{"name": "reg"}])
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "2"
    assert {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"} in spec["tolerations"]
    assert spec["hostAliases"] == [{"ip": "10.0.0.9", "hostnames": ["nas"]}]
    assert volume in spec["volumes"]


def request_of(made: KubernetesBackend, overrides: dict[str, object] | None = None) -> LaunchRequest:
    shares = tuple(DeviceShare(index=index, milli=1000) for index in range(2))
    return LaunchRequest(
        installation=made.installation,
        attempt=AttemptId("att-x"),
        run=RunId("run"),
        replica=0,
        node=Node(id="n.n", cluster="n", name="n", cpu_milli=1, memory_bytes=1, disk_bytes=0, devices=(), pool="n"),
        granted=Granted(cpu_milli=100, memory_bytes=1 << 20, devices=shares),
        server_url="http://127.0.0.1:1",
        token="t" * 64,
        overrides=overrides or {},
    )


@contextmanager
def proxied(
    cluster: Any, prefix: str, stale: list[int] | None = None, watches: list[tuple[str, socket.socket]] | None = None
) -> Iterator[str]:
    """Put a proxy before the API server that takes requests below `prefix` only.

    `stale` are the status codes with which the first watches are told that their version is kept no more: 410, or 200 and an
    event that says so, as a real API server does either. The path of each other watch, and its connection, come into `watches`.
    """
    context = ssl.create_default_context(cafile=cluster.authority)

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.forward(None)

        def do_POST(self) -> None:
            self.forward(self.rfile.read(int(self.headers["Content-Length"])))

        def forward(self, body: bytes | None) -> None:
            if not self.path.startswith(prefix):
                self.send_error(404)
                return
            if stale and "watch=true" in self.path:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (9)"}
                status = stale.pop(0)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(gone if status == 410 else {"type": "ERROR", "object": gone}).encode() + b"\n")
                return
            if watches is not None and "watch=true" in self.path:
                watches.append((self.path, self.connection))
            pass_on(self, f"{cluster.url}{self.path.removeprefix(prefix)}", body, context)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    made = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}{prefix}"
    made.shutdown()
    made.server_close()


def reset(connection: socket.socket) -> None:
    """Break a connection off, as a machine between does that has forgotten it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


def pass_on(door: BaseHTTPRequestHandler, url: str, body: bytes | None, context: ssl.SSLContext, *, is_told: bool = True) -> None:
    """Send what came to a door on, and the answer back as it comes; where that is not to be told (`is_told`) it is read only."""
    headers = {name: door.headers[name] for name in ("Authorization", "Content-Type") if name in door.headers}
    asked = urllib.request.Request(url, body, headers, method=door.command)
    with suppress(OSError), opened(asked, context) as answer:
        if not is_told:
            answer.read()
            return
        door.send_response(answer.status)
        door.end_headers()
        while data := answer.read1(65536):
            door.wfile.write(data)
            door.wfile.flush()


def opened(asked: urllib.request.Request, context: ssl.SSLContext) -> Any:
    """Return the answer, also one that is a refusal."""
    try:
        return urllib.request.urlopen(asked, context=context, timeout=60)
    except urllib.error.HTTPError as refused:
        return refused


@contextmanager
def tunnelling() -> Iterator[tuple[str, list[str]]]:
    """Run a proxy that carries connections on (CONNECT); yield its address, and what it was asked."""
    asked: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                head = b""
                while b"\r\n\r\n" not in head:
                    head += near.recv(4096)
                asked.append(head.split(b"\r\n")[0].decode())
                host, _, port = asked[-1].split()[1].partition(":")
                far = socket.create_connection((host, int(port)))
                near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    listener.close()
