"""The functions of the shim. A metric costs one append to a list; a thread writes whole lines every 100 ms, and at the exit."""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

FLUSH_S = 0.1
MAX_LINES = 1000  # about 64 kB

_spool = os.environ.get("MAINSPRING_SPOOL", "")
_lines: list[tuple[str, float, int | None, float]] = []
_lock = threading.RLock()
_writer_of = 0
_is_told = False
_wall = time.time


def log_metric(name: str, value: float, step: int | None = None) -> None:
    """Record one value of a metric; about a microsecond. Outside a run: nothing, with one notice."""
    if not _spool:
        notice()
        return
    _lines.append((name, value, step, _wall()))
    if _writer_of == 0:
        _start_writer()
    elif len(_lines) >= MAX_LINES:
        flush()


def log_metrics(values: dict[str, float], step: int | None = None) -> None:
    """Record several metrics of one step."""
    for name, value in values.items():
        log_metric(name, value, step)


def log_params(params: dict[str, Any] | None = None, **more: Any) -> None:
    """Record parameters: JSON values, others as text."""
    if not _spool:
        notice()
        return
    found = {**(params or {}), **more}
    lines = [json.dumps([str(name), _plain(value)], default=str) for name, value in found.items()]
    _append("params", "".join(line + "\n" for line in lines).encode())


def log_artifact(path: str, name: str | None = None) -> None:
    """Keep a file or folder with the run; `name` may have folders in it."""
    out = os.environ.get("MAINSPRING_OUT", "")
    if not out:
        notice()
        return
    path = os.fspath(path)
    target = os.path.normpath(os.path.join(out, name or os.path.basename(os.path.normpath(path))))
    if not target.startswith(os.path.normpath(out) + os.sep):
        raise ValueError(f"{name!r} leads outside the run's outputs.")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(path):
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, target)


def task(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Mark a function as a task; here it stays a plain function that has itself as `.function`."""
    if function is None:
        return lambda found: task(found, **options)
    function.function = function  # type: ignore[attr-defined]
    return function


class _Folder:
    """A folder of files that came with the run, or that leaves it as a result."""

    kind = "dataset"

    def __init__(self, path: str, meta: dict[str, Any] | None = None) -> None:
        self.path = os.fspath(path)
        self.meta = meta or {}

    def __fspath__(self) -> str:
        return self.path

    def __mainspring_save__(self, folder: str) -> dict[str, Any]:
        """Copy the files into `folder`; return what they are."""
        if os.path.isdir(self.path):
            shutil.copytree(self.path, folder, dirs_exist_ok=True)
        else:
            shutil.copy(self.path, folder)
        return {"kind": self.kind, "meta": {name: value for name, value in self.meta.items() if name != "digest"}}

    @classmethod
    def __mainspring_load__(cls, path: str, meta: dict[str, Any]) -> Any:
        return cls(path, meta)


class Dataset(_Folder):
    """A data set: files below `.path`."""

    @classmethod
    def from_path(cls, path: str) -> Any:
        """Return the data set that a file or a folder is."""
        return cls(path)


class Model(_Folder):
    """A model's files below `.path`."""

    kind = "model"


def flush() -> None:
    """Write what is buffered, in whole lines with one write."""
    with _lock:
        taken = _lines[:]
        if not taken:
            return
        del _lines[: len(taken)]
        text = []
        for name, value, step, at in taken:
            try:
                text.append(json.dumps([str(name), _number(value), None if step is None else int(step), at]) + "\n")
            except (TypeError, ValueError):
                sys.stderr.write(f"mainspring: the metric {name!r} was given {value!r}, which is no number; it is left out.\n")
        _append("metrics", "".join(text).encode())


def _number(value: Any) -> Any:
    number = float(value)
    return number if math.isfinite(number) else repr(number)


def _plain(value: Any) -> Any:
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _append(name: str, data: bytes) -> None:
    try:
        descriptor = os.open(os.path.join(_spool, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as wrong:
        sys.stderr.write(f"mainspring: {name} cannot be written: {wrong}\n")
        return
    try:
        os.write(descriptor, data)
    except OSError as wrong:
        sys.stderr.write(f"mainspring: {name} cannot be written: {wrong}\n")
    finally:
        os.close(descriptor)


def _start_writer() -> None:
    global _writer_of
    with _lock:
        if _writer_of == os.getpid():
            return
        _writer_of = os.getpid()
        threading.Thread(target=_write_for_ever, daemon=True, name="mainspring-metrics").start()


def _write_for_ever() -> None:
    while True:
        time.sleep(FLUSH_S)
        flush()


def _before_fork() -> None:
    flush()
    _lock.acquire()


def _after_fork_in_child() -> None:
    global _writer_of, _lock
    _writer_of = 0
    _lock = threading.RLock()
    del _lines[:]


def notice() -> None:
    global _is_told
    if not _is_told:
        _is_told = True
        sys.stderr.write("mainspring: this is no run, so nothing is recorded.\n")


atexit.register(flush)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=lambda: _lock.release(), after_in_child=_after_fork_in_child)
