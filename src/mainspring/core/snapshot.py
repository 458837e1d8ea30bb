"""What the planner sees and what it says: `plan(snapshot) -> Plan`. Both have a JSON round trip (`codec.py`).

A snapshot is immutable and complete: time, policy, order of submission and ids come in with it, so that the same
snapshot gives the same bytes of plan on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mainspring.core.ids import RunId
from mainspring.core.reasons import Reason
from mainspring.core.records import Node
from mainspring.core.resources import Granted, Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRun:
    """A queued run as the planner sees it. `avoid` are nodes where its launch failed lately (another node first)."""

    id: RunId
    owner: str
    project: str
    seq: int
    priority: int
    submitted_at: datetime
    resources: Resources
    replicas: int = 1
    version: int = 1
    is_held: bool = False  # paused by its owner
    is_preemptible: bool = True
    not_before: datetime | None = None
    is_unconfirmed: bool = False  # the former attempt's end is not confirmed yet
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one replica goes, and what it is granted there."""

    replica: int
    node: str
    granted: Granted


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRun:
    """A run that holds allocations: what it holds where, since when."""

    id: RunId
    owner: str
    project: str
    priority: int
    seq: int
    since: datetime
    is_preemptible: bool
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The planner's settings; they travel in the snapshot. The full policy of the scheduling issue widens this class."""

    scorer: str = "pack"
    max_starts: int = 10_000  # starts decided in one plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The world at one instant. `nodes` carry what their open allocations hold."""

    now: datetime
    nodes: tuple[Node, ...] = ()
    waiting: tuple[WaitingRun, ...] = ()
    placed: tuple[PlacedRun, ...] = ()
    policy: Policy = field(default_factory=Policy)


class DecisionKind(StrEnum):
    """What may be decided of a run. The kernel decides START and WAIT; the others belong to the scheduling issue."""

    START = "start"
    WAIT = "wait"
    EVICT = "evict"
    NOMINATE = "nominate"
    BURST = "burst"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One decision about one run; each waiting run gets exactly one. START has `places`, WAIT has a `reason`.

    `version` is that of the run in the snapshot: applying compares it (a stale decision is refused and planned again).
    """

    run: RunId
    kind: DecisionKind
    version: int
    places: tuple[Place, ...] = ()
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All decisions, in the order in which they were taken; `fingerprint` is the sha256 of the snapshot's bytes."""

    fingerprint: str
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a plan: runs started, decisions refused because somebody wrote first."""

    started: tuple[RunId, ...] = ()
    refused: tuple[RunId, ...] = ()
