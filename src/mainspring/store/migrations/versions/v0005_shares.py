"""Shares, what they used, the policy, reservations, durations; places kept for a run, and for whom a run was stopped."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

QUEUED = sa.text("state = 'queued'")
UNBOOKED = sa.text("freed_at IS NOT NULL AND NOT is_booked")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default="")


def _int(name: str, default: str = "0") -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=default)


def _float(name: str, default: str = "0") -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=False, server_default=default)


def _given(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())


def _moment(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def upgrade() -> None:
    """Expand only: a program of the former version still finds all that it knows."""
    _make_tables()
    op.add_column("projects", _text("share"))
    op.add_column("projects", sa.Column("priority_role", sa.Text(), nullable=False, server_default="owner"))
    op.add_column("runs", sa.Column("nominated", sa.Text()))
    queue = ["project", "owner", "priority", "seq"]
    op.create_index("ix_runs_queued", "runs", queue, sqlite_where=QUEUED, postgresql_where=QUEUED)
    op.add_column("attempts", _float("estimate_s"))
    op.add_column("attempts", _text("stop_for"))
    op.add_column("allocations", _text("share"))
    op.add_column("allocations", _flag("is_booked"))
    op.create_index("ix_allocations_unbooked", "allocations", ["freed_at"], sqlite_where=UNBOOKED, postgresql_where=UNBOOKED)
    op.add_column("decisions", sa.Column("base", sa.BigInteger()))


def _make_tables() -> None:
    op.create_table(
        "shares",
        _given("name"),
        _float("weight", "1"),
        _given("guarantee"),
        _given("limit"),
        _text("budget_usd"),
        _flag("is_held"),
        _int("version", "1"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_shares")),
    )
    op.create_table(
        "usage",
        _given("month"),
        _given("share"),
        _given("project"),
        _given("owner"),
        _int("gpu_milli_ms"),
        _int("cpu_milli_ms"),
        _int("memory_mib_ms"),
        _int("cost_micros"),
        sa.PrimaryKeyConstraint("month", "share", "project", "owner", name=op.f("pk_usage")),
    )
    op.create_table(
        "past_use",
        _given("leaf"),
        _moment("at"),
        _float("gpu_s"),
        _float("cpu_s"),
        _float("memory_s"),
        sa.PrimaryKeyConstraint("leaf", name=op.f("pk_past_use")),
    )
    op.create_table(
        "policies",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        _moment("at"),
        _text("actor"),
        _text("text"),
        _given("policy"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_policies")),
    )
    op.create_table(
        "reservations",
        _given("id"),
        _given("share"),
        _moment("begins_at"),
        _moment("ends_at"),
        _int("replicas", "1"),
        _text("created_by"),
        _given("resources"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_table(
        "durations",
        _given("key"),
        _moment("at"),
        sa.Column("median_s", sa.Float(), nullable=False),
        _given("samples"),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_durations")),
    )
