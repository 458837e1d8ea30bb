"""Idempotency keys of sweeps and pipeline runs, malformed lines counted, values that are not finite, indices for lineage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: a program of the former version still finds all that it knows."""
    op.create_table(
        "keys",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "project", "key", name=op.f("pk_keys")),
    )
    op.add_column("streams", sa.Column("skipped", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("metrics", sa.Column("odd", sa.Text(), nullable=False, server_default=""))
    # a value that was not finite was kept as NULL, without saying which it was
    op.execute("UPDATE metrics SET odd = 'nan' WHERE last IS NULL AND count > 0")
    op.create_index("ix_runs_link_id", "runs", ["link_id"])
    op.create_index("ix_dataset_versions_producer", "dataset_versions", ["producer"])
    op.create_index("ix_model_versions_run", "model_versions", ["run"])
    op.create_index("ix_decisions_at", "decisions", ["at"])
