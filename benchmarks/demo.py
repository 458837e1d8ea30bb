"""How long the demo takes once installed: from typing `scripts/demo` to its end, with nothing left running."""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import report

ROOT = Path(__file__).resolve().parents[1]
GOAL_S, LIMIT_S = 60.0, 600.0


def main() -> None:
    """Report the median of several demos, and of the story in them; exits with 1 when one of them fails."""
    parser = argparse.ArgumentParser(prog="scripts/bench demo")
    parser.add_argument("--times", type=int, default=3, help="so many demos, one after another; default 3")
    times = parser.parse_args().times
    told = [played() for _ in range(times)]
    conditions: dict[str, object] = {"demos": times, "goal_s": GOAL_S, "installed": True}
    whole = [one for one, _ in told]
    report("demo", "scripts/demo, from typing it to its end", statistics.median(whole), "s", conditions=conditions)
    report("demo", "the slowest", max(whole), "s", conditions=conditions)
    report("demo", "the story in it", statistics.median(story for _, story in told), "s", conditions=conditions)


def played() -> tuple[float, float]:
    """Play the demo in a folder of its own; return its seconds, and those that it says its story took."""
    with tempfile.TemporaryDirectory(prefix="mainspring-bench-") as folder:
        env = {key: value for key, value in os.environ.items() if not key.startswith("MAINSPRING_")}
        env |= {"TMPDIR": folder, "MAINSPRING_HOME": f"{folder}/home", "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "160"}
        began = time.perf_counter()
        out_and_err: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        demo = subprocess.Popen(["scripts/demo"], cwd=ROOT, env=env, start_new_session=True, **out_and_err)
        try:
            out, _ = demo.communicate(timeout=LIMIT_S)
        except BaseException:  # a time-out, or we are told to end: it cleans up after itself when it is told so
            os.killpg(demo.pid, signal.SIGTERM)
            demo.communicate()
            raise
        seconds = time.perf_counter() - began
    said = re.search(r"Took\s+([\d.]+) s", out)
    if demo.returncode != 0 or said is None:
        sys.exit(f"the demo ended with {demo.returncode}: {out[-2000:]}")
    return seconds, float(said[1])


if __name__ == "__main__":
    main()
