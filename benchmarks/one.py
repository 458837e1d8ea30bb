"""Run one bench in this process; a SIGTERM ends it as Ctrl-C does: it takes down the servers and engines that it started."""

from __future__ import annotations

import runpy
import signal
import sys

ENDED = 128 + signal.SIGTERM


def main() -> None:
    """Run the module that the first argument names as a program; the others are its own."""
    signal.signal(signal.SIGTERM, _end)
    del sys.argv[0]
    runpy.run_module(f"benchmarks.{sys.argv[0]}", run_name="__main__", alter_sys=True)


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows is the end
    raise SystemExit(ENDED)


if __name__ == "__main__":
    main()
