"""Environments on nodes, and what a replica ran with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Expand only: a program of the former version still finds all that it knows."""
    op.add_column("replicas", sa.Column("environment", sa.Text(), nullable=False, server_default=""))
    op.add_column("replicas", sa.Column("environment_key", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "environments",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("lock", sa.Text(), nullable=False),
        sa.Column("python", sa.Text(), nullable=False, server_default=""),
        sa.Column("platform", sa.Text(), nullable=False, server_default=""),
        sa.Column("tool", sa.Text(), nullable=False, server_default=""),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("built_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False, server_default="1"),
        sa.Column("run", sa.Text(), nullable=False, server_default=""),
        sa.Column("asked_to_go_at", sa.BigInteger()),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name=op.f("fk_environments_node"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node", "key", name=op.f("pk_environments")),
    )
