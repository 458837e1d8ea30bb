"""A websocket's client end (RFC 6455) over a socket that never blocks: what the tunnel travels in.

Websockets, because whatever stands before the server (its own HTTP library, proxies, load balancers) lets them through. No
extensions, binary messages only; pings are answered. What the other side does wrong ends the connection.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import struct
from typing import Any

MAX_MESSAGE = 128 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_LATER = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class BrokenError(Exception):
    """The connection is over, or the other side does not speak as agreed."""


def offer() -> tuple[dict[str, str], str]:
    """Return the headers that ask for a websocket, and what `Sec-WebSocket-Accept` must answer."""
    key = base64.b64encode(os.urandom(16))
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()  # noqa: S324  (RFC 6455, 1.3)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key.decode(),
        "Sec-WebSocket-Protocol": "mainspring-tunnel",
    }
    return headers, accept


class Carrier:
    """Messages over a connected socket; `begun` is what was read behind the answer's head. For one thread."""

    def __init__(self, connected: Any, begun: bytes) -> None:
        self._socket: socket.socket = connected
        connected.setblocking(False)
        self._got = bytearray(begun)
        self._out = bytearray()
        self._parts = bytearray()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    @property
    def waiting(self) -> int:
        """Return how many bytes wait to be sent."""
        return len(self._out)

    def receive(self) -> list[bytes]:
        """Return the messages that have come, in order. Raises BrokenError."""
        for _ in range(16):
            try:
                data = self._socket.recv(65536)
            except _LATER:
                break
            except OSError as wrong:
                raise BrokenError(str(wrong)) from wrong
            if not data:
                raise BrokenError("the server closed the connection")
            self._got += data
        else:
            self._nudge()
        found: list[bytes] = []
        while True:
            frame = self._frame()
            if frame is None:
                return found
            message = self._take(*frame)
            if message is not None:
                found.append(message)

    def send(self, message: bytes) -> None:
        """Queue a message."""
        self._queue(_BINARY, message)

    def flush(self) -> None:
        """Send what the socket takes. Raises BrokenError."""
        while self._out:
            try:
                sent = self._socket.send(self._out[:262144])
            except _LATER:
                return
            except OSError as wrong:
                raise BrokenError(str(wrong)) from wrong
            del self._out[:sent]

    def close(self) -> None:
        """Say good-bye if that can be done without waiting, and close."""
        try:
            self._queue(_CLOSE, struct.pack("!H", 1000))
            self.flush()
        except BrokenError:
            pass
        self._socket.close()

    def _nudge(self) -> None:
        """Make sure that TLS holds nothing back: what it has decrypted makes no descriptor ready."""
        pending = getattr(self._socket, "pending", None)
        while pending is not None and pending():
            self._got += self._socket.recv(pending())

    def _queue(self, opcode: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 128 | opcode, 128 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 128 | opcode, 254, size)
        else:
            head = struct.pack("!BBQ", 128 | opcode, 255, size)
        mask = os.urandom(4)
        self._out += head + mask + _masked(data, mask)

    def _frame(self) -> tuple[int, bool, bytes] | None:
        """Cut one frame off what has come: (opcode, whether it is the last of its message, payload)."""
        got = self._got
        if len(got) < 2:
            return None
        size, at = got[1] & 127, 2
        if got[0] & 0x70 or got[1] & 128:
            raise BrokenError("a frame with an extension or a mask")
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(got) < at:
                return None
            size = int.from_bytes(got[2:at], "big")
        if size > MAX_MESSAGE or (got[0] & 8 and size > 125):
            raise BrokenError(f"a frame of {size} bytes")
        if len(got) < at + size:
            return None
        payload = bytes(got[at : at + size])
        first = got[0]
        del got[: at + size]
        return first & 15, bool(first & 128), payload

    def _take(self, opcode: int, is_last: bool, payload: bytes) -> bytes | None:
        if opcode == _PING:
            self._queue(_PONG, payload)
        elif opcode == _CLOSE:
            raise BrokenError("the server closed the tunnel")
        elif opcode in (_BINARY, _CONTINUED):
            self._parts += payload
            if len(self._parts) > MAX_MESSAGE:
                raise BrokenError("a message that is too long")
            if is_last:
                whole = bytes(self._parts)
                self._parts.clear()
                return whole
        elif opcode != _PONG:
            raise BrokenError(f"a frame of kind {opcode}")
        return None


def _masked(data: bytes, mask: bytes) -> bytes:
    """XOR with the repeated mask, as one large number: byte by byte it would be a hundred times slower."""
    size = len(data)
    pattern = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pattern, "big")).to_bytes(size, "big")
