"""Nodes and what their open allocations hold. Every change of what is held is a compare-and-set on the node's version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from mainspring.core.actors import SYSTEM
from mainspring.core.errors import CapacityError, NotFoundError, StaleWriteError
from mainspring.core.health import changes
from mainspring.core.records import Allocation, Node, NodeState, Symptom, SymptomKind
from mainspring.core.resources import GPU_MILLI, DeviceShare, Granted
from mainspring.core.silence import listed, sighted
from mainspring.store.columns import changes_of, record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.health import forget_failures
from mainspring.store.machine_tables import machines
from mainspring.store.statements import Listed, Statement
from mainspring.store.tables import allocations, nodes, replicas

_CAS_TRIES = 50


class Nodes:
    """Reads and writes of nodes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def upsert(self, cluster: str, found: Sequence[Node], *, now: datetime, event: NewEvent | None = None) -> list[Node]:
        """Write what an inventory found; what is held stays as it is. Nodes that it did not find stay: see `retire`.

        A node that could not be reached is READY again, unless nobody knows yet how a replica there is.
        """
        return self._db.write(lambda tx: [_upsert(tx, replace(node, cluster=cluster), now, event) for node in found])

    def all(self, cluster: str = "") -> list[Node]:
        """Return the nodes, by cluster and name."""
        return [_node(row) for row in (self._db.ask(_OF, {"of": cluster}) if cluster else self._db.ask(_ALL))]

    def get(self, id: str) -> Node | None:
        """Return the node with this id."""
        return self._db.read(lambda conn: load_node(conn, id))

    def open_allocations(self) -> list[Allocation]:
        """Return what is held now, oldest first."""
        asked = select(allocations).where(allocations.c.freed_at.is_(None)).order_by(allocations.c.opened_at, allocations.c.id)
        return self._db.read(lambda conn: [record_of(Allocation, allocations, row) for row in conn.execute(asked).mappings()])

    def allocations_since(self, moment: datetime, *, limit: int = 20_000) -> list[Allocation]:
        """Return the allocations that held something after `moment`, the newest `limit` of them."""
        asked = select(allocations).where(allocations.c.freed_at.is_(None) | (allocations.c.freed_at > moment))
        newest = asked.order_by(allocations.c.opened_at.desc(), allocations.c.id).limit(limit)
        rows = self._db.read(lambda conn: conn.execute(newest).mappings().all())
        return [record_of(Allocation, allocations, row) for row in rows]

    def set_state(self, id: str, state: NodeState, *, event: NewEvent | None = None) -> Node:
        """Change what the node takes. Raises NotFoundError."""

        def work(tx: Transaction) -> Node:
            for _ in range(_CAS_TRIES):
                node = load_node(tx.conn, id)
                if node is None:
                    raise NotFoundError(f"There is no node {id}.", hint="mainspring cluster ls shows the nodes.")
                if node.state is state:
                    return node
                new = replace(node, state=state, version=node.version + 1)
                if _save(tx, node, new):
                    tx.tell(event, "nodes")
                    return new
            raise StaleWriteError(f"Node {id} changes too fast.", hint="Try again.")

        return self._db.write(work)

    def settle(self, id: str, change: Callable[[Node], Node], *, actor: str = SYSTEM.name, is_anew: bool = False) -> Node:
        """Change why a node takes nothing, by a pure function of its row; what changes is told in events.

        With `is_anew` the launches that failed there are counted from now on. Raises NotFoundError.
        """

        def work(tx: Transaction) -> Node:
            for _ in range(_CAS_TRIES):
                node = load_node(tx.conn, id)
                if node is None:
                    raise NotFoundError(f"There is no node {id}.", hint="mainspring cluster ls shows the nodes.")
                new = change(node)
                if is_anew:
                    forget_failures(tx, id)
                if new is node:
                    return node
                new = replace(new, version=node.version + 1)
                if _save(tx, node, new):
                    tx.topics.update({"nodes", "health"})
                    for kind, facts in changes(node, new):
                        tx.tell(NewEvent(actor, kind, id, "", facts), "nodes")
                    return new
            raise StaleWriteError(f"Node {id} changes too fast.", hint="Try again.")

        return self._db.write(work)

    def sight(self, id: str, *, is_reachable: bool, detail: str = "", event: NewEvent | None = None) -> bool:
        """Record whether the node answers; return whether that changed anything. An operator's word stands (`sighted`).

        `detail` is what its engine said of why not; it stays until the next look at the node.
        """

        def work(tx: Transaction) -> bool:
            for _ in range(_CAS_TRIES):
                node = load_node(tx.conn, id)
                if node is None:
                    return False
                state = sighted(node.state, is_reachable and not _is_silent(tx.conn, id))
                said = [one for one in node.symptoms if one.kind is not SymptomKind.ENGINE]
                symptoms = (*said, Symptom(kind=SymptomKind.ENGINE, detail=detail)) if detail else node.symptoms
                if state is node.state and symptoms == node.symptoms:
                    return False
                if _save(tx, node, replace(node, state=state, symptoms=symptoms, version=node.version + 1)):
                    tx.tell(event if state is not node.state else None, "nodes")
                    return True
            raise StaleWriteError(f"Node {id} changes too fast.", hint="Try again.")

        return self._db.write(work)

    def remove(self, id: str, *, event: NewEvent | None = None) -> bool:
        """Forget a node; False, and nothing done, while something is held there or nobody knows how a replica there is."""

        def work(tx: Transaction) -> bool:
            held = select(allocations.c.id).where(allocations.c.node == id, allocations.c.freed_at.is_(None)).limit(1)
            node = load_node(tx.conn, id)
            if node is None or tx.conn.execute(held).first() is not None or _is_silent(tx.conn, id):
                return False
            is_gone = tx.conn.execute(delete(nodes).where(nodes.c.id == id, nodes.c.version == node.version)).rowcount == 1
            if is_gone:
                tx.tell(event, "nodes")
            return is_gone

        return self._db.write(work)


