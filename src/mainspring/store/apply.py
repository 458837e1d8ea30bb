"""A plan is carried out (W2): starts, evictions with the places that they make, reasons. Compare-and-set throughout."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, select, update

from mainspring.core.errors import ConflictError, MainspringError, StateError
from mainspring.core.ids import RunId
from mainspring.core.records import AttemptState, Cause, Desired, Run, RunState
from mainspring.core.snapshot import OVERDUE, Applied, Decision, DecisionKind, Place, Plan, Snapshot
from mainspring.store.attempts import stop_attempt
from mainspring.store.database import Database, NewEvent, Transaction, Work
from mainspring.store.decisions import KEPT, Decisions
from mainspring.store.machines import ask_machines, release_machine
from mainspring.store.reasons import Reasons
from mainspring.store.runs import load_run
from mainspring.store.starts import Refusal, start_all
from mainspring.store.tables import attempts, runs

logger = logging.getLogger(__name__)
STARTS_AT_ONCE = 256  # in one transaction: others want to write too
_ACTS = (DecisionKind.START, DecisionKind.EVICT, DecisionKind.BURST)


@dataclass(slots=True)
class _Piece:
    """A part of a plan that stands or falls by itself: its work, and who hears what came of it."""

    work: Work[Any]
    then: Callable[[Any], None]


@dataclass(slots=True)
class _Told:
    """What became of the parts of a plan."""

    started: list[RunId] = field(default_factory=list)
    refused: list[RunId] = field(default_factory=list)
    evicted: list[RunId] = field(default_factory=list)
    rented: list[RunId] = field(default_factory=list)

    def of(self, decision: Decision, done: list[RunId], outcome: object, victims: Sequence[Decision] = ()) -> None:
        """Note one decision's outcome: done unless it is an error. Raises what is no refusal."""
        if isinstance(outcome, Refusal):
            logger.info("decision refused", extra={"run": decision.run, "why": outcome.message})
            self.refused.append(decision.run)
            return
        _check(outcome)
        done.append(decision.run)
        self.evicted += [one.run for one in victims]


@dataclass(slots=True)
class Plans:
    """Carries plans out, for the one process that plans."""

    db: Database
    decisions: Decisions
    reasons: Reasons = field(init=False)

    def __post_init__(self) -> None:
        self.reasons = Reasons(self.db)

    def apply(
        self, plan: Plan, *, now: datetime, event_actor: str = "scheduler", seen: Snapshot | None = None, kept: timedelta = KEPT
    ) -> Applied:
        """Carry the plan out; what somebody forestalled is refused, to be planned again. Reasons are recorded.

        So is the plan, for `kept`, where it does something and what it was made from is told (`seen`). All of it waits for one
        commit: others write too, and to wait for them once a plan is enough.
        """
        told = _Told()
        pieces = [
            *self._starts(plan, told, now, event_actor),
            *self._clear(plan, told, now, event_actor),
            *self._rent(plan, told, now, event_actor),
            *_home(plan, now, event_actor),
        ]
        news = self.reasons.news([one for one in plan.decisions if one.kind is DecisionKind.WAIT])
        if news.changed:
            pieces.append(_Piece(news.write, partial(_then, partial(self.reasons.remember, news))))
        if seen is not None and (plan.release or any(one.kind in _ACTS for one in plan.decisions)):
            entry = self.decisions.entry(plan, seen, now=now, kept=kept)
            pieces.append(_Piece(entry.write, partial(_then, partial(self.decisions.remember, entry))))
        for piece, outcome in zip(pieces, self.db.write_all([one.work for one in pieces]), strict=True):
            piece.then(outcome)
        return Applied(
            started=tuple(told.started),
            refused=tuple(told.refused),
            rented=tuple(told.rented),
            evicted=tuple(told.evicted),
            is_behind=news.is_behind,
        )

    def start_probe(self, decision: Decision, *, now: datetime, actor: str) -> bool:
        """Start a run on a node in quarantine, to try it; False when it or the node changed meanwhile, or is full."""
        (refused,) = self.db.write(partial(start_all, decisions=[decision], now=now, actor=actor, is_probe=True))
        return refused is None

    def _starts(self, plan: Plan, told: _Told, now: datetime, actor: str) -> Iterator[_Piece]:
        """Start in few transactions; where one cannot be written, each by itself, so that it stops no other."""
        starts = [one for one in plan.decisions if one.kind is DecisionKind.START]
        for begin in range(0, len(starts), STARTS_AT_ONCE):
            some = starts[begin : begin + STARTS_AT_ONCE]

            def then(outcomes: Any, some: Sequence[Decision] = some) -> None:
                if isinstance(outcomes, MainspringError):
                    logger.error("starts are written one by one", extra={"starts": len(some)}, exc_info=outcomes)
                    alone = self.db.write_all([partial(start_all, decisions=[one], now=now, actor=actor) for one in some])
                    outcomes = [one if isinstance(one, BaseException) else one[0] for one in alone]
                _check(outcomes)
                for decision, outcome in zip(some, outcomes, strict=True):
                    told.of(decision, told.started, outcome)

            yield _Piece(partial(start_all, decisions=some, now=now, actor=actor), then)

    def _clear(self, plan: Plan, told: _Told, now: datetime, actor: str) -> Iterator[_Piece]:
        for one, victims in _groups(plan):
            self.reasons.forget([one.run])
            work = partial(_clear, nomination=one, victims=victims, now=now, actor=actor)
            yield _Piece(work, partial(told.of, one, [], victims=victims))

    def _rent(self, plan: Plan, told: _Told, now: datetime, actor: str) -> Iterator[_Piece]:
        """Ask for machines, each run's by itself, and let idle ones end."""
        for one in plan.decisions:
            if one.kind is DecisionKind.BURST:
                self.reasons.forget([one.run])
                yield _Piece(partial(ask_machines, decision=one, now=now, actor=actor), partial(told.of, one, told.rented))
        for node in plan.release:
            yield _Piece(partial(release_machine, node=node, actor=actor), _check)


def _check(outcome: object) -> None:
    """Raise an outcome that is an error."""
    if isinstance(outcome, BaseException):
        raise outcome


def _then(remember: Callable[[], None], outcome: object) -> None:
    _check(outcome)
    remember()


def _home(plan: Plan, now: datetime, actor: str) -> Iterator[_Piece]:
    """Ask runs on rented machines to stop, to go on at home; one that changed meanwhile stays."""
    for one in plan.decisions:
        if one.kind is DecisionKind.EVICT and one.beneficiary == one.run:
            work = partial(_send_home, decision=one, now=now, actor=actor)
            yield _Piece(work, lambda outcome: None if isinstance(outcome, ConflictError) else _check(outcome))


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
