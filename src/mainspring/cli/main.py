"""The entry point: finds the command, loads only its module, and turns every error into a sentence and an exit code.

Exit codes: 0 done, 1 failed (a run's own code for `run` and `logs --follow`), 2 wrong usage, 3 no rights, 4 not found,
5 conflict, 6 cannot be had, 7 no server, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import mainspring

INTERRUPTED = 130


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run_cli(sys.argv[1:]))


def run_cli(words: list[str]) -> int:
    """Run one command line; return its exit code. No traceback, unless MAINSPRING_DEBUG is set."""
    if words in (["--version"], ["-V"]):  # before anything heavy is imported
        sys.stdout.write(f"mainspring {mainspring.__version__}\n")
        return 0
    try:
        if words[:1] == ["server"]:
            foreground = import_module("mainspring.cli.foreground")
            given = foreground.plain(words[1:])
            if given is not None:
                return int(foreground.run(given))
        return int(import_module("mainspring.cli.dispatch").dispatch(words))
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED
    except BrokenPipeError:  # `mainspring ps | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    main()
