"""An API server that answers late, wrongly, or not for itself, and people who mean no good: no wrong end, nothing twice."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import create_default_context
from typing import Any

import pytest
import yaml
from engines.waiting import until
from tests.backends.test_kubernetes import PatientServer, foreign_pod, make_backend, own_space, plain_request, pods_of
from tests.backends.test_kubernetes_access import pass_on

from mainspring.backends.kubernetes import api as door
from mainspring.backends.kubernetes.api import Api
from mainspring.backends.kubernetes.backend import KubernetesBackend
from mainspring.backends.kubernetes.places import find_place
from mainspring.core.backend import Handle, LaunchRequest, ObservedState
from mainspring.core.errors import CredentialsError, LaunchError, UnreachableError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cause
from mainspring.core.resources import Granted
from mainspring.testing.server import RunnerServer

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]
IDLE: dict[str, object] = {"schedulerName": "nobody"}  # of pods that no node takes
HTML = b"<html><body>Please log in</body></html>"
PAGE = {"Content-Type": "text/html"}


@dataclass(frozen=True)
class Answer:
    """What is answered instead of the API server. `after`: that has done as it was asked, and its answer is lost."""

    status: int
    body: bytes | Iterator[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False


def refusal(status: int, reason: str, message: str) -> Answer:
    """Return a refusal in Kubernetes' own words."""
    told = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message}
    return Answer(status, json.dumps(told).encode())


class Gate:
    """A proxy before the API server. `rule` is asked with method and path, and may answer itself."""

    def __init__(self, kubernetes: Any) -> None:
        self.asked: list[tuple[str, str]] = []
        self.rule: Callable[[str, str], Answer | None] = lambda method, path: None
        gate, context = self, create_default_context(cafile=kubernetes.authority)

        class Proxy(BaseHTTPRequestHandler):
            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
                gate.asked.append((self.command, self.path))
                mine = gate.rule(self.command, self.path)
                if mine is None or mine.after:
                    pass_on(self, f"{kubernetes.url}{self.path}", body, context, is_told=mine is None)
                if mine is not None:
                    self.answer(mine)

            do_GET = do_POST = do_PATCH = do_DELETE = do

            def answer(self, mine: Answer) -> None:
                self.send_response(mine.status)
                for name, value in mine.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):
                    for part in [mine.body] if isinstance(mine.body, bytes) else mine.body:
                        self.wfile.write(part)
                        self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def space(kubernetes: Any) -> Iterator[str]:
    """A name space of this module's own; nobody sees nodes there."""
    with own_space(kubernetes, "attack") as name:
        yield name


@pytest.fixture
def gate(kubernetes: Any) -> Iterator[Gate]:
    made = Gate(kubernetes)
    yield made
    made.close()


@pytest.fixture
def backend(kubernetes: Any, space: str, gate: Gate, tmp_path: Path) -> Iterator[KubernetesBackend]:
    """A backend that goes through the gate, and may make Services."""
    made = behind(gate, kubernetes, space, tmp_path)
    yield made
    made.close()


def behind(gate: Gate, kubernetes: Any, space: str, folder: Path) -> KubernetesBackend:
    told = yaml.safe_load(Path(kubernetes.kubeconfig("admin", space)).read_text())
    told["clusters"][0]["cluster"] = {"server": gate.url}
    (folder / "config").write_text(yaml.safe_dump(told))
    made = make_backend(kubernetes, space, folder, cpus=2, memory=4)
    made.cluster = replace(made.cluster, config={**made.cluster.config, "kubeconfig": str(folder / "config")})
    return made


def request_of(backend: KubernetesBackend, **overrides: object) -> LaunchRequest:
    """Return a request whose pod no node takes."""
    return replace(plain_request(backend, backend.inventory().nodes[0]), overrides={**IDLE, **overrides})


def jobs_of(kubernetes: Any, space: str, backend: KubernetesBackend) -> list[dict[str, Any]]:
    """Return the Jobs of this backend's installation."""
    mark = f"labelSelector=mainspring%2Finstallation%3D{backend.installation}"
    return list(kubernetes.ask("GET", f"/apis/batch/v1/namespaces/{space}/jobs?{mark}")["items"])


