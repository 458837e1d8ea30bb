"""What we cost beside each engine used bare, in one run: the delay until user code runs, and the throughput of 10-second runs.

Last the server's memory with five clusters, idle and beside many pods.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.bare import ENGINES, NOW, Engine, beat, crowd
from benchmarks.installation import PREFIX, Installation, command, installation, rss_mb
from benchmarks.report import report

WARM = 2
START_MILLI = 1000  # a limit of a tenth of a CPU, which the bare engine does not set, would be most of what is measured
SETTLE_S = 15.0
ENDED = ("succeeded", "failed", "cancelled")


def main() -> None:
    """Report the figures of the asked engines."""
    parser = argparse.ArgumentParser(prog="scripts/bench engines")
    parser.add_argument("--engines", default=",".join(ENGINES), help="some of them, with commas")
    parser.add_argument("--starts", type=int, default=20, help="runs whose delay is measured (thrice as many of Slurm); 0: none")
    parser.add_argument("--runs", type=int, default=100, help="runs whose throughput is measured; 0: leave that out")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each of those takes")
    parser.add_argument("--pods", type=int, default=1000, help="pods beside which memory is measured; 0: leave that out")
    given = parser.parse_args()
    asked = [name for name in ENGINES if name in given.engines.split(",")]
    with tempfile.TemporaryDirectory(prefix="mainspring-bench-engines-") as folder:
        for name in asked:
            with ENGINES[name](Path(folder)) as engine, joined(engine) as server:
                if given.starts:  # where the engine's cycle is most of it, the median of a few is off by a quarter of that
                    measure_starts(engine, server, given.starts * (3 if engine.cycle_s else 1))
                if given.runs:
                    measure_throughput(engine, server, given.runs, given.seconds)
        if given.pods and "kubernetes" in asked:
            measure_memory(Path(folder), given.pods)


@contextlib.contextmanager
def joined(*engines: Engine) -> Iterator[Installation]:
    """Start a server with these engines as its clusters."""
    up = [word for engine in engines for word in engine.up]
    env = {name: value for engine in engines for name, value in engine.env.items()}
    with installation(up=up, env=env) as server:
        for engine in engines:
            if engine.add:
                added = command(server.home, "cluster", "add", *engine.add, "--name", engine.name)
                if added.returncode:
                    raise RuntimeError(f"cluster add: {added.stdout}{added.stderr}")
        yield server


def measure_starts(engine: Engine, server: Installation, count: int) -> None:
    """Report the delay from submitting until user code runs, ours and the bare engine's in turns."""
    ours, bare = [], []
    for number, (first, then) in enumerate(phases(engine, count + WARM)):
        time.sleep(first)
        began = time.time()
        told = engine.run(*NOW)
        bare_ms = 1000 * (float(told.split()[0]) - began)
        time.sleep(then)
        began = time.time()
        run = server.submit(*NOW, cpu_milli=START_MILLI, labels={"cluster": engine.name})
        found = server.wait(run, 120)
        if found["state"] != "succeeded":
            raise RuntimeError(f"{engine.name}: {found}")
        if number >= WARM:
            bare.append(bare_ms)
            ours.append(1000 * (float(server.log(run).split()[-1]) - began))
    conditions: dict[str, object] = {"runs": count, "at once": 1, "in turns with": engine.peer}
    middle, peer = statistics.median(ours), statistics.median(bare)
    what = f"{engine.name}: submit to user code"
    report("engines", f"{what} p50", middle, "ms", peer=engine.peer, peer_value=peer, conditions=conditions)
    report("engines", f"{what}, more than bare", middle - peer, "ms", conditions=conditions)


def phases(engine: Engine, count: int) -> list[tuple[float, float]]:
    """Return how long to wait before each bare run and before ours.

    An engine that begins runs once in `cycle_s` makes both wait up to that long: by when they happen to be submitted, unless
    both meet each part of the cycle alike. A whole one is waited out before: as a job ends, whatever waits is begun at once.
    """
    each = [engine.cycle_s * (1 + number / count) for number in range(count)]
    dice = random.Random(count)
    return list(zip(dice.sample(each, count), dice.sample(each, count), strict=True))


def measure_throughput(engine: Engine, server: Installation, count: int, seconds: float) -> None:
    """Report runs in a second, with as many at once on both sides."""
    words = ("sleep", f"{seconds:g}")
    began = time.perf_counter()
    if engine.run_many is not None:
        engine.run_many(count, words)
    else:
        with ThreadPoolExecutor(engine.at_once) as pool:
            list(pool.map(lambda _: engine.run(*words), range(count)))
    bare = count / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(count):
        server.submit(*words, cpu_milli=engine.cpu_milli, name="sleeper", labels={"cluster": engine.name})
    wait_for(server, count)
    ours = count / (time.perf_counter() - began)
    conditions: dict[str, object] = {"runs": count, "at once": engine.at_once, "seconds": seconds}
    what = f"{engine.name}: throughput of {seconds:g}-second runs"
    report("engines", what, ours, "1/s", peer=engine.peer, peer_value=bare, conditions=conditions)


def wait_for(server: Installation, count: int, deadline_s: float = 900) -> None:
    """Wait until so many runs named `sleeper` have succeeded. Raises TimeoutError, RuntimeError for one that has not."""
    end = time.monotonic() + deadline_s
    before = server.get("/status")["counts"]
    wanted = sum(before.get(state, 0) for state in ("succeeded", "queued", "running"))
    while time.monotonic() < end:
        counts = server.get("/status")["counts"]
        if counts.get("failed", 0):
            raise RuntimeError(f"a run has failed: {counts}")
        if counts.get("succeeded", 0) >= wanted:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{count} runs have not ended within {deadline_s:g} s: {counts}")


def measure_memory(folder: Path, pods: int) -> None:
    """Report the server's memory with five clusters, before and beside so many pods of its own."""
    names = ("docker", "ssh", "slurm", "kubernetes")
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(ENGINES[name](folder / "memory")) for name in names]
        server = stack.enter_context(joined(*engines))
        time.sleep(SETTLE_S)
        idle = rss_mb(server.pid)
        cluster = engines[-1].handle
        crowd(cluster, "crowd", pods)
        server.http.post(f"{PREFIX}/clusters/kubernetes/probe").raise_for_status()
        time.sleep(SETTLE_S)
        where = {"cluster": "kubernetes", "node": "kubernetes.crowd"}
        for number in range(pods):
            server.submit("sleep", "3600", cpu_milli=1000, labels=where)
            if number % 20 == 0:
                beat(cluster, "crowd")
        seen = 0
        end = time.monotonic() + 300
        while seen < pods and time.monotonic() < end:
            time.sleep(2.0)
            beat(cluster, "crowd")
            seen = len(cluster.ask("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dcrowd")["items"])
        time.sleep(SETTLE_S)
        conditions: dict[str, object] = {"clusters": 1 + len(names), "pods": seen}
        report("engines", "memory of the server with five clusters", idle, "MB", conditions={**conditions, "pods": 0})
        report("engines", f"memory of the server beside {pods:,} pods", rss_mb(server.pid), "MB", conditions=conditions)


if __name__ == "__main__":
    main()
