"""What is forgotten when: rules for logs, events and archived runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select

from mainspring.store.database import Database, Transaction
from mainspring.store.runs import remove_runs
from mainspring.store.tables import attempts, chunks, events, keys, runs, streams

_AT_ONCE = 500  # runs removed in one transaction: others want to write too
_KEYS_KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """After how many days what is forgotten; 0 keeps it for ever.

    `logs_days` counts from the attempt's end and concerns log text only: metrics and parameters stay with the run.
    `archived_days` counts from the archiving of a run; only archived runs are ever removed.
    """

    logs_days: float = 0
    events_days: float = 0
    archived_days: float = 0


class Retention:
    """Carries the rules out."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def apply(self, now: datetime, rules: Rules) -> dict[str, int]:
        """Forget what the rules say; return how many `logs` (chunks), `events` and `runs` went. Idempotent."""
        done = {"logs": 0, "events": 0, "runs": 0}
        if rules.logs_days > 0:
            done["logs"] = self._db.write(lambda tx: _forget_logs(tx, now - timedelta(days=rules.logs_days)))
        if rules.events_days > 0:
            old = delete(events).where(events.c.at < now - timedelta(days=rules.events_days))
            done["events"] = self._db.write(lambda tx: tx.conn.execute(old).rowcount)
        if rules.archived_days > 0:
            before = now - timedelta(days=rules.archived_days)
            while gone := self._db.write(lambda tx: _forget_runs(tx, before)):
                done["runs"] += gone
        self._db.write(lambda tx: tx.conn.execute(delete(keys).where(keys.c.at < now - _KEYS_KEPT)).rowcount)
        return done


def _forget_logs(tx: Transaction, before: datetime) -> int:
    ended = select(attempts.c.id).where(attempts.c.ended_at < before)
    tx.conn.execute(delete(streams).where(streams.c.stream == "log", streams.c.attempt.in_(ended)))
    return tx.conn.execute(delete(chunks).where(chunks.c.stream == "log", chunks.c.attempt.in_(ended))).rowcount


def _forget_runs(tx: Transaction, before: datetime) -> int:
    asked = select(runs.c.id).where(runs.c.archived_at < before, runs.c.ended_at.is_not(None)).limit(_AT_ONCE)
    ids = list(tx.conn.execute(asked).scalars())
    remove_runs(tx, ids)
    if ids:
        tx.topics.add("runs")
    return len(ids)
