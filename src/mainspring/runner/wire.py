"""Requests to the server over one kept connection. Every request here is idempotent and may be sent again."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import urllib.parse
from typing import Any

PREFIX = "/api/v1"
MAX_PAUSE_S = 30.0


class RefusedError(Exception):
    """The server answered, and will answer the same again. `status` tells what."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:500]}")
        self.status = status


class AwayError(Exception):
    """The server cannot be reached or asks to come later: in `pause_s` if that is above zero."""

    def __init__(self, text: str, pause_s: float = 0.0) -> None:
        super().__init__(text)
        self.pause_s = pause_s


class _Tunnel(http.client.HTTPConnection):
    """A connection through a socket of this machine, whose other end is where the server is."""

    path = ""

    def connect(self) -> None:
        """Open the socket; TLS, where there is any, is laid over it by whoever inherits."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.path.realpath(self.path))  # the link may be longer than an address can be; where it leads is not


class _Pinned(http.client.HTTPSConnection):
    """TLS to the one server whose certificate has this fingerprint: no authority and no name is asked."""

    fingerprint = ""

    def __init__(self, host: str, port: int | None = None, timeout: float = 30.0) -> None:
        import ssl  # where there is TLS only

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # what vouches for it is its fingerprint, below
        super().__init__(host, port, timeout=timeout, context=context)

    def connect(self) -> None:
        """Connect, and go away again from a stranger before anything was said."""
        import hashlib

        super().connect()
        shown: Any = self.sock
        if hashlib.sha256(shown.getpeercert(True) or b"").hexdigest() != self.fingerprint:
            self.close()
            raise OSError("the server's certificate is not the one that this runner was told of")


class Wire:
    """One connection, for one thread. Whenever it is opened, `launch_file` is asked where the server is now."""

    def __init__(self, url: str, token: str, launch_file: str = "") -> None:
        self._launch_file = launch_file
        self._socket = ""
        self._fingerprint = ""
        self._aim(url)
        self._headers = {"Authorization": f"Bearer {token}", "Mainspring-Protocol": "1"}
        self._connection: http.client.HTTPConnection | None = None

    def _aim(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port
        self._path = parts.path.rstrip("/")
        if not self._path.endswith(PREFIX):
            self._path += PREFIX

    def _look_again(self) -> None:
        """Aim at the address in the launch file: a server that came back elsewhere has written it there.

        A `socket` beside it is this machine's end of a tunnel to that address.
        """
        try:
            with open(self._launch_file, encoding="utf-8") as file:
                told = json.load(file)
            self._aim(str(told["server_url"]))
            self._socket = str(told.get("socket") or "")
            self._fingerprint = str(told.get("server_fingerprint") or "")
        except (OSError, ValueError, KeyError):
            return  # the last address stands

    def ask(self, method: str, path: str, value: Any = None, timeout_s: float = 30.0) -> dict[str, Any]:
        """Return the JSON answer to a JSON body. Raises AwayError or RefusedError."""
        headers: dict[str, str] = {}
        body: bytes | None = None
        if value is not None:
            body = json.dumps(value, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
            if len(body) > 1024:
                import zlib  # small beats do without it

                packer = zlib.compressobj(1, zlib.DEFLATED, 31)
                body = packer.compress(body) + packer.flush()
                headers["Content-Encoding"] = "gzip"
        answer = self.open(method, path, body, headers, timeout_s)
        try:
            found = json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as broken:
            self.close()
            raise AwayError(f"The answer broke off: {broken!r}") from broken
        return found if isinstance(found, dict) else {}

    def open(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout_s: float = 30.0
    ) -> http.client.HTTPResponse:
        """Return the answer, to be read to its end before the next request. Raises AwayError or RefusedError.

        A kept connection that the server closed meanwhile is opened again once, unless the body can be read only once.
        """
        is_kept = self._connection is not None
        try:
            answer = self._send(method, path, body, headers or {}, timeout_s)
        except (OSError, http.client.HTTPException) as broken:
            self.close()
            if not is_kept or isinstance(broken, TimeoutError) or not (body is None or isinstance(body, bytes)):
                raise AwayError(f"{broken!r}") from broken
            try:
                answer = self._send(method, path, body, headers or {}, timeout_s)
            except (OSError, http.client.HTTPException) as again:
                self.close()
                raise AwayError(f"{again!r}") from again
        if answer.status < 300 or answer.status in (302, 303, 307, 308):
            return answer
        raise self._wrong(answer)

    def upgrade(self, path: str, headers: dict[str, str], timeout_s: float = 15.0) -> tuple[socket.socket, dict[str, str], bytes]:
        """Ask for another protocol on a connection of its own; return (socket, headers of the answer, what came behind them).

        Raises AwayError or RefusedError.
        """
        if self._launch_file:
            self._look_again()
        connection = self._fresh(timeout_s)
        host = f"[{self._host}]" if ":" in self._host else self._host
        told = {"Host": host if self._port is None else f"{host}:{self._port}", **self._headers, **headers}
        lines = [f"GET {self._path}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", ""]
        try:
            connection.connect()
            opened = connection.sock
            opened.sendall("\r\n".join(lines).encode("latin-1"))
            got = bytearray()
            while b"\r\n\r\n" not in got and len(got) < 65536:
                data = opened.recv(65536)
                if not data:
                    raise AwayError("The server hung up.")
                got += data
        except OSError as wrong:
            connection.close()
            raise AwayError(f"{wrong!r}") from wrong
        head, _, rest = bytes(got).partition(b"\r\n\r\n")
        first, *others = head.decode("latin-1").split("\r\n")
        status = int(first.split()[1]) if len(first.split()) > 1 and first.split()[1].isdigit() else 0
        if status != 101:
            opened.close()
            text = rest[:500].decode("utf-8", "replace")
            raise RefusedError(status, text) if 400 <= status < 500 else AwayError(f"{status}: {text}")
        pairs = [line.partition(":") for line in others]
        return opened, {name.strip().lower(): value.strip() for name, _, value in pairs}, rest

    def close(self) -> None:
        """Drop the connection; the next request opens one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str], timeout_s: float) -> http.client.HTTPResponse:
        if self._connection is None:
            if self._launch_file:
                self._look_again()
            self._connection = self._fresh(timeout_s)
        self._connection.timeout = timeout_s
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        self._connection.request(method, self._path + path, body=body, headers={**self._headers, **headers})
        return self._connection.getresponse()

    def _fresh(self, timeout_s: float) -> http.client.HTTPConnection:
        kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
        if self._secure:
            kind = _Pinned if self._fingerprint else http.client.HTTPSConnection
        bases = (kind, _Tunnel) if self._socket and self._secure else (_Tunnel if self._socket else kind,)
        if self._socket or kind is _Pinned:
            made = type("Connection", bases, {"path": self._socket, "fingerprint": self._fingerprint})
            return made(self._host, self._port, timeout=timeout_s)  # type: ignore[no-any-return]
        return kind(self._host, self._port, timeout=timeout_s)

    def _wrong(self, answer: http.client.HTTPResponse) -> Exception:
        try:
            text = answer.read(65536).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            text = ""
        self.close()
        if answer.status == 401 or answer.status == 429 or answer.status >= 500 or answer.status == 408:
            return AwayError(f"{answer.status}: {text[:200]}", _seconds(answer.getheader("Retry-After") or ""))
        return RefusedError(answer.status, text)


def pause_after(failures: int, asked_s: float = 0.0) -> float:
    """Return how long to wait after so many failures in a row: growing, jittered, at most 30 s, at least what was asked for."""
    grown = min(MAX_PAUSE_S, 0.1 * 2.0 ** min(failures, 12))
    return asked_s * random.uniform(1.0, 1.2) + grown * random.uniform(0.5, 1.0)  # noqa: S311  (jitter)


def _seconds(text: str) -> float:
    try:
        return max(0.0, min(3600.0, float(text)))
    except ValueError:
        return 0.0
