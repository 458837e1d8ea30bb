"""What waiting runs were told of their start, and what is learned for the next ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from mainspring.core.durations import believed, estimate, keys_of
from mainspring.core.forecasts import Forecast
from mainspring.core.ids import RunId
from mainspring.core.records import Cause, RunState
from mainspring.core.specs import RunSpec
from mainspring.store.database import Database, Transaction
from mainspring.store.durations import insteads_of, medians_of
from mainspring.store.policies import current_policy
from mainspring.store.share_tables import forecasts
from mainspring.store.tables import attempts, runs

_AT_ONCE = 500  # SQLite binds a limited number of values


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One forecast, and when the run was in fact started for the first time."""

    told_at: datetime
    earliest: datetime
    median: datetime
    latest: datetime
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A run that was submitted lately."""

    id: RunId
    created_at: datetime
    owner: str
    project: str
    priority: int
    spec: RunSpec


class Forecasts:
    """Reads and writes of forecasts."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def untold(self, waiting: Sequence[RunId]) -> set[RunId]:
        """Return which of these runs were told nothing yet."""

        def ask(conn: Connection) -> set[RunId]:
            known: set[RunId] = set()
            for start in range(0, len(waiting), _AT_ONCE):
                part = [str(run) for run in waiting[start : start + _AT_ONCE]]
                known.update(conn.execute(select(forecasts.c.run).where(forecasts.c.run.in_(part))).scalars())
            return set(waiting) - known

        return self._db.read(ask)

    def tell(self, told: Mapping[RunId, Forecast], now: datetime) -> None:
        """Keep what runs were told. Runs that are gone meanwhile, or were told before, are passed over."""

        def work(tx: Transaction) -> None:
            wanted = list(told)
            for start in range(0, len(wanted), _AT_ONCE):
                part = [str(run) for run in wanted[start : start + _AT_ONCE]]
                queued = select(runs.c.id).where(runs.c.id.in_(part), runs.c.state == RunState.QUEUED)
                there = set(tx.conn.execute(queued).scalars())
                known = set(tx.conn.execute(select(forecasts.c.run).where(forecasts.c.run.in_(part))).scalars())
                rows = [_row(run, told[run], now) for run in wanted[start : start + _AT_ONCE] if run in there - known]
                if rows:
                    tx.conn.execute(forecasts.insert(), rows)

        self._db.write(work)

    def record(self, limit: int = 500) -> list[Told]:
        """Return the newest forecasts whose runs were started since, oldest first."""
        asked = (
            select(forecasts, runs.c.started_at)
            .join_from(forecasts, runs, runs.c.id == forecasts.c.run)
            .where(runs.c.started_at.is_not(None))
            .order_by(forecasts.c.told_at.desc(), forecasts.c.run)
            .limit(limit)
        )

        def ask(conn: Connection) -> list[Told]:
            rows = conn.execute(asked).mappings().all()
            names = ("told_at", "earliest", "median", "latest", "started_at")
            return [Told(**{name: row[name] for name in names}) for row in reversed(rows)]

        return self._db.read(ask)

    def lengths(self, limit: int = 500) -> tuple[tuple[float, float], ...]:
        """Return (believed, true) seconds of the newest attempts that had an estimate and ended by themselves."""
        asked = (
            select(attempts.c.started_at, attempts.c.ended_at, attempts.c.estimate_s, attempts.c.outcome)
            .where(attempts.c.estimate_s > 0, attempts.c.ended_at.is_not(None), attempts.c.started_at.is_not(None))
            .order_by(attempts.c.ended_at.desc())
            .limit(limit)
        )

        def ask(conn: Connection) -> tuple[tuple[float, float], ...]:
            insteads = insteads_of(conn, current_policy(conn).policy)  # as the snapshot has them
            return tuple(
                (believed(row.estimate_s, insteads), max(0.0, (row.ended_at - row.started_at).total_seconds()))
                for row in conn.execute(asked)
                if row.outcome is not None and row.outcome.cause in (Cause.SUCCEEDED, Cause.USER_ERROR)
            )

        return self._db.read(ask)

    def estimate(self, project: str, owner: str, spec: RunSpec) -> float:
        """Return how long such a run is believed to take, 0 when nobody knows."""
        keys = keys_of(project, owner, spec)

        def ask(conn: Connection) -> float:
            found = estimate(keys, medians_of(conn, keys), spec.timeout_s)
            return believed(found, insteads_of(conn, current_policy(conn).policy), spec.timeout_s)

        return self._db.read(ask)

    def arrivals(self, since: datetime, limit: int = 1000) -> list[Arrival]:
        """Return the newest runs that were submitted since then, and were not taken from the cache."""
        asked = (
            select(runs.c.id, runs.c.created_at, runs.c.owner, runs.c.project, runs.c.priority, runs.c.spec)
            .where(runs.c.created_at >= since, runs.c.cached_from == "")
            .order_by(runs.c.seq.desc())
            .limit(limit)
        )
        return self._db.read(lambda conn: [Arrival(**row) for row in conn.execute(asked).mappings()])


def _row(run: RunId, told: Forecast, now: datetime) -> dict[str, object]:
    return {
        "run": str(run),
        "told_at": now,
        "earliest": told.earliest,
        "median": told.median,
        "latest": told.latest,
        "confidence": told.confidence,
    }
