"""Following: the log of a run as it is written, over server-sent events, resumed by cursor when a connection breaks."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from mainspring.client.transport import AsyncTransport, Transport, pause_s
from mainspring.core.codec import decode_any
from mainspring.core.errors import ServerUnreachableError

PATIENCE = 12  # broken connections in a row until a follower gives up, about a minute


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One server-sent event: its name, its JSON, its cursor."""

    name: str
    data: Mapping[str, object]
    cursor: str


@dataclass(frozen=True, slots=True)
class LogPart:
    """A piece of a log: `kind` is `log` (bytes), `attempt` (a new try begins) or `end` (the run is over)."""

    kind: str
    data: bytes = b""
    attempt: int = 0
    offset: int = 0
    state: str = ""


@dataclass(slots=True)
class _Reader:
    """Turns lines into events (HTML standard, section 9.2.6)."""

    cursor: str = ""
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def headers(self) -> dict[str, str]:
        """Return what asks for the events after the last one."""
        return {"Last-Event-ID": self.cursor} if self.cursor else {}

    def take(self, line: str) -> ServerEvent | None:
        """Return the event that `line` completes."""
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "id":
                self.cursor = value
            elif name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            return None
        if not self._data:
            self._name = ""
            return None
        plain = decode_any("\n".join(self._data))
        event = ServerEvent(self._name or "message", plain if isinstance(plain, dict) else {}, self.cursor)
        self._name, self._data = "", []
        return event


def follow_log(
    transport: Transport, run: str, *, attempt: int | None = None, replica: int = 0, offset: int = 0
) -> Iterator[LogPart]:
    """Yield the log of a run as it is written, over all its attempts from `attempt` on (the current one), until it ends.

    Blocks; a broken connection is taken up where it broke. Raises ServerUnreachableError after a minute without a server.
    """
    query = {"attempt": attempt, "replica": replica, "offset": offset}
    reader, broken = _Reader(), 0
    while True:
        try:
            with transport.stream("GET", _path(run), query=query, headers=reader.headers()) as response:
                for line in response.iter_lines():
                    event = reader.take(line)
                    if event is not None:
                        broken = 0
                        yield _part(event)
                        if _ends(event):
                            return
        except ServerUnreachableError:
            if broken >= PATIENCE:
                raise
        reader = _Reader(cursor=reader.cursor)
        broken += 1
        transport.pause(pause_s(min(broken, 6)))


async def follow_log_async(transport: AsyncTransport, run: str) -> AsyncIterator[LogPart]:
    """Yield the log of a run as it is written; one connection, resumed as in `follow_log`."""
    reader, broken = _Reader(), 0
    while True:
        try:
            async with transport.stream(_path(run), query={"offset": 0}, headers=reader.headers()) as response:
                async for line in response.aiter_lines():
                    event = reader.take(line)
                    if event is not None:
                        broken = 0
                        yield _part(event)
                        if _ends(event):
                            return
        except ServerUnreachableError:
            if broken >= PATIENCE:
                raise
        reader = _Reader(cursor=reader.cursor)
        broken += 1
        await asyncio.sleep(pause_s(min(broken, 6)))


def _path(run: str) -> str:
    return f"/runs/{quote(run, safe='')}/logs/follow"


def _part(event: ServerEvent) -> LogPart:
    """Return what an event of a followed log means."""
    data = event.data
    if event.name == "log":
        return LogPart("log", base64.b64decode(str(data["data"])), _int(data, "attempt"), _int(data, "offset"))
    if event.name == "attempt":
        return LogPart("attempt", attempt=_int(data, "number"))
    return LogPart(event.name, state=str(data.get("state", "")))


def _ends(event: ServerEvent) -> bool:
    return event.name == "end"


def _int(data: Mapping[str, object], name: str) -> int:
    value = data.get(name)
    return value if isinstance(value, int) else 0