def left(kubernetes: Any, space: str, request: LaunchRequest) -> list[str]:
    """Return the kinds of what there is of a replica."""
    mark = f"labelSelector=mainspring%2Fattempt%3D{request.attempt}"
    kinds = ("api/v1", "secrets"), ("api/v1", "services"), ("apis/batch/v1", "jobs")
    return [kind for of, kind in kinds for _ in kubernetes.ask("GET", f"/{of}/namespaces/{space}/{kind}?{mark}")["items"]]


@contextmanager
def answering(gate: Gate, answer: Answer | None) -> Iterator[None]:
    """Let each request be answered so."""
    gate.rule = lambda method, path: answer
    yield
    gate.rule = lambda method, path: None


FAULTS = {
    "too many": refusal(429, "TooManyRequests", "The server has received too many requests"),
    "etcd": refusal(500, "InternalError", "etcdserver: request timed out"),
    "bad request": refusal(400, "BadRequest", "the server rejected our request for an unknown reason"),
    "page of a balancer": Answer(503, b"<html>no healthy upstream</html>", PAGE),
    "page to log in": Answer(200, HTML, PAGE),
    "way to log in": Answer(302, b"", {"Location": "https://login.example.com/"}),
    "page that forbids": Answer(403, HTML, PAGE),
    "page not found": Answer(404, b"404 page not found\n"),
    "half an answer": Answer(200, b'{"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": [{"meta'),
    "another's JSON": Answer(200, b'{"message": "welcome"}'),
    "nothing": Answer(200, b""),
    "null": Answer(200, b"null"),
    "no text": Answer(200, b"\xff\xfe\x00\x80"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_is_answered_wrongly_is_told_as_out_of_reach_and_ends_no_run(
    fault: Answer, backend: KubernetesBackend, gate: Gate, kubernetes: Any, space: str
) -> None:
    begun, other = request_of(backend), request_of(backend)
    handle = backend.launch(begun)
    try:
        reborn = KubernetesBackend(backend.cluster, backend.folder, backend.installation)
        with answering(gate, fault):
            asks: list[Callable[[], object]] = [
                lambda: reborn.launch(begun),
                lambda: reborn.launch(other),
                lambda: reborn.observe([handle]),
                lambda: reborn.read_exit(handle),
                lambda: reborn.stop(handle, 1.0),
                lambda: reborn.inventory(),
                lambda: reborn.owned(),
            ]
            for ask in asks:
                with pytest.raises(UnreachableError) as caught:
                    ask()
                assert caught.value.message
            probe = reborn.probe()
            assert (probe.is_ready, bool(probe.notices[0].text)) == (False, True)
        assert reborn.launch(begun) == handle
        assert reborn.observe([handle])[0].state is ObservedState.RUNNING
        assert [job["metadata"]["name"] for job in jobs_of(kubernetes, space, backend)] == [handle.data["job"]]
    finally:
        backend.forget(handle)


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done and not told"])
def test_a_launch_that_breaks_off_anywhere_is_whole_the_next_time(
    after: bool, backend: KubernetesBackend, gate: Gate, kubernetes: Any, space: str
) -> None:
    """Whichever of its requests fails: one Job in the end, and what it needs goes with it."""
    fault = replace(FAULTS["etcd"], after=after)
    for broken in range(20):
        made = KubernetesBackend(backend.cluster, backend.folder, backend.installation)
        request = request_of(backend, port="8888")
        first = len(gate.asked)
        gate.rule = lambda method, path, first=first, broken=broken: fault if len(gate.asked) == first + broken + 1 else None  # type: ignore[misc]
        try:
            made.launch(request)
            is_whole = True
        except UnreachableError:
            is_whole = False
        gate.rule = lambda method, path: None
        handle = made.launch(request)
        name = handle.data["job"]
        assert sorted(left(kubernetes, space, request)) == ["jobs", "secrets", "services"]
        for kind in ("secrets", "services"):
            (owner,) = kubernetes.ask("GET", f"/api/v1/namespaces/{space}/{kind}/{name}")["metadata"]["ownerReferences"]
            assert (owner["kind"], owner["name"]) == ("Job", name), (broken, kind)
        backend.forget(handle)
        if is_whole:
            break
    assert 5 < broken < 19, "each request of a launch was broken once"


def test_a_launch_that_is_refused_leaves_nothing(backend: KubernetesBackend, kubernetes: Any, space: str) -> None:
    """Nobody would clean up: there is no handle of it."""
    request = request_of(backend, port="8888", hostname=1)
    with pytest.raises(LaunchError):
        backend.launch(request)
    assert left(kubernetes, space, request) == []


def test_a_job_of_somebody_elses_that_has_our_name_is_left_alone(backend: KubernetesBackend, kubernetes: Any, space: str) -> None:
    request = request_of(backend)
    name = backend._handle(str(request.attempt), 0).data["job"]
    path = f"/apis/batch/v1/namespaces/{space}/jobs"
    pod = {**foreign_pod("x", {"cpu": "1m"})["spec"], "restartPolicy": "Never", **IDLE}  # type: ignore[dict-item]
    theirs = {"metadata": {"name": name}, "spec": {"suspend": True, "template": {"spec": pod}}}
    version = kubernetes.ask("POST", path, theirs)["metadata"]["generation"]
    try:
        with pytest.raises(LaunchError, match=f"Job {name} of name space {space} is in the way"):
            backend.launch(request)
        kept = kubernetes.ask("GET", f"{path}/{name}")["metadata"]
        assert (kept["generation"], "mainspring/server" in kept.get("annotations", {})) == (version, False)
        assert left(kubernetes, space, request) == []
    finally:
        kubernetes.ask("DELETE", f"{path}/{name}", {"propagationPolicy": "Background"})


def test_a_job_that_is_deleted_while_its_runner_is_told_of_the_server_is_not_made_again(
    backend: KubernetesBackend, gate: Gate, kubernetes: Any, space: str
) -> None:
    """Between the look and the word somebody deletes it: that run has ended, and does not begin anew."""
    request = request_of(backend)
    handle = backend.launch(request)
    path = f"/apis/batch/v1/namespaces/{space}/jobs/{handle.data['job']}"

    def delete(method: str, asked: str) -> Answer | None:
        if (method, asked) == ("PATCH", path):
            kubernetes.ask("DELETE", path, {"propagationPolicy": "Background"})
        return None

    gate.rule = delete
    assert backend.launch(replace(request, server_url="http://127.0.0.1:2")) == handle
    assert ("PATCH", path) in gate.asked
    gate.rule = lambda method, path: None
    until(lambda: backend.observe([handle])[0].state is ObservedState.GONE)
    assert jobs_of(kubernetes, space, backend) == []
    record = backend.read_exit(handle)
    assert record is not None
    assert record.outcome.cause is Cause.NODE_LOST


@pytest.mark.parametrize(
    "overrides",
    [
        {"uid": "root; id"},
        {"uid": -1},
        {"uid": {"a": 1}},
        {"containers": [{"name": ["run"]}]},
        {"containers": "run"},
        {"containers": None},
        {"labels": "team"},
        {"labels": {"a b!": "c"}},
        {"labels.team": "x" * 64},
        {"annotations": {"a": 5}},
        {"image": "x"},
        {"port": "99999"},
        {"queue": "a\nb"},
        {"priority_class": {"a": 1}},
        {"tolerate": ["a=b=c:Nowhere"]},
        {"": 1},
        {"serviceAccountName": "../../secrets"},
        {"volumes": [{"name": "attempt", "hostPath": "x"}]},
    ],
    ids=str,
)
def test_what_a_person_asks_that_is_nonsense_is_refused_in_words(
    overrides: dict[str, object], backend: KubernetesBackend, kubernetes: Any, space: str
) -> None:
    request = request_of(backend, **overrides)
    with pytest.raises(LaunchError) as caught:
        backend.launch(request)
    assert len(caught.value.message) > 20
    assert left(kubernetes, space, request) == []


def test_hostile_names_reach_nobody_and_marks_are_ours(backend: KubernetesBackend, kubernetes: Any, space: str) -> None:
    """A run that calls itself another's would end that one's attempt; its name is for people, and may be anything."""
    marks = {"mainspring/attempt": "att-victim", "mainspring/installation": "other", "mainspring/replica": "7", "team": "blue"}
    request = request_of(backend, labels=marks, annotations={"mainspring/gpus": "0.1", "note": "x"})
    name = "\x00\x1b[31m'\"; $(reboot) `id`\n--- ../../ \ud800 💥 Jörg\u202e" + "x" * 300_000
    request = replace(request, name=name, owner="a\nb: c")
    handle = backend.launch(request)
    try:
        (job,) = jobs_of(kubernetes, space, backend)
        about = job["spec"]["template"]["metadata"]
        assert (about["labels"]["mainspring/attempt"], about["labels"]["team"]) == (request.attempt, "blue")
        assert (about["labels"]["mainspring/installation"], about["labels"]["mainspring/replica"]) == (backend.installation, "0")
        assert about["annotations"]["note"] == "x"
        assert "$(reboot)" in job["metadata"]["annotations"]["mainspring/name"]
        until(lambda: len(pods_of(backend, handle)) == 1)
        assert [one.attempt for one in backend.owned()] == [request.attempt]
    finally:
        backend.forget(handle)


def test_a_clock_of_ours_that_is_wrong_gives_up_nothing(backend: KubernetesBackend) -> None:
    """A pod that waits for seconds is not one that found no place for an hour: moments are the cluster's."""
    request = replace(request_of(backend), overrides={}, granted=Granted(cpu_milli=900_000, memory_bytes=64 << 20))
    handle = backend.launch(request)
    try:
        until(lambda: "Unschedulable" in backend.observe([handle])[0].detail)
        place = find_place(backend.cluster.config)
        for hours in (-1, 1):
            ours = datetime.now(UTC) + timedelta(hours=hours)
            backend._api, backend._watched = Api(place, clock=lambda ours=ours: ours), None  # type: ignore[misc]
            seen = backend.observe([handle])[0]
            assert (seen.state, "Unschedulable" in seen.waiting) == (ObservedState.RUNNING, True)
            assert backend.read_exit(handle) is None
            assert abs(backend._api.now() - datetime.now(UTC)) < timedelta(minutes=5)
        assert len(pods_of(backend, handle)) == 1, "it was not deleted as one that will never run"
        assert "deletionTimestamp" not in pods_of(backend, handle)[0]["metadata"]
    finally:
        backend.forget(handle)


def test_a_config_map_that_somebody_deletes_is_made_again(kubernetes: Any, space: str, tmp_path: Path) -> None:
    """Otherwise the pods of every later run would be made for ever."""
    server: RunnerServer = PatientServer(kubernetes.address)
    made = make_backend(kubernetes, space, tmp_path, cpus=2, memory=4)
    first, second = (replace(plain_request(made, made.inventory().nodes[0]), server_url=server.url) for _ in range(2))
    server.jobs[second.attempt] = ["echo", "here"]
    try:
        made.forget(made.launch(replace(first, overrides=IDLE)))
        assert made._runner is not None
        kubernetes.ask("DELETE", f"/api/v1/namespaces/{space}/configmaps/{made._runner[0]}")
        handle = made.launch(second)
        until(lambda: "ContainerCreating" in made.observe([handle])[0].detail)
        made._runner_at = -1e9  # a minute later
        made.observe([handle])
        assert server.wait(second.attempt, "ended").log == b"here\n"
        made.forget(handle)
    finally:
        server.close()


class TestWatch:
    """Watches through a door that does not do them well."""

    @pytest.mark.parametrize("is_direct", [True, False], ids=["TLS", "through the gate"])
    def test_a_backend_that_is_closed_follows_nothing(
        self, is_direct: bool, backend: KubernetesBackend, kubernetes: Any, space: str, tmp_path: Path
    ) -> None:
        """Its cluster was forgotten: neither its thread nor its connections are left, and none comes back."""
        made = make_backend(kubernetes, space, tmp_path) if is_direct else backend
        made.owned()
        watched = made._watched
        assert watched is not None
        until(lambda: watched._is_synced)
        made.close()
        thread = watched._thread
        assert thread is not None
        thread.join(20.0)  # the watch itself would go on for thirty
        assert not thread.is_alive()
        assert made.owned() == []
        assert made._watched is None

    def test_a_watch_that_is_ended_at_once_is_none(self, backend: KubernetesBackend, gate: Gate) -> None:
        """What is there is asked for each time, instead of what was there at the first look."""
        gate.rule = lambda method, path: Answer(200) if "watch=true" in path else None
        request = request_of(backend)
        backend.owned()
        until(lambda: any("watch=true" in path for _, path in gate.asked))
        handle = backend.launch(request)
        try:
            until(lambda: len(pods_of(backend, handle)) == 1)
            key = (str(request.attempt), 0)
            assert key in backend._pods(backend._door())
            backend._delete_pod(backend._door(), backend._pods(backend._door())[key], 0)
            until(lambda: pods_of(backend, handle) == [])
            assert key not in backend._pods(backend._door())
        finally:
            backend.forget(handle)

    def test_what_goes_wrong_in_a_watch_is_no_trace_in_the_log(
        self, backend: KubernetesBackend, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        error = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcdserver: leader changed"}}
        odd = {"type": "ADDED", "object": {"metadata": {"name": 5}}}
        bodies = [json.dumps(error).encode(), b"\xff<html>", b'{"type": "MODI', json.dumps(odd).encode(), b"[]"]
        faults = [*(Answer(200, body + b"\n") for body in bodies), Answer(404, b"404 page not found"), FAULTS["too many"]]

        def rule(method: str, path: str) -> Answer | None:
            return faults.pop(0) if "watch=true" in path and faults else None

        gate.rule = rule
        with caplog.at_level(logging.INFO, "mainspring"):
            backend.owned()
            watched = backend._watched
            assert watched is not None
            until(lambda: not faults and watched._is_synced)
        assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
        assert len([one for one in caplog.records if one.message == "watch broke off"]) >= 7


def test_an_answer_that_comes_in_drops_holds_nobody_for_good(
    backend: KubernetesBackend, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    def drops() -> Iterator[bytes]:
        yield b'{"kind": "PodList", "items": ['
        while not is_over.wait(0.02):
            yield b" "

    handle = backend._handle("att-none", 0)
    monkeypatch.setattr(door, "ANSWER_S", 0.3)
    with answering(gate, Answer(200, drops())), pytest.raises(UnreachableError, match="gave no whole answer within"):
        backend.stop(handle, 1.0)
    is_over.set()


@pytest.mark.parametrize(
    ("of", "change", "says"),
    [
        ("clusters", {"server": "https://[::1"}, "'https://[::1', the server of context 'test', is no address."),
        ("clusters", {"server": "api.lab"}, "'api.lab', the server of context 'test', is no address."),
        ("clusters", {"certificate-authority": "/no/ca"}, "its certificate-authority /no/ca cannot be read"),
        ("clusters", {"certificate-authority": "", "certificate-authority-data": "!!!"}, "no certificate or crl found"),
        ("users", {"tokenFile": "/no/token"}, "its tokenFile /no/token cannot be read"),
        ("users", {"client-certificate-data": "QUJD"}, "a certificate and its key belong together"),
        ("users", {"client-certificate": "/no/c", "client-key": "/no/k"}, "its client-certificate /no/c cannot be read"),
        ("users", {"exec": {"apiVersion": "v1", "command": "a\0b"}}, "cannot be run: embedded null byte"),
        ("contexts", {"namespace": "../nodes"}, "'../nodes' is no name of a name space"),
    ],
    ids=["odd address", "no scheme", "no authority", "odd authority", "no token", "no key", "no certificate", "program", "space"],
)
def test_a_kubeconfig_that_leads_nowhere_is_told_with_what_mends_it(
    of: str, change: dict[str, object], says: str, kubernetes: Any, tmp_path: Path
) -> None:
    told = yaml.safe_load(Path(kubernetes.kubeconfig("team", "default")).read_text())
    inner = told[of][0][of.removesuffix("s")]
    if of == "users":
        inner.clear()
    inner |= change
    (tmp_path / "config").write_text(yaml.safe_dump(told))
    made = make_backend(kubernetes, "default", tmp_path, kubeconfig=str(tmp_path / "config"))
    (notice,) = made.probe().notices
    assert says in notice.text
    with pytest.raises(CredentialsError):
        made.observe([Handle(attempt=AttemptId("a"), replica=0, data={"job": "a"})])
