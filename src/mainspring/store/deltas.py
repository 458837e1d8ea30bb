"""A snapshot told against an earlier one: runs and nodes that did not change are named by their place there.

Exact to the byte: all is canonical JSON, so equal rows are equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import msgspec

from mainspring.core.codec import decoder, encode
from mainspring.core.errors import StoreError
from mainspring.core.snapshot import Snapshot

Raw = msgspec.Raw
_PARTS = decoder(dict[str, Raw])
_ITEMS = decoder(list[Raw])
_SPAN = decoder(tuple[int, int])
_ENCODE = msgspec.json.Encoder().encode
LISTS = frozenset({"nodes", "waiting", "placed", "shares"})
_NAMES = sorted(one.name for one in fields(Snapshot))  # as canonical JSON has them


class Base:
    """A snapshot that others are told against."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot  # its rows live on, so that no other has the place in memory of one of them
        self._places = {name: {id(row): place for place, row in enumerate(getattr(snapshot, name))} for name in LISTS}

    def delta(self, snapshot: Snapshot) -> bytes:
        """Return what makes `snapshot` of this one. Rows are the same where they are the same objects."""
        told: dict[str, object] = {}
        for name in _NAMES:
            value = getattr(snapshot, name)
            told[name] = {"of": _told(self._places[name], value)} if name in LISTS else {"is": Raw(encode(value))}
        return _ENCODE(told)


def patched(base: bytes, change: bytes) -> bytes:
    """Return the snapshot that `delta` was given, as JSON. Raises StoreError when the two do not belong together."""
    known = _PARTS.decode(base)
    parts: list[bytes] = []
    try:
        for name, raw in _PARTS.decode(change).items():
            how = _PARTS.decode(raw)
            parts.append(_ENCODE(name) + b":" + (bytes(how["is"]) if "is" in how else _made(_ITEMS.decode(known[name]), how)))
    except (msgspec.MsgspecError, KeyError, IndexError) as wrong:
        raise StoreError("A recorded decision cannot be read: its snapshot is damaged.") from wrong
    return b"{" + b",".join(parts) + b"}"


def _told(places: Mapping[int, int], rows: Sequence[object]) -> list[object]:
    found: list[object] = []
    begin = length = 0
    for row in rows:
        place = places.get(id(row))
        if place is not None and length and place == begin + length:
            length += 1
            continue
        if length:
            found.append([begin, length])
        begin, length = (place, 1) if place is not None else (0, 0)
        if place is None:
            found.append(Raw(encode(row)))
    if length:
        found.append([begin, length])
    return found


def _made(known: list[Raw], how: Mapping[str, Raw]) -> bytes:
    items: list[bytes] = []
    for raw in _ITEMS.decode(how["of"]):
        one = bytes(raw)
        if one.startswith(b"["):
            begin, length = _SPAN.decode(one)
            if begin < 0 or begin + length > len(known):
                raise IndexError(begin)
            items += [bytes(item) for item in known[begin : begin + length]]
        else:
            items.append(one)
    return b"[" + b",".join(items) + b"]"
