"""How long the server takes to be ready, and what it costs when nobody asks anything."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.installation import cpu_seconds, installation, pss_mb, rss_mb
from benchmarks.report import peer_name, report

STARTS, SETTLE_S, IDLE_S = 5, 15.0, 20.0


def main() -> None:
    """Report the median of several starts, memory and CPU of one idle server; the same of `mlflow server`."""
    conditions: dict[str, object] = {
        "starts": STARTS,
        "idle_s": IDLE_S,
        "database": "sqlite",
        "memory": "RSS; the peer's: PSS of its processes",
    }
    ready = []
    for number in range(STARTS):
        with installation() as server:
            ready.append(server.ready_s)
            if number == STARTS - 1:
                time.sleep(SETTLE_S)
                memory, share = rss_mb(server.pid), idle_share(server.pid)
                server.open_page("/runs")
                time.sleep(SETTLE_S)
                visited = rss_mb(server.pid)
    peer = peer_name("mlflow")
    peer_ready, peer_memory, peer_share = _measure_mlflow() if peer else (None, None, None)
    report("server", "ready", statistics.median(ready), "s", peer=peer, peer_value=peer_ready, conditions=conditions)
    report("server", "memory idle", memory, "MB", peer=peer, peer_value=peer_memory, conditions=conditions)
    report("server", "memory idle after a visit to the page", visited, "MB", conditions=conditions)
    report("server", "cpu idle", 100 * share, "%", peer=peer, peer_value=peer_share, conditions=conditions)


def idle_share(pid: int) -> float:
    """Return the share of one core that a process uses over `IDLE_S`."""
    before = cpu_seconds(pid)
    time.sleep(IDLE_S)
    return (cpu_seconds(pid) - before) / IDLE_S


def _measure_mlflow() -> tuple[float, float, float]:
    with mlflow_server() as (_, ready, group):
        time.sleep(SETTLE_S)
        pids = members(group)
        memory = sum(pss_mb(pid) for pid in pids)
        before = sum(cpu_seconds(pid) for pid in pids)
        time.sleep(IDLE_S)
        return ready, memory, 100 * (sum(cpu_seconds(pid) for pid in pids) - before) / IDLE_S


@contextmanager
def mlflow_server() -> Iterator[tuple[str, float, int]]:
    """Start `mlflow server` on SQLite; give its address, the seconds until it answered, and its process group."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-bench-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    began = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "mlflow", *words, "--artifacts-destination", str(folder / "artifacts")],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while not _answers(f"{url}/health"):
            if process.poll() is not None or time.perf_counter() - began > 90:
                raise RuntimeError("mlflow server did not start: " + (folder / "log").read_text(encoding="utf-8")[-500:])
            time.sleep(0.02)
        yield url, time.perf_counter() - began, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def members(group: int) -> list[int]:
    """Return the processes of a process group."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ProcessLookupError):
                if os.getpgid(int(folder.name)) == group:
                    found.append(int(folder.name))
    return found


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()
