"""The server's end of tunnels: who wants in waits here until the runner has dialled, then gets a stream.

`Tunnels` belongs to one event loop and one process: a tunnel is held by the process that the runner reached. What a runner says
is not trusted: a frame that breaks the rules ends its tunnel, and no stream holds more than a window's bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from mainspring.core import codec
from mainspring.core.errors import ConflictError, MainspringError, NotFoundError, SpecError, StateError, UnreachableError
from mainspring.core.tunnels import (
    PIECE_BYTES,
    WINDOW_BYTES,
    Frame,
    Kind,
    pack,
    pack_credit,
    pack_size,
    read_number,
    unpack,
)
from mainspring.services import inside
from mainspring.services.context import Context
from mainspring.services.inside import Place

log = logging.getLogger(__name__)
PROTOCOL = "mainspring-tunnel"
DIAL_S = 15.0  # for a runner that is heard; one that is not may be waiting to try again
SILENT_DIAL_S = 45.0
OPEN_S = 15.0
LOOK_S = 1.0
MAX_STREAMS = 128
MAX_FRAMES = 16384
MERGED_BYTES = 4096  # smaller pieces are put together: each costs memory of its own
MAX_NUMBER = 2**32 - 1
_REASONS: Mapping[str, type[MainspringError]] = {"ended": StateError, "not_found": NotFoundError, "busy": ConflictError}


class Stream:
    """One shell or connection inside a run. For one reader and one writer."""

    def __init__(self, tunnel: Tunnel, number: int) -> None:
        self._tunnel = tunnel
        self.number = number
        self._frames: deque[Frame] = deque()
        self._moved = asyncio.Event()
        self._held = 0
        self._said: set[Kind] = set()
        self._credit = WINDOW_BYTES
        self._may_write = asyncio.Event()
        self.is_over = False

    async def read(self) -> Frame:
        """Return the next DATA, EXTRA, EOF, EXIT or CLOSE. A CLOSE that nobody sent means that the way is lost."""
        while not self._frames:
            if self.is_over:
                return Frame(Kind.CLOSE, self.number, _LOST)
            self._moved.clear()
            await self._moved.wait()
        frame = self._frames.popleft()
        if frame.kind in (Kind.DATA, Kind.EXTRA):
            self._held -= len(frame.payload)
            await self._say(pack_credit(self.number, len(frame.payload)))
        return frame

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while too many are on the way. Raises UnreachableError when the stream is over."""
        view = memoryview(data)
        while view:
            while self._credit <= 0 and not self.is_over:
                self._may_write.clear()
                await self._may_write.wait()
            if self.is_over:
                raise UnreachableError("The way inside is closed.")
            piece = view[: min(PIECE_BYTES, self._credit)]
            self._credit -= len(piece)
            await self._say(pack(Kind.DATA, self.number, bytes(piece)))
            view = view[len(piece) :]

    async def end(self) -> None:
        """Say that nothing more comes from here."""
        await self._say(pack(Kind.EOF, self.number))

    async def resize(self, rows: int, columns: int) -> None:
        """Tell a terminal its size."""
        await self._say(pack_size(self.number, rows, columns))

    def take(self, frame: Frame) -> None:
        """Take what the runner said of this stream. Raises SpecError when it may not say that."""
        if frame.kind is Kind.CREDIT:
            self._credit += read_number(frame.payload)
            if self._credit > WINDOW_BYTES:
                raise SpecError("credit for what was never sent")
            self._may_write.set()
            return
        if frame.kind in (Kind.DATA, Kind.EXTRA):
            self._held += len(frame.payload)
            if self._held > WINDOW_BYTES or len(self._frames) > MAX_FRAMES:
                raise SpecError("more than the window has room for")
            last = self._frames[-1] if self._frames else None
            if last is not None and last.kind is frame.kind and len(last.payload) < MERGED_BYTES:
                self._frames.pop()
                frame = Frame(frame.kind, frame.stream, last.payload + frame.payload)
        elif frame.kind is Kind.EXIT:
            read_number(frame.payload, is_signed=True)
        elif frame.kind not in (Kind.OPENED, Kind.EOF, Kind.CLOSE) or frame.kind in self._said:
            raise SpecError(f"a frame of kind {frame.kind.name}")
        else:
            self._said.add(frame.kind)
        self._frames.append(frame)
        if frame.kind in (Kind.EXIT, Kind.CLOSE):
            self.lose()
        self._moved.set()

    def lose(self) -> None:
        """Wake reader and writer: nothing more comes."""
        self.is_over = True
        self._moved.set()
        self._may_write.set()

    async def _say(self, message: bytes) -> None:
        if not self.is_over:
            await self._tunnel.send(message)


