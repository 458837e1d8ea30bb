"""The gateway over real sockets: by name to a replica that answers, in turn, past the dead, with rights and counts."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from mainspring.api import replicas as connections
from mainspring.core.actors import SYSTEM
from mainspring.core.manifests import pack_manifest
from mainspring.core.records import Cluster, Node, NodeState, Role
from mainspring.runner.folder import Folder
from mainspring.runner.inside import Inside
from mainspring.services import endpoints, models, runs
from mainspring.services.context import Context


class Replica:
    """A replica that tells what it was asked; `is_torn` breaks the connection after reading a request."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.callers: set[object] = set()
        self.predictions: object = [1]
        self.status = 200
        self.is_torn = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.callers.add(self.client_address)
                outer.asked.append((self.command, self.path, body, {k.lower(): v for k, v in self.headers.items()}))
                if outer.is_torn:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                answer = json.dumps({"predictions": outer.predictions}).encode() if self.path == "/predict" else b'{"name":"v2"}'
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def replicas():
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(2):
            replica = Replica()
            stack.callback(replica.stop)
            made.append(replica)
        yield made


def deploy(ctx: Context, world, addresses: list[str]):
    """Deploy a model and let one serving run with these addresses take its place, as the controller and runners would."""
    data, digest = pack_manifest([])
    ctx.blobs.put_bytes(data)
    models.add_version(ctx, SYSTEM, "delays", digest)
    endpoint = endpoints.deploy(ctx, SYSTEM, "delays", "delays@1", replicas=max(1, len(addresses)))
    for address in addresses:
        add_replica(ctx, world, endpoint, address)
    return endpoint


def add_replica(ctx, world, endpoint, address):
    revision = ctx.store.endpoints.revisions(endpoint.id)[-1]
    runs.submit(ctx, SYSTEM, endpoints.serving_spec(ctx, endpoint, revision))
    attempt, token = world.launch()
    answer = world.client(token).post(f"/attempts/{attempt.id}/beat", json={"state": "running", "address": address})
    assert answer.status_code == 200
    return attempt, token


def test_predictions_go_round_and_tell_their_revision(world, replicas):
    endpoint = deploy(world.ctx, world, [one.address for one in replicas])
    with world.client() as client:
        for _ in range(6):
            answer = client.post("/endpoints/delays/predict", json=[{"a": 1}])
            assert answer.json() == {"predictions": [1], "revision": 1}
            assert answer.headers["revision"] == "1"
    assert [len(one.asked) for one in replicas] == [3, 3]
    assert replicas[0].asked[0][:3] == ("POST", "/predict", b'[{"a":1}]')
    assert "authorization" not in replicas[0].asked[0][3]
    assert "cookie" not in replicas[0].asked[0][3]
    assert world.ctx.store.endpoints.get("default", "delays").requests == 6
    assert endpoint.requests == 0


def test_the_inference_protocol_is_passed_as_it_is(world, replicas):
    deploy(world.ctx, world, [replicas[0].address])
    with world.client() as client:
        assert client.get("/endpoints/delays/v2").json() == {"name": "v2"}
        assert client.post("/endpoints/delays/v2/models/delays/infer", content=b"\x00raw").json() == {"name": "v2"}
        assert client.get("/endpoints/delays/v2/health/ready").status_code == 200
    assert [one[:3] for one in replicas[0].asked] == [
        ("GET", "/v2", b""),
        ("POST", "/v2/models/delays/infer", b"\x00raw"),
        ("GET", "/v2/health/ready", b""),
    ]


def test_a_dead_replica_is_passed_over(world, replicas):
    alive, dead = replicas
    deploy(world.ctx, world, [dead.address, alive.address])
    dead.stop()
    with world.client() as client:
        for _ in range(4):
            assert client.post("/endpoints/delays/predict", json=[]).status_code == 200
    assert len(alive.asked) == 4
    assert world.ctx.store.endpoints.get("default", "delays").errors == 0


def test_a_replica_that_hangs_up_is_passed_over(world, replicas):
    good, torn = replicas
    torn.is_torn = True
    deploy(world.ctx, world, [torn.address, good.address])
    with world.client() as client:
        assert {client.post("/endpoints/delays/predict", json=[]).status_code for _ in range(4)} == {200}
    assert len(good.asked) == 4


