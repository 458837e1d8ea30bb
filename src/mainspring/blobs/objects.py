"""The contract of a place that keeps objects: `disk.py` is a folder, `bucket.py` any S3. Nothing here knows digests or packs.

Keys are relative, `/` separated, made by `store.py` only. All methods may be called from many threads at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Stat:
    """One object: `modified` is seconds since 1970 by the clock of whoever keeps it, moved forward by `renew`."""

    key: str
    size: int
    modified: float


class Objects(Protocol):
    """Keeps objects under keys.

    `renew_after_s` is the age from which `renew` is worth its price; `width` how many calls pay off at once;
    `scratch` a folder for uploads whose digest is not known yet.
    """

    renew_after_s: float
    width: int
    scratch: Path

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes from `start`, fewer than `length` at the end. Raises NotFoundError."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the bytes in chunks. Raises NotFoundError at the first."""
        ...

    def write(self, key: str, data: bytes) -> bool:
        """Keep `data`, whole and durable or not at all; return False when the key was there (then it is renewed).

        Raises DiskFullError, UnreachableError.
        """
        ...

    def adopt(self, key: str, path: Path) -> bool:
        """Keep the file at `path` (inside `scratch`) as `write` does; the file is gone afterwards."""
        ...

    def stat(self, key: str) -> Stat | None:
        """Return what is known about `key`, or None."""
        ...

    def list(self, prefix: str) -> Iterator[Stat]:
        """Yield every object whose key starts with `prefix` (which ends with `/`)."""
        ...

    def renew(self, key: str) -> bool:
        """Let `modified` be now; return False when the key is gone."""
        ...

    def remove(self, key: str, seen: float) -> bool:
        """Remove `key` unless it was renewed since `seen` (its `modified`); return whether it is gone."""
        ...

    def set_aside(self, key: str, to: str) -> None:
        """Move `key` to the key `to`, over what is there; nothing happens when it is gone."""
        ...

    def tidy(self, older_than: float) -> int:
        """Remove what broken uploads left before `older_than` (seconds since 1970); return how many files."""
        ...

    def signed_url(self, key: str, ttl_s: float) -> str | None:
        """Return a URL that anybody may read for `ttl_s`, or None where there is none."""
        ...
