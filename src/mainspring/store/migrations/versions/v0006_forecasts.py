"""What runs were told of their start, to be held against what happened; when a share was last served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: a program of the former version still finds all that it knows."""
    op.create_table(
        "forecasts",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("told_at", sa.BigInteger(), nullable=False),
        sa.Column("earliest", sa.BigInteger(), nullable=False),
        sa.Column("median", sa.BigInteger(), nullable=False),
        sa.Column("latest", sa.BigInteger(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_forecasts_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run", name=op.f("pk_forecasts")),
    )
    op.create_index("ix_forecasts_told_at", "forecasts", ["told_at"])
    op.add_column("past_use", sa.Column("served_at", sa.BigInteger()))
