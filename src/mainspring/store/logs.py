"""Streams of bytes by (attempt, replica, stream, offset): W6 of the protocol. Nothing is lost, nothing is stored twice."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, select, update

from mainspring.core.errors import NotFoundError, UsageError
from mainspring.store.checkpoints import add_checkpoints
from mainspring.store.database import Database, Transaction
from mainspring.store.environments import add_environments
from mainspring.store.metrics import add_points
from mainspring.store.statements import Row, Statement
from mainspring.store.streams import read_stream
from mainspring.store.tables import attempts, chunks, replicas, runs, streams

MAX_STREAM_NAME = 64
_WORTH_PACKING = 256  # bytes below which compression only costs


class Logs:
    """Reads the bytes of streams."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def read(self, attempt: str, replica: int, stream: str, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """Return the bytes of a stream from `offset`, at most `limit`; empty beyond its end."""
        return self._db.read(lambda conn: b"".join(read_stream(conn, attempt, replica, stream, offset=offset, limit=limit)))

    def size(self, attempt: str, replica: int, stream: str) -> int:
        """Return how many bytes of a stream are stored, 0 for one that is not known."""
        asked = select(streams.c.size_bytes).where(
            streams.c.attempt == attempt, streams.c.replica == replica, streams.c.stream == stream
        )
        return int(self._db.read(lambda conn: conn.execute(asked).scalar_one_or_none()) or 0)

    def sizes(self, attempt: str, replica: int) -> dict[str, int]:
        """Return the end of every stream of a replica."""
        return stream_ends(self._db, attempt, replica)


# --- within a transaction -----------------------------------------------------------------------------------------------

# Made once: to build such a statement costs more than to run it.
_ENDS = Statement(
    select(streams.c.stream, streams.c.size_bytes).where(
        streams.c.attempt == bindparam("of"), streams.c.replica == bindparam("at")
    )
)
_OF_ATTEMPT = Statement(
    select(runs.c.id, runs.c.attempt, attempts.c.number)
    .join_from(attempts, runs, runs.c.id == attempts.c.run)
    .where(attempts.c.id == bindparam("of"))
)
_NEW = Statement(chunks.insert())
_NEW_END = Statement(streams.insert())
_END = Statement(
    update(streams).where(
        streams.c.attempt == bindparam("of"), streams.c.replica == bindparam("at"), streams.c.stream == bindparam("which")
    )
)
_BEATEN = Statement(
    update(replicas)
    .where(replicas.c.attempt == bindparam("of"), replicas.c.index == bindparam("at"))
    .values(last_beat_at=bindparam("now"))
)


def append_chunks(
    tx: Transaction, attempt: str, replica: int, pieces: Sequence[tuple[str, int, bytes]], *, now: datetime
) -> dict[str, int]:
    """Store what is new of `pieces`; return the end of every stream of the replica."""
    run = _OF_ATTEMPT.row(tx.conn, {"of": attempt})
    if run is None:
        raise NotFoundError(f"There is no attempt {attempt}.", details={"attempt": attempt})
    # the replica's row is written first: of two beats that come at the same time, one waits for the other
    if pieces and _BEATEN.run(tx.conn, {"of": attempt, "at": replica, "now": now}) == 0:
        raise NotFoundError(f"Attempt {attempt} has no replica {replica}.", details={"attempt": attempt})
    ends = _ends_of(_ENDS.rows(tx.conn, {"of": attempt, "at": replica}))
    known = set(ends)
    grown: dict[str, list[bytes]] = {}
    rows = []
    for stream, offset, data in pieces:
        _check(stream, offset)
        end = ends.get(stream, 0)
        if offset > end or offset + len(data) <= end:
            continue  # a gap is not acknowledged, a repetition is acknowledged again
        fresh = data[end - offset :]
        packed = zlib.compress(fresh, 1) if len(fresh) >= _WORTH_PACKING else fresh
        is_packed = len(packed) < len(fresh)
        rows.append(
            {
                "attempt": attempt,
                "replica": replica,
                "stream": stream,
                "offset": end,
                "size_bytes": len(fresh),
                "is_packed": is_packed,
                "data": packed if is_packed else fresh,
            }
        )
        ends[stream] = end + len(fresh)
        grown.setdefault(stream, []).append(fresh)
    if not rows:
        return ends
    _NEW.many(tx.conn, rows)
    is_newest = run["number"] == run["attempt"]
    skipped = add_points(tx, run["id"], b"".join(grown["metrics"]), is_newest=is_newest) if "metrics" in grown else 0
    if "events" in grown:
        told = b"".join(grown["events"])
        add_checkpoints(tx, attempt, replica, told, now=now)
        add_environments(tx, attempt, replica, told, now=now)
        if b'"packages_changed"' in told:  # what the run's key says is not what it ran with: nobody may take its outputs
            tx.conn.execute(update(runs).where(runs.c.id == run["id"]).values(cache_key="", version=runs.c.version + 1))
    for stream in grown:
        _write_end(tx.conn, attempt, replica, stream, ends[stream], is_new=stream not in known)
    if skipped:
        of_metrics = (streams.c.attempt == attempt) & (streams.c.replica == replica) & (streams.c.stream == "metrics")
        tx.conn.execute(update(streams).where(of_metrics).values(skipped=streams.c.skipped + skipped))
    tx.topics.add(f"logs:{attempt}")
    return ends


def stream_ends(db: Database, attempt: str, replica: int) -> dict[str, int]:
    """Return the end of every stream of a replica."""
    return _ends_of(db.ask(_ENDS, {"of": attempt, "at": replica}))


def _ends_of(rows: Sequence[Row]) -> dict[str, int]:
    return {row["stream"]: int(row["size_bytes"]) for row in rows}


def _write_end(conn: Connection, attempt: str, replica: int, stream: str, end: int, *, is_new: bool) -> None:
    if is_new:
        _NEW_END.run(conn, {"attempt": attempt, "replica": replica, "stream": stream, "size_bytes": end})
    else:
        _END.run(conn, {"size_bytes": end, "of": attempt, "at": replica, "which": stream})


def _check(stream: str, offset: int) -> None:
    if not stream or len(stream) > MAX_STREAM_NAME or not stream.isascii() or not stream.isprintable() or offset < 0:
        raise UsageError(f"{stream[:60]!r} at {offset} is no place in a stream.", hint="Update the runner.")
