"""What was used, by month, share, project and owner: ended allocations are booked once, open ones counted on top.

Booking is a pass over what was freed since the last one, never over all: ends of runs themselves write nothing more. The same
pass learns how long runs take.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy import Column, Connection, bindparam, select, update
from sqlalchemy.sql import ColumnElement

from mainspring.core.errors import StaleWriteError
from mainspring.core.machines import Machine, costs
from mainspring.core.resources import Granted
from mainspring.core.usage import PastUse, Used, decayed, month_of, used, with_use
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, Transaction
from mainspring.store.durations import learn
from mainspring.store.machine_tables import machines
from mainspring.store.share_tables import past_use
from mainspring.store.share_tables import usage as booked
from mainspring.store.statements import Listed, Statement
from mainspring.store.tables import allocations, attempts, nodes, runs

AT_ONCE = 1000  # allocations booked in one transaction: others want to write too
_OF_ATTEMPTS = (runs.c.spec, attempts.c.outcome, attempts.c.started_at, attempts.c.ended_at, attempts.c.estimate_s)
Line = tuple[str, str, str, str]  # month, share, project, owner


class Usage:
    """Books and tells what was used."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def book(self, now: datetime, half_life_s: float) -> int:
        """Book what was freed and is not booked yet; return how many allocations it was. Idempotent."""
        done = 0
        while True:
            if not self._db.read(_is_due):
                return done
            count = self._db.write(lambda tx: _book(tx, now, half_life_s))
            done += count
            if count < AT_ONCE:
                return done

    def of_month(self, month: str, now: datetime) -> dict[Line, Used]:
        """Return what was used in a month by (month, share, project, owner), to the moment: booked or not, ended or not."""

        def ask(conn: Connection) -> dict[Line, Used]:
            asked = select(booked).where(booked.c.month == month)
            found = {_line(row): _used(row) for row in conn.execute(asked).mappings()}
            for line, amount in _lines(_held(conn, ~allocations.c.is_booked), now):
                if line[0] == month:
                    found[line] = found.get(line, Used()) + amount
            for line, micros in _of_machines(conn, now):
                if line[0] == month:
                    found[line] = found.get(line, Used()) + Used(cost_micros=micros)
            return found

        return self._db.read(ask)


# --- within a transaction -----------------------------------------------------------------------------------------------


def past_of(conn: Connection, now: datetime, half_life_s: float) -> dict[str, PastUse]:
    """Return the past use of each leaf at `now`, of what it holds too."""
    found = {
        row["leaf"]: decayed(record_of(PastUse, past_use, row), now, half_life_s)
        for row in conn.execute(select(past_use)).mappings()
    }
    for row in _held(conn, ~allocations.c.is_booked):
        past = found.get(row["share"], PastUse(at=now))
        found[row["share"]] = with_use(past, row["granted"], row["opened_at"], row["freed_at"] or now, half_life_s)
    return found


def spent_of(conn: Connection, now: datetime) -> dict[str, int]:
    """Return what the runs of each leaf cost this month so far, in millionths of a dollar; only what is above 0."""
    month = month_of(now)
    found: dict[str, int] = defaultdict(int)
    asked = select(booked.c.share, booked.c.cost_micros).where(booked.c.month == month, booked.c.cost_micros > 0)
    for share, micros in conn.execute(asked).tuples():
        found[share] += int(micros)
    costs = _held(conn, ~allocations.c.is_booked & (nodes.c.price_usd_per_hour != "0"))
    for line, amount in _lines(costs, now):
        if line[0] == month:
            found[line[1]] += amount.cost_micros
    for line, micros in _of_machines(conn, now):
        if line[0] == month:
            found[line[1]] += micros
    return dict(found)


def book_cost(conn: Connection, line: Line, micros: int) -> None:
    """Add what a rented machine cost to the bill of who asked for it."""
    _add(conn, {line: Used(cost_micros=micros)})


def _of_machines(conn: Connection, now: datetime) -> Iterator[tuple[Line, int]]:
    """Give what rented machines that are not gone yet cost so far; the others are booked."""
    for row in conn.execute(select(machines).where(machines.c.ended_at.is_(None))).mappings():
        one = record_of(Machine, machines, row)
        for month, micros in costs(one, now):
            yield (month, one.share, one.project, one.owner), micros


def _is_due(conn: Connection) -> bool:
    return conn.execute(select(allocations.c.id).where(_unbooked()).limit(1)).first() is not None


def _unbooked() -> ColumnElement[bool]:
    return allocations.c.freed_at.is_not(None) & ~allocations.c.is_booked


def book_of_runs(tx: Transaction, ids: Sequence[str], half_life_s: float = 604_800.0) -> None:
    """Book what these runs used: they are about to be removed."""
    _book(tx, tx.clock.now(), half_life_s, allocations.c.run.in_(ids))


