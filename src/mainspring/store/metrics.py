"""Metrics, parameters and usage, read from the streams that runners send.

A point is stored as the line that came (`logs.py`); what lists and charts ask for all the time is kept beside it, one row
a run and name. Malformed lines are skipped and counted: no beat fails because of what a user logged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, select, update

from mainspring.core.codec import decoder, to_plain
from mainspring.store.curves import Curves
from mainspring.store.database import Database, Transaction
from mainspring.store.points import Shown, as_step, parsed
from mainspring.store.streams import lines_of_run
from mainspring.store.tables import metrics, runs

_PARAM = decoder(tuple[str, Any])
_USAGE = decoder(dict[str, Any])


@dataclass(slots=True)
class _Summary:
    last: float | None = None
    low: float | None = None
    high: float | None = None
    count: int = 0
    step: float | None = None
    at_s: float | None = None
    odd: str = ""


class Metrics:
    """Reads what runs measured."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._curves = Curves(db)

    def summary(self, run: str) -> dict[str, dict[str, object]]:
        """Return `{name: {last, min, max, count, step}}`; `last` is "nan", "inf" or "-inf" when it was not finite."""
        asked = select(metrics).where(metrics.c.run == run).order_by(metrics.c.name)
        rows = self._db.read(lambda conn: conn.execute(asked).all())
        return {
            row.name: {
                "last": row.odd or row.last,
                "min": row.low,
                "max": row.high,
                "count": row._mapping["count"],
                "step": as_step(row.step),
            }
            for row in rows
        }

    def series(
        self, run: str, name: str, *, points: int = 1000, start: float | None = None, end: float | None = None
    ) -> list[Shown]:
        """Return (step, value, unix seconds) in the order in which they were logged, thinned to about `points`.

        Of each stretch that is thinned the smallest and the largest value are kept. `start` and `end` restrict the step, or
        the count from 0 where there is none.
        """
        return self._curves.series(run, name, points=max(points, 2), start=start, end=end)

    def usage(self, run: str, points: int = 300) -> list[dict[str, Any]]:
        """Return what the run used, `{at, replica, cpu, memory_bytes, gpu}`, evenly thinned to about `points`.

        A replica's samples follow each other; `gpu` lists `{index, utilization (0..1), memory_bytes}` of each device it has.
        """
        found = []
        for replica, lines in self._db.read(lambda conn: list(lines_of_run(conn, run, "usage"))):
            for line in lines.splitlines():
                try:
                    found.append({**_USAGE.decode(line), "replica": replica})
                except (msgspec.MsgspecError, ValueError):
                    continue
        stride = max(1, math.ceil(len(found) / max(points, 1)))
        return found[::stride]

    def params(self, run: str) -> dict[str, object]:
        """Return the parameters: those of the specification, then those that the run logged."""

        def ask(conn: Connection) -> dict[str, object]:
            spec = conn.execute(select(runs.c.spec).where(runs.c.id == run)).scalar_one_or_none()
            found: dict[str, object] = dict(to_plain(spec.params)) if spec is not None else {}
            for _, lines in lines_of_run(conn, run, "params"):
                for line in lines.splitlines():
                    try:
                        name, value = _PARAM.decode(line)
                    except (msgspec.MsgspecError, ValueError):
                        continue
                    found[name] = value
            return found

        return self._db.read(ask)


# --- within a transaction -----------------------------------------------------------------------------------------------


def add_points(tx: Transaction, run: str, lines: bytes, *, is_newest: bool = True) -> int:
    """Bring the run's summaries up to date with `lines`; return how many of them were malformed.

    What comes late from a superseded attempt (not `is_newest`) is counted and is never the last value.
    """
    points, skipped = parsed(lines)
    if not points:
        return skipped
    fresh: dict[str, _Summary] = {}
    for name, value, step, at in points:
        summary = fresh.get(name)
        if summary is None:
            summary = fresh[name] = _Summary()
        summary.count += 1
        summary.step, summary.at_s = step, at
        if isinstance(value, str):
            summary.odd, summary.last = value, None
            continue
        summary.odd, summary.last = "", value
        if summary.low is None or value < summary.low:
            summary.low = value
        if summary.high is None or value > summary.high:
            summary.high = value
    known = _known(tx.conn, run, list(fresh))
    new = [name for name in fresh if name not in known]
    if new:
        tx.conn.execute(metrics.insert(), [_row(run, name, fresh[name]) for name in new])
    for name, old in known.items():
        merged = _merged(old, fresh[name])
        if not is_newest:
            merged.last, merged.step, merged.at_s, merged.odd = old.last, old.step, old.at_s, old.odd
        mine = (metrics.c.run == run) & (metrics.c.name == name)
        row = _row(run, name, merged)
        tx.conn.execute(update(metrics).where(mine).values({k: v for k, v in row.items() if k not in ("run", "name")}))
    tx.topics.add("runs")
    return skipped


def _known(conn: Connection, run: str, names: list[str]) -> dict[str, _Summary]:
    found: dict[str, _Summary] = {}
    for start in range(0, len(names), 500):  # SQLite binds a limited number of values
        asked = select(metrics).where(metrics.c.run == run, metrics.c.name.in_(names[start : start + 500]))
        for row in conn.execute(asked):
            found[row.name] = _Summary(row.last, row.low, row.high, row._mapping["count"], row.step, row.at_s, row.odd)
    return found


def _row(run: str, name: str, one: _Summary) -> dict[str, Any]:
    return {
        "run": run,
        "name": name,
        "last": one.last,
        "low": one.low,
        "high": one.high,
        "count": one.count,
        "step": one.step,
        "at_s": one.at_s,
        "odd": one.odd,
    }


def _merged(old: _Summary, new: _Summary) -> _Summary:
    lows = [value for value in (old.low, new.low) if value is not None]
    highs = [value for value in (old.high, new.high) if value is not None]
    return _Summary(
        new.last, min(lows, default=None), max(highs, default=None), old.count + new.count, new.step, new.at_s, new.odd
    )
