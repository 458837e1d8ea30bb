"""The name of a snapshot: equal snapshots have equal fingerprints on every machine, in whatever order their rows are listed.

Rows are digested one by one and added up, so that a changed row costs one row (a multiset hash: MSet-Add-Hash, Clarke et al.,
ASIACRYPT 2003).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from mainspring.core.codec import encode
from mainspring.core.records import Node
from mainspring.core.snapshot import PlacedRun, Snapshot, WaitingRun

Row: TypeAlias = Node | WaitingRun | PlacedRun
SIZE = 32  # bytes
KEPT = 10_000  # rows whose digests are remembered


def fingerprint(snapshot: Snapshot, rows: int | None = None) -> str:
    """Return the sha256 (hex) of the snapshot; `rows` is the sum of its rows' digests where it is at hand."""
    if rows is None:
        rows = digest((*snapshot.nodes, *snapshot.waiting, *snapshot.placed))
    others = encode(replace(snapshot, nodes=(), waiting=(), placed=()))
    return hashlib.sha256(others + (rows % 2 ** (8 * SIZE)).to_bytes(SIZE, "big")).hexdigest()


def digest(rows: Iterable[Row]) -> int:
    """Return the sum of the rows' digests: of rows that are gone it is taken away again."""
    return sum(map(_number, rows))


def _number(row: Row) -> int:
    return int.from_bytes(hashlib.sha256(type(row).__name__.encode() + encode(row)).digest(), "big")


class Digests:
    """Digests of rows by identity: who stands far back in a long queue is seen by one plan, not by the next, and seen again."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Row, int]] = {}  # the row with it, so that no other is given its place in memory

    def sum(self, rows: Iterable[Row]) -> int:
        """Return what `digest` does."""
        total = 0
        for row in rows:
            known = self._known.get(id(row))
            if known is None:
                if len(self._known) >= KEPT:
                    self._known = {}
                known = self._known[id(row)] = (row, _number(row))
            total += known[1]
        return total
