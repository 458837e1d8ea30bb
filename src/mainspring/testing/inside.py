"""The server's end of a tunnel, for conformance suites: a websocket taken over from `http.server`, and its streams."""

from __future__ import annotations

import base64
import hashlib
import json
import queue
import struct
import threading
from http.server import BaseHTTPRequestHandler

from mainspring.core.tunnels import PIECE_BYTES, WINDOW_BYTES, Frame, Kind, pack, pack_credit, pack_size, read_number, unpack

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE = 2, 8
TIMEOUT_S = 60.0


class HalfStream:
    """One stream. Reads and writes block, at most `TIMEOUT_S` at a time."""

    def __init__(self, tunnel: HalfTunnel, number: int) -> None:
        self._tunnel = tunnel
        self.number = number
        self.frames: queue.Queue[Frame] = queue.Queue()
        self.room = threading.Semaphore(0)
        self.credit = WINDOW_BYTES
        self.code: int | None = None

    def read(self, least: int = 1) -> bytes:
        """Return at least so many bytes, fewer when the stream ends before; its exit code is in `code` then."""
        found = b""
        while len(found) < least:
            frame = self.frames.get(timeout=TIMEOUT_S)
            if frame.kind in (Kind.DATA, Kind.EXTRA):
                found += frame.payload
                self._tunnel.say(pack_credit(self.number, len(frame.payload)))
                continue
            if frame.kind is Kind.EXIT:
                self.code = read_number(frame.payload, is_signed=True)
            break
        return found

    def read_until(self, wanted: bytes) -> bytes:
        """Return what has come when `wanted` is in it. Raises EOFError when the stream ends before."""
        found = b""
        while wanted not in found:
            data = self.read()
            if not data:
                raise EOFError(f"{wanted!r} did not come: {found!r}")
            found += data
        return found

    def write(self, data: bytes) -> None:
        """Send bytes, as the other side takes them."""
        while data:
            while self.credit <= 0:
                if not self.room.acquire(timeout=TIMEOUT_S):
                    raise TimeoutError("the runner takes nothing more")
            piece, data = data[: min(PIECE_BYTES, self.credit)], data[min(PIECE_BYTES, self.credit) :]
            self.credit -= len(piece)
            self._tunnel.say(pack(Kind.DATA, self.number, piece))

    def end(self) -> None:
        """Say that nothing more comes."""
        self._tunnel.say(pack(Kind.EOF, self.number))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the size of the terminal."""
        self._tunnel.say(pack_size(self.number, rows, columns))

    def close(self) -> None:
        """Hang up."""
        self._tunnel.say(pack(Kind.CLOSE, self.number))


class HalfTunnel:
    """The tunnel of one runner. `serve` belongs to the handler's thread."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._streams: dict[int, HalfStream] = {}
        key = handler.headers["Sec-WebSocket-Key"]
        accept = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()  # noqa: S324  (RFC 6455)
        handler.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)):
            handler.send_header(name, value)
        handler.end_headers()
        handler.close_connection = True

    def open(self, **asked: object) -> HalfStream:
        """Return a stream that the runner has opened. Raises ConnectionRefusedError with its sentence."""
        stream = HalfStream(self, len(self._streams) + 1)
        self._streams[stream.number] = stream
        self.say(pack(Kind.OPEN, stream.number, json.dumps(asked).encode()))
        first = stream.frames.get(timeout=TIMEOUT_S)
        if first.kind is not Kind.OPENED:
            raise ConnectionRefusedError(first.payload.decode())
        return stream

    def say(self, message: bytes, opcode: int = _BINARY) -> None:
        """Send a message. Raises OSError when the tunnel has ended."""
        size = len(message)
        head = struct.pack("!BB", 128 | opcode, size) if size < 126 else struct.pack("!BBH", 128 | opcode, 126, size)
        with self._lock:
            self._handler.connection.sendall(head + message)

    def serve(self) -> None:
        """Take what comes, until the runner closes; `end` tells the streams."""
        while True:
            opcode, message = self._message()
            if opcode == _CLOSE:
                break
            if opcode != _BINARY:
                continue
            frame = unpack(message)
            stream = self._streams[frame.stream]
            if frame.kind is Kind.CREDIT:
                stream.credit += read_number(frame.payload)
                stream.room.release()
            else:
                stream.frames.put(frame)

    def end(self) -> None:
        """Tell the streams that nothing comes any more."""
        for stream in self._streams.values():
            stream.frames.put(Frame(Kind.CLOSE, stream.number))

    def _message(self) -> tuple[int, bytes]:
        file = self._handler.rfile
        head = file.read(2)
        if len(head) < 2:
            return _CLOSE, b""
        size = head[1] & 127
        if size >= 126:
            size = int.from_bytes(file.read(2 if size == 126 else 8), "big")
        mask = file.read(4)
        data = file.read(size)
        pattern = (mask * (size // 4 + 1))[:size]
        plain = (int.from_bytes(data, "big") ^ int.from_bytes(pattern, "big")).to_bytes(size, "big")
        return head[0] & 15, plain
