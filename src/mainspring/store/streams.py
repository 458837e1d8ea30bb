"""Reading whole streams of a run, attempt by attempt."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from sqlalchemy import Connection, select

from mainspring.store.tables import attempts, chunks


def lines_of_run(conn: Connection, run: str, stream: str) -> Iterator[bytes]:
    """Yield the pieces of a line stream of all attempts and replicas, each ending where a line ends (the last one aside)."""
    asked = (
        select(chunks.c.attempt, chunks.c.replica, chunks.c.is_packed, chunks.c.data)
        .join_from(chunks, attempts, attempts.c.id == chunks.c.attempt)
        .where(attempts.c.run == run, chunks.c.stream == stream)
        .order_by(attempts.c.number, chunks.c.replica, chunks.c.offset)
    )
    owner, rest = None, b""
    for attempt, replica, is_packed, data in conn.execute(asked).tuples():
        if owner != (attempt, replica) and rest:
            yield rest
            rest = b""
        owner = (attempt, replica)
        whole = rest + (zlib.decompress(data) if is_packed else data)
        cut = whole.rfind(b"\n") + 1
        rest = whole[cut:]
        if cut:
            yield whole[:cut]
    if rest:
        yield rest
