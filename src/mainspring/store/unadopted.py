"""Attempts that no row knows though their runners live: the database is older than they are. Noted, adopted, or forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import delete, select, update

from mainspring.core.errors import ConflictError, StateError
from mainspring.core.lifecycle import TERMINAL_RUN, place_run
from mainspring.core.records import Attempt, AttemptState, Desired, Run, RunState, Unadopted
from mainspring.core.shares import leaf_of
from mainspring.store.attempts import allocations_of, insert_attempts
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.nodes import hold
from mainspring.store.runs import load_run, save_run, submit_run
from mainspring.store.shares import shares_of_projects
from mainspring.store.statements import Statement
from mainspring.store.tables import allocations, unadopted

_ALL = Statement(select(unadopted).order_by(unadopted.c.first_seen_at, unadopted.c.attempt))


class UnadoptedAttempts:
    """Reads and writes of attempts that wait to be adopted."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def all(self) -> list[Unadopted]:
        """Return them, the first seen first."""
        return [record_of(Unadopted, unadopted, row) for row in self._db.ask(_ALL)]

    def note(self, seen: Unadopted) -> None:
        """Record that the runner of an attempt was seen; what it told before is kept where it tells nothing now."""

        def work(tx: Transaction) -> None:
            mine = unadopted.c.attempt == seen.attempt
            told = {name: value for name in ("host", "run", "claim") if (value := getattr(seen, name))}
            if tx.conn.execute(update(unadopted).where(mine).values(seen_at=seen.seen_at, **told)).rowcount == 0:
                tx.conn.execute(unadopted.insert(), values_of(seen, unadopted))
                tx.tell(NewEvent("runner", "attempt.unadopted", seen.attempt, "", {"run": seen.run, "host": seen.host}))
            tx.topics.add("runs")  # its run is not to be started meanwhile

        self._db.write(work)

    def forget(self, attempt: str, *, event: NewEvent) -> None:
        """Drop one of which nothing is left: its run may be started again."""

        def work(tx: Transaction) -> None:
            if tx.conn.execute(delete(unadopted).where(unadopted.c.attempt == attempt)).rowcount:
                tx.tell(event, "runs")

        self._db.write(work)

    def adopt(self, run: Run, attempt: Attempt, *, now: datetime, event: NewEvent) -> Run:
        """Make the rows of an attempt again, and of its run where that is missing; it holds its places from now on.

        Raises StateError when the run is done, ConflictError when it is tried otherwise, CapacityError when the places are taken.
        """

        def work(tx: Transaction) -> Run:
            known = load_run(tx.conn, run.id)
            if known is None:
                waiting = _before(run, attempt)
                known = submit_run(tx, waiting, event=None)
            if known.state in TERMINAL_RUN:
                raise StateError(f"Run {known.name} is {known.state} already.", hint="Its runner is ended after a day.")
            if known.state is not RunState.QUEUED or known.attempt >= attempt.number:
                raise ConflictError(f"Run {known.name} is being tried otherwise.", hint=f"mainspring cancel {known.id}")
            placed = _placed(known, attempt, now)
            if not save_run(tx, known, placed):
                raise ConflictError(f"Run {known.name} was changed meanwhile.", hint="Try again.")
            for replica in sorted(attempt.replicas, key=lambda one: one.node):
                hold(tx, replica.node, [replica.granted])
            insert_attempts(tx, [attempt])
            share = leaf_of(shares_of_projects(tx.conn, [run.project]).get(run.project, ""), run.owner)
            tx.conn.execute(allocations.insert(), allocations_of(attempt, run, share=share, now=now, ids=tx.ids))
            tx.conn.execute(delete(unadopted).where(unadopted.c.attempt == attempt.id))
            tx.tell(event, "runs", "attempts", "nodes")
            return placed

        return self._db.write(work)


def _before(run: Run, attempt: Attempt) -> Run:
    """Return the run as it was before this attempt was placed."""
    return Run(
        id=run.id,
        project=run.project,
        name=run.name,
        owner=run.owner,
        spec=run.spec,
        seq=0,
        created_at=run.created_at,
        priority=run.priority,
        attempt=attempt.number - 1,
        retries_used=run.retries_used,
        losses=run.losses,
        tags=run.tags,
        started_at=run.started_at,
        cache_key=run.cache_key,
    )


def _placed(known: Run, attempt: Attempt, now: datetime) -> Run:
    """Return the run with this attempt begun, whatever was wanted of it meanwhile: a pause or a cancel then stops it."""
    wanted = replace(known, desired=Desired.RUN, attempt=attempt.number - 1)
    return replace(place_run(wanted, now), desired=known.desired)


def as_launched(attempt: Attempt) -> Attempt:
    """Return an attempt as it is to be written again: launched, its handles to be found by launching it once more."""
    members = tuple(replace(one, handle={}, state=AttemptState.LAUNCHING, last_beat_at=None) for one in attempt.replicas)
    return replace(attempt, state=AttemptState.LAUNCHING, replicas=members, stop_cause=None, stop_by=None, version=1)
