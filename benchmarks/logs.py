"""What a flood of log lines costs: the program that prints them, the server that stores them, and whoever asks it meanwhile.

The same program prints into a file, and as a run. Rounds of the two take turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.installation import Installation, cpu_seconds, installation
from benchmarks.report import percentile, report

LINES, ROUNDS = 100_000, 5
# It flushes each line, as a program that is watched does; what it says last is how long it took, and when it was done.
PRINTING = """
import sys, time
write, flush = sys.stdout.write, sys.stdout.flush
began = time.perf_counter()
for n in range({lines}):
    write("line %06d of a program that has much to tell, loss 0.12345, accuracy 0.98765\\n" % n)
    flush()
took = time.perf_counter() - began
write("took %r %r\\n" % (took, time.time()))
"""


@dataclass(slots=True)
class Asker:
    """Asks the server what people ask, all the time, and keeps how long each answer took (ms)."""

    server: Installation
    waits: list[float] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask until it is over."""
        while not self.is_over.wait(0.02):
            for path in ("/runs?limit=50", "/status"):
                began = time.perf_counter()
                self.server.http.get(f"/api/v1{path}").raise_for_status()
                self.waits.append(1000 * (time.perf_counter() - began))


def main() -> None:
    """Report the process's time over that with `> file`, lines stored a second, and how the server answered meanwhile."""
    parser = argparse.ArgumentParser(prog="scripts/bench logs")
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    bare: list[float] = []
    ours: list[float] = []
    rates: list[float] = []
    cpu: list[float] = []
    with installation() as server, tempfile.TemporaryDirectory(prefix="mainspring-bench-") as folder:
        quiet = Asker(server)
        meanwhile(quiet, lambda: time.sleep(3.0))
        busy = Asker(server)
        for _ in range(asked.rounds):
            bare.append(to_file(Path(folder), asked.lines))
            before = cpu_seconds(server.pid)
            meanwhile(busy, lambda: through(server, asked.lines, ours, rates))
            cpu.append(1e6 * (cpu_seconds(server.pid) - before) / asked.lines)
    conditions: dict[str, object] = {
        "lines": asked.lines,
        "rounds": asked.rounds,
        "flushed": "each line",
        "answers": len(busy.waits),
    }
    took, alone = statistics.median(ours), statistics.median(bare)
    report("logs", "the program's own time", took, "s", peer="> file", peer_value=alone, conditions=conditions)
    report(
        "logs", "lines printed", asked.lines / took, "1/s", peer="> file", peer_value=asked.lines / alone, conditions=conditions
    )
    report("logs", "lines stored", statistics.median(rates), "1/s", conditions=conditions)
    report("logs", "the server's CPU time for a line, answers included", statistics.median(cpu), "us", conditions=conditions)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        still, flooded = percentile(quiet.waits, share), percentile(busy.waits, share)
        report("logs", f"an answer meanwhile, {name}", flooded, "ms", peer="at rest", peer_value=still, conditions=conditions)


def meanwhile(asker: Asker, work: Callable[[], object]) -> None:
    """Do `work` while somebody asks."""
    asker.is_over.clear()
    thread = threading.Thread(target=asker.ask, daemon=True)
    thread.start()
    try:
        work()
    finally:
        asker.is_over.set()
        thread.join()


def to_file(folder: Path, lines: int) -> float:
    """Return the seconds that the program says it took when it prints into a file."""
    place = folder / "bare.log"
    with place.open("wb") as file:
        subprocess.run([sys.executable, "-S", "-c", PRINTING.format(lines=lines)], stdout=file, check=True)
    return float(place.read_text().splitlines()[-1].split()[1])


def through(server: Installation, lines: int, took: list[float], rates: list[float]) -> None:
    """Run the program; add its seconds, and the lines a second from its first line to when the last one could be read."""
    run = server.submit(sys.executable, "-S", "-c", PRINTING.format(lines=lines))
    end = time.monotonic() + 300
    while True:
        tail = server.http.get(f"/api/v1/runs/{run}/logs", params={"offset": -200})
        last = tail.text.splitlines()[-1:] if tail.status_code == 200 else []
        if last and last[0].startswith("took ") and tail.text.endswith("\n"):
            break
        if time.monotonic() > end:
            raise TimeoutError(f"{run}: its lines did not arrive")
        time.sleep(0.01)
    seen = time.time()
    _, seconds, done = last[0].split()
    took.append(float(seconds))
    rates.append(lines / (seen - (float(done) - float(seconds))))
    server.wait(run)
    check_all(server, run, lines)


def check_all(server: Installation, run: str, lines: int) -> None:
    """Raise when a line is missing or doubled."""
    found = b""
    while part := server.http.get(f"/api/v1/runs/{run}/logs", params={"offset": len(found), "limit": 8 << 20}).content:
        found += part
    told = [line for line in found.split(b"\n") if line.startswith(b"line ")]
    if [int(line.split()[1]) for line in told] != list(range(lines)):
        raise SystemExit(f"{len(told):,} of {lines:,} lines arrived, or not in order")


if __name__ == "__main__":
    main()
