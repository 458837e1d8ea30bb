"""How long `import mainspring` and `mainspring --version` take, in fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import peer_name, report

ROUNDS = 15
TIMED = "import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
LOADED = "import sys; import mainspring; print(int(any(name.split('.')[0] == 'pydantic' for name in sys.modules)))"


def main() -> None:
    """Report medians over rounds, bytecode and file cache warm."""
    bin_folder = Path(sys.executable).parent
    peer = peer_name("mlflow")
    conditions: dict[str, object] = {"rounds": ROUNDS, "median": True, "cache": "warm"}
    report(
        "import",
        "import",
        1000 * importing("mainspring"),
        "ms",
        peer=peer,
        peer_value=1000 * importing("mlflow", rounds=3) if peer else None,
        conditions=conditions,
    )
    first = importing("mainspring as ms; ms.task; ms.log_metric; ms.Dataset; ms.sweep")
    report("import", "import and first names", 1000 * first, "ms", conditions=conditions)
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    report("import", "loads pydantic", done.stdout.strip() == "1", "", conditions=conditions)
    report(
        "import",
        "--version",
        1000 * starting(bin_folder / "mainspring"),
        "ms",
        peer=peer,
        peer_value=1000 * starting(bin_folder / "mlflow", rounds=3) if peer else None,
        conditions=conditions,
    )
    report("import", "bare interpreter", 1000 * starting(Path(sys.executable)), "ms", conditions=conditions)


def importing(name: str, *, rounds: int = ROUNDS) -> float:
    """Return the median seconds of an import inside a fresh process; the first one only warms the caches."""
    script = TIMED.format(name=name)
    times = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()[-1])
        for _ in range(rounds + 1)
    ]
    return statistics.median(times[1:])


def starting(program: Path, *, rounds: int = ROUNDS) -> float:
    """Return the median wall seconds of `program --version`."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run([program, "--version"], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
