"""What work that is not ours holds on a node."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: a program of the former version looks at the nodes again and sees the same capacity."""
    op.add_column("nodes", sa.Column("foreign", sa.Text(), nullable=False, server_default="{}"))
