"""How long it takes from submitting a run until its user code runs, one run after the other on an idle machine."""

from __future__ import annotations

import time

from benchmarks.installation import installation
from benchmarks.report import percentile, report

RUNS, WARM = 100, 5


def main() -> None:
    """Report percentiles. The user's code is `date`, which prints the moment it runs on the same clock."""
    delays, accepted = [], []
    with installation() as server:
        for number in range(RUNS + WARM):
            began = time.time()
            run = server.submit("date", "+%s.%N")
            answered = time.time()
            server.wait(run)
            if number >= WARM:
                accepted.append(1000 * (answered - began))
                delays.append(1000 * (float(server.log(run).split()[0]) - began))
    conditions: dict[str, object] = {"runs": RUNS, "at once": 1}
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        report("submit", f"submit to user code {name}", percentile(delays, share), "ms", conditions=conditions)
    report("submit", "submit answered p50", percentile(accepted, 0.5), "ms", conditions=conditions)


if __name__ == "__main__":
    main()
