"""Rented machines, and the sites that rent them out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: a program of the former version still finds all that it knows."""
    op.create_table(
        "sites",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("offer", sa.Text(), nullable=False, server_default=""),
        sa.Column("region", sa.Text(), nullable=False, server_default=""),
        sa.Column("max_machines", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("ready_s", sa.Float(), nullable=False),
        sa.Column("bytes_per_s", sa.Float(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("cooldown_until", sa.BigInteger()),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["cluster"], ["clusters.id"], name=op.f("fk_sites_cluster"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sites")),
    )
    op.create_table(
        "machines",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("offer", sa.Text(), nullable=False, server_default=""),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("share", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("price_usd_per_hour", sa.Text(), nullable=False, server_default=""),
        sa.Column("reserved_micros", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("gpus", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("rented_at", sa.BigInteger()),
        sa.Column("ready_at", sa.BigInteger()),
        sa.Column("idle_since", sa.BigInteger()),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("message", sa.Text(), nullable=False, server_default=""),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default="1"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_machines")),
    )
    op.create_index(
        "ix_machines_open",
        "machines",
        ["asked_at"],
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("ix_machines_asked_at", "machines", ["asked_at"])
