"""What comes through the door to Kubernetes where nothing there is one, and where it is shut while somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from mainspring.backends.kubernetes.api import Api
from mainspring.backends.kubernetes.backend import KubernetesBackend, create
from mainspring.backends.kubernetes.places import find_place
from mainspring.core.backend import Handle
from mainspring.core.errors import UnreachableError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cluster

FORBIDDEN = b'{"kind": "Status", "reason": "Forbidden", "message": "nodes is forbidden: User \\"x\\" cannot list"}'
HANDLE = Handle(attempt=AttemptId("att-1"), replica=0, data={"job": "x"})


class Stranger:
    """What answers instead of an API server: by the end of a path, else `usual`."""

    def __init__(self) -> None:
        self.usual: tuple[int, bytes] = (404, b"404 page not found")
        self.of: dict[str, tuple[int, bytes]] = {}
        self.date = "Mon, 30 Nov 2026 20:00:00 GMT"
        stranger = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = stranger.of.get(self.path.partition("?")[0].rpartition("/")[2], stranger.usual)
                self.send_response_only(status)
                self.send_header("Date", stranger.date)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    made = Stranger()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def backend(stranger: Stranger, tmp_path: Path) -> Iterator[KubernetesBackend]:
    told = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{stranger.server.server_address[1]}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(yaml.safe_dump(told))
    made = create(Cluster(id="k", name="k", backend="kubernetes", config={"kubeconfig": str(tmp_path / "config")}), tmp_path, "i")
    yield made
    made.close()


ASKS: dict[str, Callable[[KubernetesBackend], object]] = {
    "native": lambda it: it.native(HANDLE),
    "inventory": lambda it: it.inventory(),
    "observe": lambda it: it.observe([HANDLE]),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_pages_that_are_not_there_are_told_as_out_of_reach(
    ask: Callable[[KubernetesBackend], object], stranger: Stranger, backend: KubernetesBackend
) -> None:
    """Also where the first answer is Kubernetes' own: nodes may not be read, and of quotas there is no such page."""
    stranger.of["nodes"] = (403, FORBIDDEN)
    with pytest.raises(UnreachableError):
        ask(backend)


@pytest.mark.parametrize(("status", "body"), [(200, b"[" * 100_000), (200, b'{"a":' * 100_000), (500, b"[" * 100_000)])
def test_brackets_alone_are_told_as_out_of_reach(
    status: int, body: bytes, stranger: Stranger, backend: KubernetesBackend
) -> None:
    stranger.usual = (status, body)
    with pytest.raises(UnreachableError):
        backend.observe([HANDLE])


def test_a_date_that_is_none_is_passed_over(stranger: Stranger, backend: KubernetesBackend) -> None:
    stranger.usual, stranger.date = (200, b"{}"), "Mon, 30 Nov 2026 20:00:00 +" + "9" * 30
    api = Api(find_place(backend.cluster.config))
    assert api.get("/version") == {}
    assert abs((api.now() - api.clock()).total_seconds()) < 60
    api.close()


def test_who_asks_while_the_door_is_shut_is_told_so(backend: KubernetesBackend) -> None:
    """The cluster is forgotten in between: who had the connection in hand, and had not yet asked by it."""
    api = Api(find_place(backend.cluster.config))
    there = api._connected()
    api.close()
    api._client = there
    with pytest.raises(UnreachableError, match="was closed"):
        api.get("/version")
