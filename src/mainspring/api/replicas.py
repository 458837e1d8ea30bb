"""Connections to replicas: HTTP/1.1 kept alive, one request at a time on each, as little Python on the way as can be.

A general client costs 0.4 ms a request; this one a tenth of it, because it knows the other side: our own `serving`. One that runs
elsewhere is reached through the tunnel of its runner, by the same connections (`passages.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import httptools

from mainspring.api.passages import Way, pass_through
from mainspring.api.tunnels import Tunnels
from mainspring.core.errors import MainspringError
from mainspring.services.endpoints import Goal
from mainspring.services.inside import Place

IDLE_PER_REPLICA = 64
MAX_INSIDE = 64  # connections through one tunnel: shells and ports have the rest of its streams
MAX_REPLY_BYTES = 256 << 20
DIAL_S = 20.0  # for a runner that is to open its tunnel
REST_S = 5.0  # one that did not is passed over at once for so long


class ReplicaDownError(Exception):
    """The replica did not answer: nobody listens, the connection broke, or the time was over."""


@dataclass(slots=True)
class Reply:
    """What a replica said."""

    status: int = 0
    content_type: bytes = b"application/json"
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    @property
    def body(self) -> bytes:
        """Return the whole body."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class _Connection(asyncio.Protocol):
    """One connection. `httptools` calls the `on_` methods while it parses."""

    def __init__(self) -> None:
        self._transport: Way | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._reply = Reply()
        self._parser = httptools.HttpResponseParser(self)
        self.is_usable = False
        self.is_fresh = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("Way", transport)  # uvloop's transports are no subclass of asyncio's
        self.is_usable = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_usable = False
        self._fail(f"the connection broke: {exc or 'closed'}")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as wrong:
            self.close()
            self._fail(f"it does not speak HTTP: {wrong}")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._reply.content_type = value

    def on_body(self, data: bytes) -> None:
        self._reply.parts.append(data)
        self._reply.size += len(data)
        if self._reply.size > MAX_REPLY_BYTES:
            self.close()
            self._fail("its answer is too large")

    def on_message_complete(self) -> None:
        self._reply.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(self._reply)

    def ask(self, head: bytes, body: bytes) -> asyncio.Future[Reply]:
        """Send a request and return what the answer will be in. Raises ReplicaDownError when the connection is closed."""
        if self._transport is None or not self.is_usable:
            raise ReplicaDownError("the connection is closed")
        self._reply = Reply()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(head + body)
        return self._waiter

    def close(self) -> None:
        self.is_usable = False
        if self._transport is not None:
            self._transport.close()

    def _fail(self, why: str) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(ReplicaDownError(why))


class Replicas:
    """Pooled connections to any number of replicas. Belongs to one event loop."""

    def __init__(self, tunnels: Tunnels) -> None:
        self._tunnels = tunnels
        self._idle: dict[Goal, deque[_Connection]] = {}
        self._turns: dict[Goal, asyncio.Semaphore] = {}
        self._resting: dict[Goal, float] = {}

    async def ask(self, goal: Goal, method: str, target: str, *, headers: bytes, body: bytes, timeout_s: float) -> Reply:
        """Return the replica's answer; `headers` are whole lines. Raises ReplicaDownError.

        A request on a kept connection that turns out closed is sent again on a fresh one: predicting twice is harmless.
        """
        host = f"{goal.host}:{goal.port}"
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n".encode() + headers + b"\r\n"
        try:
            async with asyncio.timeout(timeout_s), self._turn(goal):
                while True:
                    connection = await self._take(goal)
                    is_fresh = connection.is_fresh
                    connection.is_fresh = False
                    try:
                        reply = await connection.ask(head, body)
                    except ReplicaDownError:
                        if is_fresh:
                            raise
                        continue
                    except asyncio.CancelledError:
                        connection.close()  # its answer would be read by the next one
                        raise
                    self._give(goal, connection)
                    return reply
        except TimeoutError as wrong:
            raise ReplicaDownError(f"no answer within {timeout_s:g} s") from wrong
        except OSError as wrong:
            raise ReplicaDownError(f"it cannot be reached: {wrong.strerror or wrong}") from wrong

    def close(self) -> None:
        """Close all idle connections."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
        self._idle.clear()

    def keep_only(self, goals: set[Goal]) -> None:
        """Close connections to replicas that nobody routes to any more."""
        for goal in [one for one in self._idle if one not in goals]:
            for connection in self._idle.pop(goal):
                connection.close()
        for kept in (self._turns, self._resting):
            for goal in [one for one in kept if one not in goals]:
                del kept[goal]  # who waits for a turn holds it

    def _turn(self, goal: Goal) -> contextlib.AbstractAsyncContextManager[object]:
        """Wait until there is room in the replica's tunnel; one that is dialled has room for all."""
        if goal.inside is None:
            return contextlib.nullcontext()
        return self._turns.setdefault(goal, asyncio.Semaphore(MAX_INSIDE))

    async def _take(self, goal: Goal) -> _Connection:
        idle = self._idle.get(goal)
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
        if goal.inside is not None:
            return await self._go_inside(goal, goal.inside)
        _, made = await asyncio.get_running_loop().create_connection(_Connection, goal.host, goal.port)
        return made

    async def _go_inside(self, goal: Goal, place: Place) -> _Connection:
        """Connect through the tunnel. Raises ReplicaDownError, at once where the runner did not open it just before."""
        now = asyncio.get_running_loop().time()
        if self._resting.get(goal, 0.0) > now:
            raise ReplicaDownError("its runner did not open a way inside a moment ago")
        made = _Connection()
        try:
            async with asyncio.timeout(DIAL_S):
                held = await self._tunnels.to(place)
        except (TimeoutError, MainspringError) as wrong:
            self._resting[goal] = asyncio.get_running_loop().time() + REST_S
            raise ReplicaDownError(str(wrong) or f"its runner opened no way inside within {DIAL_S:g} s") from wrong
        try:
            await pass_through(held, goal.port, made)
        except MainspringError as wrong:
            raise ReplicaDownError(str(wrong)) from wrong
        return made

    def _give(self, goal: Goal, connection: _Connection) -> None:
        idle = self._idle.setdefault(goal, deque())
        if connection.is_usable and len(idle) < IDLE_PER_REPLICA:
            idle.append(connection)
        else:
            connection.close()
