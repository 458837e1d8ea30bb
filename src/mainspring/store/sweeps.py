"""Sweeps and trials: a suggestion and its run are one write, a result is told once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, or_, select, update

from mainspring.core.errors import ConflictError, NotFoundError
from mainspring.core.records import Run, RunState, Sweep, SweepState, Trial
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.keys import known_by_key, remember_key
from mainspring.store.runs import submit_run
from mainspring.store.statements import Statement
from mainspring.store.tables import runs, sweeps, trials

_ACTIVE = Statement(select(sweeps).where(sweeps.c.state == SweepState.ACTIVE).order_by(sweeps.c.created_at, sweeps.c.id))


class Sweeps:
    """Reads and writes of sweeps."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, sweep: Sweep, *, key: str = "", event: NewEvent | None = None) -> Sweep:
        """Write a new sweep; the same (project, key) gives the one that is there."""

        def work(tx: Transaction) -> Sweep:
            known = known_by_key(tx, "sweep", sweep.project, key)
            if known is not None:
                return _need(tx.conn, known)
            tx.conn.execute(sweeps.insert(), values_of(sweep, sweeps))
            remember_key(tx, "sweep", sweep.project, key, sweep.id)
            tx.tell(event, "sweeps")
            return sweep

        return self._db.write(work)

    def get(self, ref: str) -> Sweep | None:
        """Return the sweep with this id, or the newest of this name."""
        asked = select(sweeps).where(or_(sweeps.c.id == ref, sweeps.c.name == ref))
        newest_last = asked.order_by(sweeps.c.id != ref, sweeps.c.created_at.desc()).limit(1)
        row = self._db.read(lambda conn: conn.execute(newest_last).mappings().one_or_none())
        return None if row is None else record_of(Sweep, sweeps, row)

    def all(self, project: str) -> list[Sweep]:
        """Return the sweeps of a project, newest first."""
        asked = select(sweeps).where(sweeps.c.project == project).order_by(sweeps.c.created_at.desc(), sweeps.c.id.desc())
        return self._db.read(lambda conn: [record_of(Sweep, sweeps, row) for row in conn.execute(asked).mappings()])

    def active(self) -> list[Sweep]:
        """Return the sweeps that are not over, oldest first."""
        return [record_of(Sweep, sweeps, row) for row in self._db.ask(_ACTIVE)]

    def trials(self, sweep: str, *, after: int = 0) -> list[Trial]:
        """Return the trials by number, which is from 1 on; those after number `after`.

        One that is not told yet has the state of its run (FAILED when that was removed).
        """
        asked = (
            select(trials, runs.c.state.label("run_state"))
            .outerjoin(runs, runs.c.id == trials.c.run)
            .where(trials.c.sweep == sweep, trials.c.number > after)
            .order_by(trials.c.number)
        )
        return self._db.read(lambda conn: [_trial(row) for row in conn.execute(asked).mappings()])

    def add_trial(self, trial: Trial, run: Run, *, event: NewEvent | None = None) -> Run:
        """Write a suggestion and submit its run in one transaction. Raises ConflictError when the number is taken."""

        def work(tx: Transaction) -> Run:
            taken = select(trials.c.number).where(trials.c.sweep == trial.sweep, trials.c.number == trial.number)
            if tx.conn.execute(taken).first() is not None:
                raise ConflictError(f"Sweep {trial.sweep} has a trial {trial.number} already.")
            state = tx.conn.execute(select(sweeps.c.state).where(sweeps.c.id == trial.sweep)).scalar_one_or_none()
            if state is not SweepState.ACTIVE:
                raise ConflictError(f"Sweep {trial.sweep} is {state or 'unknown'}: it takes no more trials.")
            tx.conn.execute(trials.insert(), values_of(trial, trials))
            submitted = submit_run(tx, run, event=event)
            tx.topics.add("sweeps")
            return submitted

        return self._db.write(work)

    def tell(
        self,
        sweep: str,
        number: int,
        state: RunState,
        value: float | None,
        *,
        now: datetime | None = None,
        event: NewEvent | None = None,
    ) -> bool:
        """Record a trial's result, once; the sweep's best follows. False, and nothing written, when it was told before."""

        def work(tx: Transaction) -> bool:
            untold = (trials.c.sweep == sweep) & (trials.c.number == number) & trials.c.told_at.is_(None)
            told = update(trials).where(untold).values(state=state, value=value, told_at=now or tx.clock.now())
            if tx.conn.execute(told).rowcount != 1:
                return False
            if value is not None:
                _raise_best(tx, sweep, number, value)
            tx.tell(event, "sweeps")
            return True

        return self._db.write(work)

    def finish(self, id: str, state: SweepState, *, now: datetime | None = None, event: NewEvent | None = None) -> Sweep:
        """End a sweep, once. Raises NotFoundError."""

        def work(tx: Transaction) -> Sweep:
            active = (sweeps.c.id == id) & (sweeps.c.state == SweepState.ACTIVE)
            ended = {"state": state, "ended_at": now or tx.clock.now(), "version": sweeps.c.version + 1}
            if tx.conn.execute(update(sweeps).where(active).values(**ended)).rowcount == 1:
                tx.tell(event, "sweeps")
            return _need(tx.conn, id)

        return self._db.write(work)


def _raise_best(tx: Transaction, id: str, number: int, value: float) -> None:
    spec = _need(tx.conn, id).spec
    is_better = sweeps.c.best_value < value if spec.is_maximized else sweeps.c.best_value > value
    better = and_(sweeps.c.id == id, or_(sweeps.c.best_value.is_(None), is_better))
    best = {"best_trial": number, "best_value": value, "version": sweeps.c.version + 1}
    tx.conn.execute(update(sweeps).where(better).values(**best))


def _need(conn: Connection, id: str) -> Sweep:
    row = conn.execute(select(sweeps).where(sweeps.c.id == id)).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no sweep {id}.", hint="mainspring sweep ls")
    return record_of(Sweep, sweeps, row)


def _trial(row: Mapping[Any, Any]) -> Trial:
    found = record_of(Trial, trials, row)
    return found if found.told_at is not None else replace(found, state=row["run_state"] or RunState.FAILED)
