"""How many predictions a replica answers, and the gateway in front of it: one record a request, 16 clients, keep-alive."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lightgbm
import numpy as np
import uvloop
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from benchmarks.installation import PREFIX, Installation, installation
from benchmarks.report import peer_name, percentile, report

CLIENTS, REQUESTS, GATEWAY_REQUESTS = 16, 20_000, 6_000
FIELDS = [f"f{number}" for number in range(10)]
RECORD = {name: round(0.1 * position, 1) for position, name in enumerate(FIELDS)}
CONDITIONS: dict[str, object] = {"model": "lightgbm 100 trees of 31 leaves, 10 features, onnx", "rows": 1}


PEER_REQUESTS = 2_000
SAVE = """
import sys, onnx, mlflow.onnx
mlflow.onnx.save_model(onnx.load(sys.argv[1]), sys.argv[2], onnx_execution_providers=["CPUExecutionProvider"])
"""


@dataclass(frozen=True)
class Peer:
    """What a peer gives: requests a second, and the seconds of each."""

    name: str
    rate: float
    seconds: list[float]


def main() -> None:
    """Report the replica alone, then through the gateway of a real installation (`--replica` leaves that out)."""
    with tempfile.TemporaryDirectory(prefix="mainspring-bench-") as scratch:
        folder = make_model(Path(scratch) / "model")
        peer = peer_of(folder, Path(scratch))
        with replica(folder, Path(scratch)) as address:
            headers = {"content-type": "application/json"}
            measure("replica", f"http://{address}/predict", headers, json.dumps(RECORD).encode(), REQUESTS, CLIENTS, peer=peer)
            measure("replica", f"http://{address}/predict", headers, json.dumps(RECORD).encode(), 2_000, 1)
            tensor = {"name": "X", "shape": [1, 10], "datatype": "FP32", "data": list(RECORD.values())}
            body = json.dumps({"inputs": [tensor]}).encode()
            measure("replica v2", f"http://{address}/v2/models/bench/infer", headers, body, REQUESTS, CLIENTS)
        if "--replica" not in sys.argv[1:]:
            with installation() as server:
                try:
                    deploy(server, folder)
                    headers = {"content-type": "application/json", "authorization": str(server.http.headers["authorization"])}
                    url = f"{server.url}{PREFIX}/endpoints/bench/predict"
                    measure("gateway", url, headers, json.dumps({"records": [RECORD]}).encode(), GATEWAY_REQUESTS, CLIENTS)
                finally:
                    withdraw(server)


def measure(
    what: str, url: str, headers: dict[str, str], body: bytes, requests: int, clients: int, *, peer: Peer | None = None
) -> None:
    """Send `requests` from `clients` connections and report rate and latencies. Ends the bench at the first wrong answer."""
    uvloop.run(load(url, headers, body, clients * 20, clients))  # warm
    took_s, seconds = uvloop.run(load(url, headers, body, requests, clients))
    conditions = {**CONDITIONS, "clients": clients, "requests": len(seconds)}
    beside = {} if peer is None else {"peer": peer.name}
    rate = None if peer is None else peer.rate
    report(
        "serving",
        f"{what} requests, {clients} clients",
        len(seconds) / took_s,
        "1/s",
        peer_value=rate,
        conditions=conditions,
        **beside,
    )
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        value, theirs = 1000 * percentile(seconds, share), None if peer is None else 1000 * percentile(peer.seconds, share)
        report("serving", f"{what} {name}, {clients} clients", value, "ms", peer_value=theirs, conditions=conditions, **beside)


def peer_of(folder: Path, scratch: Path) -> Peer | None:
    """Return what `mlflow models serve` gives with the same ONNX model, asked by as many clients; None without mlflow."""
    name = peer_name("mlflow")
    if not name:
        return None
    saved, port = scratch / "mlflow", free_port()
    subprocess.run([sys.executable, "-c", SAVE, str(folder / "model.onnx"), str(saved)], check=True, capture_output=True)
    words = ["models", "serve", "--model-uri", str(saved), "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with (scratch / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "mlflow", *words],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )
    try:
        url, headers = f"http://127.0.0.1:{port}/invocations", {"content-type": "application/json"}
        wait_for(f"http://127.0.0.1:{port}/ping", process, scratch / "mlflow.log")
        body = json.dumps({"inputs": {"X": [list(RECORD.values())]}}).encode()
        uvloop.run(load(url, headers, body, CLIENTS * 4, CLIENTS))
        took_s, seconds = uvloop.run(load(url, headers, body, PEER_REQUESTS, CLIENTS))
        return Peer(f"{name}, models serve", len(seconds) / took_s, seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as wrong:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"mlflow models serve does not start: {log.read_text()[-2000:]}") from wrong
            time.sleep(0.1)


async def load(url: str, headers: dict[str, str], body: bytes, requests: int, clients: int) -> tuple[float, list[float]]:
    """Return (seconds in all, seconds of each request)."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    seconds: list[float] = []

    async def client(count: int) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for _ in range(count):
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{url}: {head.decode()}{(await reader.read(2000)).decode()}")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            seconds.append(time.perf_counter() - began)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client(requests // clients) for _ in range(clients)))
    return time.perf_counter() - began, seconds


