"""HTTP/1.1 as far as a runner speaks it: one kept connection, one request at a time, answers read as they come.

The standard library's client loads the parsers of e-mail, which takes a third of the time until user code runs.
"""

from __future__ import annotations

import os
import socket
from typing import IO, Any

_LINE = 65536
_HEADERS = 200
_PIECE = 1 << 16
_PORTS = {"http": 80, "https": 443}


class BrokenError(OSError):
    """What came is no answer, or ended before it was whole."""


def split(url: str) -> tuple[str, str, int, str]:
    """Return (scheme, host, port, the rest) of an address. Raises ValueError for one that is none."""
    scheme, colon, rest = url.partition("://")
    at = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    place, path = rest[:at].rpartition("@")[2], rest[at:].partition("#")[0]
    path = f"/{path}" if path.startswith("?") else path
    host, _, port = place[1:].partition("]") if place.startswith("[") else place.partition(":")
    scheme, port = scheme.lower(), port.lstrip(":")
    is_line = all(part.isprintable() and " " not in part for part in (host, path)) and path.isascii()
    if not colon or scheme not in _PORTS or not host or not is_line:
        raise ValueError(f"{url[:80]!r} is no address of a server.")
    return scheme, host, int(port) if port else _PORTS[scheme], path


class Answer:
    """What a server answered: to be read to its end before the next request."""

    def __init__(self, source: IO[bytes], method: str) -> None:
        """Read the head. Raises OSError."""
        self._source = source
        self.status, version = 100, ""
        while 100 <= self.status < 200 and self.status != 101:
            words = _line(source).split(None, 2)
            if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
                raise BrokenError("What answers there does not speak HTTP.")
            version, self.status = words[0], int(words[1])
            self._headers = _headers(source)
        self._is_chunked = self.getheader("transfer-encoding").lower() == "chunked"
        size = self.getheader("content-length")
        is_bare = method == "HEAD" or self.status in (204, 304)
        self._left = (
            0 if is_bare or self._is_chunked else int(size) if size.isdecimal() else -1
        )  # -1: until the other end hangs up
        self.is_over = is_bare or (self._left == 0 and not self._is_chunked)
        told = self.getheader("connection").lower()
        self.is_last = self._left < 0 or told == "close" or (version == "HTTP/1.0" and told != "keep-alive")

    def getheader(self, name: str) -> str:
        """Return a header, empty where there is none."""
        return self._headers.get(name.lower(), "")

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, fewer at the end alone; -1: all that is left. Raises OSError."""
        pieces: list[bytes] = []
        wanted = size
        while wanted and not self.is_over:
            piece = self._piece(_PIECE if wanted < 0 else min(wanted, _PIECE))
            pieces.append(piece)
            wanted -= len(piece) if wanted > 0 else 0
        return b"".join(pieces)

    def _piece(self, most: int) -> bytes:
        if self._is_chunked and not self._left:
            size = _line(self._source).partition(";")[0].strip()
            try:
                self._left = int(size, 16)
            except ValueError:
                raise BrokenError("The answer is garbled.") from None
            if self._left <= 0:
                _headers(self._source)
                self.is_over = True
                return b""
        data = self._source.read(most if self._left < 0 else min(most, self._left))
        if self._left < 0:
            self.is_over = not data
        elif not data:
            raise BrokenError("The answer broke off.")
        else:
            self._left -= len(data)
            if self._is_chunked and not self._left:
                _line(self._source)
            self.is_over = not self._is_chunked and not self._left
        return data


class Connection:
    """One connection, opened by the first request. A `path` is a socket of this machine to go through.

    With a `fingerprint` the server is the one whose certificate has it: no authority and no name is asked.
    """

    def __init__(self, scheme: str, host: str, port: int, timeout_s: float, path: str = "", fingerprint: str = "") -> None:
        self._scheme, self._host, self._port, self._path, self._fingerprint = scheme, host, port, path, fingerprint
        self.timeout_s = timeout_s
        self.sock: Any = None
        self._source: IO[bytes] | None = None
        self._answer: Answer | None = None

    @property
    def name(self) -> str:
        """Return what the server is called in a request."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return host if self._port == _PORTS[self._scheme] else f"{host}:{self._port}"

    def connect(self) -> None:
        """Open it. Raises OSError; a stranger is left again before anything was said."""
        if self._path:
            opened: Any = socket.socket(socket.AF_UNIX)
            opened.settimeout(self.timeout_s)
            self.sock = opened
            opened.connect(os.path.realpath(self._path))  # the link may be longer than an address can be; where it leads is not
        else:
            # as bytes: a text would be asked for letters beyond ASCII, and what knows them takes a while to load
            host: Any = self._host.encode() if self._host.isascii() else self._host
            self.sock = opened = socket.create_connection((host, self._port), self.timeout_s)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._scheme == "https":
            self.sock = self._secured(opened)

    def _secured(self, opened: socket.socket) -> Any:
        import ssl  # where there is TLS only

        if not self._fingerprint:
            return ssl.create_default_context().wrap_socket(opened, server_hostname=self._host)
        import hashlib

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # what vouches for it is its fingerprint, below
        shown = context.wrap_socket(opened, server_hostname=self._host)
        if hashlib.sha256(shown.getpeercert(True) or b"").hexdigest() != self._fingerprint:
            shown.close()
            raise BrokenError("the server's certificate is not the one that this runner was told of")
        return shown

    def request(self, method: str, path: str, body: bytes | IO[bytes] | None, headers: dict[str, str]) -> Answer:
        """Send a request and return the head of the answer. A body that is a file has its length in `headers`. Raises OSError."""
        last = self._answer
        if last is not None and (last.is_last or not last.is_over):
            self.close()
        if self.sock is None:
            self.connect()
        self.sock.settimeout(self.timeout_s)
        told = {"Host": self.name, "Accept-Encoding": "identity", **headers}
        if isinstance(body, bytes) or (body is None and method != "GET"):
            told["Content-Length"] = str(len(body or b""))
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        if head.count("\n") != len(told) or head.count("\r") != len(told):
            raise ValueError("A header of a request has more than one line.")
        sent = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1")
        self.sock.sendall(sent + body if isinstance(body, bytes) else sent)
        while body is not None and not isinstance(body, bytes):
            piece = body.read(_PIECE)
            if not piece:
                break
            self.sock.sendall(piece)
        self._source = self._source or self.sock.makefile("rb")
        self._answer = Answer(self._source, method)
        return self._answer

    def close(self) -> None:
        """Close it; the next request opens another."""
        for opened in (self._source, self.sock):
            if opened is not None:
                try:
                    opened.close()
                except OSError:
                    pass
        self._source = self.sock = self._answer = None


def _line(source: IO[bytes]) -> str:
    data = source.readline(_LINE + 1)
    if not data.endswith(b"\n"):
        raise BrokenError("The server hung up." if len(data) <= _LINE else "The answer is garbled.")
    return data.rstrip(b"\r\n").decode("latin-1")


def _headers(source: IO[bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    for _ in range(_HEADERS):
        line = _line(source)
        if not line:
            return found
        name, _, value = line.partition(":")
        found[name.strip().lower()] = value.strip()
    raise BrokenError("The answer is garbled.")
