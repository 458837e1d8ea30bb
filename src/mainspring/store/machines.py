"""Rented machines. Money is reserved in the transaction that writes the intent, under one lock: budgets hold for all at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from mainspring.core.budgets import MICROS, left_of, up_the_tree
from mainspring.core.errors import CapacityError, StateError
from mainspring.core.ids import RunId
from mainspring.core.machines import (
    Machine,
    MachineOffer,
    MachineState,
    cooldown_s,
    cost_micros,
    costs,
    empty_machine,
    left_micros,
    paid_until,
    site_name,
)
from mainspring.core.records import Cause, Cluster, Desired, Node, NodeState, Run, RunState
from mainspring.core.shares import leaf_of, path_of
from mainspring.core.snapshot import Decision, Place, Rented, Site
from mainspring.core.usage import usd
from mainspring.store.attempts import stop_attempt
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.machine_tables import machines, sites
from mainspring.store.nodes import load_node
from mainspring.store.policies import current_policy
from mainspring.store.runs import load_run
from mainspring.store.shares import all_shares, shares_of_projects
from mainspring.store.statements import Statement
from mainspring.store.tables import allocations, nodes, runs
from mainspring.store.usage import book_cost, spent_of

TOPIC = "machines"
_OPEN = machines.c.ended_at.is_(None)
_ALL_OPEN = Statement(select(machines).where(_OPEN).order_by(machines.c.asked_at, machines.c.id))
_ANY_READY = Statement(select(machines.c.id).where(_OPEN, machines.c.state == MachineState.READY).limit(1))
_SITES = Statement(select(sites).order_by(sites.c.name))
_COMING = (MachineState.ASKED, MachineState.RENTED)


class Machines:
    """Reads and writes of rented machines and of their sites."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def open(self, cluster: str = "") -> list[Machine]:
        """Return the machines that are not seen to be gone, in the order in which they were asked for."""
        return self._db.read(lambda conn: _open(conn, cluster))

    def page(self, limit: int = 200) -> list[Machine]:
        """Return the machines that were asked for last, the newest first."""
        asked = select(machines).order_by(machines.c.asked_at.desc(), machines.c.id).limit(limit)
        return self._db.read(lambda conn: [_machine(row) for row in conn.execute(asked).mappings()])

    def sites(self) -> list[Site]:
        """Return the sites by name."""
        return self._db.read(sites_of)

    def offer(self, cluster: Cluster, offers: Sequence[MachineOffer]) -> None:
        """Write what a cluster rents out now; what was known of failures stays."""
        self._db.write(lambda tx: _offer(tx, cluster, offers))

    def ask(self, decision: Decision, *, now: datetime, actor: str = "scheduler") -> None:
        """Carry out a BURST: see `ask_machines`."""
        self._db.write(lambda tx: ask_machines(tx, decision, now=now, actor=actor))

    def rented(self, machine: Machine, *, now: datetime) -> bool:
        """Record that the site has taken the order; False if something else is wanted of it by now."""
        event = _said("machine.rented", machine)
        changes = {"state": MachineState.RENTED, "rented_at": now}
        return self._db.write(lambda tx: _move(tx, machine, changes, event))

    def found(self, machine: Machine, *, now: datetime) -> bool:
        """Record that the site had taken an order that is to end: what it cost is owed."""
        return self._db.write(lambda tx: _move(tx, machine, {"rented_at": now}, None))

    def ready(self, asked: Sequence[Machine], places: Sequence[Place], *, now: datetime) -> bool:
        """Open the machines of one run to the queue, their places kept for that run if it still waits and fits there."""

        def work(tx: Transaction) -> bool:
            for one in asked:
                if not _move(
                    tx, one, {"state": MachineState.READY, "ready_at": now, "idle_since": now}, _said("machine.ready", one)
                ):
                    raise StateError(f"Machine {one.id} is wanted otherwise by now.")
                succeeded = update(sites).where(sites.c.name == one.site)
                tx.conn.execute(succeeded.values(failures=0, cooldown_until=None))
            if places:
                waits = update(runs).where(runs.c.id == asked[0].run, runs.c.state == RunState.QUEUED)
                tx.conn.execute(waits.values(nominated=tuple(places), version=runs.c.version + 1))
            tx.topics.update(("nodes", "runs"))
            return True

        try:
            return self._db.write(work)
        except StateError:
            return False

    def prolong(self, machine: Machine, *, now: datetime) -> bool:
        """Reserve half as much again, and move the machine's end as far; False if a budget does not cover it."""
        return self._db.write(lambda tx: _prolong(tx, machine, now))

    def clear(self, machine: Machine, *, now: datetime) -> int:
        """Place nothing more on the machine and ask what runs there to stop; return how many attempts that are."""
        return self._db.write(lambda tx: _clear(tx, machine, now))

    def mark_idle(self, machine: Machine, since: datetime | None) -> bool:
        """Record since when nothing runs on the machine (None: something does)."""
        return self._db.write(lambda tx: _move(tx, machine, {"idle_since": since}, None, "nodes"))

    def give_back(self, machine: Machine, message: str = "", *, actor: str = "system", is_failed: bool = False) -> bool:
        """Want the machine to end; False while something runs there, or if it was changed. A failed one lets its site rest."""

        def work(tx: Transaction) -> bool:
            if is_failed:
                _rest(tx, machine.site)
            return _give_back(tx, machine, message, actor)

        return self._db.write(work)

    def ended(self, machine: Machine, *, now: datetime, message: str = "") -> bool:
        """Record that the machine is gone: what it cost is final, what was reserved is free, its node is forgotten."""

        def work(tx: Transaction) -> bool:
            changes = {"state": MachineState.ENDED, "ended_at": now, "message": message or machine.message}
            done = replace(machine, ended_at=now)
            event = _said("machine.ended", machine, message=message, cost_usd=usd(cost_micros(done, now)))
            if not _move(tx, machine, changes, event, "nodes"):
                return False
            for month, micros in costs(done, now):
                book_cost(tx.conn, (month, machine.share, machine.project, machine.owner), micros)
            if not _is_held(tx.conn, machine.id):
                tx.conn.execute(delete(nodes).where(nodes.c.id == machine.id))
            return True

        return self._db.write(work)


