"""Checkpoints: where to write them, when one counts, whether one is asked for or was restored."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ._stops import should_stop
from ._tracking import notice

_COMPLETE = "checkpoint_complete"
_TICK_S = 0.01  # what is written later than this after the mark has a later time of change
_POLL_S = 0.05
_MAX_WAIT_S = 60.0

checkpoint_dir = os.environ.get("MAINSPRING_CHECKPOINT", "")
_spool = os.environ.get("MAINSPRING_SPOOL", "")
_is_last_told = False


def checkpoint() -> None:
    """Declare that everything in `checkpoint_dir` is complete: it is sent while the run goes on."""
    if not _spool:
        notice()
        return
    _mark()
    time.sleep(_TICK_S)


@contextlib.contextmanager
def writing_checkpoint() -> Iterator[Path]:
    """Give `checkpoint_dir` to write in; complete when the block ends without an error. Waits while one is being sent."""
    if not _spool or not checkpoint_dir:
        notice()
        with tempfile.TemporaryDirectory() as nowhere:
            yield Path(nowhere)
        return
    descriptor = os.open(os.path.join(_spool, "checkpoint.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(_spool, _COMPLETE))
        yield Path(checkpoint_dir)
        _mark()
    finally:
        os.close(descriptor)
    time.sleep(_TICK_S)  # with the lock given back: what is complete may be taken


def should_checkpoint() -> bool:
    """Say, once for each request, whether a checkpoint was asked for; once as well when the run is asked to end."""
    global _is_last_told
    if not _spool:
        return False
    is_last = should_stop() and not _is_last_told
    try:
        os.unlink(os.path.join(_spool, "checkpoint_requested"))
    except OSError:
        _is_last_told = _is_last_told or is_last
        return is_last
    return True


def is_resumed() -> bool:
    """Say whether an earlier try of this run left a checkpoint, which is in `checkpoint_dir` now."""
    return os.environ.get("MAINSPRING_RESUME", "") == "1"


def _mark() -> None:
    draft = os.path.join(_spool, f"{_COMPLETE}.{os.getpid()}")
    with open(draft, "w"):
        pass
    os.rename(draft, os.path.join(_spool, _COMPLETE))


def _take(descriptor: int) -> None:
    until = time.monotonic() + _MAX_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= until:
                return  # a slow link must not hold training up
            time.sleep(_POLL_S)
        else:
            return
