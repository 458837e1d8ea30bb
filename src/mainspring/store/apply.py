"""A plan is carried out (W2): starts, evictions with the places that they make, reasons. Compare-and-set throughout."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection, select, update

from mainspring.core.errors import CapacityError, ConflictError, MainspringError, StateError
from mainspring.core.ids import RunId
from mainspring.core.records import AttemptState, Cause, Desired, Run, RunState
from mainspring.core.snapshot import OVERDUE, Applied, Decision, DecisionKind, Place, Plan
from mainspring.store.attempts import stop_attempt
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.machines import ask_machines, release_machine
from mainspring.store.reasons import Reasons
from mainspring.store.runs import load_run
from mainspring.store.starts import start_all
from mainspring.store.tables import attempts, runs

logger = logging.getLogger(__name__)
STARTS_AT_ONCE = 256  # in one transaction: others want to write too


@dataclass(slots=True)
class Plans:
    """Carries plans out, for the one process that plans."""

    db: Database
    reasons: Reasons = field(init=False)

    def __post_init__(self) -> None:
        self.reasons = Reasons(self.db)

    def apply(self, plan: Plan, *, now: datetime, event_actor: str = "scheduler") -> Applied:
        """Carry the plan out; what somebody forestalled is refused, to be planned again. Reasons are recorded."""
        starts = [decision for decision in plan.decisions if decision.kind is DecisionKind.START]
        cleared = _groups(plan)
        outcomes = [*self._start(starts, now, event_actor), *self._clear(cleared, now, event_actor)]
        done: list[Decision] = []
        refused: list[RunId] = []
        for decision, outcome in zip([*starts, *(one for one, _ in cleared)], outcomes, strict=True):
            if outcome is None:
                done.append(decision)
            elif isinstance(outcome, ConflictError | CapacityError):
                logger.info("decision refused", extra={"run": decision.run, "why": outcome.message})
                refused.append(decision.run)
            else:
                raise outcome
        rented, unrented = self._rent(plan, now, event_actor)
        self._send_home(plan, now, event_actor)
        waits = [one for one in plan.decisions if one.kind is DecisionKind.WAIT]
        is_behind = self.reasons.tell(waits) if waits else False
        nominated = {decision.run for decision in done}
        return Applied(
            started=tuple(one.run for one in done if one.kind is DecisionKind.START),
            refused=(*refused, *unrented),
            rented=rented,
            evicted=tuple(victim.run for one, victims in cleared if one.run in nominated for victim in victims),
            is_behind=is_behind,
        )

    def start_probe(self, decision: Decision, *, now: datetime, actor: str) -> bool:
        """Start a run on a node in quarantine, to try it; False when it or the node changed meanwhile, or is full."""
        (refused,) = self.db.write(partial(start_all, decisions=[decision], now=now, actor=actor, is_probe=True))
        return refused is None

    def _start(self, starts: Sequence[Decision], now: datetime, actor: str) -> list[BaseException | None]:
        """Start in few transactions; where one cannot be written, each by itself, so that it stops no other."""
        outcomes: list[BaseException | None] = []
        for begin in range(0, len(starts), STARTS_AT_ONCE):
            some = starts[begin : begin + STARTS_AT_ONCE]
            try:
                outcomes += self.db.write(partial(start_all, decisions=some, now=now, actor=actor))
            except MainspringError:
                logger.exception("starts are written one by one", extra={"starts": len(some)})
                alone = self.db.write_all([partial(start_all, decisions=[one], now=now, actor=actor) for one in some])
                outcomes += [one if isinstance(one, BaseException) else one[0] for one in alone]
        return outcomes

    def _send_home(self, plan: Plan, now: datetime, actor: str) -> None:
        """Ask runs on rented machines to stop, to go on at home; one that changed meanwhile stays."""
        homing = [one for one in plan.decisions if one.kind is DecisionKind.EVICT and one.beneficiary == one.run]
        for outcome in self.db.write_all([partial(_send_home, decision=one, now=now, actor=actor) for one in homing]):
            if outcome is not None and not isinstance(outcome, ConflictError):
                raise outcome

    def _rent(self, plan: Plan, now: datetime, actor: str) -> tuple[tuple[RunId, ...], tuple[RunId, ...]]:
        """Ask for machines, each run's by itself, and let idle ones end; return the runs that get some, and those refused."""
        asked = [one for one in plan.decisions if one.kind is DecisionKind.BURST]
        self.reasons.forget(one.run for one in asked)
        outcomes = self.db.write_all([partial(ask_machines, decision=one, now=now, actor=actor) for one in asked])
        refused: list[RunId] = []
        for decision, outcome in zip(asked, outcomes, strict=True):
            if isinstance(outcome, ConflictError | CapacityError):
                logger.info("machines refused", extra={"run": decision.run, "why": outcome.message})
                refused.append(decision.run)
            elif outcome is not None:
                raise outcome
        for node in plan.release:
            self.db.write(partial(release_machine, node=node, actor=actor))
        return tuple(one.run for one in asked if one.run not in refused), tuple(refused)

    def _clear(
        self, cleared: Sequence[tuple[Decision, Sequence[Decision]]], now: datetime, actor: str
    ) -> list[BaseException | None]:
        self.reasons.forget(one.run for one, _ in cleared)
        return self.db.write_all(
            [partial(_clear, nomination=one, victims=victims, now=now, actor=actor) for one, victims in cleared]
        )


