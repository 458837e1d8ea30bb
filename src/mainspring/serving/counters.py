"""What a replica counts, as Prometheus text. Touched by the event loop's thread alone, so without locks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Counters:
    """Requests by route and status, their seconds as a histogram, and rows predicted."""

    def __init__(self, model: str) -> None:
        self.rows = 0
        self._model = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(_BOUNDS_S) + 1)
        self._seconds = 0.0

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests[route, status] += 1
        self._buckets[bisect_left(_BOUNDS_S, seconds)] += 1
        self._seconds += seconds

    def text(self) -> str:
        """Return the exposition text."""
        model = f'model="{self._model}"'
        lines = ["# TYPE mainspring_serving_requests_total counter"]
        lines += [
            f'mainspring_serving_requests_total{{{model},route="{route}",status="{status}"}} {count}'
            for (route, status), count in sorted(self._requests.items())
        ]
        lines += ["# TYPE mainspring_serving_rows_total counter", f"mainspring_serving_rows_total{{{model}}} {self.rows}"]
        lines.append("# TYPE mainspring_serving_request_duration_seconds histogram")
        total = 0
        for bound, count in zip([*map(str, _BOUNDS_S), "+Inf"], self._buckets, strict=True):
            total += count
            lines.append(f'mainspring_serving_request_duration_seconds_bucket{{{model},le="{bound}"}} {total}')
        lines.append(f"mainspring_serving_request_duration_seconds_sum{{{model}}} {self._seconds:.6f}")
        lines.append(f"mainspring_serving_request_duration_seconds_count{{{model}}} {total}")
        return "\n".join(lines) + "\n"
