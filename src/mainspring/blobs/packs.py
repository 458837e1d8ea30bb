"""Pack files: many small blobs in one immutable object, so that 10,000 small files cost one fsync or one request.

A pack is a header and then the blobs: magic, number of blobs, and for each its raw digest and length. The header is the index;
its sha256 is the pack's name, so a damaged header is noticed. `Packs` holds all headers in memory (about 250 bytes a blob).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mainspring.blobs.objects import Objects
from mainspring.core.errors import ArchiveError, NotFoundError

SMALL_BYTES = 64 * 1024
MAX_PACK_BYTES = 64 << 20
_MAGIC = b"MSPACK1\n"
_ENTRY_BYTES = 40
_FIRST_READ = 64 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a small blob lies."""

    pack: str
    start: int
    size: int


def pack_bytes(blobs: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Return (name, bytes) of the pack of `blobs`, which are (digest, bytes)."""
    parts = [_MAGIC, len(blobs).to_bytes(4, "big")]
    parts.extend(bytes.fromhex(digest) + len(data).to_bytes(8, "big") for digest, data in blobs)
    header = b"".join(parts)
    return hashlib.sha256(header).hexdigest(), header + b"".join(data for _, data in blobs)


class Packs:
    """The packs of one store and the index over them. Thread safe; never waits for the network with its lock held."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._places: dict[bytes, Place] = {}
        self._members: dict[str, dict[bytes, Place]] = {}
        self.refresh()

    def find(self, digest: str) -> Place | None:
        """Return the place of `digest`, as far as the packs are known (see `refresh`)."""
        return self._places.get(bytes.fromhex(digest))

    def read(self, place: Place) -> bytes:
        """Return the bytes at `place`, unverified. Raises NotFoundError when the pack was rewritten meanwhile."""
        return self._objects.read(key_of(place.pack), place.start, place.size)

    def members(self, pack: str) -> dict[str, Place]:
        """Return the blobs of `pack` by digest; empty for one that is unknown or damaged."""
        with self._lock:
            return {raw.hex(): place for raw, place in self._members.get(pack, {}).items()}

    def is_canonical(self, digest: str, pack: str) -> bool:
        """Say whether reads of `digest` go to `pack`: a blob may lie in two packs after a crash, and one copy is enough."""
        place = self.find(digest)
        return place is not None and place.pack == pack

    def write(self, blobs: Sequence[tuple[str, bytes]]) -> None:
        """Keep `blobs` as packs of at most 64 MiB; each is durable when this returns."""
        batch: list[tuple[str, bytes]] = []
        held = 0
        for blob in blobs:
            if batch and held + len(blob[1]) > MAX_PACK_BYTES:
                self._write_one(batch)
                batch, held = [], 0
            batch.append(blob)
            held += len(blob[1])
        if batch:
            self._write_one(batch)

    def refresh(self) -> None:
        """Learn of packs that other processes wrote, and forget those they removed."""
        with self._lock:
            known = set(self._members)  # before listing: a pack written meanwhile must not be forgotten
        there = {stat.key for stat in self._objects.list("packs/")}
        names = {key.removeprefix("packs/").removesuffix(".pack") for key in there if key.endswith(".pack")}
        for name in sorted(names - known):
            try:
                members = self._load(name)
            except NotFoundError:
                continue
            except ArchiveError:
                _log.error("a pack is damaged and is left alone", extra={"pack": name})
                continue
            self._learn(name, members)
        for name in known - names:
            self._forget(name)

    def remove(self, pack: str, seen: float) -> bool:
        """Remove `pack` unless it was renewed since `seen`; a reader that comes in between looks again."""
        if not self._objects.remove(key_of(pack), seen):
            return False
        self._forget(pack)
        return True

    def _write_one(self, batch: list[tuple[str, bytes]]) -> None:
        name, data = pack_bytes(batch)
        self._objects.write(key_of(name), data)
        self._learn(name, _layout(((bytes.fromhex(digest), len(blob)) for digest, blob in batch), name, len(batch)))

    def _load(self, name: str) -> dict[bytes, Place]:
        head = self._objects.read(key_of(name), 0, _FIRST_READ)
        count = int.from_bytes(head[8:12], "big")
        size = 12 + count * _ENTRY_BYTES
        if head[:8] != _MAGIC or (len(head) < size and len(head) < _FIRST_READ):
            raise ArchiveError(f"The pack {name} is damaged.")
        if len(head) < size:
            head += self._objects.read(key_of(name), len(head), size - len(head))
        head = head[:size]
        if hashlib.sha256(head).hexdigest() != name:
            raise ArchiveError(f"The header of the pack {name} is damaged.")
        rows = (head[at : at + _ENTRY_BYTES] for at in range(12, size, _ENTRY_BYTES))
        return _layout(((row[:32], int.from_bytes(row[32:], "big")) for row in rows), name, count)

    def _learn(self, name: str, members: dict[bytes, Place]) -> None:
        with self._lock:
            self._members[name] = members
            for raw, place in members.items():
                self._places.setdefault(raw, place)

    def _forget(self, name: str) -> None:
        with self._lock:
            for raw, place in self._members.pop(name, {}).items():
                if self._places.get(raw) == place:
                    del self._places[raw]
                    other = next((one[raw] for one in self._members.values() if raw in one), None)
                    if other is not None:
                        self._places[raw] = other


def key_of(pack: str) -> str:
    """Return the key of the pack named `pack`."""
    return f"packs/{pack}.pack"


def _layout(rows: Iterable[tuple[bytes, int]], name: str, count: int) -> dict[bytes, Place]:
    start = 12 + count * _ENTRY_BYTES
    members: dict[bytes, Place] = {}
    for raw, size in rows:
        members[raw] = Place(name, start, size)
        start += size
    return members
