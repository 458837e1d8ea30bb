"""Clusters: registered compute targets."""

from __future__ import annotations

from sqlalchemy import delete, or_, select, update

from mainspring.core.backend import Probe
from mainspring.core.errors import ConflictError, StateError
from mainspring.core.records import Cluster
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.statements import Statement
from mainspring.store.tables import allocations, clusters, nodes

_ALL = Statement(select(clusters).order_by(clusters.c.name))


class Clusters:
    """Reads and writes of clusters."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, cluster: Cluster, *, event: NewEvent | None = None) -> Cluster:
        """Register a cluster. Raises ConflictError when the name is taken."""

        def work(tx: Transaction) -> Cluster:
            if tx.conn.execute(select(clusters.c.id).where(clusters.c.name == cluster.name)).first() is not None:
                raise ConflictError(f"There is a cluster {cluster.name!r} already.", hint="mainspring cluster ls")
            tx.conn.execute(clusters.insert(), values_of(cluster, clusters))
            tx.tell(event, "nodes")
            return cluster

        return self._db.write(work)

    def all(self) -> list[Cluster]:
        """Return the clusters by name."""
        return [record_of(Cluster, clusters, row) for row in self._db.ask(_ALL)]

    def get(self, ref: str) -> Cluster | None:
        """Return the cluster with this id or name."""
        asked = select(clusters).where(or_(clusters.c.id == ref, clusters.c.name == ref)).order_by(clusters.c.id != ref)
        row = self._db.read(lambda conn: conn.execute(asked).mappings().first())
        return None if row is None else record_of(Cluster, clusters, row)

    def set_message(self, id: str, message: str) -> None:
        """Keep the last notice or error of the backend."""
        new = update(clusters).where(clusters.c.id == id, clusters.c.message != message)
        self._db.write(lambda tx: tx.conn.execute(new.values(message=message, version=clusters.c.version + 1)).rowcount)

    def probe(self, id: str) -> Probe | None:
        """Return what the engine told when it was last looked at; None before the first look."""
        asked = select(clusters.c.probe).where(clusters.c.id == id)
        return self._db.read(lambda conn: conn.execute(asked).scalar_one_or_none())

    def set_probe(self, id: str, probe: Probe) -> None:
        """Keep what the engine told."""
        new = update(clusters).where(clusters.c.id == id).values(probe=probe)
        self._db.write(lambda tx: tx.conn.execute(new).rowcount)

    def configure(self, id: str, config: dict[str, object], *, event: NewEvent | None = None) -> Cluster | None:
        """Replace what the backend's factory gets; None for an unknown cluster."""

        def work(tx: Transaction) -> None:
            changed = update(clusters).where(clusters.c.id == id).values(config=config, version=clusters.c.version + 1)
            tx.conn.execute(changed)
            tx.tell(event, "nodes")

        self._db.write(work)
        return self.get(id)

    def remove(self, id: str, *, event: NewEvent | None = None) -> bool:
        """Forget a cluster and its nodes. Raises StateError while something runs there."""

        def work(tx: Transaction) -> bool:
            of_cluster = select(nodes.c.id).where(nodes.c.cluster == id)
            held = select(allocations.c.id).where(allocations.c.freed_at.is_(None), allocations.c.node.in_(of_cluster))
            if tx.conn.execute(held.limit(1)).first() is not None:
                raise StateError("Runs are still on this cluster.", hint="Drain its nodes first.")
            is_known = tx.conn.execute(delete(clusters).where(clusters.c.id == id)).rowcount == 1
            if is_known:
                tx.tell(event, "nodes")
            return is_known

        return self._db.write(work)