# --- within a transaction -----------------------------------------------------------------------------------------------


def ask_machines(tx: Transaction, decision: Decision, *, now: datetime, actor: str) -> None:
    """Write that machines are wanted for a run, and reserve what they may cost: all or nothing.

    Who writes has the database to itself: what is checked here (budgets, the number at the site, GPUs rented in all, one
    request for each run) still holds when it is written. Raises StateError for a run that changed, CapacityError where
    something is used up.
    """
    run = load_run(tx.conn, decision.run)
    if run is None or run.version != decision.version or run.state is not RunState.QUEUED or run.desired is not Desired.RUN:
        raise StateError(f"Run {decision.run} was changed since it was planned.")
    row = tx.conn.execute(select(sites).where(sites.c.name == decision.site)).mappings().one_or_none()
    if row is None:
        raise CapacityError(f"There is no site {decision.site}.")
    wanted = _wanted(tx, decision, run, row, now)
    _check_room(tx.conn, decision, wanted, row, now)
    tx.conn.execute(insert(machines), [values_of(one, machines) for one in wanted])
    waits = update(runs).where(runs.c.id == run.id, runs.c.version == run.version)
    if tx.conn.execute(waits.values(reason=decision.reason, version=run.version + 1, nominated=None)).rowcount == 0:
        raise StateError(f"Run {run.id} was changed while machines were asked for.")
    facts: dict[str, object] = {"site": decision.site, "cost_usd": decision.cost_usd, "run": run.id}
    for one in wanted:
        tx.tell(NewEvent(actor, "machine.asked", one.id, run.project, facts), TOPIC, "runs")


def release_machine(tx: Transaction, node: str, *, actor: str) -> bool:
    """Want the machine behind a node to end; False if something runs there, or it is no machine any more."""
    row = (
        tx.conn.execute(select(machines).where(machines.c.id == node, machines.c.state == MachineState.READY)).mappings().first()
    )
    return row is not None and _give_back(tx, _machine(row), "", actor)


def ask_machines_ahead(conn: Connection) -> None:
    """Ask ahead for `machines_of` and `sites_of`."""
    _ALL_OPEN.ahead(conn)
    _SITES.ahead(conn)


def sites_of(conn: Connection) -> list[Site]:
    """Return what the planner sees of the sites, by name."""
    rows = _SITES.rows(conn)
    if not rows:
        return []
    counted = select(machines.c.site, func.count()).where(_OPEN).group_by(machines.c.site)
    running = {site: int(count) for site, count in conn.execute(counted).tuples()}
    return [
        Site(
            name=row["name"],
            machine=row["machine"],
            max_machines=row["max_machines"],
            running=running.get(row["name"], 0),
            ready_s=row["ready_s"],
            bytes_per_s=row["bytes_per_s"],
            cooldown_until=row["cooldown_until"],
        )
        for row in rows
    ]


def machines_of(conn: Connection) -> list[Machine]:
    """Return the open machines of all clusters."""
    return _open(conn, "")