class Tunnel:
    """One runner's connection."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self.is_over = False

    async def send(self, message: bytes) -> None:
        """Send a frame. One that the connection does not take any more is lost: who reads is told."""
        if not self.is_over:
            try:
                await self._send(message)
            except (RuntimeError, OSError, WebSocketDisconnect):
                self.lose()

    def take(self, message: bytes) -> None:
        """Take a frame from the runner. Raises SpecError when it breaks the rules."""
        frame = unpack(message)
        stream = self._streams.get(frame.stream)
        if stream is not None:
            stream.take(frame)
        elif not 0 < frame.stream < self._next:
            raise SpecError(f"stream {frame.stream} was never opened")

    def lose(self) -> None:
        """End all streams: the connection is gone."""
        self.is_over = True
        for stream in self._streams.values():
            stream.lose()

    @asynccontextmanager
    async def open(self, asked: Mapping[str, object]) -> AsyncIterator[Stream]:
        """Give a stream that has been opened, and close it. Raises what the runner says, ConflictError (too many)."""
        if len(self._streams) >= MAX_STREAMS or self._next >= MAX_NUMBER:
            raise ConflictError(f"{len(self._streams)} connections into this run are open.", hint="Close some of them.")
        stream = Stream(self, self._next)
        self._next += 1
        self._streams[stream.number] = stream
        try:
            await self.send(pack(Kind.OPEN, stream.number, codec.encode(asked)))
            async with asyncio.timeout(OPEN_S):
                first = await stream.read()
            if first.kind is not Kind.OPENED:
                raise refusal(first)
            yield stream
        except TimeoutError as wrong:
            raise UnreachableError("Nothing inside the run answered in time.") from wrong
        finally:
            del self._streams[stream.number]
            if not stream.is_over:
                with contextlib.suppress(asyncio.CancelledError):
                    await self.send(pack(Kind.CLOSE, stream.number))


class Tunnels:
    """All tunnels of this process."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._live: dict[tuple[str, int], Tunnel] = {}
        self._came = asyncio.Condition()

    async def to(self, place: Place) -> Tunnel:
        """Return the tunnel of a replica, asking its runner to dial if there is none. Raises UnreachableError, StateError."""
        key = (place.attempt, place.replica)
        found = self._live.get(key)
        if found is not None:
            return found
        began = asyncio.get_running_loop().time()
        with self._ctx.signals.want(*key):
            while True:
                async with self._came:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._came.wait_for(lambda: key in self._live), LOOK_S)
                found = self._live.get(key)
                if found is not None:
                    return found
                member = await run_in_threadpool(inside.member_of, self._ctx, place)
                patience_s = DIAL_S if member is not None and inside.is_heard(self._ctx, member) else SILENT_DIAL_S
                if member is None or asyncio.get_running_loop().time() - began > patience_s:
                    raise await run_in_threadpool(inside.silence, self._ctx, place)

    async def attend(self, websocket: WebSocket, attempt: str, replica: int) -> None:
        """Carry what a runner's connection brings until it ends; an older connection of the same runner ends with this."""
        key = (attempt, replica)
        tunnel = Tunnel(websocket.send_bytes)
        before = self._live.get(key)
        async with self._came:
            self._live[key] = tunnel
            self._came.notify_all()
        if before is not None:
            before.lose()
        code = 1000
        try:
            while not tunnel.is_over:
                tunnel.take(await websocket.receive_bytes())
        except WebSocketDisconnect:
            pass
        except (SpecError, KeyError) as wrong:
            code = 1008
            log.warning("a runner broke the rules of the tunnel", extra={"attempt": attempt, "why": str(wrong)[:200]})
        finally:
            tunnel.lose()
            if self._live.get(key) is tunnel:
                del self._live[key]
        with contextlib.suppress(RuntimeError, OSError, WebSocketDisconnect):
            await websocket.close(code)


_LOST = json.dumps({"reason": "lost", "message": ""}).encode()


def refusal(frame: Frame) -> MainspringError:
    """Return the error that a CLOSE tells, in the runner's words."""
    try:
        told = codec.decode_any(frame.payload) if frame.payload else {}
        reason, sentence = str(told.get("reason", "")), str(told.get("message", ""))[:500]
    except (SpecError, AttributeError):
        reason, sentence = "", ""
    if reason == "lost":
        return UnreachableError("The connection to the run's runner was lost.", hint="Try again: the run itself goes on.")
    hint = "mainspring logs -f RUN tells when it listens." if reason == "refused" else ""
    found = _REASONS.get(reason, UnreachableError)
    return found(sentence or "The runner closed the way inside.", hint=hint, details={"reason": reason})
