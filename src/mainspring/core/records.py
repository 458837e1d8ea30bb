"""What is true: the rows of the store as immutable values. Also the wire format: what the API returns is these records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from mainspring.core.ids import AttemptId, RunId
from mainspring.core.reasons import Reason
from mainspring.core.resources import ALONE, Device, DeviceShare, Foreign, Granted
from mainspring.core.specs import RunSpec, Value


class RunState(StrEnum):
    """States of a run; the arrows are in `lifecycle.py`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Desired(StrEnum):
    """What people want of a run: intent, not state."""

    RUN = "run"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    """States of an attempt."""

    ALLOCATED = "allocated"
    LAUNCHING = "launching"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class Cause(StrEnum):
    """Why an attempt ended. `retries` are used up by the second to fourth; the last five have their own limit."""

    SUCCEEDED = "succeeded"
    USER_ERROR = "user_error"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    NODE_LOST = "node_lost"
    LAUNCH_FAILED = "launch_failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run or an attempt ended: the cause, the exit code (negative: signal), and a sentence for people."""

    cause: Cause
    exit_code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution as the user sees it. `seq` is the order of submission; `attempt` the number of the current try (0: none yet).

    `retries_used` counts tries lost to user causes, `losses` those lost to nodes and launches.
    `not_before` holds a run back after a failed launch. `version` grows by one with each write.
    `cached_from` is the run whose outputs it took instead of computing them; `cache_parts` is what the two had to agree in.
    """

    id: RunId
    project: str
    name: str
    owner: str
    spec: RunSpec
    seq: int
    created_at: datetime
    state: RunState = RunState.QUEUED
    desired: Desired = Desired.RUN
    priority: int = 0
    attempt: int = 0
    retries_used: int = 0
    losses: int = 0
    not_before: datetime | None = None
    reason: Reason | None = None
    outcome: Outcome | None = None
    outputs: Mapping[str, Value] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # the last value of each
    tags: tuple[str, ...] = ()
    started_at: datetime | None = None
    ended_at: datetime | None = None
    archived_at: datetime | None = None
    cache_key: str = ""
    cache_parts: Mapping[str, str] = field(default_factory=dict)
    cached_from: str = ""
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One member of an attempt (most attempts have one). `address` is what it listens on (serving), from its beat.

    `handle` is the backend's, as JSON; `ended_at` is set when its end is confirmed, or when nobody waits for that any more.
    `unknown_since` is set while the engine cannot tell how it is: also after its end, until nothing of it is seen to be left.
    `environment` is the digest of what it was seen to run with, `environment_key` names what its node built from its lock.
    """

    index: int
    node: str
    granted: Granted
    handle: Mapping[str, object] = field(default_factory=dict)
    state: AttemptState = AttemptState.ALLOCATED
    outcome: Outcome | None = None
    address: str = ""
    environment: str = ""
    environment_key: str = ""
    last_beat_at: datetime | None = None
    unknown_since: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a run on one cluster. `token_hash` is the sha256 of the runner's token.

    `stop_cause` is intent: why it is being stopped (None: it is not), `stop_by` the moment after which it is killed.
    `checkpoint_no` counts the checkpoints asked for, `checkpoint_at` is when the newest complete one was made. `lost_s` is
    the work that a loss or a preemption cost: what had been done since that checkpoint; `lost_gpu_s` the same times its GPUs.
    `estimate_s` is how long it was believed to run when it was placed (0: nobody knew), `stop_for` the run that needed its place
    (itself: it was overdue at a paid site).
    """

    id: AttemptId
    run: RunId
    number: int
    cluster: str
    created_at: datetime
    replicas: tuple[Replica, ...]
    state: AttemptState = AttemptState.ALLOCATED
    outcome: Outcome | None = None
    token_hash: str = ""
    stop_cause: Cause | None = None
    stop_by: datetime | None = None
    launched_at: datetime | None = None
    started_at: datetime | None = None  # user code
    ended_at: datetime | None = None
    checkpoint_no: int = 0
    checkpoint_at: datetime | None = None
    lost_s: float = 0.0
    lost_gpu_s: float = 0.0
    estimate_s: float = 0.0
    stop_for: str = ""
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Unadopted:
    """An attempt that no row knows though its runner lives. `run` and `claim` are empty until the runner has told them."""

    attempt: str
    first_seen_at: datetime
    seen_at: datetime
    host: str = ""
    run: str = ""
    claim: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a runner is about, signed by the installation that gave out the work."""

    run: Run
    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What a replica holds on a node; open while `freed_at` is None. At most one open for each (attempt, replica)."""

    id: str
    attempt: AttemptId
    replica: int
    run: RunId
    owner: str
    node: str
    granted: Granted
    opened_at: datetime
    freed_at: datetime | None = None
    share: str = ""  # the leaf of the tree that its use counts to


class NodeState(StrEnum):
    """READY takes runs, DRAINING keeps what it has, UNREACHABLE does not answer, DEAD is declared so by an operator.

    QUARANTINED keeps what it has, as DRAINING, but by the server's own judgement (`health.py`).
    """

    READY = "ready"
    DRAINING = "draining"
    UNREACHABLE = "unreachable"
    DEAD = "dead"
    QUARANTINED = "quarantined"


class SymptomKind(StrEnum):
    """What an engine or a driver tells of a machine that is not well. ENGINE is the engine's own word, for people."""

    XID = "xid"
    ECC = "ecc"
    DISK = "disk"
    ENGINE = "engine"


