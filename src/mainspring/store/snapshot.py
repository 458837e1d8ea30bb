"""The planner's two doors: what it sees (one consistent read) and what it decided (W2, all or nothing for each run)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, select

from mainspring.core.errors import CapacityError, ConflictError, StateError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.lifecycle import place_run
from mainspring.core.records import Allocation, Attempt, AttemptState, Desired, Node, Replica, RunState
from mainspring.core.snapshot import Applied, Decision, DecisionKind, Place, PlacedRun, Plan, Snapshot, WaitingRun
from mainspring.core.specs import RunSpec
from mainspring.plugins import reach
from mainspring.store.attempts import insert_attempt
from mainspring.store.columns import values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.nodes import all_nodes, hold
from mainspring.store.runs import Runs, load_run, save_run
from mainspring.store.tables import allocations, attempts, runs

logger = logging.getLogger(__name__)


def take_snapshot(db: Database, now: datetime, limit: int | None = None) -> Snapshot:
    """Return the world of one instant: nodes, queued runs (the first `limit` in line), runs that hold something."""

    def ask(conn: Connection) -> Snapshot:
        return Snapshot(
            now=now,
            nodes=tuple(all_nodes(conn)),
            waiting=tuple(_waiting(conn, limit)),
            placed=tuple(_placed(conn)),
        )

    return db.read(ask)


def apply_plan(db: Database, plan: Plan, *, now: datetime, event_actor: str = "scheduler") -> Applied:
    """Carry the plan out: each START alone succeeds or is refused (somebody wrote first); reasons are recorded."""
    starts = [decision for decision in plan.decisions if decision.kind is DecisionKind.START]
    outcomes = db.write_all([partial(_start, decision=decision, now=now, actor=event_actor) for decision in starts])
    started: list[RunId] = []
    refused: list[RunId] = []
    for decision, outcome in zip(starts, outcomes, strict=True):
        if outcome is None:
            started.append(decision.run)
        elif isinstance(outcome, ConflictError | CapacityError):
            logger.info("decision refused", extra={"run": decision.run, "why": outcome.message})
            refused.append(decision.run)
        else:
            raise outcome
    waits = {d.run: d.reason for d in plan.decisions if d.kind is DecisionKind.WAIT and d.reason is not None}
    if waits:
        Runs(db).set_reasons(waits)
    return Applied(started=tuple(started), refused=tuple(refused))


def _start(tx: Transaction, *, decision: Decision, now: datetime, actor: str) -> None:
    run = load_run(tx.conn, decision.run)
    if run is None or run.version != decision.version:
        raise StateError(f"Run {decision.run} was changed since it was planned.")
    placed = place_run(run, now)
    if not save_run(tx, run, placed):
        raise StateError(f"Run {decision.run} was changed while it was placed.")
    if not decision.places:
        raise CapacityError(f"Run {decision.run} is started nowhere.")
    node_of = _hold_all(tx, decision.places)
    clusters = {node.cluster for node in node_of.values()}
    if len(clusters) != 1:
        raise CapacityError(f"Run {decision.run} is spread over several clusters.")
    places = sorted(decision.places, key=lambda place: place.replica)
    attempt = Attempt(
        id=AttemptId(tx.ids.new("att")),
        run=run.id,
        number=placed.attempt,
        cluster=clusters.pop(),
        created_at=now,
        replicas=tuple(Replica(index=place.replica, node=place.node, granted=place.granted) for place in places),
    )
    insert_attempt(tx, attempt)
    reach("inside-W2")
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
        tx.conn.execute(allocations.insert(), values_of(held, allocations))
    facts: dict[str, object] = {"attempt": attempt.id, "number": attempt.number, "nodes": [place.node for place in places]}
    tx.tell(NewEvent(actor, "run.placed", run.id, run.project, facts), "runs", "attempts", "nodes")


def _hold_all(tx: Transaction, places: Iterable[Place]) -> dict[str, Node]:
    by_node: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_node[place.node].append(place)
    # in order of id: two gangs that want the same nodes must not wait for each other
    return {id: hold(tx, id, (place.granted for place in by_node[id])) for id in sorted(by_node)}


def _waiting(conn: Connection, limit: int | None) -> list[WaitingRun]:
    unconfirmed = set(conn.execute(select(attempts.c.run).where(attempts.c.state != AttemptState.ENDED).distinct()).scalars())
    asked = (
        select(
            runs.c.id,
            runs.c.owner,
            runs.c.project,
            runs.c.seq,
            runs.c.priority,
            runs.c.created_at,
            runs.c.version,
            runs.c.desired,
            runs.c.not_before,
            runs.c.avoid,
            runs.c.spec,
        )
        .where(runs.c.state == RunState.QUEUED)
        .order_by(runs.c.priority.desc(), runs.c.seq)
        .limit(limit)
    )
    found = []
    for row in conn.execute(asked):
        spec: RunSpec = row.spec
        found.append(
            WaitingRun(
                id=row.id,
                owner=row.owner,
                project=row.project,
                seq=row.seq,
                priority=row.priority,
                submitted_at=row.created_at,
                resources=spec.resources,
                replicas=spec.replicas,
                alternatives=spec.alternatives,
                min_replicas=spec.min_replicas,
                same=spec.same,
                version=row.version,
                is_held=row.desired is not Desired.RUN,
                is_preemptible=spec.is_preemptible,
                not_before=row.not_before,
                is_unconfirmed=row.id in unconfirmed,
                avoid=row.avoid,
            )
        )
    return found


def _placed(conn: Connection) -> list[PlacedRun]:
    asked = (
        select(
            runs.c.id,
            runs.c.owner,
            runs.c.project,
            runs.c.priority,
            runs.c.seq,
            runs.c.spec,
            allocations.c.replica,
            allocations.c.node,
            allocations.c.granted,
            allocations.c.opened_at,
        )
        .join_from(allocations, runs, runs.c.id == allocations.c.run)
        .where(allocations.c.freed_at.is_(None))
        .order_by(runs.c.seq, allocations.c.opened_at, allocations.c.replica)
    )
    grouped = defaultdict(list)
    for row in conn.execute(asked):
        grouped[row.id].append(row)
    return [
        PlacedRun(
            id=id,
            owner=rows[0].owner,
            project=rows[0].project,
            priority=rows[0].priority,
            seq=rows[0].seq,
            since=rows[0].opened_at,
            is_preemptible=rows[0].spec.is_preemptible,
            places=tuple(Place(replica=row.replica, node=row.node, granted=row.granted) for row in rows),
        )
        for id, rows in grouped.items()
    ]