def is_renting(conn: Connection) -> bool:
    """Say whether any machine takes runs: sooner or later it is to go home."""
    return bool(_ANY_READY.stored(conn))


def rented_of(found: Sequence[Machine]) -> tuple[Rented, ...]:
    """Return those of the machines that take runs, as the planner sees them."""
    return tuple(
        Rented(node=one.id, site=one.site, born_at=one.ready_at or one.asked_at, idle_since=one.idle_since, ends_at=one.ends_at)
        for one in found
        if one.state is MachineState.READY
    )


def opened(found: Sequence[Machine], known: Sequence[Node], rents: Sequence[Site]) -> tuple[Node, ...]:
    """Return the nodes without machines that do not take runs yet, or no more, or that no row knows: no place for anybody."""
    if not rents and not found:
        return tuple(known)
    ready = {one.id for one in found if one.state is MachineState.READY}
    shut = {one.id for one in found} - ready
    paid = {site.machine.cluster for site in rents}
    return tuple(node for node in known if node.id in ready or not (node.id in shut or node.cluster in paid))


def bursting(found: Sequence[Machine]) -> frozenset[RunId]:
    """Return the runs for which a machine was asked that has not come yet."""
    return frozenset(one.run for one in found if one.state in _COMING)


def reserved_of(found: Sequence[Machine], now: datetime) -> dict[str, Decimal]:
    """Return what the machines may still cost, by leaf, in millionths of a dollar."""
    left: dict[str, Decimal] = defaultdict(Decimal)
    for one in found:
        left[one.share] += left_micros(one, now)
    return dict(left)


def _open(conn: Connection, cluster: str) -> list[Machine]:
    found = _ALL_OPEN.rows(conn)
    return [_machine(row) for row in found if not cluster or row["cluster"] == cluster]


def _wanted(tx: Transaction, decision: Decision, run: Run, site: Mapping[Any, Any], now: datetime) -> list[Machine]:
    each = int(Decimal(decision.cost_usd or "0") * MICROS) // max(1, decision.machines)
    price = _price(site)
    share = leaf_of(shares_of_projects(tx.conn, [run.project]).get(run.project, ""), run.owner)
    return [
        Machine(
            id=tx.ids.new("machine"),
            cluster=site["cluster"],
            site=site["name"],
            offer=site["offer"],
            run=run.id,
            project=run.project,
            owner=run.owner,
            share=share,
            asked_at=now,
            ends_at=paid_until(now, price, each),
            price_usd_per_hour=price,
            reserved_micros=each,
            gpus=len(site["machine"].devices),
        )
        for _ in range(max(1, decision.machines))
    ]


def _check_room(conn: Connection, decision: Decision, wanted: Sequence[Machine], site: Mapping[Any, Any], now: datetime) -> None:
    found = machines_of(conn)
    if any(one.run == decision.run and one.state in _COMING for one in found):
        raise StateError(f"Machines were asked for run {decision.run} already.")
    if sum(one.site == decision.site for one in found) + len(wanted) > site["max_machines"]:
        raise CapacityError(f"Site {decision.site} has no more than {site['max_machines']} machines.")
    policy = current_policy(conn).policy.burst
    if sum(one.gpus for one in (*found, *wanted)) > policy.max_gpus:
        raise CapacityError(f"{policy.max_gpus} GPUs are the most that may be rented at one time.")
    cost = sum(Decimal(one.reserved_micros) for one in wanted) / MICROS
    left = budgets_left(conn, found, now, policy.budget_usd)
    for name in path_of(wanted[0].share):
        if name in left and cost > left[name]:
            raise CapacityError(f"{cost} USD are more than the {left[name]} USD that are left to share {name or 'all'}.")


def budgets_left(conn: Connection, found: Sequence[Machine], now: datetime, total_usd: str) -> dict[str, Decimal]:
    """Return what is left of each budget, by share, the root's for all; `found` are the open machines."""
    gone: dict[str, Decimal] = defaultdict(Decimal)
    for leaf, micros in spent_of(conn, now).items():
        gone[leaf] += Decimal(micros) / MICROS
    for leaf, left in reserved_of(found, now).items():
        gone[leaf] += left / MICROS
    return left_of({share.name: share.budget_usd for share in all_shares(conn)}, up_the_tree(gone), total_usd)


def _price(site: Mapping[Any, Any]) -> str:
    machine: Node = site["machine"]
    return machine.price_usd_per_hour


