"""What travels in the tunnel between a runner and the server: one websocket message is one frame. `runner/` has the table too.

A frame is kind (1 byte), stream (4 bytes, big-endian), payload. The server opens streams, with numbers that only grow:

| kind | from | payload |
|---|---|---|
| OPEN | server | JSON: `what` (tcp, pty, pipe), and `port`, or `command`, or that and `rows`, `columns`, `term` |
| OPENED | runner | nothing: it is there |
| DATA | both | bytes: to a port or standard input, from a port, a terminal or standard output |
| EXTRA | runner | bytes of standard error |
| EOF | both | nothing more comes from this side |
| CREDIT | both | 4 bytes: so many bytes were taken, as many more may come |
| RESIZE | server | rows and columns, 2 bytes each |
| EXIT | runner | 4 bytes: the exit code; the stream is over |
| CLOSE | both | nothing, or JSON `{"message", "reason"}`; the stream is over |

Of each stream, each side may have `WINDOW_BYTES` on the way that were not credited.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from mainspring.core.errors import SpecError

WINDOW_BYTES = 256 * 1024
PIECE_BYTES = 64 * 1024 - 16
_HEAD = struct.Struct("!BI")


class Kind(IntEnum):
    """What a frame means."""

    OPEN = 1
    OPENED = 2
    DATA = 3
    EXTRA = 4
    EOF = 5
    CREDIT = 6
    RESIZE = 7
    EXIT = 8
    CLOSE = 9


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of one stream."""

    kind: Kind
    stream: int
    payload: bytes = b""


def pack(kind: Kind, stream: int, payload: bytes = b"") -> bytes:
    """Return the message that says this."""
    return _HEAD.pack(kind, stream) + payload


def unpack(message: bytes) -> Frame:
    """Return what a message says. Raises SpecError for one that no frame gives."""
    if not _HEAD.size <= len(message) <= _HEAD.size + PIECE_BYTES:
        raise SpecError(f"A message of {len(message)} bytes is no frame.")
    kind, stream = _HEAD.unpack_from(message)
    try:
        return Frame(Kind(kind), stream, message[_HEAD.size :])
    except ValueError as wrong:
        raise SpecError(f"There is no frame of kind {kind}.") from wrong


def pack_credit(stream: int, size: int) -> bytes:
    """Return the message that lets `size` more bytes come."""
    return pack(Kind.CREDIT, stream, size.to_bytes(4, "big"))


def pack_size(stream: int, rows: int, columns: int) -> bytes:
    """Return the message that tells the size of a terminal."""
    return pack(Kind.RESIZE, stream, struct.pack("!HH", rows, columns))


def read_number(payload: bytes, *, is_signed: bool = False) -> int:
    """Return the number in the payload of a CREDIT or an EXIT. Raises SpecError."""
    if len(payload) != 4:
        raise SpecError(f"A number of {len(payload)} bytes.")
    return int.from_bytes(payload, "big", signed=is_signed)
