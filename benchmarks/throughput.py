"""How many runs that do nothing go through the whole path in a second, and the CPU time of each, which load disturbs less."""

from __future__ import annotations

import argparse
import time

from benchmarks.installation import Installation, cpu_seconds, cpu_seconds_below, installation
from benchmarks.report import report


def main() -> None:
    """Report the rate of submitting and the rate of finishing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--cpu-milli", type=int, default=250)
    parser.add_argument("--deadline-s", type=float, default=300)
    given = parser.parse_args()
    with installation() as server:
        server.wait(server.submit("true"))
        own, below = cpu_seconds(server.pid), cpu_seconds_below(server.pid)
        began = time.perf_counter()
        for _ in range(given.runs):
            server.submit("true", cpu_milli=given.cpu_milli)
        submitted_s = time.perf_counter() - began
        ended = _wait_for(server, given.runs + 1, given.deadline_s)
        seconds = time.perf_counter() - began
        counts = server.get("/status")["counts"]
        own, below = cpu_seconds(server.pid) - own, cpu_seconds_below(server.pid) - below
    conditions: dict[str, object] = {"runs": given.runs, "cpu_milli": given.cpu_milli, "counts": counts}
    report("throughput", "submitted", given.runs / submitted_s, "1/s", conditions=conditions)
    report("throughput", "finished", ended / seconds, "1/s", conditions=conditions)
    report("throughput", "cpu of the server per run", 1000 * own / given.runs, "ms", conditions=conditions)
    report("throughput", "cpu of runner and command per run", 1000 * below / given.runs, "ms", conditions=conditions)
    if counts.get("succeeded", 0) < given.runs + 1:
        raise SystemExit(f"only {counts} after {seconds:.0f} s")


def _wait_for(server: Installation, wanted: int, deadline_s: float) -> int:
    end = time.monotonic() + deadline_s
    done = 0
    while time.monotonic() < end:
        counts = server.get("/status")["counts"]
        done = sum(counts.get(state, 0) for state in ("succeeded", "failed", "cancelled"))
        if done >= wanted:
            break
        time.sleep(0.2)
    return done


if __name__ == "__main__":
    main()
