"""The tables of what people ask of engines."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Column, Index, Table

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
