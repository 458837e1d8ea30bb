"""A client over blobs in a dictionary, folders under git, and one real server for the end-to-end tests."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from mainspring.client import connection
from mainspring.client.client import Client


class Shelf:
    """The blob routes over a dictionary; `sent` are the digests in the order in which they came."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.sent: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path, data = request.url.path.removeprefix("/api/v1"), request.read()
        if path == "/blobs/missing":
            return httpx2.Response(200, json={"missing": [one for one in json.loads(data)["digests"] if one not in self.held]})
        if path == "/blobs/pack":
            at = 0
            while at < len(data):
                size = int.from_bytes(data[at + 32 : at + 40], "big")
                self._keep(data[at + 40 : at + 40 + size])
                at += 40 + size
            return httpx2.Response(200, json={})
        if request.method == "PUT":
            self._keep(data)
            return httpx2.Response(201, json={})
        digest = path.rpartition("/")[2]
        if digest not in self.held:
            return httpx2.Response(404, json={"error": {"code": "not_found", "message": f"no {path}"}})
        return httpx2.Response(200, content=self.held[digest])

    def _keep(self, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self.held[digest] = data
        self.sent.append(digest)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def shelf_client(shelf: Shelf, tmp_path: Path) -> Client:
    return Client.open("http://server", "secret", home=tmp_path / "home", inner=httpx2.MockTransport(shelf))


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    """Run git in a fresh repository at tmp_path/code."""
    root = tmp_path / "code"
    root.mkdir()

    def call(*words: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false", *words],
            cwd=root, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    call("init", "-q", "-b", "main")
    return call


@pytest.fixture(scope="module")
def live(served: Path) -> Iterator[Path]:
    """The home of a real server with two declared GPUs; MAINSPRING_HOME points to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAINSPRING_URL", "MAINSPRING_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("MAINSPRING_HOME", str(served))
        yield served
        connection.forget()
