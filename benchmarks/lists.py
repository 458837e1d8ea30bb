"""How long the list of runs and the web pages take when there are 10,000 runs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

from benchmarks.installation import PREFIX, Installation, installation
from benchmarks.report import percentile, report

ROUNDS = 40
FORESEEN, REST_S = 1000, 0.5


def main() -> None:
    """Fill the queue behind a run that holds the one GPU, then read pages of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    given = parser.parse_args()
    with installation(gpus=1) as server:
        holder = server.submit("sleep", "3600", gpu_milli=1000)
        foresee(server, min(FORESEEN, given.runs))
        began = time.perf_counter()
        for number in range(FORESEEN, given.runs):
            server.submit("true", gpu_milli=1000, name=f"waiting-{number:05}")
        submitted = max(0, given.runs - FORESEEN) / (time.perf_counter() - began)
        conditions: dict[str, object] = {"runs": given.runs, "rounds": ROUNDS, "page": 50}
        report("lists", "submitted", submitted, "1/s", conditions=conditions)
        listed = server.get("/runs", limit=50)
        lists: dict[str, Callable[[], object]] = {
            "newest": lambda: server.get("/runs", limit=50),
            "second page": lambda: server.get("/runs", limit=50, cursor=listed["cursor"]),
            "by state": lambda: server.get("/runs", limit=50, state="running"),
            "by text": lambda: server.get("/runs", limit=50, text="waiting-0777"),
            "one run": lambda: server.get(f"/runs/{holder}"),
        }
        for name, read in lists.items():
            times = timed(read)
            report("lists", f"{name} p50", percentile(times, 0.5), "ms", conditions=conditions)
            report("lists", f"{name} p99", percentile(times, 0.99), "ms", conditions=conditions)
        last = listed["items"][0]["id"]
        pages = {"web page": "/runs", "web page of a waiting run": f"/runs/{last}", "web page of the queue": "/queue"}
        for name, path in pages.items():
            times = timed(partial(server.open_page, path))
            report("lists", f"{name} p50", percentile(times, 0.5), "ms", conditions=conditions)
        server.http.post(f"{PREFIX}/runs/{holder}/cancel", json={"grace_s": 0})


def foresee(server: Installation, count: int) -> None:
    """Let so many runs wait; report how long it takes to be told when one of them starts, right after the other."""
    waiting = [server.submit("true", gpu_milli=1000, name=f"waiting-{number:05}") for number in range(count)]
    asked = iter(waiting[:: max(1, count // (ROUNDS + 1))])

    def ask() -> object:
        time.sleep(REST_S)  # so that a part of them is answered from a sample of their own
        return server.get(f"/runs/{next(asked)}/forecast")

    times = [one - 1000 * REST_S for one in timed(ask)]
    for name, part in (("p50", 0.5), ("p99", 0.99)):
        conditions: dict[str, object] = {"waiting": count, "rounds": ROUNDS, "rest_s": REST_S}
        report("lists", f"forecast of a run {name}", percentile(times, part), "ms", conditions=conditions)


def timed(read: Callable[[], object]) -> list[float]:
    """Return the milliseconds of each reading; the first one is left out."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        read()
        times.append(1000 * (time.perf_counter() - began))
    return times[1:]


if __name__ == "__main__":
    main()
