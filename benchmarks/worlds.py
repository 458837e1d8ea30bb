"""Do the numbered promises of the planner hold in ten times as many generated worlds as `make test` tries?

python -m benchmarks.worlds [--times 10]: a part of `scripts/bench invariants`

The tests are those of tests/scheduler/**/test_*invariants.py, hypothesis makes the worlds, anew each time. A test that fails ends
the bench, with the smallest world that it found.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import settings

from benchmarks.report import report

TESTS = Path(__file__).parents[1] / "tests" / "scheduler"
LIMIT_S = 7200


@dataclass(slots=True)
class Worlds:
    """Has each test of a promise play `times` as many worlds; counts tests and worlds."""

    times: int
    tests: int = 0
    worlds: int = 0

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        """Change the number of examples where hypothesis reads it."""
        for item in items:
            test = getattr(item, "obj", None)
            own = getattr(test, "_hypothesis_internal_use_settings", None)
            if test is not None and own is not None:
                more = settings(own, max_examples=own.max_examples * self.times)
                test._hypothesis_internal_use_settings = more
                self.tests += 1
                self.worlds += more.max_examples


def main() -> None:
    """Play the worlds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    play(parser.parse_args().times)


def play(times: int) -> None:
    """Play `times` as many worlds as `make test`. Ends the program where a test fails."""
    played, began = Worlds(times), perf_counter()
    paths = [str(path) for path in sorted(TESTS.rglob("test_*invariants.py"))]
    wrong = pytest.main(["-x", "-k", "test_invariant", "-p", "no:xdist", "-o", f"timeout={LIMIT_S}", *paths], plugins=[played])
    if wrong:
        sys.exit(int(wrong))
    told: dict[str, object] = {"times": times, "tests": played.tests, "seconds": round(perf_counter() - began)}
    report("invariants", "generated worlds of numbered promises", float(played.worlds), "", conditions=told)
    report("invariants", "promises broken in them", 0.0, "", conditions=told)


if __name__ == "__main__":
    main()
