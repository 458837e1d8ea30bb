"""The starts of a plan (W2), in one transaction: each compared with what it was decided on, all or nothing for itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import bindparam, null, update

from mainspring.core.durations import estimate, keys_of
from mainspring.core.errors import CapacityError, ConflictError, StateError
from mainspring.core.ids import AttemptId
from mainspring.core.lifecycle import place_run
from mainspring.core.records import Attempt, Node, Replica, Run
from mainspring.core.shares import leaf_of
from mainspring.core.snapshot import Decision, Place
from mainspring.plugins import reach
from mainspring.store.attempts import allocations_of, insert_attempts
from mainspring.store.columns import record_of
from mainspring.store.database import NewEvent, Transaction
from mainspring.store.durations import medians_of
from mainspring.store.nodes import ask_nodes_ahead, lock_nodes, save_held, with_more
from mainspring.store.runs import lock_runs
from mainspring.store.shares import ask_shares_ahead, shares_of_projects
from mainspring.store.statements import Statement
from mainspring.store.tables import allocations, runs

Refusal = ConflictError | CapacityError

_PLACED = Statement(
    update(runs)
    .where(runs.c.id == bindparam("of"), runs.c.version == bindparam("seen"))
    .values(
        state=bindparam("to_state"),
        version=bindparam("to_version"),
        attempt=bindparam("number"),
        started_at=bindparam("since"),
        reason=null(),
        nominated=null(),
        not_before=null(),
    )
)
_NEW = Statement(allocations.insert())


@dataclass(slots=True)
class _Batch:
    """What the transaction has of the world, and what it will write."""

    runs: dict[str, Run]
    nodes: dict[str, Node]
    placed: list[tuple[Run, Run, Sequence[Place], str]] = field(default_factory=list)  # before, after, where, cluster


def start_all(
    tx: Transaction, decisions: Sequence[Decision], *, now: datetime, actor: str, is_probe: bool = False
) -> list[Refusal | None]:
    """Start what is still as it was decided on; return for each decision None, or why it was refused.

    A probe may start on a node in quarantine; no plan holds one.
    """
    ask_shares_ahead(tx.conn)
    ask_nodes_ahead(tx.conn, {place.node for one in decisions for place in one.places})
    batch = _Batch(
        runs={row["id"]: record_of(Run, runs, row) for row in lock_runs(tx.conn, {one.run for one in decisions})},
        nodes=lock_nodes(tx.conn, {place.node for one in decisions for place in one.places}),
    )
    before = dict(batch.nodes)
    refusals = [_take(batch, one, now, is_probe) for one in decisions]
    if batch.placed:
        rows = [
            {
                "of": new.id,
                "seen": old.version,
                "to_state": new.state,
                "to_version": new.version,
                "number": new.attempt,
                "since": new.started_at,
            }
            for old, new, _, _ in batch.placed
        ]
        _PLACED.many(tx.conn, rows)
        save_held(tx, [(before[id], node) for id, node in sorted(batch.nodes.items()) if node is not before[id]])
        _begin_attempts(tx, batch, now, actor)
    return refusals


def _take(batch: _Batch, decision: Decision, now: datetime, is_probe: bool) -> Refusal | None:
    """Place one run in the batch, or leave the batch as it is and say why."""
    run = batch.runs.get(decision.run)
    if run is None or run.version != decision.version:
        return StateError(f"Run {decision.run} was changed since it was planned.")
    try:
        placed = place_run(run, now)
        held = _held(batch.nodes, decision.places, is_probe)
    except (ConflictError, CapacityError) as refused:
        return refused
    clusters = {node.cluster for node in held.values()}
    if len(clusters) != 1:
        return CapacityError(f"Run {decision.run} is started in {len(clusters)} clusters, not in one.")
    batch.nodes.update(held)
    batch.runs[run.id] = placed
    batch.placed.append((run, placed, sorted(decision.places, key=lambda place: place.replica), clusters.pop()))
    return None


def _held(nodes: Mapping[str, Node], places: Iterable[Place], is_probe: bool) -> dict[str, Node]:
    """Return the nodes of `places` with what is granted there taken. Raises CapacityError."""
    by_node: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_node[place.node].append(place)
    for id in by_node:
        if id not in nodes:
            raise CapacityError(f"There is no node {id}.")
    return {id: with_more(nodes[id], [one.granted for one in here], is_probe=is_probe) for id, here in by_node.items()}


def _begin_attempts(tx: Transaction, batch: _Batch, now: datetime, actor: str) -> None:
    share_of = shares_of_projects(tx.conn)
    keys = {run.id: keys_of(run.project, run.owner, run.spec) for _, run, _, _ in batch.placed}
    medians = medians_of(tx.conn, {key for several in keys.values() for key in several})
    begun: list[Attempt] = []
    held: list[dict[str, object]] = []
    for _, run, places, cluster in batch.placed:
        attempt = Attempt(
            id=AttemptId(tx.ids.new("att")),
            run=run.id,
            number=run.attempt,
            cluster=cluster,
            created_at=now,
            replicas=tuple(Replica(index=place.replica, node=place.node, granted=place.granted) for place in places),
            estimate_s=estimate(keys[run.id], medians, run.spec.timeout_s),
        )
        begun.append(attempt)
        held += allocations_of(attempt, run, share=leaf_of(share_of.get(run.project, ""), run.owner), now=now, ids=tx.ids)
        facts: dict[str, object] = {"attempt": attempt.id, "number": attempt.number, "nodes": [place.node for place in places]}
        tx.tell(NewEvent(actor, "run.placed", run.id, run.project, facts), "runs", "attempts", "nodes")
    insert_attempts(tx, begun)
    reach("inside-W2")
    _NEW.many(tx.conn, held)