def test_a_kept_connection_that_was_closed_is_dialled_again(world, replicas):
    deploy(world.ctx, world, [replicas[0].address])
    with world.client() as client:
        assert client.post("/endpoints/delays/predict", json=[]).status_code == 200
        replicas[0].is_torn = True
        assert client.post("/endpoints/delays/predict", json=[]).status_code == 503
        replicas[0].is_torn = False
        assert client.post("/endpoints/delays/predict", json=[]).status_code == 200


def test_without_a_replica_the_answer_says_so(world):
    deploy(world.ctx, world, [])
    with world.client() as client:
        answer = client.post("/endpoints/delays/predict", json=[])
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["error"]["details"]["reason"] == "no_replica"
        client.delete("/endpoints/delays")
        assert client.post("/endpoints/delays/predict", json=[]).json()["error"]["code"] == "state"
        assert client.post("/endpoints/nope/predict", json=[]).status_code == 404
    assert world.ctx.store.endpoints.get("default", "delays").errors == 1


def test_a_replica_that_comes_is_used_at_once(world, replicas):
    endpoint = deploy(world.ctx, world, [])
    with world.client() as client:
        assert client.post("/endpoints/delays/predict", json=[]).status_code == 503
        add_replica(world.ctx, world, endpoint, replicas[0].address)
        assert client.post("/endpoints/delays/predict", json=[]).status_code == 200


def test_errors_of_the_replica_are_passed_and_counted(world, replicas):
    deploy(world.ctx, world, [replicas[0].address])
    with world.client() as client:
        for replicas[0].status in (400, 422, 500):
            assert client.post("/endpoints/delays/predict", json=[]).status_code == replicas[0].status
        figures = client.get("http://127.0.0.1:8765/metrics")
    assert 'mainspring_endpoint_requests_answered_total{endpoint="delays",status="500"} 1.0' in figures.text
    assert 'mainspring_runs{state="running"} 1.0' in figures.text
    found = world.ctx.store.endpoints.get("default", "delays")
    assert (found.requests, found.errors) == (3, 1)


def test_who_may_ask(world, replicas):
    deploy(world.ctx, world, [replicas[0].address])
    assert world.client(world.token("vera", Role.VIEWER)).post("/endpoints/delays/predict", json=[]).status_code == 200
    assert world.client(world.token("sid")).post("/endpoints/delays/predict", json=[]).status_code == 403
    assert world.client("").post("/endpoints/delays/predict", json=[]).status_code == 401


