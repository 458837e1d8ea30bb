"""What the planner sees: nodes, queue, runs that hold something, shares and policy, in one consistent read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from mainspring.core.budgets import up_the_tree
from mainspring.core.durations import estimate, keys_of
from mainspring.core.ids import RunId
from mainspring.core.policy import Policy
from mainspring.core.records import AttemptState, Desired, Node, NodeState, RunState
from mainspring.core.resources import Resources
from mainspring.core.shares import Share, leaf_of, with_ancestors
from mainspring.core.snapshot import Place, PlacedRun, ShareState, Snapshot, WaitingRun
from mainspring.core.specs import RunSpec
from mainspring.core.usage import history_of, usd
from mainspring.store.database import Database
from mainspring.store.durations import medians_of
from mainspring.store.machines import bursting, is_renting, machines_of, opened, rented_of, reserved_of, sites_of
from mainspring.store.nodes import all_nodes
from mainspring.store.policies import current_policy
from mainspring.store.shares import all_reservations, all_shares, shares_of_projects
from mainspring.store.tables import allocations, attempts, runs, unadopted
from mainspring.store.usage import part_of, past_of, spent_of

_AT_ONCE = 500  # SQLite binds a limited number of values
_KEPT = 50_000  # specifications remembered beyond those of the last look


@dataclass(frozen=True, slots=True)
class _Asked:
    """What of a specification the planner looks at; it never changes, so it is decoded once."""

    resources: Resources
    replicas: int
    alternatives: tuple[Resources, ...]
    min_replicas: int
    same: str
    is_preemptible: bool
    timeout_s: float
    data_bytes: int
    keys: tuple[str, ...]


@dataclass(slots=True)
class Snapshots:
    """Takes snapshots. Rows are read each time, specifications once."""

    db: Database
    _known: dict[RunId, _Asked] = field(default_factory=dict)

    def take(self, now: datetime, *, limit: int | None = None, each: int | None = None) -> Snapshot:
        """Return the world of one instant: the first `limit` queued runs in line, or the first `each` of each person's."""

        def ask(conn: Connection) -> Snapshot:
            policy = current_policy(conn).policy
            rented = machines_of(conn)
            nodes = opened(rented, all_nodes(conn))
            share_of = shares_of_projects(conn)
            waiting = self._waiting(conn, share_of, limit, each, bursting(rented))
            placed = self._placed(conn, share_of)
            return Snapshot(
                now=now,
                nodes=nodes,
                waiting=waiting,
                placed=placed,
                policy=policy,
                shares=_states(conn, now, policy, nodes, placed, reserved_of(rented, now)),
                reservations=tuple(all_reservations(conn, now)),
                sites=tuple(sites_of(conn)),
                rented=rented_of(rented),
                budget_usd=policy.burst.budget_usd,
            )

        return self.db.read(ask)

    def is_due(self) -> bool:
        """Say whether anything waits or is rented: if not there is nothing to plan, and no need to read the world."""
        waits = select(runs.c.id).where(runs.c.state == RunState.QUEUED).limit(1)
        return self.db.read(lambda conn: conn.execute(waits).first() is not None or is_renting(conn))

    def _waiting(
        self, conn: Connection, share_of: Mapping[str, str], limit: int | None, each: int | None, coming: frozenset[RunId]
    ) -> tuple[WaitingRun, ...]:
        rows = _queued(conn, limit, each)
        asked = self._asked_of(conn, rows)
        medians = medians_of(conn, {key for one in asked.values() for key in one.keys})
        open_runs = select(attempts.c.run).where(attempts.c.state != AttemptState.ENDED)
        unconfirmed = {*conn.execute(open_runs).scalars(), *conn.execute(select(unadopted.c.run)).scalars()}
        found = []
        for row in rows:
            spec = asked[row.id]
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
                    version=row.version,
                    share=leaf_of(share_of.get(row.project, ""), row.owner),
                    estimate_s=estimate(spec.keys, medians, spec.timeout_s),
                    alternatives=spec.alternatives,
                    min_replicas=spec.min_replicas,
                    same=spec.same,
                    data_bytes=spec.data_bytes,
                    nominated=row.nominated or (),
                    is_held=row.desired is not Desired.RUN,
                    is_preemptible=spec.is_preemptible,
                    is_bursting=row.id in coming,
                    not_before=row.not_before,
                    is_unconfirmed=row.id in unconfirmed,
                    avoid=row.avoid,
                )
            )
        if len(self._known) > len(asked) + _KEPT:
            self._known = dict(asked)
        return tuple(found)

    def _placed(self, conn: Connection, share_of: Mapping[str, str]) -> tuple[PlacedRun, ...]:
        grouped = defaultdict(list)
        for row in conn.execute(_HELD):
            grouped[row.id].append(row)
        asked = self._asked_of(conn, [rows[0] for rows in grouped.values()])
        return tuple(
            PlacedRun(
                id=id,
                owner=rows[0].owner,
                project=rows[0].project,
                priority=rows[0].priority,
                seq=rows[0].seq,
                since=rows[0].opened_at,
                is_preemptible=asked[id].is_preemptible,
                places=tuple(Place(replica=row.replica, node=row.node, granted=row.granted) for row in rows),
                version=rows[0].version,
                resources=asked[id].resources,
                same=asked[id].same,
                submitted_at=rows[0].created_at,
                share=leaf_of(share_of.get(rows[0].project, ""), rows[0].owner),
                estimate_s=rows[0].estimate_s,
                checkpointed_at=rows[0].checkpoint_at,
                is_stopping=rows[0].stop_cause is not None,
            )
            for id, rows in grouped.items()
        )

    def _asked_of(self, conn: Connection, rows: Iterable[Any]) -> dict[RunId, _Asked]:
        wanted = {row.id: row for row in rows}
        known = {id: self._known[id] for id in wanted if id in self._known}
        missing = [id for id in wanted if id not in known]
        for start in range(0, len(missing), _AT_ONCE):
            some = select(runs.c.id, runs.c.spec).where(runs.c.id.in_(missing[start : start + _AT_ONCE]))
            for id, spec in conn.execute(some).tuples():
                known[id] = self._known[id] = _asked(spec, wanted[id].project, wanted[id].owner)
        return known


