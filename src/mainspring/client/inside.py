"""Shells and ports inside a run, over websockets: each shell and each connection to a port is one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from mainspring.client.transport import PREFIX, PROTOCOL, Transport, unreachable, verified, wrong_of
from mainspring.core import codec
from mainspring.core.errors import MainspringError, ServerUnreachableError, UsageError, from_wire

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

OPEN_S = 75.0  # a runner that was away may take this long to come
PIECE_BYTES = 64 * 1024
BACKLOG = 128
_starting = threading.Lock()
_running: list[asyncio.AbstractEventLoop] = []


class Connection:
    """An open websocket, for threads. `recv` and `send` may each wait in a thread of their own.

    Over the asynchronous half of the library: the one for threads reads nothing while a write waits; two
    sides that write much at once would then wait for each other for ever.
    """

    def __init__(self, opened: ClientConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._opened = opened
        self._loop = loop

    def send(self, message: bytes | str) -> None:
        """Send a message, waiting for room."""
        asyncio.run_coroutine_threadsafe(self._opened.send(message), self._loop).result()

    def recv(self) -> bytes | str:
        """Return the next message."""
        return asyncio.run_coroutine_threadsafe(self._opened.recv(), self._loop).result()

    def close(self) -> None:
        """Close. Idempotent."""
        asyncio.run_coroutine_threadsafe(self._opened.close(), self._loop).result()


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that came out of a shell; `is_error` tells those of standard error."""

    data: bytes
    is_error: bool = False