WHOLE = -1  # of a node, where a device's index could stand


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """Something that is wrong with a node, or with one device, as the last look at it told.

    `mark` grows with each new error (a count, or when the newest one came); `code` is an XID's number.
    """

    kind: SymptomKind
    device: int = WHOLE
    mark: int = 0
    code: int = 0
    detail: str = ""


class ClosureCause(StrEnum):
    """Why a node or a device takes nothing: an operator said so, or what was seen of it."""

    OPERATOR = "operator"
    LAUNCHES = "launches"
    XID = "xid"
    ECC = "ecc"
    DISK = "disk"


class ClosureState(StrEnum):
    """CLOSED takes nothing; PROBED neither, but a run tries it; LIFTED takes runs, and is closed for longer the next time."""

    CLOSED = "closed"
    PROBED = "probed"
    LIFTED = "lifted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """Why a node, or one of its devices, takes nothing: since when, by whom, and when that may end.

    `retry_at` is when it is tried again at the earliest, `tries` how often it was closed before, `probe` the run that tries it.
    `mark` is the symptom's when it was closed or lifted: only a larger one closes it again. `boot` is the machine's boot then.
    `ends_at` (an operator's): when what still runs there is stopped; `asked_at`: when it was asked for checkpoints.
    """

    cause: ClosureCause
    sentence: str
    since: datetime
    by: str = "system"
    device: int = WHOLE
    state: ClosureState = ClosureState.CLOSED
    retry_at: datetime | None = None
    tries: int = 0
    mark: int = 0
    boot: str = ""
    probe: str = ""
    ends_at: datetime | None = None
    asked_at: datetime | None = None
    lifted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFailure:
    """A launch that failed on a node where none has begun since. `kind` is what launches of the same sort have in common.

    `begun_at` is when a launch of that kind began on another node after it: then it is the node that fails.
    """

    attempt: AttemptId
    replica: int
    node: str
    run: RunId
    kind: str
    at: datetime
    message: str = ""
    begun_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of a cluster, and what its open allocations hold. `version` is the guard of every placement.

    `symptoms` are what the last look at it told, `closures` why it or a device takes nothing; `boot` changes as it boots. The
    capacity (`cpu_milli` and so on) is what is left to us: `foreign` comes on top of it.
    """

    id: str
    cluster: str
    name: str
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int = 0
    devices: tuple[Device, ...] = ()
    pool: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    state: NodeState = NodeState.READY
    used_cpu_milli: int = 0
    used_memory_bytes: int = 0
    used_disk_bytes: int = 0
    used_devices: tuple[DeviceShare, ...] = ()
    price_usd_per_hour: str = "0"
    seen_at: datetime | None = None
    boot: str = ""
    symptoms: tuple[Symptom, ...] = ()
    closures: tuple[Closure, ...] = ()
    foreign: Foreign = ALONE
    version: int = 1

    def emptied(self) -> Node:
        """Return the node as it is once all work that is not ours has ended."""
        if self.foreign == ALONE:
            return self
        return replace(
            self,
            cpu_milli=self.cpu_milli + self.foreign.cpu_milli,
            memory_bytes=self.memory_bytes + self.foreign.memory_bytes,
            disk_bytes=self.disk_bytes + self.foreign.disk_bytes,
            devices=tuple(sorted((*self.devices, *self.foreign.devices), key=lambda one: one.index)),
            foreign=ALONE,
        )

    def out(self) -> frozenset[int]:
        """Return the devices that take nothing new."""
        return frozenset(one.device for one in self.closures if one.device != WHOLE and one.state is not ClosureState.LIFTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A registered compute target. `backend` is the plug-in's name; `config` is what its factory gets (no secrets)."""

    id: str
    name: str
    backend: str
    config: Mapping[str, object] = field(default_factory=dict)
    created_at: datetime | None = None
    message: str = ""  # last notice or error of the backend, for `mainspring cluster ls`
    version: int = 1


class Role(StrEnum):
    """Rights in a project: a viewer reads, an editor also submits and changes, an owner also manages members and secrets."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OWNER = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person or a service. An admin has every right everywhere."""

    name: str
    created_at: datetime
    is_admin: bool = False
    disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A name space of runs, data sets, models, endpoints and secrets.

    `share` is what its runs count to (empty: each person's own, below the root). `priority_role` is the right that it takes
    to ask for a priority above 0.
    """

    name: str
    created_at: datetime
    description: str = ""
    share: str = ""
    priority_role: Role = Role.OWNER


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An API token. `hash` is the sha256 of the secret part, which is shown once and stored nowhere."""

    id: str
    user: str
    name: str
    hash: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A named secret of a project; the value is stored encrypted and never leaves the server but into a run."""

    project: str
    name: str
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A named data set of a project."""

    project: str
    name: str
    created_at: datetime
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetVersion:
    """One immutable version: the digest of its manifest. `producer` is the run that wrote it, or empty."""

    project: str
    dataset: str
    number: int
    manifest: str
    size_bytes: int
    files: int
    created_by: str
    created_at: datetime
    producer: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One immutable version of a model. `format` is `onnx` or `native`; `signature` its inputs and outputs.

    `verification` tells how the converted model was compared with the original on sample rows.
    """

    project: str
    model: str
    number: int
    manifest: str
    format: str
    created_by: str
    created_at: datetime
    run: str = ""
    signature: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    verification: Mapping[str, object] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One judgement of an objective on one candidate: passed or refused, with the sentence."""

    id: str
    project: str
    objective: str
    kpi: str
    value: float
    is_passed: bool
    sentence: str
    created_at: datetime
    run: str = ""
    model: str = ""
    model_version: int = 0


class EndpointState(StrEnum):
    """What the endpoint does for callers."""

    STARTING = "starting"
    READY = "ready"
    FAILING = "failing"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A named address that serves one revision. `revision` is the live one, `replicas` how many processes serve it."""

    id: str
    project: str
    name: str
    created_by: str
    created_at: datetime
    revision: int = 0
    replicas: int = 1
    state: EndpointState = EndpointState.STARTING
    message: str = ""
    requests: int = 0
    errors: int = 0
    stopped_at: datetime | None = None
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What an endpoint serves or served: one model version, on nodes of `pool` (empty: of any)."""

    endpoint: str
    number: int
    model: str
    model_version: int
    created_by: str
    created_at: datetime
    pool: str = ""


class SweepState(StrEnum):
    """A sweep is ACTIVE until its trials are done or it is stopped."""

    ACTIVE = "active"
    DONE = "done"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One searched parameter: `kind` float, log, int, choice; `low`..`high` inclusive, or `choices`."""

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSpec:
    """A sweep as asked for: the template of its runs, the space, the metric and its direction."""

    template: RunSpec
    space: tuple[Dimension, ...]
    metric: str
    is_maximized: bool = True
    trials: int = 20
    parallel: int = 0  # 0: as many as the queue admits
    sampler: str = "tpe"
    seed: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep and its standing."""

    id: str
    project: str
    name: str
    owner: str
    spec: SweepSpec
    created_at: datetime
    state: SweepState = SweepState.ACTIVE
    best_trial: int | None = None
    best_value: float | None = None
    ended_at: datetime | None = None
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One suggestion and its run. `value` is the last report of the metric, None until told or when it failed."""

    sweep: str
    number: int
    params: Mapping[str, object]
    run: RunId
    state: RunState = RunState.QUEUED
    value: float | None = None
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened: audit trail, feed of the page, outbox. `seq` orders all events of an installation."""

    seq: int
    at: datetime
    actor: str
    kind: str  # "run.submitted", "attempt.ended", "model.registered", …
    subject: str  # id or name of the record
    project: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
