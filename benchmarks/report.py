"""Report a figure as one JSON line, with the conditions it was measured under."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version


def report(
    bench: str,
    metric: str,
    value: float | bool,
    unit: str,
    *,
    peer: str = "",
    peer_value: float | None = None,
    conditions: dict[str, object] | None = None,
) -> None:
    """Print one figure. `ratio` is ours over the peer's."""
    line = {
        "bench": bench,
        "metric": metric,
        "value": value if isinstance(value, bool) else round(value, 6),
        "unit": unit,
        "peer": peer if peer_value is not None else "",
        "peer_value": None if peer_value is None else round(peer_value, 6),
        "ratio": round(value / peer_value, 4) if peer_value else None,
        "conditions": {**machine(), **(conditions or {})},
    }
    print(json.dumps(line), flush=True)


def machine() -> dict[str, object]:
    """Return what every figure depends on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load": round(os.getloadavg()[0], 1),
        "commit": commit(),
    }


def commit() -> str:
    """Return the abbreviated commit, or nothing outside a repository."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def peer_name(package: str) -> str:
    """Return the name and version of an installed peer, or nothing."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
