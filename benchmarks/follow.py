"""How far a follower of a log lags behind the program that prints."""

from __future__ import annotations

import base64
import json
import sys
import time

from benchmarks.installation import PREFIX, installation
from benchmarks.report import percentile, report

LINES, PAUSE_S = 100, 0.05
PRINTING = f"import time\nfor n in range({LINES}):\n    print(repr(time.time()), flush=True)\n    time.sleep({PAUSE_S})\n"


def main() -> None:
    """Report percentiles over lines, from the moment before a line was printed to the moment the follower had it."""
    lags: list[float] = []
    with installation() as server:
        run = server.submit(sys.executable, "-S", "-c", PRINTING)
        left = b""
        with server.http.stream("GET", f"{PREFIX}/runs/{run}/logs/follow") as answer:
            kind = ""
            for line in answer.iter_lines():
                now = time.time()
                if line.startswith("event:"):
                    kind = line[6:].strip()
                elif line.startswith("data:") and kind == "log":
                    left += base64.b64decode(json.loads(line[5:])["data"])
                    *whole, left = left.split(b"\n")
                    lags += [1000 * (now - float(one)) for one in whole]
                elif line.startswith("data:") and kind == "end":
                    break
    conditions: dict[str, object] = {"lines": len(lags), "every_s": PAUSE_S, "follower": "server-sent events"}
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        report("follow", f"lag {name}", percentile(lags[5:], share), "ms", conditions=conditions)
    if len(lags) != LINES:
        raise SystemExit(f"{len(lags)} of {LINES} lines arrived")


if __name__ == "__main__":
    main()
