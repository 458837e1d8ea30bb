"""Which blobs are named by a record: what garbage collection must keep."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlalchemy import Column, Connection, Text, cast, select

from mainspring.store.database import Database
from mainspring.store.tables import checkpoints, dataset_versions, model_versions, pipelines, replicas, runs, sweeps

# Every text that looks like a digest counts: a blob kept for nothing costs space, one lost costs a result.
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_COLUMNS: tuple[Column[object], ...] = (
    runs.c.spec,
    runs.c.outputs,
    replicas.c.outputs,
    replicas.c.environment,
    checkpoints.c.manifest,
    dataset_versions.c.manifest,
    model_versions.c.manifest,
    model_versions.c.signature,
    model_versions.c.verification,
    pipelines.c.graph,
    sweeps.c.spec,
)


class NamedBlobs:
    """Reads the digests that records name."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def named(self) -> Iterator[str]:
        """Yield every digest that any record names, read at one instant; some come twice."""
        yield from self._db.read(_named)


def _named(conn: Connection) -> set[str]:
    found: set[str] = set()
    for column in _COLUMNS:
        asked = select(cast(column, Text)).where(column.is_not(None)).execution_options(yield_per=500)
        for text in conn.execute(asked).scalars():
            found.update(_DIGEST.findall(text))
    return found