# --- within a transaction -----------------------------------------------------------------------------------------------

# Made once: to build such a statement and to find what was compiled for it costs more than to run it.
_BY_ID = Statement(select(nodes).where(nodes.c.id == bindparam("of")))
_IN_ORDER = select(nodes).order_by(nodes.c.cluster, nodes.c.name, nodes.c.id)
_ALL = Statement(_IN_ORDER)
_OF = Statement(_IN_ORDER.where(nodes.c.cluster == bindparam("of")))
_SAME = update(nodes).where(nodes.c.id == bindparam("of"), nodes.c.version == bindparam("seen"))
_WHERE_SAME = Statement(_SAME)
_GIVEN = Statement(
    update(nodes)
    .where(nodes.c.id == bindparam("of"))
    .values(
        version=nodes.c.version + 1,
        used_cpu_milli=nodes.c.used_cpu_milli - bindparam("cpu"),
        used_memory_bytes=nodes.c.used_memory_bytes - bindparam("memory"),
        used_disk_bytes=nodes.c.used_disk_bytes - bindparam("disk"),
    )
)
_LOCKED = Listed(lambda ids: select(nodes).where(nodes.c.id.in_(ids)).order_by(nodes.c.id).with_for_update())
_HELD = Statement(
    _SAME.values(
        version=bindparam("next"),
        used_cpu_milli=bindparam("cpu"),
        used_memory_bytes=bindparam("memory"),
        used_disk_bytes=bindparam("disk"),
        used_devices=bindparam("shares"),
    )
)


def load_node(conn: Connection, id: str) -> Node | None:
    """Return the node with this id."""
    row = _BY_ID.row(conn, {"of": id})
    return None if row is None else _node(row)


def ask_nodes_ahead(conn: Connection, ids: Iterable[str]) -> None:
    """Ask ahead for `lock_nodes`."""
    _LOCKED.ahead(conn, sorted(ids))


def lock_nodes(conn: Connection, ids: Iterable[str]) -> dict[str, Node]:
    """Return those of the nodes `ids` that are there, in order of id, and let nobody else write them until the commit."""
    return {row["id"]: _node(row) for row in _LOCKED.rows(conn, sorted(ids))}


def save_held(tx: Transaction, changed: Sequence[tuple[Node, Node]]) -> None:
    """Write what each node holds: (as it was when it was locked, as it is with what is taken now)."""
    rows = [
        {
            "of": new.id,
            "seen": old.version,
            "next": old.version + 1,
            "cpu": new.used_cpu_milli,
            "memory": new.used_memory_bytes,
            "disk": new.used_disk_bytes,
            "shares": new.used_devices,
        }
        for old, new in changed
    ]
    _HELD.many(tx.conn, rows)
    tx.topics.add("nodes")


def hold(tx: Transaction, id: str, granted: Iterable[Granted]) -> Node:
    """Take `granted` on the node. Raises CapacityError when it is not ready or has not so much left."""
    wanted = list(granted)
    node = _change(tx, id, lambda node: with_more(node, wanted))
    if node is None:
        raise CapacityError(f"There is no node {id}.")
    return node


def free_all(tx: Transaction, given: Mapping[str, Sequence[Granted]]) -> None:
    """Give back what was granted on each node; a node that was removed holds nothing."""
    amounts: list[dict[str, object]] = []
    for id, granted in sorted(given.items()):
        if any(one.devices for one in granted):
            _change(tx, id, partial(_with_less, given=granted))
            continue
        amounts.append(
            {
                "of": id,
                "cpu": sum(one.cpu_milli for one in granted),
                "memory": sum(one.memory_bytes for one in granted),
                "disk": sum(one.disk_bytes for one in granted),
            }
        )
    _GIVEN.many(tx.conn, amounts)
    tx.topics.add("nodes")


