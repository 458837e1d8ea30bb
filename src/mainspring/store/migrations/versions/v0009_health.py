"""Why a node or a device takes nothing, what is wrong with it, and launches that failed there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: a program of the former version still finds all that it knows."""
    op.add_column("nodes", sa.Column("boot", sa.Text(), nullable=False, server_default=""))
    op.add_column("nodes", sa.Column("symptoms", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("nodes", sa.Column("closures", sa.Text(), nullable=False, server_default="[]"))
    op.create_table(
        "launch_failures",
        sa.Column("attempt", sa.Text(), nullable=False),
        sa.Column("replica", sa.BigInteger(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.BigInteger()),
        sa.ForeignKeyConstraint(["attempt"], ["attempts.id"], name=op.f("fk_launch_failures_attempt"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("attempt", "replica", name=op.f("pk_launch_failures")),
    )
