"""Checkpoints, from user code's side: where to write them, when one counts, whether one is asked for or was restored.

Three ways to say that one is complete: rename it into `checkpoint_dir`, call `checkpoint()` when all is written, or write
within `writing_checkpoint()`. Outside a run they do nothing, with one notice: the same file stays plain Python.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mainspring.sdk.tracking import should_stop, tell_outside

COMPLETE = "checkpoint_complete"
LOCK = "checkpoint.lock"
TICK_S = 0.01  # what is written later than this after the mark has a later time of change
POLL_S = 0.05
MAX_WAIT_S = 60.0
_ended = ""  # the spool of the run that was told to save for the last time

checkpoint_dir: str = os.environ.get("MAINSPRING_CHECKPOINT", "")  # what is complete in it is there for the next try


def checkpoint() -> None:
    """Declare that everything in `checkpoint_dir` is complete: it is sent while the run goes on. Takes about 10 ms.

    What is written in place before it was sent makes it count no more; `writing_checkpoint` waits for that.
    """
    spool = os.environ.get("MAINSPRING_SPOOL", "")
    if not spool:
        tell_outside()
        return
    _mark(spool)
    time.sleep(TICK_S)


@contextmanager
def writing_checkpoint() -> Iterator[Path]:
    """Give `checkpoint_dir` to write in; complete when the block ends without an error.

    Waits up to a minute while the one before is being sent, so that files may be overwritten where they are.
    """
    spool, folder = os.environ.get("MAINSPRING_SPOOL", ""), os.environ.get("MAINSPRING_CHECKPOINT", "")
    if not spool or not folder:
        tell_outside()
        with tempfile.TemporaryDirectory() as nowhere:
            yield Path(nowhere)
        return
    descriptor = os.open(os.path.join(spool, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(spool, COMPLETE))  # declared, not taken yet, and about to be overwritten
        yield Path(folder)
        _mark(spool)
    finally:
        os.close(descriptor)
    time.sleep(TICK_S)  # with the lock given back: what is complete may be taken


def should_checkpoint() -> bool:
    """Say, once for each request, whether a checkpoint is asked for; true once as well when the run is asked to end."""
    global _ended
    spool = os.environ.get("MAINSPRING_SPOOL", "")
    if not spool:
        return False
    is_last = should_stop() and _ended != spool
    try:
        os.unlink(os.path.join(spool, "checkpoint_requested"))
    except OSError:
        if is_last:
            _ended = spool
        return is_last
    return True


def is_resumed() -> bool:
    """Say whether an earlier try of this run left a checkpoint, which is in `checkpoint_dir` now."""
    return os.environ.get("MAINSPRING_RESUME", "") == "1"


def checkpoint_folder() -> Path | None:
    """Return `checkpoint_dir` as it is now, None outside a run."""
    folder = os.environ.get("MAINSPRING_CHECKPOINT", "")
    return Path(folder) if folder else None


def saves_here() -> bool:
    """Say whether this replica saves for all: the others get the first one's checkpoint."""
    return os.environ.get("MAINSPRING_REPLICA", "0") == "0"


def _mark(spool: str) -> None:
    draft = os.path.join(spool, f"{COMPLETE}.{os.getpid()}")
    with open(draft, "w"):
        pass
    os.rename(draft, os.path.join(spool, COMPLETE))


def _take(descriptor: int) -> None:
    until = time.monotonic() + MAX_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= until:
                return  # a slow link must not hold training up: what is being sent is looked at again, and does not count
            time.sleep(POLL_S)
        else:
            return
