"""A connection to a port inside a run for a protocol of asyncio that would have had a socket: through the runner's tunnel."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Protocol, cast

from mainspring.api.tunnels import Stream, Tunnel
from mainspring.core.errors import MainspringError, UnreachableError
from mainspring.core.tunnels import Kind


class Way(Protocol):
    """What a connection needs of its transport, a socket's or a passage's."""

    def write(self, data: bytes) -> None:
        """Send bytes some time; never blocks."""
        ...

    def close(self) -> None:
        """Let go; the protocol hears `connection_lost`."""
        ...


async def pass_through(tunnel: Tunnel, port: int, protocol: asyncio.Protocol) -> None:
    """Connect `protocol` with a port inside; it has heard `connection_made` then. Raises what `Tunnel.open` does."""
    passage = _Passage(protocol)
    await passage.begin(tunnel, port)


class _Passage:
    """The transport of one protocol. One task reads, one writes; what is written waits here while the window is full."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        self._out: deque[bytes] = deque()
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self, tunnel: Tunnel, port: int) -> None:
        opened = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._carry(tunnel, port, opened))
        try:
            await opened
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    def write(self, data: bytes) -> None:
        self._out.append(data)
        self._moved.set()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _carry(self, tunnel: Tunnel, port: int, opened: asyncio.Future[None]) -> None:
        try:
            async with tunnel.open({"what": "tcp", "port": port}) as stream:
                if opened.cancelled():
                    return
                self._protocol.connection_made(cast("asyncio.BaseTransport", self))
                opened.set_result(None)
                await self._both_ways(stream)
        except MainspringError as wrong:
            if not opened.done():
                opened.set_exception(wrong)
        finally:
            if opened.done() and not opened.cancelled() and opened.exception() is None:
                self._protocol.connection_lost(None)

    async def _both_ways(self, stream: Stream) -> None:
        sending = asyncio.create_task(self._send(stream))
        try:
            while (frame := await stream.read()).kind is Kind.DATA:
                self._protocol.data_received(frame.payload)
        finally:
            sending.cancel()

    async def _send(self, stream: Stream) -> None:
        with contextlib.suppress(UnreachableError):  # who reads is told
            while True:
                await self._moved.wait()
                self._moved.clear()
                while self._out:
                    await stream.write(self._out.popleft())
