"""The tables of the planner's world: shares, what they used, the policy, reservations, how long runs take."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, PrimaryKeyConstraint, Table, false

from mainspring.core.policy import Policy
from mainspring.core.resources import Resources
from mainspring.store.columns import Json, Moment, Plain
from mainspring.store.tables import metadata

_Amounts = Mapping[str, int]


def _text(name: str) -> Column[str]:
    return Column(name, Plain, nullable=False, server_default="")


def _int(name: str, default: int = 0) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=str(default))


shares = Table(
    "shares",
    metadata,
    Column("name", Plain, primary_key=True),  # its path
    Column("weight", Float, nullable=False, server_default="1"),
    Column("guarantee", Json(_Amounts), nullable=False),
    Column("limit", Json(_Amounts), nullable=False),
    _text("budget_usd"),
    Column("is_held", Boolean, nullable=False, server_default=false()),
    _int("version", 1),
)

# What ended allocations used, by calendar month (UTC): whole numbers, so that sums are exact in any order.
usage = Table(
    "usage",
    metadata,
    Column("month", Plain, nullable=False),
    Column("share", Plain, nullable=False),
    Column("project", Plain, nullable=False),
    Column("owner", Plain, nullable=False),
    _int("gpu_milli_ms"),
    _int("cpu_milli_ms"),
    _int("memory_mib_ms"),
    _int("cost_micros"),  # millionths of a US dollar
    PrimaryKeyConstraint("month", "share", "project", "owner"),
)

# What each leaf used, with what is long ago counted less: as it was at `at`.
past_use = Table(
    "past_use",
    metadata,
    Column("leaf", Plain, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("served_at", Moment),  # when it was last given something
    Column("gpu_s", Float, nullable=False, server_default="0"),
    Column("cpu_s", Float, nullable=False, server_default="0"),
    Column("memory_s", Float, nullable=False, server_default="0"),
)

policies = Table(
    "policies",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    _text("actor"),
    _text("text"),  # as it was written
    Column("policy", Json(Policy), nullable=False),
)

reservations = Table(
    "reservations",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("share", Plain, nullable=False),
    Column("begins_at", Moment, nullable=False),
    Column("ends_at", Moment, nullable=False),
    _int("replicas", 1),
    _text("created_by"),
    Column("resources", Json(Resources), nullable=False),
)

# The newest durations of each kind of run, and their median: of a task and person, of a task, of a size of request.
durations = Table(
    "durations",
    metadata,
    Column("key", Plain, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("median_s", Float, nullable=False),
    Column("samples", Json(tuple[float, ...]), nullable=False),
)

# What each waiting run was told of its start, to be held against what happened.
forecasts = Table(
    "forecasts",
    metadata,
    Column("run", Plain, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("told_at", Moment, nullable=False),
    Column("earliest", Moment, nullable=False),
    Column("median", Moment, nullable=False),
    Column("latest", Moment, nullable=False),
    Column("confidence", Float, nullable=False),
    Index("ix_forecasts_told_at", "told_at"),
)
