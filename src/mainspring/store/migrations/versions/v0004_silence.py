"""Replicas whose engine cannot tell how they are, and runners whose attempt no row knows (an older backup was restored)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SILENT = sa.text("unknown_since IS NOT NULL")


def upgrade() -> None:
    """Expand only: a program of the former version still finds all that it knows."""
    op.add_column("replicas", sa.Column("unknown_since", sa.BigInteger()))
    op.create_index("ix_replicas_unknown", "replicas", ["attempt"], sqlite_where=SILENT, postgresql_where=SILENT)
    op.create_table(
        "unadopted",
        sa.Column("attempt", sa.Text(), nullable=False),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False, server_default=""),
        sa.Column("run", sa.Text(), nullable=False, server_default=""),
        sa.Column("claim", sa.Text(), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("attempt", name=op.f("pk_unadopted")),
    )
