"""Every wrong request gets a 4xx that says what is wrong and where; none gets a traceback."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOOD = {"dep_hour": 1.0, "distance": 2.0, "day": 3.0, "wind": 4.0}
JSON = {"content-type": "application/json"}
INFER = "/v2/models/delays/infer"
TENSOR = {"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}


def without(field: str) -> dict[str, float]:
    return {name: value for name, value in GOOD.items() if name != field}


def refused(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "hint", "details"}
    assert error["message"]
    assert "Traceback" not in answer.text
    return error


@pytest.mark.parametrize(
    ("body", "field", "row"),
    [
        ([GOOD, {**GOOD, "colour": 1}], "colour", 1),
        ([GOOD, GOOD, without("day")], "day", 2),
        ({**GOOD, "wind": "strong"}, "wind", 0),
        ({**GOOD, "wind": None}, "wind", 0),
        ({**GOOD, "wind": True}, "wind", 0),
        ({**GOOD, "wind": [1.0]}, "wind", 0),
        ({"records": [GOOD, {**GOOD, "wind": {"a": 1}}]}, "wind", 1),
        ([{**GOOD, "wind": 1e39}], "wind", 0),
        ({}, "dep_hour", 0),
    ],
    ids=["unknown", "missing", "text", "null", "bool", "list", "object", "too large", "empty"],
)
def test_a_wrong_record_is_named(replica, body: object, field: str, row: int) -> None:
    error = refused(replica.http.post("/predict", json=body), 400)
    assert error["code"] == "spec"
    assert (error["details"]["field"], error["details"]["row"]) == (field, row)
    assert repr(field) in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b"[1]",
        b"[[]]",
        b'{"records": []}',
        b'{"records": {}}',
        b'{"records": null}',
        b'{"instances": [[1, 2, 3, 4]]}',
        json.dumps({"records": [GOOD], "more": 1}).encode(),
        b'{"dep_hour": NaN, "distance": 2, "day": 3, "wind": 4}',
        b'{"dep_hour": Infinity, "distance": 2, "day": 3, "wind": 4}',
        b'{"dep_hour": 1e999, "distance": 2, "day": 3, "wind": 4}',
        b"\xff\xfe\x00",
        b'{"dep_hour": "\xff"}',
        b"[" * 100_000,
        json.dumps(GOOD).encode() + b" trailing",
    ],
)
def test_a_wrong_body_is_refused(replica, body: bytes) -> None:
    refused(replica.http.post("/predict", content=body, headers=JSON), 400)
    refused(replica.http.post(INFER, content=body, headers=JSON), 400)


def test_too_much_is_refused(replica) -> None:
    error = refused(replica.http.post("/predict", json=[GOOD] * 10_001), 413)
    assert error["details"] == {"rows": 10_001, "limit": 10_000}
    assert len(replica.http.post("/predict", json=[GOOD] * 10_000).json()["predictions"]) == 10_000
    big = b'{"dep_hour": ' + b" " * (17 << 20) + b"}"
    refused(replica.http.post("/predict", content=big, headers=JSON), 413)
    refused(replica.http.post("/predict", content=iter([big[: 9 << 20], big[9 << 20 :]]), headers=JSON), 413)
    assert replica.http.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/csv", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/octet-stream"]
)
def test_another_content_type_is_refused(replica, kind: str) -> None:
    error = refused(replica.http.post("/predict", content=b"a,b", headers={"content-type": kind}), 415)
    assert "application/json" in error["hint"]


def test_wrong_paths_and_methods(replica) -> None:
    for path in ("/", "/nothing", "/v2/models/other", "/v2/models/other/infer", "/predict/../../etc/passwd"):
        refused(replica.http.get(path), 404)
    refused(replica.http.post("/v2/models/other/infer", json={}), 404)
    for method, path in (("GET", "/predict"), ("PUT", "/predict"), ("DELETE", "/v2"), ("POST", "/metrics"), ("GET", INFER)):
        refused(replica.http.request(method, path), 405)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "Y"}, "no input 'Y'"),
        ({"datatype": "FP64"}, "FP32"),
        ({"datatype": "BYTES"}, "FP32"),
        ({"shape": [4]}, "shape"),
        ({"shape": [1, 3]}, "shape"),
        ({"shape": [0, 4]}, "shape"),
        ({"shape": [-1, 4]}, "shape"),
        ({"shape": [2, 4]}, "values"),
        ({"shape": [10**30, 4]}, "rows"),
        ({"data": [1, 2, 3]}, "values"),
        ({"data": [1, 2, 3, "4"]}, "does not fit"),
        ({"data": [1, 2, 3, None]}, "does not fit"),
        ({"data": [1, 2, 3, 1e300]}, "too large"),
        ({"data": [[1, 2], 3, 4]}, "unevenly"),
        ({"data": 4}, "not a list"),
        ({"shape": "1,4"}, "shape"),
        ({"data": [[[[[[[[[[1, 2, 3, 4]]]]]]]]]]}, "deep"),
    ],
)
def test_a_wrong_tensor_is_refused(replica, change: dict[str, object], said: str) -> None:
    answer = replica.http.post(INFER, json={"inputs": [{**TENSOR, **change}]})
    error = refused(answer, 413 if said == "rows" else 400)
    assert said in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [TENSOR, TENSOR]},
        {"inputs": [{"name": "X"}]},
        {"inputs": [TENSOR], "outputs": [{"name": "none"}]},
    ],
)
def test_a_wrong_inference_request_is_refused(replica, body: object) -> None:
    refused(replica.http.post(INFER, json=body), 400)


def test_a_client_that_goes_away_hurts_nobody(replica) -> None:
    host, _, port = replica.address.partition(":")
    for sent in (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"\x00\x01junk\r\n\r\n", b""):
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(sent)
    assert replica.http.post("/predict", json=GOOD).status_code == 200


def test_a_model_that_raises_is_a_500_without_its_story(start, strict_folder) -> None:
    made = start(strict_folder)
    answer = made.http.post("/predict", json=[{"carrier": "AA"}, {"carrier": "XX"}])
    error = refused(answer, 500)
    assert error["details"] == {"kind": "ValueError"}
    assert "XX" not in answer.text
    assert made.http.post("/predict", json={"carrier": "AA"}).json() == {"predictions": [pytest.approx(0.0, abs=1e-6)]}
    assert "XX" in made.end()[2]


def test_one_bad_row_does_not_spoil_the_requests_it_was_batched_with(start, strict_folder) -> None:
    http = start(strict_folder).http
    with ThreadPoolExecutor(8) as pool:
        carriers = ["AA", "XX", "UA", "AA"] * 20
        answers = list(pool.map(lambda carrier: http.post("/predict", json={"carrier": carrier}), carriers))
    assert [answer.status_code for answer in answers] == [500 if carrier == "XX" else 200 for carrier in carriers]


keys = st.sampled_from([*GOOD, "records", "x"])
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=12,
)
records = st.lists(st.fixed_dictionaries({name: st.floats() for name in GOOD}))
almost = st.fixed_dictionaries({name: plain for name in GOOD})
tensors = st.fixed_dictionaries(
    {"name": st.sampled_from(["X", "Y"]), "shape": plain, "datatype": st.sampled_from(["FP32", "INT8"]), "data": plain}
)


@pytest.mark.property
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(plain, almost, records))
def test_whatever_json_comes_the_answer_is_a_prediction_or_a_refusal(replica, body: object) -> None:
    answer = replica.http.post("/predict", content=json.dumps(body).encode(), headers=JSON)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        rows = body.get("records", [body]) if isinstance(body, dict) else body
        assert len(answer.json()["predictions"]) == len(rows)
    else:
        refused(answer, 400)


@pytest.mark.property
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors)
def test_whatever_tensor_comes_it_is_refused_in_words(replica, tensor: dict[str, object]) -> None:
    answer = replica.http.post(INFER, content=json.dumps({"inputs": [tensor]}).encode(), headers=JSON)
    refused(answer, 400) if answer.status_code != 413 else refused(answer, 413)
