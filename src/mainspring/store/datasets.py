"""Data sets and their immutable versions, numbered from 1 without gaps."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, func, or_, select

from mainspring.core.records import Dataset, DatasetVersion
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.tables import dataset_versions, datasets


class Datasets:
    """Reads and writes of data sets."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add_version(
        self,
        project: str,
        name: str,
        manifest: str,
        *,
        size_bytes: int,
        files: int,
        created_by: str,
        now: datetime | None = None,
        producer: str = "",
        message: str = "",
        event: NewEvent | None = None,
    ) -> tuple[DatasetVersion, bool]:
        """Write the next version; the manifest of the newest gives that one, and False."""

        def work(tx: Transaction) -> tuple[DatasetVersion, bool]:
            newest = _select(project, name).order_by(dataset_versions.c.number.desc()).limit(1)
            row = tx.conn.execute(newest).mappings().one_or_none()
            if row is not None and row["manifest"] == manifest:
                return record_of(DatasetVersion, dataset_versions, row), False
            at = now or tx.clock.now()
            if row is None:
                first = Dataset(project=project, name=name, created_at=at)
                tx.conn.execute(datasets.insert(), values_of(first, datasets))
            version = DatasetVersion(
                project=project,
                dataset=name,
                number=1 if row is None else row["number"] + 1,
                manifest=manifest,
                size_bytes=size_bytes,
                files=files,
                created_by=created_by,
                created_at=at,
                producer=producer,
                message=message,
            )
            tx.conn.execute(dataset_versions.insert(), values_of(version, dataset_versions))
            tx.tell(event)
            return version, True

        return self._db.write(work)

    def get(self, project: str, name: str, number: int | None = None) -> DatasetVersion | None:
        """Return one version, the newest without a number."""
        asked = _select(project, name).order_by(dataset_versions.c.number.desc()).limit(1)
        if number is not None:
            asked = asked.where(dataset_versions.c.number == number)
        row = self._db.read(lambda conn: conn.execute(asked).mappings().one_or_none())
        return None if row is None else record_of(DatasetVersion, dataset_versions, row)

    def versions(self, project: str, name: str) -> list[DatasetVersion]:
        """Return all versions, first to last."""
        asked = _select(project, name).order_by(dataset_versions.c.number)
        rows = self._db.read(lambda conn: conn.execute(asked).mappings().all())
        return [record_of(DatasetVersion, dataset_versions, row) for row in rows]

    def all(self, project: str) -> list[tuple[Dataset, DatasetVersion | None]]:
        """Return the data sets of a project by name, each with its newest version."""
        v = dataset_versions
        newest = select(v.c.dataset, func.max(v.c.number).label("number")).where(v.c.project == project).group_by(v.c.dataset)
        last = newest.subquery()
        asked = (
            select(v).join(last, and_(v.c.dataset == last.c.dataset, v.c.number == last.c.number)).where(v.c.project == project)
        )
        named = select(datasets).where(datasets.c.project == project).order_by(datasets.c.name)

        def ask(conn: Connection) -> list[tuple[Dataset, DatasetVersion | None]]:
            found = {row["dataset"]: record_of(DatasetVersion, v, row) for row in conn.execute(asked).mappings()}
            return [(record_of(Dataset, datasets, row), found.get(row["name"])) for row in conn.execute(named).mappings()]

        return self._db.read(ask)

    def by_manifest(self, project: str, manifest: str) -> DatasetVersion | None:
        """Return the newest version that is this manifest."""
        v = dataset_versions
        asked = select(v).where(v.c.project == project, v.c.manifest == manifest).order_by(v.c.created_at.desc()).limit(1)
        row = self._db.read(lambda conn: conn.execute(asked).mappings().one_or_none())
        return None if row is None else record_of(DatasetVersion, v, row)

    def kept_at_home(self, home_data: str) -> frozenset[str]:
        """Return the manifests of data sets that a policy with this `burst.home_data` lets go to no paid site."""
        return self._db.read(lambda conn: kept_at_home(conn, home_data))


def kept_at_home(conn: Connection, home_data: str) -> frozenset[str]:
    """Return the manifests of the data sets named (NAME or PROJECT/NAME, separated by commas): all versions."""
    names = [name.strip() for name in home_data.split(",") if name.strip()]
    if not names:
        return frozenset()
    full = dataset_versions.c.project + "/" + dataset_versions.c.dataset
    asked = select(dataset_versions.c.manifest).where(or_(dataset_versions.c.dataset.in_(names), full.in_(names)))
    return frozenset(conn.execute(asked).scalars())


def _select(project: str, name: str) -> Select[Any]:
    return select(dataset_versions).where(dataset_versions.c.project == project, dataset_versions.c.dataset == name)
