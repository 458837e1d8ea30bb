"""What a run with a lock waits for when its environment is ready: beside the same run with what the node has, in turns."""

from __future__ import annotations

import hashlib
import sys
import time

from benchmarks.installation import PREFIX, Installation, installation
from benchmarks.report import percentile, report

ROUNDS, WARM = 30, 3
TOLD = "import time; print(time.time())"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def main() -> None:
    """Report the medians of both, and what the lock adds. The environment is an empty lock's: what it holds is not read."""
    plain: list[float] = []
    ready: list[float] = []
    with installation() as server:
        lock = keep(server, b"# nothing\n")
        for number in range(ROUNDS + WARM):
            for environment, delays in (({"interpreter": sys.executable}, plain), ({"interpreter": PYTHON, "lock": lock}, ready)):
                delay = starting(server, environment)
                if number >= WARM:
                    delays.append(delay)
    conditions: dict[str, object] = {"rounds": ROUNDS, "at once": 1}
    for share, name in ((0.5, "p50"), (0.95, "p95")):
        report(
            "environments", f"submit to user code, as it is there {name}", percentile(plain, share), "ms", conditions=conditions
        )
        report("environments", f"submit to user code, ready lock {name}", percentile(ready, share), "ms", conditions=conditions)
    added = percentile(ready, 0.5) - percentile(plain, 0.5)
    report("environments", "a ready environment adds", added, "ms", conditions=conditions)


def keep(server: Installation, data: bytes) -> str:
    """Store a blob; return its digest."""
    digest = hashlib.sha256(data).hexdigest()
    server.http.put(f"{PREFIX}/blobs/{digest}", content=data).raise_for_status()
    return digest


def starting(server: Installation, environment: dict[str, str]) -> float:
    """Return the milliseconds from submitting a run of Python until its code runs."""
    spec = {"kind": "command", "command": ["python", "-c", TOLD], "environment": environment}
    began = time.time()
    answer = server.http.post(f"{PREFIX}/runs", json=spec)
    answer.raise_for_status()
    run = str(answer.json()["id"])
    server.wait(run)
    return 1000 * (float(server.log(run).split()[-1]) - began)


if __name__ == "__main__":
    main()