@dataclass(slots=True)
class Shell:
    """A command that runs inside a run. `outputs` is for one thread, everything else for any."""

    _socket: Connection
    _run: str
    code: int | None = None

    def send(self, data: bytes) -> None:
        """Send input. Does nothing once the command has ended."""
        self._say(data)

    def end(self) -> None:
        """Say that no more input comes."""
        self._say('{"is_end": true}')

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size."""
        self._say(codec.encode({"rows": rows, "columns": columns}).decode())

    def outputs(self) -> Iterator[Output]:
        """Yield what comes out until the command has ended; `code` is its exit code then.

        Raises what the server tells (StateError: the run has ended), ServerUnreachableError when the connection breaks.
        """
        for message in _messages(self._socket, self._run):
            if isinstance(message, bytes):
                yield Output(message[1:], message[:1] == b"\x02")
                continue
            told = codec.decode_any(message)
            if "error" in told:
                raise from_wire(told)
            if "exit" in told:
                self.code = int(told["exit"])
                return
        raise _broken(self._run)

    def close(self) -> None:
        """Hang up: what still runs in it is ended."""
        self._socket.close()

    def _say(self, message: bytes | str) -> None:
        import websockets.exceptions

        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            if isinstance(message, str):
                self._socket.send(message)
                return
            for at in range(0, len(message), PIECE_BYTES):
                self._socket.send(message[at : at + PIECE_BYTES])


def open_shell(
    transport: Transport,
    ref: str,
    command: Sequence[str],
    *,
    replica: int = 0,
    terminal: tuple[int, int] | None = None,
    term: str = "xterm",
) -> Shell:
    """Return a shell in which `command` has begun (none: an interactive one); `terminal` is its (rows, columns), if it has one.

    Raises NotFoundError, AccessDeniedError, StateError (the run does not run), UnreachableError (its runner does not answer).
    """
    asked: dict[str, Any] = {"command": list(command), "has_terminal": terminal is not None, "term": term}
    if terminal is not None:
        asked["rows"], asked["columns"] = terminal
    opened = dial(transport, f"/runs/{quote(ref, safe='')}/shell", {"replica": replica})
    opened.send(codec.encode(asked).decode())
    for message in _messages(opened, ref):
        told = codec.decode_any(message)
        if "error" in told:
            opened.close()
            raise from_wire(told)
        return Shell(opened, ref)
    raise _broken(ref)


@dataclass(slots=True)
class Forward:
    """A port of this machine that leads to a port inside a run, until it is closed. For `with` and `async with`."""

    transport: Transport
    ref: str
    port: int
    replica: int = 0
    local: int = 0
    on_failure: Callable[[MainspringError], None] = lambda _: None
    _door: socket.socket | None = None
    _open: set[Any] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> Forward:
        """Begin to listen, once the run is reached. Raises like `open_shell`, UsageError when the local port is taken."""
        check(self.transport, self.ref, self.port, replica=self.replica)
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("127.0.0.1", self.local))
        except OSError as wrong:
            door.close()
            raise UsageError(
                f"Port {self.local} of this machine cannot be had: {wrong.strerror}.", hint="Name another: --local N, or none."
            ) from wrong
        door.listen(BACKLOG)
        self.local = int(door.getsockname()[1])
        self._door = door
        threading.Thread(target=self._accept, args=(door,), daemon=True, name="forward").start()
        return self

    @property
    def address(self) -> str:
        """Return `host:port` of this machine."""
        return f"127.0.0.1:{self.local}"

    @property
    def url(self) -> str:
        """Return the address for a browser."""
        return f"http://{self.address}"

    def close(self) -> None:
        """Stop listening, and close what is open."""
        if self._door is not None:
            with contextlib.suppress(OSError):
                self._door.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._door.close()
        with self._lock:
            opened = list(self._open)
        for one in opened:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Forward:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Forward:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, kind: type[BaseException] | None, wrong: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.close)

    def _accept(self, door: socket.socket) -> None:
        while True:
            try:
                near, _ = door.accept()
            except OSError:
                return
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._carry, args=(near,), daemon=True, name="forward-one").start()

    def _carry(self, near: socket.socket) -> None:
        with self._lock:
            self._open.add(near)
        try:
            far = dial(self.transport, f"/runs/{quote(self.ref, safe='')}/tcp/{self.port}", {"replica": self.replica})
        except MainspringError as wrong:
            self.on_failure(wrong)
        else:
            threading.Thread(target=_up, args=(near, far), daemon=True, name="forward-up").start()
            _down(near, far, self.ref, self.on_failure)
            far.close()
        finally:
            with self._lock:
                self._open.discard(near)
            near.close()


def _up(near: socket.socket, far: Connection) -> None:
    import websockets.exceptions

    with contextlib.suppress(OSError, websockets.exceptions.ConnectionClosed):
        while data := near.recv(PIECE_BYTES):
            far.send(data)
        far.send("end")


def _down(near: socket.socket, far: Connection, ref: str, on_failure: Callable[[MainspringError], None]) -> None:
    try:
        for message in _messages(far, ref):
            if isinstance(message, bytes):
                near.sendall(message)
            elif message == "end":
                near.shutdown(socket.SHUT_WR)
            else:
                on_failure(from_wire(codec.decode_any(message)))
    except OSError:
        pass  # whoever connected has gone
    except MainspringError as wrong:
        on_failure(wrong)


def check(transport: Transport, ref: str, port: int, *, replica: int = 0) -> None:
    """Ask for the way inside before anything is promised. Raises like `open_shell`."""
    query = {"replica": replica, "port": port}
    transport.send("POST", f"/runs/{quote(ref, safe='')}/inside", query=query, timeout_s=OPEN_S)


def dial(transport: Transport, path: str, query: Mapping[str, object]) -> Connection:
    """Return an open websocket. Raises what the server answered instead, ServerUnreachableError."""
    import websockets.exceptions
    from websockets.asyncio.client import connect

    scheme, _, rest = transport.url.partition("://")
    is_secure = scheme == "https"
    context = verified(transport.certificate) if is_secure else None
    url = f"{'wss' if is_secure else 'ws'}://{rest}{PREFIX}{path}?{urlencode(query)}"
    headers = {"Authorization": f"Bearer {transport.token}", "Mainspring-Protocol": PROTOCOL}

    async def opened() -> ClientConnection:
        return await connect(
            url, additional_headers=headers, ssl=context, open_timeout=OPEN_S, compression=None, max_size=2**20, proxy=None
        )

    loop = _loop()
    try:
        return Connection(asyncio.run_coroutine_threadsafe(opened(), loop).result(), loop)
    except websockets.exceptions.InvalidStatus as refused:
        raise wrong_of(refused.response.status_code, bytes(refused.response.body or b"")) from refused
    except (OSError, TimeoutError, websockets.exceptions.WebSocketException) as wrong:
        raise unreachable(transport.url, wrong) from wrong


def _loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process's connections, in a thread of its own."""
    with _starting:
        if not _running:
            _running.append(asyncio.new_event_loop())
            threading.Thread(target=_running[0].run_forever, daemon=True, name="connections").start()
        return _running[0]


def _messages(opened: Connection, ref: str) -> Iterator[bytes | str]:
    """Yield what comes until the other side closes. Raises ServerUnreachableError when the connection breaks."""
    import websockets.exceptions

    while True:
        try:
            yield opened.recv()
        except websockets.exceptions.ConnectionClosedOK:
            return
        except (websockets.exceptions.ConnectionClosed, OSError) as wrong:
            raise _broken(ref) from wrong


def _broken(ref: str) -> ServerUnreachableError:
    return ServerUnreachableError(
        "The connection to the server broke; the run goes on without it.",
        hint=f"Try again when it is there: mainspring shell {ref}",
    )
