"""Every table. Columns that a record has bear its field's name; small columns come first, so that scans stay small.

The schema that exists is made by `migrations/`; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    false,
    text,
)

from mainspring.core.backend import Probe
from mainspring.core.graphs import Graph, PipelineState, StepRun
from mainspring.core.objectives import Objective
from mainspring.core.reasons import Reason
from mainspring.core.records import (
    AttemptState,
    Cause,
    Closure,
    Desired,
    EndpointState,
    NodeState,
    Outcome,
    Role,
    RunState,
    SweepSpec,
    SweepState,
    Symptom,
)
from mainspring.core.resources import Device, DeviceShare, Foreign, Granted
from mainspring.core.snapshot import Place
from mainspring.core.specs import RunSpec, Value
from mainspring.store.columns import Choice, Json, Moment, Plain

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

JsonObject = Mapping[str, object]


def _text(name: str, default: str | None = "") -> Column[str]:
    return Column(name, Plain, nullable=False, server_default=default)


def _int(name: str, default: int | None = 0) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=None if default is None else str(default))


def _index(name: str, *columns: str, where: str) -> Index:
    """Return an index of the rows that are so."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


meta = Table("meta", metadata, Column("name", Plain, primary_key=True), Column("value", Plain, nullable=False))

# Counters hand out sequence numbers in commit order: the row stays locked until the transaction ends.
counters = Table("counters", metadata, Column("name", Plain, primary_key=True), Column("value", BigInteger, nullable=False))