def _change(tx: Transaction, id: str, change: Any) -> Node | None:
    for _ in range(_CAS_TRIES):
        node = load_node(tx.conn, id)
        if node is None:
            return None
        new: Node = replace(change(node), version=node.version + 1)
        if _save(tx, node, new):
            tx.topics.add("nodes")
            return new
    raise StaleWriteError(f"Node {id} changes too fast.", hint="Try again.")


def with_more(node: Node, wanted: Sequence[Granted], *, is_probe: bool = False) -> Node:
    """Return the node with `wanted` taken. Raises CapacityError when it is not ready or has not so much left.

    A probe goes to a node in quarantine too: it tells whether that may end.
    """
    if node.state is not NodeState.READY and not (is_probe and node.state is NodeState.QUARANTINED):
        raise CapacityError(f"Node {node.name} is {node.state}.")
    cpu = node.used_cpu_milli + sum(g.cpu_milli for g in wanted)
    memory = node.used_memory_bytes + sum(g.memory_bytes for g in wanted)
    disk = node.used_disk_bytes + sum(g.disk_bytes for g in wanted)
    devices = _shares(node)
    out = node.out()
    for granted in wanted:
        for share in granted.devices:
            if share.index in out:
                raise CapacityError(f"Device {share.index} of node {node.name} was taken out.")
            devices[share.index] = devices.get(share.index, 0) + share.milli
    known = {device.index for device in node.devices}
    is_over = cpu > node.cpu_milli or memory > node.memory_bytes or disk > node.disk_bytes
    if is_over or any(milli > GPU_MILLI or index not in known for index, milli in devices.items()):
        raise CapacityError(f"Node {node.name} has not so much left.")
    return _used(node, cpu, memory, disk, devices)


def _with_less(node: Node, given: Sequence[Granted]) -> Node:
    devices = _shares(node)
    for granted in given:
        for share in granted.devices:
            devices[share.index] = devices.get(share.index, 0) - share.milli
    return _used(
        node,
        node.used_cpu_milli - sum(g.cpu_milli for g in given),
        node.used_memory_bytes - sum(g.memory_bytes for g in given),
        node.used_disk_bytes - sum(g.disk_bytes for g in given),
        devices,
    )


def _shares(node: Node) -> dict[int, int]:
    return {share.index: share.milli for share in node.used_devices}


def _used(node: Node, cpu: int, memory: int, disk: int, devices: Mapping[int, int]) -> Node:
    shares = tuple(DeviceShare(index=index, milli=milli) for index, milli in sorted(devices.items()) if milli > 0)
    return replace(node, used_cpu_milli=cpu, used_memory_bytes=memory, used_disk_bytes=disk, used_devices=shares)


def _save(tx: Transaction, old: Node, new: Node) -> bool:
    row = changes_of(old, new, nodes)
    return _WHERE_SAME.run(tx.conn, row | {"of": old.id, "seen": old.version}) == 1


def _upsert(tx: Transaction, found: Node, now: datetime, event: NewEvent | None) -> Node:
    for _ in range(_CAS_TRIES):
        old = load_node(tx.conn, found.id)
        if old is None:
            fresh = replace(
                found, seen_at=now, version=1, used_cpu_milli=0, used_memory_bytes=0, used_disk_bytes=0, used_devices=()
            )
            tx.conn.execute(nodes.insert(), values_of(fresh, nodes))
            tx.tell(event, "nodes", "health")
            return fresh
        new = replace(
            found,
            state=listed(old, _told(tx.conn, found), is_rented=_is_rented(tx.conn, old)),
            used_cpu_milli=old.used_cpu_milli,
            used_memory_bytes=old.used_memory_bytes,
            used_disk_bytes=old.used_disk_bytes,
            used_devices=old.used_devices,
            closures=old.closures,
            seen_at=now,
            version=old.version,
        )
        if new == replace(old, seen_at=now):  # only seen again: no decision depends on it, the version stays
            tx.conn.execute(update(nodes).where(nodes.c.id == old.id).values(seen_at=now))
            return new
        new = replace(new, version=old.version + 1)
        if _save(tx, old, new):
            tx.tell(event, "nodes", "health")
            return new
    raise StaleWriteError(f"Node {found.id} changes too fast.", hint="Try again.")


def _told(conn: Connection, found: Node) -> NodeState:
    return NodeState.UNREACHABLE if found.state is NodeState.READY and _is_silent(conn, found.id) else found.state


def _is_rented(conn: Connection, node: Node) -> bool:
    """Say whether a node that drains is a rented machine, which drains when its rent ends."""
    mine = select(machines.c.id).where(machines.c.id == node.id)
    return node.state is NodeState.DRAINING and conn.execute(mine).first() is not None


def _is_silent(conn: Connection, id: str) -> bool:
    """Say whether nobody knows how some replica on the node is."""
    return (
        conn.execute(
            select(replicas.c.index).where(replicas.c.node == id, replicas.c.unknown_since.is_not(None)).limit(1)
        ).first()
        is not None
    )


def _node(row: Mapping[Any, Any]) -> Node:
    return record_of(Node, nodes, row)
