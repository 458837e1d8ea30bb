"""An index from which runs are counted: how many there are of each state in a project, without reading them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SEEN = sa.text("archived_at IS NULL")


def upgrade() -> None:
    """Only an index is added: a program of the former version finds all that it knows."""
    op.create_index("ix_runs_seen", "runs", ["project", "state"], sqlite_where=SEEN, postgresql_where=SEEN)
