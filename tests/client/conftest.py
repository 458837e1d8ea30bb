"""An in-process server that answers by script, and blobs that are kept in a dictionary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from mainspring.client import connection
from mainspring.client.client import Client

Answer = Callable[[httpx2.Request], httpx2.Response]


@dataclass
class Scripted:
    """Answers requests from a list, then by `otherwise`; remembers them; `pauses` are the waits between tries."""

    answers: list[Answer | Exception] = field(default_factory=list)
    seen: list[httpx2.Request] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.seen.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(request)

    def client(self) -> Client:
        made = Client.open("http://server", "secret", inner=httpx2.MockTransport(self))
        made.transport.pause = self.pauses.append
        return made


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def reply() -> Callable[..., Answer]:
    def make(status: int = 200, body: object = None, headers: dict[str, str] | None = None) -> Answer:
        return lambda _: httpx2.Response(status, content=json.dumps(body).encode(), headers=headers or {})

    return make


@dataclass
class BlobServer:
    """The blob routes over a dictionary; `lies` makes it answer with damaged bytes."""

    held: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    lies: bool = False

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.removeprefix("/api/v1")
        self.requests.append(f"{request.method} {path}")
        data = request.read()
        if path == "/blobs/missing":
            wanted = json.loads(data)["digests"]
            return httpx2.Response(200, json={"missing": [one for one in wanted if one not in self.held]})
        if path == "/blobs/pack":
            at = 0
            while at < len(data):
                size = int.from_bytes(data[at + 32 : at + 40], "big")
                self._keep(data[at : at + 32].hex(), data[at + 40 : at + 40 + size])
                at += 40 + size
            return httpx2.Response(200, json={})
        if path == "/blobs/fetch":
            frames = [
                bytes.fromhex(one) + len(self._given(one)).to_bytes(8, "big") + self._given(one)
                for one in json.loads(data)["digests"]
            ]
            return httpx2.Response(200, content=b"".join(frames))
        digest = path.rpartition("/")[2]
        if request.method == "PUT":
            self._keep(digest, data)
            return httpx2.Response(201, json={})
        if digest not in self.held:
            return httpx2.Response(404, json={"error": {"code": "not_found", "message": "no blob"}})
        return httpx2.Response(200, content=self._given(digest))

    def _given(self, digest: str) -> bytes:
        return b"lie" + self.held[digest][3:] if self.lies else self.held[digest]

    def _keep(self, digest: str, data: bytes) -> None:
        assert hashlib.sha256(data).hexdigest() == digest
        self.held[digest] = data


@pytest.fixture
def blob_server() -> BlobServer:
    return BlobServer()


@pytest.fixture
def blob_client(blob_server: BlobServer) -> Client:
    return Client.open("http://server", "secret", inner=httpx2.MockTransport(blob_server))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation's folder of its own; whatever server was started there is stopped."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MAINSPRING_HOME", str(folder))
    for name in ("MAINSPRING_URL", "MAINSPRING_TOKEN", "MAINSPRING_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    connection.forget()
    if connection.find(folder) is not None and (folder / "token").exists():
        connection.connect(folder, may_start=False).clusters.shut_down()
        connection.forget()
