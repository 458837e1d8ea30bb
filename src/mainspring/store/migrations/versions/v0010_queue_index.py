"""The index of the queue in the order in which a person's runs are tried: the first few are read without the others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

QUEUED = sa.text("state = 'queued'")


def upgrade() -> None:
    """Only an index is made anew: a program of the former version finds all that it knows."""
    op.drop_index("ix_runs_queued", table_name="runs")
    queue: list[str | sa.TextClause] = ["project", "owner", sa.text("priority DESC"), "seq", "id"]
    op.create_index("ix_runs_queued", "runs", queue, sqlite_where=QUEUED, postgresql_where=QUEUED)
