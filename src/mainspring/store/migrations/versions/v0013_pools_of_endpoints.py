"""Where the replicas of a revision go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: a program of the former version serves such a revision anywhere."""
    op.add_column("revisions", sa.Column("pool", sa.Text(), nullable=False, server_default=""))
