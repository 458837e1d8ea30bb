"""Bad input: each is refused with a code, a sentence and, where one field is wrong, its path; never a 5xx."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

JSON = {"Content-Type": "application/json"}


def refused(answer, status, code=None):
    assert answer.status_code == status, answer.text[:500]
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "hint", "details"}
    assert "Traceback" not in answer.text
    if code is not None:
        assert error["code"] == code
    return error


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", ""),
        (b"{", ""),
        (b"nonsense", ""),
        (b"\xff\xfe", ""),
        (b"[]", ""),
        (b"null", ""),
        (b'{"command": ["true"], "priority": NaN}', ""),
        (b'{"command": ["true"], "priority": "high"}', "priority"),
        (b'{"command": ["true"], "priority": 1001}', "priority"),
        (b'{"command": ["true"], "priority": 1e400}', None),
        (b'{"command": ["true"], "priority": 99999999999999999999}', None),
        (b'{"command": ["true"], "comand": 1}', "comand"),
        (b'{"command": ["true"], "resources": {"gpus": 1}}', "resources.gpus"),
        (b'{"command": ["true"], "resources": {"cpu_milli": -1}}', "resources.cpu_milli"),
        (b'{"command": ["true"], "resources": {"memory_bytes": "4"}}', "resources.memory_bytes"),
        (b'{"command": ["true"], "resources": {"memory_bytes": 9e30}}', None),
        (b'{"command": ["true"], "timeout_s": -1}', "timeout_s"),
        (b'{"command": ["true"], "retries": -1}', "retries"),
        (b'{"command": []}', "command"),
        (b'{"command": ["a\\u0000b"]}', ""),
        (b'{"command": ["true"], "name": "../x"}', "name"),
        (b'{"command": ["true"], "name": "a/b"}', "name"),
        (b'{"command": ["true"], "name": "a\\u0007b"}', "name"),
        (b'{"command": ["true"], "tags": ["-x"]}', "name"),
        (b'{"command": ["true"], "params": {"a\\u0001": 1}}', "params"),
        (b'{"command": ["true"], "env": {"A=B": "1"}}', "env.A=B"),
        (b'{"kind": "task"}', "entry"),
        (b'{"kind": "dance", "command": ["true"]}', "kind"),
    ],
)
def test_a_wrong_spec_is_refused_and_its_field_named(world, body, path):
    error = refused(world.client().post("/runs", content=body, headers=JSON), 400, "spec")
    if path is not None:
        assert error["details"].get("path", "") == path
    assert world.client().get("/runs").json()["total"] == 0


def test_ten_megabytes_of_parameters_are_too_large(world):
    answer = world.client().post("/runs", json={"command": ["true"], "params": {"x": "y" * 10_000_000}})
    assert refused(answer, 413, "too_large")["details"]["path"] == "params"


def test_a_body_over_the_limit_is_refused_while_it_arrives(world):
    parts = (b" " * 1_000_000 for _ in range(13))  # chunked: nothing announces its size
    refused(world.client().post("/runs", content=parts, headers=JSON), 413, "too_large")
    announced = world.client().post("/runs", content=b"{}", headers={**JSON, "Content-Length": "99999999999"})
    refused(announced, 413, "too_large")


def test_gzip_is_understood_and_a_bomb_is_not(world):
    client = world.client()
    good = gzip.compress(json.dumps({"command": ["true"]}).encode())
    assert client.post("/runs", content=good, headers={**JSON, "Content-Encoding": "gzip"}).status_code == 201
    bomb = gzip.compress(b" " * 300_000_000, compresslevel=1)
    refused(client.post("/runs", content=bomb, headers={**JSON, "Content-Encoding": "gzip"}), 413, "too_large")
    refused(client.post("/runs", content=good[:-9], headers={**JSON, "Content-Encoding": "gzip"}), 400, "usage")
    refused(client.post("/runs", content=b"no gzip", headers={**JSON, "Content-Encoding": "gzip"}), 400, "usage")
    refused(client.post("/runs", content=zlib.compress(b"{}"), headers={**JSON, "Content-Encoding": "br"}), 400, "usage")


@pytest.mark.parametrize("depth", [70, 500, 900, 100_000])
def test_a_tower_of_brackets_is_refused(world, depth):
    body = b'{"command": ["true"], "params": {"a": ' + b"[" * depth + b"]" * depth + b"}}"
    refused(world.client().post("/runs", content=body, headers=JSON), 400, "spec")


def test_an_unknown_project_is_named_with_those_there_are(world):
    for answer in (
        world.client().post("/runs", json={"command": ["true"], "project": "nope"}),
        world.client().get("/runs", params={"project": "nope"}),
        world.client().get("/datasets", params={"project": "nope"}),
        world.client().get("/models", params={"project": "nope"}),
        world.client().get("/endpoints", params={"project": "nope"}),
        world.client().get("/secrets", params={"project": "nope"}),
        world.client().get("/sweeps", params={"project": "nope"}),
        world.client().get("/pipelines", params={"project": "nope"}),
        world.client().post("/endpoints/x/predict?project=nope", json={}),
    ):
        assert "known: default" in refused(answer, 404, "not_found")["message"]


@pytest.mark.parametrize("text", ["%00", "a%0Ab", "%1b[31m", "%7f"])
def test_control_characters_in_an_address_are_refused(world, text):
    refused(world.client().get(f"/runs/{text}"), 400, "usage")
    refused(world.client().get(f"/runs?text={text}"), 400, "usage")


@pytest.mark.parametrize("ref", ["..", "%2e%2e%2fx", "a" * 5000, "%ff%fe", "'; DROP TABLE runs; --", "%25", "_", "*"])
def test_a_strange_ref_is_just_not_found(world, ref):
    assert world.client().get(f"/runs/{ref}").status_code in (404, 400)


@pytest.mark.parametrize("name", ["../x", "a/../b", "", " ", "-a", "a b", "x" * 200, "a\u0000", "\u202e"])
def test_strange_names_are_refused(world, name):
    client = world.client()
    for path, body in (
        ("/users", {"name": name}),
        ("/projects", {"name": name}),
        ("/tokens", {"name": name}),
        ("/endpoints", {"name": name, "model": "m"}),
        ("/pipelines", {"name": name, "graph": {"steps": []}}),
    ):
        refused(client.post(path, json=body), 400)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "archived=perhaps", "state=sleeping", "order=random", "cursor=garbage", "limit=1e3"],
)
def test_a_wrong_question_is_refused(world, query):
    world.submit()
    refused(world.client().get(f"/runs?{query}"), 400)


@pytest.mark.parametrize(
    "path", ["/runs/x/wait?timeout_s=nan", "/runs/x/wait?timeout_s=1e9", "/runs/x/logs?offset=1e99", "/events?since=-1"]
)
def test_wrong_numbers_in_a_question_are_refused(world, path):
    refused(world.client().get(path), 400, "spec")


def test_what_is_not_there_and_what_is_not_allowed(world):
    refused(world.client().get("/nothing"), 404, "not_found")
    wrong = world.client().put("/runs")
    refused(wrong, 405)
    refused(world.client().get("/../../etc/passwd"), 404)
    refused(world.client().get("http://127.0.0.1:8765/elsewhere"), 404)


def test_numbers_that_no_column_holds_are_refused(world):
    client = world.client()
    refused(client.put("/models/m/aliases/a", json={"number": 10**30}), 400)
    refused(client.put("/models/m/aliases/a", json={"number": -1}), 400)
    gate = {"objective": {"name": "o", "kpi": "k"}, "figures": {"k": 1.0}, "model_version": 2**62}
    refused(client.post("/gates", json=gate), 400)
    refused(client.post("/tokens", json={"name": "t", "expires_in_s": 1e300}), 400)
    refused(client.post("/tokens", json={"name": "t", "expires_in_s": -5}), 400)
    refused(client.post("/tokens", content=b'{"name": "t", "expires_in_s": 1e999}', headers=JSON), 400)