def _book(tx: Transaction, now: datetime, half_life_s: float, *which: ColumnElement[bool]) -> int:
    rows = _held(tx.conn, _unbooked(), *which, limit=None if which else AT_ONCE, more=_OF_ATTEMPTS)
    if not rows:
        return 0
    claimed = [row["id"] for row in rows]
    for start in range(0, len(claimed), 500):
        mine = update(allocations).where(allocations.c.id.in_(claimed[start : start + 500]), ~allocations.c.is_booked)
        if tx.conn.execute(mine.values(is_booked=True)).rowcount < len(claimed[start : start + 500]):
            raise StaleWriteError("Somebody else books the same use just now.", hint="Try again.")
    sums: dict[Line, Used] = defaultdict(Used)
    for line, amount in _lines(rows, now):
        sums[line] += amount
    _add(tx.conn, sums)
    _remember(tx.conn, rows, now, half_life_s)
    learn(tx.conn, rows, now)
    return len(rows)


def _held(
    conn: Connection, *which: ColumnElement[bool], limit: int | None = None, more: tuple[Column[Any], ...] = ()
) -> Sequence[Mapping[Any, Any]]:
    asked = (
        select(
            allocations.c.id,
            allocations.c.replica,
            allocations.c.owner,
            allocations.c.share,
            allocations.c.granted,
            allocations.c.opened_at,
            allocations.c.freed_at,
            runs.c.project,
            nodes.c.price_usd_per_hour,
            nodes.c.cpu_milli,
            nodes.c.devices,
            *more,
        )
        .join_from(allocations, runs, runs.c.id == allocations.c.run)
        .join(attempts, attempts.c.id == allocations.c.attempt)
        .outerjoin(nodes, nodes.c.id == allocations.c.node)
        .where(*which)
        .order_by(allocations.c.freed_at, allocations.c.id)
        .limit(limit)
    )
    return [{**row, "share": row["share"] or row["owner"]} for row in conn.execute(asked).mappings()]


def _lines(rows: Sequence[Mapping[Any, Any]], now: datetime) -> Iterator[tuple[Line, Used]]:
    for row in rows:
        for month, amount in used(row["granted"], row["opened_at"], row["freed_at"] or now, _price(row)):
            yield (month, row["share"], row["project"], row["owner"]), amount


def _price(row: Mapping[Any, Any]) -> Decimal:
    """Return what the allocation costs in an hour: its part of the machine, by GPUs where there are any, else by CPUs."""
    try:
        price = Decimal(row["price_usd_per_hour"] or "0")
    except InvalidOperation:
        return Decimal(0)
    return price * part_of(row["granted"], row["devices"] or (), row["cpu_milli"] or 0) if price else Decimal(0)


def part_of(granted: Granted, devices: Sequence[object], cpu_milli: int) -> Decimal:
    """Return the part of a machine that a grant takes (0..1)."""
    if devices:
        return Decimal(sum(one.milli for one in granted.devices)) / (1000 * len(devices))
    return Decimal(granted.cpu_milli) / cpu_milli if cpu_milli else Decimal(0)


_NAMES = ("month", "share", "project", "owner")
# Made once: to build such a statement and to find what was compiled for it costs more than to run it.
_MORE = Statement(
    update(booked)
    .where(*(booked.c[name] == bindparam(f"of_{name}") for name in _NAMES))
    .values({one.name: booked.c[one.name] + bindparam(f"more_{one.name}") for one in fields(Used)})
)
_BOOKED = Listed(lambda months: select(*(booked.c[name] for name in _NAMES)).where(booked.c.month.in_(months)))
_NEW = Statement(booked.insert())
_PAST = Statement(update(past_use).where(past_use.c.leaf == bindparam("of")))
_FIRST = Statement(past_use.insert())


def _add(conn: Connection, amounts: Mapping[Line, Used]) -> None:
    known = {_line(row) for row in _BOOKED.rows(conn, sorted({month for month, *_ in amounts}))}
    more, new = [], []
    for line, amount in sorted(amounts.items(), key=lambda one: one[0]):
        here, added = dict(zip(_NAMES, line, strict=True)), asdict(amount)
        if line in known:
            more.append(
                {f"of_{key}": value for key, value in here.items()} | {f"more_{key}": value for key, value in added.items()}
            )
        else:
            new.append(here | added)
    _MORE.many(conn, more)
    _NEW.many(conn, new)


def _remember(conn: Connection, rows: Sequence[Mapping[Any, Any]], now: datetime, half_life_s: float) -> None:
    of_leaf: dict[str, list[Mapping[Any, Any]]] = defaultdict(list)
    for row in rows:
        of_leaf[row["share"]].append(row)
    asked = select(past_use).where(past_use.c.leaf.in_(sorted(of_leaf)))
    known = {row["leaf"]: record_of(PastUse, past_use, row) for row in conn.execute(asked).mappings()}
    more: list[dict[str, Any]] = []
    first: list[dict[str, Any]] = []
    for leaf, mine in sorted(of_leaf.items()):
        past = known.get(leaf, PastUse(at=now))
        for row in mine:
            past = with_use(past, row["granted"], row["opened_at"], row["freed_at"], half_life_s)
        values = values_of(past, past_use)
        if leaf in known:
            more.append({"of": leaf} | values)
        else:
            first.append({"leaf": leaf} | values)
    _PAST.many(conn, more)
    _FIRST.many(conn, first)


def _line(row: Mapping[Any, Any]) -> Line:
    return row["month"], row["share"], row["project"], row["owner"]


def _used(row: Mapping[Any, Any]) -> Used:
    return record_of(Used, booked, row)
