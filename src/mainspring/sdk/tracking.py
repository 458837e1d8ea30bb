"""What user code tells while it runs: metrics, parameters, files. Buffered in memory, appended to the attempt's spool.

`log_metric` costs microseconds: one daemon thread writes every 100 ms, at exit and before a fork. Outside a run it does
nothing, with one notice on stderr: the same file stays plain Python.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping

from mainspring.core.errors import UsageError
from mainspring.core.paths import is_safe_path
from mainspring.sdk import stops

FLUSH_S = 0.1
WAKE_AT = 4000
BATCH = 20_000

_points: deque[tuple[str, float, float | None, float]] = deque()
_params: deque[tuple[str, object]] = deque()
_wake = threading.Event()
_writing = threading.Lock()
_begin = threading.Lock()
_now = time.time
_spool: str | None = None
_thread: threading.Thread | None = None
_has_noticed = False


def log_metric(name: str, value: float, step: float | None = None) -> None:
    """Log one point of a metric, at `step` if there is one. Costs about a microsecond; never blocks; thread safe."""
    if _thread is None and not _start():
        return
    _points.append((name, float(value), step, _now()))
    if len(_points) > WAKE_AT:
        _wake.set()


def log_metrics(values: Mapping[str, float], step: float | None = None) -> None:
    """Log one point of several metrics."""
    for name, value in values.items():
        log_metric(name, value, step)


def log_params(values: Mapping[str, object] | None = None, **more: object) -> None:
    """Log parameters: JSON values; anything else is kept as its text. A name logged again is replaced."""
    if _thread is None and not _start():
        return
    _params.extend((str(name), value) for name, value in {**(values or {}), **more}.items())


def log_artifact(path: str | os.PathLike[str], name: str | None = None) -> None:
    """Keep a copy of a file or folder as a result of the run, under `name` (default: its own)."""
    import shutil  # metrics do without either, and a short run is mostly its imports
    from pathlib import Path

    source = Path(path)
    folder = os.environ.get("MAINSPRING_OUT", "")
    if not folder:
        tell_outside()
        return
    called = name or source.resolve().name
    if not is_safe_path(called):
        raise UsageError(f"{called!r} cannot name an artifact.", hint="Use a relative path without '..'.")
    if not os.path.exists(source):
        raise UsageError(f"{os.fspath(source)} is not there.", hint=f"This is {Path.cwd()}.")
    target = Path(folder) / called
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def should_stop() -> bool:
    """Say whether the run is asked to end: by a cancel, a pause, a time limit, or the scheduler.

    From the first call on, SIGTERM does not end the program (unless it has a handler of its own): it has its grace to save what
    it wants to and to end by itself.
    """
    if in_run():
        stops.heed()
    return stops.is_asked()


def in_run() -> bool:
    """Say whether this code runs inside a run."""
    return bool(os.environ.get("MAINSPRING_SPOOL", ""))


def flush() -> None:
    """Write everything that waits; called every 100 ms, at exit, and before a fork."""
    if _spool is None:
        return
    with _writing:
        while _points:
            _append("metrics", _taken_points())
        while _params:
            name, value = _params.popleft()
            _append("params", [json.dumps([name, _plain(value)], ensure_ascii=True)])


def _taken_points() -> list[str]:
    lines = []
    for _ in range(min(len(_points), BATCH)):
        name, value, step, at = _points.popleft()
        shown = value if math.isfinite(value) else ("nan" if math.isnan(value) else "inf" if value > 0 else "-inf")
        lines.append(json.dumps([name, shown, step, at], ensure_ascii=True))
    return lines


def _append(stream: str, lines: list[str]) -> None:
    """Append whole lines by one write: several processes may share the file."""
    if not lines or _spool is None:
        return
    data = ("\n".join(lines) + "\n").encode()
    try:
        descriptor = os.open(os.path.join(_spool, stream), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)
    except OSError as wrong:
        sys.stderr.write(f"mainspring: {len(lines)} lines of {stream} could not be written: {wrong.strerror}\n")


def _start() -> bool:
    """Start the writer; return whether this is a run."""
    global _spool, _thread
    with _begin:
        if _thread is not None:
            return True
        _spool = os.environ.get("MAINSPRING_SPOOL", "") or None
        if _spool is None:
            tell_outside()
            return False
        _thread = threading.Thread(target=_write_on, daemon=True, name="mainspring-metrics")
        _thread.start()
        return True


def _write_on() -> None:
    while True:
        _wake.wait(FLUSH_S)
        _wake.clear()
        flush()


def tell_outside() -> None:
    """Say, once, that nothing is kept here."""
    global _has_noticed
    if not _has_noticed:
        _has_noticed = True
        sys.stderr.write(
            "mainspring: this is no run, so metrics, parameters, artifacts and checkpoints are not kept (told once)\n"
        )


def _plain(value: object) -> object:
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        value = item()  # a numpy or torch scalar
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)[:1000]
    return value


def _before_fork() -> None:
    flush()
    _writing.acquire()  # the child must not inherit a lock that nobody holds there


def _after_fork_in_parent() -> None:
    _writing.release()


def _after_fork_in_child() -> None:
    global _thread
    _writing.release()
    _points.clear()
    _params.clear()
    _thread = None  # threads do not survive a fork; the next call starts one


atexit.register(flush)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
