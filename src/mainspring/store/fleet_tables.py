"""The tables of what people ask of engines, of what engines could not do, and of what runs left on nodes."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Column, ForeignKey, Index, PrimaryKeyConstraint, Table

from mainspring.core.operations import OperationKind, OperationState
from mainspring.store.columns import Choice, Json, Moment, Plain
from mainspring.store.tables import metadata

_JsonObject = Mapping[str, object]

operations = Table(
    "operations",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("kind", Choice(OperationKind), nullable=False),
    Column("subject", Plain, nullable=False),
    Column("actor", Plain, nullable=False),
    Column("state", Choice(OperationState), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("asked", Json(_JsonObject), nullable=False),
    Column("result", Json(_JsonObject), nullable=False),
    Column("error", Json(_JsonObject), nullable=False),
    Index("ix_operations_state", "state", "created_at"),
)

# Launches that failed on a node where none has begun since: few rows, none where all is well.
launch_failures = Table(
    "launch_failures",
    metadata,
    Column("attempt", Plain, ForeignKey("attempts.id", ondelete="CASCADE"), nullable=False),
    Column("replica", BigInteger, nullable=False),
    Column("node", Plain, nullable=False),
    Column("run", Plain, nullable=False),
    Column("kind", Plain, nullable=False),
    Column("at", Moment, nullable=False),
    Column("message", Plain, nullable=False),
    Column("begun_at", Moment),
    PrimaryKeyConstraint("attempt", "replica"),
)

# As the last run on the node told. `asked_to_go_at` is intent: the next run there carries it out, and tells.
environments = Table(
    "environments",
    metadata,
    Column("node", Plain, ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
    Column("key", Plain, nullable=False),
    Column("cluster", Plain, nullable=False),
    Column("lock", Plain, nullable=False),
    Column("python", Plain, nullable=False, server_default=""),
    Column("platform", Plain, nullable=False, server_default=""),
    Column("tool", Plain, nullable=False, server_default=""),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    Column("built_at", Moment, nullable=False),
    Column("used_at", Moment, nullable=False),
    Column("uses", BigInteger, nullable=False, server_default="1"),
    Column("run", Plain, nullable=False, server_default=""),
    Column("asked_to_go_at", Moment),
    PrimaryKeyConstraint("node", "key"),
)
