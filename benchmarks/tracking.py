"""What `log_metric` costs in the user's process, and how many points a second are stored."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.installation import command, installation
from benchmarks.report import peer_name, report
from benchmarks.server import mlflow_server

CALLS, POINTS, PEER_CALLS = 200_000, 500_000, 300
LOGGING = """
import sys, time
import mainspring as ms
ms.log_metric("warm", 0.0)
began = time.perf_counter()
for step in range({calls}):
    ms.log_metric("loss", 0.5, step=step)
print("took", time.perf_counter() - began)
"""
PEER = """
import time, mlflow
mlflow.set_tracking_uri({url!r})
with mlflow.start_run():
    mlflow.log_metric("warm", 0.0)
    began = time.perf_counter()
    for step in range({calls}):
        mlflow.log_metric("loss", 0.5, step=step)
    print("took", time.perf_counter() - began)
"""


def main() -> None:
    """Report microseconds a call, and stored points a second from the first one logged to the last one readable."""
    peer = peer_name("mlflow")
    peer_us = None
    if peer:
        with mlflow_server() as (url, _, _):
            peer_us = 1e6 * took(PEER.format(url=url, calls=PEER_CALLS), {}) / PEER_CALLS
    with tempfile.TemporaryDirectory(prefix="mainspring-bench-") as folder:
        spool = Path(folder)
        ours_us = 1e6 * took(LOGGING.format(calls=CALLS), {"MAINSPRING_SPOOL": str(spool)}) / CALLS
        written = sum(1 for path in spool.glob("metrics*") for _ in path.open("rb"))
    conditions: dict[str, object] = {"calls": CALLS, "points": POINTS, "peer_calls": PEER_CALLS}
    report("tracking", "log_metric", ours_us, "us", peer=peer, peer_value=peer_us, conditions={**conditions, "spooled": written})
    rate = stored_rate()
    report(
        "tracking", "points stored", rate, "1/s", peer=peer, peer_value=1e6 / peer_us if peer_us else None, conditions=conditions
    )


def took(script: str, env: dict[str, str]) -> float:
    """Return the seconds that a script says it took."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **env}, check=True)
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("took ")]  # a peer prints more than that
    return float(said.split()[1])


def stored_rate() -> float:
    """Return points a second: a run logs them, and we wait until the server has the last one."""
    with installation() as server, tempfile.TemporaryDirectory(prefix="mainspring-bench-") as folder:
        script = Path(folder) / "points.py"
        script.write_text(LOGGING.format(calls=POINTS), encoding="utf-8")
        done = command(server.home, "run", str(script), "--name", "points", "--detach", timeout_s=120)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        began, end = 0.0, time.monotonic() + 180
        while time.monotonic() < end:
            count = int(server.get("/runs/points/metrics").get("loss", {}).get("count", 0))
            if count and not began:
                began = time.perf_counter()
                first = count
            if count >= POINTS:
                return (POINTS - first) / max(time.perf_counter() - began, 1e-6)
            time.sleep(0.02)
    raise TimeoutError("the points did not arrive")


if __name__ == "__main__":
    main()
