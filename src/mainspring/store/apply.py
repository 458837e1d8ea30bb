"""A plan is carried out (W2): each start, and each eviction with the place that it makes, all or nothing and compare-and-set."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Connection, Text, bindparam, null, select, type_coerce, update

from mainspring.core.codec import encode, parse_time, to_plain
from mainspring.core.durations import estimate, keys_of
from mainspring.core.errors import CapacityError, ConflictError, StateError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.lifecycle import place_run
from mainspring.core.reasons import Reason
from mainspring.core.records import Allocation, Attempt, AttemptState, Cause, Desired, Node, Replica, Run, RunState
from mainspring.core.shares import leaf_of
from mainspring.core.snapshot import Applied, Decision, DecisionKind, Place, Plan
from mainspring.plugins import reach
from mainspring.store.attempts import insert_attempt, stop_attempt
from mainspring.store.columns import unpack, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.durations import medians_of
from mainspring.store.nodes import hold
from mainspring.store.runs import load_run, save_run
from mainspring.store.shares import shares_of_projects
from mainspring.store.tables import allocations, attempts, runs

logger = logging.getLogger(__name__)
EXPECTED = "expected_at"  # the fact of a reason that tells when the run is expected to start
_DRIFT = timedelta(seconds=30)  # an expectation that moved less is not written again


def apply_plan(db: Database, plan: Plan, *, now: datetime, event_actor: str = "scheduler") -> Applied:
    """Carry the plan out; what somebody forestalled is refused, to be planned again. Reasons are recorded."""
    starts = [decision for decision in plan.decisions if decision.kind is DecisionKind.START]
    cleared = _groups(plan)
    share_of = db.read(shares_of_projects) if starts else {}
    outcomes = db.write_all(
        [
            *(partial(_start, decision=one, now=now, actor=event_actor, share_of=share_of) for one in starts),
            *(partial(_clear, nomination=one, victims=victims, now=now, actor=event_actor) for one, victims in cleared),
        ]
    )
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
    waits = [one for one in plan.decisions if one.kind in (DecisionKind.WAIT, DecisionKind.BURST) and one.reason is not None]
    if waits:
        _tell_reasons(db, waits)
    nominated = {decision.run for decision in done}
    return Applied(
        started=tuple(one.run for one in done if one.kind is DecisionKind.START),
        refused=tuple(refused),
        evicted=tuple(victim.run for one, victims in cleared if one.run in nominated for victim in victims),
    )


def _groups(plan: Plan) -> list[tuple[Decision, list[Decision]]]:
    """Return each NOMINATE with the EVICTs that make room for it: they stand or fall together."""
    victims: dict[str, list[Decision]] = defaultdict(list)
    for decision in plan.decisions:
        if decision.kind is DecisionKind.EVICT and decision.beneficiary is not None:
            victims[decision.beneficiary].append(decision)
    return [(one, victims[one.run]) for one in plan.decisions if one.kind is DecisionKind.NOMINATE]


# --- starts -------------------------------------------------------------------------------------------------------------


def _start(tx: Transaction, *, decision: Decision, now: datetime, actor: str, share_of: Mapping[str, str]) -> None:
    run = _unchanged(tx.conn, decision)
    placed = place_run(run, now)
    if not save_run(tx, run, placed, nominated=None):
        raise StateError(f"Run {decision.run} was changed while it was placed.")
    if not decision.places:
        raise CapacityError(f"Run {decision.run} is started nowhere.")
    node_of = _hold_all(tx, decision.places)
    clusters = {node.cluster for node in node_of.values()}
    if len(clusters) != 1:
        raise CapacityError(f"Run {decision.run} is spread over several clusters.")
    places = sorted(decision.places, key=lambda place: place.replica)
    keys = keys_of(run.project, run.owner, run.spec)
    attempt = Attempt(
        id=AttemptId(tx.ids.new("att")),
        run=run.id,
        number=placed.attempt,
        cluster=clusters.pop(),
        created_at=now,
        replicas=tuple(Replica(index=place.replica, node=place.node, granted=place.granted) for place in places),
        estimate_s=estimate(keys, medians_of(tx.conn, keys), run.spec.timeout_s),
    )
    insert_attempt(tx, attempt)
    reach("inside-W2")
    share = leaf_of(share_of.get(run.project, ""), run.owner)
    for place in places:
        held = Allocation(
            id=tx.ids.new("alloc"),
            attempt=attempt.id,
            replica=place.replica,
            run=run.id,
            owner=run.owner,
            node=place.node,
            granted=place.granted,
            opened_at=now,
        )
        tx.conn.execute(allocations.insert(), values_of(held, allocations) | {"share": share})
    facts: dict[str, object] = {"attempt": attempt.id, "number": attempt.number, "nodes": [place.node for place in places]}
    tx.tell(NewEvent(actor, "run.placed", run.id, run.project, facts), "runs", "attempts", "nodes")


def _unchanged(conn: Connection, decision: Decision) -> Run:
    run = load_run(conn, decision.run)
    if run is None or run.version != decision.version:
        raise StateError(f"Run {decision.run} was changed since it was planned.")
    return run


def _hold_all(tx: Transaction, places: Iterable[Place]) -> dict[str, Node]:
    by_node: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_node[place.node].append(place)
    # in order of id: two gangs that want the same nodes must not wait for each other
    return {id: hold(tx, id, (place.granted for place in by_node[id])) for id in sorted(by_node)}


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
        facts: dict[str, object] = {
            "run": stopped.id,
            "cause": Cause.PREEMPTED,
            "grace_s": grace_s,
            "beneficiary": run.id,
            "beneficiary_owner": run.owner,
            "rule": victim.rule,
        }
        event = NewEvent(actor, "attempt.stop_asked", attempt, stopped.project, facts)
        stop_by = now + timedelta(seconds=grace_s)
        stop_attempt(tx, attempt, Cause.PREEMPTED, stop_by=stop_by, stop_for=run.id, event=event)
        tx.topics.add(f"attempt:{attempt}")  # its runner's poll


def _nominated(conn: Connection, run: str) -> tuple[Place, ...]:
    return conn.execute(select(runs.c.nominated).where(runs.c.id == run)).scalar_one() or ()


# --- reasons ------------------------------------------------------------------------------------------------------------


def _tell_reasons(db: Database, waits: Sequence[Decision]) -> None:
    """Record why runs wait, and that no places are kept for them, where that is another than before."""
    asked = select(runs.c.id, type_coerce(runs.c.reason, Text), runs.c.nominated.is_not(None), runs.c.version)
    known = {
        row[0]: row[1:] for row in db.read(lambda conn: conn.execute(asked.where(runs.c.state == RunState.QUEUED)).tuples().all())
    }
    changed: list[tuple[Decision, Reason]] = []
    for one in waits:
        if one.run not in known or one.reason is None:
            continue
        was, is_nominated, version = known[one.run]
        if version != one.version:
            continue
        reason = _with_expectation(one.reason, one.expected_at, was)
        if is_nominated or was != encode(reason).decode():
            changed.append((one, reason))
    if changed:
        db.write(lambda tx: _write_reasons(tx, changed))


def _with_expectation(reason: Reason, expected_at: datetime | None, was: str | None) -> Reason:
    if expected_at is None:
        return reason
    told = replace(reason, facts={**reason.facts, EXPECTED: to_plain(expected_at)})
    if was is not None:
        old = unpack(was, Reason)
        before = old.facts.get(EXPECTED)
        if isinstance(before, str) and abs(parse_time(before) - expected_at) < _DRIFT:
            kept = replace(reason, facts={**reason.facts, EXPECTED: before})
            return kept
    return told


def _write_reasons(tx: Transaction, changed: Sequence[tuple[Decision, Reason]]) -> None:
    """Leave `version` alone: a reason is no decision."""
    same = (runs.c.id == bindparam("run")) & (runs.c.version == bindparam("seen")) & (runs.c.state == RunState.QUEUED)
    written = update(runs).where(same).values(reason=bindparam("because"), nominated=null())
    tx.conn.execute(written, [{"run": one.run, "seen": one.version, "because": reason} for one, reason in changed])
    tx.topics.add("runs")
