"""Reading streams: of one replica from any place, or of a whole run, attempt by attempt."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from sqlalchemy import Connection, select

from mainspring.store.tables import attempts, chunks


def read_stream(
    conn: Connection, attempt: str, replica: int, stream: str, *, offset: int = 0, limit: int = 1 << 62
) -> Iterator[bytes]:
    """Yield the pieces of a stream from `offset`, `limit` bytes in all at most."""
    of_stream = (chunks.c.attempt == attempt) & (chunks.c.replica == replica) & (chunks.c.stream == stream)
    before = select(chunks.c.offset).where(of_stream, chunks.c.offset <= offset).order_by(chunks.c.offset.desc()).limit(1)
    first = conn.execute(before).scalar_one_or_none() or 0
    end = offset + limit
    asked = select(chunks.c.offset, chunks.c.size_bytes, chunks.c.is_packed, chunks.c.data)
    asked = asked.where(of_stream, chunks.c.offset >= first, chunks.c.offset < end).order_by(chunks.c.offset)
    for start, size, is_packed, data in conn.execution_options(yield_per=64).execute(asked).tuples():
        if start + size <= offset:
            continue
        plain = zlib.decompress(data) if is_packed else data
        yield plain[max(0, offset - start) : end - start]


def lines_of_run(conn: Connection, run: str, stream: str) -> Iterator[tuple[int, bytes]]:
    """Yield (replica, lines) of a line stream of all attempts, each piece ending where a line ends (the last one aside)."""
    asked = (
        select(chunks.c.attempt, chunks.c.replica, chunks.c.is_packed, chunks.c.data)
        .join_from(chunks, attempts, attempts.c.id == chunks.c.attempt)
        .where(attempts.c.run == run, chunks.c.stream == stream)
        .order_by(attempts.c.number, chunks.c.replica, chunks.c.offset)
    )
    owner, rest = ("", 0), b""
    for attempt, replica, is_packed, data in conn.execute(asked).tuples():
        if owner != (attempt, replica) and rest:
            yield owner[1], rest
            rest = b""
        owner = (attempt, replica)
        whole = rest + (zlib.decompress(data) if is_packed else data)
        cut = whole.rfind(b"\n") + 1
        rest = whole[cut:]
        if cut:
            yield replica, whole[:cut]
    if rest:
        yield owner[1], rest
