"""Why runs wait, written on the runs: another reason at once, the same one with other figures once in a while."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection, Text, bindparam, null, select, type_coerce, update

from mainspring.core.codec import encode, parse_time, to_plain
from mainspring.core.reasons import Reason, ReasonCode
from mainspring.core.records import RunState
from mainspring.core.snapshot import Decision
from mainspring.store.columns import unpack
from mainspring.store.database import Database, Transaction
from mainspring.store.statements import Statement
from mainspring.store.tables import runs

EXPECTED = "expected_at"  # the fact of a reason that tells when the run is expected to start
FIGURES_S = 1.0  # how old the figures of a reason may be while plans follow each other
_DRIFT = timedelta(seconds=30)  # an expectation that moved less is not written again
_KEPT = 50_000  # remembered beyond those of the last plan
_AT_ONCE = 500  # SQLite binds a limited number of values
_KNOWN = select(runs.c.id, type_coerce(runs.c.reason, Text), runs.c.nominated.is_not(None), runs.c.version).where(
    runs.c.id.in_(bindparam("of", expanding=True)), runs.c.state == RunState.QUEUED
)
# The version says that it is queued still. Its state is not asked for: PostgreSQL may look all queued runs through for that,
# as long as it knows nothing of a table that grows (2 ms for each of 4,000).
_TELL = Statement(
    update(runs)
    .where(runs.c.id == bindparam("run"), runs.c.version == bindparam("seen"))
    .values(reason=bindparam("because"), nominated=null())
)


@dataclass(frozen=True, slots=True)
class _Told:
    """What a run's row says."""

    version: int
    reason: Reason | None
    is_nominated: bool
    at_s: float


@dataclass(slots=True)
class News:
    """Reasons that are to be written; `is_behind`: the figures of others are held back for a moment."""

    at_s: float
    changed: list[tuple[Decision, Reason]] = field(default_factory=list)
    is_behind: bool = False

    def write(self, tx: Transaction) -> None:
        """Write them. `version` is left alone: a reason is no decision."""
        _TELL.many(tx.conn, [{"run": one.run, "seen": one.version, "because": reason} for one, reason in self.changed])
        tx.topics.add("runs")


@dataclass(slots=True)
class Reasons:
    """Writes reasons. What was written is remembered by the one process that plans; rows are read where it is not."""

    db: Database
    _told: dict[str, _Told] = field(default_factory=dict)

    def news(self, waits: Sequence[Decision]) -> News:
        """Return what is to be written of why runs wait, and that no places are kept for them."""
        now_s = self.db.clock.monotonic()
        if len(self._told) > len(waits) + _KEPT:
            self._told = {one.run: self._told[one.run] for one in waits if one.run in self._told}
        self._read([one for one in waits if one.run not in self._told or self._told[one.run].version != one.version], now_s)
        news = News(now_s)
        for one in waits:
            was = self._told.get(one.run)
            if was is None or was.version != one.version or one.reason is None:
                continue
            if was.reason is not None and was.reason.code is one.reason.code is ReasonCode.BURSTING:
                continue  # the plan that asked for the machine said more
            reason = _with_expectation(one.reason, one.expected_at, was.reason)
            if was.is_nominated or was.reason is None or was.reason.code != reason.code:
                news.changed.append((one, reason))
            elif was.reason == reason:
                continue
            elif now_s - was.at_s < FIGURES_S:
                news.is_behind = True
            elif encode(was.reason) != encode(reason):
                news.changed.append((one, reason))
        return news

    def remember(self, news: News) -> None:
        """Take what was written for what the rows say."""
        self._told.update({one.run: _Told(one.version, reason, False, news.at_s) for one, reason in news.changed})

    def forget(self, ids: Iterable[str] | None = None) -> None:
        """Read the rows of these runs again (None: of all) before the next word on them: somebody else wrote there."""
        for id in list(self._told) if ids is None else ids:
            self._told.pop(id, None)

    def _read(self, unknown: Sequence[Decision], now_s: float) -> None:
        for start in range(0, len(unknown), _AT_ONCE):
            ids = [one.run for one in unknown[start : start + _AT_ONCE]]
            for id, reason, is_nominated, version in self.db.read(partial(_rows, ids=ids)):
                told = unpack(reason, Reason) if reason else None
                self._told[id] = _Told(version, told, bool(is_nominated), now_s - FIGURES_S)


def _rows(conn: Connection, *, ids: Sequence[str]) -> Sequence[tuple[str, str | None, bool, int]]:
    return conn.execute(_KNOWN, {"of": ids}).tuples().all()


def _with_expectation(reason: Reason, expected_at: datetime | None, was: Reason | None) -> Reason:
    if expected_at is None:
        return reason
    before = was.facts.get(EXPECTED) if was is not None else None
    is_near = isinstance(before, str) and abs(parse_time(before) - expected_at) < _DRIFT
    return replace(reason, facts={**reason.facts, EXPECTED: before if is_near else to_plain(expected_at)})