def make_model(folder: Path) -> Path:
    """Train a small model and return its folder."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(5_000, len(FIELDS))).astype(np.float32)
    fitted = lightgbm.LGBMClassifier(n_estimators=100, num_leaves=31, verbose=-1, n_jobs=1)
    fitted.fit(rows, (rows[:, 0] * rows[:, 1] + rows[:, 2] > 0).astype(int))
    made = convert_lightgbm(fitted, initial_types=[("X", FloatTensorType([None, len(FIELDS)]))], zipmap=False, target_opset=15)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    (folder / "model.json").write_text(json.dumps({"format": "onnx", "name": "bench", "signature": signature()}))
    return folder


def signature() -> dict[str, Any]:
    """Return the signature of the model."""
    return {"inputs": [{"name": name, "dtype": "float32"} for name in FIELDS], "outputs": []}


@contextmanager
def replica(folder: Path, spool: Path) -> Iterator[str]:
    """Start a replica with one thread; yield its address."""
    env = {**os.environ, "MAINSPRING_SPOOL": str(spool), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mainspring.serving", "--model", str(folder)]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 30
            while not (spool / "address").exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit("the replica does not start")
                time.sleep(0.02)
            yield (spool / "address").read_text()
        finally:
            process.terminate()


def deploy(server: Installation, folder: Path) -> None:
    """Register the model of `folder` and wait until its endpoint answers."""
    files = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        server.http.put(f"{PREFIX}/blobs/{digest}", content=data).raise_for_status()
        files.append({"digest": digest, "mode": 0o644, "path": path.name, "size": len(data)})
    manifest = json.dumps({"files": files}, separators=(",", ":"), sort_keys=True).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    server.http.put(f"{PREFIX}/blobs/{digest}", content=manifest).raise_for_status()
    version = {"manifest": digest, "format": "onnx", "signature": signature()}
    server.http.post(f"{PREFIX}/models/bench/versions", json=version).raise_for_status()
    server.http.post(f"{PREFIX}/endpoints", json={"name": "bench", "model": "bench@1"}).raise_for_status()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if server.http.post(f"{PREFIX}/endpoints/bench/predict", json={"records": [RECORD]}).status_code == 200:
            return
        time.sleep(0.2)
    raise SystemExit("the endpoint does not answer")


def withdraw(server: Installation) -> None:
    """Stop the endpoint and wait until its replica has ended: runs outlive the server that is taken down next."""
    server.http.delete(f"{PREFIX}/endpoints/bench")
    end = time.monotonic() + 20
    while server.get("/runs", state="running", limit=1)["items"] and time.monotonic() < end:
        time.sleep(0.2)


if __name__ == "__main__":
    main()