def _offer(tx: Transaction, cluster: Cluster, offers: Sequence[MachineOffer]) -> None:
    asked = select(sites).where(sites.c.cluster == cluster.id)
    known = {row["name"]: dict(row) for row in tx.conn.execute(asked).mappings()}
    for one in offers:
        name = site_name(cluster, one)
        row = {
            "cluster": cluster.id,
            "offer": one.name,
            "region": one.region,
            "max_machines": one.limit,
            "ready_s": one.ready_s,
            "bytes_per_s": one.bytes_per_s,
            "machine": replace(empty_machine(name, cluster, one), price_usd_per_hour=one.price_usd_per_hour),
        }
        old = known.pop(name, None)
        if old is None:
            tx.conn.execute(insert(sites), row | {"name": name})
        elif row.items() <= old.items():
            continue
        else:
            tx.conn.execute(update(sites).where(sites.c.name == name).values(**row))
        tx.topics.add("nodes")
    for name in known:  # what is still rented there goes on: its row says all that is needed to end it
        tx.conn.execute(delete(sites).where(sites.c.name == name))


def _rest(tx: Transaction, site: str) -> None:
    row = tx.conn.execute(select(sites).where(sites.c.name == site)).mappings().one_or_none()
    if row is not None:
        until = tx.clock.now() + timedelta(seconds=cooldown_s(row["failures"]))
        tx.conn.execute(update(sites).where(sites.c.name == site).values(failures=row["failures"] + 1, cooldown_until=until))


def _give_back(tx: Transaction, machine: Machine, message: str, actor: str) -> bool:
    if not _shut(tx, machine.id):
        return False
    changes = {"state": MachineState.ENDING, "message": message}
    return _move(tx, machine, changes, replace(_said("machine.ending", machine, message=message), actor=actor), "nodes")


def _prolong(tx: Transaction, machine: Machine, now: datetime) -> bool:
    more = machine.reserved_micros // 2
    left = budgets_left(tx.conn, machines_of(tx.conn), now, current_policy(tx.conn).policy.burst.budget_usd)
    if any(name in left and Decimal(more) / MICROS > left[name] for name in path_of(machine.share)):
        return False
    changes = {
        "reserved_micros": machine.reserved_micros + more,
        "ends_at": machine.ends_at + (machine.ends_at - machine.asked_at) / 2,
    }
    return _move(tx, machine, changes, _said("machine.prolonged", machine, cost_usd=usd(more)))


def _clear(tx: Transaction, machine: Machine, now: datetime) -> int:
    drained = update(nodes).where(nodes.c.id == machine.id, nodes.c.state == NodeState.READY)
    tx.conn.execute(drained.values(state=NodeState.DRAINING, version=nodes.c.version + 1))
    held = select(allocations.c.attempt, allocations.c.run).where(
        allocations.c.node == machine.id, allocations.c.freed_at.is_(None)
    )
    found = sorted(set(tx.conn.execute(held).tuples()))
    for attempt, run_id in found:
        run = load_run(tx.conn, run_id)
        grace_s = run.spec.grace_s if run is not None else 10.0
        facts: dict[str, object] = {"run": run_id, "cause": Cause.PREEMPTED, "grace_s": grace_s, "rule": "machine_ends"}
        event = NewEvent("system", "attempt.stop_asked", attempt, machine.project, facts)
        stop_attempt(tx, attempt, Cause.PREEMPTED, stop_by=now + timedelta(seconds=grace_s), event=event)
        tx.topics.add(f"attempt:{attempt}")
    tx.topics.add("nodes")
    return len(found)


def _shut(tx: Transaction, id: str) -> bool:
    """Let nothing more be placed on the node, unless something is there: its row's version is the guard of both."""
    node = load_node(tx.conn, id)
    if node is None:
        return True
    if _is_held(tx.conn, id):
        return False
    same = (nodes.c.id == id) & (nodes.c.version == node.version)
    drained = update(nodes).where(same).values(state=NodeState.DRAINING, version=node.version + 1)
    return tx.conn.execute(drained).rowcount == 1


def _is_held(conn: Connection, id: str) -> bool:
    held = select(allocations.c.id).where(allocations.c.node == id, allocations.c.freed_at.is_(None)).limit(1)
    return conn.execute(held).first() is not None


def _move(tx: Transaction, machine: Machine, changes: Mapping[str, object], event: NewEvent | None, *topics: str) -> bool:
    same = (machines.c.id == machine.id) & (machines.c.version == machine.version)
    if tx.conn.execute(update(machines).where(same).values(**changes, version=machine.version + 1)).rowcount == 0:
        return False
    tx.tell(event, TOPIC, *topics)
    return True


def _said(kind: str, machine: Machine, **facts: object) -> NewEvent:
    return NewEvent("system", kind, machine.id, machine.project, {"site": machine.site, "run": machine.run, **facts})


def _machine(row: Mapping[Any, Any]) -> Machine:
    return record_of(Machine, machines, row)
