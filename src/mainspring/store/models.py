"""Models: immutable versions, and aliases that move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, delete, func, select

from mainspring.core.records import ModelVersion
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.tables import model_aliases, model_versions


class Models:
    """Reads and writes of models."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add_version(
        self,
        project: str,
        name: str,
        manifest: str,
        *,
        format: str,
        created_by: str,
        now: datetime | None = None,
        run: str = "",
        signature: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        verification: Mapping[str, object] | None = None,
        event: NewEvent | None = None,
    ) -> tuple[ModelVersion, bool]:
        """Write the next version; the manifest of the newest gives that one, and False."""

        def work(tx: Transaction) -> tuple[ModelVersion, bool]:
            newest = _select(project, name).order_by(model_versions.c.number.desc()).limit(1)
            row = tx.conn.execute(newest).mappings().one_or_none()
            if row is not None and row["manifest"] == manifest:
                return _with_aliases(tx.conn, [row])[0], False
            version = ModelVersion(
                project=project,
                model=name,
                number=1 if row is None else row["number"] + 1,
                manifest=manifest,
                format=format,
                created_by=created_by,
                created_at=now or tx.clock.now(),
                run=run,
                signature=dict(signature or {}),
                metrics=dict(metrics or {}),
                verification=dict(verification or {}),
            )
            tx.conn.execute(model_versions.insert(), values_of(version, model_versions))
            tx.tell(event)
            return version, True

        return self._db.write(work)

    def get(self, project: str, name: str, number: int | None = None) -> ModelVersion | None:
        """Return one version, the newest without a number."""
        return self._db.read(lambda conn: _load(conn, project, name, number))

    def versions(self, project: str, name: str) -> list[ModelVersion]:
        """Return all versions, first to last."""
        asked = _select(project, name).order_by(model_versions.c.number)
        return self._db.read(lambda conn: _with_aliases(conn, conn.execute(asked).mappings().all()))

    def all(self, project: str) -> list[ModelVersion]:
        """Return the newest version of every model of a project, by name."""
        v = model_versions
        newest = select(v.c.model, func.max(v.c.number).label("number")).where(v.c.project == project).group_by(v.c.model)
        last = newest.subquery()
        asked = select(v).join(last, and_(v.c.model == last.c.model, v.c.number == last.c.number))
        asked = asked.where(v.c.project == project).order_by(v.c.model)
        return self._db.read(lambda conn: _with_aliases(conn, conn.execute(asked).mappings().all()))

    def resolve(self, project: str, name: str, ref: str) -> ModelVersion | None:
        """Return the version that `ref` means: a number, `latest` or empty, or an alias."""

        def ask(conn: Connection) -> ModelVersion | None:
            if ref in ("", "latest"):
                return _load(conn, project, name, None)
            if ref.isascii() and ref.isdigit():
                return _load(conn, project, name, int(ref)) if len(ref) < 18 else None
            number = conn.execute(select(model_aliases.c.number).where(_alias(project, name, ref))).scalar_one_or_none()
            return None if number is None else _load(conn, project, name, number)

        return self._db.read(ask)

    def set_alias(
        self, project: str, name: str, alias: str, number: int, *, event: NewEvent | None = None
    ) -> ModelVersion | None:
        """Let `alias` mean version `number`, whatever it meant before; None when there is no such version."""

        def work(tx: Transaction) -> ModelVersion | None:
            if _load(tx.conn, project, name, number) is None:
                return None
            tx.conn.execute(delete(model_aliases).where(_alias(project, name, alias)))
            tx.conn.execute(model_aliases.insert(), {"project": project, "model": name, "alias": alias, "number": number})
            tx.tell(event)
            return _load(tx.conn, project, name, number)

        return self._db.write(work)

    def remove_alias(self, project: str, name: str, alias: str, *, event: NewEvent | None = None) -> bool:
        """Forget an alias; say whether it was there."""

        def work(tx: Transaction) -> bool:
            gone = tx.conn.execute(delete(model_aliases).where(_alias(project, name, alias))).rowcount == 1
            if gone:
                tx.tell(event)
            return gone

        return self._db.write(work)


def _select(project: str, name: str) -> Select[Any]:
    return select(model_versions).where(model_versions.c.project == project, model_versions.c.model == name)


def _alias(project: str, name: str, alias: str) -> Any:
    return (model_aliases.c.project == project) & (model_aliases.c.model == name) & (model_aliases.c.alias == alias)


def _load(conn: Connection, project: str, name: str, number: int | None) -> ModelVersion | None:
    asked = _select(project, name).order_by(model_versions.c.number.desc()).limit(1)
    if number is not None:
        asked = asked.where(model_versions.c.number == number)
    found = _with_aliases(conn, conn.execute(asked).mappings().all())
    return found[0] if found else None


def _with_aliases(conn: Connection, rows: Sequence[Mapping[Any, Any]]) -> list[ModelVersion]:
    if not rows:
        return []
    a = model_aliases
    asked = select(a.c.model, a.c.number, a.c.alias).where(a.c.project == rows[0]["project"]).order_by(a.c.alias)
    if len({row["model"] for row in rows}) == 1:
        asked = asked.where(a.c.model == rows[0]["model"])
    found: dict[tuple[str, int], list[str]] = {}
    for model, number, alias in conn.execute(asked).tuples():
        found.setdefault((model, number), []).append(alias)
    return [
        record_of(ModelVersion, model_versions, row, aliases=tuple(found.get((row["model"], row["number"]), ()))) for row in rows
    ]
