"""Objects in a folder of this machine. A key appears whole and durable, or not at all: temp, fsync, link, fsync of the folder."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mainspring.blobs.objects import CHUNK_BYTES, Stat
from mainspring.core.errors import DiskFullError, NotFoundError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def room_left(folder: Path) -> Iterator[None]:
    """Turn a full disk, a used-up disk quota and the file size limit into DiskFullError."""
    try:
        yield
    except OSError as wrong:
        if wrong.errno in _FULL:
            raise DiskFullError(
                "No space is left where blobs are kept; nothing of this upload was stored.",
                hint="Free some space, or collect garbage with a shorter grace.",
                details={"folder": str(folder)},
            ) from wrong
        raise


class Disk:
    """A folder as `Objects`; the folder belongs to one server process."""

    renew_after_s = 0.0
    width = 4

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / "incoming"
        self._lock = threading.Lock()
        with room_left(root):
            self.scratch.mkdir(parents=True, exist_ok=True)

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of `key`."""
        try:
            with (self.root / key).open("rb") as file:
                file.seek(start)
                return file.read() if length is None else file.read(length)
        except FileNotFoundError as gone:
            raise _absent(key) from gone

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield `key` in chunks of 1 MiB."""
        try:
            file = (self.root / key).open("rb")
        except FileNotFoundError as gone:
            raise _absent(key) from gone
        with file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def write(self, key: str, data: bytes) -> bool:
        """Keep `data` under `key`."""
        path = self.scratch / secrets.token_hex(16)
        try:
            with room_left(self.root), path.open("xb") as file:
                file.write(data)
            return self.adopt(key, path)
        finally:
            path.unlink(missing_ok=True)

    def adopt(self, key: str, path: Path) -> bool:
        """Keep the file at `path` under `key`: synced before its name can be seen."""
        target = self.root / key
        try:
            with room_left(self.root):
                _sync(path)
                self._make_folder(target.parent)
                is_new = _link(path, target)
                while not is_new and not self.renew(key):  # removed since: it is ours to keep
                    is_new = _link(path, target)
                _sync(target.parent)
        finally:
            path.unlink(missing_ok=True)
        return is_new

    def stat(self, key: str) -> Stat | None:
        """Return size and time of `key`."""
        try:
            found = (self.root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(key, found.st_size, found.st_mtime)

    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield what lies below the folder `prefix`."""
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                found = self.stat(os.path.relpath(os.path.join(folder, name), self.root))
                if found is not None:
                    yield found

    def renew(self, key: str) -> bool:
        """Set the file's time to now."""
        with self._lock:  # against `remove`, which looks at the time and then unlinks
            try:
                os.utime(self.root / key)
            except FileNotFoundError:
                return False
            return True

    def remove(self, key: str, seen: float) -> bool:
        """Remove the file unless its time moved on."""
        with self._lock:
            found = self.stat(key)
            if found is not None and found.modified != seen:
                return False
            (self.root / key).unlink(missing_ok=True)
            return True

    def set_aside(self, key: str, to: str) -> None:
        """Rename the file."""
        target = self.root / to
        self._make_folder(target.parent)
        with suppress(FileNotFoundError):
            (self.root / key).replace(target)
        _sync(target.parent)

    def tidy(self, older_than: float) -> int:
        """Remove broken uploads."""
        removed = 0
        for path in self.scratch.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < older_than:
                    path.unlink()
                    removed += 1
        return removed

    def signed_url(self, key: str, ttl_s: float) -> str | None:  # noqa: ARG002
        """Return None: only the server reads this folder."""
        return None

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for parent in (folder.parent, *folder.parent.parents):
                _sync(parent)
                if parent == self.root:
                    break


def _link(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: the rename is as atomic, only "was it new" is then a guess
        is_new = not target.exists()
        path.replace(target)
        return is_new
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _absent(key: str) -> NotFoundError:
    return NotFoundError(f"There is no object {key!r}.", details={"key": key})
