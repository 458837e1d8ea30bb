"""Checkpoints that a run carries to its next attempt, the work that a loss cost, and what outputs depend on (the cache)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEYED = sa.text("cache_key <> ''")


def upgrade() -> None:
    """Expand only: a program of the former version still finds all that it knows."""
    op.create_table(
        "checkpoints",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("replica", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=op.f("fk_checkpoints_run"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run", "replica", "number", name=op.f("pk_checkpoints")),
    )
    op.add_column("attempts", sa.Column("checkpoint_no", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("checkpoint_at", sa.BigInteger()))
    op.add_column("attempts", sa.Column("lost_s", sa.Float(), nullable=False, server_default="0"))
    op.add_column("attempts", sa.Column("lost_gpu_s", sa.Float(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("cache_key", sa.Text(), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("cached_from", sa.Text(), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("cache_parts", sa.Text(), nullable=False, server_default="{}"))
    op.create_index("ix_runs_cache_key", "runs", ["project", "cache_key"], sqlite_where=KEYED, postgresql_where=KEYED)
