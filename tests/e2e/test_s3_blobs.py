"""A server whose blobs lie in S3: code and results travel by signed addresses, past the server, and nobody sees its keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mainspring.client.client import Client

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.engine]
MIB = 1 << 20
SCRIPT = """
import hashlib, os, pathlib, time
print("code", hashlib.sha256(pathlib.Path("weights.bin").read_bytes()).hexdigest(), flush=True)
while not os.path.exists("{go}"):
    time.sleep(0.02)
pathlib.Path(os.environ["MAINSPRING_OUT"], "model.bin").write_bytes(bytes(range(256)) * 12288)
print(dict(os.environ))
"""
MADE = bytes(range(256)) * 12288  # 3 MiB


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that somebody sent to the object store."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def is_signed(self) -> bool:
        """Say whether the address itself is what allows it."""
        return "X-Amz-Signature" in parse_qs(urlsplit(self.target).query)


@dataclass
class Passage:
    """A way to the object store that writes down what is asked there."""

    target: tuple[str, int]
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    said: list[bytearray] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is entered."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        """Take connections until the listener is closed."""
        with suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.target)
                heard = bytearray()
                self.said.append(heard)
                threading.Thread(target=_pass_on, args=(near, far, heard), daemon=True).start()
                threading.Thread(target=_pass_on, args=(far, near, None), daemon=True).start()

    def asked(self) -> list[Asked]:
        """Return the requests so far."""
        heads = [found for one in self.said for found in HEAD.findall(bytes(one))]
        return [Asked(method.decode(), target.decode(), _fields(rest)) for method, target, rest in heads]


HEAD = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (/\S*) HTTP/1\.1\r\n((?:[^\r\n]+\r\n)*)\r\n")


def _fields(lines: bytes) -> dict[str, str]:
    pairs = [line.decode("latin-1").partition(":") for line in lines.split(b"\r\n") if line]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _pass_on(source: socket.socket, target: socket.socket, heard: bytearray | None) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if heard is not None:
                heard += data
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def passage(s3_server: Any) -> Iterator[Passage]:
    """A watched way to the object store."""
    there = urlsplit(s3_server.endpoint)
    made = Passage((there.hostname or "", there.port or 0))
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    yield made
    made.listener.shutdown(socket.SHUT_RDWR)
    made.listener.close()
    thread.join(10)


@pytest.fixture
def keep_in_bucket(fresh: Site, passage: Passage, s3_server: Any) -> Callable[..., None]:
    """Return a function that writes the setting into the installation's file, under a prefix of its own."""

    def configure(**config: str) -> None:
        given = {"endpoint": passage.url, "region": "us-east-1", **config}
        prefix = hashlib.sha256(os.fsencode(fresh.home)).hexdigest()[:12]
        lines = [f'blob_url = "s3://{s3_server.bucket}/{prefix}"', "[blob_config]"]
        file = fresh.home / "config.toml"
        file.write_text("\n".join([*lines, *(f'{name} = "{value}"' for name, value in given.items())]) + "\n")
        file.chmod(0o600)

    return configure


def places_of(home: Path, word: bytes) -> list[str]:
    """Return where a word stands: files of the installation other than its configuration, and the process list."""
    files = [one for one in home.rglob("*") if one.is_file() and one != home / "config.toml"]
    found = [str(one) for one in files if word in one.read_bytes()]
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += [str(place)] if word in place.read_bytes() else []
    return found


