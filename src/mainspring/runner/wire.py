"""Requests to the server over one kept connection. Every request here is idempotent and may be sent again."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from .exchange import Answer, Connection, split

if TYPE_CHECKING:
    import socket

PREFIX = "/api/v1"
MAX_PAUSE_S = 30.0


class RefusedError(Exception):
    """The server answered, and will answer the same again. `status` tells what; ask again in `pause_s` if that is above zero."""

    def __init__(self, status: int, text: str, pause_s: float = 0.0) -> None:
        super().__init__(f"{status}: {text[:500]}")
        self.status = status
        self.pause_s = pause_s


class AwayError(Exception):
    """The server cannot be reached or asks to come later: in `pause_s` if that is above zero."""

    def __init__(self, text: str, pause_s: float = 0.0) -> None:
        super().__init__(text)
        self.pause_s = pause_s


class Wire:
    """One connection, for one thread. Whenever it is opened, `launch_file` is asked where the server is now."""

    def __init__(self, url: str, token: str, launch_file: str = "") -> None:
        self._launch_file = launch_file
        self._socket = ""
        self._fingerprint = ""
        self._aim(url)
        self._headers = {"Authorization": f"Bearer {token}", "Mainspring-Protocol": "1"}
        self._connection: Connection | None = None

    def _aim(self, url: str) -> None:
        self._scheme, self._host, self._port, path = split(url)
        self._path = path.rstrip("/")
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
        except (OSError, ValueError) as broken:
            self.close()
            raise AwayError(f"The answer broke off: {broken!r}") from broken
        return found if isinstance(found, dict) else {}

    def open(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout_s: float = 30.0
    ) -> Answer:
        """Return the answer, to be read to its end before the next request. Raises AwayError or RefusedError.

        A kept connection that the server closed meanwhile is opened again once, unless the body can be read only once.
        """
        is_kept = self._connection is not None
        try:
            answer = self._send(method, path, body, headers or {}, timeout_s)
        except OSError as broken:
            self.close()
            if not is_kept or isinstance(broken, TimeoutError) or not (body is None or isinstance(body, bytes)):
                raise AwayError(f"{broken!r}") from broken
            try:
                answer = self._send(method, path, body, headers or {}, timeout_s)
            except OSError as again:
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
        told = {"Host": connection.name, **self._headers, **headers}
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

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str], timeout_s: float) -> Answer:
        if self._connection is None or self._connection.sock is None:
            if self._launch_file:
                self._look_again()
            self._connection = self._fresh(timeout_s)
        self._connection.timeout_s = timeout_s
        return self._connection.request(method, self._path + path, body, {**self._headers, **headers})

    def _fresh(self, timeout_s: float) -> Connection:
        return Connection(self._scheme, self._host, self._port, timeout_s, self._socket, self._fingerprint)

    def _wrong(self, answer: Answer) -> Exception:
        try:
            text = answer.read(65536).decode("utf-8", "replace")
        except OSError:
            text = ""
        self.close()
        pause_s = _seconds(answer.getheader("retry-after"))
        if answer.status == 401 or answer.status == 429 or answer.status >= 500 or answer.status == 408:
            return AwayError(f"{answer.status}: {text[:200]}", pause_s)
        return RefusedError(answer.status, text, pause_s)


def pause_after(failures: int, asked_s: float = 0.0) -> float:
    """Return how long to wait after so many failures in a row: growing, jittered, at most 30 s, at least what was asked for."""
    grown = min(MAX_PAUSE_S, 0.1 * 2.0 ** min(failures, 12))
    return asked_s * jitter(1.0, 1.2) + grown * jitter(0.5, 1.0)


def jitter(least: float, most: float) -> float:
    """Return a number in between, so that many runners do not come at once."""
    return least + (most - least) * int.from_bytes(os.urandom(4), "big") / 2**32


def _seconds(text: str) -> float:
    try:
        return max(0.0, min(3600.0, float(text)))
    except ValueError:
        return 0.0
