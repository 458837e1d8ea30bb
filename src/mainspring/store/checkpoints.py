"""Checkpoints: told by runners as lines of their events, few kept for each replica, the newest for the next attempt."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import bindparam, delete, func, select, update

from mainspring.core.checkpoints import Checkpoint
from mainspring.core.codec import decoder
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.manifests import is_digest
from mainspring.store.columns import from_micros, record_of, values_of
from mainspring.store.database import Database, Transaction
from mainspring.store.statements import Statement
from mainspring.store.tables import attempts, checkpoints, runs

_OF = Statement(
    select(checkpoints)
    .where(checkpoints.c.run == bindparam("of"), (checkpoints.c.replica == bindparam("at")) | (checkpoints.c.replica == 0))
    .order_by(checkpoints.c.replica.desc(), checkpoints.c.number.desc())
)
KEPT = 2  # of each replica: the newest, and the one before it should a blob of the newest turn out to be gone


class Checkpoints:
    """Reads checkpoints."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def newest(self, run: str, replica: int) -> list[Checkpoint]:
        """Return what is kept of a replica, newest first; of the first replica where this one never made any."""
        found = [record_of(Checkpoint, checkpoints, row) for row in self._db.ask(_OF, {"of": run, "at": replica})]
        return [one for one in found if one.replica == found[0].replica]


# --- within a transaction -----------------------------------------------------------------------------------------------


def add_checkpoints(tx: Transaction, attempt: str, replica: int, lines: bytes, *, now: datetime) -> None:
    """Keep the checkpoints that `lines` of the events tell of; those of an attempt that is no longer the run's are not."""
    told = [found for line in lines.splitlines() if (found := _read(line)) is not None]
    if not told:
        return
    asked = select(attempts.c.run, attempts.c.created_at).join(runs, runs.c.id == attempts.c.run)
    asked = asked.where(attempts.c.id == attempt, runs.c.attempt == attempts.c.number, runs.c.state.not_in(TERMINAL_RUN))
    current = tx.conn.execute(asked).one_or_none()
    if current is None:
        return
    run, created_at = current
    mine = (checkpoints.c.run == run) & (checkpoints.c.replica == replica)
    number = tx.conn.execute(select(func.max(checkpoints.c.number)).where(mine)).scalar_one() or 0
    for told_at, manifest, size in told:
        number += 1
        # a node's clock may be wrong: what it made, it made since the attempt was placed
        at = min(max(told_at, created_at), now)
        made = Checkpoint(run=run, replica=replica, number=number, attempt=attempt, at=at, manifest=manifest, size_bytes=size)
        tx.conn.execute(checkpoints.insert(), values_of(made, checkpoints))
        is_later = attempts.c.checkpoint_at.is_(None) | (attempts.c.checkpoint_at <= at)
        later = update(attempts).where(attempts.c.id == attempt, is_later)
        tx.conn.execute(later.values(checkpoint_at=at, version=attempts.c.version + 1))
    tx.conn.execute(delete(checkpoints).where(mine, checkpoints.c.number <= number - KEPT))
    tx.topics.add("attempts")


def forget_checkpoints(tx: Transaction, run: str) -> None:
    """Forget the checkpoints of a run that needs none any more."""
    tx.conn.execute(delete(checkpoints).where(checkpoints.c.run == run))


class _Line(msgspec.Struct):
    kind: str = ""
    manifest: str = ""
    size_bytes: int = 0
    at: float = 0.0


def _read(line: bytes) -> tuple[datetime, str, int] | None:
    """Return (moment, manifest, bytes) of a line that tells of a checkpoint; None for every other and for nonsense."""
    if b'"checkpoint"' not in line:
        return None
    try:
        told = decoder(_Line).decode(line)
        at = from_micros(int(told.at * 1e6))
    except (msgspec.MsgspecError, OverflowError, ValueError):
        return None
    is_one = told.kind == "checkpoint" and is_digest(told.manifest) and 0 <= told.size_bytes < 1 << 62
    return (at, told.manifest, told.size_bytes) if is_one else None
