"""Endpoints and their revisions: traffic follows rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, func, select, update

from mainspring.core.errors import NotFoundError, StaleWriteError, StateError
from mainspring.core.records import Endpoint, EndpointState, Revision
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.statements import Statement
from mainspring.store.tables import endpoints, revisions

_EVERY = Statement(select(endpoints).order_by(endpoints.c.created_at, endpoints.c.id))

_CAS_TRIES = 20


class Endpoints:
    """Reads and writes of endpoints."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def deploy(
        self,
        project: str,
        name: str,
        model: str,
        model_version: int,
        *,
        replicas: int = 1,
        pool: str = "",
        created_by: str,
        now: datetime | None = None,
        endpoint_id: str = "",
        event: NewEvent | None = None,
    ) -> Endpoint:
        """Write the next revision, making the endpoint if it is new and waking it if it was stopped."""

        def work(tx: Transaction) -> Endpoint:
            at = now or tx.clock.now()
            old = _load_named(tx.conn, project, name)
            if old is None:
                fresh = Endpoint(
                    id=endpoint_id or tx.ids.new("endpoint"), project=project, name=name, created_by=created_by, created_at=at
                )
                tx.conn.execute(endpoints.insert(), values_of(fresh, endpoints))
                old = fresh
            last = select(func.coalesce(func.max(revisions.c.number), 0)).where(revisions.c.endpoint == old.id)
            revision = Revision(
                endpoint=old.id,
                number=int(tx.conn.execute(last).scalar_one()) + 1,
                model=model,
                model_version=model_version,
                created_by=created_by,
                created_at=at,
                pool=pool,
            )
            tx.conn.execute(revisions.insert(), values_of(revision, revisions))

            def change(endpoint: Endpoint) -> Endpoint:
                return _serving(endpoint, revision.number, replicas)

            return _change(tx, old.id, change, event)

        return self._db.write(work)

    def get(self, project: str, name: str) -> Endpoint | None:
        """Return the endpoint of this name."""
        return self._db.read(lambda conn: _load_named(conn, project, name))

    def by_id(self, id: str) -> Endpoint | None:
        """Return the endpoint with this id."""
        return self._db.read(lambda conn: _load(conn, id))

    def all(self, project: str) -> list[Endpoint]:
        """Return the endpoints of a project by name, stopped ones too."""
        asked = select(endpoints).where(endpoints.c.project == project).order_by(endpoints.c.name)
        return self._db.read(lambda conn: [record_of(Endpoint, endpoints, row) for row in conn.execute(asked).mappings()])

    def every(self) -> list[Endpoint]:
        """Return the endpoints of all projects, oldest first."""
        return [record_of(Endpoint, endpoints, row) for row in self._db.ask(_EVERY)]

    def revisions(self, id: str) -> list[Revision]:
        """Return what the endpoint served, first to last."""
        asked = select(revisions).where(revisions.c.endpoint == id).order_by(revisions.c.number)
        return self._db.read(lambda conn: [record_of(Revision, revisions, row) for row in conn.execute(asked).mappings()])

    def set_state(self, id: str, state: EndpointState, *, message: str = "", event: NewEvent | None = None) -> Endpoint:
        """Record what the endpoint does for callers. Raises NotFoundError."""
        return self._db.write(lambda tx: _change(tx, id, lambda old: replace(old, state=state, message=message), event))

    def rollback(self, id: str, *, to: int | None = None, event: NewEvent | None = None) -> Endpoint:
        """Serve an earlier revision again, the one before the live one by default. Raises NotFoundError, StateError."""

        def work(tx: Transaction) -> Endpoint:
            endpoint = _load(tx.conn, id)
            if endpoint is None:
                raise NotFoundError(f"There is no endpoint {id}.")
            asked = select(revisions.c.number).where(revisions.c.endpoint == id).order_by(revisions.c.number.desc())
            numbers = list(tx.conn.execute(asked).scalars())
            earlier = [number for number in numbers if number < endpoint.revision]
            if to is None and not earlier:
                raise StateError(f"Endpoint {endpoint.name} has no earlier revision.")
            wanted = earlier[0] if to is None else to
            if wanted not in numbers:
                raise NotFoundError(f"Endpoint {endpoint.name} has no revision {wanted}.")
            return _change(tx, id, lambda old: _serving(old, wanted, old.replicas), event)

        return self._db.write(work)

    def stop(self, id: str, *, now: datetime | None = None, event: NewEvent | None = None) -> Endpoint:
        """Record that the endpoint is to serve nothing. Raises NotFoundError."""

        def work(tx: Transaction) -> Endpoint:
            at = now or tx.clock.now()
            return _change(tx, id, lambda old: old if old.stopped_at else replace(old, stopped_at=at), event)

        return self._db.write(work)

    def count(self, id: str, requests: int, errors: int) -> None:
        """Add to the numbers of requests and errors; no decision rests on them, so `version` stays."""
        more = {"requests": endpoints.c.requests + requests, "errors": endpoints.c.errors + errors}
        self._db.write(lambda tx: tx.conn.execute(update(endpoints).where(endpoints.c.id == id).values(**more)).rowcount)


def _serving(endpoint: Endpoint, revision: int, replicas: int) -> Endpoint:
    return replace(endpoint, revision=revision, replicas=replicas, state=EndpointState.STARTING, message="", stopped_at=None)


def _load(conn: Connection, id: str) -> Endpoint | None:
    row = conn.execute(select(endpoints).where(endpoints.c.id == id)).mappings().one_or_none()
    return None if row is None else record_of(Endpoint, endpoints, row)


def _load_named(conn: Connection, project: str, name: str) -> Endpoint | None:
    asked = select(endpoints).where(endpoints.c.project == project, endpoints.c.name == name)
    row = conn.execute(asked).mappings().one_or_none()
    return None if row is None else record_of(Endpoint, endpoints, row)


def _change(tx: Transaction, id: str, change: Callable[[Endpoint], Endpoint], event: NewEvent | None) -> Endpoint:
    for _ in range(_CAS_TRIES):
        old = _load(tx.conn, id)
        if old is None:
            raise NotFoundError(f"There is no endpoint {id}.")
        new = change(old)
        if new == old:
            return old
        new = replace(new, version=old.version + 1)
        row = values_of(new, endpoints)
        for column in ("id", "requests", "errors"):  # the counts grow without a version
            del row[column]
        seen = (endpoints.c.id == id) & (endpoints.c.version == old.version)
        if tx.conn.execute(update(endpoints).where(seen).values(**row)).rowcount == 1:
            tx.tell(event, "endpoints")
            return new
    raise StaleWriteError(f"Endpoint {id} changes too fast.", hint="Try again.")
