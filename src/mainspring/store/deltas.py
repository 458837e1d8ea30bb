"""A snapshot told against an earlier one: runs and nodes that did not change are named by their place there.

Exact to the byte: both are canonical JSON, so equal items are equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mainspring.core.errors import StoreError

Raw = msgspec.Raw
_PARTS = msgspec.json.Decoder(dict[str, Raw])
_ITEMS = msgspec.json.Decoder(list[Raw])
_ENCODE = msgspec.json.Encoder().encode
LISTS = ("nodes", "waiting", "placed", "shares")


def delta(base: bytes, new: bytes) -> bytes:
    """Return what makes `new` of `base`. Both are snapshots as JSON."""
    known, parts = _PARTS.decode(base), _PARTS.decode(new)
    told: dict[str, object] = {}
    for name, raw in parts.items():
        if name not in LISTS or name not in known:
            told[name] = {"is": raw}
            continue
        places = {bytes(item): place for place, item in enumerate(_ITEMS.decode(known[name]))}
        told[name] = {"of": _told(places, [bytes(item) for item in _ITEMS.decode(raw)])}
    return _ENCODE(told)


def patched(base: bytes, change: bytes) -> bytes:
    """Return the snapshot that `delta` was given. Raises StoreError when the two do not belong together."""
    known = _PARTS.decode(base)
    parts: list[bytes] = []
    try:
        for name, raw in _PARTS.decode(change).items():
            how = _PARTS.decode(raw)
            parts.append(_ENCODE(name) + b":" + (bytes(how["is"]) if "is" in how else _made(_ITEMS.decode(known[name]), how)))
    except (msgspec.MsgspecError, KeyError, IndexError) as wrong:
        raise StoreError("A recorded decision cannot be read: its snapshot is damaged.") from wrong
    return b"{" + b",".join(parts) + b"}"


def _told(places: Mapping[bytes, int], items: list[bytes]) -> list[object]:
    found: list[object] = []
    begin = length = 0
    for item in items:
        place = places.get(item)
        if place is not None and length and place == begin + length:
            length += 1
            continue
        if length:
            found.append([begin, length])
        begin, length = (place, 1) if place is not None else (0, 0)
        if place is None:
            found.append(Raw(item))
    if length:
        found.append([begin, length])
    return found


def _made(known: list[Raw], how: Mapping[str, Raw]) -> bytes:
    items: list[bytes] = []
    for raw in _ITEMS.decode(how["of"]):
        one = bytes(raw)
        if one.startswith(b"["):
            begin, length = msgspec.json.decode(one, type=tuple[int, int])
            if begin < 0 or begin + length > len(known):
                raise IndexError(begin)
            items += [bytes(item) for item in known[begin : begin + length]]
        else:
            items.append(one)
    return b"[" + b",".join(items) + b"]"
