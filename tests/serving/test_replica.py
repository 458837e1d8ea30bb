"""The process as a runner sees it: it says where it is, answers, and ends in order."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

FIELDS = ["dep_hour", "distance", "day", "wind"]


def records(rows: np.ndarray) -> list[dict[str, float]]:
    return [dict(zip(FIELDS, map(float, row), strict=True)) for row in rows]


def test_predictions_are_those_of_the_model(replica, classifier, table) -> None:
    rows = table[0][:50]
    got = replica.http.post("/predict", json={"records": records(rows)}).json()["predictions"]
    assert [one["label"] for one in got] == classifier.predict(rows).tolist()
    np.testing.assert_allclose([one["probability"] for one in got], classifier.predict_proba(rows)[:, 1], atol=1e-5)


def test_one_record_a_list_and_a_wrapped_list_are_the_same(replica, table) -> None:
    [record] = records(table[0][:1])
    answers = [replica.http.post("/predict", json=body).json() for body in (record, [record], {"records": [record]})]
    assert answers[0] == answers[1] == answers[2]
    assert set(answers[0]["predictions"][0]) == {"label", "probability"}


def test_lightgbm_with_a_zipmap_agrees_with_lightgbm(start, lightgbm_folder, table) -> None:
    folder, expected = lightgbm_folder
    http = start(folder).http
    assert [one["shape"] for one in http.get("/v2/models/lgbm").json()["outputs"]] == [[-1], [-1, -1]]
    got = http.post("/predict", json=records(table[0])).json()["predictions"]
    np.testing.assert_allclose([one["probability"] for one in got], expected, atol=1e-4)
    assert [one["label"] for one in got] == (expected > 0.5).astype(int).tolist()


def test_native_classifier_agrees_with_onnx(start, replica, native_folder, table) -> None:
    rows = records(table[0][:20])
    native = start(native_folder).http.post("/predict", json=rows).json()["predictions"]
    onnx = replica.http.post("/predict", json=rows).json()["predictions"]
    assert [one["label"] for one in native] == [one["label"] for one in onnx]


def test_a_native_model_needs_no_onnx(native_folder: Path) -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from pathlib import Path; from mainspring.serving.app import build_app\n"
        "from mainspring.serving.models import load_model\n"
        "build_app(load_model(Path(sys.argv[1]))); print('built')"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(native_folder)], capture_output=True, text=True, timeout=60)
    assert ended.stdout.strip() == "built", ended.stderr


def test_text_columns_and_an_absent_optional_field(start, mixed_folder) -> None:
    http = start(mixed_folder).http
    full = http.post("/predict", json={"carrier": "AA", "hour": 10, "wind": 10.0}).json()["predictions"]
    assert full == pytest.approx([20.0], abs=1e-6)
    assert (
        http.post("/predict", json=[{"carrier": "new", "hour": 1}, {"carrier": "AA", "hour": 1, "wind": None}]).status_code == 200
    )
    wrong = http.post("/predict", json={"carrier": "AA", "hour": 1.5})
    assert (wrong.status_code, wrong.json()["error"]["details"]["field"]) == (400, "hour")


def test_open_inference_protocol(replica, table, classifier) -> None:
    http = replica.http
    assert http.get("/v2").json()["name"] == "mainspring"
    assert http.get("/v2/health/live").status_code == http.get("/v2/health/ready").status_code == 200
    assert http.get("/v2/models/delays/ready").json() == {"name": "delays", "ready": True}
    metadata = http.get("/v2/models/delays").json()
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["versions"] == ["3"]
    rows = table[0][:3]
    tensor = {"name": "X", "shape": [3, 4], "datatype": "FP32"}
    flat = http.post(
        "/v2/models/delays/infer", json={"id": "a", "inputs": [{**tensor, "data": rows.reshape(-1).tolist()}]}
    ).json()
    nested = http.post("/v2/models/delays/infer", json={"inputs": [{**tensor, "data": rows.tolist()}]}).json()
    assert (flat["id"], flat["model_name"], flat["model_version"]) == ("a", "delays", "3")
    assert flat["outputs"] == nested["outputs"]
    label, probabilities = flat["outputs"]
    assert (label["datatype"], label["shape"], label["data"]) == ("INT64", [3], classifier.predict(rows).tolist())
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [3, 2])
    one = http.post(
        "/v2/models/delays/infer", json={"inputs": [{**tensor, "data": rows.tolist()}], "outputs": [{"name": "label"}]}
    ).json()
    assert [output["name"] for output in one["outputs"]] == ["label"]


def test_schema_and_metrics(replica, table) -> None:
    schema = replica.http.get("/schema").json()
    assert [field["name"] for field in schema["fields"]] == FIELDS
    assert schema["verification"] == {"rows": 200}

    def rows_counted() -> int:
        lines = replica.http.get("/metrics").text.splitlines()
        return int(next(line for line in lines if line.startswith("mainspring_serving_rows_total")).split()[-1])

    before = rows_counted()
    replica.http.post("/predict", json=records(table[0][:7]))
    assert rows_counted() == before + 7


def test_term_finishes_what_is_in_flight_and_exits_zero(start, onnx_folder, table) -> None:
    made = start(onnx_folder)
    host, _, port = made.address.partition(":")
    body = json.dumps(records(table[0][:1])).encode()
    with socket.create_connection((host, int(port)), timeout=20) as client:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body[:10])
        assert made.http.get("/v2/health/live").status_code == 200  # the loop has read the other connection by now, or will first
        made.process.terminate()
        client.sendall(body[10:])
        answer = client.recv(65536)
    assert b"200 OK" in answer
    status, out, err = made.end()
    assert (status, out.strip(), err) == (0, f"serving on http://{made.address}", "")


def test_many_clients_at_once_get_their_own_answers(start, native_folder, classifier, table) -> None:
    """The slow path batches requests that arrive together: nobody may get another's rows."""
    made = start(native_folder)
    expected = classifier.predict_proba(table[0])[:, 1]
    wrong: list[int] = []

    def ask(numbers: range) -> None:
        for number in numbers:
            rows = table[0][number : number + 1 + number % 3]
            got = made.http.post("/predict", json=records(rows)).json()["predictions"]
            if not np.allclose([one["probability"] for one in got], expected[number : number + len(rows)], atol=1e-5):
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(range(part, 120, 8),)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "model.json"),
        ({"model.json": "{"}, "JSON"),
        ({"model.json": '{"format": "java", "signature": {}}'}, "java"),
        ({"model.json": '{"format": "onnx", "signature": {}}'}, "no inputs"),
        ({"model.json": '{"format": "onnx", "signature": {"inputs": [{"name": "a"}]}}'}, "model.onnx"),
        (
            {"model.json": '{"format": "onnx", "signature": {"inputs": [{"name": "a"}]}}', "model.onnx": "junk"},
            "cannot be opened",
        ),
        (
            {"model.json": '{"format": "native", "signature": {"inputs": [{"name": "a"}]}}', "model.pkl": "junk"},
            "cannot be opened",
        ),
    ],
)
def test_a_broken_folder_is_a_sentence_not_a_traceback(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "mainspring.serving", "--model", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_said(start: Callable[..., object], onnx_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "mainspring.serving", "--model", str(onnx_folder), "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "Cannot listen" in ended.stderr