_QUEUED = select(
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
    runs.c.nominated,
).where(runs.c.state == RunState.QUEUED)

_HELD = (
    select(
        runs.c.id,
        runs.c.owner,
        runs.c.project,
        runs.c.priority,
        runs.c.seq,
        runs.c.version,
        runs.c.created_at,
        attempts.c.estimate_s,
        attempts.c.checkpoint_at,
        attempts.c.stop_cause,
        allocations.c.replica,
        allocations.c.node,
        allocations.c.granted,
        allocations.c.opened_at,
    )
    .join_from(allocations, runs, runs.c.id == allocations.c.run)
    .join(attempts, attempts.c.id == allocations.c.attempt)
    .where(allocations.c.freed_at.is_(None))
    .order_by(runs.c.seq, allocations.c.opened_at, allocations.c.replica)
)


_IN_LINE = _QUEUED.order_by(runs.c.priority.desc(), runs.c.seq)
_PLACE = func.row_number().over(partition_by=(runs.c.project, runs.c.owner), order_by=(runs.c.priority.desc(), runs.c.seq))
_EACH = select(runs.c.id, _PLACE.label("place")).where(runs.c.state == RunState.QUEUED).subquery()
_FIRST = _IN_LINE.join(_EACH, _EACH.c.id == runs.c.id).where(_EACH.c.place <= bindparam("each"))


def _queued(conn: Connection, limit: int | None, each: int | None) -> list[Any]:
    if each is None:
        return list(conn.execute(_IN_LINE.limit(limit)))
    return list(conn.execute(_FIRST, {"each": each}))


def _asked(spec: RunSpec, project: str, owner: str) -> _Asked:
    return _Asked(
        resources=spec.resources,
        replicas=spec.replicas,
        alternatives=spec.alternatives,
        min_replicas=spec.min_replicas,
        same=spec.same,
        is_preemptible=spec.is_preemptible,
        timeout_s=spec.timeout_s,
        data_bytes=sum(value.size_bytes for value in spec.args.values()),
        keys=keys_of(project, owner, spec),
    )


def _states(
    conn: Connection,
    now: datetime,
    policy: Policy,
    nodes: tuple[Node, ...],
    placed: tuple[PlacedRun, ...],
    to_come: Mapping[str, Decimal],
) -> tuple[ShareState, ...]:
    """Return every share that was configured or was ever used, with its past; `to_come` is reserved for rented machines."""
    configured = {share.name: share for share in all_shares(conn)}
    ready = [node for node in nodes if node.state is NodeState.READY]
    capacity = (
        float(sum(len(node.devices) for node in ready)),
        sum(node.cpu_milli for node in ready) / 1000,
        sum(node.memory_bytes for node in ready) / (1 << 30),
    )
    past = past_of(conn, now, policy.order.half_life_s)
    history = history_of(past, capacity)
    spent = up_the_tree({name: Decimal(micros) for name, micros in spent_of(conn, now).items()})
    reserved = up_the_tree(_to_come(now, policy, nodes, placed, to_come))
    names = sorted(with_ancestors([*configured, *past, *spent, *reserved]))
    return tuple(
        ShareState(
            share=configured.get(name, Share(name=name)),
            history=history.get(name, 0.0),
            served_at=past[name].served_at if name in past else None,
            spent_usd=usd(int(spent.get(name, 0))),
            reserved_usd=usd(int(reserved.get(name, 0))),
        )
        for name in names
        if name in configured or name in past or history.get(name) or spent.get(name) or reserved.get(name)
    )


def _to_come(
    now: datetime, policy: Policy, nodes: tuple[Node, ...], placed: tuple[PlacedRun, ...], rented: Mapping[str, Decimal]
) -> dict[str, Decimal]:
    """Return what rented machines, and runs on own ones that have a price, may still cost, by leaf, in millionths of a dollar."""
    priced = {node.id: node for node in nodes if Decimal(node.price_usd_per_hour or "0") > 0}
    found: dict[str, Decimal] = defaultdict(Decimal, rented)
    for run in placed:
        left_s = max(0.0, run.estimate_s * policy.burst.safety - (now - run.since).total_seconds())
        for place in run.places:
            node = priced.get(place.node)
            if node is not None and left_s:
                part = part_of(place.granted, node.devices, node.cpu_milli)
                found[run.share] += part * Decimal(node.price_usd_per_hour) * Decimal(left_s) / 3600 * 1_000_000
    return found
