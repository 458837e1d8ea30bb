"""Blobs over HTTP: one by one and in frames; a lying digest, a torn upload and a strange frame leave nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from urllib.parse import urlsplit

import pytest

from mainspring.core.records import Role


def digest_of(data):
    return hashlib.sha256(data).hexdigest()


def framed(*blobs):
    return b"".join(hashlib.sha256(data).digest() + len(data).to_bytes(8, "big") + data for data in blobs)


@pytest.mark.parametrize("data", [b"", b"hello", bytes(range(256)) * 20_000])
def test_up_and_down(world, data):
    client = world.client()
    path = f"/blobs/{digest_of(data)}"
    assert client.get(path).status_code == 404
    assert client.put(path, content=data).status_code == 201
    assert client.put(path, content=data).status_code == 200
    answer = client.get(path)
    assert answer.content == data
    assert int(answer.headers["content-length"]) == len(data)


def test_a_lying_digest_stores_nothing(world):
    path = "/blobs/" + digest_of(b"other")
    answer = world.client().put(path, content=b"hello")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "integrity"
    assert error["details"]["actual"] == digest_of(b"hello")
    assert world.client().get(path).status_code == 404


@pytest.mark.parametrize("digest", ["x", "A" * 64, "0" * 63, "..%2f..%2fetc%2fpasswd", "0" * 64 + "0"])
def test_what_is_no_digest_is_refused(world, digest):
    for answer in (world.client().get(f"/blobs/{digest}"), world.client().put(f"/blobs/{digest}", content=b"")):
        assert answer.status_code in (400, 404, 405)
    assert world.client().post("/blobs/missing", json={"digests": [digest]}).status_code == 400


def test_missing_pack_fetch(world):
    blobs = [b"a", b"", b"c" * 100_000]
    digests = [digest_of(data) for data in blobs]
    client = world.client()
    assert client.post("/blobs/missing", json={"digests": digests}).json() == {"missing": digests}
    assert client.post("/blobs/pack", content=framed(*blobs)).json() == {"stored": 3}
    assert client.post("/blobs/missing", json={"digests": digests}).json() == {"missing": []}
    asked = list(reversed(digests))
    assert client.post("/blobs/fetch", json={"digests": asked}).content == framed(*reversed(blobs))


@pytest.mark.parametrize("cut", [1, 32, 39, 41, 44])
def test_a_pack_that_breaks_off_is_refused(world, cut):
    answer = world.client().post("/blobs/pack", content=framed(b"hello")[:cut])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "archive")
    assert world.client().post("/blobs/missing", json={"digests": [digest_of(b"hello")]}).json()["missing"]


def test_a_pack_that_lies_is_refused(world):
    torn = hashlib.sha256(b"other").digest() + (5).to_bytes(8, "big") + b"hello"
    assert world.client().post("/blobs/pack", content=torn).json()["error"]["code"] == "integrity"
    huge = b"\x00" * 32 + (2**63).to_bytes(8, "big")
    assert world.client().post("/blobs/pack", content=huge).status_code == 413
    assert world.client().get("/blobs/" + digest_of(b"other")).status_code == 404


def test_fetching_what_is_not_there_is_an_error_not_a_torn_answer(world):
    answer = world.client().post("/blobs/fetch", json={"digests": ["0" * 64]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_truncated_upload_leaves_nothing(world, served, soon):
    folder = world.ctx.settings.home / "blobs"

    def has_begun() -> bool:
        with contextlib.suppress(FileNotFoundError):  # one that went meanwhile
            return any(file.stat().st_size >= 1000 for file in folder.rglob("*") if file.is_file())
        return True

    data = b"x" * 1_000_000
    place = urlsplit(served)
    with socket.create_connection((place.hostname, place.port)) as line:
        head = (
            f"PUT /api/v1/blobs/{digest_of(data)} HTTP/1.1\r\nHost: {place.netloc}\r\n"
            f"Authorization: Bearer {world.admin}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        line.sendall(head.encode() + data[:500_000])
        soon(has_begun)
    soon(lambda: not has_begun())
    assert world.ctx.blobs.missing([digest_of(data)]) == [digest_of(data)]


def test_who_may_upload(world):
    data, path = b"mine", "/blobs/" + digest_of(b"mine")
    assert world.client(world.token("vera", Role.VIEWER)).put(path, content=data).status_code == 403
    assert world.client(world.token("stan")).post("/blobs/pack", content=framed(data)).status_code == 403
    world.submit()
    _, token = world.launch()
    assert world.client(token).put(path, content=data).status_code == 201
    assert world.client(token).get(path).content == data
    assert world.client(world.token("vera")).get(path).content == data


def test_a_runners_token_ends_a_day_after_its_attempt(world):
    world.submit()
    attempt, token = world.launch()
    end = {"state": "ended", "exit": {"cause": "succeeded", "exit_code": 0}}
    assert world.client(token).post(f"/attempts/{attempt.id}/beat", json=end).status_code == 200
    ask = {"digests": ["0" * 64]}
    assert world.client(token).post("/blobs/missing", json=ask).status_code == 200
    world.clock.move(24 * 3600 + 1)
    assert world.client(token).post("/blobs/missing", json=ask).status_code == 401
