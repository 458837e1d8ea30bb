"""Call a task's function in the user's interpreter: arguments from the folder, the result into it. Needs no runner beside it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from . import values


def main(root: str) -> int:
    """Return 0 when the function returned, 1 when it raised (the traceback is on standard error)."""
    with open(os.path.join(root, "task.json"), encoding="utf-8") as file:
        task = json.load(file)
    if task.get("packages"):
        _compare_packages(task["packages"])
    shim = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "shim")
    if shim in sys.path:  # last, as it would put itself: an installed Mainspring comes first, and is found without it
        sys.path.remove(shim)
        sys.path.append(shim)
    sys.path.insert(0, task["cwd"])
    sys.argv[:] = [str(task["entry"].get("function") or "task")]
    try:
        function = _function(root, task["entry"])
        args = {name: values.load(value) for name, value in task["args"].items()}
        result = function(**args)
        values.save(result, os.environ["MAINSPRING_OUT"])
    except SystemExit as left:
        if left.code not in (None, 0):
            raise
        values.save(None, os.environ["MAINSPRING_OUT"])
    except BaseException:  # the loop's top, as it were: whatever user code raises is told as Python would
        _tell()
        return 1
    return 0


def _compare_packages(expected: str) -> None:
    """Tell the server when other packages are installed here than the cache's key says: then nobody may take the outputs.

    Raises OSError when that cannot be told, so that the run fails: a cache must not lie.
    """
    try:
        found = importlib.import_module("mainspring.sdk.packages").packages_digest()
    except (ImportError, OSError) as wrong:  # Mainspring is not installed here: nobody knows
        found = repr(wrong)
    if found != expected:
        with open(os.path.join(os.environ["MAINSPRING_SPOOL"], "events"), "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": "packages_changed", "expected": expected, "found": found}) + "\n")
        sys.stderr.write("[mainspring] Other packages are installed here than where it was submitted: it is not cached.\n")


def _function(root: str, entry: dict[str, Any]) -> Any:
    if entry.get("pickled"):
        with open(os.path.join(root, "function.pickle"), "rb") as file:
            return _plain(values.unpickle(file.read()))
    found: Any = importlib.import_module(entry["module"])
    for name in str(entry["function"]).split("."):
        found = getattr(found, name)
    return _plain(found)


def _plain(found: Any) -> Any:
    """Return the function itself of a decorated task."""
    inner = getattr(found, "function", None)
    if callable(inner):
        return inner
    wrapped = getattr(found, "__wrapped__", None)
    if callable(wrapped) and type(found).__module__.split(".")[0] == "mainspring":
        return wrapped
    return found


def _tell() -> None:
    """Print the traceback from user code's first line on."""
    import traceback  # most calls return

    kind, wrong, trace = sys.exc_info()
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_globals.get("__package__") == __package__:
        trace = trace.tb_next
    sys.stdout.flush()
    traceback.print_exception(kind, wrong, trace)
    sys.stderr.flush()
