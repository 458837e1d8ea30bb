"""Digests of files, remembered by (path, size, time of change, inode), so that an unchanged tree is not read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PART_BYTES = 1 << 20
FRESH_NS = 2_000_000_000  # a file changed this recently may change again without a new time


@dataclass(slots=True)
class DigestCache:
    """The digests of one tree; a damaged or unwritable cache costs time, never truth."""

    file: Path
    known: dict[str, list[object]] = field(default_factory=dict)
    seen: dict[str, list[object]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, root: Path) -> DigestCache:
        """Return the cache of the tree `root`, kept in `folder`."""
        file = folder / f"digests-{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.json"
        known: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError):
            plain = json.loads(file.read_text())
            known = plain if isinstance(plain, dict) else {}
        return cls(file, known)

    def digest(self, path: Path, name: str, stat: os.stat_result, *, read: Callable[[int], None] = lambda _: None) -> str:
        """Return the sha256 of `path`, whose `stat` was taken just now; `read` is told the bytes of each part. Raises OSError."""
        mark: list[object] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        kept = self.known.get(name)
        if isinstance(kept, list) and kept[:3] == mark and len(kept) == 4:
            self.seen[name] = kept
            read(stat.st_size)
            return str(kept[3])
        found = _digest(path, read)
        if time.time_ns() - stat.st_mtime_ns > FRESH_NS:
            self.seen[name] = [*mark, found]
        return found

    def save(self) -> None:
        """Keep what was seen."""
        if self.seen == self.known:
            return
        with contextlib.suppress(OSError, UnicodeEncodeError):
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self.file.with_suffix(f".{os.getpid()}.tmp")
            fresh.write_text(json.dumps(self.seen))
            fresh.replace(self.file)


def _digest(path: Path, read: Callable[[int], None]) -> str:
    counted = hashlib.sha256()
    part = memoryview(bytearray(PART_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(part):
            counted.update(part[:size])
            read(size)
    return counted.hexdigest()