leases = Table(
    "leases",
    metadata,
    Column("name", Plain, primary_key=True),
    _text("owner"),
    Column("until_s", Float, nullable=False),
    _int("fence"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("project", Plain, nullable=False),
    Column("key", Plain),  # idempotency key, NULL: none
    Column("name", Plain, nullable=False),
    Column("owner", Plain, nullable=False),
    Column("state", Choice(RunState), nullable=False),
    Column("desired", Choice(Desired), nullable=False),
    _int("priority"),
    _int("attempt"),
    _int("retries_used"),
    _int("losses"),
    _int("version", 1),
    Column("created_at", Moment, nullable=False),
    Column("not_before", Moment),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    Column("archived_at", Moment),
    _text("link_kind"),
    _text("link_id"),
    _text("link_key"),
    Column("tags", Json(tuple[str, ...]), nullable=False),
    Column("avoid", Json(tuple[str, ...]), nullable=False),  # nodes where it was lost lately
    _text("cache_key"),  # what its outputs depend on, as one digest; empty: not to be taken from nor for others
    _text("cached_from"),  # the run whose outputs it took
    Column("cache_parts", Json(Mapping[str, str]), nullable=False, server_default="{}"),
    _text("search"),  # what a text filter looks at, lower case
    Column("reason", Json(Reason)),
    Column("nominated", Json(tuple[Place, ...])),  # places kept for it until those who stop for it are gone
    Column("outcome", Json(Outcome)),
    Column("outputs", Json(Mapping[str, Value]), nullable=False),
    Column("spec", Json(RunSpec), nullable=False),
    UniqueConstraint("project", "key"),
    Index("ix_runs_state_seq", "state", "seq"),
    Index("ix_runs_project_seq", "project", "seq"),
    Index("ix_runs_project_name", "project", "name"),
    Index("ix_runs_link_id", "link_id"),
    _index("ix_runs_seen", "project", "state", where="archived_at IS NULL"),
    Index(
        "ix_runs_queued",
        "project",
        "owner",
        text("priority DESC"),
        "seq",
        "id",
        sqlite_where=text("state = 'queued'"),
        postgresql_where=text("state = 'queued'"),
    ),
    _index("ix_runs_cache_key", "project", "cache_key", where="cache_key <> ''"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("run", Plain, ForeignKey("runs.id"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("cluster", Plain, nullable=False),
    Column("state", Choice(AttemptState), nullable=False),
    _text("token_hash"),
    Column("stop_cause", Choice(Cause)),
    Column("stop_by", Moment),
    Column("created_at", Moment, nullable=False),
    Column("launched_at", Moment),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    _int("version", 1),
    _int("checkpoint_no"),  # how often a checkpoint was asked for
    Column("checkpoint_at", Moment),
    Column("lost_s", Float, nullable=False, server_default="0"),
    Column("lost_gpu_s", Float, nullable=False, server_default="0"),
    Column("estimate_s", Float, nullable=False, server_default="0"),
    _text("stop_for"),
    _text("lease_owner"),
    Column("lease_until_s", Float, nullable=False, server_default="0"),
    _int("fence"),
    Column("outcome", Json(Outcome)),
    Column("first_failure", Json(Outcome)),  # of a gang: the cause, not its echoes
    UniqueConstraint("run", "number"),
    Index("ix_attempts_open", "state", sqlite_where=text("state <> 'ended'"), postgresql_where=text("state <> 'ended'")),
    Index("ix_attempts_token_hash", "token_hash"),
)

replicas = Table(
    "replicas",
    metadata,
    Column("attempt", Plain, ForeignKey("attempts.id", ondelete="CASCADE"), nullable=False),
    Column("index", BigInteger, nullable=False),
    Column("node", Plain, nullable=False),
    Column("state", Choice(AttemptState), nullable=False),
    _text("address"),
    _text("environment"),  # digest of what it was seen to run with
    _text("environment_key"),  # of the environment that was built from its lock
    Column("last_beat_at", Moment),
    Column("unknown_since", Moment),
    Column("ended_at", Moment),
    Column("granted", Json(Granted), nullable=False),
    Column("handle", Json(JsonObject), nullable=False),
    Column("outcome", Json(Outcome)),
    Column("outputs", Json(Mapping[str, Value])),
    PrimaryKeyConstraint("attempt", "index"),
    _index("ix_replicas_unknown", "attempt", where="unknown_since IS NOT NULL"),
)

unadopted = Table(
    "unadopted",
    metadata,
    Column("attempt", Plain, primary_key=True),
    Column("first_seen_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),
    _text("host"),
    _text("run"),
    _text("claim"),  # the rows of run and attempt, as this installation once signed them
)

allocations = Table(
    "allocations",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("attempt", Plain, ForeignKey("attempts.id", ondelete="CASCADE"), nullable=False),
    Column("replica", BigInteger, nullable=False),
    Column("run", Plain, nullable=False),
    Column("owner", Plain, nullable=False),
    Column("node", Plain, nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("freed_at", Moment),
    _text("share"),  # the leaf that its use counts to
    Column("is_booked", Boolean, nullable=False, server_default=false()),  # it is in `usage`
    Column("granted", Json(Granted), nullable=False),
    _index("ix_allocations_unbooked", "freed_at", where="freed_at IS NOT NULL AND NOT is_booked"),
    Index(
        "uq_allocations_open",
        "attempt",
        "replica",
        unique=True,
        sqlite_where=text("freed_at IS NULL"),
        postgresql_where=text("freed_at IS NULL"),
    ),
    Index("ix_allocations_held", "node", sqlite_where=text("freed_at IS NULL"), postgresql_where=text("freed_at IS NULL")),
    Index("ix_allocations_attempt", "attempt"),
)

# What a run carries to its next attempt: the newest complete checkpoints of each replica, few of them.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("run", Plain, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("replica", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("attempt", Plain, nullable=False),
    Column("at", Moment, nullable=False),
    _text("manifest", None),
    _int("size_bytes"),
    PrimaryKeyConstraint("run", "replica", "number"),
)

# How far each stream of a replica reaches. `skipped` counts malformed lines.
streams = Table(
    "streams",
    metadata,
    Column("attempt", Plain, ForeignKey("attempts.id", ondelete="CASCADE"), nullable=False),
    Column("replica", BigInteger, nullable=False),
    Column("stream", Plain, nullable=False),
    _int("size_bytes"),
    _int("skipped"),
    PrimaryKeyConstraint("attempt", "replica", "stream"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("attempt", Plain, ForeignKey("attempts.id", ondelete="CASCADE"), nullable=False),
    Column("replica", BigInteger, nullable=False),
    Column("stream", Plain, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("is_packed", Boolean, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("attempt", "replica", "stream", "offset"),
)

# `last`, `low` and `high` are finite or NULL; `odd` is nan, inf or -inf when the last value was that.
metrics = Table(
    "metrics",
    metadata,
    Column("run", Plain, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("name", Plain, nullable=False),
    Column("last", Float),
    Column("low", Float),
    Column("high", Float),
    _int("count"),
    Column("step", Float),
    Column("at_s", Float),
    _text("odd"),
    PrimaryKeyConstraint("run", "name"),
)

clusters = Table(
    "clusters",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("name", Plain, nullable=False, unique=True),
    Column("backend", Plain, nullable=False),
    Column("created_at", Moment),
    _text("message"),
    _int("version", 1),
    Column("config", Json(JsonObject), nullable=False),
    Column("probe", Json(Probe)),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("cluster", Plain, ForeignKey("clusters.id", ondelete="CASCADE"), nullable=False),
    Column("name", Plain, nullable=False),
    _int("cpu_milli", None),
    _int("memory_bytes", None),
    _int("disk_bytes"),
    _text("pool", "default"),
    Column("state", Choice(NodeState), nullable=False),
    _int("used_cpu_milli"),
    _int("used_memory_bytes"),
    _int("used_disk_bytes"),
    _text("price_usd_per_hour", "0"),
    Column("seen_at", Moment),
    _int("version", 1),
    Column("devices", Json(tuple[Device, ...]), nullable=False),
    Column("labels", Json(Mapping[str, str]), nullable=False),
    Column("used_devices", Json(tuple[DeviceShare, ...]), nullable=False),
    _text("boot"),
    Column("symptoms", Json(tuple[Symptom, ...]), nullable=False, server_default="[]"),
    Column("closures", Json(tuple[Closure, ...]), nullable=False, server_default="[]"),
    Column("foreign", Json(Foreign), nullable=False, server_default="{}"),
)

events = Table(
    "events",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("actor", Plain, nullable=False),
    Column("kind", Plain, nullable=False),
    Column("subject", Plain, nullable=False),
    _text("project"),
    Column("data", Json(JsonObject), nullable=False),
    Index("ix_events_subject_seq", "subject", "seq"),
    Index("ix_events_project_seq", "project", "seq"),
)

users = Table(
    "users",
    metadata,
    Column("name", Plain, primary_key=True),
    Column("created_at", Moment, nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("disabled_at", Moment),
)

projects = Table(
    "projects",
    metadata,
    Column("name", Plain, primary_key=True),
    Column("created_at", Moment, nullable=False),
    _text("description"),
    _text("share"),
    Column("priority_role", Choice(Role), nullable=False, server_default=Role.OWNER.value),
)

members = Table(
    "members",
    metadata,
    Column("project", Plain, ForeignKey("projects.name", ondelete="CASCADE"), nullable=False),
    Column("user", Plain, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    Column("role", Choice(Role), nullable=False),
    PrimaryKeyConstraint("project", "user"),
    Index("ix_members_user", "user"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("user", Plain, ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    Column("name", Plain, nullable=False),
    Column("hash", Plain, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("used_at", Moment),
)

secrets = Table(
    "secrets",
    metadata,
    Column("project", Plain, nullable=False),
    Column("name", Plain, nullable=False),
    Column("created_by", Plain, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("ciphertext", LargeBinary, nullable=False),
    PrimaryKeyConstraint("project", "name"),
)

datasets = Table(
    "datasets",
    metadata,
    Column("project", Plain, nullable=False),
    Column("name", Plain, nullable=False),
    Column("created_at", Moment, nullable=False),
    _text("description"),
    PrimaryKeyConstraint("project", "name"),
)

dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column("project", Plain, nullable=False),
    Column("dataset", Plain, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("manifest", Plain, nullable=False),
    _int("size_bytes", None),
    _int("files", None),
    Column("created_by", Plain, nullable=False),
    Column("created_at", Moment, nullable=False),
    _text("producer"),
    _text("message"),
    PrimaryKeyConstraint("project", "dataset", "number"),
    Index("ix_dataset_versions_producer", "producer"),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("project", Plain, nullable=False),
    Column("model", Plain, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("manifest", Plain, nullable=False),
    Column("format", Plain, nullable=False),
    Column("created_by", Plain, nullable=False),
    Column("created_at", Moment, nullable=False),
    _text("run"),
    Column("signature", Json(JsonObject), nullable=False),
    Column("metrics", Json(Mapping[str, float]), nullable=False),
    Column("verification", Json(JsonObject), nullable=False),
    PrimaryKeyConstraint("project", "model", "number"),
    Index("ix_model_versions_run", "run"),
)

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("project", Plain, nullable=False),
    Column("model", Plain, nullable=False),
    Column("alias", Plain, nullable=False),
    Column("number", BigInteger, nullable=False),
    PrimaryKeyConstraint("project", "model", "alias"),
)

gates = Table(
    "gates",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("project", Plain, nullable=False),
    Column("objective", Plain, nullable=False),
    Column("kpi", Plain, nullable=False),
    Column("value", Float, nullable=False),
    Column("is_passed", Boolean, nullable=False),
    Column("sentence", Plain, nullable=False),
    Column("created_at", Moment, nullable=False),
    _text("run"),
    _text("model"),
    _int("model_version"),
    Index("ix_gates_project_created_at", "project", "created_at"),
)

objectives = Table(
    "objectives",
    metadata,
    Column("project", Plain, nullable=False),
    Column("name", Plain, nullable=False),
    Column("objective", Json(Objective), nullable=False),
    PrimaryKeyConstraint("project", "name"),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("project", Plain, nullable=False),
    Column("name", Plain, nullable=False),
    Column("created_by", Plain, nullable=False),
    Column("created_at", Moment, nullable=False),
    _int("revision"),
    _int("replicas", 1),
    Column("state", Choice(EndpointState), nullable=False),
    _text("message"),
    _int("requests"),
    _int("errors"),
    Column("stopped_at", Moment),
    _int("version", 1),
    UniqueConstraint("project", "name"),
)

revisions = Table(
    "revisions",
    metadata,
    Column("endpoint", Plain, ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("model", Plain, nullable=False),
    Column("model_version", BigInteger, nullable=False),
    Column("created_by", Plain, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("pool", Plain, nullable=False, server_default=""),
    PrimaryKeyConstraint("endpoint", "number"),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("project", Plain, nullable=False),
    Column("name", Plain, nullable=False),
    Column("owner", Plain, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("state", Choice(SweepState), nullable=False),
    Column("best_trial", BigInteger),
    Column("best_value", Float),
    Column("ended_at", Moment),
    _int("version", 1),
    Column("spec", Json(SweepSpec), nullable=False),
    Index("ix_sweeps_state", "state"),
)

trials = Table(
    "trials",
    metadata,
    Column("sweep", Plain, ForeignKey("sweeps.id", ondelete="CASCADE"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("run", Plain, nullable=False),
    Column("state", Choice(RunState), nullable=False),
    Column("value", Float),
    Column("told_at", Moment),
    Column("params", Json(JsonObject), nullable=False),
    PrimaryKeyConstraint("sweep", "number"),
    Index("ix_trials_run", "run"),
)

pipelines = Table(
    "pipelines",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("project", Plain, nullable=False),
    Column("name", Plain, nullable=False),
    Column("owner", Plain, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("state", Choice(PipelineState), nullable=False),
    Column("ended_at", Moment),
    _int("version", 1),
    Column("steps", Json(tuple[StepRun, ...]), nullable=False),
    Column("graph", Json(Graph), nullable=False),
    Index("ix_pipelines_state", "state"),
)

pipeline_steps = Table(
    "pipeline_steps",
    metadata,
    Column("pipeline_run", Plain, ForeignKey("pipelines.id", ondelete="CASCADE"), nullable=False),
    Column("key", Plain, nullable=False),
    Column("run", Plain, nullable=False),
    PrimaryKeyConstraint("pipeline_run", "key"),
)

# Idempotency keys of sweeps, pipeline runs and the like; runs have a column for it.
keys = Table(
    "keys",
    metadata,
    Column("kind", Plain, nullable=False),
    Column("project", Plain, nullable=False),
    Column("key", Plain, nullable=False),
    Column("id", Plain, nullable=False),
    Column("at", Moment, nullable=False),
    PrimaryKeyConstraint("kind", "project", "key"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("fingerprint", Plain, nullable=False),
    Column("plan", LargeBinary, nullable=False),  # compressed JSON
    Column("base", BigInteger),  # the decision whose snapshot this one is told against; NULL: it is whole
    Column("snapshot", LargeBinary, nullable=False),  # compressed JSON
    Index("ix_decisions_at", "at"),
)