def _groups(plan: Plan) -> list[tuple[Decision, list[Decision]]]:
    """Return each NOMINATE with the EVICTs that make room for it: they stand or fall together."""
    victims: dict[str, list[Decision]] = defaultdict(list)
    for decision in plan.decisions:
        if decision.kind is DecisionKind.EVICT and decision.beneficiary is not None:
            victims[decision.beneficiary].append(decision)
    return [(one, victims[one.run]) for one in plan.decisions if one.kind is DecisionKind.NOMINATE]


# --- evictions ----------------------------------------------------------------------------------------------------------


def _clear(tx: Transaction, *, nomination: Decision, victims: Sequence[Decision], now: datetime, actor: str) -> None:
    """Keep the places for the run, and ask those who stand there to stop. The run's own row is the lock on its places."""
    run = _unchanged(tx.conn, nomination)
    if run.state is not RunState.QUEUED or run.desired is not Desired.RUN:
        raise StateError(f"Run {run.id} does not wait any more.")
    if victims or nomination.places != _nominated(tx.conn, run.id) or run.reason != nomination.reason:
        mine = update(runs).where(runs.c.id == run.id, runs.c.version == run.version)
        if tx.conn.execute(mine.values(nominated=nomination.places, reason=nomination.reason)).rowcount == 0:
            raise StateError(f"Run {run.id} was changed while places were cleared for it.")
        tx.topics.add("runs")
    for victim in victims:
        _stop(tx, victim, now=now, actor=actor, stop_for=run.id, beneficiary=run.id, beneficiary_owner=run.owner)


def _send_home(tx: Transaction, *, decision: Decision, now: datetime, actor: str) -> None:
    """Stop the run where it is, and keep its places at home in its own row: they are the first it is tried at.

    One that is overdue is stopped for its own sake: from then on it goes to no paid site (`snapshot.py`).
    """
    run = _stop(tx, decision, now=now, actor=actor, stop_for=decision.run if decision.rule == OVERDUE else "")
    mine = update(runs).where(runs.c.id == run.id, runs.c.version == run.version)
    tx.conn.execute(mine.values(nominated=decision.places))


def _stop(tx: Transaction, victim: Decision, *, now: datetime, actor: str, stop_for: str = "", **more: object) -> Run:
    stopped = _unchanged(tx.conn, victim)
    if stopped.state is not RunState.RUNNING:
        raise StateError(f"Run {stopped.id} does not run any more.")
    current = select(attempts.c.id).where(
        attempts.c.run == stopped.id, attempts.c.number == stopped.attempt, attempts.c.state != AttemptState.ENDED
    )
    attempt = tx.conn.execute(current).scalar_one_or_none()
    if attempt is None:
        raise StateError(f"Run {stopped.id} has ended since it was planned.")
    grace_s = stopped.spec.grace_s
    facts: dict[str, object] = {"run": stopped.id, "cause": Cause.PREEMPTED, "grace_s": grace_s, "rule": victim.rule, **more}
    event = NewEvent(actor, "attempt.stop_asked", attempt, stopped.project, facts)
    stop_by = now + timedelta(seconds=grace_s)
    stop_attempt(tx, attempt, Cause.PREEMPTED, stop_by=stop_by, stop_for=stop_for, event=event)
    tx.topics.add(f"attempt:{attempt}")  # its runner's poll
    return stopped


def _nominated(conn: Connection, run: str) -> tuple[Place, ...]:
    return conn.execute(select(runs.c.nominated).where(runs.c.id == run)).scalar_one() or ()


def _unchanged(conn: Connection, decision: Decision) -> Run:
    run = load_run(conn, decision.run)
    if run is None or run.version != decision.version:
        raise StateError(f"Run {decision.run} was changed since it was planned.")
    return run