def test_too_much_at_once_is_refused(world, replicas):
    deploy(world.ctx, world, [replicas[0].address])
    answer = world.client().post("/endpoints/delays/predict", content=b" " * (17 << 20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert replicas[0].asked == []


class Far:
    """Replicas on an engine whose 127.0.0.1 is not the server's, with tunnels of real runners, and who asks them."""

    def __init__(self, world, served, tmp_path):
        self.world, self.served, self.tmp_path = world, served, tmp_path
        store = world.ctx.store
        store.clusters.add(Cluster(id="pods", name="pods", backend="kubernetes", created_at=world.clock.now()))
        node = Node(id="pods.a", cluster="pods", name="a", cpu_milli=8000, memory_bytes=2**33, seen_at=world.clock.now())
        store.nodes.upsert("pods", [node], now=world.clock.now())
        store.nodes.set_state("local-here", NodeState.DRAINING)
        self.endpoint = deploy(world.ctx, world, [])
        self.client = httpx2.Client(base_url=f"{served}/api/v1", headers={"Authorization": f"Bearer {world.admin}"}, timeout=60)

    def add(self, address):
        """Let a replica say where it listens; return what its runner dials with."""
        attempt, token = add_replica(self.world.ctx, self.world, self.endpoint, address)
        folder = Folder(str(self.tmp_path / attempt.id))
        folder.make()
        made = Inside(folder, {"server_url": self.served, "attempt": attempt.id, "replica": 0}, token)
        made.begin({}, folder.work)
        return made

    def predict(self, content=b"[]"):
        return self.client.post("/endpoints/delays/predict", content=content, headers={"Content-Type": "application/json"})


@pytest.fixture
def far(world, served, tmp_path):
    made = Far(world, served, tmp_path)
    yield made
    made.client.close()


@contextlib.contextmanager
def dialling(inside):
    """Let a runner dial whenever the server says that it is wanted, as its beats would."""
    is_over = threading.Event()

    def serve():
        while not is_over.wait(0.02):
            inside.want()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(5)
        inside.end()
        inside.close()


def test_what_listens_elsewhere_is_asked_through_its_tunnel_on_kept_connections(far, replicas):
    with dialling(far.add(replicas[0].address)):
        for _ in range(6):
            assert far.predict(b'[{"a":1}]').json() == {"predictions": [1], "revision": 1}
        assert far.client.get("/endpoints/delays/v2").json() == {"name": "v2"}
    assert replicas[0].asked[0][:3] == ("POST", "/predict", b'[{"a":1}]')
    assert (len(replicas[0].asked), len(replicas[0].callers)) == (7, 1)


def test_large_bodies_go_through_a_tunnel_both_ways(far, replicas):
    replicas[0].predictions = ["x" * 1000] * 5000
    with dialling(far.add(replicas[0].address)):
        asked = b"[" + b"1," * 1_500_000 + b"1]"
        assert far.predict(asked).json()["predictions"] == replicas[0].predictions
    assert replicas[0].asked[0][2] == asked


def test_many_at_once_share_a_tunnel_and_leave_room_in_it(far, replicas, monkeypatch):
    monkeypatch.setattr(connections, "MAX_INSIDE", 4)
    with dialling(far.add(replicas[0].address)), ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: far.predict().status_code, range(60)))
    assert found == [200] * 60
    assert len(replicas[0].callers) <= 4


def test_what_a_replica_elsewhere_says_is_never_dialled_from_here(far, replicas, monkeypatch):
    """It would be this machine's own ports, or whatever the network of the server reaches."""
    monkeypatch.setattr(connections, "DIAL_S", 0.2)
    far.add(replicas[0].address)
    answer = far.predict()
    assert (answer.status_code, answer.json()["error"]["details"]["reason"]) == (503, "no_replica")
    assert replicas[0].asked == []
    for nonsense in ("127.0.0.1", "a:b", "127.0.0.1:0", "127.0.0.1:99999", ":80"):
        far.add(nonsense)
    assert far.predict().status_code == 503


def test_a_runner_that_opens_no_tunnel_is_passed_over_and_not_waited_for_again(far, replicas, monkeypatch):
    monkeypatch.setattr(connections, "DIAL_S", 3.0)  # in which the other one dials
    monkeypatch.setattr(connections, "REST_S", 600.0)
    far.add(replicas[0].address)
    with dialling(far.add(replicas[1].address)):
        assert [far.predict().status_code for _ in range(8)] == [200] * 8
    assert (len(replicas[0].asked), len(replicas[1].asked)) == (0, 8)


def test_a_replica_that_nobody_knows_anything_of_is_not_asked(far, replicas):
    silent = far.add(replicas[0].address)
    far.world.ctx.store.attempts.set_unknown(silent.launch["attempt"], 0, far.world.clock.now())
    assert far.client.get("/endpoints/delays").json()["addresses"] == []
    with dialling(far.add(replicas[1].address)):
        assert [far.predict().status_code for _ in range(4)] == [200] * 4
    assert (len(replicas[0].asked), len(replicas[1].asked)) == (0, 4)


def test_a_tunnel_that_broke_is_dialled_again(far, replicas):
    inside = far.add(replicas[0].address)
    with dialling(inside):
        assert far.predict().status_code == 200
        inside.end()
        inside.close()
        inside.is_over.clear()
        assert far.predict().status_code == 200
    assert len(replicas[0].callers) == 2


def test_a_run_whose_port_nobody_listens_on_is_told(far, replicas):
    replicas[0].stop()
    with dialling(far.add(replicas[0].address)):
        answer = far.predict()
    assert answer.status_code == 503
    assert "inside" in answer.json()["error"]["details"]["tried"][0]
