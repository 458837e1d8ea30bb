"""What the planner sees: nodes, queue, runs that hold something, shares and policy, in one consistent read."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, text

from mainspring.core.durations import believed, estimate, keys_of
from mainspring.core.ids import RunId
from mainspring.core.policy import Policy
from mainspring.core.records import AttemptState, Desired, Node, RunState
from mainspring.core.resources import Resources
from mainspring.core.shares import leaf_of
from mainspring.core.snapshot import Place, PlacedRun, Snapshot, WaitingRun
from mainspring.core.specs import RunSpec, ValueKind
from mainspring.core.waiting import expected_by_engine
from mainspring.store.columns import record_of
from mainspring.store.database import Database
from mainspring.store.datasets import kept_at_home
from mainspring.store.durations import insteads_of, medians_of
from mainspring.store.machines import (
    ask_machines_ahead,
    bursting,
    is_renting,
    machines_of,
    opened,
    rented_of,
    reserved_of,
    sites_of,
)
from mainspring.store.policies import current_policy
from mainspring.store.share_tables import policies
from mainspring.store.shares import all_reservations, ask_reservations_ahead, ask_shares_ahead, shares_of_projects
from mainspring.store.statements import Statement
from mainspring.store.states import Past, States, ask_states_ahead
from mainspring.store.tables import allocations, attempts, dataset_versions, nodes, replicas, runs, unadopted

_AT_ONCE = 500  # SQLite binds a limited number of values
_LATELY = 200  # runs that ended: what they read is believed to lie in the caches of their nodes still
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
    inputs: frozenset[str]
    data: frozenset[str]  # versions of data sets
    keys: tuple[str, ...]


@dataclass(slots=True)
class _Kept:
    """A record and all that it was made of: while that is equal, it is the same object (`scheduler.Planner` counts on it)."""

    rows: object
    around: object  # what is not in its own rows
    record: Any
    medians: object = None


@dataclass(slots=True)
class Snapshots:
    """Takes snapshots. Rows are read each time; what is made of them is kept until they change. Thread safe."""

    db: Database
    _known: dict[RunId, _Asked] = field(default_factory=dict)
    _waits: dict[RunId, _Kept] = field(default_factory=dict)
    _places: dict[RunId, _Kept] = field(default_factory=dict)
    _nodes: dict[str, _Kept] = field(default_factory=dict)
    _policy: _Kept = field(default_factory=lambda: _Kept(None, None, None))
    _states: States = field(default_factory=States)
    _medians: dict[str, float] = field(default_factory=dict)
    _asked_keys: set[str] = field(default_factory=set)
    _near: dict[str, frozenset[str]] | None = None  # nodes by version of a data set; None: to be read
    _insteads: dict[int, float] | None = None  # of classes of estimates that say nothing; None: to be read
    _learned_s: float = -math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, now: datetime, *, limit: int | None = None, each: int | None = None, age_s: float = 0.0) -> Snapshot:
        """Return the world of one instant: the first `limit` queued runs in line, or the first `each` of each person's.

        Past use and believed durations may be `age_s` old: they move with each breath, and slowly.
        """

        def ask(conn: Connection) -> Snapshot:
            _ask_ahead(conn, now)
            policy = self._policy_now(conn)
            rented = machines_of(conn)
            rents = sites_of(conn)
            nodes = opened(rented, self._nodes_now(conn), rents)
            share_of = shares_of_projects(conn)
            if self._insteads is None:
                self._insteads = insteads_of(conn, policy)
            at_home = kept_at_home(conn, policy.burst.home_data) if rents else frozenset()
            overdue = frozenset(run for (run,) in _OVERDUE.stored(conn)) if rents else frozenset()
            waiting = self._waiting(conn, share_of, _queued(conn, limit, each), bursting(rented), at_home, overdue)
            placed = self._placed(conn, share_of, at_home)
            past = Past(now=now, at_s=at_s, age_s=age_s)
            return Snapshot(
                now=now,
                nodes=nodes,
                waiting=waiting,
                placed=placed,
                policy=policy,
                shares=self._states.take(conn, past, policy, nodes, placed, reserved_of(rented, now)),
                reservations=tuple(all_reservations(conn, now)),
                sites=tuple(rents),
                rented=rented_of(rented),
                budget_usd=policy.burst.budget_usd,
            )

        at_s = self.db.clock.monotonic()
        with self._lock:
            if at_s - self._learned_s >= age_s:
                self._medians, self._asked_keys, self._learned_s = {}, set(), at_s
                self._near = self._insteads = None
            return self.db.read(ask)

    def is_due(self) -> bool:
        """Say whether anything waits or is rented: if not there is nothing to plan, and no need to read the world."""
        return self.db.read(_is_due)

    def _policy_now(self, conn: Connection) -> Policy:
        rows = _POLICIES.stored(conn)
        if self._policy.rows != rows:
            self._policy = _Kept(rows, None, current_policy(conn).policy)
        policy: Policy = self._policy.record
        return policy

    def _nodes_now(self, conn: Connection) -> list[Node]:
        known, self._nodes = self._nodes, {}
        for row in _NODES.stored(conn):
            kept = known.get(row[0])
            if kept is None or kept.rows != row:
                kept = _Kept(row, None, record_of(Node, nodes, _NODES.read(conn, row)))
            self._nodes[row[0]] = kept
        return [kept.record for kept in self._nodes.values()]

    def _waiting(
        self,
        conn: Connection,
        share_of: Mapping[str, str],
        rows: Sequence[tuple[Any, ...]],
        coming: frozenset[RunId],
        at_home: frozenset[str],
        overdue: frozenset[RunId],
    ) -> tuple[WaitingRun, ...]:
        self._ask(conn, rows)
        self._learn(conn, rows)
        unconfirmed = {run for one in (_OPEN_RUNS, _UNADOPTED) for (run,) in one.stored(conn)}
        leaves: dict[tuple[str, str], str] = {}
        found: list[WaitingRun] = []
        for row in rows:
            id, owner, project = row[:3]
            leaf = leaves.get((project, owner))
            if leaf is None:
                leaf = leaves[project, owner] = leaf_of(share_of.get(project, ""), owner)
            around = (
                leaf,
                id in coming,
                id in unconfirmed,
                id in overdue or bool(at_home and at_home & self._known[id].inputs),
                self._data_on(conn, id),
            )
            kept = self._waits.get(id)
            if kept is None or kept.rows != row or kept.around != around:
                run = self._wait(_QUEUED.read(conn, row), *around)
                kept = self._waits[id] = _Kept(row, around, run, self._medians)
            elif kept.medians is not self._medians:
                estimate_s = self._estimate_s(self._known[id])
                if estimate_s != kept.record.estimate_s:
                    kept.record = replace(kept.record, estimate_s=estimate_s)
                kept.medians = self._medians
            found.append(kept.record)
        if len(self._waits) > len(found) + _KEPT:
            self._waits = {row[0]: self._waits[row[0]] for row in rows}
            self._known = {id: self._known[id] for id in self._waits}
        return tuple(found)

    def _wait(
        self,
        row: Mapping[str, Any],
        leaf: str,
        is_bursting: bool,
        is_unconfirmed: bool,
        is_at_home: bool,
        data_on: tuple[str, ...],
    ) -> WaitingRun:
        spec = self._known[row["id"]]
        return WaitingRun(
            id=row["id"],
            owner=row["owner"],
            project=row["project"],
            seq=row["seq"],
            priority=row["priority"],
            submitted_at=row["created_at"],
            resources=spec.resources,
            replicas=spec.replicas,
            version=row["version"],
            share=leaf,
            estimate_s=self._estimate_s(spec),
            alternatives=spec.alternatives,
            min_replicas=spec.min_replicas,
            same=spec.same,
            data_on=data_on,
            data_bytes=spec.data_bytes,
            sites=() if is_at_home else None,
            nominated=row["nominated"] or (),
            is_held=row["desired"] is not Desired.RUN,
            is_preemptible=spec.is_preemptible,
            is_bursting=is_bursting,
            not_before=row["not_before"],
            is_unconfirmed=is_unconfirmed,
            avoid=row["avoid"],
        )

    def _data_on(self, conn: Connection, run: RunId) -> tuple[str, ...]:
        """Return the nodes on which runs ended lately that read all the data sets of this one."""
        data = self._known[run].data
        if not data:
            return ()
        if self._near is None:
            rows = conn.execute(_ENDED).tuples().all()
            self._ask(conn, rows)
            found: dict[str, set[str]] = defaultdict(set)
            for id, _, _, node in rows:
                for digest in self._known[id].data:
                    found[digest].add(node)
            self._near = {digest: frozenset(nodes) for digest, nodes in found.items()}
        return tuple(sorted(frozenset.intersection(*(self._near.get(one, frozenset()) for one in data))))

    def _estimate_s(self, spec: _Asked) -> float:
        return believed(estimate(spec.keys, self._medians, spec.timeout_s), self._insteads or {}, spec.timeout_s)

    def _placed(self, conn: Connection, share_of: Mapping[str, str], at_home: frozenset[str]) -> tuple[PlacedRun, ...]:
        grouped: dict[RunId, list[tuple[Any, ...]]] = defaultdict(list)
        for row in _HELD.stored(conn):
            grouped[row[0]].append(row)
        self._ask(conn, [rows[0] for rows in grouped.values()])
        known, self._places = self._places, {}
        for id, rows in grouped.items():
            leaf = leaf_of(share_of.get(rows[0][2], ""), rows[0][1])
            sites = () if at_home and at_home & self._known[id].inputs else None
            kept = known.get(id)
            if kept is None or kept.rows != rows or kept.around != (leaf, sites):
                held = _hold([_HELD.read(conn, row) for row in rows], self._known[id], leaf)
                kept = _Kept(rows, (leaf, sites), replace(held, sites=sites))
            told_s = rows[0][_TOLD]
            estimate_s = believed(told_s, self._insteads or {}, self._known[id].timeout_s)
            if estimate_s != kept.record.estimate_s:
                kept.record = replace(kept.record, estimate_s=estimate_s)
            self._places[id] = kept
        return tuple(kept.record for kept in self._places.values())

    def _ask(self, conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Decode the specifications that are not known yet."""
        missing = {row[0]: row for row in rows if row[0] not in self._known}
        ids = list(missing)
        for start in range(0, len(ids), _AT_ONCE):
            some = select(runs.c.id, runs.c.spec).where(runs.c.id.in_(ids[start : start + _AT_ONCE]))
            found = conn.execute(some).tuples().all()
            sizes = _sizes(conn, [spec for _, spec in found])
            for id, spec in found:
                self._known[id] = _asked(spec, missing[id][2], missing[id][1], sizes)

    def _learn(self, conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Read the medians of kinds that were not asked for since the medians were forgotten."""
        new = {row[0] for row in rows if (kept := self._waits.get(row[0])) is None or kept.medians is not self._medians}
        wanted = {key for id in new for key in self._known[id].keys} - self._asked_keys
        if wanted:
            self._medians.update(medians_of(conn, wanted))
            self._asked_keys |= wanted


def _hold(rows: Sequence[Mapping[str, Any]], spec: _Asked, leaf: str) -> PlacedRun:
    first = rows[0]
    return PlacedRun(
        id=first["id"],
        owner=first["owner"],
        project=first["project"],
        priority=first["priority"],
        seq=first["seq"],
        since=first["opened_at"],
        is_preemptible=spec.is_preemptible,
        places=tuple(Place(replica=row["replica"], node=row["node"], granted=row["granted"]) for row in rows),
        version=first["version"],
        resources=spec.resources,
        same=spec.same,
        submitted_at=first["created_at"],
        share=leaf,
        estimate_s=first["estimate_s"],
        checkpointed_at=first["checkpoint_at"],
        is_stopping=first["stop_cause"] is not None,
        begins_at=expected_by_engine(first["reason"]),
    )


_TOLD = 8  # `estimate_s` among the columns of `_HELD`
_LINE = select(
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

_HELD = Statement(
    select(
        runs.c.id,
        runs.c.owner,
        runs.c.project,
        runs.c.priority,
        runs.c.seq,
        runs.c.version,
        runs.c.created_at,
        runs.c.reason,
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


_IN_LINE = _LINE.order_by(runs.c.priority.desc(), runs.c.seq)
_QUEUED = Statement(_IN_LINE.limit(bindparam("most")))
_COLUMNS = ", ".join(f"runs.{one.name}" for one in _LINE.selected_columns)
# The first of each person, by way of the index of queued runs: with a window function all of a long queue is numbered first.
_FIRST = Statement(
    text(
        f"""
        WITH RECURSIVE person AS (
            (SELECT project, owner FROM runs WHERE state = 'queued' ORDER BY project, owner LIMIT 1)
            UNION ALL
            SELECT later.project, later.owner FROM person CROSS JOIN LATERAL (
                SELECT project, owner FROM runs
                WHERE state = 'queued' AND (project, owner) > (person.project, person.owner)
                ORDER BY project, owner LIMIT 1
            ) AS later
        )
        SELECT {_COLUMNS} FROM person CROSS JOIN LATERAL (
            SELECT * FROM runs AS mine
            WHERE mine.state = 'queued' AND mine.project = person.project AND mine.owner = person.owner
            ORDER BY mine.priority DESC, mine.seq LIMIT :each
        ) AS runs
        ORDER BY runs.priority DESC, runs.seq
        """  # noqa: S608 - names of columns alone
    ).columns(*_LINE.selected_columns)
)
# The same for SQLite, which knows no LATERAL. CROSS JOIN: for each person, in this order.
_FIRST_ON_SQLITE = Statement(
    text(
        f"""
        SELECT {_COLUMNS}
        FROM (SELECT DISTINCT project, owner FROM runs INDEXED BY ix_runs_queued WHERE state = 'queued') AS person
        CROSS JOIN runs ON runs.id IN (
            SELECT mine.id FROM runs AS mine INDEXED BY ix_runs_queued
            WHERE mine.state = 'queued' AND mine.project = person.project AND mine.owner = person.owner
            ORDER BY mine.priority DESC, mine.seq LIMIT :each
        )
        ORDER BY runs.priority DESC, runs.seq
        """  # noqa: S608 - names of columns alone
    ).columns(*_LINE.selected_columns)
)
_ALL = 1 << 62
_ENDED = (
    select(runs.c.id, runs.c.owner, runs.c.project, replicas.c.node)
    .join_from(runs, attempts, (attempts.c.run == runs.c.id) & (attempts.c.number == runs.c.attempt))
    .join(replicas, replicas.c.attempt == attempts.c.id)
    .where(runs.c.state == RunState.SUCCEEDED)
    .order_by(runs.c.seq.desc())
    .limit(_LATELY)
)
_ANY_WAITS = Statement(select(runs.c.id).where(runs.c.state == RunState.QUEUED).limit(1))
_OPEN_RUNS = Statement(select(attempts.c.run).where(attempts.c.state != AttemptState.ENDED))
_OVERDUE = Statement(  # runs that left a paid site because they outlived what was reserved for them: they go to none again
    select(attempts.c.run)
    .join_from(runs, attempts, attempts.c.run == runs.c.id)
    .where(runs.c.state == RunState.QUEUED, runs.c.attempt > 0, attempts.c.stop_for == runs.c.id)
    .distinct()
)
_UNADOPTED = Statement(select(unadopted.c.run))
_NODES = Statement(select(nodes).order_by(nodes.c.id))
_POLICIES = Statement(select(policies.c.number, policies.c.policy).order_by(policies.c.number.desc()).limit(8))


def _ask_ahead(conn: Connection, now: datetime) -> None:
    """Ask in one go for all that a snapshot reads, but for what depends on it."""
    ask_machines_ahead(conn)
    ask_shares_ahead(conn)
    ask_states_ahead(conn)
    ask_reservations_ahead(conn, now)
    for one in (_POLICIES, _NODES, _OPEN_RUNS, _UNADOPTED, _HELD):
        one.ahead(conn)


def _is_due(conn: Connection) -> bool:
    _ANY_WAITS.ahead(conn)
    return is_renting(conn) or bool(_ANY_WAITS.stored(conn))


def _queued(conn: Connection, limit: int | None, each: int | None) -> list[tuple[Any, ...]]:
    if each is None:
        return _QUEUED.stored(conn, {"most": _ALL if limit is None else limit})
    return (_FIRST_ON_SQLITE if conn.dialect.name == "sqlite" else _FIRST).stored(conn, {"each": each})


def _sizes(conn: Connection, specs: Sequence[RunSpec]) -> dict[str, int]:
    """Return how large the data sets are that runs get by reference alone."""
    digests = sorted({one.digest for spec in specs for one in spec.args.values() if one.digest and not one.size_bytes})
    sizes: dict[str, int] = {}
    for start in range(0, len(digests), _AT_ONCE):
        some = dataset_versions.c.manifest.in_(digests[start : start + _AT_ONCE])
        asked = select(dataset_versions.c.manifest, dataset_versions.c.size_bytes).where(some)
        sizes |= {manifest: int(size) for manifest, size in conn.execute(asked).tuples()}
    return sizes


def _asked(spec: RunSpec, project: str, owner: str, sizes: Mapping[str, int]) -> _Asked:
    return _Asked(
        resources=spec.resources,
        replicas=spec.replicas,
        alternatives=spec.alternatives,
        min_replicas=spec.min_replicas,
        same=spec.same,
        is_preemptible=spec.is_preemptible,
        timeout_s=spec.timeout_s,
        data_bytes=sum(value.size_bytes or sizes.get(value.digest, 0) for value in spec.args.values()),
        inputs=frozenset(value.digest for value in spec.args.values() if value.digest),
        data=frozenset(value.digest for value in spec.args.values() if value.digest and value.kind is ValueKind.DATASET),
        keys=keys_of(project, owner, spec),
    )
