"""The blobs that a node keeps: fetched once, checked, shared by all its runs, gone when room is needed.

    blobs/ab/abcd…    a blob: whole, read-only, of the time STAMP_S. Another time says that somebody wrote: then it is read again
    blobs/a.lock      flock: held while small blobs that begin so are fetched, so that of two runners one does
    blobs/ab/abcd….lock   likewise for one large blob

A blob may be removed at any moment: whoever misses it fetches it again. A link to it (a data set's file in a run) stays.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from .wire import AwayError

if TYPE_CHECKING:
    from .exchange import Answer

STAMP_S = 1_000_000_000  # no file that anybody writes has this time
_FRESH_S = 300.0  # how exactly it is known when a blob was used last
_DRAFT_S = 3600.0  # a draft that nobody has written to for so long is left from a crash
_PIECE = 1 << 20
KEEP_FREE = 0.02  # of the disk, whatever the limit
KEEP_FREE_BYTES = 2 << 30


class DamagedError(Exception):
    """Bytes are not those that their digest names, or a manifest leads outside its folder."""


class NoRoomError(Exception):
    """The node's disk does not take what came."""


def cached(cache: str, digest: str) -> str:
    """Return where the cache keeps that blob."""
    return os.path.join(cache, "blobs", digest[:2], digest)


def is_there(cache: str, digest: str, size: int) -> bool:
    """Say whether the cache has that blob as it came; one that was written to since is read, and dropped if it is another."""
    path = cached(cache, digest)
    try:
        told = os.stat(path)
        if told.st_mtime != STAMP_S or (size >= 0 and told.st_size != size):
            if digest_of(path)[0] != digest:
                os.unlink(path)
                return False
            _mark(path)
        elif time.time() - told.st_atime > _FRESH_S:
            _mark(path)
    except OSError:
        return False
    return True


def _mark(path: str) -> None:
    try:
        os.chmod(path, 0o444)
        os.utime(path, (time.time(), STAMP_S))
    except PermissionError:
        pass  # another user's: it is whole all the same


def keep(cache: str, digest: str, source: Answer | IO[bytes], size: int) -> None:
    """Write one blob of `size` bytes (-1: to the end): whole, checked and read-only, or not at all.

    Raises DamagedError, NoRoomError, AwayError, and what reading raises.
    """
    target = cached(cache, digest)
    draft = f"{target}.{os.getpid()}"
    import hashlib  # slow to load, and a run without code needs none

    seen = hashlib.sha256()
    left = size
    try:
        file = _on_disk(_create, draft)
        try:
            while left:
                piece = source.read(_PIECE if left < 0 else min(_PIECE, left))
                if not piece:
                    break
                seen.update(piece)
                _on_disk(file.write, piece)
                left -= len(piece) if left > 0 else 0
        finally:
            file.close()
        if left > 0:
            raise AwayError("The answer broke off.")  # noqa: TRY301
        if seen.hexdigest() != digest:
            raise DamagedError(f"What came for {digest} has another digest.")  # noqa: TRY301
        _on_disk(_mark, draft)
        _on_disk(os.rename, draft, target)
    except BaseException:
        try:
            os.unlink(draft)
        except OSError:
            pass
        raise


def _create(path: str) -> IO[bytes]:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return open(path, "wb", buffering=0)


def _on_disk(act: Callable[..., Any], *args: Any) -> Any:
    """Return what `act` does. What the disk refuses is no fault of the server's, and asking that again mends nothing."""
    try:
        return act(*args)
    except OSError as wrong:
        what = "is full" if wrong.errno in (errno.ENOSPC, errno.EDQUOT) else f"refuses: {wrong.strerror or wrong}"
        raise NoRoomError(f"The disk of this node's cache {what}.") from wrong


class Turn:
    """One at a time fetches what is asked for; others wait, and then find it there. Ends with the process, however that ends."""

    def __init__(self, cache: str, digests: list[str], is_large: bool) -> None:
        self._large = [cached(cache, one) + ".lock" for one in digests] if is_large else []
        names = sorted({one[0] for one in digests})
        self._paths = self._large or [os.path.join(cache, "blobs", name + ".lock") for name in names]
        self._held: list[int] = []

    def __enter__(self) -> None:
        """Wait for the turn."""
        for path in self._paths:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._held.append(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks: both fetch it, and either is whole

    def __exit__(self, *_: object) -> None:
        """Let the next one go on."""
        for path in self._large:
            try:
                os.unlink(path)  # one that still waits here has its turn beside a newcomer's: both find the blob
            except OSError:
                pass
        for descriptor in self._held:
            os.close(descriptor)


def make_room(cache: str, limit_bytes: int, wanted_bytes: int = 0) -> int:
    """Remove the blobs that were used least lately until a tenth below the limit, or so much is free; return how many.

    Those that a run has a link to stay: to remove them would free nothing.
    """
    found, drafts = _look(os.path.join(cache, "blobs"))
    for path in drafts:
        _unlink(path)
    total = sum(size for _, size, _, _ in found)
    goal = limit_bytes if total <= limit_bytes else limit_bytes * 9 // 10
    gone = 0
    for _, size, links, path in sorted(found):
        if total <= goal and not is_short(cache, wanted_bytes):
            break
        if links == 1 and _unlink(path):
            total -= size
            gone += 1
    return gone


def _look(root: str) -> tuple[list[tuple[float, int, int, str]], list[str]]:
    """Return (last use, bytes, links, path) of each blob, and what crashes left."""
    found = []
    drafts = []
    for parent, _, names in os.walk(root):
        for name in names:
            path = os.path.join(parent, name)
            try:
                told = os.stat(path)
            except OSError:
                continue
            if len(name) == 64:
                found.append((told.st_atime, told.st_size, told.st_nlink, path))
            elif len(name) > 64 and not name.endswith(".lock") and time.time() - told.st_mtime > _DRAFT_S:
                drafts.append(path)
    return found, drafts


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def is_short(folder: str, wanted_bytes: int = 0) -> bool:
    """Say whether the disk of `folder` has less free than what is wanted, or than what is kept free."""
    told = os.statvfs(folder)
    least = max(wanted_bytes, min(KEEP_FREE_BYTES, int(KEEP_FREE * told.f_blocks * told.f_frsize)))
    return told.f_bavail * told.f_frsize < least


def digest_of(path: str) -> tuple[str, int]:
    """Return (sha256, size) of a file."""
    import hashlib  # slow to load, and a run without code needs none

    seen = hashlib.sha256()
    size = 0
    with open(path, "rb") as file:
        while True:
            piece = file.read(_PIECE)
            if not piece:
                return seen.hexdigest(), size
            seen.update(piece)
            size += len(piece)
