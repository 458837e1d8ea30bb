"""What people ask of an engine, as a row: the door writes it, a controller acts, the door waits for what it records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class OperationKind(StrEnum):
    """What is asked: to register a cluster, to look at one again, for the engine's own object of an attempt."""

    ADD_CLUSTER = "cluster.add"
    PROBE_CLUSTER = "cluster.probe"
    SHOW_NATIVE = "run.native"


class OperationState(StrEnum):
    """PENDING until a controller has acted; a controller that died in the middle is followed by one that acts again."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing asked. `subject` is the cluster's name or the attempt's id; `asked` has no secret in the clear.

    `result` is what a finished one gave, `error` (`{code, message, hint, details}`) why it failed.
    """

    id: str
    kind: OperationKind
    subject: str
    actor: str
    asked: Mapping[str, object] = field(default_factory=dict)
    state: OperationState = OperationState.PENDING
    result: Mapping[str, object] = field(default_factory=dict)
    error: Mapping[str, object] = field(default_factory=dict)
    created_at: datetime | None = None
    ended_at: datetime | None = None
