"""Following: logs and changes as they happen, over server-sent events, resumed by cursor when a connection breaks."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from mainspring.client.transport import AsyncTransport, Query, Transport, pause_s, to_record
from mainspring.core.codec import decode_any
from mainspring.core.errors import ServerUnreachableError
from mainspring.core.records import Event

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


def events(transport: Transport, path: str, query: Query, is_end: Callable[[ServerEvent], bool]) -> Iterator[ServerEvent]:
    """Yield events until `is_end` says so of one (it is yielded too); a broken connection is taken up where it broke.

    Blocks. Raises ServerUnreachableError after a minute without a server.
    """
    reader, broken = _Reader(), 0
    while True:
        headers = {"Last-Event-ID": reader.cursor} if reader.cursor else {}
        try:
            with transport.stream("GET", path, query=query, headers=headers) as response:
                for line in response.iter_lines():
                    event = reader.take(line)
                    if event is not None:
                        broken = 0
                        yield event
                        if is_end(event):
                            return
        except ServerUnreachableError:
            if broken >= PATIENCE:
                raise
        reader = _Reader(cursor=reader.cursor)
        broken += 1
        transport.pause(pause_s(min(broken, 6)))


def follow_log(
    transport: Transport, run: str, *, attempt: int | None = None, replica: int = 0, offset: int = 0
) -> Iterator[LogPart]:
    """Yield the log of a run as it is written, over all its attempts from `attempt` on (the current one), until it ends."""
    query = {"attempt": attempt, "replica": replica, "offset": offset}
    for event in events(transport, f"/runs/{quote(run, safe='')}/logs/follow", query, _ends_log):
        yield log_part(event)


def follow_changes(transport: Transport, *, since: int = 0, project: str = "") -> Iterator[Event]:
    """Yield events as they happen, for ever."""
    for event in events(transport, "/changes", {"since": since, "project": project}, lambda _: False):
        if event.name == "change":
            yield to_record(dict(event.data), Event)


async def follow_log_async(transport: AsyncTransport, run: str) -> AsyncIterator[LogPart]:
    """Yield the log of a run as it is written; one connection, resumed as in `follow_log`."""
    reader, broken = _Reader(), 0
    while True:
        headers = {"Last-Event-ID": reader.cursor} if reader.cursor else {}
        try:
            async with transport.stream(
                f"/runs/{quote(run, safe='')}/logs/follow", query={"offset": 0}, headers=headers
            ) as response:
                async for line in response.aiter_lines():
                    event = reader.take(line)
                    if event is not None:
                        broken = 0
                        yield log_part(event)
                        if _ends_log(event):
                            return
        except ServerUnreachableError:
            if broken >= PATIENCE:
                raise
        reader = _Reader(cursor=reader.cursor)
        broken += 1
        await asyncio.sleep(pause_s(min(broken, 6)))


def log_part(event: ServerEvent) -> LogPart:
    """Return what an event of a followed log means."""
    data = event.data
    if event.name == "log":
        return LogPart("log", base64.b64decode(str(data["data"])), _int(data, "attempt"), _int(data, "offset"))
    if event.name == "attempt":
        return LogPart("attempt", attempt=_int(data, "number"))
    return LogPart(event.name, state=str(data.get("state", "")))


def _ends_log(event: ServerEvent) -> bool:
    return event.name == "end"


def _int(data: Mapping[str, object], name: str) -> int:
    value = data.get(name)
    return value if isinstance(value, int) else 0
