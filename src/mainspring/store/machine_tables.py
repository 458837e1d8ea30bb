"""The tables of rented machines, and of the sites that rent them out."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Table, text

from mainspring.core.machines import MachineState
from mainspring.core.records import Node
from mainspring.store.columns import Choice, Json, Moment, Plain
from mainspring.store.tables import metadata


def _text(name: str) -> Column[str]:
    return Column(name, Plain, nullable=False, server_default="")


def _int(name: str, default: int = 0) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=str(default))


# One type of machine of one cluster, as its backend last told. `failures` in a row keep it from being asked for a while.
sites = Table(
    "sites",
    metadata,
    Column("name", Plain, primary_key=True),
    Column("cluster", Plain, ForeignKey("clusters.id", ondelete="CASCADE"), nullable=False),
    _text("offer"),
    _text("region"),
    _int("max_machines"),
    Column("ready_s", Float, nullable=False),
    Column("bytes_per_s", Float, nullable=False),
    _int("failures"),
    Column("cooldown_until", Moment),
    Column("machine", Json(Node), nullable=False),
)

# A row is there before the site is asked for the machine, and until after it is gone: nothing is rented that no row knows.
machines = Table(
    "machines",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("cluster", Plain, nullable=False),
    Column("site", Plain, nullable=False),
    _text("offer"),
    Column("run", Plain, nullable=False),
    Column("project", Plain, nullable=False),
    Column("owner", Plain, nullable=False),
    Column("share", Plain, nullable=False),
    Column("state", Choice(MachineState), nullable=False),
    _text("price_usd_per_hour"),
    _int("reserved_micros"),
    _int("gpus"),
    Column("asked_at", Moment, nullable=False),
    Column("ends_at", Moment, nullable=False),
    Column("rented_at", Moment),
    Column("ready_at", Moment),
    Column("idle_since", Moment),
    Column("ended_at", Moment),
    _text("message"),
    _int("version", 1),
    Index(
        "ix_machines_open",
        "asked_at",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("ix_machines_asked_at", "asked_at"),
)