def test_code_and_results_go_by_signed_addresses(
    fresh: Site, passage: Passage, s3_server: Any, keep_in_bucket: Callable[..., None], tmp_path: Path
) -> None:
    keep_in_bucket(access_key_id=s3_server.access_key_id, secret_access_key=s3_server.secret_access_key)
    secret = s3_server.secret_access_key.encode()
    fresh.start("--cpus", "2")
    token = (fresh.home / "token").read_text().strip()
    work, go = tmp_path / "work", tmp_path / "go"
    work.mkdir()
    weights = random.Random(1).randbytes(2 * MIB)
    (work / "weights.bin").write_bytes(weights)
    (work / "train.py").write_text(SCRIPT.format(go=go))
    begun = fresh.cli("run", "train.py", "--detach", "--json", cwd=work)
    assert begun.code == 0, begun
    run = json.loads(begun.out)["id"]
    code = hashlib.sha256(weights).hexdigest()
    fresh.running(run, says=code.encode())
    assert places_of(fresh.home, secret) == []
    by_runner = [one for one in passage.asked() if one.is_signed and code in one.target]
    assert [one.method for one in by_runner] == ["GET"], "the runner was not sent to the object store"
    go.touch()
    assert fresh.wait(run)["state"] == "succeeded"

    digest = hashlib.sha256(MADE).hexdigest()
    sent = fresh.call("GET", f"/blobs/{digest}", follow_redirects=False)
    assert (sent.status_code, sent.headers["cache-control"], sent.content) == (307, "no-store", b"")
    address = sent.headers["location"]
    assert address.startswith(passage.url + "/")
    assert secret.decode() not in address
    assert 0 < int(parse_qs(urlsplit(address).query)["X-Amz-Expires"][0]) <= 3600

    pulled = fresh.cli("pull", run, str(tmp_path / "out"))
    assert pulled.code == 0, pulled
    (model,) = (tmp_path / "out").rglob("model.bin")
    assert model.read_bytes() == MADE
    client = Client.open(fresh.url, token)
    assert client.blobs.get(digest) == MADE
    client.blobs.save(digest, tmp_path / "saved.bin")
    assert (tmp_path / "saved.bin").read_bytes() == MADE

    async def fetched() -> bytes:
        return (await client.asynchronous().transport.send("GET", f"/blobs/{digest}")).data

    assert asyncio.run(fetched()) == MADE
    client.close()
    signed = [one for one in passage.asked() if one.is_signed]
    assert sum(digest in one.target for one in signed) == 4, "a client read past the object store"
    assert not any("authorization" in one.headers for one in signed), "a token was carried to the object store"
    assert not any(token.encode() in said or secret in said for said in passage.said)
    assert fresh.stop() == 0
    assert places_of(fresh.home, secret) == []
    assert places_of(fresh.home, b"X-Amz-Signature") == [], "a signed address is a key for an hour"
    fresh.start("--cpus", "2")  # what is in the bucket is there for the next server
    assert fresh.call("GET", f"/blobs/{digest}", follow_redirects=True).content == MADE


def test_keys_of_the_servers_environment_are_not_those_of_its_runs(
    fresh: Site, s3_server: Any, keep_in_bucket: Callable[..., None], passage: Passage
) -> None:
    keep_in_bucket()
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key_id, "AWS_SECRET_ACCESS_KEY": s3_server.secret_access_key}
    fresh.start("--cpus", "2", **keys)
    run = fresh.submit([sys.executable, "-c", "import os; print(dict(os.environ)); print('x' * 2_000_000)"])
    assert fresh.wait(run)["state"] == "succeeded"
    assert b"AWS_" not in fresh.log(run)
    assert places_of(fresh.home, s3_server.secret_access_key.encode()) == []
    assert passage.asked(), "nothing was asked of the object store"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"secret_access_key": "no-such-secret"}, "The object storage refuses our keys"),
        ({"endpoint": "http://127.0.0.1:9"}, "Check its address"),
    ],
    ids=["other-keys", "away"],
)
def test_an_object_store_that_refuses_or_is_away_is_told_in_words(
    fresh: Site, s3_server: Any, keep_in_bucket: Callable[..., None], wrong: dict[str, str], said: str
) -> None:
    keys = {"access_key_id": s3_server.access_key_id, "secret_access_key": s3_server.secret_access_key}
    keep_in_bucket(**{**keys, **wrong})
    assert fresh.start("--cpus", "2", expects=False).wait(90) not in (0, None)
    told = fresh.server_log()
    assert said in told
    assert "Traceback" not in told
    assert "no-such-secret" not in told
